"""Clients and their connections, without sockets. The kernel's buffers, a reader's pace and the order of events are
here; the daemon's end of a connection is a real Session, and this module's `Line` is its Link.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inferd.errors import ProtocolError
from inferd.serve.engine import Engine
from inferd.serve.session import Session
from inferd.wire import frame as f
from inferd.wire.frame import Limits
from inferd.wire.messages import Error, Hello, Infer
from inferd.wire.peer import CLIENT, Frame, Peer
from inferd.wire.tensor import layout
from tests.sim.machine import answer, payload
from tests.sim.story import FINE, Step
from tests.sim.virtual import VirtualLoop

HIGH_WATER_BYTES = 64 * 1024  # serve/listener.py: set_write_buffer_limits
KERNEL_BYTES = 200_000
READ_BYTES = 64 * 1024


@dataclass
class Call:
    """One request, as its client sees it."""

    id: int
    kind: int
    data: bytes
    reply_bytes: int
    rows: int
    deadline_s: float | None
    dubious: bool  # sent behind bytes that the daemon cannot understand
    sent_at: float = math.inf  # when the first of its bytes left
    whole_at: float = math.inf  # when the last of its bytes had left
    cancelled: bool = False
    superseding: bool = False
    repeated: bool = False  # its id was sent once more, which may have been free again by then
    outcomes: list[tuple[float, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"request {self.id} of kind {self.kind}, {len(self.data)} bytes, sent at {self.sent_at:.4f}"


class Line:
    """A connection, from both of its ends. To the session it is its Link."""

    def __init__(self, client: Client, engine: Engine, loop: VirtualLoop, turn_cost_s: float) -> None:
        self.name = f"client {client.number}"
        self.behind = False
        self.copies = False
        self.gone = False
        self.closing = False
        self.closed_at = math.inf  # when the daemon wanted it to end
        self.was_slow = client.rate is not None
        self.dubious = False
        self.silent = False
        self.vanished = False
        self.opened_at = loop.time()
        self.calls: dict[int, Call] = {}
        self._client = client
        self._engine = engine
        self._loop = loop
        self._turn_cost_s = turn_cost_s
        self._peer = Peer(CLIENT, Limits(payload_bytes=4 << 20))
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._kernel = bytearray()  # what has left the daemon and was not read yet
        self._pieces: deque[tuple[float, bytes, Call | None, bool]] = deque()
        self._pumping = False
        self._arrived: deque[memoryview] = deque()  # in the daemon's kernel
        self._reading = False
        self._resting = False
        self.session = Session(engine, self, engine.holdings.client(f"ip:{client.number}"), engine.clock())
        engine.sessions.add(self.session)
        engine.strangers.add(self.session, engine.clock())

    # ---- Link: what the session does

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, buffers: list[bytes | memoryview]) -> None:
        if self.gone:
            return
        for buffer in buffers:
            self._unsent.append(memoryview(buffer))
            self._unsent_bytes += len(buffer)
        self._fill_kernel()
        if self._unsent_bytes > HIGH_WATER_BYTES:
            self.behind = True

    def unsent(self) -> int:
        return self._unsent_bytes

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.closed_at = self._loop.time()
            self._loop.call_soon(self._end_if_sent)

    def abort(self) -> None:
        self.closing = True
        self.closed_at = min(self.closed_at, self._loop.time())
        self._loop.call_soon(self._lost)

    # ---- the daemon's kernel

    def _fill_kernel(self) -> None:
        room = self._client.kernel_bytes - len(self._kernel)
        while self._unsent and room > 0:
            first = self._unsent[0]
            self._kernel += first[:room]
            taken = min(room, len(first))
            room -= taken
            self._unsent_bytes -= taken
            if taken == len(first):
                self._unsent.popleft()
            else:
                self._unsent[0] = first[taken:]
        if self._kernel and not self._reading and not self._resting:
            self._reading = True
            self._loop.call_soon(self._client_reads)

    def _writable(self) -> None:
        if self.gone:
            return
        self._fill_kernel()
        if not self._unsent:
            if self.behind:
                self.behind = False
                self.session.drained(self._engine.clock())
            self._end_if_sent()

    def _end_if_sent(self) -> None:
        if self.closing and not self._unsent:
            self._lost()

    def _lost(self) -> None:
        """Either end has ended it."""
        if self.gone:
            return
        self.gone = True
        self._engine.sessions.discard(self.session)
        self._engine.strangers.discard(self.session)
        self.session.lost()
        self._unsent.clear()
        self._unsent_bytes = 0
        self._arrived.clear()
        # What has left the daemon can still be read.
        while self._kernel and not self.vanished:
            self._client_takes(READ_BYTES)
        self._client.line_lost(self)

    def _session_reads(self) -> None:
        if self.gone or self.closing or not self._arrived:
            return
        first = self._arrived[0]
        buffer = self.session.peer.get_buffer()
        nbytes = min(len(buffer), len(first), READ_BYTES)
        buffer[:nbytes] = first[:nbytes]
        if nbytes == len(first):
            self._arrived.popleft()
        else:
            self._arrived[0] = first[nbytes:]
        now = self._engine.clock()
        self._loop.spend(self._turn_cost_s)
        self.session.received(nbytes, now)
        if self._arrived:
            self._loop.call_soon(self._session_reads)

    # ---- the client's end

    def send(self, data: bytes, call: Call | None = None, last: bool = True, after_s: float = 0.0) -> None:
        """Sends behind all that was sent before, `after_s` later than that; `last` is the last part of a request."""
        self._pieces.append((after_s, data, call, last))
        if not self._pumping:
            self._pump()

    def _pump(self) -> None:
        self._pumping = False
        while self._pieces and not self.gone:
            after_s, data, call, last = self._pieces[0]
            if after_s:
                self._pieces[0] = (0.0, data, call, last)
                self._pumping = True
                self._loop.call_later(after_s, self._pump)
                return
            self._pieces.popleft()
            if data:
                self._arrived.append(memoryview(data))
                if len(self._arrived) == 1:
                    self._loop.call_soon(self._session_reads)
            if call is not None:
                call.sent_at = min(call.sent_at, self._loop.time())
                if last:
                    call.whole_at = self._loop.time()

    def wake(self) -> None:
        """The client reads at another pace from here on."""
        self._resting = False
        if not self.gone:
            self._fill_kernel()

    def _client_reads(self) -> None:
        self._reading = False
        if self.gone or self.vanished:
            return
        rate = self._client.rate
        if rate == 0:
            self._resting = True
            return
        nbytes = READ_BYTES if rate is None else max(1, min(READ_BYTES, rate // 50))
        self._client_takes(nbytes)
        self._loop.call_soon(self._writable)
        if rate is not None:
            self._resting = True
            self._loop.call_later(nbytes / rate, self.wake)
        elif self._kernel:
            self._reading = True
            self._loop.call_soon(self._client_reads)

    def _client_takes(self, nbytes: int) -> None:
        data, self._kernel = self._kernel[:nbytes], self._kernel[nbytes:]
        while data:
            buffer = self._peer.get_buffer()
            taken = min(len(buffer), len(data))
            buffer[:taken] = data[:taken]
            data = data[taken:]
            self._peer.buffer_updated(taken)
            try:
                while (frame := self._peer.next_frame()) is not None:
                    if frame.complete:
                        self._client.heard(self, frame)
                    else:
                        self._peer.accept(memoryview(bytearray(frame.payload_bytes)))
            except ProtocolError as error:
                self._client.complain(f"the daemon sends what is no frame: {error}")
                return

    def greet(self) -> None:
        """HELLO."""
        self.send(self._peer.send(f.HELLO, Hello("sim")))

    def vanish(self) -> None:
        """The client resets the connection."""
        self.vanished = True
        self._loop.call_soon(self._lost)


class Client:
    """One client: follows the story, and keeps what it was told."""

    def __init__(self, number: int, engine: Engine, loop: VirtualLoop, turn_cost_s: float) -> None:
        self.number = number
        self.rate: int | None = None  # bytes a second; None: at once
        self.kernel_bytes = KERNEL_BYTES
        self.calls: list[tuple[Line, Call]] = []
        self.lines: list[Line] = []
        self.wrong: list[str] = []
        self.may_connect: Callable[[], bool] = lambda: True
        self._engine = engine
        self._loop = loop
        self._turn_cost_s = turn_cost_s
        self._ids = itertools.count(1)
        self._numbers = itertools.count(number << 32)

    def complain(self, what: str) -> None:
        self.wrong.append(f"{self._loop.time():.4f} client {self.number}: {what}")

    # ---- what it does

    def _line(self, greets: bool = True) -> Line | None:
        if self.lines and not self.lines[-1].gone and not self.lines[-1].closing and not self.lines[-1].silent:
            return self.lines[-1]
        if not self.may_connect():
            return None
        line = Line(self, self._engine, self._loop, self._turn_cost_s)
        self.lines.append(line)
        if greets:
            line.greet()
        return line

    def do(self, step: Step) -> None:
        """One step of the story."""
        if step.what == "slow":
            self.rate, self.kernel_bytes = step.args["rate"], step.args["kernel_bytes"]
            for line in self.lines:
                line.was_slow = True
            self._loop.call_later(step.args["for_s"], self.hurry)
            return
        if step.what in ("stranger", "silent"):
            self._strange(step.what)
            return
        line = self._line()
        if line is None:
            return
        if step.what in ("infer", "stall"):
            self._infer(line, step.what == "stall", step.args)
        elif step.what == "cancel":
            waiting = [call for call in line.calls.values() if not call.outcomes and not call.cancelled]
            if waiting:
                call = waiting[step.args["nth"] % len(waiting)]
                call.cancelled = True
                line.send(f.pack_prefix(f.CANCEL, call.id, 0))
        elif step.what == "ping":
            line.send(f.pack_prefix(f.PING, 7, 0))
        elif step.what == "status":
            line.send(f.pack_prefix(f.STATUS, 8, 0))
        elif step.what == "reload":
            line.send(f.pack_prefix(f.RELOAD, 1 << 50, 0))
        elif step.what == "vanish":
            line.vanish()
        elif step.what == "repeat":
            waiting = [call for call in line.calls.values() if not call.outcomes]
            if waiting:
                line.dubious = waiting[0].repeated = True
                line.send(self._head(waiting[0].id, 16) + payload(FINE, 16, 0, 16))
        elif step.what == "garbage":
            line.dubious = True
            nbytes, bit = step.args["payload_bytes"], step.args["bit"]
            data = bytearray(self._head(next(self._ids), nbytes) + payload(FINE, 16, 0, nbytes or 16)[:nbytes])
            data[bit // 8] ^= 1 << bit % 8
            line.send(bytes(data))

    def _strange(self, what: str) -> None:
        if self.may_connect():
            line = Line(self, self._engine, self._loop, self._turn_cost_s)
            self.lines.insert(0, line)
            line.silent = line.dubious = True
            if what == "stranger":
                line.send(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")

    def _head(self, request_id: int, nbytes: int, model: str = "plain", rows: int = 0, **header: Any) -> bytes:
        table, end = layout([("x", "UINT8", (rows, nbytes // rows) if rows else (nbytes,))])
        packed = Infer(model, table, end, rows, **header).pack()
        return f.pack_prefix(f.INFER, request_id, len(packed), nbytes) + packed

    def _infer(self, line: Line, stalls: bool, args: dict[str, Any]) -> None:
        rows = args.get("rows", 0)
        nbytes = args["payload_bytes"] - (args["payload_bytes"] % rows if rows else 0)
        if nbytes < 16:
            nbytes = 16 * max(1, rows)
        deadline_s = args.get("deadline_s")
        header = {name: args[name] for name in ("model", "priority", "supersede", "timing") if name in args}
        if deadline_s is not None:
            header["deadline_ms"] = deadline_s * 1000
        kind = args.get("kind", FINE)
        data = payload(kind, args["reply_bytes"], next(self._numbers), nbytes)
        call = Call(next(self._ids), kind, data, args["reply_bytes"], rows, deadline_s, line.dubious)
        call.superseding = "supersede" in args
        line.calls[call.id] = call
        self.calls.append((line, call))
        head = self._head(call.id, nbytes, rows=rows, **header)
        if stalls:
            line.dubious = True
            line.send(head + data[: int(args["share"] * (nbytes - 1))], call, last=False)
            return
        pieces = args.get("pieces", 1)
        step = -(-nbytes // pieces)
        line.send(head + data[:step], call, last=step >= nbytes)
        for at in range(step, nbytes, step):
            line.send(data[at : at + step], call, at + step >= nbytes, args["pause_s"])

    def hurry(self) -> None:
        """It reads all there is from here on."""
        self.rate, self.kernel_bytes = None, KERNEL_BYTES
        for line in self.lines:
            line.wake()

    # ---- what it hears

    def heard(self, line: Line, frame: Frame) -> None:
        if frame.error is not None:
            self.complain(f"a frame that cannot be read: {frame.error}")
        elif frame.type == f.PING:
            line.send(f.pack_prefix(f.PONG, frame.request_id, 0))
        elif frame.type in (f.RESULT, f.ERROR) and frame.request_id:
            self._ended(line, frame)

    def _ended(self, line: Line, frame: Frame) -> None:
        what = frame.message.reason if isinstance(frame.message, Error) else "RESULT"
        call = line.calls.get(frame.request_id)
        if call is None:
            if not line.dubious and frame.request_id != 1 << 50:
                self.complain(f"I1: {what} for request {frame.request_id}, which was never sent")
            return
        if call.outcomes and (call.repeated or line.dubious):
            return  # the answer to bytes that happened to have its id
        call.outcomes.append((self._loop.time(), what))
        if len(call.outcomes) > 1:
            self.complain(f"I1: {call} ended twice: {call.outcomes}")
        known = call.whole_at < math.inf and not call.repeated
        if what == "RESULT" and known and bytes(frame.payload or b"") != answer(call.data):
            self.complain(f"I2: {call} got an answer that is not its own")

    def line_lost(self, line: Line) -> None:
        now = self._loop.time()
        for call in line.calls.values():
            if not call.outcomes:
                call.outcomes.append((now, "gone"))
