"""The worker processes' lives: started, given batches, fed with memory, replaced when they end.

What becomes of a batch is the engine's business; it hears of it as `BatchEvents`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from inferd import log
from inferd.errors import DeviceUnavailable, ModelLoadError
from inferd.memory import Region
from inferd.schedule.scheduler import Batch
from inferd.serve.ahead import Ahead, pack_requests
from inferd.serve.executor import Executor
from inferd.serve.pool import Arena, Condition, Pool, Worker
from inferd.serve.session import Request
from inferd.wire import batch as b

# How many numbers of an arena's freed parts one packet takes along.
MAX_FREED_NUMBERS = 1024
# Before memory for a process is asked for again, when there was none.
NO_MEMORY_PAUSE_S = 1.0

# A batch hangs when nothing has been heard of it for ten times what it takes, and at least so long. The first one of a
# shape that the warm-up has not seen may compile for minutes.
PATIENCE = 10.0
LEAST_PATIENCE_S = 5.0
FIRST_PATIENCE_S = 300.0

Place = Worker[Batch[Request]]


class BatchEvents(Protocol):
    """Who hears what becomes of batches: the engine."""

    def models_loaded(self, descriptions: list[dict[str, Any]]) -> None:
        """A worker is ready, and these are its models."""

    def serving(self, workers: int) -> None:
        """So many workers serve from here on."""

    def worker_free(self) -> None:
        """There is one more worker that can take a batch."""

    def batch_too_long(self, batch: Batch[Request]) -> None:
        """The batch does not fit a packet: it must become shorter."""

    def batch_done(self, worker: Place, message: list[Any]) -> None:
        """Results of the worker's batch: what follows DONE (inferd.wire.batch)."""

    def batch_raised(self, worker: Place, message: list[Any]) -> None:
        """The worker's batch has failed as a whole: what follows RAISED."""

    def batch_lost(self, batch: Batch[Request]) -> None:
        """The worker died with the batch."""

    def likely(self, at: float) -> list[Request]:
        """Who would be in a batch that began at `at`."""

    def prepared_lost(self, requests: list[Request]) -> None:
        """A worker died that was preparing these, which wait."""

    def count(self, what: str) -> None:
        """One more of something worth knowing."""


