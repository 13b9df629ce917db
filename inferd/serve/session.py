"""One connection's conversation: what its frames lead to, and what is on its way back.

Synchronous, with `now` as an argument. The socket is behind `Link`, which moves bytes and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.errors import ProtocolError, RequestError, make
from inferd.schedule.credits import Window
from inferd.schedule.ticket import Client, State
from inferd.serve import greeting
from inferd.serve.admission import Plan, check_payload
from inferd.serve.outbox import Link, Outbox
from inferd.serve.patience import NOT_READ, Patience
from inferd.serve.pool import Arena
from inferd.serve.refusal import header_of, overloaded, too_late
from inferd.serve.request import Request
from inferd.wire import frame as f
from inferd.wire.frame import HAS_VALUES, MAGIC, PREFIX, VERSION, pack_prefix
from inferd.wire.messages import BARE, GoAway, Hello, Infer, Message
from inferd.wire.peer import DRAINING, OPEN, SERVER, Frame, Peer, protocol_error_frame

if TYPE_CHECKING:
    from inferd.serve.engine import Engine

# What is kept for a connection that does not read, beside its results, of which there can only be so many: PONG, STATUS
# and refusals can be asked for without end.
MAX_IGNORED_BYTES = 1024 * 1024
# After so long with what one connection has to say it is the others' turn.
LONG_READ_S = 0.002


class Session:
    """One connection. Created by the listener, driven by its link and by the engine."""

    __slots__ = (
        "admin",
        "answers_ping",
        "arrived_at",
        "arriving",
        "client",
        "engine",
        "ignored",
        "in_flight",
        "keys",
        "link",
        "outbox",
        "owner",
        "parked",
        "patience",
        "peer",
        "shows_token",
        "trusted",
        "unsent_bytes",
        "window",
    )

    def __init__(
        self,
        engine: Engine,
        link: Link,
        owner: Client,
        now: float,
        trusted: bool = False,
        shows_token: bool = False,
        admin: bool = False,
    ) -> None:
        self.engine = engine
        self.link = link
        self.owner = owner
        self.trusted = trusted  # the gateway's, whose word for whom it asks is taken
        self.shows_token = shows_token  # one of the daemon's, if it has any
        self.admin = admin  # may ask for a reload
        self.peer = Peer(SERVER, engine.limits)
        self.client = ""
        self.window = Window(engine.settings.max_in_flight)
        self.in_flight: dict[int, Request] = {}
        self.keys: dict[str, Request] = {}  # the newest request of each supersede key
        self.arriving: Request | None = None  # its payload is on the way
        self.parked: dict[int, Request] = {}  # wait until the link is no longer congested
        self.outbox = Outbox(link, engine.workers.feed)
        self.ignored = 0  # bytes beside results that were written since the link is congested
        self.patience = Patience(now)
        self.answers_ping = False
        self.unsent_bytes = 0  # of its own memory, as the engine counts it
        self.arrived_at = now  # when what is read now came to the socket, as far as can be known

    # ---- frames in

    def received(self, nbytes: int, now: float) -> bool:
        """`nbytes` have been received into the peer's buffer. True when the frames in it have not all been dealt with,
        because that took long: `go_on` is to be called then, and nothing more to be received before it returns False.
        """
        self.engine.awake(now)
        # They came after this socket was read last, and while the loop was busy with others: half of that is how long
        # they have lain there on average. So a loop that cannot keep up finds what it reads too late, and says so at
        # the least cost.
        self.arrived_at = now - min(now - self.patience.heard_at, self.engine.turn_s) / 2
        self.patience.heard_at = now
        self.peer.buffer_updated(nbytes)
        return self._deal_with_frames(now)

    def go_on(self, now: float) -> bool:
        """Goes on where it has stopped; True when it has stopped again."""
        self.engine.awake(now)
        return self._deal_with_frames(now)

    def _deal_with_frames(self, now: float) -> bool:
        peer, clock = self.peer, self.engine.clock
        long = False
        try:
            while not long and (frame := peer.next_frame()) is not None:
                if frame.type == f.INFER:
                    self._on_infer(frame, now)
                elif frame.complete:
                    self._on_frame(frame, now)
                else:
                    # Only INFER carries a payload at this end.
                    peer.accept(None)
                    self._on_frame(frame, now)
                long = clock() - now > LONG_READ_S
        except ProtocolError as error:
            self._broken(error, now)
        if self.outbox.parts:
            self.flush(now)
            if self.ignored > MAX_IGNORED_BYTES:
                self.engine.cut(self, NOT_READ, now)
        return long

    def _on_infer(self, frame: Frame, now: float) -> None:
        arriving = self.arriving
        if arriving is not None:  # the second time: its payload is there
            self.arriving = None
            self.engine.holdings.arrived(arriving.nbytes, self.owner)
            self.engine.submit(arriving, now)
            return
        request = self._admit(frame, now)
        if not isinstance(request, Request):
            self.engine.refused(request, frame.message)
            self.send_error(frame.request_id, request)
            if not frame.complete:
                self.peer.accept(None)
            return
        self.in_flight[request.id] = request
        if request.header.supersede is not None:
            self._supersede(request, request.header.supersede)
        offset, nbytes = request.offset, request.nbytes
        if frame.complete:
            if frame.payload:
                self.engine.slab.view[offset : offset + nbytes] = frame.payload
            self.engine.submit(request, now)
        else:
            self.arriving = request
            self.engine.holdings.arriving(nbytes, self.owner)
            self.peer.accept(self.engine.slab.view[offset : offset + nbytes])

    def _admit(self, frame: Frame, now: float) -> Request | RequestError:
        """The request with its row of the slab, or why there will be none. Decided before the payload is read."""
        request_id = frame.request_id
        in_flight = self.in_flight
        if request_id in in_flight or request_id == 0:
            raise ProtocolError(f"request id {request_id} is in flight already" if request_id else "request id 0")
        if frame.error is not None:
            return frame.error
        engine = self.engine
        header = frame.message
        assert isinstance(header, Infer)
        if engine.draining:
            return make("DRAINING")
        if engine.pool_lost:
            return engine.pool_lost
        if len(in_flight) >= self.window.largest:
            return make("TOO_MANY_IN_FLIGHT", limit=self.window.largest)
        plan = engine.door.plan(header)
        if not isinstance(plan, Plan):
            return plan
        nbytes = frame.payload_bytes
        has_values = bool(frame.flags & HAS_VALUES)
        if has_values:
            problem = check_payload(plan, nbytes, has_values)
            if problem is not None:
                return problem
        arrived = self.arrived_at
        time_s = plan.model.objective_s if header.deadline_ms is None else header.deadline_ms / 1000
        due = None
        if time_s is not None:
            due = arrived + time_s - engine.answers.margin_s
            if due <= now:
                return too_late(round(time_s * 1000), "not yet queued")
        request = Request(self, request_id, header, plan, nbytes, has_values, due, arrived)
        older = None if header.supersede is None else self.keys.get(header.supersede)
        # Taking the place of one that waits adds no work, or is asked for like any other.
        in_place = older is not None and older.waits and request.adds_nothing_to(older)
        wait_s = None if in_place else engine.scheduler.admit(request, now)
        if wait_s is not None:
            self.window.congested(request.budget, plan.model.max_batch_size, now)
            return overloaded(wait_s)
        if nbytes:
            # One that will be parked is kept for as long as its client likes, as one that does not arrive; but in the
            # place of another that is, it is nothing more.
            waits = not frame.complete or self.outbox.congested
            replaces = older is not None and older.parked and in_place
            if waits and not replaces and not engine.holdings.may_arrive(nbytes, self.owner):
                return make("SLAB_FULL")
            row = engine.slab.reserve(request.lane, plan.slot_bytes(nbytes, has_values))
            if row is None:
                return make("SLAB_FULL")
            request.chunk, request.offset = row
        return request

    def _supersede(self, request: Request, key: str) -> None:
        """The request takes the place of the one before it with its key, if that still waits."""
        older = self.keys.get(key)
        self.keys[key] = request
        if older is not None and older.waits:
            if request.adds_nothing_to(older):
                request.place = older.key or None
            self.engine.withdraw(older, "superseded")
            self.fail(older, make("SUPERSEDED"))

    def _on_frame(self, frame: Frame, now: float) -> None:
        kind = frame.type
        if frame.error is not None and kind != f.HELLO:
            # An ERROR with id 0 would end the connection, and one with the id of a request would be its answer.
            if frame.request_id and frame.request_id not in self.in_flight:
                self.send_error(frame.request_id, frame.error)
        elif kind == f.CANCEL:
            request = self.in_flight.get(frame.request_id)
            if request is not None:
                self.engine.withdraw(request, "cancelled")
                self.fail(request, make("CLIENT_CANCELLED"))
        elif kind == f.PING:
            self.send(f.PONG, request_id=frame.request_id)
        elif kind == f.STATUS:
            self.send(f.STATUS, request_id=frame.request_id, segment=self.engine.status(now))
        elif kind == f.RELOAD:
            self._on_reload(frame.request_id)
        elif kind == f.HELLO:
            self._on_hello(frame)

    def _on_reload(self, request_id: int) -> None:
        if request_id in self.in_flight or request_id == 0:
            raise ProtocolError(f"request id {request_id} is in flight already" if request_id else "request id 0")
        if not self.admin:
            self.engine.count("refused_admin_only")
            self.send_error(request_id, make("ADMIN_ONLY"))
        elif self.engine.draining:
            self.send_error(request_id, make("DRAINING"))
        elif self.engine.reloader is None:
            self.send_error(
                request_id, make("RELOAD_FAILED", problem="the daemon is still starting; ask when it is ready")
            )
        else:
            self.engine.reloader.asked(self, request_id)

    def _on_hello(self, frame: Frame) -> None:
        if frame.error is not None:
            self._turn_away(frame.error)
            return
        hello = frame.message
        assert isinstance(hello, Hello)
        error = greeting.refuse(self, hello)
        if error is not None:
            self._turn_away(error)
            return
        self.client = hello.client
        self.answers_ping = greeting.PING in hello.features
        self.engine.strangers.greeted(self)
        welcome, models = greeting.welcome(self)
        self.send(f.WELCOME, welcome, segment=models)
        if self.engine.draining:
            self.send(f.GOAWAY, GoAway())

    def _turn_away(self, error: RequestError) -> None:
        self.send_error(0, error)
        self.peer.close()
        self.flush(self.patience.heard_at)
        self.link.close()

    def _broken(self, error: ProtocolError, now: float) -> None:
        self.engine.throttle.event("protocol_error", now, peer=self.link.name, error=str(error))
        self.engine.count("connections_closed_protocol_error")
        if not error.looks_like:
            # Who speaks another protocol gets nothing back: an answer could be taken for one of its own.
            self.outbox.push(protocol_error_frame(error))
            self.flush(now)
        self.link.close()

    # ---- frames out

    def send(self, kind: int, message: Message = BARE, request_id: int = 0, segment: bytes = b"") -> None:
        """Puts a message into the outbox; `segment` is its packed values."""
        head = self.peer.send(
            kind,
            message,
            request_id,
            len(segment),
            HAS_VALUES if segment else 0,
            self.window.credits,
        )
        self._push(head + segment)

    def send_error(self, request_id: int, error: RequestError) -> None:
        """Puts how a request ended into the outbox."""
        header = header_of(error)
        self._push(pack_prefix(f.ERROR, request_id, len(header), credits=self.window.credits) + header)

    def _push(self, data: bytes) -> None:
        self.outbox.push(data)
        if self.outbox.congested:
            self.ignored += len(data)

    def fail(self, request: Request, error: RequestError) -> None:
        """The one answer of a request that has no result."""
        self._forget(request)
        self.send_error(request.id, error)

    def _forget(self, request: Request) -> None:
        del self.in_flight[request.id]
        self.unpark(request)
        key = request.header.supersede
        if key is not None and self.keys.get(key) is request:
            del self.keys[key]

    def moved(self, request: Request, plan: Plan) -> Request:
        """The request in the place of `request`, which waits no longer, with another plan."""
        moved = Request(
            self, request.id, request.header, plan, request.nbytes, request.has_values, request.due, request.arrived
        )
        moved.place = request.place
        moved.offset, moved.chunk, request.chunk = request.offset, request.chunk, None
        request.session = None
        self.in_flight[request.id] = moved
        key = request.header.supersede
        if key is not None and self.keys.get(key) is request:
            self.keys[key] = moved
        return moved

    def answer(self, request: Request, header: bytes, flags: int, arena: Arena, offset: int, nbytes: int) -> None:
        """The one answer of a request: its result, which lies in an arena."""
        self._forget(request)
        credits = self.window.credits
        head = PREFIX.pack(MAGIC, VERSION, f.RESULT, flags, credits, len(header), nbytes, request.id) + header
        self.outbox.push_result(head, arena, offset, nbytes)

    def flush(self, now: float) -> None:
        """Hands the outbox to the link. When it cannot take that, what waits here stays undone until it can."""
        congested = self.outbox.flush()
        if self.link.behind and self in self.engine.sessions:
            self.count_unsent()
            self.engine.bound_unsent(now)
        if congested:
            self.patience.taken_at = now
            for request in self.in_flight.values():
                # Not what is to run again, alone or with half of its batch: there it has its place. And no more than
                # may be kept for who does not read: the rest is computed, as if it had been asked for by another.
                if (
                    request.in_lane
                    and self.engine.holdings.may_arrive(request.nbytes, self.owner)
                    and self.engine.scheduler.withdraw(request)
                ):
                    request.state = State.NEW
                    self.park(request)

    def drained(self, now: float) -> None:
        """The link has sent everything."""
        self.patience.taken_at = now
        self.ignored = 0
        self.outbox.drained()
        self.count_unsent()
        for request in list(self.parked.values()):
            self.unpark(request)
            self.engine.submit(request, now)

    def park(self, request: Request) -> None:
        """The request waits until the link has sent enough. Its payload counts as one that has not arrived: that is
        bounded, and only its client can end it."""
        request.parked = True
        self.parked[request.id] = request
        self.engine.holdings.arriving(request.nbytes, self.owner)

    def unpark(self, request: Request) -> None:
        """It waits for that no longer."""
        if request.parked:
            request.parked = False
            del self.parked[request.id]
            self.engine.holdings.arrived(request.nbytes, self.owner)

    # ---- the end

    def go_away(self, now: float, reason: str = "DRAINING") -> None:
        """Tells the client to connect elsewhere, or again; what is in flight will be answered. Who was told for another
        reason that he should connect again is told when nobody will be there."""
        if self.peer.state == OPEN or (self.peer.state == DRAINING and reason == "DRAINING"):
            self.send(f.GOAWAY, GoAway(reason))
            self.flush(now)

    def overdue(self, now: float) -> str:
        """Why this connection should be cut now, or "". Asked every second."""
        unsent = self.link.unsent()
        # A link that was not behind does not say when the rest of a reply has left.
        self.outbox.release_sent()
        if self.unsent_bytes:
            self.count_unsent()
        why = self.patience.over(self.peer, unsent, self.outbox.taken(), self.outbox.congested, now)
        if why or not (self.answers_ping or self.in_flight or unsent):
            return why
        if self.patience.silent(now):
            return "it does not answer PING"
        if self.peer.state in (OPEN, DRAINING) and self.patience.ping_due(now):
            self.send(f.PING)
            self.flush(now)
        return ""

    def count_unsent(self) -> None:
        """Brings what the engine counts of this connection up to date."""
        unsent_bytes = self.outbox.waiting()
        self.engine.holdings.unsent_bytes += unsent_bytes - self.unsent_bytes
        self.unsent_bytes = unsent_bytes

    def late(self, now: float) -> list[Request]:
        """Those of its parked requests whose time is over."""
        return [request for request in self.parked.values() if request.due is not None and request.due <= now]

    def forget_unsent(self) -> None:
        """What is unsent will never be sent."""
        self.engine.holdings.unsent_bytes -= self.unsent_bytes
        self.unsent_bytes = 0

    def lost(self) -> None:
        """The connection is gone: nobody waits for what is in flight."""
        if self.arriving is not None:
            self.engine.holdings.arrived(self.arriving.nbytes, self.owner)
            self.arriving = None
        for request in self.in_flight.values():
            self.engine.withdraw(request, "disconnected")
        self.in_flight.clear()
        self.keys.clear()
        self.outbox.abandon()
        self.forget_unsent()
        self.peer.close()
