"""How long a batch takes: learned, never told.

A batch of b rows takes about l(b) = α + β·b. Recursive least squares with forgetting (Ljung, System Identification,
ch. 11) follows α and β as they drift; what a line cannot say is in the residuals: for each bucket of batch sizes, the
95th percentile of what was seen over what the line says. The product is what a deadline is planned with, because
planning with the mean misses every second one.
"""

from __future__ import annotations

import bisect
from collections import deque

# Batch sizes up to 1.5 times apart share their residuals.
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WINDOW = 64  # batches remembered in a bucket
ENOUGH = 8  # batches of a bucket before its own percentile is believed
QUANTILE = 0.95
FORGETTING = 0.98
# A change of regime: this many batches in a row, each this many standard deviations off the line.
SURPRISES = 4
SIGMAS = 3.0
EAGER = 1e4  # the variance that makes the next few batches count for more than all before


class Latency:
    """l(b) of one lane. Seconds throughout."""

    def __init__(self, prior: Latency | None = None) -> None:
        self.seen = 0  # batches
        self.ran_at = 0.0  # when a batch last began
        # State of the least squares over (1, b), b scaled so that both entries are of like size.
        self._alpha = 0.0
        self._beta = 0.0
        self._p00, self._p01, self._p11 = EAGER, 0.0, EAGER
        self._variance = 0.0
        self._surprises = 0
        self._windows: dict[int, deque[tuple[int, float]]] = {}
        self._ratios: dict[int, float] = {}
        self._all: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._ratio = 1.0
        if prior is not None and prior.known:
            self._alpha, self._beta, self._ratio = prior._alpha, prior._beta, prior._ratio
            self.seen = 1

    @property
    def known(self) -> bool:
        """Whether anything has been learned."""
        return self.seen > 0

    def mean(self, b: int) -> float:
        """The line: what a batch of b rows takes on average."""
        return max(self._alpha + self._beta * b, 1e-6)

    def mean_seen(self, b: int) -> float:
        """What batches of about b rows were seen to take on average; the line where none were."""
        window = self._windows.get(bisect.bisect_left(BUCKETS, b))
        line = self.mean(b)
        if window is None or len(window) < ENOUGH:
            return line
        return line * sum(seconds for _, seconds in window) / sum(self.mean(size) for size, _ in window)

    def plan(self, b: int) -> float:
        """pl(b): what a batch of b rows takes at most, 95 times in 100. 0 while nothing is known."""
        if not self.seen:
            return 0.0
        return self.mean(b) * self._ratios.get(bisect.bisect_left(BUCKETS, b), self._ratio)

    def observe(self, b: int, seconds: float) -> None:
        """A batch of b rows took so long."""
        seconds = max(seconds, 1e-6)
        error = seconds - (self._alpha + self._beta * b)
        if self.seen > SURPRISES and error * error > SIGMAS * SIGMAS * self._variance and abs(error) > 0.1 * seconds:
            self._surprises += 1
            if self._surprises >= SURPRISES:
                self._forget()
        else:
            self._surprises = 0
            self._variance += (error * error - self._variance) * 0.05 if self.seen > 16 else error * error / 16
        self._learn(b, error)
        self.seen += 1
        bucket = bisect.bisect_left(BUCKETS, b)
        window = self._windows.get(bucket)
        if window is None:
            window = self._windows[bucket] = deque(maxlen=WINDOW)
        window.append((b, seconds))
        self._all.append((b, seconds))
        if self.seen % 4 == 0 or self.seen < 64:
            self._ratio = self._percentile(self._all)
            if len(window) >= ENOUGH:
                self._ratios[bucket] = self._percentile(window)

    def _learn(self, b: int, error: float) -> None:
        x = float(b)
        g0 = self._p00 + self._p01 * x
        g1 = self._p01 + self._p11 * x
        scale = FORGETTING + g0 + g1 * x
        k0, k1 = g0 / scale, g1 / scale
        self._alpha += k0 * error
        self._beta += k1 * error
        self._p00 = min((self._p00 - k0 * g0) / FORGETTING, EAGER)
        self._p01 = (self._p01 - k0 * g1) / FORGETTING
        self._p11 = min((self._p11 - k1 * g1) / FORGETTING, EAGER)
        if self._beta < 0.0:  # one size only, and noise: all of it is α
            self._alpha, self._beta = self._alpha + self._beta * x, 0.0
        elif self._alpha < 0.0:
            self._alpha, self._beta = 0.0, self._beta + self._alpha / x

    def _forget(self) -> None:
        """What was learned is of another regime: the last few batches say more than all before."""
        self._surprises = 0
        self._p00, self._p01, self._p11 = EAGER, 0.0, EAGER
        self._windows.clear()
        self._ratios.clear()
        recent = list(self._all)[-SURPRISES:]
        self._all.clear()
        self._all.extend(recent)

    def _percentile(self, window: deque[tuple[int, float]]) -> float:
        ratios = sorted(seconds / self.mean(b) for b, seconds in window)
        return max(1.0, ratios[int(QUANTILE * (len(ratios) - 1))])

    def table(self, largest: int) -> list[tuple[int, float, float]]:
        """(b, mean, planned) for the buckets up to `largest`."""
        sizes = [b for b in BUCKETS if b < largest] + [largest]
        return [(b, self.mean(b), self.plan(b)) for b in sizes]
