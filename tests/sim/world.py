"""A world of its own: requests arrive, one device runs batches, and nobody looks at a clock.

The scheduler is the daemon's; only the device and the callers are made up. A device takes α + β·b for a batch of b,
times log-normal noise, and may drift.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from inferd.schedule.scheduler import Scheduler
from inferd.schedule.ticket import Client, Ticket


@dataclass(frozen=True)
class Profile:
    """A device and an objective, in seconds."""

    alpha: float
    beta: float
    objective: float
    largest: int

    @property
    def rate(self) -> float:
        """λ*: the highest rate at which batches can be kept within the objective: (1/β)(1 − 2α/D)."""
        return (1 - 2 * self.alpha / self.objective) / self.beta


PROFILES = (
    Profile(0.005, 0.001, 0.025, 64),
    Profile(0.002, 0.00005, 0.015, 128),
    Profile(0.001, 0.004, 0.060, 16),
)


@dataclass
class Arrival:
    """One request of the made-up callers."""

    at: float
    deadline: float
    client: str = ""
    lane: str = "model"
    priority: float = 0.0


@dataclass
class Outcome:
    """What became of the requests."""

    answered: list[tuple[float, Arrival]] = field(default_factory=list)
    refused: list[tuple[float, Arrival]] = field(default_factory=list)
    batches: list[tuple[float, int]] = field(default_factory=list)

    def goodput(self, start: float, end: float, keep: Callable[[Arrival], bool] = lambda arrival: True) -> float:
        """Answers within their deadlines, of requests that arrived in [start, end), per second."""
        good = sum(
            start <= arrival.at < end and done <= arrival.at + arrival.deadline and keep(arrival)
            for done, arrival in self.answered
        )
        return good / (end - start)


def poisson(rng: random.Random, rate: float, seconds: float, deadline: float, client: str = "") -> Iterator[Arrival]:
    """Independent callers: exponential gaps."""
    now = rng.expovariate(rate)
    while now < seconds:
        yield Arrival(now, deadline, client)
        now += rng.expovariate(rate)


class Device:
    """How long a batch really takes."""

    def __init__(self, profile: Profile, rng: random.Random, noise: float = 0.0, drift_at: float = 1e9) -> None:
        self.profile = profile
        self.rng = rng
        self.noise = noise
        self.drift_at = drift_at

    def seconds(self, rows: int, now: float) -> float:
        took = self.profile.alpha + self.profile.beta * rows
        if self.noise:
            took *= self.rng.lognormvariate(0.0, self.noise)
        return took * 2 if now >= self.drift_at else took


def play(
    arrivals: Iterator[Arrival],
    device: Device,
    largest: int,
    check: bool = False,
    taught: bool = True,
) -> Outcome:
    """The daemon's scheduler on one device; every request has exactly one outcome (asserted when `check`)."""
    scheduler: Scheduler[Ticket] = Scheduler()
    if taught:
        profile = device.profile
        sizes = [b for b in (1, 2, 4, 8, 16, 32, 64, 128) if b <= largest]
        scheduler.teach("model", [(b, profile.alpha + profile.beta * b) for b in sizes])
    outcome = Outcome()
    clients: dict[str, Client] = {}
    running: tuple[float, object] | None = None
    tickets: dict[Ticket, Arrival] = {}
    ended: set[Ticket] = set()

    def refuse(ticket: Ticket, now: float) -> None:
        outcome.refused.append((now, tickets.pop(ticket)))
        if check:
            assert ticket not in ended
            ended.add(ticket)

    def dispatch(now: float, why: str) -> None:
        nonlocal running
        if running is not None:
            return
        taken = scheduler.take(now, why)
        for ticket in taken.late + taken.refused:
            refuse(ticket, now)
        if taken.batch is not None:
            rows = taken.batch.rows
            running = (now + device.seconds(rows, now), taken.batch)
            outcome.batches.append((now, rows))

    for arrival in itertools.chain(arrivals, [None]):
        upto = arrival.at if arrival is not None else float("inf")
        while True:
            done = running[0] if running is not None else float("inf")
            expiry = scheduler.next_expiry()
            next_at = min(done, expiry if expiry is not None else float("inf"))
            if next_at > upto or next_at == float("inf"):
                break
            if done <= next_at:
                batch = running[1]  # type: ignore[index]
                running = None
                scheduler.settle(batch, done, done - batch.started_at)  # type: ignore[arg-type, attr-defined]
                for ticket in batch.tickets:  # type: ignore[attr-defined]
                    outcome.answered.append((done, tickets.pop(ticket)))
                    if check:
                        assert ticket not in ended
                        ended.add(ticket)
                dispatch(done, "freed")
            else:
                for ticket in scheduler.expire(next_at):
                    refuse(ticket, next_at)
        if arrival is None:
            break
        now = arrival.at
        client = clients.setdefault(arrival.client, Client(arrival.client)) if arrival.client else None
        ticket = Ticket(
            (arrival.lane,), 1, 64, largest, now + arrival.deadline, now, client, arrival.priority
        )
        tickets[ticket] = arrival
        if scheduler.admit(ticket, now) is not None:
            refuse(ticket, now)
            continue
        scheduler.submit(ticket, now)
        dispatch(now, "idle")
    if check:
        assert not tickets and scheduler.queued == 0
    return outcome


def first_come(arrivals: Iterator[Arrival], device: Device, largest: int, timeout: float = 1e9) -> Outcome:
    """What most servers do: a queue, and at most a timeout in it."""
    outcome = Outcome()
    queue: deque[Arrival] = deque()
    free_at = 0.0

    def run(upto: float) -> None:
        nonlocal free_at
        while queue:
            start = max(free_at, queue[0].at)
            if start > upto:
                return
            while queue and start - queue[0].at > timeout:
                outcome.refused.append((start, queue.popleft()))
            batch = []
            while queue and queue[0].at <= start and len(batch) < largest:
                batch.append(queue.popleft())
            if batch:
                free_at = start + device.seconds(len(batch), start)
                outcome.answered += [(free_at, arrival) for arrival in batch]
                outcome.batches.append((start, len(batch)))

    for arrival in arrivals:
        run(arrival.at)
        queue.append(arrival)
    run(float("inf"))
    return outcome


