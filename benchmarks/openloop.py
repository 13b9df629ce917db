"""The open-loop generator: requests are sent when they are due, whatever has become of those before.

A job is a JSON line on stdin, its result a JSON line on stdout (`measure` has the fields). Arrivals are drawn before
the run, frames are packed before it; within it a request costs one write and a few numbers. What was sent and how it
ended goes back as columns: when it was due, after how long it was answered, how, and to which stream it belongs.

Latency counts from when a request was due, not from when it was sent, so a generator that falls behind shows up as
latency and cannot flatter the server (Tene, "How NOT to Measure Latency", 2015). Credits are ignored on purpose.

Streams are callers of one kind:

    source       the address they come from, which is how the daemon tells clients apart
    connections  how many; requests take them in turn
    plan         [[seconds, requests a second], …]: Poisson arrivals, one pace after the other
    times        instead of a plan: [[due, frame], …]
    frames       INFER frames, or HTTP requests, in base64
    probe_s      above 0: what comes after the header is held back for so long, and sent then if there was no answer
"""

from __future__ import annotations

import array
import base64
import gc
import json
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from inferd.wire import frame as f
from inferd.wire.messages import Hello

# How a request ended.
NONE, RESULT, OVERLOADED, LATE, SUPERSEDED, FAILED = range(6)

ID = struct.Struct("<Q")
ID_AT = f.PREFIX_BYTES - ID.size
BUFFER_BYTES = 256 * 1024
# Connections of an HTTP stream, one request on each at a time.
MOST_HTTP = 4096
CONNECT_S = 5.0


class Log:
    """What becomes of the requests, by their number."""

    def __init__(self, count: int) -> None:
        self.due = array.array("d", bytes(8 * count))
        self.latency = array.array("f", bytes(4 * count))
        self.outcome = bytearray(count)
        self.open = 0

    def ended(self, number: int, how: int, now: float) -> None:
        if self.outcome[number] == NONE:
            self.outcome[number] = how
            self.latency[number] = now - self.due[number]
            self.open -= 1


class Socket:
    """A socket that takes what it can now and the rest later."""

    def __init__(self, run: Run, sock: socket.socket) -> None:
        self.run = run
        self.sock = sock
        self.backlog = bytearray()
        sock.setblocking(False)
        run.register(self)

    def send(self, data: bytes) -> None:
        if not self.backlog:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the next receive says so
            if sent == len(data):
                return
            data = data[sent:]
            self.run.wants_write(self, True)
        self.backlog += data

    def writable(self) -> None:
        with suppress(OSError):
            del self.backlog[: self.sock.send(self.backlog)]
        if not self.backlog:
            self.run.wants_write(self, False)

    def readable(self) -> None:
        raise NotImplementedError


class Inferd(Socket):
    """A connection that speaks the wire; a request's id is its number + 1."""

    def __init__(self, run: Run, sock: socket.socket) -> None:
        hello = Hello("benchmark").pack()
        sock.sendall(f.pack_prefix(f.HELLO, 0, len(hello)) + hello)
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.end = 0
        self.last = -1
        self.held = b""  # what a probe has not sent yet
        super().__init__(run, sock)

    def readable(self) -> None:
        try:
            nbytes = self.sock.recv_into(self.view[self.end :])
        except BlockingIOError:
            return
        except OSError:
            nbytes = 0
        if not nbytes:
            self.run.unregister(self)
            return
        now = time.monotonic()
        log, unpack, buffer = self.run.log, f.PREFIX.unpack_from, self.buffer
        at, end = 0, self.end + nbytes
        while end - at >= f.PREFIX_BYTES:
            _, _, kind, _, _, header_bytes, payload_bytes, request_id = unpack(buffer, at)
            after = at + f.PREFIX_BYTES + header_bytes + payload_bytes
            if after > end:
                break
            if kind == f.RESULT:
                log.ended(request_id - 1, RESULT, now)
            elif kind == f.ERROR and request_id:
                header = buffer[at + f.PREFIX_BYTES : after]
                how = FAILED
                for reason, meaning in REASONS:
                    if reason in header:
                        how = meaning
                        break
                else:
                    self.run.failures.append(repr(bytes(header)))
                log.ended(request_id - 1, how, now)
            at = after
        self.end = end - at
        if at and self.end:
            self.view[: self.end] = self.view[at:end]


