"""The load generator of `inferd bench`: a process that sends packed requests and times their answers.

It works on the wire's bytes: the frames come ready from `inferd bench`, only the request id is patched, and answers are
matched by the ids in their prefixes. Nothing is decoded but errors. One epoll loop, no asyncio: the less it does, the
more of what is measured is the daemon.

    stdin    a line of JSON: the Order; then, after "ready", a line with the start on the monotonic clock
    stdout   {"ready": true} or {"error": "…"}; after the run the Tally

Time is cut into warm-up, window and the wait for stragglers. A request belongs to the window in which it should have
been sent, whenever it is answered; the rate counts results that arrive within it.
"""

from __future__ import annotations

import gc
import json
import random
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

from inferd_client.base import connect_failed
from inferd_client.url import Target

from inferd.cli.bench_order import Order, Tally
from inferd.cli.bench_wire import CONNECT_S, Connection
from inferd.errors import InferdError, InvalidArgument, NotFound, ProtocolError, Unimplemented
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.frame import PREFIX_BYTES, pack_prefix
from inferd.wire.messages import Error, Hello, checked_token

# How often requests are looked at that may have been given up.
SWEEP_S = 0.05
# What has no answer so long after the window counts as unanswered, however long its timeout is.
STRAGGLER_S = 10.0

_ID = struct.Struct("<Q")
_ID_AT = PREFIX_BYTES - _ID.size


class Generator:
    """One run over its connections."""

    def __init__(self, order: Order, connections: list[Connection], start: float) -> None:
        self.order = order
        self.tally = Tally(order, start)
        self.connections = connections
        self.cpu_share = 0.0  # of a core, during the window
        self._frames = deque((bytes(frame[:_ID_AT]), memoryview(frame)[PREFIX_BYTES:]) for frame in order.frames)
        self._by_fd = {connection.sock.fileno(): connection for connection in connections}
        self._epoll = select.epoll()
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)
        self._wants_write: set[int] = set()
        self._next = 0  # the connection that an open loop uses next
        self._measuring: tuple[float, float] | None = None  # since when: the clock's and the processor's time

    def run(self, start: float) -> None:
        """Until the window is over and everything is answered, or given up."""
        order, tally = self.order, self.tally
        stop = tally.end + min(order.timeout_s, STRAGGLER_S)
        time.sleep(max(0.0, start - time.monotonic()))
        due = look_at = start
        # What was due within the window is sent, however late; callers have no schedule.
        last = start if order.callers else tally.end
        draw = random.Random(order.seed).expovariate
        if order.callers:
            self._start_callers(time.monotonic())
        while True:
            now = time.monotonic()
            if now >= look_at:
                look_at = now + SWEEP_S
                self._look(now)
                if not self._by_fd or now >= stop:
                    break
                if now >= tally.end and not any(c.in_flight for c in self._by_fd.values()):
                    break
            while due <= now and due < last:
                self._send_next(due, now)
                due += draw(order.rate)
            events = self._wait_until(min(due, look_at)) if due < last else self._epoll.poll(SWEEP_S)
            for fd, event in events:
                self._on_event(self._by_fd[fd], event)
        while due < last:  # every connection was lost before these were due
            self._send_next(due, due)
            due += draw(order.rate)
        self._give_up()

    def _wait_until(self, then: float) -> list[tuple[int, int]]:
        """Events, or none at `then`: epoll itself rounds a timeout up to whole milliseconds, select does not."""
        ready, _, _ = select.select([self._epoll.fileno()], [], [], max(0.0, then - time.monotonic()))
        return self._epoll.poll(0) if ready else []

    def _start_callers(self, now: float) -> None:
        for caller in range(self.order.callers):
            connection = self.connections[caller % len(self.connections)]
            self.tally.sent(now)
            connection.send(self._pack(connection, now))
            self._watch(connection)

    def _send_next(self, due: float, now: float) -> None:
        """One request of the open loop, on the connections in turn."""
        tally = self.tally
        tally.sent(due)
        if tally.begin <= due:
            tally.lag.add(now - due)
        if not self._by_fd:
            tally.miss(due, "UNAVAILABLE/CONNECTION_LOST", "every connection was lost")
            return
        self._next = (self._next + 1) % len(self.connections)
        connection = self.connections[self._next]
        connection.send(self._pack(connection, due))
        self._watch(connection)

    def _pack(self, connection: Connection, due: float) -> list[bytes | memoryview]:
        head, tail = self._frames[0]
        if len(self._frames) > 1:
            self._frames.rotate(-1)
        connection.last_id = request_id = connection.last_id + 1
        connection.in_flight[request_id] = due
        return [head + _ID.pack(request_id), tail]

    def _on_event(self, connection: Connection, event: int) -> None:
        if event & select.EPOLLOUT:
            connection.flush()
        if event & ~select.EPOLLOUT:
            try:
                alive = connection.receive()
            except ProtocolError as error:
                self._lost(connection, "PROTOCOL", str(error))
                return
            self._answers(connection)
            if not alive:
                self._lost(connection, "UNAVAILABLE/CONNECTION_LOST", "the connection was lost")
                return
        self._watch(connection)

    def _answers(self, connection: Connection) -> None:
        now = time.monotonic()
        tally, scanner, in_flight = self.tally, connection.scanner, connection.in_flight
        free = 0  # callers who have their answer
        for request_id in scanner.results:
            due = in_flight.pop(request_id, None)
            if due is not None:
                tally.result(due, now)
                free += 1
        scanner.results.clear()
        if scanner.others:
            free += self._other_answers(connection)
        if self.order.callers and free and now < tally.end:
            pieces: list[bytes | memoryview] = []
            for _ in range(free):
                tally.sent(now)
                pieces += self._pack(connection, now)
            connection.send(pieces)

    def _other_answers(self, connection: Connection) -> int:
        """Errors counted by their reason, PINGs answered; how many requests have ended by that."""
        ended = 0
        for kind, request_id, header in connection.scanner.others:
            if kind == f.PING:
                connection.send([pack_prefix(f.PONG, request_id, 0)])
                continue
            due = connection.in_flight.pop(request_id, None)
            if due is None:
                continue  # CREDIT and GOAWAY; and answers to what was given up
            ended += 1
            if kind == f.ERROR:
                error = Error.unpack(header)
                self.tally.miss(due, f"{error.code}/{error.reason}" if error.reason else error.code, error.message)
            else:
                self.tally.miss(due, "PROTOCOL", f"INFER was answered with message type {kind}")
        connection.scanner.others.clear()
        return ended

    def _watch(self, connection: Connection) -> None:
        """Asks for the event "writable" while there is a backlog."""
        fd = connection.sock.fileno()
        if bool(connection.backlog) != (fd in self._wants_write):
            self._wants_write ^= {fd}
            self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if connection.backlog else 0))

    def _lost(self, connection: Connection, reason: str, message: str) -> None:
        for due in connection.in_flight.values():
            self.tally.miss(due, reason, message)
        connection.in_flight.clear()
        del self._by_fd[connection.sock.fileno()]
        self.connections.remove(connection)
        connection.sock.close()  # and epoll forgets it

    def _look(self, now: float) -> None:
        """Now and then: the processor's time at the window's ends, and requests that are given up."""
        tally = self.tally
        if self._measuring is None and now >= tally.begin:
            self._measuring = (now, time.process_time())
        elif not self.cpu_share and now >= tally.end:
            self._measured(now)
        oldest = now - self.order.timeout_s
        for connection in self.connections:
            in_flight = connection.in_flight
            given_up = []
            for request_id, due in in_flight.items():
                if due > oldest:
                    break
                given_up.append(request_id)
            pieces: list[bytes | memoryview] = []
            for request_id in given_up:
                tally.miss(in_flight.pop(request_id), "NO_ANSWER", "neither result nor error came within the timeout")
                pieces.append(pack_prefix(f.CANCEL, request_id, 0))
                if self.order.callers and now < tally.end:
                    tally.sent(now)
                    pieces += self._pack(connection, now)
            if pieces:
                connection.send(pieces)
                self._watch(connection)

    def _measured(self, now: float) -> None:
        if self._measuring is not None:
            since, cpu_s = self._measuring
            self.cpu_share = (time.process_time() - cpu_s) / max(now - since, SWEEP_S)

    def _give_up(self) -> None:
        if not self.cpu_share:
            self._measured(time.monotonic())  # it ended before the window did
        for connection in self.connections:
            for due in connection.in_flight.values():
                self.tally.miss(due, "NO_ANSWER", "neither result nor error had come when the run ended")


