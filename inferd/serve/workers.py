"""The worker processes' lives: started, given batches, fed with memory, replaced when they end.

What becomes of a batch is the engine's business; it hears of it as `BatchEvents`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from inferd import log
from inferd.config import Settings
from inferd.errors import DeviceUnavailable, InferdError, ModelLoadError
from inferd.memory import Region
from inferd.schedule.batch import Batch
from inferd.serve.ahead import Ahead, pack_requests
from inferd.serve.executor import Executor
from inferd.serve.pool import UNHEALTHY_DEATHS, Arena, Condition, Pool, Worker
from inferd.serve.request import Request
from inferd.wire import batch as b

# How many numbers of an arena's freed parts one packet takes along.
MAX_FREED_NUMBERS = 1024
# How many lines in a row the log has of one worker's deaths and starts, before it is one a second.
LIVES_TOLD = 5
# Before a process is asked for again, when the system had none, or no memory or descriptor for it.
NOT_STARTED_PAUSE_S = 1.0

# A batch hangs when nothing has been heard of it for ten times what it takes, and at least so long. The first one of a
# shape that the warm-up has not seen may compile for minutes.
PATIENCE = 10.0
LEAST_PATIENCE_S = 5.0
FIRST_PATIENCE_S = 300.0
# Loading hangs when it takes ten times what it took the first time, and at least so long. How long the first time takes
# is known to nobody: models are compiled, and fetched from slow disks.
LEAST_LOADING_S = 60.0
LONGEST_LOADING_S = 3600.0

# A worker that was told to end and has not is killed after so long.
LEAVE_TIMEOUT_S = 2.0

Place = Worker[Batch[Request]]


class Coming:
    """Workers that load the models of other settings, beside those that serve. `ready` is done when all of them are."""

    def __init__(self, settings: Settings, workers: list[Place], ready: asyncio.Future[None]) -> None:
        self.settings = settings
        self.workers = workers
        self.ready = ready
        self.loaded = 0
        self.models: list[dict[str, Any]] = []

    def failed(self, error: Exception) -> None:
        """One of them cannot serve."""
        if not self.ready.done():
            self.ready.set_exception(error)


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

    def batch_lost(self, worker: Place, batch: Batch[Request], cost_s: float) -> None:
        """The worker died with the batch; a death costs about `cost_s` seconds of its device."""

    def likely(self, at: float) -> list[Request]:
        """Who would be in a batch that began at `at`."""

    def prepared_lost(self, requests: list[Request]) -> None:
        """A worker died that was preparing these, which wait."""

    def count(self, what: str) -> None:
        """One more of something worth knowing."""


class Workers:
    """All worker processes: `pool` keeps the books, `executor` has the processes, which get `settings`."""

    def __init__(
        self,
        pool: Pool[Batch[Request]],
        executor: Executor,
        events: BatchEvents,
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        self.settings = settings
        self._coming: Coming | None = None
        self._clock = clock
        self._pool = pool
        self._executor = executor
        self._events = events
        self._ahead = Ahead(executor, events.likely, clock)
        self._closing = False
        # A request can kill a worker whenever its sender likes, and each death is four lines.
        self._throttle = log.Throttle(burst=LIVES_TOLD)
        self._lost_at: dict[int, float] = {}
        self._respawn_s = 0.0  # what the last replacement took, from a death to READY

    async def start(self, slab: Region) -> None:
        """Starts them; returns when all can serve. Raises ModelLoadError or DeviceUnavailable when one cannot, and
        InferdError when one was killed meanwhile."""
        self._loop = asyncio.get_running_loop()
        self._all_ready: asyncio.Future[None] = self._loop.create_future()
        await self._executor.start(self, slab)
        for worker in self._pool.workers:
            self._spawn(worker)
        await self._all_ready

    def abandon(self) -> None:
        """Ends them at once: nobody waits for what they compute."""
        self._closing = True
        for worker in self._pool.workers:
            self._executor.kill(worker.id)

    async def close(self) -> None:
        """Ends them."""
        self._closing = True
        await self._executor.close()

    # ---- other models

    async def bring_up(self, settings: Settings) -> list[dict[str, Any]]:
        """Starts workers with the models of these settings beside those that serve; returns how they describe their
        models when all are ready. They serve from `take_over` on, which has to follow in the same turn of the loop.

        Raises ModelLoadError or DeviceUnavailable when one cannot, InferdError when one was killed meanwhile; then all
        is as it was.
        """
        workers = [self._pool.add(device) for device in settings.devices]
        coming = self._coming = Coming(settings, workers, self._loop.create_future())
        try:
            for worker in workers:
                self._spawn(worker)
            await coming.ready
            if any(worker.condition is not Condition.LOADING for worker in workers):
                raise ModelLoadError("a worker ended just when it had loaded its models; the log says how")
        except BaseException:
            self._coming = None
            for worker in workers:
                self._dismiss(worker)
            raise
        return coming.models

    def give_up(self, why: InferdError) -> None:
        """Nobody wants the workers any more that are being brought up, if there are any: `bring_up` raises `why`."""
        if self._coming is not None:
            self._coming.failed(why)

    def take_over(self) -> None:
        """Those that were brought up serve from here on. The others finish their batches, and end."""
        coming, self._coming = self._coming, None
        assert coming is not None
        self.settings = coming.settings
        for worker in list(self._pool.workers):
            if worker in coming.workers:
                self._pool.ready(worker, worker.device)
            elif not worker.leaving:
                self._dismiss(worker)
        self._events.serving(self._pool.serving)

    def _dismiss(self, worker: Place) -> None:
        worker.leaving = True
        if worker.condition is Condition.GONE:
            self._pool.remove(worker)
        elif worker.condition is Condition.LOADING:
            self._pool.condemn(worker, "was not needed")
            self._executor.kill(worker.id)
        elif worker.condition is Condition.IDLE:
            self._pool.condemn(worker, "was not needed")
            self._end(worker)

    def _end(self, worker: Place) -> None:
        """Its process has nothing more to do."""
        self._executor.send(worker.id, b.pack(b.STOP))
        self._loop.call_later(LEAVE_TIMEOUT_S, self._executor.kill, worker.id)

    # ---- to workers

    def run(self, worker: Place, batch: Batch[Request], now: float) -> None:
        """Gives the worker the batch."""
        arena = worker.arena
        assert arena is not None
        prepared = self._ahead.forget(worker.id)
        patience_s = max(LEAST_PATIENCE_S, PATIENCE * (batch.ends_at - now)) if batch.is_known else FIRST_PATIENCE_S
        batch_id = self._pool.run(worker, batch, now, patience_s)
        freed = _take_freed(arena)
        packet = _pack(worker, batch_id, batch, freed, prepared)
        while len(packet) > b.MAX_PACKET_BYTES:
            # Only when many different tensor tables meet in one batch.
            self._events.batch_too_long(batch)
            packet = _pack(worker, batch_id, batch, freed, prepared)
        self._executor.send(worker.id, packet)
        if batch.tickets[0].plan.model.preprocess_s:
            self._ahead.batch_began(worker, batch, now)

    def feed(self, arena: Arena) -> None:
        """Gives a worker that waits for room what has been freed."""
        worker = self._pool.get(arena.worker)
        if worker is not None and arena.freed and worker.arena is arena:
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
        """Ends the workers whose batch hangs, or their loading; they are replaced, and what they held is tried once
        more. Those that have never loaded their models are not: the start fails with them, or the reload."""
        for worker in self._pool.hung(now):
            for_s = round(now - worker.busy_since, 1)
            model = worker.batch.tickets[0].plan.model.name if worker.batch is not None else None
            doing = {"model": model} if model is not None else {"loading": self._names(worker)}
            log.event("worker_hung", logging.ERROR, worker=worker.id, pid=worker.pid, **doing, for_s=for_s)
            self._events.count("workers_hung")
            self._pool.condemn(worker, "hung" if model is not None else "hung while it loaded its models")
            self._executor.kill(worker.id)
            if not worker.positions:
                self._cannot_load(worker, ModelLoadError(_hung_loading(worker.id, for_s)))

    def stalled(self, now: float) -> bool:
        """Whether all that could serve are at batches that should have been done, or heard of, a while ago."""
        busy = [worker for worker in self._pool.workers if worker.condition is Condition.BUSY and not worker.leaving]
        return self._pool.idle is None and bool(busy) and all(_is_stalled(worker, now) for worker in busy)

    # ---- from workers (WorkerEvents)

    def on_started(self, worker: int, pid: int) -> None:
        place = self._pool.get(worker)
        assert place is not None
        place.pid = pid
        self._told(place, "worker_started", pid=pid, device=place.device)
        if place.leaving or place.condition is Condition.ENDING:
            self._executor.kill(worker)  # not needed any more: a reload has failed, or another one has come

    def on_not_started(self, worker: int, why: str) -> None:
        place = self._pool.get(worker)
        assert place is not None and place.arena is not None
        place.arena.region.close()
        self._pool.not_started(place)
        if place.leaving:
            self._pool.remove(place)
            self._lost_at.pop(worker, None)
        elif not self._closing:
            self._not_started(place, why)

    def on_packet(self, worker: int, message: list[Any]) -> None:
        place = self._pool.get(worker)
        if place is None or place.condition is Condition.ENDING:
            return  # its batch runs again elsewhere
        self._pool.heard(place, self._clock())
        try:
            self._on_packet(place, message[0], message[1:])
        except Exception:
            # A defect of ours must not leave a batch that never ends: it costs the worker, and its requests run again.
            log.logger.exception("packet_failed", extra={"fields": {"worker": worker}})
            self._pool.condemn(place, "said what nobody understands")
            self._executor.kill(worker)
        else:
            if place.leaving and place.batch is None:
                self._end(place)

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
        elif kind == b.MODELS:
            place.described += message[0]
        elif kind == b.READY:
            device, models = message
            self._on_ready(place, device, place.described + models)
        elif kind == b.REFUSED:
            self._on_refused(place, b.LoadFailure(*message))

    def on_exit(self, worker: int, status: str = "") -> None:
        place = self._pool.get(worker)
        assert place is not None
        pid, arena = place.pid, place.arena
        now = self._clock()
        batch = self._pool.died(place, status)
        if arena is not None:
            arena.region.close()
        if self._closing:
            self._events.serving(self._pool.serving)
            return
        coming = self._brought_by(place)
        if coming is not None:
            coming.failed(_ended_loading(worker, status))
            return  # and is dismissed with the others
        if place.leaving:
            self._left(place, pid, batch, now)
            return
        lost = len(batch.tickets) if batch is not None else 0
        self._events.count("workers_lost")
        self._events.prepared_lost(list(self._ahead.forget(worker)))
        if batch is not None:
            self._events.batch_lost(place, batch, now - place.busy_since + self._respawn_s)
        pause_s = self._pool.pause_s(place)
        fields = {"pid": pid, "requests": lost, "status": place.last_exit, "respawn_in_s": pause_s}
        self._told(place, "worker_lost", logging.ERROR, **fields)
        if place.fruitless == UNHEALTHY_DEATHS:
            log.event("worker_unhealthy", logging.ERROR, worker=worker, deaths=place.fruitless, status=place.last_exit)
        self._events.serving(self._pool.serving)
        self._lost_at[worker] = now
        if not self._all_ready.done():
            self._fail_start(_ended_loading(worker, status))
            return
        self._loop.call_later(pause_s, self._spawn, place)
        if self._pool.idle is not None:
            self._events.worker_free()  # another one can run at once what this one has lost

    def _left(self, worker: Place, pid: int, batch: Batch[Request] | None, now: float) -> None:
        """A worker that others have taken over from is gone. It can have died in its last batch."""
        self._pool.remove(worker)
        self._ahead.forget(worker.id)
        self._lost_at.pop(worker.id, None)
        log.event("worker_left", worker=worker.id, pid=pid)
        if batch is not None:
            self._events.batch_lost(worker, batch, now - worker.busy_since + self._respawn_s)
            if self._pool.idle is not None:
                self._events.worker_free()

    # ---- their lives

    def _told(self, worker: Place, event: str, level: int = logging.INFO, **fields: Any) -> None:
        self._throttle.event(event, self._clock(), level, str(worker.id), worker=worker.id, **fields)

    def _spawn(self, worker: Place) -> None:
        if self._closing or worker.leaving:
            return
        coming = self._brought_by(worker)
        settings = self.settings if coming is None else coming.settings
        try:
            # A replacement need not measure again what its predecessor has measured.
            arena = self._executor.spawn(worker.id, worker.device, settings, warm_up=not worker.positions)
        except OSError as error:
            self._not_started(worker, str(error))
        else:
            known = bool(worker.positions)
            patience_s = max(LEAST_LOADING_S, PATIENCE * worker.load_s) if known else LONGEST_LOADING_S
            self._pool.spawning(worker, arena, self._clock(), patience_s)

    def _not_started(self, worker: Place, why: str) -> None:
        log.event("spawn_failed", logging.ERROR, worker=worker.id, error=why)
        coming = self._brought_by(worker)
        if coming is not None:
            coming.failed(ModelLoadError(f"a worker beside those that serve cannot be started: {why}"))
        else:
            self._loop.call_later(NOT_STARTED_PAUSE_S, self._spawn, worker)

    def _brought_by(self, worker: Place) -> Coming | None:
        """What is under way, if the worker is one of it."""
        return self._coming if self._coming is not None and worker in self._coming.workers else None

    def _names(self, worker: Place) -> list[str]:
        """The models that the worker loads."""
        coming = self._brought_by(worker)
        return [model.name for model in (self.settings if coming is None else coming.settings).models]

    def _cannot_load(self, worker: Place, error: InferdError) -> None:
        """A worker's models do not load: the reload fails that brings it up, or the start."""
        coming = self._brought_by(worker)
        if coming is not None:
            coming.failed(error)
        elif not self._all_ready.done():
            self._fail_start(error)

    def _fail_start(self, error: InferdError) -> None:
        self._closing = True  # a worker that ends before `close` is called gets no successor
        self._all_ready.set_exception(error)

    def _on_ready(self, worker: Place, device: str, models: list[dict[str, Any]]) -> None:
        self._pool.loaded(worker, self._clock())
        worker.positions = {model["name"]: position for position, model in enumerate(models)}
        coming = self._brought_by(worker)
        if coming is not None:
            worker.device = device
            coming.models = models
            coming.loaded += 1
            log.event("worker_ready", worker=worker.id, pid=worker.pid, device=device)
            if coming.loaded == len(coming.workers) and not coming.ready.done():
                coming.ready.set_result(None)
            return
        self._pool.ready(worker, device)
        self._events.serving(self._pool.serving)
        self._events.models_loaded(models)
        self._told(worker, "worker_ready", pid=worker.pid, device=device)
        if (lost_at := self._lost_at.pop(worker.id, None)) is not None:
            self._respawn_s = self._clock() - lost_at
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
        error = (DeviceUnavailable if failure.kind == "device" else ModelLoadError)(failure.message)
        self._cannot_load(worker, error)