REASONS = ((b"OVERLOADED", OVERLOADED), (b"TIMEOUT", LATE), (b"SUPERSEDED", SUPERSEDED))


class Http(Socket):
    """A kept-alive connection; one request at a time."""

    def __init__(self, run: Run, sock: socket.socket, stream: HttpStream) -> None:
        self.stream = stream
        self.number = -1
        self.answer = b""
        super().__init__(run, sock)

    def ask(self, number: int, request: bytes) -> None:
        self.number = number
        self.send(request)

    def readable(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        if not data:
            self.run.unregister(self)
            if self.number >= 0:
                self.run.log.ended(self.number, FAILED, now)
            self.stream.gone(self)
            return
        self.answer += data
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return
        status = int(head[9:12])
        how = {200: RESULT, 429: OVERLOADED, 408: LATE, 504: LATE}.get(status, FAILED)
        if how == FAILED:
            self.run.failures.append(repr(head[:100]))
        number, self.number, self.answer = self.number, -1, b""
        self.run.log.ended(number, how, now)
        self.stream.free_again(self)


class InferdStream:
    """Connections in turn."""

    def __init__(self, run: Run, job: dict[str, Any], stream: dict[str, Any]) -> None:
        self.run = run
        self.sockets = deque(
            Inferd(run, connect(job["port"], stream.get("source", ""))) for _ in range(stream["connections"])
        )
        self.probe_s = stream.get("probe_s", 0.0)

    def send(self, number: int, frame: bytes) -> None:
        sockets = self.sockets
        connection = sockets[0]
        sockets.rotate(-1)
        frame = frame[:ID_AT] + ID.pack(number + 1) + frame[f.PREFIX_BYTES :]
        if not self.probe_s:
            connection.send(frame)
            return
        if connection.held:
            self._rest(connection)  # too many probes at once: this one's predecessor goes early
        connection.last = number
        _, _, _, _, _, header_bytes, _, _ = f.PREFIX.unpack_from(frame)
        cut = f.PREFIX_BYTES + header_bytes
        connection.held = frame[cut:]
        connection.send(frame[:cut])
        self.run.later(time.monotonic() + self.probe_s, lambda: self._late(connection, number))

    def _late(self, connection: Inferd, number: int) -> None:
        if connection.last == number and connection.held:
            self._rest(connection)

    def _rest(self, connection: Inferd) -> None:
        # The payload is due after a refusal as well: that is how the stream stays in step.
        data, connection.held = connection.held, b""
        connection.send(data)


class HttpStream:
    """As many kept-alive connections as there are requests in flight."""

    def __init__(self, run: Run, job: dict[str, Any], stream: dict[str, Any]) -> None:
        self.run = run
        self.port = job["port"]
        self.waiting: deque[tuple[int, bytes]] = deque()
        self.free: list[Http] = []
        self.count = 0
        for _ in range(stream["connections"]):
            self.free.append(self._open())

    def _open(self) -> Http:
        self.count += 1
        return Http(self.run, connect(self.port, ""), self)

    def send(self, number: int, request: bytes) -> None:
        if self.free:
            self.free.pop().ask(number, request)
        elif self.count < MOST_HTTP:
            self._open().ask(number, request)
        else:
            self.waiting.append((number, request))

    def free_again(self, connection: Http) -> None:
        if self.waiting:
            connection.ask(*self.waiting.popleft())
        else:
            self.free.append(connection)

    def gone(self, connection: Http) -> None:
        self.count -= 1
        if connection in self.free:
            self.free.remove(connection)


class Run:
    """One job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.epoll = select.epoll()
        self.sockets: dict[int, Socket] = {}
        self.failures: list[str] = []
        self.lag = array.array("f")
        self.timers: deque[tuple[float, Callable[[], None]]] = deque()
        arrivals: list[tuple[float, int, bytes]] = []  # when, stream, frame
        for index, stream in enumerate(job["streams"]):
            frames = [base64.b64decode(frame) for frame in stream["frames"]]
            draw = random.Random(job["seed"] * 1009 + index)
            if "times" in stream:
                arrivals += [(due, index, frames[frame]) for due, frame in stream["times"]]
                continue
            begin, number = 0.0, 0
            for seconds, rate in stream["plan"]:
                due = begin + (draw.expovariate(rate) if rate else seconds)
                while due < begin + seconds:
                    arrivals.append((due, index, frames[number % len(frames)]))
                    number += 1
                    due += draw.expovariate(rate)
                begin += seconds
        arrivals.sort(key=lambda arrival: arrival[0])
        self.arrivals = arrivals
        self.log = Log(len(arrivals))
        kind = HttpStream if job["kind"] == "http" else InferdStream
        self.streams = [kind(self, job, stream) for stream in job["streams"]]
        self.grace_s = job["grace_s"]

    def register(self, connection: Socket) -> None:
        fd = connection.sock.fileno()
        self.sockets[fd] = connection
        self.epoll.register(fd, select.EPOLLIN)

    def unregister(self, connection: Socket) -> None:
        fd = connection.sock.fileno()
        if self.sockets.pop(fd, None) is not None:
            self.epoll.unregister(fd)
            connection.sock.close()

    def wants_write(self, connection: Socket, wants: bool) -> None:
        fd = connection.sock.fileno()
        if fd in self.sockets:
            self.epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wants else 0))

    def later(self, at: float, what: Callable[[], None]) -> None:
        """Once, at that time; those who ask ask for ever later times."""
        self.timers.append((at, what))

    def wait(self, until: float) -> None:
        """Events, at most until then: epoll itself would round up to whole milliseconds."""
        fd = self.epoll.fileno()
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return
        for number, event in self.epoll.poll(0):
            connection = self.sockets.get(number)
            if connection is None:
                continue
            if event & select.EPOLLOUT:
                connection.writable()
            if event & ~select.EPOLLOUT:
                connection.readable()

    def run(self) -> dict[str, Any]:
        """All requests, then the wait for the last answers."""
        settled = time.monotonic() + 0.05
        while time.monotonic() < settled:  # the greetings
            self.wait(settled)
        log, arrivals, senders = self.log, self.arrivals, [stream.send for stream in self.streams]
        count, number = len(arrivals), 0
        start = time.monotonic() + 0.01
        for index, arrival in enumerate(arrivals):
            log.due[index] = start + arrival[0]
        cpu, began = time.process_time(), time.monotonic()
        last = log.due[-1] if count else start
        while True:
            now = time.monotonic()
            while number < count and log.due[number] <= now:
                _, stream, frame = arrivals[number]
                log.open += 1
                self.lag.append(now - log.due[number])
                senders[stream](number, frame)
                number += 1
            while self.timers and self.timers[0][0] <= now:
                self.timers.popleft()[1]()
            if number == count and (not log.open or now > last + self.grace_s):
                break
            until = log.due[number] if number < count else last + self.grace_s
            if self.timers:
                until = min(until, self.timers[0][0])
            self.wait(until)
        share = (time.process_time() - cpu) / (time.monotonic() - began)
        for connection in list(self.sockets.values()):
            self.unregister(connection)
        self.epoll.close()
        streams = array.array("H", [arrival[1] for arrival in arrivals])
        columns = {
            "due": array.array("d", [due - start for due in log.due]).tobytes(),
            "latency": log.latency.tobytes(),
            "outcome": bytes(log.outcome),
            "stream": streams.tobytes(),
            "lag": self.lag.tobytes(),
        }
        return {
            **{name: base64.b64encode(column).decode() for name, column in columns.items()},
            "cpu_share": share,
            "failures": self.failures[:3],
        }


def connect(port: int, source: str) -> socket.socket:
    """A connection to this machine, from that address of this machine."""
    sock = socket.create_connection(("127.0.0.1", port), CONNECT_S, (source, 0) if source else None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one job: kind ("inferd" or "http"), port, seed, grace_s, streams."""
    return Run(job).run()


def wake_on_time() -> None:
    """Asks Linux to end waits when they are over, not up to 50 µs later (prctl's PR_SET_TIMERSLACK, 29)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(29, 1)


def main() -> None:
    """Measures until stdin ends."""
    wake_on_time()
    gc.disable()
    for line in sys.stdin:
        try:
            result = measure(json.loads(line))
        except OSError as error:
            result = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
