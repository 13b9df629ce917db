"""The client's half of a conversation, without the socket: bytes in, buffers out, `now` is an argument.

It knows one connection's calls (call.py), their ids and credits, what the server said, and what is to be said to it.
The shells (connection.py for threads, aio_connection.py for asyncio) move bytes and wait. After anything that was
received, given back or lost, they wake the callers of the calls in `changed` and write what is in `outbox`.

An INFER counts against the credits until the server has answered it, also when nobody waits for it any more: only the
server knows when it is rid of it.

Of the calls with one `supersede` key at most one is unsent, the newest: a newer one takes its place in the queue here,
as it would at the server.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from inferd._version import __version__
from inferd.errors import InferdError, ProtocolError, RequestError, make
from inferd.wire import frame as f
from inferd.wire.frame import Limits, pack_prefix
from inferd.wire.messages import Error, Hello, Welcome
from inferd.wire.peer import CLIENT, Frame, Peer
from inferd_client.call import ANSWERS, DONE, GRANTED, MOVED, SENT, WAITING, Call
from inferd_client.codec import JOIN_BYTES, Buffer, decode

# So long a connection may be silent while requests are on their way, until one that times out takes it for dead.
SILENCE_S = 20.0

# What is told of a caller's time at most: as much as every reader's numbers hold. It is for ever.
MAX_DEADLINE_MS = 1 << 53

# How TLS 1.3 says that a certificate is not accepted: the client has finished its handshake by then.
NOT_ADMITTED = (
    "the server closed the connection before WELCOME; mostly it does not accept the certificate that was shown with "
    "cert=…, or asks for one"
)

CLIENT_NAME = f"inferd-python/{__version__}"
ANONYMOUS = Hello(CLIENT_NAME)


class Conversation:
    """One connection's calls and what the server said about itself. `address` is for error messages, `hello` the first
    thing that is said."""

    def __init__(self, address: str, hello: Hello = ANONYMOUS) -> None:
        self.address = address
        self._hello = hello
        self.greeting = Call(f.HELLO, math.inf, 0.0)
        self.changed: list[Call] = []  # calls whose callers are to be woken
        self.outbox: deque[Buffer] = deque()  # what is to be written: PONG, CANCEL, and the rest of a frame cut short
        self.closed = False
        self.draining = False
        self.silent = False  # a call has timed out, and nothing was heard for long: who knows whether anybody is there
        self.credits = 1
        self.payload_limit = Limits().payload_bytes
        self.models: list[dict[str, Any]] = []
        self._peer = Peer(CLIENT)
        self.get_buffer = self._peer.get_buffer
        self._last_id = 0
        self._pending: dict[int, Call] = {}
        self._waiting: deque[Call] = deque()  # for credits
        self._unanswered = 0  # INFERs granted or sent and not answered
        self._abandoned: set[int] = set()  # INFERs among these for which nobody waits
        self._newest: dict[str, Call] = {}  # by supersede key, as long as it is not DONE or MOVED
        self._expected: Frame | None = None  # whose payload is received into memory of its own
        self._silent_since = math.inf  # when the first request was started after which nothing has been received

    @property
    def usable(self) -> bool:
        """Whether it takes new calls."""
        return not (self.closed or self.draining or self.silent)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not (self._pending or self._waiting)

    @property
    def load(self) -> int:
        """How many calls wait for an answer, or for credits."""
        return len(self._pending) + len(self._waiting)

    # ---- calls

    def hello(self) -> bytes:
        """The first bytes to write; `greeting` is the call that ends with the server's WELCOME."""
        self.greeting.state = SENT
        self._pending[0] = self.greeting
        return self._peer.send(f.HELLO, self._hello)

    def open(self, call: Call) -> None:
        """Takes a call in: it is GRANTED when it may be started now, otherwise WAITING for credits, or MOVED.

        Raises InvalidArgument if its payload is over the server's limit.
        """
        call.home = self
        if call.cancelled:
            self._finish(call, None, make("CLIENT_CANCELLED"))
            return
        if not self.usable:
            call.state = MOVED
            return
        if call.request is None:
            call.state = GRANTED
            return
        if call.request.payload_bytes > self.payload_limit:
            raise make("PAYLOAD_TOO_LARGE", actual=call.request.payload_bytes, limit=self.payload_limit)
        if call.request.supersede is not None and self._settled_by_key(call, call.request.supersede):
            return
        if self._unanswered < self.credits and not self._waiting:
            self._unanswered += 1
            call.state = GRANTED
        else:
            call.state = WAITING
            self._waiting.append(call)

    def _settled_by_key(self, call: Call, key: str) -> bool:
        """Compares a call with the last one that had its key: the older of them ends here if it has not been sent.

        True if that says what becomes of `call`: its end, or the other's place.
        """
        other = self._newest.get(key)
        if other is not None and other.number > call.number:
            # It comes late, from a connection that has ended.
            self._finish(call, None, make("SUPERSEDED"))
            return True
        self._newest[key] = call
        if other is None or other.state == SENT:
            return False
        if other.state == WAITING:
            self._waiting[self._waiting.index(other)] = call
        call.state = other.state
        self._finish(other, None, make("SUPERSEDED"))
        return True

    def start(self, call: Call, now: float) -> list[Buffer]:
        """The buffers to write for a GRANTED call, which is SENT then.

        There are none if it is not SENT: it is MOVED, or WAITING because the window has shrunk, or DONE because a newer
        call took its place.
        """
        if call.state != GRANTED:
            return []
        if not self.usable:
            self._give_credit_back(call)
            self._leave(call, MOVED)
            return []
        if call.request is not None and self._unanswered > self.credits:
            self._unanswered -= 1
            call.state = WAITING
            insort(self._waiting, call, key=attrgetter("number"))
            return []
        self._last_id += 1
        call.id = self._last_id
        call.state = SENT
        self._pending[call.id] = call
        if now < self._silent_since:
            self._silent_since = now
        request = call.request
        if request is None:
            return [pack_prefix(call.kind, call.id, 0)]
        # Rounded up to whole milliseconds, so that one timeout gives one header.
        left_ms = min(max(math.ceil((call.deadline - now) * 1000), 0), MAX_DEADLINE_MS)
        header = request.plan.header(left_ms, request.supersede)
        flags = f.HAS_VALUES if request.values else 0
        head = pack_prefix(f.INFER, call.id, len(header), request.payload_bytes, flags) + header
        if request.payload_bytes <= JOIN_BYTES and request.pieces:
            return [head + request.pieces[0]]  # a payload as small as this is one piece
        return [head, *request.pieces]

    def abandon(self, call: Call) -> None:
        """The caller stopped waiting. What was sent is cancelled, and a late answer is forgotten.

        If its time was up after a long silence, nothing may be at the other end any more: a frozen machine, a proxy
        that has lost the server. No more calls are taken here then, so that the next makes a connection that works. The
        others stay, because it may just as well be a slow model.
        """
        if call.state == WAITING and call in self._waiting:
            self._waiting.remove(call)
        # Also of one that waited for a credit: those may all be with calls that were given up long before.
        if call.expired and call.deadline - self._silent_since >= SILENCE_S:
            self.silent = True
            self._move_waiting()
        if call.state == GRANTED:
            self._give_credit_back(call)
        elif call.state == SENT:
            del self._pending[call.id]
            if call.kind == f.INFER:
                self._abandoned.add(call.id)
                self.outbox.append(self._peer.send(f.CANCEL, request_id=call.id))
        self._leave(call, DONE)

    def cancel(self, call: Call) -> None:
        """Another than its caller takes a call back: if it is here, it is DONE, and Cancelled."""
        if call.home is self and call.state in (WAITING, GRANTED, SENT):
            self.abandon(call)
            call.error = make("CLIENT_CANCELLED")
            self.changed.append(call)

    def _give_credit_back(self, call: Call) -> None:
        if call.request is not None:
            self._unanswered -= 1
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._unanswered < self.credits:
            call = self._waiting.popleft()
            self._unanswered += 1
            call.state = GRANTED
            self.changed.append(call)

    # ---- bytes in

    def received(self, nbytes: int) -> None:
        """`nbytes` have been received into the last `get_buffer()`.

        Whatever this raises (there was no memory for a payload, or a signal's handler raises), the conversation has
        failed: frames may have been taken in half.
        """
        if self.closed:
            return
        peer = self._peer
        try:
            self._silent_since = math.inf
            peer.buffer_updated(nbytes)
            while (frame := peer.next_frame()) is not None:
                self._on_frame(frame)
        except ProtocolError as error:
            text, looks_like = f"{self.address}: {error}", error.looks_like
            self.fail(lambda: ProtocolError(text, looks_like))
        except BaseException:
            self.broken()
            raise

    def broken(self) -> None:
        """The connection is of no use any more: it has ended, or nobody knows how much was received or sent."""
        self.fail(lambda: make("CONNECTION_LOST", address=self.address))

    def lost(self) -> None:
        """The connection ended: end of file, or an error of the socket."""
        if self.draining and not self.closed:
            self._send_away()
        if self.greeting.state == DONE:
            self.broken()
        elif self.address.startswith("inferds://"):
            self.fail(lambda: make("TLS", address=self.address, problem=NOT_ADMITTED))
        else:
            problem = "the connection was closed before WELCOME"
            self.fail(lambda: make("CONNECT_FAILED", address=self.address, problem=problem))

    def fail(self, error: Callable[[], InferdError]) -> None:
        """Ends the conversation: every call that was sent fails with an `error()` of its own."""
        if self.closed:
            return
        self.closed = True
        self._peer.close()
        self.outbox.clear()
        pending, self._pending = self._pending, {}
        for call in pending.values():
            self._finish(call, None, error())
        self._move_waiting()

    def _send_away(self) -> None:
        """After GOAWAY the connection ended: what crossed it on the way was never read, and what the server gave up is
        as good as that."""
        pending, self._pending = self._pending, {}
        for call in pending.values():
            self._move(call, make("CONNECTION_LOST", address=self.address))

    def _move(self, call: Call, error: RequestError) -> None:
        """The server did not take a call that was sent; `error` is for those who do not send it elsewhere."""
        error.request_id = call.id
        call.error = error
        self._leave(call, MOVED)
        self.changed.append(call)

    def _move_waiting(self) -> None:
        for call in self._waiting:
            self._leave(call, MOVED)
            self.changed.append(call)
        self._waiting.clear()

    def _leave(self, call: Call, state: int) -> None:
        """The call is DONE or MOVED: what becomes of it is no longer decided here."""
        call.state = state
        if call.request is not None and call.request.supersede is not None:
            key = call.request.supersede
            if self._newest.get(key) is call:
                del self._newest[key]

    def _finish(self, call: Call, frame: Frame | None, error: InferdError | None) -> None:
        if isinstance(error, RequestError):
            error.request_id = call.id
        call.frame = frame
        call.error = error
        self._leave(call, DONE)
        self.changed.append(call)

    def _answered(self, frame: Frame) -> Call | None:
        """The call that `frame` answers, taken off the books; None if nobody waits for it."""
        call = self._pending.pop(frame.request_id, None)
        if call is None:
            if frame.request_id not in self._abandoned:
                return None
            self._abandoned.remove(frame.request_id)
        if call is None or call.request is not None:
            self._unanswered -= 1
        return call

    def _on_frame(self, frame: Frame) -> None:
        if frame.credits and frame.credits != self.credits:
            self.credits = frame.credits
        if not frame.complete and not self._expect(frame):
            return
        kind = frame.type
        if kind == f.RESULT or kind == f.STATUS or kind == f.PONG:
            self._on_answer(frame)
        elif kind == f.ERROR:
            self._on_error(frame)
        elif kind == f.PING:
            self.outbox.append(self._peer.send(f.PONG, request_id=frame.request_id))
        elif kind == f.GOAWAY:
            self.draining = True
            self._move_waiting()
        elif kind == f.WELCOME:
            self._on_welcome(frame)
        # CREDIT has said what it says in its prefix, and a message of a later version is skipped.
        if self._waiting:
            self._grant()

    def _expect(self, frame: Frame) -> bool:
        """Says where a payload on the way goes. True: nobody needs it, so the frame is dealt with now."""
        wanted = frame.type == f.WELCOME or (frame.type in (f.RESULT, f.STATUS) and frame.request_id in self._pending)
        if not wanted or frame.error is not None:
            self._peer.accept(None)
            return True
        self._peer.accept(memoryview(bytearray(frame.payload_bytes)))
        self._expected = frame
        return False

    def _on_answer(self, frame: Frame) -> None:
        call = self._answered(frame)
        received_apart = frame is self._expected
        if received_apart:
            self._expected = None  # also where its caller has given up meanwhile
        if call is None:
            return
        error: ProtocolError | None = None
        if frame.error is not None:
            error = ProtocolError(f"{self.address}: {frame.error.message}")
        elif frame.type != ANSWERS[call.kind]:
            answer = f.TYPE_NAMES[frame.type]
            error = ProtocolError(f"{self.address} answered {f.TYPE_NAMES[call.kind]} with {answer}")
        elif frame.payload is not None and not received_apart:
            # It lies in the receive buffer, which the next read overwrites.
            frame.payload = memoryview(bytearray(frame.payload))
        self._finish(call, frame, error)

    def _on_error(self, frame: Frame) -> None:
        message = frame.message
        if not isinstance(message, Error):
            problem = frame.error.message if frame.error is not None else ""
            message = Error("UNKNOWN", "", f"{self.address} sent an error that cannot be read: {problem}")
        request_id = frame.request_id
        if request_id == 0:
            self.fail(lambda: message.exception(0))
            return
        call = self._answered(frame)
        if call is not None:
            error = message.exception(request_id)
            if error.reason == "DRAINING":
                self.draining = True
                self._move(call, error)
                self._move_waiting()
                return
            if error.reason == "INPUT_MISSING" and call.request is not None:
                error = call.request.not_a_tensor(self.models) or error
            self._finish(call, None, error)

    def _on_welcome(self, frame: Frame) -> None:
        message = frame.message
        self._expected = None
        if not isinstance(message, Welcome):
            problem = frame.error.message if frame.error is not None else ""
            raise ProtocolError(f"WELCOME cannot be read: {problem}")
        self.payload_limit = message.limits.get("payload_bytes", self.payload_limit)
        largest = max(self.payload_limit, message.limits.get("result_bytes", 0), self._peer.limits.payload_bytes)
        self._peer.limits = Limits(payload_bytes=largest)
        assert frame.payload is not None
        models = decode((), 0, bool(frame.flags & f.HAS_VALUES), frame.payload).get("models", [])
        if not (isinstance(models, list) and all(isinstance(model, dict) for model in models)):
            raise ProtocolError("WELCOME has no list of models")
        self.models = models
        del self._pending[0]
        self._finish(self.greeting, frame, None)
