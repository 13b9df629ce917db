"""Two real peers and the link between them, which is nothing but bytes handed over in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inferd.errors import RequestError
from inferd.wire import frame as f
from inferd.wire import messages as m
from inferd.wire.messages import Message
from inferd.wire.peer import CLIENT, GREETING, OPEN, SERVER, START, Frame, Peer
from inferd.wire.tensor import layout

# Whole, byte by byte, in odd pieces, and as a small socket buffer would cut it.
PIECES = (1 << 30, 1, 7, 4096)

Place = Callable[[Frame], memoryview | None]


@dataclass
class Got:
    """A frame as it came out, its payload copied, because the peer's buffer is used again."""

    type: int
    flags: int
    credits: int
    request_id: int
    message: Message
    error: RequestError | None
    payload: bytes | None  # None: the payload was accepted with None and is gone


@dataclass
class End:
    """One peer, what came out of it, and where it wants its payloads."""

    peer: Peer
    place: Place = field(default=lambda frame: memoryview(bytearray(frame.payload_bytes)))
    got: list[Got] = field(default_factory=list)

    def feed(self, data: bytes, piece: int = 1 << 30) -> list[Got]:
        """Gives the peer `data` in pieces of at most `piece` bytes, as a socket would; returns what came out."""
        before = len(self.got)
        rest = memoryview(data)
        while rest:
            room = self.peer.get_buffer()
            assert len(room) > 0, "get_buffer() is never empty"
            taken = min(len(room), len(rest), piece)
            room[:taken] = rest[:taken]
            rest = rest[taken:]
            self.peer.buffer_updated(taken)
            self._drain()
        return self.got[before:]

    def _drain(self) -> None:
        while (frame := self.peer.next_frame()) is not None:
            got = Got(frame.type, frame.flags, frame.credits, frame.request_id, frame.message, frame.error, None)
            if frame.complete:
                assert frame.payload is not None
                got.payload = bytes(frame.payload)
                self.got.append(got)
            else:
                memory = self.place(frame)
                self.peer.accept(memory)
                if memory is None:
                    self.got.append(got)


class Link:
    """A client and a server. What one says, the other hears at once, in pieces of `piece` bytes."""

    def __init__(self, piece: int = 1 << 30, limits: f.Limits | None = None) -> None:
        self.client = End(Peer(CLIENT, limits or f.Limits()))
        self.server = End(Peer(SERVER, limits or f.Limits()))
        self.piece = piece

    def say(self, role: str, kind: int, message: Message = m.BARE, payload: bytes = b"", **prefix: Any) -> list[Got]:
        """`role` sends; returns what came out at the other end."""
        speaker, listener = (self.client, self.server) if role == CLIENT else (self.server, self.client)
        head = speaker.peer.send(kind, message, payload_bytes=len(payload), **prefix)
        return listener.feed(head + payload, self.piece)

    def greet(self) -> Link:
        """HELLO and WELCOME."""
        self.say(CLIENT, f.HELLO, m.Hello("test"))
        self.say(SERVER, f.WELCOME, m.Welcome("test", {"in_flight": 8}), credits=8)
        return self


def end_in(role: str, state: str, limits: f.Limits | None = None) -> End:
    """One end of a conversation that has come as far as `state`."""
    link = Link(limits=limits)
    if state == GREETING:
        link.say(CLIENT, f.HELLO, m.Hello("test"))
    elif state != START:
        link.greet()
        if state == "DRAINING":
            link.say(SERVER, f.GOAWAY, m.GoAway())
        elif state == "CLOSED":
            link.client.peer.close()
            link.server.peer.close()
    end = link.client if role == CLIENT else link.server
    assert end.peer.state == state
    end.got.clear()
    return end


def open_server(limits: f.Limits | None = None) -> End:
    return end_in(SERVER, OPEN, limits)


def raw(kind: int, header: bytes = b"", payload: bytes = b"", request_id: int = 1, flags: int = 0) -> bytes:
    """A frame as nobody's code would write it."""
    return f.pack_prefix(kind, request_id, len(header), len(payload), flags) + header + payload


def infer(nbytes: int = 16, request_id: int = 1, model: str = "m") -> bytes:
    """A whole INFER frame with one tensor of `nbytes` bytes that count upwards."""
    table, end = layout([("x", "UINT8", (nbytes,))])
    return raw(f.INFER, m.Infer(model, table, end).pack(), counting(nbytes), request_id)


def counting(nbytes: int) -> bytes:
    return (bytes(range(251)) * (nbytes // 251 + 1))[:nbytes]
