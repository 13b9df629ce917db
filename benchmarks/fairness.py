"""Who gets the device: calm clients beside an aggressor, and clients that all want more than there is.

    python benchmarks/fairness.py            # about 3 minutes

Clients are told apart by their addresses, 127.0.0.2 and up, however many connections each opens. The device is virtual
(profile 1: α 5 ms, β 1 ms, batches of up to 64), the load is open loop. README.md says how to read the result.

    aggressor    seven calm clients that ask for half of their fair share each, and one that asks for ten times as
                 much as each of them on 64 connections; the victim is one of the calm ones
    well-behaved the same victim, and seven others that together keep the device as busy as it was then
    backlogged   eight clients that ask for 1.5 to 6 times their fair share, on 1 to 64 connections: Jain's index of
                 the rows each was served in time
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy
from openloop import RESULT
from serving import (
    PROFILES,
    WARM_S,
    Cores,
    Load,
    Server,
    Window,
    arguments,
    introduce,
    rest,
    start_inferd,
    stream,
    virtual_frame,
    write,
)

PROFILE = PROFILES[1]
CLIENTS = 8
# The profile's own deadline; four times that; and one so long that a queue can stand.
DEADLINES = (25.0, 100.0, 500.0)
AGGRESSION = 10.0
WANTS = (1.5, 2.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0)  # of the fair share
CONNECTIONS = (1, 64, 4, 4, 16, 1, 8, 64)

Sample = dict[str, Any]


def capacity(deadline: float) -> float:
    """λ* at that deadline; with lax ones, what the largest batch gives."""
    largest = 1000 * PROFILE.largest / (PROFILE.alpha + PROFILE.beta * PROFILE.largest)
    rate: float = PROFILE._replace(deadline=deadline).rate
    return min(rate, largest)


def run(
    load: Load, server: Server, deadline: float, rates: list[float], connections: list[int], seconds: float, seed: int
) -> Window:
    """All clients together; stream i is client i."""
    frame, end = virtual_frame(deadline), WARM_S + seconds
    streams = [
        stream([frame], count, source=f"127.0.0.{2 + index}", plan=[[end, rate]])
        for index, (rate, count) in enumerate(zip(rates, connections, strict=True))
    ]
    found = load.window(server, streams, WARM_S, end, 2 * deadline / 1000, seed)
    rest(server, 1.0)
    return found


def victims(load: Load, server: Server, deadline: float, seconds: float, seed: int) -> dict[str, Sample]:
    """The victim beside the aggressor, then beside others that keep the device as busy."""
    calm = capacity(deadline) / CLIENTS / 2
    found = {}
    beside_aggressor = run(load, server, deadline, [calm] * 7 + [AGGRESSION * calm], [2] * 7 + [64], seconds, seed)
    answered = float((beside_aggressor.outcome == RESULT).sum()) / beside_aggressor.seconds
    others = (answered - calm) / (CLIENTS - 1)
    beside_calm = run(load, server, deadline, [calm] + [others] * 7, [2] + [8] * 7, seconds, seed)
    for name, window in (("aggressor", beside_aggressor), ("well-behaved", beside_calm)):
        # All calm clients are victims of the aggressor; beside the others, only the first is like them.
        numbers = range(CLIENTS - 1) if name == "aggressor" else range(1)
        parts = [window.of(number) for number in numbers]
        latency = numpy.concatenate([part.latency for part in parts]) * 1000
        result = numpy.concatenate([part.outcome == RESULT for part in parts])
        good = numpy.concatenate([part.good(deadline / 1000) for part in parts])
        last = window.of(CLIENTS - 1)
        found[name] = {
            "answers": latency[result].tolist(),
            "asked": len(result),
            "good": float(good.mean()),
            "last good": float(last.good(deadline / 1000).mean()),
            "last rate": float((last.outcome == RESULT).sum()) / last.seconds,
            "answered": float((window.outcome == RESULT).sum()) / window.seconds,
            "busy": window.delta["busy_s"] / window.delta["wall_s"],
            "lag": float(numpy.percentile(window.lag, 99)) * 1000,
        }
    return found


def jain(values: list[float]) -> float:
    """1 when all are equal, 1/n when one has everything (Jain, Chiu, Hawe 1984)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def backlogged(load: Load, server: Server, deadline: float, seconds: float, seed: int) -> Sample:
    """Everybody wants more than a fair share."""
    fair = capacity(deadline) / CLIENTS
    window = run(load, server, deadline, [want * fair for want in WANTS], list(CONNECTIONS), seconds, seed)
    rows = [window.of(number).goodput(deadline / 1000) for number in range(CLIENTS)]
    return {"rows": rows, "jain": jain(rows), "share": sum(rows) / capacity(deadline)}


