"""The WebSocket: the wire, untouched, and what a page's end does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from inferd.gateway import relay
from inferd.wire import frame as f
from inferd.wire.messages import Error, Hello, Result, Welcome
from tests.gateway.serving import Page, Served, page

ONE = np.float32([1]).tobytes()


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(within())


def test_a_conversation(served: Served) -> None:
    """HELLO, WELCOME, requests with options, PING and STATUS are what they are over TCP."""

    async def talk() -> None:
        async with page(served) as here:
            welcome = await here.greet()
            assert isinstance(welcome.message, Welcome) and welcome.credits > 0
            await here.send(1, "ner", values={"text": "Ada Lovelace"}, timing=True, priority="interactive")
            answer = await here.next()
            assert answer.request_id == 1 and isinstance(answer.message, Result)
            assert answer.message.timing is not None and answer.message.timing["batch_rows"] == 1
            await here.send(2, "nope", ONE)
            answer = await here.next()
            assert isinstance(answer.message, Error) and answer.message.reason == "MODEL_NOT_FOUND"
            await here.ws.send_bytes(here.peer.send(f.PING, request_id=7))
            assert (await here.next()).type == f.PONG
            await here.ws.send_bytes(here.peer.send(f.STATUS, request_id=8))
            assert (await here.next()).type == f.STATUS

    run(talk())


def test_where_a_message_ends_means_nothing(served: Served) -> None:
    """Byte by byte, and everything in one message with what follows HELLO."""

    async def talk() -> None:
        async with page(served) as here:
            for byte in here.peer.send(f.HELLO, Hello("page")):
                await here.ws.send_bytes(bytes([byte]))
            assert (await here.next()).type == f.WELCOME
        async with page(served) as here:
            hello = here.peer.send(f.HELLO, Hello("page"))
            await here.ws.send_bytes(hello + f.pack_prefix(f.PING, 3, 0) + f.pack_prefix(f.PING, 4, 0)[:10])
            await here.ws.send_bytes(f.pack_prefix(f.PING, 4, 0)[10:])
            assert [(await here.next()).request_id for _ in range(3)] == [0, 3, 4]

    run(talk())


def test_large_frames_come_through(served: Served) -> None:
    """7 MiB each way, in messages of at most 1 MiB, byte for byte."""
    x = np.arange(7 * 256 * 1024, dtype=np.float32).tobytes()

    async def talk() -> None:
        async with page(served) as here:
            await here.greet()
            whole: list[bytes] = []
            ws, here.ws = here.ws, Recorder(whole)  # type: ignore[assignment]
            await here.send(1, "echo", x)
            here.ws = ws
            for start in range(0, len(whole[0]), relay.MAX_MESSAGE_BYTES):
                await ws.send_bytes(whole[0][start : start + relay.MAX_MESSAGE_BYTES])
            answer = await here.next()
            assert answer.payload is not None and bytes(answer.payload) == x

    run(talk())


class Recorder:
    """Keeps what is sent."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages

    async def send_bytes(self, data: bytes) -> None:
        self._messages.append(data)


@pytest.mark.parametrize("torn", [False, True], ids=["closed", "torn"])
def test_closing_the_page_takes_back_what_waits(served: Served, gate_folder: Path, torn: bool) -> None:
    """A tab closed in the middle of a burst, or a connection that just ends: what was queued is never run, the counter
    says so, and the model has not seen it."""
    shut = gate_folder / "shut"
    before = served.status()["counters"].get("disconnected_while_queued", 0)

    async def burst() -> int:
        async with page(served) as here:
            await here.greet()
            await here.send(100, "gate", ONE)
            ran = rows(await here.next())
            shut.touch()
            for request_id in range(1, 6):
                await here.send(request_id, "gate", ONE)
            await asyncio.to_thread(served.until, lambda status: status["queued"] == 4)
            if torn:
                transport = here.ws.get_extra_info("socket")
                transport.shutdown(socket.SHUT_RDWR)
        return ran

    try:
        ran = asyncio.run(burst())
        served.until(lambda status: status["counters"].get("disconnected_while_queued", 0) == before + 4)
    finally:
        shut.unlink(missing_ok=True)

    async def again() -> None:
        async with page(served) as here:
            await here.greet()
            await here.send(1, "gate", ONE)
            assert rows(await here.next()) == ran + 2  # the one that had begun, and this one

    run(again())


def rows(frame: Any) -> int:
    from inferd.wire.values import unpack_values

    ran: int = unpack_values(frame.payload)["ran"]
    return ran


