"""The clients' side of a fault test: raw connections that keep every request's history, on their own clock.

`Caller` is one connection, driven by hand; `Load` is several of them in threads. Both write `Call`s into a `History`,
which the invariants I1 to I3 are read from.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from inferd.wire import frame as f
from inferd.wire.messages import Error, Infer
from inferd.wire.peer import Frame
from inferd.wire.tensor import layout
from tests.faults.models import DIGEST_BYTES, NOTHING, digest
from tests.rawpeer import RawPeer

# What a caller says of a request whose connection ended before its answer.
CONNECTION_LOST = "CONNECTION_LOST"
RESULT = "RESULT"
STALL_TICK_S = 0.005


class Call:
    """One request: when it was sent, when it ended and how, in seconds of time.monotonic.

    `outcomes` has what came for it: "RESULT", an error's reason, or CONNECTION_LOST; one exactly, if all is well.
    `right` is whether a RESULT was its own (None: there was none, or the model is not Told).
    """

    __slots__ = (
        "act",
        "caller",
        "deadline_s",
        "ended_at",
        "error",
        "forgiven",
        "id",
        "outcomes",
        "right",
        "sent_at",
        "x",
    )

    def __init__(self, caller: int, id: int, x: bytes, act: int, deadline_s: float | None) -> None:
        self.caller = caller
        self.id = id
        self.x = x
        self.act = act
        self.deadline_s = deadline_s
        self.sent_at = time.monotonic()
        self.ended_at = 0.0
        self.outcomes: list[str] = []
        self.right: bool | None = None
        self.forgiven = False  # set by a test: I3 does not hold for it, and the test says why
        self.error: Error | None = None

    @property
    def outcome(self) -> str:
        """How it ended; "" while it has not."""
        return self.outcomes[0] if self.outcomes else ""

    @property
    def took_s(self) -> float:
        """From sending to its end."""
        return self.ended_at - self.sent_at

    def __repr__(self) -> str:
        return f"<call {self.caller}/{self.id} act={self.act} {self.outcomes} after {self.took_s * 1000:.1f} ms>"


class History:
    """Every call of a test. `strays` are answers to no request that was open."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.strays: list[str] = []
        self._callers = 0
        self._lock = threading.Lock()

    def next_caller(self) -> int:
        """A number for one more connection."""
        with self._lock:
            self._callers += 1
            return self._callers

    def outcomes(self, calls: list[Call] | None = None) -> Counter[str]:
        """How many ended how."""
        return Counter(outcome for call in (self.calls if calls is None else calls) for outcome in call.outcomes)

    def took_ms(self, share: float = 0.99, since: float = 0.0, until: float = float("inf")) -> float:
        """The time that `share` of the results sent in [since, until) stayed under, in milliseconds."""
        times = sorted(c.took_s for c in self.calls if c.outcome == RESULT and since <= c.sent_at < until)
        return times[min(int(share * len(times)), len(times) - 1)] * 1000 if times else 0.0


