"""One end of a connection, without the connection: bytes in, frames out; messages in, bytes out.

The table below is the law of what may be said when. The same class serves the daemon and both clients.

How to drive it:

    view = peer.get_buffer()              # where the next bytes shall land
    n = sock.recv_into(view)
    peer.buffer_updated(n)
    while (frame := peer.next_frame()) is not None:
        if not frame.complete:            # its header is known, its payload is still on the way
            peer.accept(memory)           # receive it there, or None: read it and forget it
        else:
            ...                           # frame.message, frame.payload

A payload that lay wholly in the receive buffer comes out complete at once, as a view that is good until the next
`get_buffer`. Any other frame comes out twice: first when its header is known, and again when its payload is there. One
that was accepted with None does not come out again. So the memory for a payload exists before the payload does, and
the kernel writes it where it belongs.

The theory of the buffer: it holds at most one incomplete prefix and header, because a payload is always taken out of
it as soon as it is accepted. It starts small, since a thousand idle connections are common, and doubles when a
read fills it.
"""

from __future__ import annotations

from inferd.errors import ProtocolError, RequestError, make
from inferd.wire import frame as f
from inferd.wire import messages
from inferd.wire.frame import HAS_VALUES, MAGIC, PREFIX, PREFIX_BYTES, VERSION, Limits, pack_prefix
from inferd.wire.messages import Error, Infer, Message, Result, payload_misfit
from inferd.wire.tensor import aligned

CLIENT, SERVER = "client", "server"

# States of the conversation.
START, GREETING, OPEN, DRAINING, CLOSED = "START", "GREETING", "OPEN", "DRAINING", "CLOSED"

# What each role may receive in each state. What a role may send is what the other may receive.
RECEIVABLE: dict[str, dict[str, frozenset[int]]] = {
    SERVER: {
        START: frozenset({f.HELLO}),
        GREETING: frozenset(),
        OPEN: frozenset({f.INFER, f.CANCEL, f.PING, f.PONG, f.STATUS, f.RELOAD}),
        DRAINING: frozenset({f.INFER, f.CANCEL, f.PING, f.PONG, f.STATUS, f.RELOAD}),
        CLOSED: frozenset(),
    },
    CLIENT: {
        START: frozenset(),
        GREETING: frozenset({f.WELCOME, f.ERROR}),
        OPEN: frozenset({f.RESULT, f.ERROR, f.PING, f.PONG, f.GOAWAY, f.CREDIT, f.STATUS, f.RELOAD}),
        DRAINING: frozenset({f.RESULT, f.ERROR, f.PING, f.PONG, f.GOAWAY, f.CREDIT, f.STATUS, f.RELOAD}),
        CLOSED: frozenset(),
    },
}

# By role: what was received, or sent → the state after it; what is not here changes nothing.
AFTER_RECEIVING = {SERVER: {f.HELLO: GREETING}, CLIENT: {f.WELCOME: OPEN, f.GOAWAY: DRAINING}}
AFTER_SENDING = {SERVER: {f.WELCOME: OPEN, f.GOAWAY: DRAINING}, CLIENT: {f.HELLO: GREETING}}

MIN_BUFFER_BYTES = 4 * 1024
MAX_BUFFER_BYTES = 64 * 1024
# A server takes no more from one socket at a time: some 150 small requests, and the others have their turn.
SERVER_READ_BYTES = 16 * 1024

_STREAMING_STATES = (OPEN, DRAINING)


class Frame:
    """A frame that came in. `error` is set instead of `message` when the header's fields cannot be used
    or the payload's size does not fit them."""

    __slots__ = ("complete", "credits", "error", "flags", "message", "payload", "payload_bytes", "request_id", "type")

    def __init__(self, type: int, flags: int, credits: int, request_id: int, payload_bytes: int) -> None:
        self.type = type
        self.flags = flags
        self.credits = credits
        self.request_id = request_id
        self.payload_bytes = payload_bytes
        self.message: Message = messages.BARE
        self.error: RequestError | None = None
        self.payload: memoryview | None = None
        self.complete = False

    def __repr__(self) -> str:
        name = f.TYPE_NAMES.get(self.type, str(self.type))
        return f"<{name} id={self.request_id} payload={self.payload_bytes} complete={self.complete}>"


