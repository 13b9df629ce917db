"""How long a batch takes: learned, never told.

A batch of b rows takes about l(b) = α + β·b. A line is fitted by least squares over sums that forget (each batch counts
0.98 of the next one), with the slope held by a ridge towards the line as it was, scaled to what is seen now: while all
batches are of one size they cannot tell α from β, and the device is taken to be slower or faster in both. What a line
cannot say is in the residuals: for each bucket of batch sizes, a percentile of what was seen over what the line says.
The product is what a deadline is planned with, because planning with the mean misses every second one.

Which percentile follows from what it is for: the most rows answered in time, a second. A larger batch is more rows for
its time, and more of them late. So a bucket's percentile is the lowest at which it still gives b/l(b)·P(in time) no
less than the bucket below it, given the same time. Where α is most of a batch, larger ones are worth the risk; where
β is, they are not (simulated at 2 λ* with 20 % noise, against the 95th throughout: α5 β1 D25 0.95 λ* instead of 0.92,
α1 β4 D60 0.96 instead of 0.95).
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Sequence

# Batch sizes up to 1.5 times apart share their residuals.
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WINDOW = 64  # batches remembered in a bucket
ENOUGH = 8  # batches of a bucket before its own percentile is believed
# A bucket's percentile lies between these; it is LIKELY while too little has been seen to tell.
LEAST, LIKELY, MOST = 0.7, 0.95, 0.98
TELLING = 32  # batches
# Percentiles are worked out anew every so many batches: it takes as long as all the rest of what a batch teaches.
LEVELS_EVERY = 8
FORGETTING = 0.98
# The ridge, as a share of the mean batch: sizes that vary by less than a quarter say little about the slope.
RIDGE = 0.25
# How many batches what is known of a model's other lanes is worth, in a new lane.
PRIOR_WEIGHT = 4.0
# A change of regime: this many batches in a row off the line by as many standard deviations, all to the same side. Too
# slow is found sooner, because every batch that is planned with the old line is late.
SLOWER, FASTER = 2, 4
SIGMAS = 3.0
LEAST_SURPRISE = 0.1  # a tenth off the line is no surprise, however small the noise has been
LEAST_S = 1e-6


class Latency:
    """l(b) of one lane. Seconds throughout.

    `sizes`, ascending, are the only ones its model computes, if it says so: a batch takes what the next of them takes.
    `weight` is how large its rows are, if those of `prior` are 1: what a row adds is that much more.
    """

    def __init__(self, prior: Latency | None = None, sizes: Sequence[int] = (), weight: float = 1.0) -> None:
        self.sizes = sizes
        self.seen = 0  # batches
        self.ran_at = -math.inf  # when a batch last began
        self._alpha = 0.0
        self._beta = 0.0
        # Sums over the batches, each forgotten slowly: 1, b, b², seconds, b·seconds.
        self._n = self._sb = self._sbb = self._sy = self._sby = 0.0
        self._variance = 0.0  # of log(seen / line)
        self._surprises = 0  # in a row; negative when the batches were faster
        self._before = 0.0, 0.0  # α and β before these surprises
        self._windows: dict[int, deque[tuple[int, float]]] = {}
        self._sums: dict[int, tuple[int, float]] = {}  # of each window: rows, seconds
        self._ratios: dict[int, tuple[float, int]] = {}  # of each window: the percentile, and `seen` when it was taken
        self._all: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._levels: dict[int, float] = {}  # of each bucket: which percentile
        self._spread = [1.0]  # what was seen over what the line says, in all buckets, ascending
        if prior is not None and prior.known:
            self._alpha, self._beta = prior._alpha, prior._beta * weight
            self._levels, self._spread = dict(prior._levels), prior._spread
            self._variance = prior._variance
            share = min(1.0, PRIOR_WEIGHT / prior._n)
            self._n, self._sb, self._sbb = prior._n * share, prior._sb * share, prior._sbb * share
            # As if its batches had been seen to take what this line says.
            self._sy = self._alpha * self._n + self._beta * self._sb
            self._sby = self._alpha * self._sb + self._beta * self._sbb
            self.seen = 1

    @property
    def known(self) -> bool:
        """Whether anything has been learned."""
        return self.seen > 0

    def mean(self, b: int) -> float:
        """The line: what a batch of b rows takes on average."""
        if self.sizes:
            b = self._computed(b)
        return max(self._alpha + self._beta * b, LEAST_S)

    def _computed(self, b: int) -> int:
        """How many rows the model computes for b."""
        at = bisect.bisect_left(self.sizes, b)
        return self.sizes[at] if at < len(self.sizes) else b

    def mean_seen(self, b: int) -> float:
        """What batches of about b rows were seen to take on average; the line where few or none were."""
        line = self.mean(b)
        bucket = bisect.bisect_left(BUCKETS, b)
        window = self._windows.get(bucket)
        if window is None or len(window) < ENOUGH:
            return line
        rows, seconds = self._sums[bucket]
        return max(line * seconds / max(self._alpha * len(window) + self._beta * rows, LEAST_S), LEAST_S)

    def plan(self, b: int) -> float:
        """pl(b): what a batch of b rows is planned to take. 0 while nothing is known."""
        if not self.seen:
            return 0.0
        bucket = bisect.bisect_left(BUCKETS, b)
        ratio, seen = self._ratios.get(bucket, (1.0, -WINDOW))
        if self.seen - seen >= WINDOW:
            # Long ago, or never: an unlucky bucket must not be what keeps itself from being tried again.
            ratio = percentile(self._spread, self._levels.get(bucket, LIKELY))
        return self.mean(b) * ratio

    def observe(self, b: int, seconds: float) -> None:
        """A batch of b rows took so long."""
        b = self._computed(b)
        seconds = max(seconds, LEAST_S)
        self._all.append((b, seconds))
        changed = self.seen > FASTER and self._surprised(math.log(seconds / self.mean(b)))
        if changed:
            self._forget()
        else:
            self._remember(b, seconds, FORGETTING)
        self._fit(b, seconds)
        self.seen += 1
        bucket = self._keep(b, seconds)
        if changed or self.seen % LEVELS_EVERY == 0 or self.seen < WINDOW:
            self._spread = self._over_the_line(self._all)
            self._levels = self._set_levels()
            window = self._windows[bucket]
            if len(window) >= ENOUGH:
                level = self._levels.get(bucket, LIKELY)
                self._ratios[bucket] = percentile(self._over_the_line(window), level), self.seen

    def _surprised(self, error: float) -> bool:
        """Whether this error, of log seconds, is the last of enough surprises in a row."""
        if not self._surprises:
            self._before = self._alpha, self._beta
        limit = max(SIGMAS * math.sqrt(self._variance), LEAST_SURPRISE)
        # A surprise counts no more than its limit, so that outliers do not hide what comes after them; but it counts,
        # or a device that turns noisy would surprise for ever.
        spread = max(-limit, min(limit, error))
        self._variance += (spread * spread - self._variance) / min(self.seen, 20)
        if error > limit:
            self._surprises = max(self._surprises, 0) + 1
        elif error < -limit:
            self._surprises = min(self._surprises, 0) - 1
        else:
            self._surprises = 0
        return self._surprises >= SLOWER or self._surprises <= -FASTER

    def _remember(self, b: int, seconds: float, keep: float) -> None:
        self._n = self._n * keep + 1.0
        self._sb = self._sb * keep + b
        self._sbb = self._sbb * keep + b * b
        self._sy = self._sy * keep + seconds
        self._sby = self._sby * keep + b * seconds

    def _fit(self, b: int, seconds: float) -> None:
        n = self._n
        mean_b, mean_y = self._sb / n, self._sy / n
        if self.seen:
            held = self._beta * mean_y / max(self._alpha + self._beta * mean_b, LEAST_S)
        else:
            held = seconds / (2.0 * b)  # of one batch nothing is known but its sum: half of it is α
        ridge = (RIDGE * mean_b) ** 2
        variance = max(self._sbb / n - mean_b * mean_b, 0.0)
        covariance = self._sby / n - mean_b * mean_y
        # α and β are not negative: within these bounds the line goes through the means.
        self._beta = min(max((covariance + held * ridge) / (variance + ridge), 0.0), mean_y / mean_b)
        self._alpha = max(mean_y - self._beta * mean_b, 0.0)

    def _keep(self, b: int, seconds: float) -> int:
        bucket = bisect.bisect_left(BUCKETS, b)
        window = self._windows.get(bucket)
        if window is None:
            window = self._windows[bucket] = deque()
        rows, sum_s = self._sums.get(bucket, (0, 0.0))
        window.append((b, seconds))
        rows, sum_s = rows + b, sum_s + seconds
        if len(window) > WINDOW:
            old_b, old_s = window.popleft()
            rows, sum_s = rows - old_b, sum_s - old_s
        self._sums[bucket] = rows, sum_s
        return bucket

    def _forget(self) -> None:
        """What was learned is of another regime: only the surprises are kept, and how α and β were
        to each other before them."""
        recent = list(self._all)[-abs(self._surprises) :]
        self._surprises = 0
        self._alpha, self._beta = self._before
        self._windows.clear()
        self._sums.clear()
        self._ratios.clear()
        self._all.clear()
        self._n = self._sb = self._sbb = self._sy = self._sby = 0.0
        for b, seconds in recent:
            self._all.append((b, seconds))
            self._remember(b, seconds, 1.0)

    def _over_the_line(self, window: deque[tuple[int, float]]) -> list[float]:
        alpha, beta = self._alpha, self._beta
        return sorted(seconds / max(alpha + beta * b, LEAST_S) for b, seconds in window)

    def _set_levels(self) -> dict[int, float]:
        """The percentile of each bucket (see above), from what was seen in all of them."""
        spread = self._spread
        n = len(spread)
        levels: dict[int, float] = {}
        if n < TELLING:
            return levels
        least, most = int(LEAST * n), int(MOST * n)
        for bucket in range(1, len(BUCKETS)):
            smaller, larger = self.mean(BUCKETS[bucket - 1]), self.mean(BUCKETS[bucket])
            gain = BUCKETS[bucket] / larger / (BUCKETS[bucket - 1] / smaller)
            in_time = most  # of n, if a larger batch has as much time as it takes for so many
            while in_time > least:
                # In the same time, how many of the smaller ones are there?
                of_smaller = bisect.bisect_right(spread, spread[in_time - 1] * larger / smaller)
                if in_time * gain < of_smaller:
                    break
                in_time -= 1
            levels[bucket] = in_time / n
        return levels

    def table(self, largest: int) -> list[tuple[int, float, float]]:
        """(b, mean, planned) for the buckets up to `largest`."""
        sizes = [b for b in BUCKETS if b < largest] + [largest]
        return [(b, self.mean(b), self.plan(b)) for b in sizes]


def percentile(ascending: list[float], level: float) -> float:
    """At least 1: nothing is planned to be faster than the line says."""
    return max(1.0, ascending[int(level * (len(ascending) - 1))])
