"""The pool's bookkeeping: which worker is doing what, and when a dead one's replacement may start.

Synchronous; `now` is an argument and no process is touched. The engine carries out what it says.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Generic, TypeVar

from inferd.memory import Region

# A worker that died at work is replaced at once. One that dies again and again before it has finished anything is
# given longer and longer: its model is broken, and a fork a millisecond would help nobody.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

B = TypeVar("B")


class Condition(Enum):
    """What a worker is doing."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"
    GONE = "gone"


class Arena:
    """One process's output memory. `freed` is what its next packet gives back; it dies with the process.

    `starved` is set while its worker waits for room in it; `held` counts the bytes that sockets are sending from it,
    `used` what its worker has not had back.
    """

    __slots__ = ("freed", "held", "region", "starved", "used", "view", "worker")

    def __init__(self, region: Region, worker: int) -> None:
        self.region = region
        self.view = region.view
        self.worker = worker
        self.freed: list[int] = []
        self.held = 0
        self.used = 0
        self.starved = False

    def may_hold(self, nbytes: int) -> bool:
        """Whether a reply may be sent from where it lies: half of the arena stays for the worker, so that those who
        read slowly cannot stop it."""
        return self.held + nbytes <= self.region.nbytes // 2

    def give_back(self, offset: int, nbytes: int) -> None:
        """A part whose reply has left; neighbours are joined, since a batch mostly leaves in order."""
        nbytes = (nbytes + 63) & ~63
        freed = self.freed
        if freed and freed[-2] + freed[-1] == offset:
            freed[-1] += nbytes
        elif nbytes:
            freed.append(offset)
            freed.append(nbytes)


class Worker(Generic[B]):
    """One place on a device; processes come and go in it."""

    __slots__ = (
        "arena",
        "batch",
        "batch_id",
        "batches",
        "busy_s",
        "busy_since",
        "compute_us",
        "condition",
        "deaths",
        "device",
        "fruitless",
        "hangs_at",
        "id",
        "patience_s",
        "pid",
    )

    def __init__(self, id: int, device: str) -> None:
        self.id = id
        self.device = device
        self.condition = Condition.GONE
        self.pid = 0
        self.arena: Arena | None = None
        self.batch: B | None = None
        self.batch_id = 0
        self.batches = 0
        self.busy_since = 0.0
        self.busy_s = 0.0
        self.patience_s = 0.0  # how long its batch may go without a sign of life
        self.hangs_at = math.inf  # when that is over
        self.compute_us = 0
        self.deaths = 0
        self.fruitless = 0  # deaths in a row without a finished batch


class Pool(Generic[B]):
    """The workers, one for each device of `devices`."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.workers = [Worker[B](index, device) for index, device in enumerate(devices)]
        # Longest idle first, so that work spreads evenly over equal devices.
        self._idle: deque[Worker[B]] = deque()
        self._last_batch_id = 0

    @property
    def idle(self) -> Worker[B] | None:
        """A worker that can take a batch now."""
        return self._idle[0] if self._idle else None

    @property
    def serving(self) -> int:
        """How many workers can serve, now or when their batch is done."""
        return sum(worker.condition in (Condition.IDLE, Condition.BUSY) for worker in self.workers)

    def spawning(self, worker: Worker[B], arena: Region) -> None:
        """A process for the worker has been asked for."""
        worker.condition = Condition.LOADING
        worker.arena = Arena(arena, worker.id)

    def ready(self, worker: Worker[B], device: str) -> None:
        """Its models are loaded."""
        worker.device = device
        self._becomes_idle(worker)

    def run(self, worker: Worker[B], batch: B, now: float, patience_s: float = math.inf) -> int:
        """The worker is given a batch, which hangs when it is not heard of for `patience_s`. Returns the batch's id."""
        self._idle.remove(worker)
        worker.condition = Condition.BUSY
        worker.batch = batch
        worker.busy_since = now
        worker.patience_s = patience_s
        worker.hangs_at = now + patience_s
        self._last_batch_id += 1
        worker.batch_id = self._last_batch_id
        return worker.batch_id

    def heard(self, worker: Worker[B], now: float) -> None:
        """Its batch goes on."""
        worker.hangs_at = now + worker.patience_s

    def hung(self, now: float) -> list[Worker[B]]:
        """The workers whose batch hangs. One that waits for room in its arena waits for others."""
        return [
            worker
            for worker in self.workers
            if worker.condition is Condition.BUSY
            and now > worker.hangs_at
            and not (worker.arena is not None and worker.arena.starved)
        ]

    def finished(self, worker: Worker[B], now: float) -> None:
        """Its batch is over, well or not."""
        worker.batch = None
        worker.batches += 1
        worker.busy_s += now - worker.busy_since
        worker.fruitless = 0
        self._becomes_idle(worker)

    def condemn(self, worker: Worker[B]) -> None:
        """Its process is being ended: it is given nothing more."""
        if worker.condition is Condition.IDLE:
            self._idle.remove(worker)
        worker.condition = Condition.ENDING

    def died(self, worker: Worker[B]) -> tuple[B | None, float]:
        """Its process is gone. Returns the batch that went with it, and the pause in seconds before the next spawn."""
        if worker.condition is Condition.IDLE:
            self._idle.remove(worker)
        lost, worker.batch = worker.batch, None
        worker.condition = Condition.GONE
        worker.pid = 0
        worker.arena = None
        worker.deaths += 1
        worker.fruitless += 1
        pause = 0.0
        if worker.fruitless > 1:
            pause = min(FIRST_PAUSE_S * 2.0 ** (worker.fruitless - 2), LONGEST_PAUSE_S)
        return lost, pause

    def _becomes_idle(self, worker: Worker[B]) -> None:
        worker.condition = Condition.IDLE
        self._idle.append(worker)