def p99(samples: list[Sample]) -> tuple[float, float, float]:
    """p50 and p99 of what was answered, and p99 with all others counted as endless, over all rounds."""
    answers = sorted(value for sample in samples for value in sample["answers"])
    asked = sum(sample["asked"] for sample in samples)
    rank = int(0.99 * asked)
    endless = answers[rank] if rank < len(answers) else float("inf")
    return answers[len(answers) // 2], answers[int(0.99 * len(answers))], endless


def main() -> None:
    """The program."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="of every case, in turn (default: 3)")
    parser.add_argument("--seconds", type=float, help="of one window (default: 5)")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    seconds = given.seconds or (2.0 if given.quick else 5.0)
    cores = Cores.divide(given.server_cores)
    about = introduce(cores, f"{rounds} rounds of {seconds:g} s a case after {WARM_S:g} s; {PROFILE.title}")
    began = time.monotonic()
    beside: dict[float, dict[str, list[Sample]]] = {}
    shares: dict[float, list[Sample]] = {}
    with ExitStack() as stack:
        load = Load(stack, cores)
        server = start_inferd(stack, cores, ["virtual", *PROFILE.options()])
        for number in range(rounds):
            for deadline in DEADLINES:
                for name, sample in victims(load, server, deadline, seconds, 100 + number).items():
                    beside.setdefault(deadline, {}).setdefault(name, []).append(sample)
                shares.setdefault(deadline, []).append(backlogged(load, server, deadline, seconds, 200 + number))
            if sys.stderr.isatty():
                print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr)
    document: dict[str, Any] = {"machine": about, "rounds": rounds, "seconds": seconds, "cases": [], "backlogged": []}
    print(f"\nvictims{'':21}{'answered within D':>20}{'p50 ms':>9}{'p99 ms':>9}{'p99 of all':>12}{'busy':>7}", end="")
    print(f"{'all/s':>8}{'last one/s':>12}{'in time':>9}")
    for deadline, cases in beside.items():
        found = {}
        for name, samples in cases.items():
            good = sum(sample["good"] * sample["asked"] for sample in samples) / sum(s["asked"] for s in samples)
            mean = {
                key: float(numpy.mean([sample[key] for sample in samples]))
                for key in ("busy", "answered", "last rate", "last good", "lag")
            }
            p50, answered, endless = found[name] = p99(samples)
            print(
                f"  {f'D {deadline:g} ms, beside {name}':26}{good:20.1%}{p50:9.1f}{answered:9.1f}{endless:12.1f}",
                end="",
            )
            print(f"{mean['busy']:7.0%}{mean['answered']:8.0f}{mean['last rate']:12.0f}", end="")
            print(f"{mean['last good']:9.0%}")
            case = {"deadline_ms": deadline, "beside": name, "good": good, "p50": p50, "p99 of answers": answered}
            document["cases"].append({**case, "p99": endless, **mean})
        ratio = found["aggressor"][1] / found["well-behaved"][1]
        verdict = "met" if ratio <= 1.2 else "MISSED"
        print(f"  {'':26}p99 of answers: {ratio:.2f} × of the same beside well-behaved ones; aim ≤ 1.2: {verdict}")
        document["cases"][-1]["ratio"] = ratio
    print(
        "\neight backlogged clients: rows/s within the deadline, wanting " + ", ".join(f"{w:g}" for w in WANTS), end=""
    )
    print(" of a fair share, on " + ", ".join(str(count) for count in CONNECTIONS) + " connections")
    for deadline, samples in shares.items():
        rows = [float(numpy.mean([sample["rows"][index] for sample in samples])) for index in range(CLIENTS)]
        index, total = jain(rows), float(numpy.mean([sample["share"] for sample in samples]))
        print(
            f"  D {deadline:g} ms: Jain's index {index:.4f}; aim ≥ 0.98: {'met' if index >= 0.98 else 'MISSED'};",
            end="",
        )
        print(f" {total:.2f} of λ*; " + " ".join(f"{row:.0f}" for row in rows))
        document["backlogged"].append({"deadline_ms": deadline, "jain": index, "share": total, "rows": rows})
    print(f"\n{time.monotonic() - began:.0f} s")
    write(given.json, document)


if __name__ == "__main__":
    main()
