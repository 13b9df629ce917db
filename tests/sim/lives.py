"""Seeded lives of everything at once: whatever happens, every request has exactly one outcome.

A life has a random device, noise, deadlines (or none), classes, clients, lanes, requests of many rows, callers who lose
interest, keys that supersede, batches that raise, workers that die and devices out of memory. The world itself fails on
a second outcome and on a missing one; `life` adds what must hold besides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from inferd.schedule.batch import Batch
from inferd.schedule.ticket import CLASSES, Ticket
from tests.sim.world import NEVER, Arrival, Device, Profile, World

REQUESTS = 120


def arrivals(rng: random.Random, profile: Profile) -> Iterator[Arrival]:
    """REQUESTS requests of every kind, at a random load."""
    rate = rng.choice((0.3, 1.0, 3.0, 20.0)) / (profile.alpha / 4 + profile.beta)
    lanes, clients = rng.choice((1, 1, 3, 40)), rng.choice((0, 1, 5))
    endless, keyed, unsure = rng.choice((0.0, 0.3, 1.0)), rng.choice((0.0, 0.5)), rng.choice((0.0, 0.3))
    many, together = rng.choice((0.0, 0.2)), rng.choice((0.0, 0.5))
    now = 0.0
    for _ in range(REQUESTS):
        if rng.random() >= together:
            now += rng.expovariate(rate)
        deadline = NEVER if rng.random() < endless else profile.objective * rng.choice((0.01, 0.3, 1.0, 1.0, 20.0))
        yield Arrival(
            now,
            deadline,
            client=str(rng.randrange(clients)) if clients else "",
            lane=f"lane {rng.randrange(lanes)}",
            priority=rng.choice(list(CLASSES.values())),
            rows=rng.randint(1, 2 * profile.largest) if rng.random() < many else 1,
            cancel_at=now + rng.random() * profile.objective if rng.random() < unsure else NEVER,
            key=str(rng.randrange(3)) if rng.random() < keyed else "",
        )


def life(seed: int) -> World:
    """One of them, played to its end."""
    rng = random.Random(seed)
    alpha, beta = 10 ** rng.uniform(-4, -2), 10 ** rng.uniform(-5, -2)
    profile = Profile(alpha, beta, rng.uniform(2, 10) * (alpha + beta), rng.choice((1, 3, 16, 64)))
    trouble = rng.choice((0.0, 0.0, 0.1, 0.5))
    runs: dict[Ticket, int] = {}

    def fate(batch: Batch[Ticket]) -> str:
        for ticket in batch.tickets:
            runs[ticket] = runs.get(ticket, 0) + 1
        return rng.choice(("raised", "lost", "memory")) if rng.random() < trouble else "done"

    device = Device(profile, rng, rng.choice((0.0, 0.2, 1.0)), rng.choice((NEVER, 20 * alpha)), rng.choice((0.2, 5.0)))
    lanes = [f"lane {number}" for number in range(40)]
    world = World(device, profile.largest, rng.choice((1, 1, 2, 4)), lanes, rng.random() < 0.7, fate)
    outcome = world.play(arrivals(rng, profile))
    ends = (outcome.answered, outcome.turned_away, outcome.refused, outcome.withdrawn, outcome.failed)
    assert sum(map(len, ends)) == REQUESTS
    assert all(done >= arrival.at for end in ends for done, arrival in end)
    # Nothing that left the queue was computed afterwards, and nothing runs for ever: halvings are bounded by the rows,
    # second chances by one for each worker that died.
    assert len(runs) == len(outcome.answered) + len(outcome.failed) + ran_and_left(world, runs)
    assert max(runs.values(), default=0) <= 16
    # Nothing is kept of what is over.
    scheduler = world.scheduler
    queue = scheduler._queue
    assert not queue.lanes and not scheduler._devices.running and not scheduler._again
    assert queue.shares.backlogged == 0 and abs(queue.backlog) < 1e-9
    assert all(client.queued == 0 for client in world._clients.values())
    return world


def ran_and_left(world: World, runs: dict[Ticket, int]) -> int:
    """How many were in a batch that failed and left the queue before its next: late, or not wanted any more."""
    started = {id(world.origin[ticket]) for ticket in runs}
    outcome = world.outcome
    return sum(id(arrival) in started for _, arrival in outcome.refused + outcome.withdrawn)
