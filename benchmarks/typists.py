"""The generator of transports.py: people who type, each over connections of their own, on openloop.py's clock and log.

A job is a JSON line on stdin, its result a JSON line on stdout. Keys are sent when they are due, whatever has become
of those before, and latency counts from then. Everything is written by hand on plain sockets, so that every byte is
counted and the generator costs little. Nothing is decoded before the window is over; then every answer is.

    transport     one of TRANSPORTS
    port, path    where the server is: TCP, HTTP and WebSocket, or the Unix socket
    texts         what is typed
    keys          for each typist [[due, text, length], …], ascending: the first `length` characters stand there now
    supersede     whether a key takes the place of its typist's one before it while that still waits; inferd only
    deadline_ms   of every key, or null; inferd only
    pids          the server's processes, whose CPU time is read at both ends
    grace_s       how long the last answers are waited for

The result is openloop.py's, and:

    last          which keys were the last of their text
    sent, received   bytes through the sockets: all of HTTP, a WebSocket's frames, the wire's frames. Not what opens a
                  connection that stays (upgrade, HELLO, WELCOME), and nothing of TCP itself
    server_cpu_s  of all `pids`
    answers       [[text, length, spans], …], every different one once
    out_of_order  answers that came after the answer to a later key of the same typist
"""

from __future__ import annotations

import base64
import gc
import json
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from load import cpu_s
from openloop import (
    CONNECT_S,
    FAILED,
    ID,
    ID_AT,
    LATE,
    OVERLOADED,
    REASONS,
    RESULT,
    SUPERSEDED,
    Log,
    Run,
    Socket,
    wake_on_time,
)
from serving import text_frame

from inferd.wire import frame as f
from inferd.wire.messages import Hello
from inferd.wire.values import unpack_values

READ_BYTES = 256 * 1024
GREETINGS_S = 5.0
# So many connections to one host a browser opens for HTTP/1.1; a request more waits in it.
BROWSER_CONNECTIONS = 6
SUPERSEDE_KEY = "box"
# RFC 6455, section 5.2.
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FIN, MASKED = 0x80, 0x80


class Key(NamedTuple):
    """One that is pressed: which text, and how much of it stands there now."""

    text: int
    length: int


class Answers(Log):
    """What becomes of the keys, and what was answered to them."""

    def __init__(self, typists: list[int]) -> None:
        super().__init__(len(typists))
        self.typists = typists
        self.newest: dict[int, int] = {}
        self.out_of_order = 0
        self.bodies: dict[int, bytes] = {}

    def answered(self, number: int, body: bytes, now: float) -> None:
        """The result of a key, still encoded."""
        self.ended(number, RESULT, now)
        self.bodies[number] = body
        typist = self.typists[number]
        if number < self.newest.get(typist, -1):
            self.out_of_order += 1
        else:
            self.newest[typist] = number