class Peer:
    """One end of a connection. See the module's docstring for how to drive it."""

    __slots__ = (
        "_accepting",
        "_after",
        "_buffer",
        "_current",
        "_decoders",
        "_end",
        "_filled",
        "_heads",
        "_legal",
        "_start",
        "_streams",
        "_target",
        "_view",
        "limits",
        "role",
        "state",
    )

    def __init__(self, role: str, limits: Limits = Limits()) -> None:  # noqa: B008 (Limits is frozen)
        if limits.header_bytes > MAX_BUFFER_BYTES - PREFIX_BYTES:
            raise ValueError(f"a header must fit the buffer of {MAX_BUFFER_BYTES} bytes")
        self.role = role
        self.limits = limits
        self.state = START
        self._legal = RECEIVABLE[role][START]
        self._after = AFTER_RECEIVING[role]
        self._decoders = messages.DECODERS
        self._buffer = bytearray(MIN_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._streams = SERVER_READ_BYTES if role == SERVER else MAX_BUFFER_BYTES
        self._start = 0  # of what is not parsed yet
        self._end = 0  # of what has been received
        self._heads = 0  # how many frames' heads have come
        self._current: Frame | None = None  # the frame whose payload is on the way
        self._accepting = False  # its head has been handed out, and nobody said yet where the payload goes
        self._target: memoryview | None = None
        self._filled = 0

    # ---- bytes in

    def get_buffer(self) -> memoryview:
        """Where the next bytes shall be received; never empty. Views of earlier frames end here."""
        if self._target is not None:
            return self._target[self._filled :]
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            return self._view
        if start:
            # What is left is shorter than a prefix and a header, so moving it is cheap.
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        if self._end == len(self._buffer):
            self._grow()
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` have been received into the last `get_buffer`."""
        if self._target is not None:
            self._filled += nbytes
            return
        self._end += nbytes
        if self._end == len(self._buffer) < self._streams and self.state in _STREAMING_STATES and not self._start:
            self._grow()

    def _grow(self, atleast: int = 0) -> None:
        """A larger buffer, with what is not parsed yet at its start; the old one stays what earlier frames see."""
        size = len(self._buffer)
        if size == MAX_BUFFER_BYTES:
            raise RuntimeError("the buffer is full: take the frames out first")
        while size < max(atleast, len(self._buffer) + 1):
            size = min(2 * size, MAX_BUFFER_BYTES)
        larger = bytearray(size)
        here = self._end - self._start
        larger[:here] = self._view[self._start : self._end]
        self._start, self._end = 0, here
        self._buffer = larger
        self._view = memoryview(larger)

    @property
    def at_boundary(self) -> bool:
        """Whether an end of file here is clean: no frame is half received."""
        return self._current is None and self._start == self._end

    @property
    def unfinished(self) -> tuple[int, int | None] | None:
        """The frame that is half received: its number, and how many bytes of its payload are here (None: its header is
        not). None at a boundary."""
        if self._current is not None:
            return self._heads, self._filled
        return None if self._start == self._end else (self._heads + 1, None)

    # ---- frames out

    def next_frame(self) -> Frame | None:
        """The next frame, or None until more bytes are there.

        Raises ProtocolError once when the bytes are not this protocol; the peer is closed from then on.
        """
        while True:
            current = self._current
            if current is not None:
                if self._accepting:
                    raise RuntimeError("accept() the payload of the last frame first")
                if not self._payload_arrived(current):
                    return None
                self._current = None
                if self._target is None:
                    continue  # it was read to be forgotten
                current.payload, self._target = self._target, None
                current.complete = True
                return current

            start = self._start
            have = self._end - start
            if have < PREFIX_BYTES:
                if have:
                    self._check_magic(start, have)
                return None
            magic, version, kind, flags, credits, header_bytes, payload_bytes, request_id = PREFIX.unpack_from(
                self._buffer, start
            )
            if magic != MAGIC or version != VERSION or kind not in self._legal:
                self._check_prefix(start, version, kind)
            limits = self.limits
            if header_bytes > limits.header_bytes or payload_bytes > limits.payload_bytes:
                self._refuse_size(header_bytes, payload_bytes)
            if self.state == START and header_bytes + payload_bytes > limits.hello_bytes:
                self._refuse_size(header_bytes, payload_bytes)
            head_bytes = PREFIX_BYTES + header_bytes
            if have < head_bytes:
                if head_bytes > len(self._buffer):
                    self._grow(head_bytes)
                return None

            self._heads += 1
            frame = Frame(kind, flags, credits, request_id, payload_bytes)
            payload_start = start + head_bytes
            self._decode(frame, bytes(self._view[start + PREFIX_BYTES : payload_start]))
            if have >= head_bytes + payload_bytes:
                self._start = payload_start + payload_bytes
                frame.payload = self._view[payload_start : self._start]
                frame.complete = True
            else:
                self._start = payload_start
                self._current = frame
                self._accepting = True
            return frame

    def accept(self, memory: memoryview | None) -> None:
        """Where the payload of the frame just handed out goes: `payload_bytes` of memory, or None to forget it."""
        current = self._current
        if current is None or not self._accepting:
            raise RuntimeError("no frame waits for memory")
        if memory is not None:
            memory = memory[: current.payload_bytes]
            if len(memory) != current.payload_bytes:
                raise ValueError(f"the payload needs {current.payload_bytes} bytes, got {len(memory)}")
        self._accepting = False
        self._filled = 0
        self._target = memory
        if memory is None:
            return
        here = min(self._end - self._start, current.payload_bytes)
        if here:
            memory[:here] = self._view[self._start : self._start + here]
            self._filled = here
            self._start += here

    def _payload_arrived(self, current: Frame) -> bool:
        if self._target is None:
            skipped = min(self._end - self._start, current.payload_bytes - self._filled)
            self._start += skipped
            self._filled += skipped
        return self._filled == current.payload_bytes

    def _decode(self, frame: Frame, header: bytes) -> None:
        decode = self._decoders.get(frame.type)
        if decode is None:
            frame.error = make("UNKNOWN_MESSAGE", actual=frame.type)
            return
        try:
            message = decode(header)
        except RequestError as error:
            # Where it was raised holds the header's fields, up to a megabyte, and the server remembers its errors.
            frame.error = error.with_traceback(None)
            return
        except ProtocolError:
            self.close()
            raise
        if isinstance(message, (Infer, Result)):
            end, nbytes = message.tensor_end, frame.payload_bytes
            if (nbytes <= aligned(end)) if frame.flags & HAS_VALUES else nbytes != end:
                frame.error = payload_misfit(end, frame.flags & HAS_VALUES, nbytes)
                return
        elif frame.type in self._after:
            self._become(self._after[frame.type])
        frame.message = message

    # ---- refusals

    def _fail(self, error: ProtocolError) -> None:
        self.close()
        raise error

    def _check_magic(self, start: int, have: int) -> None:
        opening = bytes(self._view[start : start + have])
        if opening[:3] != MAGIC[:have]:
            self._fail(f.stranger(opening))

    def _check_prefix(self, start: int, version: int, kind: int) -> None:
        self._check_magic(start, PREFIX_BYTES)
        if version != VERSION:
            self._fail(ProtocolError(f"frame version {version} is not {VERSION}"))
        if kind in f.TYPE_NAMES:
            self._fail(ProtocolError(f"{f.TYPE_NAMES[kind]} cannot come in state {self.state} at the {self.role}"))
        if self.state not in _STREAMING_STATES:
            self._fail(ProtocolError(f"message type {kind} cannot open a conversation"))
        # An unknown message in an open conversation is skipped: `_decode` gives it its error.

    def _refuse_size(self, header_bytes: int, payload_bytes: int) -> None:
        if self.state == START and header_bytes + payload_bytes <= self.limits.payload_bytes:
            limit = f"{self.limits.hello_bytes} bytes before HELLO"
        else:
            limit = f"{self.limits.header_bytes} and {self.limits.payload_bytes}"
        self._fail(
            ProtocolError(
                f"a header of {header_bytes} and a payload of {payload_bytes} bytes are over the limit: {limit}"
            )
        )

    # ---- messages out

    def send(
        self,
        kind: int,
        message: Message = messages.BARE,
        request_id: int = 0,
        payload_bytes: int = 0,
        flags: int = 0,
        credits: int = 0,
    ) -> bytes:
        """The prefix and header to write for `message`; its payload, if any, is written right behind.

        Raises RuntimeError when this role may not say it in this state: that is a mistake in the program.
        """
        listener = CLIENT if self.role == SERVER else SERVER
        # An ERROR may end a conversation before it has begun.
        if kind not in RECEIVABLE[listener][self.state] and (self.role, kind) != (SERVER, f.ERROR):
            raise RuntimeError(f"the {self.role} cannot send {f.TYPE_NAMES[kind]} in state {self.state}")
        header = message.pack()
        after = AFTER_SENDING[self.role].get(kind)
        if after is not None:
            self._become(after)
        return pack_prefix(kind, request_id, len(header), payload_bytes, flags, credits) + header

    def close(self) -> None:
        """No frame is taken any more."""
        self._become(CLOSED)
        self._start = self._end = 0
        self._current = self._target = None

    def _become(self, state: str) -> None:
        self.state = state
        self._legal = RECEIVABLE[self.role][state]


def protocol_error_frame(error: ProtocolError) -> bytes:
    """The last frame to a peer that broke the protocol: why the connection ends."""
    header = Error.of_protocol(error).pack()
    return pack_prefix(f.ERROR, 0, len(header)) + header
