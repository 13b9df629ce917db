"""The load generator: a closed loop of callers in a process of its own, with as little work per reply as Python allows.

A job is a JSON line on stdin, its result a JSON line on stdout (`Job` and `measure` have the fields). Each caller
sends, waits for its reply, and sends again. Callers share connections evenly. The frames are packed beforehand; only
the request id is patched. A read may bring many replies: each is found by its prefix, checked, timed, and its caller
sends again, all callers of one read in one write. A reply is timed when the read that completed it returns, from when
its request was handed to the transport.

Every reply must be a RESULT of the right sizes to an id that is in flight here; one in CHECK_EVERY is compared byte
by byte when the server is an echo. Anything else ends the run.
"""

from __future__ import annotations

import array
import asyncio
import gc
import json
import os
import random
import socket
import struct
import sys
import time
from typing import Any, NamedTuple, cast

import uvloop

from inferd.wire import frame as f
from inferd.wire import messages
from inferd.wire.tensor import layout

# Of the 24-byte prefix, what a reply is known by: type, both lengths as one number, request id.
REPLY = struct.Struct("<4xB3xQQ")
ID = struct.Struct("<Q")
ID_AT = 16
LENGTH = struct.Struct("<I")

SLOT_BITS = 10
SLOTS = 1 << SLOT_BITS  # callers on one connection, at most
SMALL_BUFFER_BYTES = 256 * 1024
LARGE_BYTES = 64 * 1024  # from here on a payload is sent from where it lies
CHECK_EVERY = 64
CHECK_EVERY_LARGE = 8
DRAIN_S = 20.0


class Job(NamedTuple):
    """What to measure. `pids` are the server's processes, whose CPU time is read at both ends of the window."""

    kind: str  # "inferd" or "raw"
    port: int
    callers: int
    connections: int
    shape: list[int]  # of the one float32 input
    seconds: float
    warm_s: float
    pids: list[int]
    model: str = ""
    echo: bool = True


def cpu_s(pids: list[int]) -> float:
    """CPU time of the processes so far: user and system of all their threads, to the nanosecond.

    It is the counter behind utime and stime of /proc/PID/stat, which are rounded to 10 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


class Failed(Exception):
    """The server's answers are not what they must be, so there is nothing to measure."""


class Window:
    """What the connections of one job have in common."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.latencies = array.array("d")
        self.checked = 0
        self.stopping = False
        self.open = 0  # connections with callers that wait
        self.over: asyncio.Future[None] = loop.create_future()

    def done(self) -> None:
        """A connection has nothing in flight any more."""
        self.open -= 1
        if self.open == 0 and not self.over.done():
            self.over.set_result(None)

    def fail(self, why: str) -> None:
        """The run is worth nothing."""
        if not self.over.done():
            self.over.set_exception(Failed(why))


class Connection(asyncio.BufferedProtocol):
    """One connection and its callers. `heads` has a frame for each, or what comes before `payload`."""

    def __init__(self, window: Window, heads: list[bytearray], payload: bytes | None, reply_bytes: int) -> None:
        self.window = window
        self.heads = heads
        self.payload = payload
        self.reply_bytes = reply_bytes
        callers = len(heads)
        self.sent = [0.0] * callers
        self.waiting = callers
        self.unchecked = 0
        self.check_every = 0  # 0: never
        # A large reply ends where the buffer ends, so that nothing has ever to be moved.
        self.buffer = bytearray(reply_bytes if payload is not None else SMALL_BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view[self.end :]

    def start(self) -> None:
        """Every caller's first request."""
        self.send(list(range(len(self.heads))))

    def send(self, slots: list[int]) -> None:
        """One write for the callers in `slots`."""
        sent, heads, payload = self.sent, self.heads, self.payload
        now = time.perf_counter()
        for slot in slots:
            sent[slot] = now
        if payload is not None:
            self.transport.writelines([part for slot in slots for part in (heads[slot], payload)])
        elif len(slots) == 1:
            self.transport.write(heads[slots[0]])
        else:
            self.transport.write(b"".join([heads[slot] for slot in slots]))

    def stopped(self, replies: int) -> None:
        """The window is over: who has its reply sends no more."""
        self.waiting -= replies
        if self.waiting == 0:
            self.window.done()

    def compare(self, at: int, expected: bytes | bytearray) -> None:
        """A sample: the payload that ends at `at` must be what was sent."""
        self.unchecked = 0
        self.window.checked += 1
        if self.buffer[at - len(expected) : at] != expected:
            self.window.fail("an echo came back with other bytes")

    def keep(self, at: int, end: int) -> None:
        """Moves a reply that is not complete to the buffer's start."""
        if at and at != end:
            self.view[: end - at] = self.view[at:end]
        self.end = end - at

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting:
            self.window.fail(f"the server closed a connection with {self.waiting} requests in flight: {error}")


