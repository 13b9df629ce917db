"""The pool's bookkeeping: which worker is doing what, and when a dead one's replacement may start.

Synchronous; `now` is an argument and no process is touched. The engine carries out what it says.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Any, Generic, TypeVar

from inferd.memory import Region

# A worker that died at work is replaced at once. One that dies again and again before it has finished anything is
# given longer and longer: its model is broken, and a fork a millisecond would help nobody.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
# After so many such deaths it is not expected to come back, and the daemon says so: it is unhealthy.
UNHEALTHY_DEATHS = 5

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

    def may_hold(self, nbytes: int, congested: bool = False) -> bool:
        """Whether a reply may be sent from where it lies: half of the arena stays for the worker, so that those who
        read slowly cannot stop it, and a quarter is not for those who are known to."""
        return self.held + nbytes <= self.region.nbytes // (4 if congested else 2)

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
        "described",
        "device",
        "fruitless",
        "hangs_at",
        "id",
        "last_exit",
        "leaving",
        "load_s",
        "patience_s",
        "pid",
        "positions",
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
        self.busy_since = 0.0  # when its batch began, or the loading of its models
        self.busy_s = 0.0
        self.load_s = 0.0  # what its first process took to load them
        self.patience_s = 0.0  # how long its batch may go without a sign of life
        self.hangs_at = math.inf  # when that is over
        self.compute_us = 0
        self.deaths = 0
        self.fruitless = 0  # deaths in a row without a finished batch, but for those that a request is guilty of
        self.last_exit = ""  # how the last process ended
        self.leaving = False  # others have taken over: it finishes its batch, and no process follows
        self.described: list[dict[str, Any]] = []  # what its process has said of its models, until it has said all
        self.positions: dict[str, int] = {}  # the numbers by which its process knows its models

    @property
    def unhealthy(self) -> bool:
        """Whether it has died so often that nobody should count on it, and is not back."""
        return self.fruitless >= UNHEALTHY_DEATHS and self.condition not in (Condition.IDLE, Condition.BUSY)


class Pool(Generic[B]):
    """The workers, one for each device of `devices`."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.workers: list[Worker[B]] = []
        self._by_id: dict[int, Worker[B]] = {}
        self._next_id = 0
        for device in devices:
            self.add(device)
        # Longest idle first, so that work spreads evenly over equal devices.
        self._idle: deque[Worker[B]] = deque()
        self._last_batch_id = 0

    def add(self, device: str) -> Worker[B]:
        """One more worker. Its id has never been another's."""
        worker = Worker[B](self._next_id, device)
        self._next_id += 1
        self.workers.append(worker)
        self._by_id[worker.id] = worker
        return worker

    def remove(self, worker: Worker[B]) -> None:
        """The worker, whose process is gone, is no longer one of the pool's."""
        self.workers.remove(worker)
        del self._by_id[worker.id]

    def get(self, id: int) -> Worker[B] | None:
        """The worker of that id; None if it is no longer one of the pool's."""
        return self._by_id.get(id)

    @property
    def idle(self) -> Worker[B] | None:
        """A worker that can take a batch now."""
        return self._idle[0] if self._idle else None

    @property
    def serving(self) -> int:
        """How many workers can serve, now or when their batch is done."""
        return sum(
            worker.condition in (Condition.IDLE, Condition.BUSY) and not worker.leaving for worker in self.workers
        )

    @property
    def unhealthy(self) -> bool:
        """Whether there is no worker to count on."""
        return all(worker.unhealthy for worker in self.workers)

    def spawning(self, worker: Worker[B], arena: Region, now: float = 0.0, patience_s: float = math.inf) -> None:
        """A process for the worker has been asked for, which hangs when it has not loaded for `patience_s`."""
        worker.condition = Condition.LOADING
        worker.busy_since = now
        worker.hangs_at = now + patience_s
        worker.arena = Arena(arena, worker.id)
        worker.described = []

    def not_started(self, worker: Worker[B]) -> None:
        """There is no process for it after all. That is no death: nothing was lost with it."""
        worker.condition = Condition.GONE
        worker.arena = None

    def loaded(self, worker: Worker[B], now: float) -> None:
        """Its process has loaded its models, and cannot hang in that any more."""
        if not worker.positions:
            worker.load_s = now - worker.busy_since
        worker.hangs_at = math.inf

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
        if worker.condition is Condition.BUSY:
            worker.hangs_at = now + worker.patience_s

    def hung(self, now: float) -> list[Worker[B]]:
        """The workers whose batch hangs, or their loading. One that waits for room in its arena waits for others."""
        return [
            worker
            for worker in self.workers
            if worker.condition in (Condition.BUSY, Condition.LOADING)
            and now > worker.hangs_at
            and not (worker.arena is not None and worker.arena.starved)
        ]

    def finished(self, worker: Worker[B], now: float) -> None:
        """Its batch is over, well or not."""
        worker.batch = None
        worker.batches += 1
        worker.busy_s += now - worker.busy_since
        worker.fruitless = 0
        if worker.leaving:
            worker.condition = Condition.ENDING
        else:
            self._becomes_idle(worker)

    def explained(self, killed: tuple[int, ...]) -> None:
        """A request has been found to kill workers, and these are whom it killed: they are not to blame."""
        for worker in self.workers:
            worker.fruitless = max(0, worker.fruitless - killed.count(worker.id))

    def condemn(self, worker: Worker[B], why: str) -> None:
        """Its process is being ended, because it `why` ("hung"): it is given nothing more."""
        if worker.condition is Condition.IDLE:
            self._idle.remove(worker)
        worker.condition = Condition.ENDING
        worker.last_exit = why

    def died(self, worker: Worker[B], status: str = "") -> B | None:
        """Its process is gone, and ended as `status` says. Returns the batch that went with it."""
        if worker.condition is Condition.IDLE:
            self._idle.remove(worker)
        if worker.condition is not Condition.ENDING:
            worker.last_exit = status
        lost, worker.batch = worker.batch, None
        worker.condition = Condition.GONE
        worker.pid = 0
        worker.arena = None
        worker.deaths += 1
        worker.fruitless += 1
        return lost

    def pause_s(self, worker: Worker[B]) -> float:
        """How long the worker's next process has to wait, in seconds."""
        if worker.fruitless <= 1:
            return 0.0
        return min(FIRST_PAUSE_S * 2.0 ** (worker.fruitless - 2), LONGEST_PAUSE_S)

    def _becomes_idle(self, worker: Worker[B]) -> None:
        worker.condition = Condition.IDLE
        self._idle.append(worker)
