"""Latencies, counted in buckets that are 0.5 % wide: a long run needs no more memory than a short one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

# From one bucket to the next 0.5 % more, so a percentile is off by 0.25 % at most; figures from a run vary by more.
STEP = 1.005
PER_E = 1 / math.log(STEP)
FLOOR_S = 1e-6  # no way through two sockets is shorter


def bucket_of(seconds: float) -> int:
    """The bucket that holds `seconds`."""
    return int(math.log(seconds / FLOOR_S) * PER_E) if seconds > FLOOR_S else 0


class Latencies:
    """How many latencies fell into which bucket, and the largest, in seconds."""

    __slots__ = ("counts", "max_s")

    def __init__(self, pairs: Iterable[tuple[int, int]] = (), max_s: float = 0.0) -> None:
        self.counts: dict[int, int] = dict(pairs)
        self.max_s = max_s

    def add(self, seconds: float) -> None:
        """One more."""
        bucket = int(math.log(seconds / FLOOR_S) * PER_E) if seconds > FLOOR_S else 0
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        if seconds > self.max_s:
            self.max_s = seconds

    def merge(self, other: Latencies) -> None:
        """All of another's."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.max_s = max(self.max_s, other.max_s)

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def quantile(self, q: float) -> float:
        """The latency in seconds that the share `q` of them does not exceed; 0 if there are none."""
        if q >= 1:
            return self.max_s
        rank = max(1, math.ceil(q * self.total))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return self._middle(bucket)
        return self.max_s

    def curve(self) -> Iterator[tuple[float, float]]:
        """(the share up to here, seconds) for every bucket, upwards."""
        total, seen = self.total, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            yield seen / total, self.max_s if seen == total else self._middle(bucket)

    def _middle(self, bucket: int) -> float:
        return min(FLOOR_S * math.exp((bucket + 0.5) / PER_E), self.max_s)
