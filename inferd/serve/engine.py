"""The engine: sessions on one side, workers on the other, and what happens in between.

    session ──▶ submit ──▶ scheduler ──▶ dispatch ──▶ workers
    session ◀── answer ◀── settle ◀───── batch_done ◀── workers

It owns the slab, the scheduler and the pool, which decide; here their decisions are carried out.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inferd import failpoints, log
from inferd.config import MIB, Settings
from inferd.config.models import with_sources
from inferd.errors import RequestError, make
from inferd.memory import Region
from inferd.schedule.batch import Batch
from inferd.schedule.scheduler import Scheduler
from inferd.schedule.ticket import State
from inferd.serve import report
from inferd.serve.admission import Door, Model, Plan
from inferd.serve.answers import Answers, Ran
from inferd.serve.executor import Executor
from inferd.serve.holdings import Holdings
from inferd.serve.pool import Pool
from inferd.serve.refusal import too_late
from inferd.serve.request import Request
from inferd.serve.session import Session
from inferd.serve.slab import Slab
from inferd.serve.strangers import Strangers
from inferd.serve.tls import context_of
from inferd.serve.tokens import Guesses, read_tokens
from inferd.serve.workers import Place, Workers
from inferd.wire.frame import Limits
from inferd.wire.messages import Infer, Message
from inferd.wire.values import pack_values

if TYPE_CHECKING:
    from inferd.serve.reload import Reloader

HOUSEKEEPING_S = 1.0
# A STATUS is made at most a hundred times a second, however often it is asked for: one who asked without end raised
# another's p50 from 7 to 252 ms.
STATUS_S = 0.01
# After so long in one turn of the loop the workers are looked at before the other sockets.
LONG_TURN_S = 0.005
# When it is worth asking again a daemon whose workers died again and again.
RETRY_WORKER_MS = 1000.0
# How often batches that run are looked through for requests whose time is over: I3 gives a quarter of a second.
OVERDUE_EVERY_S = 0.05
# How long a daemon that has finished its work waits for clients to read GOAWAY and to hang up: longer than it takes a
# busy client to come round to it.
LINGER_S = 0.25


class Engine:
    """One daemon's core."""

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        scheduler: Scheduler[Request] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Read once: the replacement of a worker runs the same as its predecessor, whatever is in the files by then.
        settings = self.settings = replace(settings, models=with_sources(settings.models))
        self.executor = executor
        # Not the loop's: uvloop's clock stands still within a turn and counts whole milliseconds.
        self.clock = clock
        self.limits = Limits(payload_bytes=settings.payload_mib * MIB)
        self.slab = Slab(Region.create("slab", settings.slab_mib * MIB))
        self.scheduler: Scheduler[Request] = scheduler or Scheduler(len(settings.devices))
        self.pool: Pool[Batch[Request]] = Pool(settings.devices)
        self.workers = Workers(self.pool, executor, self, clock, settings)
        self.door = Door()
        self.reloader: Reloader | None = None
        self.tokens = read_tokens(settings.tokens) if settings.tokens else None
        self.guesses = Guesses()
        self.tls = context_of(settings)
        self.sessions: set[Session] = set()
        self.strangers: Strangers[Session] = Strangers()
        self.counters: Counter[str] = Counter()
        self.throttle = log.Throttle()
        self.holdings = Holdings(self.slab.region.nbytes)
        self.answers = Answers(self.slab, settings.arena_mib, self.counters, self.throttle, clock)
        self.draining = False
        self.pool_lost: RequestError | None = None  # what requests are told while there is no worker to count on
        self._dispatching = False
        self.started_at = clock()
        self._status = b""
        self._status_until = -math.inf
        self.turn_s = 0.0  # how long the turn of the loop before this one has read, if this one follows on it
        self._turn_ended = 0.0
        self._turn_began: float | None = None
        self._looked_at = 0.0
        self._housekeeping: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._expiry_at = float("inf")

    async def start(self) -> None:
        """Starts the workers; returns when they can serve.

        Raises ModelLoadError or DeviceUnavailable when one cannot, InferdError when one was killed meanwhile.
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

    def submit(self, request: Request, now: float) -> None:
        """The request's payload is there: it joins the queue, and an idle worker starts at once."""
        session = request.session
        if session is not None and session.outbox.congested:
            session.park(request)
            return
        if request.plan.model.replaced:
            self._move(request, now)
            return
        if self.pool_lost is not None:
            self.answers.fail(request, self.pool_lost)
            self.answers.flush(now)
            return
        self.scheduler.submit(request, now)
        if request.due is not None and request.due < self._expiry_at:
            self._arm(request.due)
        if not self._dispatching and self.pool.idle is not None:
            # Not now but at the end of this turn, so that every socket that is readable already is read first: what
            # has arrived joins the batch, and nothing is waited for.
            self._dispatching = True
            self._loop.call_soon(self._dispatch, "idle")

    def _move(self, request: Request, now: float) -> None:
        """Its model has been replaced since it came: it waits for the one that is served under the name now, if that
        takes such requests."""
        session = request.session
        if session is None:
            self.answers.release(request)
            return
        plan = self.door.plan(request.header)
        if not isinstance(plan, Plan):
            self.answers.fail(request, make("MODEL_REPLACED", model=request.header.model))
            self.answers.flush(now)
            return
        self.submit(session.moved(request, plan), now)

    def _arm(self, at: float) -> None:
        """The one timer: when the next waiting request is too late."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = at
        self._expiry = self._loop.call_later(max(0.0, at - self.clock()), self._expire)

    def _arm_anew(self) -> None:
        """Some wait again that had begun: for a device, which may not be there for long."""
        at = self.scheduler.next_expiry()
        if at is not None and at < self._expiry_at:
            self._arm(at)

    def _expire(self) -> None:
        now = self.clock()
        self._expiry_at = float("inf")
        self.answers.too_late(self.scheduler.expire(now), now)
        self.answers.flush(now)
        at = self.scheduler.next_expiry()
        if at is not None:
            # A little later than due, so that those who are due together go together.
            self._arm(max(at, now + 0.001))

    def withdraw(self, request: Request, why: str) -> None:
        """Nobody wants the request any more. If it still waits it is never computed; if it runs, its result is
        thrown away."""
        session, request.session = request.session, None
        if session is not None:
            session.unpark(request)
        request.plan.model.meters.codes["CANCELLED"] += 1
        if request.state is State.RUNNING:
            self.counters[f"{why}_while_running"] += 1
            return
        self.counters[f"{why}_while_queued"] += 1
        self.scheduler.withdraw(request)
        self.answers.release(request)

    def refused(self, error: RequestError, message: Message) -> None:
        """A request was turned away at the door; `message` is its header, if that could be read."""
        self.counters["refused_" + error.reason.lower()] += 1
        model = self.door.models.get(message.model) if isinstance(message, Infer) else None
        if model is not None:
            model.meters.codes[error.code] += 1

    def count(self, what: str) -> None:
        """One more of something worth knowing."""
        self.counters[what] += 1

    # ---- batches, to workers

    def _dispatch(self, why: str = "freed") -> None:
        self._dispatching = False
        now = self.clock()
        while (worker := self.pool.idle) is not None:
            batch, late, refused = self.scheduler.take(now, why)
            if batch is not None and batch.tickets[0].plan.model.replaced:
                # It has failed in a worker that is gone or leaving, and was to run again.
                self.scheduler.settle(batch)
                for request in batch.tickets:
                    self._move(request, now)
            elif batch is not None:
                # Before anybody hears of a refusal: the device shall not wait while they are written.
                self.counters[f"batches_{batch.why}"] += 1
                failpoints.hit("loop.batch")
                self.workers.run(worker, batch, now)
                self._watch_deadlines()
            if late or refused:
                self.answers.too_late(late, now)
                self.answers.overloaded(refused, self.scheduler.backlog_s, now)
                self.answers.flush(now)
            if batch is None:
                return

    # ---- batches, from workers (BatchEvents)

    def models_loaded(self, descriptions: list[dict[str, Any]]) -> None:
        if not self.door.models:
            for model in self.door.open(descriptions):
                self.scheduler.known.teach(model.index, model.latency, model.batch_sizes)

    def take_over(self, descriptions: list[dict[str, Any]], kept: frozenset[str]) -> None:
        """The workers that were brought up serve from here on, and so do their models; those named in `kept` are what
        they have been, and what was learned of them holds. Whoever waits for another one moves to that."""
        now = self.clock()
        before = self.door.models
        for model in self.door.open(descriptions, kept):
            self.scheduler.known.teach(model.index, model.latency, model.batch_sizes)
        self.workers.take_over()
        for session in list(self.sessions):
            for request in list(session.in_flight.values()):
                if request.plan.model.replaced and self.scheduler.withdraw(request):
                    self._move(request, now)
        for model in before.values():
            if model.replaced:
                self.scheduler.known.forget(model.index)
        if _announced(before) != _announced(self.door.models):
            for session in list(self.sessions):
                session.go_away(now, "MODELS_CHANGED")
        self.answers.flush(now)
        self._dispatch()

    def serving(self, workers: int) -> None:
        self.scheduler.workers = max(1, workers)
        self.pool_lost = None
        if self.pool.unhealthy:
            self.pool_lost = make("WORKER_LOST", retry_after_ms=RETRY_WORKER_MS)
            self._fail_waiting(self.pool_lost)

    def worker_free(self) -> None:
        self._dispatch()

    def batch_too_long(self, batch: Batch[Request]) -> None:
        self.scheduler.cut(batch)

    def batch_lost(self, worker: Place, batch: Batch[Request], cost_s: float) -> None:
        now = self.clock()
        unwanted = [request for request in batch.tickets if request.session is None]
        for request in batch.tickets:
            request.killed += (worker.id,)
        # Whoever has gone away in the meantime, or whose time is over, does not want a second try that could clear him.
        for request in unwanted:
            self.scheduler.charge(request, cost_s / len(unwanted), now)
        self._drop_unwanted(batch)
        for request in self.scheduler.lost(batch):
            self._killed_twice(request, worker, cost_s, now)
        if self.pool_lost is not None:
            self._fail_waiting(self.pool_lost)
        self._arm_anew()
        self.answers.flush(now)

    def _killed_twice(self, request: Request, worker: Place, cost_s: float, now: float) -> None:
        """Two workers died with the request, the second with no other: that is charged to who sent it, and not held
        against the workers. SIGKILL comes from outside, mostly because memory ran out, and so says less."""
        self.pool.explained(request.killed)
        self.scheduler.charge(request, len(request.killed) * cost_s, now)
        if worker.last_exit in ("SIGKILL", ""):
            self.answers.fail(request, make("WORKER_LOST"))
            return
        model, client = request.plan.model.name, request.client
        fields = {"model": model, "client": client.name if client is not None else "", "status": worker.last_exit}
        self.throttle.event("request_poisoned", now, logging.ERROR, model, **fields)
        self.answers.fail(request, make("POISONED"))

    def _fail_waiting(self, error: RequestError) -> None:
        """Nobody is there to compute what waits: it is told so, and not kept for who may never come."""
        for session in self.sessions:
            for request in list(session.in_flight.values()):
                if self.scheduler.withdraw(request):
                    self.answers.fail(request, error)
        self.answers.flush(self.clock())

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
                self.batch_lost(worker, batch, 0.0)
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
        model = batch.tickets[0].plan.model
        if preprocess_us:
            model.preprocess_s = preprocess_us / 1e6
        if not more:
            model.meters.batch(batch.rows, compute_us / 1e6, padded)
        self.answers.results(batch, Ran(batch_id, compute_us, padded), arena, heads, outcomes, now)
        for index, reason, detail in failures:
            self.answers.failed_alone(batch.tickets[index], reason, detail, now)
        self.answers.flush(now)
        self.answers.written(now)
        if not more:
            self.scheduler.learn(batch, now - batch.started_at)

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
                self.answers.failed_alone(guilty, reason, detail, now)
                self.answers.flush(now)
            self._arm_anew()
        self._next(worker, len(batch.tickets), now)

    def _drop_unwanted(self, batch: Batch[Request]) -> None:
        for request in batch.tickets:
            if request.session is None:
                request.state = State.OVER
                self.answers.release(request)
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

    def _look_for_overdue(self) -> None:
        """Requests whose time is over while their batch runs on are told so: it takes longer than anybody knew, or
        hangs. Their memory stays theirs, because the worker may still read it."""
        self._overdue = None
        now = self.clock()
        for worker in self.pool.workers:
            if worker.batch is not None:
                for request in worker.batch.tickets:
                    if request.session is not None and request.due is not None and request.due <= now:
                        self.answers.tell(request, too_late(round((now - request.arrived) * 1000), "computed"))
                self._watch_deadlines()
        self.answers.flush(now)

    def _watch_deadlines(self) -> None:
        if self._overdue is None:
            self._overdue = self._loop.call_later(OVERDUE_EVERY_S, self._look_for_overdue)

    # ---- the daemon's own

    def _keep_house(self) -> None:
        now = self.clock()
        try:
            self.holdings.give_back(len(self.sessions))
            for session in list(self.sessions):
                why = session.overdue(now)
                if not why and session.patience.slow and session.outbox.starves:
                    why = "it takes its answers too slowly, and a worker waits for the memory that they are in"
                if why:
                    self.cut(session, why, now)
                else:
                    self.answers.too_late(session.late(now), now)
            self.answers.flush(now)
            self.workers.feed_idle()
            self.workers.end_hung(now)
            self.holdings.forget({session.owner.name for session in self.sessions}, now)
        finally:
            # Also after a defect, which the loop logs: without it nobody who stalls would ever be cut again.
            self._housekeeping = self._loop.call_later(HOUSEKEEPING_S, self._keep_house)

    def cut(self, session: Session, why: str, now: float) -> None:
        """Ends a connection that is a burden on others."""
        self.throttle.event("connection_cut", now, peer=session.link.name, why=why)
        self.count("connections_cut")
        self.sessions.discard(session)
        session.forget_unsent()  # or others would be cut for it, until the loop has come round to its end
        session.link.abort()

    def bound_unsent(self, now: float) -> None:
        """Something was sent that its client has not taken: if that is too much in all, the worst are cut."""
        why = "too much is unsent, and it is among those that hold most of it"
        self.holdings.bound_unsent(self.sessions, lambda session: self.cut(session, why, now), now)

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
        # What crosses GOAWAY on its way is told DRAINING, not reset; who has read it hangs up.
        deadline = min(deadline, self.clock() + LINGER_S)
        while self.sessions and self.clock() < deadline:  # noqa: ASYNC110 (the sessions end by themselves)
            await asyncio.sleep(0.01)
        return True

    def abandon(self) -> None:
        """Ends the workers at once, in the middle of what they do."""
        self.workers.abandon()

    async def close(self) -> None:
        """Ends sessions and workers."""
        for timer in (self._housekeeping, self._expiry, self._overdue):
            if timer is not None:
                timer.cancel()
        for session in list(self.sessions):
            session.link.close()
        await self.workers.close()
        self.slab.region.close()


def _announced(models: dict[str, Model]) -> list[dict[str, Any]]:
    """What WELCOME says of them, but for what was measured, which is different each time."""
    return [{**model.description, "latency": None} for model in models.values()]
