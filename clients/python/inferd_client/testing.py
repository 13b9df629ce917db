"""A server for the tests of programs that use inferd: it speaks the wire and runs your functions as models.

    with FakeServer({"echo": lambda inputs: inputs}) as server, Client(server.url) as client:
        assert client.infer("echo", {"text": "hello"}) == {"text": "hello"}
        assert server.requests[0].inputs == {"text": "hello"}

A model gets the inputs as a dict and returns the outputs as one. An InferdError request error that it raises is what
the caller gets (`errors.make("SLAB_FULL")`), any other exception becomes an Internal. Each request has a thread of its
own, so a model may wait (on a threading.Event, say) while others answer. Nothing is queued here, so every request is a
batch of its own and `supersede` changes nothing; a model that raises `errors.make("SUPERSEDED")` shows what it is like.

What a server can do to its clients, it does when it is told:

    server.delay_ms = 200           slow answers
    server.refusal = errors.make("TOO_MANY_CONNECTIONS", limit=1)
                                    nobody new gets in
    server.goaway()                 everybody is to go elsewhere; new connections are taken
    server.drain(); server.start()  a restart: for a while nobody listens
    server.drop()                   a crash, without a word
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Condition, Lock, Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from inferd.errors import ProtocolError, RequestError, make
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.frame import Limits, pack_prefix
from inferd.wire.messages import BARE, Error, GoAway, Hello, Infer, Message, Result, Welcome
from inferd.wire.peer import DRAINING, OPEN, SERVER, Frame, Peer, protocol_error_frame
from inferd.wire.tensor import layout
from inferd.wire.values import pack_values
from inferd_client.codec import JOIN_BYTES, Buffer, assemble, decode, split

Model = Callable[[dict[str, Any]], Mapping[str, Any]]


class Received:
    """A request as the server saw it: `rows` is 0 for one item, `deadline_ms` what was left of the caller's time."""

    def __init__(self, message: Infer, inputs: dict[str, Any]) -> None:
        self.model = message.model
        self.inputs = inputs
        self.rows = message.rows
        self.deadline_ms = message.deadline_ms
        self.priority = message.priority
        self.supersede = message.supersede
        self.timing = message.timing


