"""What is left of a server when more is asked of it than it can do: goodput at 0.5 to 4 times λ*, refusals, a spike.

    python benchmarks/overload.py                                  # about 5 minutes
    python benchmarks/overload.py --mosec /tmp/mosec/bin/python    # with mosec beside it, from that environment
    python benchmarks/plot_overload.py overload.json docs/overload.png

The device is virtual: a batch of b sleeps α + β·b ms. Goodput counts answers that reached the client within the
deadline of when they were due to be sent, a second; refused, failed, late and unanswered requests are misses. λ* is the
highest rate at which every batch could be in time. The same daemon runs with other policies in its scheduler's place
(policies.py), so that what differs is the policy. README.md beside this file says how to read the result.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy
from openloop import OVERLOADED, RESULT
from serving import (
    CONNECTIONS,
    HTTP_REQUEST,
    PROFILES,
    WARM_S,
    Cores,
    Load,
    Profile,
    Server,
    Window,
    arguments,
    introduce,
    percentiles,
    rest,
    start_inferd,
    start_mosec,
    stream,
    virtual_frame,
    write,
)

FACTORS = (0.5, 1.0, 2.0, 4.0)
NOISE = 0.2
# So much of the load waits for its answer before it sends its payload: it can only have been refused on its header.
PROBES = 0.02
SPIKE = 10.0
BEFORE_S, SPIKE_S, AFTER_S = 1.5, 1.0, 2.0
NORMAL = 0.9  # of the share before the spike

# (most in a batch, wait in ms, mosec's own options). The tuned ones are the best of a sweep over batch and queue bound.
MOSEC = {
    1: {
        "mosec": (64, 10, []),
        "mosec, timeout = D": (64, 10, ["--timeout", "25"]),
        "mosec, tuned": (7, 1, ["--capacity", "7"]),
    },
    3: {
        "mosec": (16, 10, []),
        "mosec, timeout = D": (16, 10, ["--timeout", "60"]),
        "mosec, tuned": (7, 1, ["--capacity", "7"]),
    },
}
POLICIES = {"first come": "first-come", "first come, drops what is late": "timeout", "window of 10 ms": "window:10"}
INFERD, NOISY = "inferd", f"inferd, noise {NOISE:.0%}"


class Cell(NamedTuple):
    """What is measured several times."""

    profile: int
    system: str
    factor: float


Sample = dict[str, Any]
Results = dict[Cell, list[Sample]]


def window(load: Load, server: Server, profile: Profile, factor: float, seconds: float) -> Sample:
    """One measurement."""
    rate, deadline_s = factor * profile.rate, profile.deadline / 1000
    end = WARM_S + seconds
    if server.kind == "http":
        streams = [stream([HTTP_REQUEST], 64, plan=[[end, rate]])]
    else:
        frame = virtual_frame(profile.deadline)
        streams = [
            stream([frame], CONNECTIONS, plan=[[end, rate * (1 - PROBES)]]),
            # So many connections that the next of them seldom comes while one is held back: it would have to be sent.
            stream(
                [frame],
                math.ceil(8 + 8 * rate * PROBES * deadline_s),
                plan=[[end, rate * PROBES]],
                probe_s=2 * deadline_s,
            ),
        ]
    found = load.window(server, streams, WARM_S, end, 3 * deadline_s)
    main, probes = found.of(0), found.of(1)
    share = 1 - PROBES if server.kind == "inferd" else 1.0
    rest(server, (profile.alpha + profile.beta + 25) / 1000)
    return {
        "goodput": main.goodput(deadline_s) / share,
        "share": main.goodput(deadline_s) / share / profile.rate,
        "of offered": float(main.good(deadline_s).mean()) if len(main.due) else 0.0,
        "outcomes": main.shares(deadline_s),
        "answers ms": percentiles(main.latencies_of(RESULT)),
        "refusals ms": main.latencies_of(OVERLOADED).tolist(),
        "refusals at the header ms": probes.latencies_of(OVERLOADED).tolist(),
        "lag ms": percentiles(found.lag * 1000),
        "generator": found.cpu_share,
        "counted": found.delta,
        "failures": found.failures,
    }


def spike(load: Load, server: Server, profile: Profile) -> Window:
    """Half of λ*, ten times λ* for a second, half of λ* again; times count from the spike's end."""
    rate, begin = profile.rate, BEFORE_S + SPIKE_S
    plan = [[BEFORE_S, rate / 2], [SPIKE_S, SPIKE * rate], [AFTER_S, rate / 2]]
    frames = [HTTP_REQUEST] if server.kind == "http" else [virtual_frame(profile.deadline)]
    found = load.window(server, [stream(frames, 64, plan=plan)], 0.0, begin + AFTER_S, 3 * profile.deadline / 1000)
    found.due = found.due - begin
    rest(server, (profile.alpha + profile.beta + 25) / 1000)
    return found


