"""What becomes of a call that failed, and how long to wait: no clock and no sleep in here.

Inference has no effects, so a request may be sent twice: the worst is an answer computed for nobody. That is why it
carries no id that would be the same in both attempts; there is nothing that a server would do with it.

    never accepted          no connection yet, or sent away by GOAWAY or DRAINING: it waits for a connection, as long as
                            it has time, and costs nothing
    failed, retryable       at most `max_retries` times, and at most a tenth of all calls: RetryBudget
    failed for good         told at once
"""

from __future__ import annotations

import math
from threading import Lock

from inferd.errors import InferdError

MAX_RETRIES = 2

# Before an attempt: any time up to the first, doubled each time up to the second ("full jitter"), so that the many
# clients of a server that comes back do not all come at once.
MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0

# What is obeyed of a server's retry_after_ms at most. Overload passes within seconds; a longer time is a mistake, or
# keeps the client away for good, and one attempt a minute burdens no server.
MAX_RETRY_AFTER_S = 60.0

# Retryable as far as the protocol goes, but the server has tried these twice itself, and each time it cost it a worker;
# unless it says when to come back: then there was no worker to try with.
TRIED_BY_THE_SERVER = frozenset({"WORKER_LOST"})


def backoff_s(attempt: int, jitter: float) -> float:
    """The pause before attempt number `attempt` (from 0) to do something again; `jitter` is random, from 0 to 1."""
    return min(MIN_BACKOFF_S * (1 << min(attempt, 10)), MAX_BACKOFF_S) * jitter


def asked_pause_s(problem: Exception) -> float:
    """How long a server has asked to be left alone, as far as that is obeyed; 0 if it has not, or with no number that
    is a time."""
    after_ms = getattr(problem, "retry_after_ms", None)
    if after_ms is None or not math.isfinite(after_ms) or after_ms < 0:
        return 0.0
    return min(float(after_ms) / 1000, MAX_RETRY_AFTER_S)


class RetryBudget:
    """At most one retry for ten calls, beyond a first handful: a token bucket.

    When a server is in trouble every call fails, and clients that send each again double or treble the load just then.
    A budget over all of a client's calls bounds that to a tenth. (Beyer et al., Site Reliability Engineering, 2016,
    chapter 21, "Handling Overload".)
    """

    COST = 10  # of a retry, in what a call earns
    CAPACITY = 10 * COST

    def __init__(self) -> None:
        self._tokens = self.CAPACITY
        self._lock = Lock()

    def earn(self) -> None:
        """A call was made."""
        if self._tokens < self.CAPACITY:  # without the lock: nearly always full
            with self._lock:
                self._tokens = min(self._tokens + 1, self.CAPACITY)

    def spend(self) -> bool:
        """Whether there is a retry left, which is then taken."""
        with self._lock:
            if self._tokens < self.COST:
                return False
            self._tokens -= self.COST
            return True


def retry_after_s(
    error: InferdError, retries: int, max_retries: int, left_s: float, jitter: float, budget: RetryBudget
) -> float | None:
    """How long to wait before a call that failed with `error` after `retries` retries is sent again; None: it is not.

    `left_s` is what is left of the call's time. A server's own word on when to come back is obeyed (up to
    MAX_RETRY_AFTER_S), and spread.
    """
    if not error.retryable or retries >= max_retries:
        return None
    if error.reason in TRIED_BY_THE_SERVER and error.retry_after_ms is None:
        return None
    pause_s = asked_pause_s(error) + backoff_s(retries, jitter)
    if pause_s >= left_s or not budget.spend():
        return None
    return pause_s
