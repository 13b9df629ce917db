"""A world of its own: requests arrive, devices run batches, and nobody looks at a clock.

The scheduler is the daemon's own, called as the engine calls it; only the devices and the callers are made up. A device
takes α + β·b for a batch of b, times log-normal noise, and may drift. All times are seconds of the virtual clock.

    play         the daemon's policy
    first_come   what most servers do: a queue, and at most a timeout in it
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from inferd.schedule.batch import Batch
from inferd.schedule.scheduler import Scheduler
from inferd.schedule.ticket import Client, State, Ticket

NEVER = math.inf
MEASURED = (1, 2, 4, 8, 16, 32, 64, 128)  # the batches of the warm-up


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

    def __str__(self) -> str:
        alpha, beta, objective = self.alpha * 1e3, self.beta * 1e3, self.objective * 1e3
        return f"α{alpha:g} β{beta:g} D{objective:g}".replace("0.", ".")


PROFILES = (
    Profile(0.005, 0.001, 0.025, 64),
    Profile(0.002, 0.00005, 0.015, 128),
    Profile(0.001, 0.004, 0.060, 16),
)


@dataclass(slots=True)
class Arrival:
    """One request of the made-up callers. `deadline` is counted from `at`, and NEVER where there is none; `cancel_at`
    is when the caller loses interest; `key` makes it replace the waiting one with that key."""

    at: float
    deadline: float
    client: str = ""
    lane: str = "model"
    priority: float = 0.0
    rows: int = 1
    cancel_at: float = NEVER
    key: str = ""


@dataclass
class Outcome:
    """What became of the requests: (when, which)."""

    answered: list[tuple[float, Arrival]] = field(default_factory=list)
    turned_away: list[tuple[float, Arrival]] = field(default_factory=list)  # at the header
    refused: list[tuple[float, Arrival]] = field(default_factory=list)  # in the queue, or too late there
    withdrawn: list[tuple[float, Arrival]] = field(default_factory=list)
    failed: list[tuple[float, Arrival]] = field(default_factory=list)
    batches: list[tuple[float, int]] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # from arrival to the batch that began

    def goodput(self, start: float, end: float, keep: Callable[[Arrival], bool] = lambda arrival: True) -> float:
        """Answers within their deadlines, of requests that arrived in [start, end), per second."""
        good = sum(
            start <= arrival.at < end and done <= arrival.at + arrival.deadline and keep(arrival)
            for done, arrival in self.answered
        )
        return good / (end - start)

    def latencies(
        self, start: float, end: float, keep: Callable[[Arrival], bool] = lambda arrival: True
    ) -> list[float]:
        """Sorted: from arrival to answer, of the requests that arrived in [start, end)."""
        return sorted(
            done - arrival.at for done, arrival in self.answered if start <= arrival.at < end and keep(arrival)
        )


class Device:
    """How long a batch really takes: (α + β·b) times log-normal noise, and `drift` times that from `drift_at` on."""

    def __init__(
        self, profile: Profile, rng: random.Random, noise: float = 0.0, drift_at: float = NEVER, drift: float = 2.0
    ) -> None:
        self.profile = profile
        self.rng = rng
        self.noise = noise
        self.drift_at = drift_at
        self.drift = drift

    def seconds(self, rows: int, now: float) -> float:
        """Of a batch of `rows` that begins now."""
        took = self.profile.alpha + self.profile.beta * rows
        if self.noise:
            took *= self.rng.lognormvariate(0.0, self.noise)
        return took * self.drift if now >= self.drift_at else took


def well(batch: Batch[Ticket]) -> str:
    """The fate of every batch on a device without faults."""
    return "done"


class World:
    """The daemon's scheduler, `workers` devices and one virtual clock.

    Every request has exactly one outcome: `_end` fails on a second one, `play` on a missing one.
    """

    def __init__(
        self,
        device: Device,
        largest: int,
        workers: int = 1,
        lanes: Iterable[str] = ("model",),
        taught: bool = True,
        fate: Callable[[Batch[Ticket]], str] = well,
    ) -> None:
        self.scheduler: Scheduler[Ticket] = Scheduler(workers)
        self.device = device
        self.largest = largest
        self.fate = fate
        self.remember = fate is not well
        self.free = workers
        self.outcome = Outcome()
        self._running: list[tuple[float, int, Batch[Ticket]]] = []
        self._cancels: list[tuple[float, int, Ticket]] = []
        self._arrivals: dict[Ticket, Arrival] = {}
        self.origin: dict[Ticket, Arrival] = {}  # of every ticket that was in a queue
        self._clients: dict[str, Client] = {}
        self._keys: dict[str, Ticket] = {}
        self._number = itertools.count()
        if taught:
            profile = device.profile
            measured = [(b, profile.alpha + profile.beta * b) for b in MEASURED if b <= largest]
            for lane in lanes:
                self.scheduler.known.teach(lane, measured)

    def play(self, arrivals: Iterator[Arrival]) -> Outcome:
        """Plays all arrivals, and what follows from them, to the end."""
        coming = next(arrivals, None)
        while coming is not None:
            arrival = coming
            self._until(arrival.at)
            wants_dispatch = self._arrive(arrival, arrival.at)
            coming = next(arrivals, None)
            # As in the daemon, what can be read in the same turn joins before a batch is made.
            if wants_dispatch and (coming is None or coming.at > arrival.at):
                self._dispatch(arrival.at, "idle")
        self._until(NEVER)
        assert not self._arrivals and self.scheduler.queued == 0, "a request without an outcome"
        return self.outcome

    def _until(self, upto: float) -> None:
        """Lets happen what happens before `upto`."""
        running, cancels = self._running, self._cancels
        while True:
            expiry = self.scheduler.next_expiry()
            expiry_at = NEVER if expiry is None else expiry
            done_at = running[0][0] if running else NEVER
            cancel_at = cancels[0][0] if cancels else NEVER
            at = min(done_at, expiry_at, cancel_at)
            if at > upto or at == NEVER:
                return
            if done_at == at:
                self._done(heapq.heappop(running)[2], at)
            elif cancel_at == at:
                self._withdraw(heapq.heappop(cancels)[2], at)
            else:
                for ticket in self.scheduler.expire(at):
                    self._end(self.outcome.refused, ticket, at)

    def _arrive(self, arrival: Arrival, now: float) -> bool:
        client = self._clients.setdefault(arrival.client, Client(arrival.client)) if arrival.client else None
        due = None if arrival.deadline == NEVER else now + arrival.deadline
        ticket = Ticket(
            (arrival.lane,), arrival.rows, 64 * arrival.rows, self.largest, due, now, client, arrival.priority
        )
        self._arrivals[ticket] = arrival
        older = self._keys.get(arrival.key) if arrival.key else None
        waits = older is not None and older.state is State.QUEUED
        wait = None if waits else self.scheduler.admit(ticket, now)
        if wait is not None:
            assert wait > 0.0
            self.outcome.retry_after.append(wait)
            self._end(self.outcome.turned_away, ticket, now)
            return False
        if older is not None and waits:
            ticket.place = older.key
            self._withdraw(older, now)
        if arrival.key:
            self._keys[arrival.key] = ticket
        self.scheduler.submit(ticket, now)
        if self.remember:
            self.origin[ticket] = arrival
        if arrival.cancel_at < NEVER:
            heapq.heappush(self._cancels, (arrival.cancel_at, next(self._number), ticket))
        return self.free > 0

    def _dispatch(self, now: float, why: str) -> None:
        while self.free:
            taken = self.scheduler.take(now, why)
            for ticket in taken.late + taken.refused:
                self._end(self.outcome.refused, ticket, now)
            batch = taken.batch
            if batch is None:
                return
            self.free -= 1
            for ticket in batch.tickets:
                self.outcome.waits.append(now - ticket.arrived)
            self.outcome.batches.append((now, batch.rows))
            done_at = now + self.device.seconds(batch.rows, now)
            heapq.heappush(self._running, (done_at, next(self._number), batch))

    def _done(self, batch: Batch[Ticket], now: float) -> None:
        self.free += 1
        scheduler, outcome = self.scheduler, self.outcome
        fate = self.fate(batch)
        if fate == "done":
            scheduler.settle(batch, now - batch.started_at)
            for ticket in batch.tickets:
                self._end(outcome.answered, ticket, now)
        elif fate == "lost":
            for ticket in scheduler.lost(batch):
                self._end(outcome.failed, ticket, now)
        else:
            guilty = scheduler.out_of_memory(batch) if fate == "memory" else scheduler.split(batch)
            if guilty is not None:
                self._end(outcome.failed, guilty, now)
        self._dispatch(now, "freed")

    def _withdraw(self, ticket: Ticket, now: float) -> None:
        if self.scheduler.withdraw(ticket):
            self._end(self.outcome.withdrawn, ticket, now)

    def _end(self, ends: list[tuple[float, Arrival]], ticket: Ticket, now: float) -> None:
        ends.append((now, self._arrivals.pop(ticket)))  # a KeyError is a second outcome


def play(arrivals: Iterator[Arrival], device: Device, largest: int, workers: int = 1) -> Outcome:
    """The daemon's scheduler on equal devices."""
    return World(device, largest, workers).play(arrivals)


def first_come(arrivals: Iterator[Arrival], device: Device, largest: int, timeout: float = NEVER) -> Outcome:
    """What most servers do: one queue per lane, the oldest first, and at most a timeout in it."""
    outcome = Outcome()
    queues: dict[str, deque[Arrival]] = {}
    free_at = 0.0

    def run(upto: float) -> None:
        nonlocal free_at
        while True:
            waiting = [queue for queue in queues.values() if queue]
            if not waiting:
                return
            queue = min(waiting, key=lambda queue: queue[0].at)
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
        queues.setdefault(arrival.lane, deque()).append(arrival)
    run(NEVER)
    return outcome