class Caller:
    """One connection that asks the model Told. Close it, or leave its `with`: what is open then is CONNECTION_LOST."""

    def __init__(self, url: str, history: History, model: str = "told", size: int = 64, reply_bytes: int = 0) -> None:
        self.history = history
        self.number = history.next_caller()
        self.model = model
        self.size = size
        self.reply_bytes = reply_bytes or DIGEST_BYTES
        self.open: dict[int, Call] = {}
        self.going_away = False
        self.credits = 1
        self._last_id = 0
        self._nonce = os.urandom(16)
        self._table, self._end = layout([("x", "UINT8", (size,))])
        self.raw = RawPeer(url)
        self.raw.sock.settimeout(60)
        self._poll = select.poll()
        self._poll.register(self.raw.sock, select.POLLIN)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, act: int = NOTHING, deadline_ms: float | None = None, **header: Any) -> Call:
        """Sends one request. Raises OSError when the connection is gone; the call has ended then."""
        self._last_id += 1
        own = bytes([act]) + self._last_id.to_bytes(8, "little") + self.number.to_bytes(4, "little") + self._nonce
        x = (own * -(-self.size // len(own)))[: self.size]
        call = Call(self.number, self._last_id, x, act, None if deadline_ms is None else deadline_ms / 1000)
        message = Infer(self.model, self._table, self._end, deadline_ms=deadline_ms, **header)
        self.history.calls.append(call)
        self.open[call.id] = call
        try:
            self.raw.sock.sendall(self.raw.peer.send(f.INFER, message, call.id, len(x)) + x)
        except OSError:
            self._lost()
            raise
        return call

    def cancel(self, call: Call) -> None:
        """Takes a request back; it ends with one outcome all the same."""
        self.raw.sock.sendall(self.raw.peer.send(f.CANCEL, request_id=call.id))

    def receive(self, timeout_s: float = 60.0) -> Call | None:
        """Takes the next frame in: the call it ends; None when it ends none, or nothing came in that time. Raises
        EOFError or OSError at the connection's end, with all open calls ended."""
        try:
            frame = self._next(timeout_s)
        except (EOFError, OSError):
            self._lost()
            raise
        if frame is None:
            return None
        now = time.monotonic()
        self.credits = frame.credits
        if frame.type == f.GOAWAY:
            self.going_away = True
        if frame.type not in (f.RESULT, f.ERROR):
            return None
        outcome = frame.message.reason if isinstance(frame.message, Error) else RESULT
        call = self.open.pop(frame.request_id, None)
        if call is None:
            if frame.request_id or outcome == RESULT:
                self.history.strays.append(f"{outcome} for request {frame.request_id} of caller {self.number}")
            return None
        call.ended_at = now
        call.outcomes.append(outcome)
        if isinstance(frame.message, Error):
            call.error = frame.message
        else:
            call.right = bytes(frame.payload or b"") == digest(call.x) * (self.reply_bytes // DIGEST_BYTES)
        return call

    def _next(self, timeout_s: float) -> Frame | None:
        """The next frame, complete; None when the time is over."""
        peer, sock = self.raw.peer, self.raw.sock
        deadline = time.monotonic() + timeout_s
        while True:
            frame = peer.next_frame()
            if frame is None:
                if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return None
                nbytes = sock.recv_into(peer.get_buffer())
                if not nbytes:
                    raise EOFError
                peer.buffer_updated(nbytes)
            elif not frame.complete:
                peer.accept(memoryview(bytearray(frame.payload_bytes)))
            else:
                return frame

    def call(self, act: int = NOTHING, deadline_ms: float | None = None, **header: Any) -> Call:
        """Sends one request and returns when it has ended."""
        call = self.send(act, deadline_ms, **header)
        while not call.outcomes:
            self.receive()
        return call

    def finish(self, timeout_s: float = 30.0) -> None:
        """Returns when every open call has ended, or the time is over: what is open then has no outcome (I1)."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(EOFError, OSError):
            while self.open and (left_s := deadline - time.monotonic()) > 0:
                self.receive(left_s)

    def _lost(self) -> None:
        now = time.monotonic()
        for call in self.open.values():
            call.outcomes.append(CONNECTION_LOST)
            call.ended_at = now
        self.open.clear()

    def close(self) -> None:
        """Ends the connection."""
        self._lost()
        self.raw.sock.close()


class Load:
    """Closed-loop callers in threads: each connection keeps `depth` requests open, and waits `pause_s` after an answer.

    A connection that ends is made again, unless the server has gone away for good. `act` says what the n-th request of
    a caller does to its worker.
    """

    def __init__(
        self,
        urls: list[str],
        history: History,
        callers: int = 4,
        depth: int = 2,
        pause_s: float = 0.0,
        deadline_ms: float | None = None,
        act: Callable[[int], int] = lambda n: NOTHING,
        **caller: Any,
    ) -> None:
        self.history = history
        self._urls = urls
        self._depth = depth
        self._pause_s = pause_s
        self._deadline_ms = deadline_ms
        self._act = act
        self._caller = caller
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, timeout_s: float = 40.0) -> None:
        """Sends nothing more, and returns when every request has ended."""
        self._stop.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def answered(self) -> int:
        """How many results have come so far."""
        return sum(call.outcome == RESULT for call in self.history.calls)

    def _run(self, number: int) -> None:
        sent = 0
        while not self._stop.is_set():
            try:
                with Caller(self._urls[number % len(self._urls)], self.history, **self._caller) as caller:
                    sent = self._converse(caller, sent)
                    caller.finish()
            except (EOFError, OSError):
                self._stop.wait(0.05)

    def _converse(self, caller: Caller, sent: int) -> int:
        while not self._stop.is_set() and not caller.going_away:
            while len(caller.open) < min(self._depth, caller.credits):
                sent += 1
                caller.send(self._act(sent), self._deadline_ms)
            if caller.receive(0.1) is not None and self._pause_s:
                self._stop.wait(self._pause_s)
        return sent


class StallMeter:
    """How late this process itself is: a timer of 5 ms, and when it rang. On a busy machine a client reads its clock
    late, and the daemon must not be blamed for that."""

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []  # (until, seconds), those worth knowing
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[StallMeter]:
        """Measures until the block ends."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(STALL_TICK_S):
            now = time.monotonic()
            late = now - last - STALL_TICK_S
            if late > STALL_TICK_S:
                self._stalls.append((now, late))
            last = now

    def stalled_s(self, since: float, until: float) -> float:
        """For how long this process stood still in that time, all in all."""
        return sum(seconds for at, seconds in self._stalls if since <= at <= until + 0.05)