class Workers:
    """All worker processes: `pool` keeps the books, `executor` has the processes."""

    def __init__(
        self, pool: Pool[Batch[Request]], executor: Executor, events: BatchEvents, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._executor = executor
        self._events = events
        self._ahead = Ahead(executor, events.likely, clock)
        self._closing = False

    async def start(self, slab: Region) -> None:
        """Starts them; returns when all can serve. Raises ModelLoadError or DeviceUnavailable when one cannot."""
        self._loop = asyncio.get_running_loop()
        self._all_ready: asyncio.Future[None] = self._loop.create_future()
        await self._executor.start(self, slab)
        for worker in self._pool.workers:
            self._spawn(worker)
        await self._all_ready

    async def close(self) -> None:
        """Ends them."""
        self._closing = True
        await self._executor.close()

    # ---- to workers

    def run(self, worker: Place, batch: Batch[Request], now: float) -> None:
        """Gives the worker the batch."""
        arena = worker.arena
        assert arena is not None
        prepared = self._ahead.forget(worker.id)
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * (batch.ends_at - now)) if batch.is_known else FIRST_PATIENCE_S
        batch_id = self._pool.run(worker, batch, now, patience_s)
        freed = _take_freed(arena)
        packet = _pack(batch_id, batch, freed, prepared)
        while len(packet) > b.MAX_PACKET_BYTES:
            # Only when many different tensor tables meet in one batch.
            self._events.batch_too_long(batch)
            packet = _pack(batch_id, batch, freed, prepared)
        self._executor.send(worker.id, packet)
        if batch.tickets[0].plan.model.preprocess_s:
            self._ahead.batch_began(worker, batch, now)

    def feed(self, arena: Arena) -> None:
        """Gives a worker that waits for room what has been freed."""
        worker = self._pool.workers[arena.worker]
        if arena.freed and worker.arena is arena:
            if arena.starved:
                self._pool.heard(worker, self._clock())  # it has waited for others, and goes on now
                arena.starved = False
            self._executor.send(arena.worker, b.pack(b.FREE, _take_freed(arena)))

    def feed_idle(self) -> None:
        """Gives workers at rest their arenas back: no batch comes that could take the freed parts along."""
        for worker in self._pool.workers:
            if worker.condition is Condition.IDLE and worker.arena is not None:
                self.feed(worker.arena)

    def end_hung(self, now: float) -> None:
        """Ends the workers whose batch hangs; they are replaced, and what they held is tried once more."""
        for worker in self._pool.hung(now):
            log.event(
                "worker_hung", logging.ERROR, worker=worker.id, pid=worker.pid, for_s=round(now - worker.busy_since, 1)
            )
            self._events.count("workers_hung")
            self._pool.condemn(worker)
            self._executor.kill(worker.id)

    # ---- from workers (WorkerEvents)

    def on_started(self, worker: int, pid: int) -> None:
        self._pool.workers[worker].pid = pid
        log.event("worker_started", worker=worker, pid=pid, device=self._pool.workers[worker].device)

    def on_packet(self, worker: int, message: list[Any]) -> None:
        place = self._pool.workers[worker]
        if place.condition is Condition.ENDING:
            return  # its batch runs again elsewhere
        self._pool.heard(place, self._clock())
        try:
            self._on_packet(place, message[0], message[1:])
        except Exception:
            # A defect of ours must not leave a batch that never ends: it costs the worker, and its requests run again.
            log.logger.exception("packet_failed", extra={"fields": {"worker": worker}})
            self._pool.condemn(place)
            self._executor.kill(worker)

    def _on_packet(self, place: Place, kind: int, message: list[Any]) -> None:
        if kind == b.DONE:
            self._events.batch_done(place, message)
        elif kind == b.RAISED:
            self._events.batch_raised(place, message)
        elif kind == b.STARVED:
            assert place.arena is not None
            place.arena.starved = True
            self._events.count("arena_waits")
            self.feed(place.arena)
        elif kind == b.READY:
            self._on_ready(place, *message)
        elif kind == b.REFUSED:
            self._on_refused(place, b.LoadFailure(*message))

    def on_exit(self, worker: int, status: str = "") -> None:
        place = self._pool.workers[worker]
        pid, arena = place.pid, place.arena
        batch, pause_s = self._pool.died(place)
        self._events.serving(self._pool.serving)
        if arena is not None:
            arena.region.close()
        if self._closing:
            return
        lost = len(batch.tickets) if batch is not None else 0
        log.event("worker_lost", logging.ERROR, worker=worker, pid=pid, requests=lost, respawn_in_s=pause_s)
        self._events.count("workers_lost")
        self._events.prepared_lost(list(self._ahead.forget(worker)))
        if batch is not None:
            self._events.batch_lost(batch)
        if not self._all_ready.done():
            self._all_ready.set_exception(
                ModelLoadError(
                    f"worker {worker} ended while it loaded its models{f' ({status})' if status else ''}; "
                    "what it printed above is all it said"
                )
            )
            return
        self._loop.call_later(pause_s, self._spawn, place)
        if self._pool.idle is not None:
            self._events.worker_free()  # another one can run at once what this one has lost

    # ---- their lives

    def _spawn(self, worker: Place) -> None:
        if self._closing:
            return
        try:
            arena = self._executor.spawn(worker.id, worker.device)
        except OSError as error:
            log.event("spawn_failed", logging.ERROR, worker=worker.id, error=str(error))
            self._loop.call_later(NO_MEMORY_PAUSE_S, self._spawn, worker)
        else:
            self._pool.spawning(worker, arena)

    def _on_ready(self, worker: Place, device: str, models: list[dict[str, Any]]) -> None:
        self._pool.ready(worker, device)
        self._events.serving(self._pool.serving)
        self._events.models_loaded(models)
        log.event("worker_ready", worker=worker.id, pid=worker.pid, device=device)
        if self._all_ready.done():
            self._events.worker_free()
        elif self._pool.serving == len(self._pool.workers):
            self._all_ready.set_result(None)

    def _on_refused(self, worker: Place, failure: b.LoadFailure) -> None:
        log.event(
            "load_failed",
            logging.ERROR,
            worker=worker.id,
            model=failure.model,
            at=failure.location,
            error=failure.message,
        )
        log.logger.debug(failure.detail)
        if not self._all_ready.done():
            kind = DeviceUnavailable if failure.kind == "device" else ModelLoadError
            self._all_ready.set_exception(kind(failure.message))


def _pack(batch_id: int, batch: Batch[Request], freed: list[int], prepared: dict[Request, int]) -> bytes:
    tables, numbers = pack_requests(batch.tickets)
    ahead = [prepared.get(request, -1) for request in batch.tickets] if prepared else []
    return b.pack(b.RUN, batch_id, batch.tickets[0].plan.model.index, tables, numbers, freed, ahead)


def _take_freed(arena: Arena) -> list[int]:
    freed, arena.freed = arena.freed[:MAX_FREED_NUMBERS], arena.freed[MAX_FREED_NUMBERS:]
    arena.used -= sum(freed[1::2])
    return freed