def test_cancel_and_latest_wins(served: Served, gate_folder: Path) -> None:
    """CANCEL and `supersede` reach the queue: each is answered at once, while the model is still busy."""
    shut = gate_folder / "shut"

    async def talk() -> None:
        async with page(served) as here:
            await here.greet()
            shut.touch()
            await here.send(1, "gate", ONE)
            await asyncio.to_thread(served.until, lambda status: status["in_flight"] == 1 and not status["queued"])
            await here.send(2, "gate", ONE, supersede="field")
            await here.send(3, "gate", ONE, supersede="field")
            answer = await here.next()
            assert answer.request_id == 2 and answer.message.reason == "SUPERSEDED"  # type: ignore[union-attr]
            await here.ws.send_bytes(here.peer.send(f.CANCEL, request_id=3))
            answer = await here.next()
            assert answer.request_id == 3 and answer.message.reason == "CLIENT_CANCELLED"  # type: ignore[union-attr]
            shut.unlink()
            assert (await here.next()).request_id == 1

    try:
        run(talk())
    finally:
        shut.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("send", "code"),
    [
        (lambda ws: ws.send_str("hello"), aiohttp.WSCloseCode.UNSUPPORTED_DATA),
        (lambda ws: ws.send_bytes(bytes(relay.MAX_MESSAGE_BYTES + 1)), aiohttp.WSCloseCode.MESSAGE_TOO_BIG),
        (lambda ws: ws.send_bytes(b"GET / HTTP/1.1\r\n\r\n      "), aiohttp.WSCloseCode.PROTOCOL_ERROR),
        (lambda ws: ws.send_bytes(f.pack_prefix(f.PING, 1, 0)), aiohttp.WSCloseCode.PROTOCOL_ERROR),
        (lambda ws: ws.send_bytes(f.pack_prefix(f.HELLO, 0, 4097)), aiohttp.WSCloseCode.PROTOCOL_ERROR),
        (lambda ws: ws.send_bytes(f.pack_prefix(f.HELLO, 0, 1) + b"\xc1"), aiohttp.WSCloseCode.PROTOCOL_ERROR),
    ],
    ids=["text", "too large", "another protocol", "no HELLO", "HELLO too large", "HELLO that is none"],
)
def test_what_is_not_the_protocol_is_closed(served: Served, send: Any, code: int) -> None:
    """Each with the close code that fits."""

    async def talk() -> None:
        async with page(served) as here:
            await send(here.ws)
            while (message := await here.ws.receive(timeout=10)).type is aiohttp.WSMsgType.BINARY:
                pass
            assert message.type is aiohttp.WSMsgType.CLOSE and message.data == code

    run(talk())


def test_text_later_is_closed_too(served: Served) -> None:
    """After HELLO as before."""

    async def talk() -> None:
        async with page(served) as here:
            await here.greet()
            await here.ws.send_str("hello")
            message = await here.ws.receive(timeout=10)
            assert message.data == aiohttp.WSCloseCode.UNSUPPORTED_DATA

    run(talk())


def test_a_mistake_later_is_answered_by_the_daemon(served: Served) -> None:
    """Its ERROR with id 0 arrives, and then the end: 1012."""

    async def talk() -> None:
        async with page(served) as here:
            await here.greet()
            await here.ws.send_bytes(f.pack_prefix(f.WELCOME, 0, 0))
            error = await here.next()
            assert error.request_id == 0 and error.message.reason == "PROTOCOL"  # type: ignore[union-attr]
            assert (await here.ws.receive(timeout=10)).data == aiohttp.WSCloseCode.SERVICE_RESTART

    run(talk())


def test_who_says_nothing_is_closed(served: Served) -> None:
    """5 seconds without HELLO: 1008."""

    async def talk() -> None:
        async with page(served) as here:
            message = await here.ws.receive(timeout=relay.HELLO_TIMEOUT_S + 10)
            assert message.data == aiohttp.WSCloseCode.POLICY_VIOLATION and "HELLO" in str(message.extra)

    run(talk())


def test_strangers_are_few(served: Served) -> None:
    """64 connections that have not said HELLO; the next is told to come later, until one of them has gone."""

    async def talk() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            url = f"ws://127.0.0.1:{served.port}/ws"
            open_ones = [await session.ws_connect(url, protocols=("inferd.v1",)) for _ in range(relay.MAX_STRANGERS)]
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(url, protocols=("inferd.v1",))
            assert caught.value.status == 429
            await Page(open_ones[0]).greet()
            await Page(await session.ws_connect(url, protocols=("inferd.v1",))).greet()

    run(talk())


@pytest.mark.parametrize(
    ("protocols", "origin", "status"),
    [((), None, 400), (("chat",), None, 400), (("inferd.v1",), "http://evil.example", 403)],
)
def test_who_may_not_gets_no_websocket(
    served: Served, protocols: tuple[str, ...], origin: str | None, status: int
) -> None:
    """Without the subprotocol, and from another site's page."""

    async def talk() -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with page(served, origin, protocols):
                pass
        assert caught.value.status == status

    run(talk())


def test_it_is_no_page(served: Served) -> None:
    """GET without an upgrade is a 400."""
    assert served.ask("GET", "/ws").status == 400


def test_who_does_not_read_holds_up_nobody(served: Served) -> None:
    """A page that asks for 16 MiB and reads nothing: others are served meanwhile, and when it reads, all is there."""
    x = bytes(2 * 1024 * 1024)

    async def talk() -> None:
        async with page(served) as here, page(served) as other:
            await here.greet()
            await other.greet()
            whole: list[bytes] = []
            ws, here.ws = here.ws, Recorder(whole)  # type: ignore[assignment]
            for request_id in range(1, 9):
                await here.send(request_id, "echo", x)
            here.ws = ws

            async def ask() -> None:
                for frame in whole:
                    for start in range(0, len(frame), relay.MAX_MESSAGE_BYTES):
                        await ws.send_bytes(frame[start : start + relay.MAX_MESSAGE_BYTES])

            asking = asyncio.create_task(ask())
            for request_id in range(1, 20):
                await other.send(request_id, "virtual", ONE)
                assert (await other.next()).request_id == request_id
            for _ in range(8):
                answer = await here.next()
                assert answer.payload is not None and len(answer.payload) == len(x)
            await asking

    run(talk())
