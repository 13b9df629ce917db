"""Credits: how many requests a connection may have unanswered, learned from how long its requests wait.

Additive increase, multiplicative decrease, as TCP has it (Jacobson 1988): while requests start within a quarter of
their budget the window grows by one for each window of answers; when they wait longer, or are refused, it halves, at
most once for each such wait. So a caller that obeys slows down before its requests fail.

It does not halve below a few full batches. What a caller has no credit for waits with it, first come first served, and
arrives with little of its time left, where the scheduler could have had a full batch of those that are still in time.
"""

from __future__ import annotations

TARGET = 0.25  # of a request's budget
FIRST = 256.0
# Full batches of a model that its callers always have credits for (measured: docs/SCHEDULING.md).
LEAST_BATCHES = 8


class Window:
    """One connection's credits, never above `largest`. `batch` is the most rows of a batch of the model in question."""

    __slots__ = ("_next_cut", "_size", "credits", "largest")

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._size = min(FIRST, float(largest))
        self._next_cut = 0.0
        self.credits = int(self._size)

    def waited(self, delay: float, budget: float, batch: int, now: float) -> None:
        """A request has waited `delay` of its `budget` seconds before it began."""
        if delay > TARGET * budget:
            self.congested(delay, batch, now)
        elif self._size < self.largest:
            self._size = min(self._size + 1.0 / self._size, float(self.largest))
            self.credits = int(self._size)

    def congested(self, delay: float, batch: int, now: float) -> None:
        """A request was refused, or waited too long: half as many, unless that was done less than `delay` ago."""
        if now >= self._next_cut:
            self._next_cut = now + delay
            self._size = min(self._size, max(self._size / 2, float(LEAST_BATCHES * batch)))
            self.credits = int(self._size)