def recovery(windows: list[Window], profile: Profile) -> Sample:
    """When the share of requests answered in time is back at 90 % of what it was, for good: over all spikes, in bins
    of half an objective, each smoothed over the objective that begins with it."""
    deadline_s = profile.deadline / 1000
    due = numpy.concatenate([window.due for window in windows])
    good = numpy.concatenate([window.good(deadline_s) for window in windows])
    calm = due < -SPIKE_S
    calm &= due >= 0.3 - BEFORE_S - SPIKE_S
    before = float(good[calm].mean())
    bin_s = deadline_s / 2
    count = int((AFTER_S - deadline_s) / bin_s)
    shares = []
    for index in range(count):
        inside = (due >= index * bin_s) & (due < index * bin_s + deadline_s)
        shares.append(float(good[inside].mean()) if inside.any() else before)
    back = next((index for index in range(count) if min(shares[index : index + 8]) >= NORMAL * before), count)
    after = (due >= 2 * deadline_s) & (due < 2 * deadline_s + 1)
    line_s = 0.05
    edges = numpy.arange(-BEFORE_S - SPIKE_S, AFTER_S, line_s)
    line = [float(good[(due >= at) & (due < at + line_s)].sum()) / line_s / len(windows) for at in edges]
    return {
        "before": before,
        "objectives": back * bin_s / deadline_s if back < count else float("inf"),
        "after two objectives": float(good[after].mean()),
        "line": [[float(at), value / profile.rate] for at, value in zip(edges, line, strict=True)],
        "shares": shares,
    }


def ceiling(load: Load, stack: ExitStack, cores: Cores, seconds: float) -> tuple[Server, Sample]:
    """What the transport and the generator can do: a device that takes no time, ever more load."""
    options = ["--set", "virtual.alpha_ms=0", "--set", "virtual.beta_ms=0", "--set", "virtual.max_batch_size=128"]
    server = start_inferd(stack, cores, ["virtual", *options])
    best: Sample = {"rate": 0.0}
    for rate in (10_000, 15_000, 20_000, 30_000, 40_000, 60_000):
        streams = [stream([virtual_frame(None)], CONNECTIONS, plan=[[0.3 + seconds, rate]])]
        found = load.window(server, streams, 0.3, 0.3 + seconds, 0.3)
        answered = float(((found.outcome == RESULT) & (found.due + found.latency < seconds)).sum()) / seconds
        if answered > best["rate"]:
            best = {"rate": answered, "offered": rate, "generator": found.cpu_share}
        rest(server, 1.0)
        if answered < 0.8 * rate:
            break
    return server, best


# ---- the tables


def median(samples: list[Sample], key: str) -> float:
    values: list[float] = [sample[key] for sample in samples]
    return statistics.median(values)