def connect(order: Order) -> list[Connection]:
    """The connections, greeted, after one request that shows that the daemon can use these inputs."""
    address = Address.parse(order.url)
    tls = Target(order.url).tls(None, None, None)  # INFERD_CA, INFERD_CERT and INFERD_KEY, as for every verb
    connections = []
    try:
        for _ in range(order.connections):
            connection = Connection(address, tls)
            hello = Hello("inferd-bench", token=checked_token(order.token)).pack()
            greeting = pack_prefix(f.HELLO, 0, len(hello)) + hello
            kind, header = connection.exchange(greeting, f.WELCOME, time.monotonic() + CONNECT_S)
            if kind == f.ERROR:
                raise Error.unpack(header).exception(0)
            connections.append(connection)
        for frame in order.frames:
            frame = frame[:_ID_AT] + _ID.pack(1) + frame[PREFIX_BYTES:]
            kind, header = connections[0].exchange(frame, f.RESULT, time.monotonic() + order.timeout_s)
            if kind == f.ERROR:
                error = Error.unpack(header).exception(0)
                if isinstance(error, (InvalidArgument, NotFound, Unimplemented)):
                    raise error
    except OSError as error:
        raise InferdError(connect_failed(address, error).message) from error
    return connections


def _wake_on_time() -> None:
    """Asks Linux to end waits when they are over, not up to 50 µs later (prctl's PR_SET_TIMERSLACK, 29)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(29, 1)


def _say(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """The process's life."""
    order = Order.from_json(sys.stdin.readline())
    try:
        connections = connect(order)
    except InferdError as error:
        _say({"error": str(error)})
        return
    _say({"ready": True})
    line = sys.stdin.readline()
    if not line:
        return
    start: float = json.loads(line)["start"]
    _wake_on_time()
    gc.freeze()
    gc.disable()  # nothing here has cycles
    generator = Generator(order, connections, start)
    generator.run(start)
    _say({**generator.tally.to_fields(), "cpu_share": generator.cpu_share})


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