class Metered(socket.socket):
    """A socket that counts what goes through it, together with all others."""

    sent_bytes = 0
    received_bytes = 0

    def send(self, data: Any, flags: int = 0) -> int:
        """As socket.send."""
        count = super().send(data, flags)
        Metered.sent_bytes += count
        return count

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As socket.recv."""
        data = super().recv(size, flags)
        Metered.received_bytes += len(data)
        return data


def source(typist: int) -> str:
    """An address of this machine for each typist: it is by address that the daemon tells callers apart."""
    return f"127.0.{1 + typist // 250}.{1 + typist % 250}"


def tcp(port: int, typist: int) -> Metered:
    """A TCP socket that is not connected yet."""
    sock = Metered(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((source(typist), 0))
    sock.settimeout(CONNECT_S)
    return sock


class Channel(Socket):
    """A stream of bytes: what comes is given to `received` with the time."""

    def __init__(self, run: Typing, sock: socket.socket, received: Callable[[bytes, float], None]) -> None:
        self.received = received
        super().__init__(run, sock)

    def readable(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.arrived(data, time.monotonic())
        else:
            self.run.unregister(self)
            self.run.failures.append("the server closed a connection")

    def arrived(self, data: bytes, now: float) -> None:
        """Bytes from the socket."""
        self.received(data, now)

    def write(self, data: bytes) -> None:
        """To the other side."""
        self.send(data)


class WebSocket(Channel):
    """A client's WebSocket (RFC 6455), without extensions; `kind` is that of the messages it sends."""

    def __init__(
        self,
        run: Typing,
        sock: socket.socket,
        received: Callable[[bytes, float], None],
        host: str,
        kind: int,
        subprotocol: str | None,
    ) -> None:
        self.kind = kind
        self.frames = b""
        self.message = b""
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = ["GET /ws HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            some = sock.recv(1)
            if not some:
                break
            answer += some
        if not answer.startswith(b"HTTP/1.1 101"):
            raise OSError(f"no WebSocket: {answer[:200]!r}")
        super().__init__(run, sock, received)

    def write(self, data: bytes) -> None:
        """One message."""
        self.frame(self.kind, data)

    def frame(self, kind: int, data: bytes) -> None:
        """One frame, masked as a client's must be."""
        count = len(data)
        head = bytes((FIN | kind, MASKED | count)) if count < 126 else bytes((FIN | kind, MASKED | 126))
        if count >= 126:
            head += count.to_bytes(2, "big")  # nobody types 64 KiB
        mask = secrets.token_bytes(4)
        stretched = (mask * (count // 4 + 1))[:count]
        masked = int.from_bytes(data, "little") ^ int.from_bytes(stretched, "little")
        self.send(head + mask + masked.to_bytes(count, "little"))

    def arrived(self, data: bytes, now: float) -> None:
        frames = self.frames + data
        at = 0
        while len(frames) - at >= 2:
            first, count = frames[at], frames[at + 1]
            begin = at + 2
            if count >= 126:
                width = 2 if count == 126 else 8
                count = int.from_bytes(frames[begin : begin + width], "big")
                begin += width
            if len(frames) < begin + count:
                break
            payload = frames[begin : begin + count]
            at = begin + count
            kind = first & 0x0F
            if kind == PING:
                self.frame(PONG, payload)
            elif kind == CLOSE:
                self.run.failures.append(f"the server closed a WebSocket: {payload!r}")
            elif kind != PONG:
                self.message += payload
                if first & FIN:
                    message, self.message = self.message, b""
                    self.received(message, now)
        self.frames = frames[at:]


# ---- typists: how a key becomes a request, and an answer belongs to a key


class InferdTypist:
    """The wire over any channel; a request's id is its number + 1."""

    def __init__(self, run: Typing, channel: Callable[[Callable[[bytes, float], None]], Channel]) -> None:
        self.run = run
        self.buffer = b""
        self.channel = channel(self.received)
        hello = Hello("benchmark").pack()
        self.channel.write(f.pack_prefix(f.HELLO, 0, len(hello)) + hello)

    @staticmethod
    def request(text: str, job: dict[str, Any]) -> bytes:
        """An INFER."""
        return text_frame("ner", text, job["deadline_ms"], SUPERSEDE_KEY if job["supersede"] else None)

    @staticmethod
    def spans(body: bytes) -> Any:
        """Of a RESULT's payload."""
        return unpack_values(body)["spans"]

    def send(self, number: int, request: bytes) -> None:
        """A key was pressed."""
        self.channel.write(request[:ID_AT] + ID.pack(number + 1) + request[f.PREFIX_BYTES :])

    def received(self, data: bytes, now: float) -> None:
        """Some of the stream."""
        buffer = self.buffer + data
        log, at = self.run.log, 0
        while len(buffer) - at >= f.PREFIX_BYTES:
            _, _, kind, _, _, header_bytes, payload_bytes, request_id = f.PREFIX.unpack_from(buffer, at)
            payload = at + f.PREFIX_BYTES + header_bytes
            if len(buffer) < payload + payload_bytes:
                break
            if kind == f.RESULT:
                log.answered(request_id - 1, buffer[payload : payload + payload_bytes], now)
            elif kind == f.WELCOME:
                self.run.greeted += 1
            elif kind == f.ERROR:
                header = buffer[at + f.PREFIX_BYTES : payload]
                how = next((meaning for reason, meaning in REASONS if reason in header), FAILED)
                if how == FAILED:
                    self.run.failures.append(repr(header))
                if request_id:
                    log.ended(request_id - 1, how, now)
            at = payload + payload_bytes
        self.buffer = buffer[at:]


class GuideTypist:
    """A message of JSON for each key, one for each answer, in the same order: there are no ids."""

    def __init__(self, run: Typing, job: dict[str, Any], typist: int) -> None:
        self.run = run
        self.asked: deque[int] = deque()
        sock = tcp(job["port"], typist)
        sock.connect(("127.0.0.1", job["port"]))
        self.channel = WebSocket(run, sock, self.received, f"127.0.0.1:{job['port']}", TEXT, None)
        run.greeted += 1

    @staticmethod
    def request(text: str, job: dict[str, Any]) -> bytes:
        """As JSON.stringify writes it."""
        return json.dumps({"text": text}, separators=(",", ":"), ensure_ascii=False).encode()

    @staticmethod
    def spans(body: bytes) -> Any:
        """Of an answer."""
        return json.loads(body)["spans"]

    def send(self, number: int, request: bytes) -> None:
        """A key was pressed."""
        self.asked.append(number)
        self.channel.write(request)

    def received(self, message: bytes, now: float) -> None:
        """One answer."""
        self.run.log.answered(self.asked.popleft(), message, now)


class Http(Socket):
    """A connection, one request at a time."""

    def __init__(self, typist: RestTypist) -> None:
        self.typist = typist
        self.number = -1
        self.answer = b""
        sock = tcp(typist.port, typist.index)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(("127.0.0.1", typist.port))  # what is sent meanwhile waits
        super().__init__(typist.run, sock)

    def ask(self, number: int, request: bytes) -> None:
        """The connection is free."""
        self.number = number
        self.send(request)

    def readable(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        run = self.run
        if not data:
            run.unregister(self)
            self.typist.ended(self, reusable=False)
            if self.number >= 0:
                run.failures.append("the server closed a connection without an answer")
                run.log.ended(self.number, FAILED, now)
            return
        self.answer += data
        head, separator, body = self.answer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        if at < 0 or len(body) < int(lower[at + 15 :].split(b"\r\n", 1)[0]):
            return
        number, self.number, self.answer = self.number, -1, b""
        status = int(head[9:12])
        if status == 200:
            run.log.answered(number, body, now)
        else:
            how = {409: SUPERSEDED, 429: OVERLOADED, 504: LATE}.get(status, FAILED)
            if how == FAILED:
                run.failures.append(repr(head[:100] + body[:300]))
            run.log.ended(number, how, now)
        reusable = self.typist.keep_alive
        if not reusable:
            run.unregister(self)
        self.typist.ended(self, reusable)


class RestTypist:
    """A POST for each key: on a connection of its own, or on one that is kept and free, as a browser does it."""

    keep_alive = True

    def __init__(self, run: Typing, job: dict[str, Any], typist: int) -> None:
        self.run = run
        self.port = job["port"]
        self.index = typist
        self.count = 0
        self.free: list[Http] = []
        self.waiting: deque[tuple[int, bytes]] = deque()
        run.greeted += 1

    @classmethod
    def request(cls, text: str, job: dict[str, Any]) -> bytes:
        """With the headers that curl sends; a browser adds about 500 bytes."""
        parameters: dict[str, Any] = {"supersede": SUPERSEDE_KEY} if job["supersede"] else {}
        if job["deadline_ms"] is not None:
            parameters["timeout"] = int(job["deadline_ms"] * 1000)
        document: dict[str, Any] = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
        if parameters:
            document["parameters"] = parameters
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        lines = ["POST /v2/models/ner/infer HTTP/1.1", f"Host: 127.0.0.1:{job['port']}", "User-Agent: benchmark"]
        lines += ["Accept: */*", *([] if cls.keep_alive else ["Connection: close"])]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(lines).encode() + body

    @staticmethod
    def spans(body: bytes) -> Any:
        """Of a response's body: the element of the one output is JSON text."""
        return json.loads(json.loads(body)["outputs"][0]["data"][0])

    def send(self, number: int, request: bytes) -> None:
        """A key was pressed."""
        if self.free:
            self.free.pop().ask(number, request)
        elif self.count < BROWSER_CONNECTIONS:
            self.count += 1
            Http(self).ask(number, request)
        else:
            self.waiting.append((number, request))

    def ended(self, connection: Http, reusable: bool) -> None:
        """A connection has its answer, or is gone."""
        if not reusable:
            self.count -= 1
            if connection in self.free:
                self.free.remove(connection)
        else:
            self.free.append(connection)
        if self.waiting:
            self.send(*self.waiting.popleft())


class RestTypistConnecting(RestTypist):
    """A connection for each key."""

    keep_alive = False


def over_tcp(run: Typing, job: dict[str, Any], typist: int) -> InferdTypist:
    """The wire over TCP."""
    sock = tcp(job["port"], typist)
    sock.connect(("127.0.0.1", job["port"]))
    return InferdTypist(run, lambda received: Channel(run, sock, received))


def over_unix(run: Typing, job: dict[str, Any], typist: int) -> InferdTypist:
    """The wire over a Unix socket."""
    sock = Metered(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_S)
    sock.connect(job["path"])
    return InferdTypist(run, lambda received: Channel(run, sock, received))


def over_websocket(run: Typing, job: dict[str, Any], typist: int) -> InferdTypist:
    """The wire over the gateway's WebSocket."""
    sock = tcp(job["port"], typist)
    sock.connect(("127.0.0.1", job["port"]))
    host = f"127.0.0.1:{job['port']}"
    return InferdTypist(run, lambda received: WebSocket(run, sock, received, host, BINARY, "inferd.v1"))


# How a typist is made, and what a request and an answer look like.
TRANSPORTS: dict[str, tuple[Callable[..., Any], Any]] = {
    "rest, connecting": (RestTypistConnecting, RestTypistConnecting),
    "rest": (RestTypist, RestTypist),
    "websocket": (over_websocket, InferdTypist),
    "tcp": (over_tcp, InferdTypist),
    "unix": (over_unix, InferdTypist),
    "guide": (GuideTypist, GuideTypist),
}


class Typing(Run):
    """One job."""

    log: Answers

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__({"kind": "inferd", "seed": 0, "streams": [], "grace_s": job["grace_s"]})
        make, self.language = TRANSPORTS[job["transport"]]
        texts = job["texts"]
        pressed = sorted(
            (due, typist, Key(text, length)) for typist, keys in enumerate(job["keys"]) for due, text, length in keys
        )
        self.keys = [key for _, _, key in pressed]
        self.last = bytes(key.length == len(texts[key.text]) for key in self.keys)
        requests = {key: self.language.request(texts[key.text][: key.length], job) for key in set(self.keys)}
        self.arrivals = [(due, typist, requests[key]) for due, typist, key in pressed]
        self.log = Answers([typist for _, typist, _ in pressed])
        self.pids: list[int] = job["pids"]
        self.greeted = 0
        self.streams = [make(self, job, typist) for typist in range(len(job["keys"]))]

    def run(self) -> dict[str, Any]:
        """All keys, and what was answered."""
        until = time.monotonic() + GREETINGS_S
        while self.greeted < len(self.streams):
            if time.monotonic() > until or self.failures:
                raise OSError(f"{self.greeted} of {len(self.streams)} connections are open: {self.failures[:3]}")
            self.wait(until)
        Metered.sent_bytes = Metered.received_bytes = 0
        before = cpu_s(self.pids)
        found = super().run()
        return {
            **found,
            "server_cpu_s": cpu_s(self.pids) - before,
            "sent": Metered.sent_bytes,
            "received": Metered.received_bytes,
            "last": base64.b64encode(self.last).decode(),
            "out_of_order": self.log.out_of_order,
            "answers": self.answers(),
        }

    def answers(self) -> list[Any]:
        """Every different one, decoded."""
        seen: dict[tuple[Key, str], Any] = {}
        for number, body in self.log.bodies.items():
            spans = self.language.spans(body)
            seen[self.keys[number], json.dumps(spans)] = spans
        return [[key.text, key.length, spans] for (key, _), spans in seen.items()]


def main() -> None:
    """Measures until stdin ends."""
    wake_on_time()
    gc.disable()
    for line in sys.stdin:
        try:
            result = Typing(json.loads(line)).run()
        except OSError as error:
            result = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