class InferdConnection(Connection):
    """Frames of inferd; the low bits of a request id are its caller."""

    def __init__(self, window: Window, heads: list[bytearray], payload: bytes | None, head: bytes) -> None:
        _, self.lengths, _ = REPLY.unpack_from(head)
        header_bytes, payload_bytes = self.lengths & 0xFFFF_FFFF, self.lengths >> 32
        super().__init__(window, heads, payload, f.PREFIX_BYTES + header_bytes + payload_bytes)
        self.ids = [SLOTS + slot for slot in range(len(heads))]
        self.payload_bytes = payload_bytes
        for request_id, frame in zip(self.ids, heads, strict=True):
            ID.pack_into(frame, ID_AT, request_id)

    def buffer_updated(self, nbytes: int) -> None:
        now = time.perf_counter()
        end = self.end + nbytes
        at = 0
        buffer, heads, ids, sent = self.buffer, self.heads, self.ids, self.sent
        lengths, reply_bytes, result = self.lengths, self.reply_bytes, f.RESULT
        record = self.window.latencies.append
        unpack, pack = REPLY.unpack_from, ID.pack_into
        slots: list[int] = []
        while end - at >= f.PREFIX_BYTES:
            kind, has_lengths, request_id = unpack(buffer, at)
            slot = request_id & (SLOTS - 1)
            if kind != result or has_lengths != lengths or ids[slot] != request_id:
                skipped = self.unexpected(at, end)
                if not skipped:
                    return
                at += skipped
                continue
            if end - at < reply_bytes:
                break
            at += reply_bytes
            record(now - sent[slot])
            ids[slot] = request_id = request_id + SLOTS
            pack(heads[slot], ID_AT, request_id)
            slots.append(slot)
        if slots:
            self.unchecked += len(slots)
            if self.check_every and self.unchecked >= self.check_every:
                self.compare(at, self.payload or heads[slots[-1]][-self.payload_bytes :])
            if self.window.stopping:
                self.stopped(len(slots))
            else:
                self.send(slots)
        self.keep(at, end)

    def unexpected(self, at: int, end: int) -> int:
        """Credits are stepped over: the bytes to skip. Anything else ends the run."""
        _, _, kind, _, _, header_bytes, payload_bytes, request_id = f.PREFIX.unpack_from(self.buffer, at)
        if kind == f.CREDIT and header_bytes == payload_bytes == 0:
            return f.PREFIX_BYTES
        start = at + f.PREFIX_BYTES
        header = bytes(self.buffer[start : min(end, start + header_bytes)])
        name = f.TYPE_NAMES.get(kind, str(kind))
        self.window.fail(f"{name} to {request_id} with {header_bytes} + {payload_bytes} bytes: {header[:300]!r}")
        self.transport.abort()
        return 0


class RawConnection(Connection):
    """A 4-byte length and a payload; replies come in the order of the requests, so callers take turns."""

    def __init__(self, window: Window, heads: list[bytearray], payload: bytes | None, payload_bytes: int) -> None:
        super().__init__(window, heads, payload, 4 + payload_bytes)
        self.turn = 0

    def buffer_updated(self, nbytes: int) -> None:
        now = time.perf_counter()
        end = self.end + nbytes
        at = 0
        buffer, sent = self.buffer, self.sent
        callers, reply_bytes, turn = len(sent), self.reply_bytes, self.turn
        record = self.window.latencies.append
        unpack = LENGTH.unpack_from
        slots: list[int] = []
        while end - at >= 4:
            (length,) = unpack(buffer, at)
            if length + 4 != reply_bytes:
                self.window.fail(f"a reply of {length} bytes")
                self.transport.abort()
                return
            if end - at < reply_bytes:
                break
            at += reply_bytes
            record(now - sent[turn])
            slots.append(turn)
            turn += 1
            if turn == callers:
                turn = 0
        self.turn = turn
        if slots:
            self.unchecked += len(slots)
            if self.check_every and self.unchecked >= self.check_every:
                self.compare(at, self.payload or self.heads[slots[-1]][4:])
            if self.window.stopping:
                self.stopped(len(slots))
            else:
                self.send(slots)
        self.keep(at, end)


# ---- before the loop: connect, shake hands, learn what a reply looks like


