"""A real daemon with its gateway, as `inferd serve --web` starts them, and the two ways in: HTTP, and a page."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from inferd_client import Client

from inferd.wire import frame as f
from inferd.wire.messages import Hello, Infer
from inferd.wire.peer import CLIENT, Frame, Peer
from inferd.wire.tensor import layout
from inferd.wire.values import pack_values
from tests.running import end

MODELS = Path(__file__).with_name("models.py")


class Answer(NamedTuple):
    """What came over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A daemon that is ready. `port` is the gateway's, `url` the daemon's Unix socket."""

    def __init__(self, process: subprocess.Popen[str], port: int, url: str) -> None:
        self.process = process
        self.port = port
        self.url = url

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request, on a connection of its own. `_` in a header's name is `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, sent, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def infer(self, model: str, *inputs: dict[str, Any], **more: Any) -> Answer:
        """POST /v2/models/{model}/infer."""
        return self.ask("POST", f"/v2/models/{model}/infer", {"inputs": list(inputs), **more})

    def status(self) -> dict[str, Any]:
        """The daemon's STATUS."""
        with Client(self.url) as client:
            return client.status()

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first STATUS for which `condition` holds; fails if there is none within 10 s."""
        deadline = time.monotonic() + 10
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.005)
        return status

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(20)


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[Served]:
    """`inferd serve --web` on a free port until the block ends."""
    url = f"inferd+unix://{folder / 'inferd.sock'}"
    command = [sys.executable, "-m", "inferd", "serve", *words, "--web", "127.0.0.1:0", "--listen", url]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            ready = next((line for line in process.stdout if "is ready" in line), "")
            assert ready, (folder / "log").read_text()
            yield Served(process, int(ready.split()[-1].rpartition(":")[2]), url)
        finally:
            end(process)


class Page:
    """A page's WebSocket and the wire on it."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.peer = Peer(CLIENT)
        self._received = memoryview(b"")

    async def greet(self, **hello: Any) -> Frame:
        """Says HELLO; what came back."""
        await self.ws.send_bytes(self.peer.send(f.HELLO, Hello("page", **hello)))
        return await self.next()

    async def send(self, request_id: int, model: str, x: bytes = b"", values: Any = None, **header: Any) -> None:
        """An INFER with the FP32 tensor `x`, of one dimension, or with values."""
        table, end = layout([("x", "FP32", (len(x) // 4,))]) if x else ((), 0)
        segment = b"" if values is None else pack_values(values)
        head = self.peer.send(
            f.INFER,
            Infer(model, table, end, **header),
            request_id,
            len(x) + len(segment),
            f.HAS_VALUES if segment else 0,
        )
        await self.ws.send_bytes(head + x + segment)

    async def next(self) -> Frame:
        """The next frame. Raises EOFError when the WebSocket has ended."""
        while True:
            frame = self.peer.next_frame()
            if frame is not None:
                if frame.complete:
                    return frame
                self.peer.accept(memoryview(bytearray(frame.payload_bytes)))
                continue
            if not len(self._received):
                message = await self.ws.receive(timeout=15)
                if message.type is not aiohttp.WSMsgType.BINARY:
                    raise EOFError
                self._received = memoryview(message.data)
            room = self.peer.get_buffer()
            nbytes = min(len(room), len(self._received))
            room[:nbytes] = self._received[:nbytes]
            self._received = self._received[nbytes:]
            self.peer.buffer_updated(nbytes)


@contextlib.asynccontextmanager
async def page(served: Served, origin: str | None = None, protocols: tuple[str, ...] = ("inferd.v1",)) -> Any:
    """A page that is open, from this origin (by default the gateway's own)."""
    address = f"127.0.0.1:{served.port}/ws"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"ws://{address}", protocols=protocols, origin=origin or f"http://127.0.0.1:{served.port}"
        ) as ws,
    ):
        yield Page(ws)
