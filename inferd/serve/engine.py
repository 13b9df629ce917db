"""The engine: sessions on one side, workers on the other, and what happens in between.

    session ──▶ submit ──▶ scheduler ──▶ dispatch ──▶ workers
    session ◀── answer ◀── settle ◀───── batch_done ◀── workers

It owns the slab, the scheduler and the pool, which decide; here their decisions are carried out.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from inferd import log
from inferd.config import MIB, Settings
from inferd.errors import CATALOGUE, InvalidArgument, RequestError, make
from inferd.memory import Region
from inferd.schedule.scheduler import REPLY_MARGIN_S, Batch, Scheduler
from inferd.schedule.ticket import Client, State
from inferd.serve import report
from inferd.serve.admission import Door
from inferd.serve.executor import Executor
from inferd.serve.pool import Pool
from inferd.serve.refusal import overloaded, too_late
from inferd.serve.session import Request, Session
from inferd.serve.slab import Slab
from inferd.serve.tokens import read_tokens
from inferd.serve.workers import Place, Workers
from inferd.wire.frame import Limits
from inferd.wire.messages import Infer, Message, with_timing
from inferd.wire.values import pack_values

HOUSEKEEPING_S = 1.0
# A STATUS is made at most a hundred times a second, however often it is asked for: one who asked without end raised
# another's p50 from 7 to 252 ms.
STATUS_S = 0.01
# After so long in one turn of the loop the workers are looked at before the other sockets.
LONG_TURN_S = 0.005
# How much of the estimate of what writing a batch's answers takes is from the last batch.
REPLY_GAIN = 0.1
# What a worker finds wrong with a request's values, in sentences of the catalogue.
OF_THE_REQUEST = frozenset({"VALUES", "ROWS", "TENSOR", "INPUT_MISSING", "INPUT_UNKNOWN", "INPUT_DTYPE"})


class Engine:
    """One daemon's core."""

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
        self.workers = Workers(self.pool, executor, self, clock)
        self.door = Door()
        self.tokens = read_tokens(settings.tokens) if settings.tokens else None
        self.sessions: set[Session] = set()
        self._clients: dict[str, Client] = {}
        self.counters: Counter[str] = Counter()
        self.throttle = log.Throttle()
        self.draining = False
        self._dispatching = False
        self._arriving_bytes = 0
        self._dirty: list[Session] = []
        self.started_at = time.time()
        self._status = b""
        self._status_until = -math.inf
        # What is kept of a request's time for its way: until the answers of its batch are written, and as long again,
        # which it may have lain unread while those of another batch were.
        self.margin_s = REPLY_MARGIN_S
        self._reply_s = 0.0  # what writing the answers of a batch takes, of late
        self.turn_s = 0.0  # how long the turn of the loop before this one has read, if this one follows on it
        self._turn_ended = 0.0
        self._turn_began: float | None = None
        self._looked_at = 0.0
        self._housekeeping: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = float("inf")

    async def start(self) -> None:
        """Starts the workers; returns when they can serve.

        Raises ModelLoadError or DeviceUnavailable when one cannot.
        """
        self._loop = asyncio.get_running_loop()
        self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._keep_house)
        await self.workers.start(self.slab.region)

    # ---- requests, from sessions

    def awake(self, now: float) -> None:
        """A socket is about to be read. A loop that has much to read must not let the devices wait until it is through:
        under a flood of twice what it could read, on a busy machine, one ran 11 batches in 3 s."""
        if self._turn_began is None:
            self._turn_began = self._looked_at = now
            if now - self._turn_ended > self.turn_s:
                self.turn_s = 0.0  # the loop has rested since: what is read now has not lain unread while it was busy
            self._loop.call_soon(self._turn_over)
        elif now - self._looked_at > LONG_TURN_S:
            for worker in self.pool.workers:
                if worker.batch is not None:
                    self.executor.poll(worker.id)
            if self._dispatching:
                self._dispatch("idle")
            self._looked_at = self.clock()

    def _turn_over(self) -> None:
        assert self._turn_began is not None
        self._turn_ended = self.clock()
        self.turn_s = self._turn_ended - self._turn_began
        self._turn_began = None

    def client(self, name: str) -> Client:
        """Whoever shares fairly under that name. Forgotten by housekeeping when none of its connections is left."""
        return self._clients.setdefault(name, Client(name))

    def submit(self, request: Request, now: float) -> None:
        """The request's payload is there: it joins the queue, and an idle worker starts at once."""
        session = request.session
        if session is not None and session.outbox.congested:
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
            self._fail(request, too_late(round((now - request.arrived) * 1000)))

    def _overloaded(self, requests: list[Request], now: float) -> None:
        error = overloaded(self.scheduler.backlog_s)
        for request in requests:
            if request.session is not None:
                request.session.window.congested(request.budget, now)
            self._fail(request, error)

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
        request.plan.model.meters.codes["CANCELLED"] += 1
        if request.state is State.RUNNING:
            self.counters[f"{why}_while_running"] += 1
            return
        self.counters[f"{why}_while_queued"] += 1
        self.scheduler.withdraw(request)
        self._release(request)

    def refused(self, error: RequestError, message: Message) -> None:
        """A request was turned away at the door; `message` is its header, if that could be read."""
        self.counters["refused_" + error.reason.lower()] += 1
        model = self.door.models.get(message.model) if isinstance(message, Infer) else None
        if model is not None:
            model.meters.codes[error.code] += 1

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
            if batch is not None:
                # Before anybody hears of a refusal: the device shall not wait while they are written.
                self.counters[f"batches_{batch.why}"] += 1
                self.workers.run(worker, batch, now)
            if late or refused:
                self._too_late(late, now)
                self._overloaded(refused, now)
                self._flush(now)
            if batch is None:
                return

    # ---- batches, from workers (BatchEvents)

    def models_loaded(self, descriptions: list[dict[str, Any]]) -> None:
        if not self.door.models:
            self.door.open(descriptions)
            for model in self.door.models.values():
                self.scheduler.known.teach(model.index, model.latency, model.batch_sizes)

    def serving(self, workers: int) -> None:
        self.scheduler.workers = max(1, workers)

    def worker_free(self) -> None:
        self._dispatch()

    def batch_too_long(self, batch: Batch[Request]) -> None:
        self.scheduler.cut(batch)

    def batch_lost(self, batch: Batch[Request]) -> None:
        # Whoever has gone away in the meantime does not want a second try.
        self._drop_unwanted(batch)
        for request in self.scheduler.lost(batch):
            self._fail(request, make("WORKER_LOST"))
        self._flush(self.clock())

    def likely(self, at: float) -> list[Request]:
        return self.scheduler.likely(at)

    def prepared_lost(self, requests: list[Request]) -> None:
        self.scheduler.suspect(requests)

    def batch_done(self, worker: Place, message: list[Any]) -> None:
        batch = worker.batch
        assert batch is not None
        try:
            self._on_done(worker, batch, *message)
        except Exception:
            # A defect of ours. Where the batch is over for the worker, nobody else would run again what has not been
            # answered.
            if worker.batch is not batch:
                self.batch_lost(batch)
            raise

    def _on_done(
        self,
        worker: Place,
        batch: Batch[Request],
        batch_id: int,
        heads: list[bytes],
        outcomes: list[int],
        failures: list[list[Any]],
        compute_us: int,
        preprocess_us: float,
        padded: float,
        arena_used: int,
        more: bool,
    ) -> None:
        arena = worker.arena
        assert arena is not None and batch_id == worker.batch_id
        now = self.clock()
        arena.used = arena_used
        worker.compute_us += compute_us
        if not more:
            self.counters["batches"] += 1
            self.scheduler.settle(batch)
            self._next(worker, len(batch.tickets), now)
        tickets = batch.tickets
        model = tickets[0].plan.model
        meters = model.meters
        if preprocess_us:
            model.preprocess_s = preprocess_us / 1e6
        if not more:
            meters.batch(batch.rows, compute_us / 1e6, padded)
        arrivals: list[float] = []
        dirty = self._dirty
        answered = rows = 0
        numbers = iter(outcomes)
        for index, head, offset, nbytes, flags in zip(numbers, numbers, numbers, numbers, numbers, strict=True):
            request = tickets[index]
            session = request.session
            if session is None:
                arena.give_back(offset, nbytes)
            else:
                if not session.outbox.parts:
                    dirty.append(session)
                arrivals.append(request.arrived)
                session.window.waited(batch.started_at - request.arrived, request.budget, now)
                header = heads[head]
                if request.header.timing:
                    header = with_timing(header, report.timeline(request, batch, batch_id, compute_us, padded, now))
                session.answer(request, header, flags, arena, offset, nbytes)
                request.session = None  # answered
            chunk = request.chunk
            if chunk is not None:
                self.slab.release(chunk)
                request.chunk = None
            answered += 1
            rows += request.rows
        meters.answered(arrivals, batch.started_at, now)
        model.results += answered
        model.rows += rows
        for index, reason, detail in failures:
            self._failed_alone(tickets[index], reason, detail, now)
        self._flush(now)
        self._reply_s += REPLY_GAIN * (self.clock() - now - self._reply_s)
        self.margin_s = REPLY_MARGIN_S + 2.0 * self._reply_s
        if not more:
            self.scheduler.learn(batch, now - batch.started_at)

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

    def batch_raised(self, worker: Place, message: list[Any]) -> None:
        batch_id, reason, detail = message
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
        self._next(worker, len(batch.tickets), now)

    def _drop_unwanted(self, batch: Batch[Request]) -> None:
        for request in batch.tickets:
            if request.session is None:
                request.state = State.OVER
                self._release(request)
        batch.tickets = [request for request in batch.tickets if request.session is not None]

    def _next(self, worker: Place, ran: int, now: float) -> None:
        """The worker is free; its last batch had `ran` requests."""
        self.pool.finished(worker, now)
        if self.scheduler.queued > ran:
            # There is too much to do: the device has its next batch before the answers of this one are written.
            self._dispatch("freed")
        elif self.scheduler.queued and not self._dispatching:
            # At the end of this turn, as in `submit`: what is readable already joins the batch (64 callers on 64
            # connections: batches of 31 instead of 22, and 25 µs of CPU a request instead of 30).
            self._dispatching = True
            self._loop.call_soon(self._dispatch, "freed")

    def _fail(self, request: Request, error: RequestError) -> None:
        self._release(request)
        self.counters["failed_" + error.reason.lower()] += 1
        session, request.session = request.session, None
        if session is not None:
            request.plan.model.meters.codes[error.code] += 1
            if not session.outbox.parts:
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
                self.cut(session, why, now)
        self.workers.feed_idle()
        self.workers.end_hung(now)
        owners = {session.owner.name for session in self.sessions}
        self._clients = {name: client for name, client in self._clients.items() if name in owners}
        self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._keep_house)

    def cut(self, session: Session, why: str, now: float) -> None:
        """Ends a connection that is a burden on others."""
        self.throttle.event("connection_cut", now, peer=session.link.name, why=why)
        self.count("connections_cut")
        session.link.abort()

    def status(self, now: float) -> bytes:
        """What is going on, for `inferd status`: packed values, as it was up to STATUS_S ago."""
        if now >= self._status_until:
            self._status = pack_values(report.status(self))
            self._status_until = now + STATUS_S
        return self._status

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
        for timer in (self._housekeeping, self._expiry):
            if timer is not None:
                timer.cancel()
        for session in list(self.sessions):
            session.link.close()
        await self.workers.close()
        self.slab.region.close()