def print_goodput(results: Results, profile: int) -> None:
    """Shares of λ*, a row for each system."""
    shape = PROFILES[profile]
    print(f"\n{shape.title}; λ* = {shape.rate:,.0f}/s; goodput as a share of λ* at")
    print(f"  {'':34}" + "".join(f"{f'{factor:g} × λ*':>16}" for factor in FACTORS))
    systems = list(dict.fromkeys(cell.system for cell in results if cell.profile == profile))
    for system in systems:
        line = f"  {system:34}"
        for factor in FACTORS:
            samples = results.get(Cell(profile, system, factor))
            if not samples:
                line += f"{'':>16}"
                continue
            shares = [sample["share"] for sample in samples]
            spread = f" ({min(shares):.2f}–{max(shares):.2f})" if len(shares) > 1 else ""
            line += f"{statistics.median(shares):.2f}{spread}".rjust(16)
        print(line)


def print_refusals(results: Results, profile: int) -> None:
    """How soon inferd says no."""
    print(f"  {'':34}{'refusals on the header':>30}{'all refusals':>28}{'late':>8}{'batch':>8}{'lag p99':>9}")
    print(f"  {'':34}{'n':>10}{'p50 ms':>10}{'p99 ms':>10}{'n':>8}{'p50':>10}{'p99':>10}")
    for cell, samples in results.items():
        if cell.profile != profile or cell.system not in (INFERD, NOISY) or cell.factor < 1:
            continue
        door = [value for sample in samples for value in sample["refusals at the header ms"]]
        every = [value for sample in samples for value in sample["refusals ms"]]
        late = statistics.mean(sample["outcomes"]["late"] for sample in samples)
        rows = sum(sample["counted"]["rows"] for sample in samples)
        batch = rows / max(1, sum(sample["counted"]["batches"] for sample in samples))
        lag = max(sample["lag ms"][1] for sample in samples)
        print(f"  {f'{cell.system} at {cell.factor:g} × λ*':34}", end="")
        for values in (door, every):
            p50, p99 = percentiles(values)
            print(f"{len(values):{10 if values is door else 8}}{p50:10.2f}{p99:10.2f}", end="")
        print(f"{late:8.1%}{batch:8.1f}{lag:9.2f}")


class Aim(NamedTuple):
    what: str
    measured: float
    aim: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.measured <= self.aim if self.at_most else self.measured >= self.aim


def aims(results: Results, spikes: dict[str, Sample]) -> list[Aim]:
    found = []
    for profile in (1, 3):
        for system, factor, aim in ((INFERD, 2.0, 0.95), (INFERD, 4.0, 0.9), (NOISY, 2.0, 0.9), (NOISY, 4.0, 0.85)):
            samples = results.get(Cell(profile, system, factor))
            if samples:
                what = f"profile {profile}: {system}: share of λ* at {factor:g} ×"
                found.append(Aim(what, median(samples, "share"), aim))
        door = [
            value
            for cell, samples in results.items()
            if cell.profile == profile and cell.system == INFERD
            for sample in samples
            for value in sample["refusals at the header ms"]
        ]
        if door:
            found.append(Aim(f"profile {profile}: refusals on the header, p99 ms", percentiles(door)[1], 5, True))
        name = f"{profile} {INFERD}"
        if name in spikes:
            what = f"profile {profile}: objectives until back to normal after a spike"
            found.append(Aim(what, spikes[name]["objectives"], 2, True))
    return found


def print_aims(found: list[Aim]) -> None:
    print(f"\n  {'':66}{'measured':>10}   aim")
    for aim in found:
        sign = "≤" if aim.at_most else "≥"
        print(f"  {aim.what:66}{aim.measured:10.2f}   {sign} {aim.aim:<6g}{'met' if aim.is_met else 'MISSED'}")


