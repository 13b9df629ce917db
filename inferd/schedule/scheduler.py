"""Take what is there when a device is free.

A batch is never waited for: with l(b) = α + β·b for a batch of b, taking what is queued lets the batch size follow the
load by itself (cycle α/(1−λβ), batch λ times that), and a timer gains nothing on one device. docs/SCHEDULING.md will
hold the policy under deadlines; here lanes are served oldest head first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from inferd.schedule.ticket import State, Ticket

# Inference is pure, so a request whose worker died may run again; a second death is no coincidence.
MAX_RETRIES = 1

T = TypeVar("T", bound=Ticket)


class Halving:
    """A batch that raised and was cut in two. `failed` counts the halves that raised as well."""

    __slots__ = ("above", "failed")

    def __init__(self, above: Halving | None) -> None:
        self.above = above
        self.failed = 0


class Batch(Generic[T]):
    """Tickets that run together; `half_of` is set when they are one half of a batch that raised."""

    __slots__ = ("half_of", "tickets")

    def __init__(self, tickets: list[T], half_of: Halving | None = None) -> None:
        self.tickets = tickets
        self.half_of = half_of


class Taken(NamedTuple, Generic[T]):
    """What `take` decided: a batch to run now (or None), and the tickets that are too late to be worth running."""

    batch: Batch[T] | None
    late: list[T]


class Scheduler(Generic[T]):
    """Lanes of tickets, and batches that run again. `queued` is the number of tickets waiting."""

    def __init__(self, max_requests: int = 512, max_batch_bytes: int = 8 * 1024 * 1024) -> None:
        # Large rows gain nothing from company on a CPU (3 MiB rows: 1656/s alone, 353/s in batches of 32), because
        # they fall out of its caches; a device that does gain says so with another limit.
        self._max_batch_bytes = max_batch_bytes
        self._max_requests = max_requests
        self._lanes: dict[Hashable, deque[T]] = {}
        self._again: deque[Batch[T]] = deque()
        self.queued = 0

    def submit(self, ticket: T, now: float) -> None:
        """The ticket joins its lane."""
        ticket.state = State.QUEUED
        ticket.queued_at = now
        self.queued += 1
        lane = self._lanes.get(ticket.lane)
        if lane is None:
            self._lanes[ticket.lane] = deque((ticket,))
        else:
            lane.append(ticket)

    def withdraw(self, ticket: T) -> bool:
        """Takes a waiting ticket back; it will not run. False when it is running or over already."""
        if ticket.state is not State.QUEUED:
            return False
        # Left where it is in its lane: `take` steps over it. Finding it there would cost the length of the lane.
        ticket.state = State.OVER
        self.queued -= 1
        return True

    def take(self, now: float) -> Taken[T]:
        """The batch a free device should run now."""
        late: list[T] = []
        while self._again:
            batch = self._again.popleft()
            batch.tickets = [ticket for ticket in batch.tickets if self._runs_now(ticket, now, late)]
            if batch.tickets:
                return Taken(batch, late)
        while True:
            lane = self._oldest()
            if lane is None:
                return Taken(None, late)
            tickets = self._fill(lane, now, late)
            if tickets:
                return Taken(Batch(tickets), late)

    def _oldest(self) -> deque[T] | None:
        """The lane whose head waits longest, withdrawn heads and empty lanes being thrown away on the way."""
        oldest: deque[T] | None = None
        empty: list[Hashable] = []
        for key, lane in self._lanes.items():
            while lane and lane[0].state is not State.QUEUED:
                lane.popleft()
            if not lane:
                empty.append(key)
            elif oldest is None or lane[0].queued_at < oldest[0].queued_at:
                oldest = lane
        for key in empty:
            del self._lanes[key]
        return oldest

    def _fill(self, lane: deque[T], now: float, late: list[T]) -> list[T]:
        tickets: list[T] = []
        rows = nbytes = 0
        while lane and len(tickets) < self._max_requests:
            ticket = lane[0]
            if tickets and (rows + ticket.rows > ticket.max_rows or nbytes + ticket.nbytes > self._max_batch_bytes):
                break
            lane.popleft()
            if self._runs_now(ticket, now, late):
                tickets.append(ticket)
                rows += ticket.rows
                nbytes += ticket.nbytes
        return tickets

    def _runs_now(self, ticket: T, now: float, late: list[T]) -> bool:
        if ticket.state is not State.QUEUED:
            return False
        self.queued -= 1
        if ticket.due is not None and ticket.due <= now:
            ticket.state = State.OVER
            late.append(ticket)
            return False
        ticket.state = State.RUNNING
        return True

    def settle(self, batch: Batch[T]) -> None:
        """The batch is done, whatever became of its tickets."""
        for ticket in batch.tickets:
            ticket.state = State.OVER

    def split(self, batch: Batch[T]) -> T | None:
        """The model raised on the batch. Returns the guilty ticket if it was alone; otherwise halves run next.

        When both halves raise at two levels in a row, halving does not pay any more and the rest runs one by one: a
        model that is broken for all costs n runs instead of 2n, and an innocent request among many guilty ones still
        gets its answer.
        """
        if len(batch.tickets) == 1:
            self.settle(batch)
            return batch.tickets[0]
        level = batch.half_of
        if level is not None:
            level.failed += 1
            if level.failed == 2 and level.above is not None and level.above.failed == 2:
                self._run_again([Batch([ticket]) for ticket in batch.tickets])
                return None
        middle = len(batch.tickets) // 2
        below = Halving(level)
        self._run_again([Batch(batch.tickets[:middle], below), Batch(batch.tickets[middle:], below)])
        return None

    def lost(self, batch: Batch[T]) -> list[T]:
        """The worker died with the batch: each ticket runs once more, alone, so that one that kills workers takes no
        other with it. Returns those that have had their second chance."""
        given_up: list[T] = []
        for ticket in batch.tickets:
            ticket.losses += 1
            if ticket.losses > MAX_RETRIES:
                ticket.state = State.OVER
                given_up.append(ticket)
            else:
                self._run_again([Batch([ticket])])
        return given_up

    def cut(self, batch: Batch[T]) -> None:
        """The batch cannot be sent as it is: its second half runs in a batch of its own."""
        middle = len(batch.tickets) // 2
        self._run_again([Batch(batch.tickets[middle:])])
        batch.tickets = batch.tickets[:middle]

    def _run_again(self, batches: list[Batch[T]]) -> None:
        # At the end, so that both halves of a level are known before the level below begins.
        self._again.extend(batches)
        for batch in batches:
            self.queued += len(batch.tickets)
            for ticket in batch.tickets:
                ticket.state = State.QUEUED
