"""The generator's side of a connection, on the wire's bytes: whose answers came is read from their prefixes, and
nothing is decoded."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from inferd_client.connection import dial, unsent

from inferd.errors import InferdError, ProtocolError
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.frame import MAGIC, PREFIX, PREFIX_BYTES, VERSION, Limits

if TYPE_CHECKING:
    from ssl import SSLContext

RECEIVE_BYTES = 256 * 1024
MAX_HEADER_BYTES = Limits().header_bytes
# Up to this size the requests of several callers are copied into one write.
JOIN_BYTES = 16 * 1024
MAX_PIECES = 1000  # in one gathered write; Linux takes 1,024
CONNECT_S = 5.0


class Scanner:
    """The frames in a stream of answers, without their payloads: `results` are the ids of the RESULTs, `others` are
    (type, id, header) of the rest. Whoever reads them empties them."""

    def __init__(self) -> None:
        self.results: list[int] = []
        self.others: list[tuple[int, int, bytes]] = []
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._kept = 0  # bytes of an incomplete prefix and header, at the start of the buffer
        self._skip = 0  # bytes of a payload that are still on the way
        self._current = (0, 0, b"")

    def get_buffer(self) -> memoryview:
        """Where the next bytes shall be received."""
        return self._view[self._kept :]

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` have been received there. Raises ProtocolError."""
        at, end = 0, self._kept + nbytes
        if self._skip:
            at = min(self._skip, nbytes)
            self._skip -= at
            if self._skip:
                return
            self._arrived(*self._current)
        buffer, unpack = self._buffer, PREFIX.unpack_from
        while end - at >= PREFIX_BYTES:
            magic, version, kind, _, _, header_bytes, payload_bytes, request_id = unpack(buffer, at)
            if magic != MAGIC or version != VERSION:
                raise ProtocolError("the answer is not an inferd frame")
            if header_bytes > MAX_HEADER_BYTES:
                raise ProtocolError(f"the answer has a header of {header_bytes} bytes")
            header_end = at + PREFIX_BYTES + header_bytes
            if header_end > end:
                break
            header = b"" if kind == f.RESULT else bytes(self._view[at + PREFIX_BYTES : header_end])
            at = header_end + payload_bytes
            if at > end:
                self._current = (kind, request_id, header)
                self._skip = at - end
                at = end
                break
            if kind == f.RESULT:
                self.results.append(request_id)
            else:
                self.others.append((kind, request_id, header))
        self._kept = end - at
        if self._kept and at:
            self._view[: self._kept] = self._view[at:end]

    def _arrived(self, kind: int, request_id: int, header: bytes) -> None:
        if kind == f.RESULT:
            self.results.append(request_id)
        else:
            self.others.append((kind, request_id, header))


class Connection:
    """A socket with requests in flight."""

    def __init__(self, address: Address, tls: SSLContext | None) -> None:
        self.sock = dial(address, CONNECT_S, tls)
        self.scanner = Scanner()
        self.in_flight: dict[int, float] = {}  # id → when it was due; the oldest comes first
        self.backlog: list[bytes | memoryview] = []  # what the socket has not taken
        self.last_id = 0
        self._receive = self.sock.recv_into

    def exchange(self, frame: bytes, answer: int, deadline: float) -> tuple[int, bytes]:
        """Sends a frame and waits for the one answer, of type `answer` or ERROR; its type and header."""
        self.send([frame])
        poll = select.poll()
        while (remaining := deadline - time.monotonic()) > 0:
            poll.register(self.sock, select.POLLIN | (select.POLLOUT if self.backlog else 0))
            if not poll.poll(remaining * 1000):
                break
            self.flush()
            if not self.receive():
                raise InferdError("the daemon closed the connection")
            scanner = self.scanner
            if scanner.results:
                scanner.results.clear()
                return f.RESULT, b""
            while scanner.others:
                kind, _, header = scanner.others.pop(0)
                if kind in (answer, f.ERROR):
                    return kind, header
        raise InferdError(f"the daemon did not answer a {f.TYPE_NAMES[frame[4]]} in time")

    def receive(self) -> bool:
        """Takes in what the socket has; False when it has ended."""
        try:
            nbytes = self._receive(self.scanner.get_buffer())
        except BlockingIOError:
            return True
        except OSError:
            return False
        if nbytes:
            self.scanner.buffer_updated(nbytes)
        return nbytes > 0

    def send(self, pieces: list[bytes | memoryview]) -> None:
        """Writes as much as the socket takes; the rest is backlog."""
        if self.backlog:
            self.backlog += pieces
            return
        if len(pieces) > 1 and len(pieces[1]) <= JOIN_BYTES:
            pieces = [b"".join(pieces)]
        self.backlog = pieces
        self.flush()

    def flush(self) -> None:
        """Writes the backlog as far as the socket takes it."""
        while self.backlog:
            try:
                self.backlog = unsent(self.backlog, self.sock.sendmsg(self.backlog[:MAX_PIECES]))
            except BlockingIOError:
                return
            except OSError:
                self.backlog = []  # the next receive says so
