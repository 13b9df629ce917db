"""Every way in which a request ends: a result, a failure of its own, a refusal, or time that is over.

What is answered is put into the sessions' outboxes, and written when all of a batch is there: one write a connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from inferd import log
from inferd.config import MIB
from inferd.errors import CATALOGUE, InvalidArgument, RequestError, make
from inferd.schedule.batch import Batch
from inferd.serve import report
from inferd.serve.pool import Arena
from inferd.serve.refusal import overloaded, too_late
from inferd.serve.request import Request
from inferd.serve.session import Session
from inferd.serve.slab import Slab
from inferd.wire.messages import with_timing

# What a reply needs between the end of its batch and its socket, in seconds, until writing them has been measured.
REPLY_MARGIN_S = 0.0005
# How much of the estimate of what writing a batch's answers takes is from the last batch.
REPLY_GAIN = 0.1
# What a worker finds wrong with a request's values, in sentences of the catalogue.
OF_THE_REQUEST = frozenset({"VALUES", "ROWS", "TENSOR", "INPUT_MISSING", "INPUT_UNKNOWN", "INPUT_DTYPE"})


class Ran(NamedTuple):
    """What a worker says of a batch that it has run: `padded` is the share of it that was padding."""

    batch_id: int
    compute_us: int
    padded: float


class Answers:
    """Of one daemon. Each call but `flush` only prepares what `flush` writes."""

    def __init__(
        self, slab: Slab, arena_mib: int, counters: Counter[str], throttle: log.Throttle, clock: Callable[[], float]
    ) -> None:
        self._slab = slab
        self._arena_mib = arena_mib
        self._counters = counters
        self._throttle = throttle
        self._clock = clock
        self.dirty: list[Session] = []  # whose outboxes have something to write
        # What is kept of a request's time for its way: until the answers of its batch are written, and as long again,
        # which it may have lain unread while those of another batch were.
        self.margin_s = REPLY_MARGIN_S
        self._reply_s = 0.0  # what writing the answers of a batch takes, of late

    # ---- results

    def results(
        self, batch: Batch[Request], ran: Ran, arena: Arena, heads: list[bytes], outcomes: list[int], now: float
    ) -> None:
        """The results of a batch, or of a part of it: they lie in the arena (inferd.wire.batch: heads, outcomes)."""
        tickets = batch.tickets
        model = tickets[0].plan.model
        dirty = self.dirty
        arrivals: list[float] = []
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
                session.window.waited(batch.started_at - request.arrived, request.budget, model.max_batch_size, now)
                header = heads[head]
                if request.header.timing:
                    header = with_timing(header, report.timeline(request, batch, *ran, now))
                session.answer(request, header, flags, arena, offset, nbytes)
                request.session = None  # answered
            chunk = request.chunk
            if chunk is not None:
                self._slab.release(chunk)
                request.chunk = None
            answered += 1
            rows += request.rows
        meters = model.meters
        meters.answered(arrivals, batch.started_at, now)
        meters.results += answered
        meters.rows += rows

    def written(self, began_at: float) -> None:
        """The answers of a batch, begun then, have been written: so long will those of the next one take."""
        self._reply_s += REPLY_GAIN * (self._clock() - began_at - self._reply_s)
        self.margin_s = REPLY_MARGIN_S + 2.0 * self._reply_s

    # ---- no result

    def failed_alone(self, request: Request, reason: str, detail: str, now: float) -> None:
        """The model, or the worker's own checks, found something wrong with one request."""
        model = request.plan.model.name
        self._throttle.event("request_failed", now, key=f"{model} {reason}", model=model, reason=reason, detail=detail)
        if reason in OF_THE_REQUEST:
            # The runner's own checks of the request's values: their sentence names its fields, nothing else.
            error: RequestError = InvalidArgument(detail, reason=reason)
        elif reason == "OUTPUT_TOO_LARGE":
            error = make(reason, limit=self._arena_mib * MIB)
        else:
            error = make(reason if reason in CATALOGUE else "MODEL_FAILED", model=model)
        self.fail(request, error)

    def too_late(self, requests: list[Request], now: float) -> None:
        """Their time was over before they began."""
        for request in requests:
            self.fail(request, too_late(round((now - request.arrived) * 1000)))

    def overloaded(self, requests: list[Request], backlog_s: float, now: float) -> None:
        """They are refused, so that others are served in good batches; it is worth trying again after `backlog_s`."""
        error = overloaded(backlog_s)
        for request in requests:
            if request.session is not None:
                request.session.window.congested(request.budget, request.plan.model.max_batch_size, now)
            self.fail(request, error)

    def fail(self, request: Request, error: RequestError) -> None:
        """The request ends so, and its memory is free."""
        self.release(request)
        self.tell(request, error)

    def tell(self, request: Request, error: RequestError) -> None:
        """Whoever waits for the request is told so; its memory is kept, because a worker may still read it."""
        self._counters["failed_" + error.reason.lower()] += 1
        session, request.session = request.session, None
        if session is not None:
            request.plan.model.meters.codes[error.code] += 1
            if not session.outbox.parts:
                self.dirty.append(session)
            session.fail(request, error)

    def release(self, request: Request) -> None:
        """Its payload is not needed any more."""
        if request.chunk is not None:
            self._slab.release(request.chunk)
            request.chunk = None

    # ---- out

    def flush(self, now: float) -> None:
        """Writes what is prepared. Never raises: one connection's failure is not the others', nor the worker's."""
        dirty = self.dirty
        if dirty:
            self.dirty = []
            for session in dirty:
                try:
                    session.flush(now)
                except Exception:
                    log.logger.exception("flush_failed")
                    session.engine.cut(session, "its answers cannot be written", now)
