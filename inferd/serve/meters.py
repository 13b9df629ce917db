"""What is counted for each model, for /metrics and `inferd status --json`: plain lists of numbers, filled a batch at a
time, because this is part of every request (0.3 µs of it in a batch of 64, 1 µs alone, measured).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

# Upper bounds, each included, and beyond the last everything else. Seconds: two or three to a factor of ten, from what
# a small model takes on a GPU to what nobody waits for. Rows: the powers of two that batches come near.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Histogram:
    """How often a value fell into which bucket, and the sum of all values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_since(self, starts: list[float], end: float) -> None:
        """What has passed from each of `starts` to `end`: all in one go, because there can be hundreds in a batch."""
        counts, bounds = self.counts, self.bounds
        for start in starts:
            counts[bisect_left(bounds, end - start)] += 1
        self.sum += end * len(starts) - sum(starts)

    def status(self) -> dict[str, Any]:
        """As STATUS has it: `counts` of each bucket by itself, the last one without a bound."""
        return {"counts": self.counts, "sum": self.sum}


class Meters:
    """One model's: its results and their rows; how its requests ended, by code ("OK" for a result); from their arrival
    to the answer and to the start of their batch, in seconds; and of each batch the seconds it took in the worker, its
    rows, and the share of its elements that were padding.
    """

    __slots__ = ("batch_rows", "codes", "compute", "duration", "padding", "queue", "results", "rows")

    def __init__(self) -> None:
        self.results = 0  # also those that nobody waited for any more
        self.rows = 0
        self.codes: Counter[str] = Counter()
        self.duration = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.padding = 0.0  # the sum over its batches

    def answered(self, arrivals: list[float], started_at: float, now: float) -> None:
        """Requests of one batch, that arrived then, have their results."""
        self.codes["OK"] += len(arrivals)
        self.queue.observe_since(arrivals, started_at)
        self.duration.observe_since(arrivals, now)

    def batch(self, rows: int, compute_s: float, padded: float) -> None:
        """A batch has been computed."""
        self.batch_rows.observe(rows)
        self.compute.observe(compute_s)
        self.padding += padded

    def status(self) -> dict[str, Any]:
        """As STATUS has it."""
        return {
            "codes": dict(self.codes),
            "duration_s": self.duration.status(),
            "queue_s": self.queue.status(),
            "compute_s": self.compute.status(),
            "batch_rows": self.batch_rows.status(),
            "padding_sum": self.padding,
        }


def buckets() -> dict[str, Any]:
    """The bounds of all histograms, once for all models."""
    return {"seconds": SECONDS, "rows": ROWS}