def numbers(count: int, seed: int) -> bytes:
    """`count` float32 that a model can take. Large payloads repeat themselves after 4096."""
    source = random.Random(seed)
    some = array.array("f", [source.gauss(0.0, 1.0) for _ in range(min(count, 4096))]).tobytes()
    return (some * (4 * count // len(some) + 1))[: 4 * count]


def receive(sock: socket.socket, nbytes: int) -> bytes:
    """Exactly `nbytes`."""
    data = bytearray()
    while len(data) < nbytes:
        some = sock.recv(nbytes - len(data))
        if not some:
            raise Failed("the server closed the connection")
        data += some
    return bytes(data)


def receive_frame(sock: socket.socket, expected: int) -> tuple[bytes, bytes, bytes]:
    """A frame of inferd: prefix, header, payload."""
    prefix = receive(sock, f.PREFIX_BYTES)
    _, _, kind, _, _, header_bytes, payload_bytes, _ = f.PREFIX.unpack(prefix)
    header, payload = receive(sock, header_bytes), receive(sock, payload_bytes)
    if kind != expected:
        raise Failed(f"{f.TYPE_NAMES.get(kind, kind)} instead of {f.TYPE_NAMES[expected]}: {header[:300]!r}")
    return prefix, header, payload


def connect(port: int) -> socket.socket:
    """A connection to a server of this machine."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def open_inferd(job: Job, window: Window, payloads: list[bytes]) -> tuple[socket.socket, Connection]:
    """Connects, says HELLO, and tries one request, whose result is decoded and checked."""
    sock = connect(job.port)
    hello = messages.Hello("benchmark").pack()
    sock.sendall(f.pack_prefix(f.HELLO, 0, len(hello)) + hello)
    receive_frame(sock, f.WELCOME)
    table, end = layout([("x", "FP32", tuple(job.shape))])
    header = messages.Infer(job.model, table, end).pack()
    head = f.pack_prefix(f.INFER, 1, len(header), end) + header
    sock.sendall(head + payloads[0])
    prefix, answer, payload = receive_frame(sock, f.RESULT)
    result = messages.Result.unpack(answer)
    if result.tensor_end != len(payload) or not payload:
        raise Failed("the result's table does not fit its payload")
    if job.echo and (result.tensors != table or payload != payloads[0]):
        raise Failed("the echo is not what was sent")
    large = payloads[0] if end >= LARGE_BYTES else None
    heads = [bytearray(head if large else head + own) for own in payloads]
    return sock, InferdConnection(window, heads, large, prefix)


def open_raw(job: Job, window: Window, payloads: list[bytes]) -> tuple[socket.socket, Connection]:
    """Connects."""
    size = len(payloads[0])
    head = LENGTH.pack(size)
    large = payloads[0] if size >= LARGE_BYTES else None
    heads = [bytearray(head if large else head + own) for own in payloads]
    return connect(job.port), RawConnection(window, heads, large, size)


# ---- the window


async def measure(job: Job) -> dict[str, Any]:
    """Runs one job: warm-up, window, and until the last reply is there."""
    loop = asyncio.get_running_loop()
    window = Window(loop)
    count = 1
    for size in job.shape:
        count *= size
    open_one = open_inferd if job.kind == "inferd" else open_raw
    connections: list[Connection] = []
    for index in range(job.connections):
        # 64 callers on 8 connections are 8 each; what does not divide goes to the first ones.
        callers = job.callers // job.connections + (index < job.callers % job.connections)
        seed = index * SLOTS
        large = 4 * count >= LARGE_BYTES
        payloads = [numbers(count, seed)] * callers if large else [numbers(count, seed + n) for n in range(callers)]
        sock, connection = open_one(job, window, payloads)
        if job.echo:
            connection.check_every = CHECK_EVERY_LARGE if large else CHECK_EVERY
        sock.setblocking(False)
        await loop.create_connection(lambda connection=connection: connection, sock=sock)  # type: ignore[misc]
        connections.append(connection)
    window.open = len(connections)
    for connection in connections:
        connection.start()

    async def pause(seconds: float) -> None:
        await asyncio.wait([window.over], timeout=seconds)
        if window.over.done():
            window.over.result()

    own = [os.getpid()]
    await pause(job.warm_s)
    server, client, started = cpu_s(job.pids), cpu_s(own), time.perf_counter()
    before = len(window.latencies)
    await pause(job.seconds)
    server, client, seconds = cpu_s(job.pids) - server, cpu_s(own) - client, time.perf_counter() - started
    latencies = sorted(window.latencies[before:])
    window.stopping = True
    await asyncio.wait_for(window.over, DRAIN_S)
    for connection in connections:
        connection.transport.close()
    if not latencies:
        raise Failed(f"no reply in {job.seconds} s")
    return {
        "replies": len(latencies),
        "seconds": seconds,
        "checked": window.checked,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
        "server_cpu_s": server,
        "client_cpu_s": client,
    }


def main() -> None:
    """Measures until stdin ends."""
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            try:
                result = runner.run(measure(Job(**json.loads(line))))
            except (Failed, OSError, TimeoutError) as error:
                result = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
