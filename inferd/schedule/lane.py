"""A lane: the tickets that may share a batch, in the order in which they shall run.

The order is that of their keys: when the answer is due, moved back by how far its client is ahead of its fair share,
and by its class. With equal deadlines and one client that is first come, first served.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Hashable, Iterator
from itertools import accumulate, islice
from typing import Generic, TypeVar

from inferd.schedule.latency import BUCKETS, Latency
from inferd.schedule.ticket import ORDER_BUDGET_S, Ticket

T = TypeVar("T", bound=Ticket)

# While requests are being refused, a batch may take so much of a head's budget: larger batches serve more of them.
GREEDY = 0.85
# How long after a refusal a lane counts as overloaded, in budgets.
OVERLOADED_FOR = 2.0
# CoDel (Nichols and Jacobson, ACM Queue 10(5), 2012) for tickets with neither deadline nor objective: queueing longer
# than the target for all of an interval is a standing queue. As in servers that cannot count on senders to slow down
# (Maurer, "Fail at Scale", ACM Queue 13(8), 2015), all that have waited longer are then refused, until none has: one
# refusal per shrinking interval, as for TCP, let the median wait grow to 22 s in 20 s of threefold load (simulated).
CODEL_TARGET_S = 0.005
CODEL_INTERVAL_S = 0.1
CODEL_MEMORY_S = 1.0
# How much of the estimate of the arrival rate is from the last batch.
RATE_GAIN = 0.1
# Every so many batches of a lane take one ticket along that would otherwise wait for ever behind more urgent ones; and
# every so many batches of all lanes one is for whoever no batch takes along.
FLOOR_EVERY = 8
# One in so many batches is as large as can be even where smaller ones were seen to be faster for their size.
TRY_LARGE_EVERY = 64
# Entries of tickets that were withdrawn are stepped over, and swept out when they are more than half of the lane.
SWEEP = 512


class Verdict:
    """What admission found for a ticket: in (`until` None), or not before `until`; it is good for `alike` more."""

    __slots__ = ("_alike", "_budget", "_until")

    def __init__(self, budget: float, until: float | None, alike: int) -> None:
        self._budget = budget
        self._until = until
        self._alike = alike

    def holds(self, budget: float, now: float) -> bool:
        """Whether it holds for one that has `budget` seconds."""
        if self._until is not None:
            # Who comes behind a refused one and has no more time than he had, has no better chance.
            return now < self._until and budget <= self._budget
        self._alike -= 1
        return self._alike >= 0 and budget >= self._budget

    def wait_s(self, now: float) -> float | None:
        """What `admit` returns for it."""
        return None if self._until is None else self._until - now


class Lane(Generic[T]):
    """One lane. `rows` counts what waits; `latency` is what its batches take; `largest` bounds a batch's rows."""

    __slots__ = (
        "_batches",
        "_codel_above_since",
        "_congested_at",
        "_counted_at",
        "_entries",
        "_floor_at",
        "_outsize",
        "_patient",
        "_plans",
        "_plans_of",
        "_price",
        "_priced",
        "_start",
        "arrivals",
        "count",
        "dropped_at",
        "key",
        "largest",
        "latency",
        "rate",
        "rows",
        "sizes",
        "verdicts",
        "verdicts_of",
    )

    def __init__(self, key: Hashable, latency: Latency, largest: int) -> None:
        self.key = key
        self.latency = latency
        # The batch sizes considered, ascending.
        self.sizes: list[int] = []
        self.bound(largest)
        self._entries: list[tuple[float, int, T]] = []
        self._start = 0
        self.count = 0
        self.rows = 0
        self.dropped_at = float("-inf")
        self.arrivals = 0  # rows since the last batch, with those refused at the header
        self.rate = 0.0  # rows a second, of late
        self._counted_at = float("-inf")
        self._patient: list[tuple[float, int, T]] = []  # a heap: by when they are due
        self._outsize: list[tuple[float, int, T]] = []  # the same for those who did not fit when their turn came
        self._batches = 0
        self._floor_at = 0  # what `_batches` was at the last turn of those
        self._plans: list[float] = []
        self._plans_of: tuple[int, int] = (-1, 0)
        self._priced = 0
        self._price = 0.0
        self._codel_above_since: float | None = None
        self._congested_at = float("-inf")
        self.verdicts: dict[Hashable, Verdict] = {}  # of admission, by what its tickets have in common
        self.verdicts_of = -1  # the scheduler's turn that they are of

    def bound(self, largest: int) -> None:
        """No batch has more rows than `largest` from here on."""
        self.largest = largest
        self.sizes = [b for b in self.latency.sizes or BUCKETS if b < largest] + [largest]

    # ---- the order

    def add(self, ticket: T, number: int) -> None:
        """The ticket waits at its key; `number` breaks ties in the order of arrival."""
        entries = self._entries
        entry = (ticket.key, number, ticket)
        if not entries or entry > entries[-1]:
            entries.append(entry)
        else:
            bisect.insort(entries, entry, lo=self._start)
        if ticket.priority > 0.0 or ticket.due is None:
            if len(self._patient) + len(self._outsize) > 2 * self.count + SWEEP:
                for heap in (self._patient, self._outsize):
                    heap[:] = [entry for entry in heap if entry[2].in_lane]
                    heapq.heapify(heap)
            heapq.heappush(self._patient, (ticket.arrived + ticket.budget, number, ticket))
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

    def waiting(self) -> Iterator[T]:
        """All that wait, in their order."""
        return (entry[2] for entry in islice(self._entries, self._start, None) if entry[2].in_lane)

    def rows_before(self, key: float) -> float:
        """About how many rows wait with a smaller key; withdrawn ones not yet swept out are taken off in proportion."""
        entries = len(self._entries) - self._start
        if not entries:
            return 0.0
        return (bisect.bisect_left(self._entries, (key,), lo=self._start) - self._start) * self.rows / entries

    def first_patient(self) -> T | None:
        """Of those who let all others pass (of the batch class, or without a deadline) who has the least time left; not
        of those who have already been too large for a batch."""
        patient = self._patient
        while patient and not patient[0][2].in_lane:
            heapq.heappop(patient)
        return patient[0][2] if patient else None

    def passed_over(self, since: float) -> tuple[float, int, T] | None:
        """Of those whom `floor` does not reach, because they are too large for its batches or because the lane has had
        none after `since`, who has the least time left; before it, when that is over, and a number that breaks ties."""
        first: tuple[float, int, T] | None = None
        for heap in (self._outsize,) if self.latency.ran_at > since else (self._outsize, self._patient):
            while heap and not heap[0][2].in_lane:
                heapq.heappop(heap)
            if heap and (first is None or heap[0] < first):
                first = heap[0]
        return first

    # ---- how many together

    def _planned(self) -> list[float]:
        """pl(b) for each of `sizes`, and never less for more rows, whatever the percentiles of two buckets say."""
        latency = self.latency
        of = (latency.seen, self.largest)
        if of != self._plans_of:
            self._plans_of = of
            self._plans = list(accumulate(map(latency.plan, self.sizes), max))
        return self._plans

    def fitting(self, seconds: float) -> int:
        """The largest batch that is planned to take no longer; 0 when not even one row does."""
        plans, sizes = self._planned(), self.sizes
        low = bisect.bisect_right(plans, seconds)  # sizes[:low] fit
        if not low:
            return 0
        if low == len(sizes) or self.latency.sizes:
            return sizes[low - 1]
        # Between two buckets the line is straight.
        fits, over = sizes[low - 1], sizes[low]
        here, there = plans[low - 1], plans[low]
        return min(fits + int((seconds - here) / (there - here) * (over - fits)), over - 1)

    def target(self, seconds: float) -> int:
        """`fitting`, but at least one."""
        return max(1, self.fitting(seconds))

    def wanted(self, budget: float, lanes: int, now: float) -> int:
        """B*: the batch to aim at for a head of that budget, with so many lanes at work."""
        if not self.latency.known:
            return self.largest
        if now - self.dropped_at < OVERLOADED_FOR * budget:
            return self.target(GREEDY * budget)
        return self.target(budget / (lanes + 1))

    def count_arrivals(self, now: float) -> None:
        """A batch begins: how many came since the one before says how many will come until the next."""
        seconds = now - self._counted_at
        if seconds > 0.0:
            self.rate += RATE_GAIN * (self.arrivals / seconds - self.rate)
            self._counted_at, self.arrivals = now, 0

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
        self._batches += 1
        if not latency.known or self._batches % TRY_LARGE_EVERY == 0:
            return rows
        best, rate = rows, rows / latency.mean_seen(rows)
        for size in self.sizes:
            if size >= rows:
                break
            seen = size / latency.mean_seen(size)
            if seen > rate * 1.05:
                best, rate = size, seen
        return best

    def floor(self, limit: int) -> T | None:
        """Whom this batch of up to `limit` rows takes along, although others are more urgent: one in FLOOR_EVERY
        batches takes a patient ticket. One that is too large keeps nobody behind it waiting: it is for `passed_over`.
        """
        if self._floor_at != self._batches:
            if self._batches - self._floor_at < FLOOR_EVERY:
                return None
            self._floor_at = self._batches
        while (patient := self.first_patient()) is not None and patient.rows > limit:
            heapq.heappush(self._outsize, heapq.heappop(self._patient))
        return patient

    def congested(self, now: float) -> bool:
        """Whether there has been a standing queue lately."""
        return now - self._congested_at < CODEL_MEMORY_S

    def standing(self, head: T, now: float, target: float) -> bool:
        """Whether CoDel refuses this head, which has neither deadline nor objective. `target` is what a queue may cost
        when there is no standing one: what the batch before takes."""
        target = max(target, CODEL_TARGET_S)
        if now - head.queued_at < target:
            if self._congested_at != now:
                self._codel_above_since = None
            return False
        if self._codel_above_since is None:
            self._codel_above_since = now
        if now - self._codel_above_since < CODEL_INTERVAL_S:
            return False
        self._congested_at = now
        # Whoever was put behind others, for his client or his class, has not waited until his place is reached.
        return now - (head.key - ORDER_BUDGET_S) >= target
