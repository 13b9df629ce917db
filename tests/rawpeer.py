"""A client for tests that want to misbehave: a blocking socket and the wire's own peer, nothing else."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Error, Hello, Infer
from inferd.wire.peer import CLIENT, Frame, Peer
from inferd.wire.tensor import layout


class RawPeer:
    """One connection. `frames` hands out what the server says; payloads are copied into memory of their own."""

    def __init__(self, url: str, greet: bool = True, receive_buffer_bytes: int = 0) -> None:
        address = Address.parse(url)
        if address.path:
            self.sock = socket.socket(socket.AF_UNIX)
            where: Any = address.path
        else:
            self.sock = socket.socket(socket.AF_INET)
            where = (address.host, address.port)
        if receive_buffer_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.sock.settimeout(10)
        self.sock.connect(where)
        self.peer = Peer(CLIENT)
        self.credits = 0
        if greet:
            with contextlib.suppress(BrokenPipeError):  # it is turned away already: next() says how
                self.sock.sendall(self.peer.send(f.HELLO, Hello("test")))
            assert self.next().type == f.WELCOME

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def infer(self, request_id: int, model: str, x: bytes, shape: tuple[int, ...], **header: Any) -> None:
        """Sends a request with one FP32 tensor `x`."""
        self.sock.sendall(self.packed(request_id, model, x, shape, **header))

    def packed(self, request_id: int, model: str, x: bytes, shape: tuple[int, ...], **header: Any) -> bytes:
        table, end = layout([("x", "FP32", shape)])
        return self.peer.send(f.INFER, Infer(model, table, end, **header), request_id, len(x)) + x

    def next(self) -> Frame:
        """The next frame, complete. Raises EOFError at the end of the stream."""
        while True:
            frame = self.peer.next_frame()
            if frame is None:
                nbytes = self.sock.recv_into(self.peer.get_buffer())
                if not nbytes:
                    raise EOFError
                self.peer.buffer_updated(nbytes)
            elif not frame.complete:
                self.peer.accept(memoryview(bytearray(frame.payload_bytes)))
            else:
                frame.payload = memoryview(bytes(frame.payload or b""))
                return frame

    def outcomes(self, count: int) -> dict[int, str]:
        """The next `count` answers: id → "RESULT", or the error's reason."""
        found: dict[int, str] = {}
        for _ in range(count):
            frame = self.next()
            assert frame.request_id not in found
            found[frame.request_id] = frame.message.reason if isinstance(frame.message, Error) else "RESULT"
        return found

    def rest(self) -> bytes:
        """Everything until the server closes, as it comes."""
        data = b""
        while piece := self.sock.recv(65536):
            data += piece
        return data
