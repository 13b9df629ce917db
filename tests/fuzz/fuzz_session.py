"""A session without a socket under hostile bytes: a real engine with slab, scheduler and door, and no workers.

The invariant, in one sentence: whatever a client sends, nothing is raised; the session stays open or is closed with one
ERROR of id 0 behind everything else; who does not speak this protocol gets nothing back; what is kept for the
connection is bounded; and when it is gone nothing of it is left.
"""

from __future__ import annotations

from typing import Any

from inferd.config import ModelConfig, Settings
from inferd.errors import ProtocolError
from inferd.memory import Region
from inferd.serve.engine import Engine
from inferd.serve.session import Session
from inferd.wire import frame as f
from inferd.wire.frame import MAGIC, PREFIX_BYTES
from inferd.wire.messages import Error, Hello
from inferd.wire.peer import CLIENT, Peer
from tests.fuzz.fuzz_wire import BOOK, Broken

HELLO = Peer(CLIENT).send(f.HELLO, Hello("fuzz"))
HEADERS = [entry["meaning"].get("header") for entry in BOOK["frames"]]
MODELS = {header["model"] for header in HEADERS if isinstance(header, dict) and header.get("model")}
KEPT_BYTES = 4 << 20  # refusals that are not read: engine and session cut sooner
MAX_IN_FLIGHT = 64


class NoExecutor:
    """Nothing ever runs."""

    async def start(self, events: object, slab: Region) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Timer:
    """Never due."""

    def cancel(self) -> None: ...


class NoLoop:
    """Nothing is ever due."""

    def call_soon(self, *_: object) -> None: ...

    def call_later(self, *_: object) -> Timer:
        return Timer()


class Link:
    """A socket whose other end reads at once, or never."""

    name = "fuzz"

    def __init__(self, reads: bool) -> None:
        self.behind = False
        self.copies = False
        self.closed = False
        self.written = bytearray()
        self._reads = reads
        self._unsent = 0

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        self.written += data
        if not self._reads:
            self._unsent += len(data)
            self.behind = self._unsent > 64 * 1024

    def writelines(self, buffers: list[bytes | memoryview]) -> None:
        self.write(b"".join(buffers))

    def unsent(self) -> int:
        return self._unsent

    def close(self) -> None:
        self.closed = True

    abort = close


class Bench:
    """One engine for many sessions."""

    def __init__(self) -> None:
        settings = Settings(
            models=(ModelConfig("m", "m:M"),), slab_mib=4, payload_mib=1, max_in_flight=MAX_IN_FLIGHT, devices=("cpu",)
        )
        self.now = 0.0
        self.engine = Engine(settings, NoExecutor(), clock=lambda: self.now)
        self.engine._loop = NoLoop()  # type: ignore[assignment]
        # Those that the vectors ask for take anything, but for one.
        inputs = {"ner": [["text", "STRING", []]]}
        self.engine.door.open(
            [
                {"name": name, "inputs": inputs.get(name), "outputs": None, "max_batch_size": 8, "latency": []}
                for name in sorted(MODELS)
            ]
        )

    def close(self) -> None:
        self.engine.slab.region.close()

    def check(self, data: bytes, greets: bool = True, reads: bool = True, piece: int = 1 << 30) -> int:
        """One connection that sends `data`, behind a HELLO if it `greets`. Returns how many frames came back.

        Raises Broken, or what the session should not have raised.
        """
        engine = self.engine
        self.now += 1.0
        link = Link(reads)
        session = Session(engine, link, engine.holdings.client("fuzz"), self.now, admin=len(data) % 2 == 0)
        engine.sessions.add(session)
        if greets:
            data = HELLO + data
        at, view = 0, memoryview(data)
        while at < len(view) and not link.closed:
            room = session.peer.get_buffer()
            taken = min(len(room), len(view) - at, piece)
            room[:taken] = view[at : at + taken]
            at += taken
            session.received(taken, self.now)
        if len(session.in_flight) > MAX_IN_FLIGHT:
            raise Broken(f"{len(session.in_flight)} requests in flight")
        if len(link.written) > KEPT_BYTES:
            raise Broken(f"{len(link.written)} bytes are kept for who does not read")
        if at >= len(MAGIC) and data[:3] != MAGIC and (link.written or not link.closed):
            raise Broken(f"a stranger got {bytes(link.written[:40])!r}, closed: {link.closed}")
        came = self._read_back(link)
        engine.sessions.discard(session)
        engine.strangers.discard(session)
        session.lost()
        left = (
            engine.slab.used_bytes,
            engine.holdings.arriving_bytes,
            engine.scheduler.queued,
            engine.holdings.unsent_bytes,
            len(session.in_flight),
            len(session.keys),
        )
        if any(left):
            raise Broken(f"what is left of a connection that is gone: {left}")
        return came

    def _read_back(self, link: Link) -> int:
        """What the session has sent is frames, and the one that ends the conversation is the last."""
        peer, at, count, last = Peer(CLIENT), 0, 0, None
        peer._become("GREETING")
        written = memoryview(link.written)
        try:
            while at < len(written):
                room = peer.get_buffer()
                taken = min(len(room), len(written) - at)
                room[:taken] = written[at : at + taken]
                at += taken
                peer.buffer_updated(taken)
                while (frame := peer.next_frame()) is not None:
                    if not frame.complete:
                        peer.accept(None)
                    if last is not None:
                        raise Broken(f"{frame} behind the last frame")
                    if frame.error is not None:
                        raise Broken(f"the session has sent {frame.error}")
                    if isinstance(frame.message, Error) and frame.request_id == 0:
                        last = frame
                    count += 1
        except ProtocolError as error:
            raise Broken(f"the session has sent what is no frame: {error}") from error
        if not peer.at_boundary and not link.closed:
            raise Broken("half a frame")
        return count


STRANGERS = [
    b"GET / HTTP/1.1\r\nHost: localhost:7474\r\nUser-Agent: x\r\n\r\n",
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + b"x" * 300,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x00" * 64,
    b"EHLO example.org\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    bytes([0xF1]) + b"GET / HTTP/1.1\r\n\r\n",
    bytes(PREFIX_BYTES),
]
