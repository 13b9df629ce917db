"""Latest wins: people type, every key asks for a new answer, and only the last one of a burst is read.

    python benchmarks/keystrokes.py          # about 3 minutes

50 typists, each on a connection of their own, press 10 keys a second in bursts of 12 with pauses between them. Every
key sends the text so far. With `supersede` a request takes the place of its typist's one before it while that still
waits; without, all of them are computed, or refused. What counts is how long after a burst's last key its answer is
there. Once with the real `ner` model, and with virtual devices that are too slow for every key. README.md says how to
read the result. (Its name is not typing.py because it would be imported in the standard library's place.)
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy
from openloop import OVERLOADED, RESULT, SUPERSEDED
from serving import (
    Cores,
    Load,
    Server,
    arguments,
    introduce,
    rest,
    start_inferd,
    stream,
    text_frame,
    virtual_frame,
    virtual_options,
    write,
)

TYPISTS = 50
KEYS, KEYS_PER_S = 12, 10.0
PAUSE_S = (0.4, 1.2)
TEXT = "In March 1905 Albert Einstein, then a clerk at the patent office in Bern, sent a paper to Leipzig. " * 4
GRACE_S = 3.0


class Case(NamedTuple):
    """A model, how it is started, and the deadline of each request in ms, if it has one."""

    title: str
    model: str
    options: tuple[str, ...]
    deadline_ms: float | None


CASES = (
    Case("ner, as it is", "ner", (), None),
    Case("virtual, α 20 β 1, max 64: fast enough for every key", "virtual", virtual_options(20, 1, 64), None),
    Case("virtual, α 20 β 4, max 64: too slow for every key", "virtual", virtual_options(20, 4, 64), None),
    Case("the same, with a deadline of 500 ms", "virtual", virtual_options(20, 4, 64), 500),
)


def bursts(seconds: float, draw: random.Random) -> list[list[float]]:
    """When one typist presses which keys."""
    found, now = [], draw.uniform(0, KEYS / KEYS_PER_S)
    while now + KEYS / KEYS_PER_S < seconds:
        keys = []
        for _ in range(KEYS):
            keys.append(now)
            now += draw.uniform(0.5, 1.5) / KEYS_PER_S
        found.append(keys)
        now += draw.uniform(*PAUSE_S)
    return found


def run(load: Load, server: Server, case: Case, supersede: bool, seconds: float, seed: int) -> dict[str, Any]:
    """One window."""
    streams, last = [], []
    for typist in range(TYPISTS):
        times, lasts = [], []
        for keys in bursts(seconds, random.Random(seed * 1000 + typist)):
            lasts.append(keys[-1])
            for index, at in enumerate(keys):
                times.append([at, index])
        key = "line" if supersede else None
        if case.model == "ner":
            frames = [text_frame("ner", TEXT[: 60 + 3 * index], case.deadline_ms, key) for index in range(KEYS)]
        else:
            frames = [virtual_frame(case.deadline_ms, supersede=key)] * KEYS
        streams.append(stream(frames, 1, times=times))
        last.append(lasts)
    found = load.window(server, streams, 0.0, seconds + 1, GRACE_S, seed)
    rest(server, 5.0)
    is_last = numpy.zeros(len(found.due), bool)
    for typist, lasts in enumerate(last):
        due = numpy.round(found.due, 6)
        is_last |= (found.stream == typist) & numpy.isin(due, numpy.round(numpy.array(lasts), 6))
    answered = found.outcome == RESULT
    return {
        "keys": len(found.due),
        "bursts": int(is_last.sum()),
        "last": numpy.where(answered, found.latency, numpy.inf)[is_last].tolist(),
        "superseded": int((found.outcome == SUPERSEDED).sum()),
        "refused": int((found.outcome == OVERLOADED).sum()),
        "answered": int(answered.sum()),
        "computed": found.delta["rows"],
        "busy": found.delta["busy_s"] / found.delta["wall_s"],
        "lag": float(numpy.percentile(found.lag, 99)) * 1000,
        "failures": found.failures,
    }


def main() -> None:
    """The program."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="of every case, in turn (default: 3)")
    parser.add_argument("--seconds", type=float, help="of one window (default: 6)")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    seconds = given.seconds or (4.0 if given.quick else 6.0)
    cores = Cores.divide(given.server_cores)
    load_of = f"{TYPISTS} typists, {KEYS_PER_S:g} keys/s in bursts of {KEYS}"
    about = introduce(cores, f"{rounds} rounds of {seconds:g} s a case, in turn; {load_of}")
    began = time.monotonic()
    cells: list[dict[str, Any]] = []
    print(f"\n  {'':14}{'last key p50 ms':>17}{'p99 ms':>9}{'no answer':>11}{'keys':>8}{'superseded':>12}", end="")
    print(f"{'refused':>9}{'computed':>10}{'busy':>7}")
    for case in CASES:
        samples: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        with ExitStack() as stack:
            load = Load(stack, cores)
            server = start_inferd(stack, cores, [case.model, *case.options])
            for number in range(rounds):
                # There and back, so that what is compared does not always come in the same order.
                for supersede in (False, True) if number % 2 == 0 else (True, False):
                    samples[supersede].append(run(load, server, case, supersede, seconds, number + 1))
        print(f"  {case.title}")
        for supersede in (False, True):
            found = samples[supersede]
            last = sorted(value * 1000 for sample in found for value in sample["last"])
            sums = {
                key: sum(sample[key] for sample in found)
                for key in ("keys", "superseded", "refused", "computed", "bursts")
            }
            p50, p99 = (last[int(q * len(last))] for q in (0.5, 0.99))
            silent = sum(value == float("inf") for value in last)
            busy = float(numpy.mean([sample["busy"] for sample in found]))
            name = "supersede" if supersede else "without"
            print(f"    {name:12}{p50:17.1f}{p99:9.1f}{silent:11}{sums['keys']:8}{sums['superseded']:12}", end="")
            print(f"{sums['refused']:9}{sums['computed']:10.0f}{busy:7.0%}", flush=True)
            cells.append(
                {
                    "case": case.title,
                    "supersede": supersede,
                    "p50 ms": p50,
                    "p99 ms": p99,
                    "without an answer": silent,
                    "busy": busy,
                    **sums,
                }
            )
    print("\nlast key: from when the last key of a burst was due until its answer; without an answer counts as endless")
    print(f"{time.monotonic() - began:.0f} s")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    write(given.json, {"machine": about, "rounds": rounds, "seconds": seconds, "cases": cells})


if __name__ == "__main__":
    main()