def main() -> None:
    """The program."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="how often inferd's cells are measured (default: 3); others: once")
    parser.add_argument("--seconds", type=float, help="of one window (default: 2)")
    parser.add_argument("--spikes", type=int, help="of each kind (default: 3)")
    parser.add_argument("--profiles", default="1,3,2", help="which (default: 1,3,2)")
    parser.add_argument("--mosec", metavar="PYTHON", help="the python of an environment with mosec, to measure it too")
    parser.add_argument("--only-inferd", action="store_true", help="nothing beside it")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    seconds = given.seconds or (1.0 if given.quick else 2.0)
    count = given.spikes or (1 if given.quick else 3)
    profiles = [int(number) for number in given.profiles.split(",")]
    cores = Cores.divide(given.server_cores)
    about = introduce(cores, f"windows of {seconds:g} s after {WARM_S:g} s; inferd's {rounds} times, in turn")
    if not given.mosec:
        print("mosec is not measured: give --mosec PYTHON, of an environment in which it is installed")
    began = time.monotonic()
    results: Results = {}
    spikes: dict[str, Sample] = {}
    top: Sample = {}
    for number in profiles:
        profile = PROFILES[number]
        with ExitStack() as stack:
            load = Load(stack, cores)
            servers = {INFERD: start_inferd(stack, cores, ["virtual", *profile.options()])}
            if number != 2:
                servers[NOISY] = start_inferd(stack, cores, ["virtual", *profile.options(NOISE)])
                if not given.only_inferd:
                    for name, policy in POLICIES.items():
                        servers[name] = start_inferd(stack, cores, ["virtual", *profile.options()], policy)
                if given.mosec and not given.only_inferd:
                    for name, (batch, wait_ms, options) in MOSEC[number].items():
                        servers[name] = start_mosec(stack, cores, given.mosec, profile, batch, wait_ms, options)
            else:
                _, top = ceiling(load, stack, cores, seconds / 2)
            for index in range(rounds):
                for factor in FACTORS:
                    if number == 2 and factor * profile.rate > 1.5 * max(top["rate"], profile.rate):
                        continue
                    for system, server in servers.items():
                        if index and system not in (INFERD, NOISY):
                            continue
                        if system == NOISY and factor < 2:
                            continue
                        sample = window(load, server, profile, factor, seconds)
                        results.setdefault(Cell(number, system, factor), []).append(sample)
                if sys.stderr.isatty():
                    print(f"\rprofile {number}: round {index + 1} of {rounds}", end="", file=sys.stderr)
            if number != 2:
                for system in (INFERD, *(name for name in ("first come", "mosec, tuned") if name in servers)):
                    windows = [spike(load, servers[system], profile) for _ in range(count if system == INFERD else 1)]
                    spikes[f"{number} {system}"] = recovery(windows, profile)
        print_goodput(results, number)
        if number == 2:
            share = median(results[Cell(2, INFERD, 1.0)], "goodput") / top["rate"]
            print(
                f"  the transport's own ceiling, a device that takes no time: {top['rate']:,.0f}/s "
                f"(offered {top['offered']:,}/s, generator {top['generator']:.0%} of its core); "
                f"goodput at 1 × λ* is {share:.2f} of it"
            )
        print_refusals(results, number)
        for name, found in spikes.items():
            if name.startswith(str(number)):
                print(
                    f"  spike of {SPIKE:g} × λ* for {SPIKE_S:g} s, {name[2:]}: back to normal after "
                    f"{found['objectives']:.1f} objectives; answered in time: {found['before']:.1%} before, "
                    f"{found['after two objectives']:.1%} in the second that begins two objectives after"
                )
        sys.stdout.flush()
    targets = aims(results, spikes)
    print_aims(targets)
    print(f"\n{time.monotonic() - began:.0f} s")
    cells = [
        {
            **cell._asdict(),
            "windows": [
                {
                    **sample,
                    "refusals ms": percentiles(sample["refusals ms"]),
                    "refusals at the header ms": percentiles(sample["refusals at the header ms"]),
                }
                for sample in samples
            ],
        }
        for cell, samples in results.items()
    ]
    document = {
        "machine": about,
        "profiles": {number: {**PROFILES[number]._asdict(), "rate": PROFILES[number].rate} for number in profiles},
        "cells": cells,
        "spikes": spikes,
        "ceiling": top,
        "aims": [{**aim._asdict(), "is_met": bool(aim.is_met)} for aim in targets],
    }
    write(given.json, document)


if __name__ == "__main__":
    main()
