"""A WebSocket and a connection to the daemon, one for each other: what comes from one goes to the other, untouched.

The binary messages are the byte stream of docs/PROTOCOL.md; where one message ends means nothing. Only the first frame
is looked at: it must be HELLO, and gets the field `caller`. When the page is closed the daemon's connection closes, and
what waited in its queue is withdrawn.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import WSCloseCode, WSMsgType, web

from inferd.errors import ProtocolError, make
from inferd.gateway.health import Health
from inferd.gateway.metrics import HttpCounts
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import pack_header, unpack_header
from inferd.wire.peer import protocol_error_frame

SUBPROTOCOL = "inferd.v1"
# A larger frame goes in several messages. A message is held as a whole, so this is what a connection can cost.
MAX_MESSAGE_BYTES = 1024 * 1024
HELLO_TIMEOUT_S = 5.0
# Connections that have not said HELLO, at most; they could be anybody's.
MAX_STRANGERS = 64
# What is read from the daemon at once; also roughly what is held back for a slow page.
READ_BYTES = 256 * 1024
# A peer that is gone without a word is found after one and a half of these.
HEARTBEAT_S = 30.0
# How long a page may take to answer a close.
CLOSE_TIMEOUT_S = 2.0
HELLO_BYTES = f.Limits().hello_bytes


class _Closing(Exception):
    """The WebSocket shall be closed: its close code, and why."""

    def __init__(self, code: WSCloseCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class Relay:
    """The WebSockets of one gateway."""

    def __init__(self, daemon: Address, health: Health, counts: HttpCounts) -> None:
        self._daemon = daemon
        self._health = health
        self._counts = counts
        self._strangers: set[web.WebSocketResponse] = set()  # they have not said HELLO
        self._open: set[web.WebSocketResponse] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /ws."""
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPBadRequest(text="this is a WebSocket's address")
        if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
            raise web.HTTPBadRequest(text=f"offer the subprotocol {SUBPROTOCOL}")
        if self._health.draining:
            raise make("DRAINING")
        if len(self._strangers) >= MAX_STRANGERS:
            raise make("TOO_MANY_CONNECTIONS", limit=MAX_STRANGERS)
        # No compression: what travels is mostly tensors, and small.
        ws = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT_S,
            heartbeat=HEARTBEAT_S,
            protocols=(SUBPROTOCOL,),
            compress=False,
            max_msg_size=MAX_MESSAGE_BYTES + 1,
        )
        self._strangers.add(ws)
        try:
            return await self._open_for(request, ws)
        finally:
            self._strangers.discard(ws)

    async def _open_for(self, request: web.Request, ws: web.WebSocketResponse) -> web.WebSocketResponse:
        try:
            reader, writer = await asyncio.open_unix_connection(self._daemon.path, limit=READ_BYTES)
        except OSError as error:
            raise make("CONNECT_FAILED", address="the daemon", problem=error.strerror) from error
        self._open.add(ws)
        self._counts.websockets += 1
        try:
            await ws.prepare(request)
            await self._relay(ws, reader, writer, f"ip:{request.remote}")
        finally:
            self._open.discard(ws)
            self._counts.websockets -= 1
            writer.transport.abort()
        return ws

    async def close(self) -> None:
        """Ends those that have not said HELLO. The others end with the daemon's connection, when the page has taken
        what came over it."""
        silent = self._strangers & self._open
        closing = [ws.close(code=WSCloseCode.SERVICE_RESTART, message=b"the gateway ends") for ws in silent]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _relay(
        self, ws: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: str
    ) -> None:
        down: asyncio.Task[None] | None = None
        try:
            try:
                async with asyncio.timeout(HELLO_TIMEOUT_S):
                    first = await _hello(ws, caller)
            except TimeoutError as error:
                raise _Closing(WSCloseCode.POLICY_VIOLATION, f"no HELLO within {HELLO_TIMEOUT_S:g} s") from error
            self._strangers.discard(ws)
            writer.write(first)
            down = asyncio.create_task(_to_page(ws, reader))
            while True:
                writer.write(await _message(ws))
                await writer.drain()
        except ProtocolError as error:
            if not error.looks_like:
                with suppress(ConnectionError):
                    await ws.send_bytes(protocol_error_frame(error))
            await ws.close(code=WSCloseCode.PROTOCOL_ERROR, message=_short(str(error)))
        except _Closing as closing:
            await ws.close(code=closing.code, message=_short(str(closing)))
        except EOFError:
            pass  # the page is gone
        except ConnectionError:
            if down is not None:
                await down  # the daemon is gone; its last words may be on their way
        finally:
            if down is not None:
                down.cancel()
                await asyncio.gather(down, return_exceptions=True)


async def _to_page(ws: web.WebSocketResponse, reader: asyncio.StreamReader) -> None:
    """From the daemon until it closes; waits whenever the page does not take what is there."""
    try:
        while data := await reader.read(READ_BYTES):
            await ws.send_bytes(data)
    except ConnectionError:
        pass
    await ws.close(code=WSCloseCode.SERVICE_RESTART, message=b"the daemon closed the connection")


async def _message(ws: web.WebSocketResponse) -> bytes:
    """The next message. Raises EOFError at the end, and _Closing for one that is not binary."""
    message = await ws.receive()
    if message.type is WSMsgType.BINARY:
        data: bytes = message.data
        return data
    if message.type is WSMsgType.TEXT:
        raise _Closing(WSCloseCode.UNSUPPORTED_DATA, "text is not understood; send binary messages")
    raise EOFError  # aiohttp has closed it already, with the code that fits


async def _hello(ws: web.WebSocketResponse, caller: str) -> bytes:
    """The first frame, and whatever came with it, `caller` put into its header. Raises ProtocolError."""
    received = b""
    while True:
        if len(received) >= f.PREFIX_BYTES:
            magic, version, kind, _, _, header_bytes, payload_bytes, _ = f.PREFIX.unpack_from(received)
            if magic != f.MAGIC:
                raise f.stranger(received)
            if version != f.VERSION:
                raise ProtocolError(f"frame version {version}")
            if kind != f.HELLO:
                raise ProtocolError(f"the first message must be HELLO, not type {kind}")
            if header_bytes + payload_bytes > HELLO_BYTES:
                raise ProtocolError(f"HELLO is over {HELLO_BYTES} bytes")
            end = f.PREFIX_BYTES + header_bytes
            if len(received) >= end:
                fields = unpack_header(received[f.PREFIX_BYTES : end])
                fields["caller"] = caller
                header = pack_header(fields)
                return f.pack_prefix(f.HELLO, 0, len(header), payload_bytes) + header + received[end:]
        received += await _message(ws)


def _short(text: str) -> bytes:
    """As much as fits a close frame."""
    return text.encode()[:120]