def _ended_loading(worker: int, status: str) -> InferdError:
    """A model that ends its worker by an exit would do it again. Who was killed may have been in the way of others, as
    when memory is short at boot, so that is no ConfigError: systemd tries such a start again."""
    ended = f"worker {worker} ended while it loaded its models{f' ({status})' if status else ''}"
    if status.startswith("status"):
        return ModelLoadError(f"{ended}; what it printed above is all it said")
    memory = "; the system kills so when memory is short" if status == "SIGKILL" else ""
    return InferdError(f"{ended}: it was killed or crashed, and another start may do{memory}")


def _hung_loading(worker: int, for_s: float) -> str:
    return (
        f"worker {worker} has not loaded its models within {for_s:.0f} s, and was ended; "
        "what it printed above is all it said"
    )


def _is_stalled(worker: Place, now: float) -> bool:
    """Long before it counts as hanging, if its batch is the first of its shape: but nobody is served meanwhile."""
    assert worker.batch is not None and worker.arena is not None
    heard_at = worker.hangs_at - worker.patience_s
    return now > max(worker.batch.ends_at, heard_at) + LEAST_PATIENCE_S and not worker.arena.starved


def _pack(worker: Place, batch_id: int, batch: Batch[Request], freed: list[int], prepared: dict[Request, int]) -> bytes:
    tables, numbers = pack_requests(batch.tickets)
    ahead = [prepared.get(request, -1) for request in batch.tickets] if prepared else []
    position = worker.positions[batch.tickets[0].plan.model.name]
    return b.pack(b.RUN, batch_id, position, tables, numbers, freed, ahead)


def _take_freed(arena: Arena) -> list[int]:
    freed, arena.freed = arena.freed[:MAX_FREED_NUMBERS], arena.freed[MAX_FREED_NUMBERS:]
    arena.used -= sum(freed[1::2])
    return freed
