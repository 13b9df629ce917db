"""A batch, and what becomes of its tickets when it went wrong: which run again, and with whom."""

from __future__ import annotations

from typing import Generic, TypeVar

from inferd.schedule.lane import Lane
from inferd.schedule.ticket import Ticket

# Inference is pure, so a request whose worker died may run again; a second death is no coincidence.
MAX_RETRIES = 1

T = TypeVar("T", bound=Ticket)


class Halving:
    """A batch that raised and was cut in two. `failed` counts the halves that raised as well; `largest` is how many
    rows its lane might have before the first of its batches ran out of memory (0: none has)."""

    __slots__ = ("above", "failed", "largest")

    def __init__(self, above: Halving | None, largest: int = 0) -> None:
        self.above = above
        self.failed = 0
        self.largest = largest


class Batch(Generic[T]):
    """Tickets that run together; `half_of` is set when they are one half of a batch that raised, `lane` when they were
    taken from one. `why` says why it started: "idle", "freed" or "again". `ends_at` is when it should be done;
    `is_known` says whether one of its shape has been seen."""

    __slots__ = ("ends_at", "half_of", "is_known", "lane", "rows", "started_at", "tickets", "why")

    def __init__(self, tickets: list[T], half_of: Halving | None = None, lane: Lane[T] | None = None) -> None:
        self.tickets = tickets
        self.half_of = half_of
        self.lane = lane
        self.rows = 0
        self.started_at = 0.0
        self.ends_at = 0.0
        self.is_known = False
        self.why = "again"

    def cut(self) -> Batch[T]:
        """Keeps its first half; returns the second as a batch of its own."""
        middle = len(self.tickets) // 2
        second: Batch[T] = Batch(self.tickets[middle:])
        self.tickets = self.tickets[:middle]
        self.rows = sum(ticket.rows for ticket in self.tickets)
        return second


def halved(batch: Batch[T], largest: int = 0) -> tuple[T | None, list[Batch[T]]]:
    """For a batch that raised: the ticket that is guilty because it was alone, or None, and the batches to run next.

    When both halves raise at two levels in a row, halving does not pay any more and the rest runs one by one: a model
    that is broken for all costs n runs instead of 2n, and an innocent request among many guilty ones still gets its
    answer.
    """
    if len(batch.tickets) == 1:
        [ticket] = batch.tickets
        if batch.rows > ticket.rows:
            # It was not alone: others of its batch have been taken out since, and it can have been one of them.
            return None, [Batch([ticket], batch.half_of)]
        return ticket, []
    level = batch.half_of
    if level is not None:
        level.failed += 1
        if level.failed == 2 and level.above is not None and level.above.failed == 2:
            return None, [Batch([ticket], level) for ticket in batch.tickets]
    middle = len(batch.tickets) // 2
    below = Halving(level, largest)
    return None, [Batch(batch.tickets[:middle], below), Batch(batch.tickets[middle:], below)]


def once_more(batch: Batch[T]) -> tuple[list[T], list[Batch[T]]]:
    """For a batch whose worker died: the tickets that have had their second chance, and the batches to run next: each
    of the others alone, so that one that kills workers takes no other with it."""
    given_up: list[T] = []
    again: list[Batch[T]] = []
    for ticket in batch.tickets:
        ticket.losses += 1
        if ticket.losses > MAX_RETRIES:
            given_up.append(ticket)
        else:
            again.append(Batch([ticket]))
    return given_up, again
