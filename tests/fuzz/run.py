"""Hostile bytes at the decoders, the session and the port's ear for other protocols: `make fuzz SECONDS=120`, or

    python -m tests.fuzz.run --seconds 120             a fifth of it the mutator of fuzz_wire.py, the rest bulk.py
    python -m tests.fuzz.run --frames 10000000         until so many frames were tried (for a night; on all cores)
    python -m tests.fuzz.run --seed 5 --jobs 1         the same inputs in the same order

An input that breaks an invariant is written to tests/fuzz/corpus and replayed by the tests from then on.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time

from inferd import log
from tests.fuzz import fuzz_wire
from tests.fuzz.bulk import Bulk

# One round: seconds of each. What is closest to the wire gets most.
ROUND_S = {"mutator": 4.0, "decoder": 10.0, "session": 6.0}


def fuzz(job: tuple[int, float, float]) -> tuple[dict[str, tuple[int, int, float]], list[str]]:
    """One process's part: (seed, seconds, frames). For each part its inputs, frames and seconds; and the findings."""
    seed, seconds, frames = job
    log.logger.setLevel("CRITICAL")  # a line a second about broken frames
    ends = time.monotonic() + seconds
    bulk = Bulk(seed)
    mutator = [0, 0, 0.0]
    findings: list[str] = []
    number = 0
    while (left := ends - time.monotonic()) > 0 and sum(tally.frames for tally in bulk.of.values()) < frames:
        share = min(1.0, left / sum(ROUND_S.values()))
        started = time.monotonic()
        tried, came, paths = fuzz_wire.run(seed * 1_000_003 + number, share * ROUND_S["mutator"])
        number += 1
        mutator = [mutator[0] + tried, mutator[1] + came, mutator[2] + time.monotonic() - started]
        findings += map(str, paths)
        for part in bulk.of:
            try:
                bulk.run(part, share * ROUND_S[part], frames / 2)
            except Exception as error:
                assert bulk.last is not None
                findings.append(str(bulk.last.save(f"{type(error).__name__}: {error} (seed {seed})")))
                print(f"{findings[-1]}: {type(error).__name__}: {error}", flush=True)
                bulk.close()
                before, bulk = bulk.of, Bulk(seed + 7919 * number)
                bulk.of = before
    bulk.close()
    parts = {name: (tally.inputs, tally.frames, tally.seconds) for name, tally in bulk.of.items()}
    return {"mutator": (mutator[0], mutator[1], mutator[2]), **parts}, findings


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile bytes at the decoders and the session.")
    parser.add_argument("--seconds", type=float, help="default: 120, or as long as --frames takes")
    parser.add_argument("--frames", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, help="default: from the clock, and printed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    if seconds is None:
        seconds = 120.0 if arguments.frames == math.inf else math.inf
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 2**31
    print(f"seed {seed}, {arguments.jobs} processes", flush=True)
    jobs = [(seed + at, seconds, arguments.frames / arguments.jobs) for at in range(arguments.jobs)]
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        results = pool.map(fuzz, jobs, chunksize=1)
    took = time.monotonic() - started
    findings = [finding for _, found in results for finding in found]
    total = 0
    for part in ROUND_S:
        inputs = sum(parts[part][0] for parts, _ in results)
        frames = sum(parts[part][1] for parts, _ in results)
        busy_s = sum(parts[part][2] for parts, _ in results)
        total += frames
        rate = frames / busy_s if busy_s else 0.0
        print(f"{part:8} {inputs:12,} inputs {frames:14,} frames {rate:10,.0f} frames/s for each process")
    print(f"{total:,} frames in {took:.0f} s; seed {seed}: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
