"""How many requests a second the scheduler can admit, dispatch and settle, with every feature on and 10,000 waiting.

    .venv/bin/python benchmarks/scheduler.py

No socket and no device: the clock is an argument, and a batch is over when this program says so. Deadlines, learned
latency, 64 clients with fair shares, three classes and credits are in use. Prints the least of several rounds.
"""

from __future__ import annotations

import argparse
import random
import time

from inferd.schedule.credits import Window
from inferd.schedule.scheduler import Scheduler
from inferd.schedule.ticket import CLASSES, Client, Ticket

QUEUE = 10_000
BATCH = 64
ALPHA_S, BETA_S = 0.002, 0.0001


def round_of(requests: int, lanes: int, seed: int) -> float:
    """Requests a second of one round."""
    rng = random.Random(seed)
    scheduler: Scheduler[Ticket] = Scheduler()
    for lane in range(lanes):
        scheduler.known.teach(lane, [(b, ALPHA_S + BETA_S * b) for b in (1, 2, 4, 8, 16, 32, 64)])
    clients = [Client(str(number)) for number in range(64)]
    window = Window(1024)
    priorities = list(CLASSES.values())
    plan = [(rng.randrange(lanes), rng.choice(clients), rng.choice(priorities)) for _ in range(4096)]
    now = 0.0
    # Enough time for all that wait: what is measured is the work, not refusals.
    budget = 20 * QUEUE / BATCH * (ALPHA_S + BETA_S * BATCH)
    gap = (ALPHA_S + BETA_S * BATCH) / BATCH

    def arrive(number: int) -> None:
        lane, client, priority = plan[number % 4096]
        ticket = Ticket((lane,), 1, 64, BATCH, now + budget, now, client, priority)
        if scheduler.admit(ticket, now) is None:
            scheduler.submit(ticket, now)

    for number in range(QUEUE):
        arrive(number)
    started = time.perf_counter()
    done = 0
    while done < requests:
        batch = scheduler.take(now).batch
        assert batch is not None
        for number in range(len(batch.tickets)):
            now += gap
            arrive(done + number)
        for ticket in batch.tickets:
            window.waited(batch.started_at - ticket.arrived, ticket.budget, now)
        scheduler.settle(batch, now - batch.started_at)
        done += len(batch.tickets)
    took = time.perf_counter() - started
    assert scheduler.queued > QUEUE * 0.9, scheduler.queued
    return done / took


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for lanes in (1, 8):
        rates = [round_of(args.requests, lanes, seed) for seed in range(args.rounds)]
        print(f"{lanes} lane{'s' if lanes > 1 else ''}, {QUEUE} waiting: {max(rates):,.0f} requests/s")


if __name__ == "__main__":
    main()
