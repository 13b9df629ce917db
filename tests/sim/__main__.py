"""What the scheduler is worth, on a virtual clock: `make sim`, or

    python -m tests.sim                 everything, about 5 minutes on two cores
    python -m tests.sim --quick         shorter runs, one seed
    python -m tests.sim --plot docs/    goodput over offered load, as docs/scheduling-goodput.svg

The scheduler is the daemon's own. Every figure is seeded and comes out the same each time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.sim import cases
from tests.sim.lives import life
from tests.sim.plot import svg
from tests.sim.world import PROFILES

SEEDS = 5
LIVES = 2000
LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
Job = tuple[Callable[..., Any], tuple[Any, ...]]


def run(job: Job) -> Any:
    """In a process of its own."""
    function, arguments = job
    return function(*arguments)


def many_lives(first: int, count: int) -> float:
    """Seconds it took to play them; raises when one is wrong."""
    started = time.perf_counter()
    for seed in range(first, first + count):
        life(seed)
    return time.perf_counter() - started


def table_jobs(quick: bool) -> list[tuple[tuple[str, str, float, float], Job]]:
    """The rows of the table: policy, profile, load, noise; heaviest first, so that both cores end together."""
    jobs = []
    for number in (1, 0, 2):
        profile = PROFILES[number]
        for load in (4.0, 2.0):
            for policy, noise in [("inferd", 0.0), ("inferd", 0.2), *((name, 0.0) for name in cases.POLICIES[:2])]:
                for seed in range(1 if quick else SEEDS):
                    key = (policy, str(profile), load, noise)
                    jobs.append((key, (cases.share, (policy, profile, load, noise, seed, quick))))
    return jobs


def other_jobs(quick: bool) -> list[Job]:
    """Everything that is reported in lines, in the order of the report."""
    jobs: list[Job] = [(cases.light, (profile, quick)) for profile in PROFILES]
    jobs += [(cases.refusing, (profile, quick)) for profile in PROFILES]
    jobs += [(cases.bursty, (profile, quick)) for profile in PROFILES]
    jobs += [(cases.mixed_deadlines, (profile, quick)) for profile in PROFILES]
    jobs += [(cases.four_models, (quick,)), (cases.devices, (quick,))]
    jobs += [(cases.drifting, (profile, noise, quick)) for noise in (0.0, 0.2) for profile in PROFILES]
    jobs += [(cases.spiked, (profile, quick)) for profile in PROFILES]
    jobs += [(case, (quick,)) for case in (cases.fairness, cases.priorities, cases.without_deadline, cases.superseding)]
    return jobs


def print_table(results: dict[tuple[str, str, float, float], list[float]], quick: bool) -> None:
    """Goodput per second and its share of λ*, the mean of the seeds."""
    for profile in PROFILES:
        warm, measured = cases.seconds_of(profile, quick)
        print(f"{profile}: λ* = {profile.rate:.0f}/s, {measured:g} s after {warm:g} s of warm-up", end="")
        print(" (shorter: 50 times the requests)" if profile.beta < 0.0002 else "")
    print(f"\n{'goodput/s (share of λ*)':34}" + "".join(f"{profile!s:>20}" for profile in PROFILES))
    for load in (2.0, 4.0):
        for policy, noise in [*((name, 0.0) for name in cases.POLICIES), ("inferd", 0.2)]:
            row = f"{policy}, {load:g}×" + (f", noise {noise:.0%}" if noise else "")
            print(f"{row:34}", end="")
            for profile in PROFILES:
                share = fmean(results[policy, str(profile), load, noise])
                print(f"{share * profile.rate:>13.0f} ({share:.2f})", end="")
            print()
    print(flush=True)


def plot(folder: Path, pool: Any) -> None:
    """Goodput over offered load, for the three policies and profiles; one seed, short runs."""
    grid = [
        (policy, profile, load)
        for profile in PROFILES[1:] + PROFILES[:1]
        for policy in cases.POLICIES
        for load in LOADS
    ]
    jobs = [(cases.share, (policy, profile, load, 0.0, 1, True)) for policy, profile, load in grid]
    shares = dict(zip(grid, pool.map(run, jobs, chunksize=1), strict=True))
    panels = []
    for profile in PROFILES:
        lines = {
            policy: [(0.0, 0.0), *((load, shares[policy, profile, load]) for load in LOADS)]
            for policy in reversed(cases.POLICIES)
        }
        panels.append((f"{profile} ms, λ* = {profile.rate:,.0f}/s", lines))
    path = folder / "scheduling-goodput.svg"
    path.write_text(svg(panels))
    print(f"wrote {path}")


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    started = time.perf_counter()
    with multiprocessing.Pool(min(2, os.cpu_count() or 1)) as pool:
        if args.plot is not None:
            plot(args.plot, pool)
            return
        jobs = table_jobs(args.quick)
        table = pool.map_async(run, [job for _, job in jobs], chunksize=1)
        others = pool.map_async(run, other_jobs(args.quick), chunksize=1)
        count = 300 if args.quick else LIVES
        lives = pool.map_async(run, [(many_lives, (first, count // 2)) for first in (0, count // 2)], chunksize=1)
        results: dict[tuple[str, str, float, float], list[float]] = {}
        for (key, _), share in zip(jobs, table.get(), strict=True):
            results.setdefault(key, []).append(share)
        print_table(results, args.quick)
        for lines in others.get():
            print("\n".join(lines))
        print(f"\n{count} seeded lives, every request with exactly one outcome: {sum(lives.get()):.0f} s of one core")
    print(f"{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