class FakeServer:
    """Serves `models` at `url` (by default on a free port of this machine) between `start()` and `stop()`.

    With a `token`, clients that do not show it are turned away. Raises InvalidArgument for a `status` that no message
    can hold.
    `requests`, `cancelled`, `pongs` and `connections` say what happened so far; `wait_for` waits until it has.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        url: str = "inferd://127.0.0.1:0",
        *,
        credits: int = 64,
        payload_bytes: int = 64 * 1024 * 1024,
        status: Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> None:
        self.models = dict(models)
        self.url = url
        self.credits = credits
        self.payload_bytes = payload_bytes
        self.token = token
        self.status = dict(status or {})
        pack_values(self.status)  # now, where it is read, and not in a thread
        self.delay_ms = 0.0  # what is added to the time of every request
        self.refusal: RequestError | None = None  # what new connections are told, and nothing else
        self.requests: list[Received] = []
        self.cancelled: list[int] = []  # request ids of CANCEL messages
        self.pongs: list[int] = []  # ids of PONG messages
        self.connections = 0  # accepted so far
        self._changed = Condition()
        self._sessions: list[Session] = []
        self._listener: socket.socket | None = None
        self._acceptor: Thread | None = None

    def start(self) -> Self:
        """Listens. After a `stop()` this is the same address again."""
        address = Address.parse(self.url)
        if address.path:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(address.path)
            listener.listen()
        else:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.create_server((address.host, address.port), family=family)
            self.url = str(Address(host=address.host, port=listener.getsockname()[1]))
        self._listener = listener
        self._acceptor = Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Stops listening and drops every connection; models that still run are left to themselves."""
        self._stop_listening()
        self.drop()

    def drain(self) -> None:
        """Stops listening and tells every client to go elsewhere; what is in flight is still answered."""
        self._stop_listening()
        self.goaway()

    def _stop_listening(self) -> None:
        if self._listener is not None and self._acceptor is not None:
            # Closing alone does not wake accept().
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._acceptor.join()
            self._listener = None
            if path := Address.parse(self.url).path:
                import os

                with suppress(FileNotFoundError):
                    os.unlink(path)

    def drop(self) -> None:
        """Drops every connection without a word, as a crash does."""
        with self._changed:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()

    def goaway(self) -> None:
        """Tells every client to go elsewhere: what is in flight is still answered, what comes after is DRAINING, and a
        connection with nothing in flight ends."""
        for session in self._greeted():
            session.leave()

    def ping(self, ping_id: int) -> None:
        """Sends every client a PING; their answers come into `pongs`."""
        for session in self._greeted():
            session.post(f.PING, BARE, ping_id)

    def grant(self, credits: int) -> None:
        """Tells every client how many requests it may have unanswered from now on."""
        self.credits = credits
        for session in self._greeted():
            session.post(f.CREDIT)

    def fail(self, error: RequestError) -> None:
        """Tells every client why its connection ends, and ends it."""
        for session in self._greeted():
            session.send(f.ERROR, Error.of(error))
        self.drop()

    def wait_for(self, condition: Callable[[Self], bool], timeout_ms: float = 10_000) -> None:
        """Waits until `condition(server)` holds. Raises TimeoutError if it does not within `timeout_ms`."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout_ms / 1000):
                raise TimeoutError(f"it did not happen within {timeout_ms:g} ms")

    def record(self, change: Callable[[], object]) -> None:
        """Changes what the server has seen, and wakes who waits for that."""
        with self._changed:
            change()
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _greeted(self) -> list[Session]:
        with self._changed:
            return [session for session in self._sessions if session.greeted]

    def forget(self, session: Session) -> None:
        """A session has ended."""
        with self._changed:
            if session in self._sessions:
                self._sessions.remove(session)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            session = Session(self, sock)
            with self._changed:
                self._sessions.append(session)
                self.connections += 1
                self._changed.notify_all()
            Thread(target=session.run, daemon=True).start()


class Session:
    """One connection of a FakeServer: a thread that reads, and one for every request that is being answered."""

    def __init__(self, server: FakeServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._peer = Peer(SERVER, Limits(payload_bytes=server.payload_bytes))
        self._writing = Lock()
        self._posted: deque[tuple[int, bytes]] = deque()  # types and frames, to be written between others
        self._in_flight: set[int] = set()
        self._leaving = False  # whether GOAWAY has been said
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def greeted(self) -> bool:
        """Whether WELCOME has been said."""
        return self._peer.state in (OPEN, DRAINING)

    def run(self) -> None:
        """Reads until the client is gone."""
        peer = self._peer
        try:
            while nbytes := self._sock.recv_into(peer.get_buffer()):
                peer.buffer_updated(nbytes)
                while (frame := peer.next_frame()) is not None:
                    if frame.complete:
                        self._on_frame(frame)
                    else:
                        peer.accept(memoryview(bytearray(frame.payload_bytes)))
        except ProtocolError as error:
            self._write([protocol_error_frame(error)])
        except OSError:
            pass
        finally:
            self._server.forget(self)
            self.close()

    def close(self) -> None:
        """Ends the connection; whoever reads or writes on it notices."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with self._writing:
            self._sock.close()

    def leave(self) -> None:
        """Says GOAWAY, and ends the connection when nothing is in flight."""
        self.post(f.GOAWAY, GoAway())

    def post(self, kind: int, message: Message = BARE, request_id: int = 0) -> None:
        """Sends a message, or leaves that to whoever is writing: a large answer may wait until it is read by the very
        thread that is here, where the client's event loop is the test's."""
        self._posted.append((kind, self._peer.send(kind, message, request_id, credits=self._server.credits)))
        self._write_posted()

    def send(self, kind: int, message: Message = BARE, request_id: int = 0, values: Any = None) -> None:
        """Sends a message; `values`, if any, are its payload."""
        payload = b"" if values is None else pack_values(values)
        flags = 0 if values is None else f.HAS_VALUES
        head = self._peer.send(kind, message, request_id, len(payload), flags, self._server.credits)
        self._write([head, payload])

    def _write(self, buffers: list[Buffer], answers: int = 0) -> None:
        """Writes a frame; one that `answers` a request only if that has no answer yet."""
        with self._writing, suppress(OSError):
            if not answers or answers in self._in_flight:
                self._in_flight.discard(answers)
                if sum(map(len, buffers)) <= JOIN_BYTES:
                    buffers = [b"".join(buffers)]
                for buffer in buffers:
                    self._sock.sendall(buffer)
                self._end_if_over()
        self._write_posted()

    def _write_posted(self) -> None:
        """Writes what is posted. Whoever is writing looks here again afterwards, so nothing is left behind."""
        while self._posted and self._writing.acquire(blocking=False):
            try:
                with suppress(OSError):
                    while self._posted:
                        kind, head = self._posted.popleft()
                        self._leaving |= kind == f.GOAWAY
                        self._sock.sendall(head)
                    self._end_if_over()
            finally:
                self._writing.release()

    def _end_if_over(self) -> None:
        if self._leaving and not self._in_flight:
            self._sock.shutdown(socket.SHUT_RDWR)

    def _on_frame(self, frame: Frame) -> None:
        server, request_id = self._server, frame.request_id
        if frame.error is not None:
            self.send(f.ERROR, Error.of(frame.error), request_id)
        elif isinstance(frame.message, Infer):
            assert frame.payload is not None
            payload = memoryview(bytearray(frame.payload))
            with self._writing:
                leaving = self._leaving
                if not leaving:
                    self._in_flight.add(request_id)
            if leaving:
                self.send(f.ERROR, Error.of(make("DRAINING")), request_id)
                return
            Thread(target=self._infer, args=(request_id, frame.message, frame.flags, payload), daemon=True).start()
        elif isinstance(frame.message, Hello):
            if server.refusal is not None:
                self.send(f.ERROR, Error.of(server.refusal))
                self.close()
                return
            if server.token is not None and frame.message.token != server.token:
                problem = "this one is not known" if frame.message.token else "none was shown"
                self.send(f.ERROR, Error.of(make("TOKEN", problem=problem)))
                self.close()
                return
            models = [{"name": name, "inputs": None, "outputs": None, "max_batch_size": 32} for name in server.models]
            welcome = Welcome("inferd-fake", {"payload_bytes": server.payload_bytes})
            self.send(f.WELCOME, welcome, values={"models": models})
        elif frame.type == f.STATUS:
            self.send(f.STATUS, BARE, request_id, server.status)
        elif frame.type == f.PING:
            self.send(f.PONG, BARE, request_id)
        elif frame.type == f.PONG:
            server.record(lambda: server.pongs.append(request_id))
        elif frame.type == f.CANCEL:
            if request_id in self._in_flight:
                self._fail(request_id, make("CLIENT_CANCELLED"))
            server.record(lambda: server.cancelled.append(request_id))

    def _infer(self, request_id: int, message: Infer, flags: int, payload: memoryview) -> None:
        server = self._server
        try:
            inputs = decode(message.tensors, message.tensor_end, bool(flags & f.HAS_VALUES), payload)
            received = Received(message, inputs)
            server.record(lambda: server.requests.append(received))
            if server.delay_ms:
                sleep(server.delay_ms / 1000)
            model = server.models.get(message.model)
            if model is None:
                raise make("MODEL_NOT_FOUND", model=message.model, known=", ".join(sorted(server.models)))
            start = monotonic()
            signature, data, values = split(model(inputs))
            timing = _timeline(request_id, message.rows or 1, monotonic() - start) if message.timing else None
            table, end = layout(signature)
            pieces, payload_bytes = assemble(table, end, data, values)
            header = Result(table, end, timing).pack()
        except RequestError as error:
            self._fail(request_id, error)
            return
        except Exception:
            self._fail(request_id, make("MODEL_FAILED", model=message.model))
            return
        flags = f.HAS_VALUES if values else 0
        prefix = pack_prefix(f.RESULT, request_id, len(header), payload_bytes, flags, server.credits)
        self._write([prefix + header, *pieces], request_id)

    def _fail(self, request_id: int, error: RequestError) -> None:
        message = Error.of(error)
        head = self._peer.send(f.ERROR, message, request_id, credits=self._server.credits)
        self._write([head], request_id)


def _timeline(batch_id: int, rows: int, compute_s: float) -> dict[str, Any]:
    compute_ms = compute_s * 1000
    return {
        "queued_ms": 0.0,
        "compute_ms": compute_ms,
        "total_ms": compute_ms,
        "batch_id": batch_id,
        "batch_rows": rows,
        "padded": 0.0,
        "released": "idle",
    }
