"""The engine: sessions on one side, workers on the other, and what happens in between.

    session ──▶ submit ──▶ scheduler ──▶ dispatch ──▶ worker
    session ◀── answer ◀── settle ◀───── on_packet ◀── worker

It owns the slab, the scheduler and the pool, which decide; here their decisions are carried out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from inferd import log
from inferd.config import MIB, Settings
from inferd.errors import CATALOGUE, DeviceUnavailable, InvalidArgument, ModelLoadError, RequestError, make
from inferd.memory import Region
from inferd.schedule.scheduler import Batch, Scheduler
from inferd.schedule.ticket import Client, State
from inferd.serve import report
from inferd.serve.admission import Door
from inferd.serve.executor import Executor
from inferd.serve.pool import Arena, Condition, Pool, Worker
from inferd.serve.session import Request, Session
from inferd.serve.slab import Slab
from inferd.wire import batch as b
from inferd.wire.frame import Limits
from inferd.wire.messages import with_timing

# An arena's freed parts go back with the next batch, or on their own when so many have gathered.
MAX_FREED_NUMBERS = 1024
HOUSEKEEPING_S = 1.0
# What a worker finds wrong with a request's values, in sentences of the catalogue.
OF_THE_REQUEST = frozenset({"VALUES", "ROWS", "TENSOR", "INPUT_MISSING", "INPUT_UNKNOWN", "INPUT_DTYPE"})


class Engine:
    """One daemon's core. `ready` is done when every worker has loaded its models, or has its exception."""

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        scheduler: Scheduler[Request] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.executor = executor
        # Not the loop's: uvloop's clock stands still within a turn and counts whole milliseconds.
        self.clock = clock
        self.limits = Limits(payload_bytes=settings.payload_mib * MIB)
        self.slab = Slab(Region.create("slab", settings.slab_mib * MIB))
        self.scheduler: Scheduler[Request] = scheduler or Scheduler(len(settings.devices))
        self.pool: Pool[Batch[Request]] = Pool(settings.devices)
        self.door = Door()
        self.sessions: set[Session] = set()
        self._clients: dict[str, Client] = {}
        self.counters: Counter[str] = Counter()
        self.throttle = log.Throttle()
        self.draining = False
        self._closing = False
        self._dispatching = False
        self._arriving_bytes = 0
        self._dirty: list[Session] = []
        self.started_at = time.time()
        self._housekeeping: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = float("inf")

    async def start(self) -> None:
        """Starts the workers; returns when they can serve.

        Raises ModelLoadError or DeviceUnavailable when one cannot.
        """
        self._loop = asyncio.get_running_loop()
        self._first_ready: asyncio.Future[None] = self._loop.create_future()
        await self.executor.start(self, self.slab.region)
        for worker in self.pool.workers:
            self._spawn(worker)
        self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._keep_house)
        await self._first_ready

    # ---- requests, from sessions

    def client(self, name: str) -> Client:
        """Whoever shares fairly under that name. Forgotten by housekeeping when none of its connections is left."""
        return self._clients.setdefault(name, Client(name))

    def submit(self, request: Request, now: float) -> None:
        """The request's payload is there: it joins the queue, and an idle worker starts at once."""
        session = request.session
        if session is not None and session.congested:
            session.parked.append(request)
            return
        self.scheduler.submit(request, now)
        if request.due is not None and request.due < self._expiry_at:
            self._arm(request.due)
        if not self._dispatching and self.pool.idle is not None:
            # Not now but at the end of this turn, so that every socket that is readable already is read first: what
            # has arrived joins the batch, and nothing is waited for.
            self._dispatching = True
            self._loop.call_soon(self._dispatch, "idle")

    def _arm(self, at: float) -> None:
        """The one timer: when the next waiting request is too late."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = at
        self._expiry = self._loop.call_later(max(0.0, at - self.clock()), self._expire)

    def _expire(self) -> None:
        now = self.clock()
        self._expiry_at = float("inf")
        self._too_late(self.scheduler.expire(now), now)
        self._flush(now)
        at = self.scheduler.next_expiry()
        if at is not None:
            # A little later than due, so that those who are due together go together.
            self._arm(max(at, now + 0.001))

    def _too_late(self, requests: list[Request], now: float) -> None:
        for request in requests:
            self._fail(request, make("TIMEOUT", limit=round((now - request.arrived) * 1000), stage="queued"))

    def _overloaded(self, requests: list[Request], now: float) -> None:
        wait_ms = max(1.0, round(self.scheduler.backlog_s * 1000, 1))
        for request in requests:
            if request.session is not None:
                request.session.window.congested(request.budget, now)
            self._fail(request, make("OVERLOADED", retry_after_ms=wait_ms, wait=wait_ms))

    def may_arrive(self, nbytes: int) -> bool:
        """Whether another payload may be on its way: half of the slab is for those that are there."""
        return self._arriving_bytes + nbytes <= self.slab.region.nbytes // 2

    def arriving(self, nbytes: int) -> None:
        """A payload is on its way into the slab."""
        self._arriving_bytes += nbytes

    def arrived(self, nbytes: int) -> None:
        """It is there, or will never be."""
        self._arriving_bytes -= nbytes

    def withdraw(self, request: Request, why: str) -> None:
        """Nobody wants the request any more. If it still waits it is never computed; if it runs, its result is
        thrown away."""
        request.session = None
        if request.state is State.RUNNING:
            self.counters[f"{why}_while_running"] += 1
            return
        self.counters[f"{why}_while_queued"] += 1
        self.scheduler.withdraw(request)
        self._release(request)

    def refused(self, error: RequestError) -> None:
        """A request was turned away at the door."""
        self.counters["refused_" + error.reason.lower()] += 1

    def count(self, what: str) -> None:
        """One more of something worth knowing."""
        self.counters[what] += 1

    def _release(self, request: Request) -> None:
        if request.chunk is not None:
            self.slab.release(request.chunk)
            request.chunk = None

    # ---- batches, to workers

    def _dispatch(self, why: str = "freed") -> None:
        self._dispatching = False
        now = self.clock()
        while (worker := self.pool.idle) is not None:
            batch, late, refused = self.scheduler.take(now, why)
            if late or refused:
                self._too_late(late, now)
                self._overloaded(refused, now)
                self._flush(now)
            if batch is None:
                return
            self.counters[f"batches_{batch.why}"] += 1
            self._run(worker, batch, now)

    def _run(self, worker: Worker[Batch[Request]], batch: Batch[Request], now: float) -> None:
        arena = worker.arena
        assert arena is not None
        batch_id = self.pool.run(worker, batch, now)
        freed = self._take_freed(arena)
        packet = self._pack(batch_id, batch, freed)
        while len(packet) > b.MAX_PACKET_BYTES:
            # Only when many different tensor tables meet in one batch.
            self.scheduler.cut(batch)
            packet = self._pack(batch_id, batch, freed)
        self.executor.send(worker.id, packet)

    def _pack(self, batch_id: int, batch: Batch[Request], freed: list[int]) -> bytes:
        tables: list[Any] = []
        positions: dict[int, int] = {}
        numbers: list[int] = []
        last = None
        position = 0
        for request in batch.tickets:
            plan = request.plan
            if plan is not last:
                last = plan
                known = positions.get(id(plan))
                if known is None:
                    known = positions[id(plan)] = len(tables)
                    tables.append(plan.table)
                position = known
            numbers += (position, plan.rows, request.offset, request.nbytes, request.has_values)
        return b.pack(b.RUN, batch_id, batch.tickets[0].plan.model.index, tables, numbers, freed)

    def _take_freed(self, arena: Arena) -> list[int]:
        freed, arena.freed = arena.freed[:MAX_FREED_NUMBERS], arena.freed[MAX_FREED_NUMBERS:]
        arena.used -= sum(freed[1::2])
        return freed

    def feed(self, arena: Arena) -> None:
        """Gives a worker that waits for room what has been freed."""
        if arena.freed and self.pool.workers[arena.worker].arena is arena:
            arena.starved = False
            self.executor.send(arena.worker, b.pack(b.FREE, self._take_freed(arena)))

    # ---- what workers say (WorkerEvents)

    def on_started(self, worker: int, pid: int) -> None:
        self.pool.workers[worker].pid = pid
        log.event("worker_started", worker=worker, pid=pid, device=self.pool.workers[worker].device)

    def on_packet(self, worker: int, message: list[Any]) -> None:
        place = self.pool.workers[worker]
        try:
            self._on_packet(place, message)
        except Exception:
            # A defect of ours must not leave a batch that never ends: it costs the worker, and its requests run again.
            log.logger.exception("packet_failed", extra={"fields": {"worker": worker}})
            self.executor.kill(worker)

    def _on_packet(self, place: Worker[Batch[Request]], message: list[Any]) -> None:
        kind = message[0]
        if kind == b.DONE:
            self._on_done(place, *message[1:])
        elif kind == b.RAISED:
            self._on_raised(place, *message[1:])
        elif kind == b.STARVED:
            assert place.arena is not None
            place.arena.starved = True
            self.count("arena_waits")
            self.feed(place.arena)
        elif kind == b.READY:
            self._on_ready(place, *message[1:])
        elif kind == b.REFUSED:
            self._on_refused(place, b.LoadFailure(*message[1:]))

    def on_exit(self, worker: int, status: str = "") -> None:
        place = self.pool.workers[worker]
        pid, arena = place.pid, place.arena
        batch, pause_s = self.pool.died(place)
        if arena is not None:
            arena.region.close()
        if self._closing:
            return
        lost = len(batch.tickets) if batch is not None else 0
        log.event("worker_lost", logging.ERROR, worker=worker, pid=pid, requests=lost, respawn_in_s=pause_s)
        self.count("workers_lost")
        if batch is not None:
            # Whoever has gone away in the meantime does not want a second try.
            self._drop_unwanted(batch)
            for request in self.scheduler.lost(batch):
                self._fail(request, make("WORKER_LOST"))
            self._flush(self.clock())
        if not self._first_ready.done():
            self._first_ready.set_exception(
                ModelLoadError(
                    f"worker {worker} ended while it loaded its models{f' ({status})' if status else ''}; "
                    "what it printed above is all it said"
                )
            )
            return
        self._loop.call_later(pause_s, self._spawn, place)
        self._dispatch()

    def _spawn(self, worker: Worker[Batch[Request]]) -> None:
        if self._closing:
            return
        try:
            arena = self.executor.spawn(worker.id, worker.device)
        except OSError as error:
            log.event("spawn_failed", logging.ERROR, worker=worker.id, error=str(error))
            self._loop.call_later(1.0, self._spawn, worker)
        else:
            self.pool.spawning(worker, arena)

    def _on_ready(self, worker: Worker[Batch[Request]], device: str, models: list[dict[str, Any]]) -> None:
        self.pool.ready(worker, device)
        if not self.door.models:
            self.door.open(models)
            for model in self.door.models.values():
                self.scheduler.teach(model.index, model.latency)
        log.event("worker_ready", worker=worker.id, pid=worker.pid, device=device)
        if not self._first_ready.done():
            if self.pool.serving == len(self.pool.workers):
                self._first_ready.set_result(None)
        else:
            self._dispatch()

    def _on_refused(self, worker: Worker[Batch[Request]], failure: b.LoadFailure) -> None:
        log.event(
            "load_failed",
            logging.ERROR,
            worker=worker.id,
            model=failure.model,
            at=failure.location,
            error=failure.message,
        )
        log.logger.debug(failure.detail)
        if not self._first_ready.done():
            kind = DeviceUnavailable if failure.kind == "device" else ModelLoadError
            self._first_ready.set_exception(kind(failure.message))

    def _on_done(
        self,
        worker: Worker[Batch[Request]],
        batch_id: int,
        heads: list[bytes],
        outcomes: list[int],
        failures: list[list[Any]],
        compute_us: int,
        padded: float,
        arena_used: int,
        more: bool,
    ) -> None:
        batch, arena = worker.batch, worker.arena
        assert batch is not None and arena is not None and batch_id == worker.batch_id
        now = self.clock()
        arena.used = arena_used
        worker.compute_us += compute_us
        tickets = batch.tickets
        dirty = self._dirty
        answered = rows = 0
        numbers = iter(outcomes)
        for index, head, offset, nbytes, flags in zip(numbers, numbers, numbers, numbers, numbers, strict=True):
            request = tickets[index]
            session = request.session
            if session is None:
                arena.give_back(offset, nbytes)
            else:
                request.session = None  # answered
                if not session.outbox:
                    dirty.append(session)
                session.window.waited(batch.started_at - request.arrived, request.budget, now)
                header = heads[head]
                if request.header.timing:
                    header = with_timing(
                        header, report.timeline(request, batch, worker.batch_id, compute_us, padded, now)
                    )
                session.answer(request, header, flags, arena, offset, nbytes)
            chunk = request.chunk
            if chunk is not None:
                self.slab.release(chunk)
                request.chunk = None
            answered += 1
            rows += request.rows
        model = tickets[0].plan.model
        model.results += answered
        model.rows += rows
        for index, reason, detail in failures:
            self._failed_alone(tickets[index], reason, detail, now)
        self._flush(now)
        if not more:
            self.counters["batches"] += 1
            self.scheduler.settle(batch, now, now - batch.started_at)
            self._next(worker, now)

    def _failed_alone(self, request: Request, reason: str, detail: str, now: float) -> None:
        model = request.plan.model.name
        self.throttle.event("request_failed", now, key=f"{model} {reason}", model=model, reason=reason, detail=detail)
        if reason in OF_THE_REQUEST:
            # The runner's own checks of the request's values: their sentence names its fields, nothing else.
            error: RequestError = InvalidArgument(detail, reason=reason)
        elif reason == "OUTPUT_TOO_LARGE":
            error = make(reason, limit=self.settings.arena_mib * MIB)
        else:
            error = make(reason if reason in CATALOGUE else "MODEL_FAILED", model=model)
        self._fail(request, error)

    def _on_raised(self, worker: Worker[Batch[Request]], batch_id: int, reason: str, detail: str) -> None:
        batch = worker.batch
        assert batch is not None and batch_id == worker.batch_id
        now = self.clock()
        self.counters["batches_raised"] += 1
        self._drop_unwanted(batch)
        if not batch.tickets:
            self.scheduler.settle(batch)
        else:
            out_of_memory = reason == "DEVICE_MEMORY"
            guilty = self.scheduler.out_of_memory(batch) if out_of_memory else self.scheduler.split(batch)
            if guilty is not None:
                self._failed_alone(guilty, reason, detail, now)
                self._flush(now)
        self._next(worker, now)

    def _drop_unwanted(self, batch: Batch[Request]) -> None:
        for request in batch.tickets:
            if request.session is None:
                request.state = State.OVER
                self._release(request)
        batch.tickets = [request for request in batch.tickets if request.session is not None]

    def _next(self, worker: Worker[Batch[Request]], now: float) -> None:
        self.pool.finished(worker, now)
        if self.scheduler.queued and not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch, "freed")

    def _fail(self, request: Request, error: RequestError) -> None:
        self._release(request)
        self.counters["failed_" + error.reason.lower()] += 1
        session, request.session = request.session, None
        if session is not None:
            if not session.outbox:
                self._dirty.append(session)
            session.fail(request, error)

    def _flush(self, now: float) -> None:
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for session in dirty:
                session.flush(now)

    # ---- the daemon's own

    def _keep_house(self) -> None:
        now = self.clock()
        for session in list(self.sessions):
            why = session.overdue(now)
            if why:
                self.throttle.event("connection_cut", now, peer=session.link.name, why=why)
                self.count("connections_cut")
                session.link.abort()
        for worker in self.pool.workers:
            # Nothing else may come to take them along, and a worker at rest should have its arena back.
            if worker.condition is Condition.IDLE and worker.arena is not None and worker.arena.freed:
                self.executor.send(worker.id, b.pack(b.FREE, self._take_freed(worker.arena)))
        owners = {session.owner.name for session in self.sessions}
        self._clients = {name: client for name, client in self._clients.items() if name in owners}
        self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._keep_house)

    def status(self) -> dict[str, Any]:
        """What is going on, for `inferd status`."""
        return report.status(self)

    async def drain(self, timeout_s: float) -> bool:
        """Takes no new work, finishes what is in flight; whether everything was answered in time."""
        self.draining = True
        now = self.clock()
        for session in list(self.sessions):
            session.go_away(now)
        deadline = now + timeout_s
        while any(session.in_flight or session.link.unsent() for session in self.sessions):
            if self.clock() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    async def close(self) -> None:
        """Ends sessions and workers."""
        self._closing = True
        for timer in (self._housekeeping, self._expiry):
            if timer is not None:
                timer.cancel()
        for session in list(self.sessions):
            session.link.close()
        await self.executor.close()
        self.slab.region.close()
