"""A lane: the tickets that may share a batch, in the order in which they shall run.

The order is that of their keys: when the answer is due, moved back by how far its client is ahead of its fair share,
and by its class. With equal deadlines and one client that is first come, first served.
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable
from typing import Generic, TypeVar

from inferd.schedule.latency import BUCKETS, Latency
from inferd.schedule.ticket import Ticket

T = TypeVar("T", bound=Ticket)

# CoDel (Nichols and Jacobson, ACM Queue 10(5), 2012) for tickets with neither deadline nor objective: queueing longer
# than the target for all of an interval is a standing queue, and heads are refused faster and faster until it is gone.
CODEL_TARGET_S = 0.005
CODEL_INTERVAL_S = 0.1
# Entries of tickets that were withdrawn are stepped over, and swept out when they are more than half of the lane.
SWEEP = 512


class Lane(Generic[T]):
    """One lane. `rows` counts what waits; `latency` is what its batches take; `largest` bounds a batch's rows."""

    __slots__ = (
        "_answer",
        "_asked",
        "_codel_above_since",
        "_codel_count",
        "_codel_next",
        "_entries",
        "_price",
        "_priced",
        "_start",
        "count",
        "dropped_at",
        "key",
        "largest",
        "latency",
        "rows",
        "sizes",
    )

    def __init__(self, key: Hashable, latency: Latency, largest: int) -> None:
        self.key = key
        self.latency = latency
        self.largest = largest
        # The batch sizes considered, ascending.
        self.sizes = [b for b in BUCKETS if b < largest] + [largest]
        self._entries: list[tuple[float, int, T]] = []
        self._start = 0
        self.count = 0
        self.rows = 0
        self.dropped_at = float("-inf")
        self._asked: tuple[float, int] = (-1.0, 0)
        self._answer = 1
        self._priced = 0
        self._price = 0.0
        self._codel_above_since: float | None = None
        self._codel_next = 0.0
        self._codel_count = 0

    # ---- the order

    def add(self, ticket: T, number: int) -> None:
        """The ticket waits at its key; `number` breaks ties in the order of arrival."""
        entries = self._entries
        entry = (ticket.key, number, ticket)
        if not entries or entry > entries[-1]:
            entries.append(entry)
        else:
            bisect.insort(entries, entry, lo=self._start)
        self.count += 1
        self.rows += ticket.rows

    def removed(self, ticket: T) -> None:
        """A ticket of this lane waits no longer; its entry is stepped over when it comes up."""
        self.count -= 1
        self.rows -= ticket.rows
        dead = len(self._entries) - self._start - self.count
        if dead > SWEEP and dead > self.count:
            self._entries = [entry for entry in self._entries[self._start :] if entry[2].in_lane]
            self._start = 0

    def head(self) -> T | None:
        """The ticket that shall run first."""
        entries, start = self._entries, self._start
        while start < len(entries):
            ticket = entries[start][2]
            if ticket.in_lane:
                if start > SWEEP and start * 2 > len(entries):
                    del entries[:start]
                    start = 0
                self._start = start
                return ticket
            start += 1
        entries.clear()
        self._start = 0
        return None

    def rows_before(self, key: float) -> float:
        """About how many rows wait with a smaller key; withdrawn ones not yet swept out are taken off in proportion."""
        entries = len(self._entries) - self._start
        if not entries:
            return 0.0
        return (bisect.bisect_left(self._entries, (key,), lo=self._start) - self._start) * self.rows / entries

    # ---- how many together

    def fitting(self, seconds: float) -> int:
        """The largest batch that is planned to take no longer; 0 when not even one row does."""
        plan, sizes = self.latency.plan, self.sizes
        if plan(sizes[-1]) <= seconds:
            return sizes[-1]
        low, high = 0, len(sizes) - 1  # sizes[:low] fit, sizes[high] does not
        while low < high:
            middle = (low + high) // 2
            if plan(sizes[middle]) <= seconds:
                low = middle + 1
            else:
                high = middle
        if not low:
            return 0
        fits, over = sizes[low - 1], sizes[low]
        # Between two buckets the line is straight.
        here, there = plan(fits), plan(over)
        if there > here:
            fits += int((seconds - here) / (there - here) * (over - fits))
        return min(fits, over - 1)

    def target(self, seconds: float) -> int:
        """`fitting`, but at least one; remembered, since the same budgets are asked for again and again."""
        asked = (seconds, self.latency.seen)
        if asked != self._asked:
            self._asked = asked
            self._answer = max(1, self.fitting(seconds))
        return self._answer

    def row_seconds(self) -> float:
        """What a row costs in a full batch; 0 while nothing is known."""
        if self.latency.seen != self._priced:
            self._priced = self.latency.seen
            self._price = self.latency.mean(self.largest) / self.largest
        return self._price

    def best(self, rows: int) -> int:
        """Of up to `rows` rows, how many give the most rows a second: all of them, unless a larger batch is slower for
        its size than a smaller one (3 MiB rows: 1656/s alone, 353/s in batches of 32)."""
        latency = self.latency
        if not latency.known:
            return rows
        best, rate = rows, rows / latency.mean_seen(rows)
        for size in self.sizes:
            if size >= rows:
                break
            seen = size / latency.mean_seen(size)
            if seen > rate * 1.05:
                best, rate = size, seen
        return best

    def standing(self, head: T, now: float) -> bool:
        """Whether CoDel refuses this head, which has neither deadline nor objective."""
        if now - head.queued_at < CODEL_TARGET_S:
            self._codel_above_since = None
            self._codel_count = 0
            return False
        if self._codel_above_since is None:
            self._codel_above_since = now
            self._codel_next = now + CODEL_INTERVAL_S
        if now < self._codel_next:
            return False
        self._codel_count += 1
        self._codel_next = now + CODEL_INTERVAL_S / self._codel_count**0.5
        return True
