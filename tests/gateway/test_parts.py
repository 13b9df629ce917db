"""The gateway's parts by themselves: bodies, callers, answers, and who a connection belongs to."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from inferd_client import Client
from inferd_client.testing import FakeServer

from inferd.errors import CATALOGUE, RequestError, Unauthenticated, make
from inferd.gateway import body, daemon, rest
from inferd.gateway.answers import failure
from inferd.gateway.body import Bodies
from inferd.gateway.daemon import Callers
from inferd.serve.listener import Listener
from inferd.serve.tokens import Tokens
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from tests.rawpeer import RawPeer
from tests.running import double, running

# ---- bodies


class Content:
    """A request whose body comes in these chunks; one that is None never comes."""

    def __init__(self, *chunks: bytes | None, length: int | None = None, **headers: str) -> None:
        self.content = self
        self.content_length = length
        self.headers = headers
        self._chunks = list(chunks)

    async def readany(self) -> bytes:
        chunk = self._chunks.pop(0) if self._chunks else b""
        return chunk if chunk is not None else await asyncio.get_running_loop().create_future()


def read(bodies: Bodies, request: Content) -> bytes:
    async def go() -> bytes:
        async with bodies.read(request) as view:  # type: ignore[arg-type]
            return bytes(view)

    return asyncio.run(go())


@pytest.mark.parametrize("length", [None, 6, 4])
def test_a_body_is_what_has_come(length: int | None) -> None:
    """Whether its length was said or not; a compressed one is longer than was said."""
    headers = {"Content-Encoding": "gzip"} if length == 4 else {}
    assert read(Bodies(10), Content(b"abc", b"d", b"ef", length=length, **headers)) == b"abcdef"
    assert read(Bodies(10), Content(b"", length=0)) == b""


def test_a_body_has_a_limit() -> None:
    """From its length, before anything is read, and from what has come."""
    for request in (Content(None, length=11), Content(b"x" * 6, b"x" * 5, None)):
        with pytest.raises(RequestError) as caught:
            read(Bodies(10), request)
        assert caught.value.reason == "PAYLOAD_TOO_LARGE"


def test_all_bodies_have_a_limit() -> None:
    """Four of the largest size; when one is done there is room again."""

    async def go() -> None:
        bodies = Bodies(10)
        async with bodies.read(Content(b"x" * 10, length=10)), bodies.read(Content(b"x" * 10)):  # type: ignore[arg-type]
            async with bodies.read(Content(b"x" * 10)), bodies.read(Content(b"x" * 10)):  # type: ignore[arg-type]
                with pytest.raises(RequestError) as caught:
                    async with bodies.read(Content(b"x")):  # type: ignore[arg-type]
                        pass
                assert caught.value.reason == "SLAB_FULL"
            async with bodies.read(Content(b"x" * 10)):  # type: ignore[arg-type]
                pass

    asyncio.run(go())


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and what was held for it is free again."""
    monkeypatch.setattr(body, "READ_TIMEOUT_S", 0.01)
    bodies = Bodies(10)
    for _ in range(9):
        with pytest.raises(web.HTTPRequestTimeout):
            read(bodies, Content(b"x", None, length=10))


def test_a_body_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is a sign of life, and no reason to hold 64 MiB for it."""
    seconds = itertools.count()
    monkeypatch.setattr(body, "monotonic", lambda: float(next(seconds)))
    trickle, brisk = [b"x"] * 10, [b"x" * body.LEAST_BYTES_PER_S] * 10
    bodies = Bodies(1 << 20)
    for _ in range(9):
        with pytest.raises(web.HTTPRequestTimeout):
            read(bodies, Content(*trickle, length=1 << 20))
    assert len(read(bodies, Content(*brisk))) == 10 * body.LEAST_BYTES_PER_S


def test_what_a_thread_reads_is_held_until_it_is_done() -> None:
    """A caller that hangs up while its body is parsed: the body counts as long as it is there."""
    entered, leave = threading.Event(), threading.Event()

    def parse() -> None:
        entered.set()
        leave.wait(10)

    async def go() -> None:
        work = asyncio.ensure_future(rest._in_place_or_thread(rest.IN_PLACE_BYTES + 1, parse))
        await asyncio.to_thread(entered.wait, 10)
        work.cancel()
        done, _ = await asyncio.wait([work], timeout=0.1)
        assert not done
        leave.set()
        await asyncio.wait([work], timeout=10)
        assert work.cancelled()

    asyncio.run(go())


# ---- callers


def with_server(test: Callable[[Callers, FakeServer], Coroutine[Any, Any, None]], **options: Any) -> None:
    with FakeServer({"echo": lambda inputs: inputs}, **options) as server:

        async def go() -> None:
            callers = Callers(server.url, "own-token", True)
            try:
                await test(callers, server)
            finally:
                await callers.close()

        asyncio.run(go())


def test_each_caller_has_one_connection() -> None:
    """The same caller's requests share it, another's do not, and nor does another token."""

    async def test(callers: Callers, server: FakeServer) -> None:
        for caller, token in (("ip:1", ""), ("ip:1", ""), ("ip:2", ""), ("ip:1", "t")):
            async with callers.client(caller, token) as client:
                await client.infer("echo", {"x": 1})
        assert server.connections == 3

    with_server(test)


def test_callers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest idle one goes; if none is idle the newcomer is told to come later."""
    monkeypatch.setattr(daemon, "MAX_CALLERS", 2)

    async def test(callers: Callers, server: FakeServer) -> None:
        async with callers.client("a", "") as a, callers.client("b", ""):
            with pytest.raises(RequestError) as caught:
                async with callers.client("c", ""):
                    pass
            assert caught.value.reason == "TOO_MANY_CONNECTIONS"
        async with callers.client("c", "") as c:
            await c.infer("echo", {"x": 1})
        with pytest.raises(RuntimeError, match="closed"):
            await a.infer("echo", {"x": 1})

    with_server(test)


def test_room_for_a_caller_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one newcomer that come together share one connection, also when another must be closed for it."""
    monkeypatch.setattr(daemon, "MAX_CALLERS", 2)

    async def test(callers: Callers, server: FakeServer) -> None:
        for caller in ("a", "b"):
            async with callers.client(caller, "") as client:
                await client.models()
        clients = []

        async def ask() -> None:
            async with callers.client("c", "") as client:
                clients.append(client)
                await client.models()

        await asyncio.gather(ask(), ask())
        assert clients[0] is clients[1] and server.connections == 3

    with_server(test)


def test_what_cannot_be_a_token_is_not_shown() -> None:
    """Half of a character is no text, so it could not even be sent."""

    async def test(callers: Callers, server: FakeServer) -> None:
        with pytest.raises(Unauthenticated):
            async with callers.client("a", "\udcff"):
                pass
        assert server.connections == 0

    with_server(test)


def test_without_tokens_nobody_is_several() -> None:
    """Whatever a caller shows where no token is asked for, it has one connection: there are only so many."""
    with FakeServer({"echo": lambda inputs: inputs}) as server:

        async def go() -> None:
            callers = Callers(server.url, "", False)
            for token in ("", "one", "two"):
                async with callers.client("ip:1", token) as client:
                    await client.models()
            await callers.close()

        asyncio.run(go())
        assert server.connections == 1


def test_callers_that_come_and_go_during_a_sweep_do_not_end_it() -> None:
    """Closing one takes a while: the next may have been closed meanwhile, or be another one by now."""

    async def test(callers: Callers, server: FakeServer) -> None:
        for caller in ("a", "b", "c"):
            async with callers.client(caller, "") as client:
                await client.models()
        a, b, c = (callers._entries[caller, ""] for caller in "abc")
        close = a.client.close

        async def slowly() -> None:
            del callers._entries["b", ""]
            callers._entries["c", ""] = callers._entries.pop(("c", ""))
            await b.client.close()
            async with callers.client("b", "") as client:
                await client.models()
            await close()

        a.client.close = slowly  # type: ignore[method-assign]
        await callers.sweep(c.idle_since + 61)
        assert list(callers._entries) == [("b", "")] and callers._entries["b", ""] is not b

    with_server(test)


def test_idle_callers_are_closed() -> None:
    """After a minute without a request, and not while one runs."""

    async def test(callers: Callers, server: FakeServer) -> None:
        from time import monotonic

        async with callers.client("a", "") as first:
            await callers.sweep(monotonic() + 1000)
            await first.infer("echo", {"x": 1})
        await callers.sweep(monotonic() + 1)
        async with callers.client("a", "") as client:
            assert client is first
        await callers.sweep(monotonic() + 61)
        async with callers.client("a", "") as client:
            assert client is not first

    with_server(test)


def test_a_wrong_token_is_not_kept() -> None:
    """Each guess is asked anew, and takes nobody's place."""

    async def test(callers: Callers, server: FakeServer) -> None:
        for _ in range(2):
            with pytest.raises(Unauthenticated):
                async with callers.client("a", "wrong") as client:
                    await client.models()
        async with callers.client("a", "right") as client:
            await client.models()
        assert server.connections == 3

    with_server(test, token="right")


def test_the_fake_server_asks_for_its_token() -> None:
    """For the users' own tests: with it a client gets in, without it Unauthenticated."""
    with FakeServer({"echo": lambda inputs: inputs}, token="right") as server:
        with Client(server.url, token="right") as client:
            assert client.infer("echo", {"x": 1}) == {"x": 1}
        with Client(server.url) as client, pytest.raises(Unauthenticated):
            client.models()


# ---- answers


@pytest.mark.parametrize("reason", CATALOGUE)
def test_every_error_has_a_status(reason: str) -> None:
    """4xx for the caller's, 5xx for the server's, and when to try again exactly where that can help."""

    cls, text = CATALOGUE[reason]
    error = make(reason, **{name: name for name in _fields(text)})
    answer = failure(error)
    assert answer.status >= 400 and (answer.status >= 500) == (
        cls.code in ("INTERNAL", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED") or reason == "OUTPUT_TOO_LARGE"
    )
    assert ("Retry-After" in answer.headers) == error.retryable


def _fields(text: str) -> set[str]:
    import string

    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_when_to_try_again_is_in_whole_seconds() -> None:
    """Rounded up, and never 0."""
    for retry_after_ms, seconds in ((None, "1"), (20.0, "1"), (1001.0, "2")):
        answer = failure(make("OVERLOADED", retry_after_ms=retry_after_ms, wait=1))
        assert (answer.status, answer.headers["Retry-After"]) == (429, seconds)


# ---- whose a connection is


def test_only_the_gateways_word_counts(tmp_path: Path) -> None:
    """`caller` names who asks on the private socket, and nowhere else; a token's name goes before it."""
    with running(tmp_path, double("Double")) as daemon:
        back = Address(path=str(tmp_path / "back.sock"))
        listener = Listener(daemon.engine)
        asyncio.run_coroutine_threadsafe(listener.open(back, trusted=True), daemon._loop).result(10)

        def owner(url: str, **hello: str) -> str:
            with RawPeer(url, greet=False) as peer:
                peer.sock.sendall(peer.peer.send(f.HELLO, Hello("x", **hello)))  # type: ignore[arg-type]
                answer = peer.next()
                if answer.type == f.ERROR:
                    return str(answer.message.reason)  # type: ignore[union-attr]
                (name,) = daemon.ask(lambda: {session.owner.name for session in daemon.engine.sessions})
            daemon.until(lambda: not daemon.engine.sessions)
            return name

        assert owner(str(back), caller="ip:192.0.2.7") == "ip:192.0.2.7"
        assert owner(str(back), caller="x" * 200) == "x" * 128
        assert owner(str(back), caller="ip:::ffff:192.0.2.7") == "ip:192.0.2.7"
        assert owner(str(back), caller="ip:127.0.0.5") == "ip:loopback"
        assert owner(daemon.url, caller="ip:192.0.2.7") == "ip:loopback"
        assert owner(daemon.unix_url, caller="ip:192.0.2.7").startswith("uid:")
        daemon.ask(lambda: setattr(daemon.engine, "tokens", Tokens({"ada": "secret"})))
        assert owner(str(back), caller="ip:192.0.2.7", token="secret") == "token:ada"
        assert owner(daemon.url, token="secret") == "token:ada"
        assert owner(daemon.unix_url).startswith("uid:")
        for url in (str(back), daemon.url):
            assert owner(url, caller="ip:192.0.2.7") == owner(url, token="wrong") == "TOKEN"
        daemon.ask(listener.close)


def test_who_has_hung_up_before_he_is_let_in_needs_a_token_too(tmp_path: Path) -> None:
    """A TCP connection that is reset before the daemon accepts it has no address any more, but what it has sent can be
    read: without a token none of it is done."""
    with running(tmp_path, double("Double")) as daemon:
        daemon.ask(lambda: setattr(daemon.engine, "tokens", Tokens({"ada": "secret"})))
        peers: list[str] = []
        daemon.engine.throttle.event = lambda name, now, **fields: peers.append(fields["peer"])  # type: ignore
        entered, leave = threading.Event(), threading.Event()
        daemon._loop.call_soon_threadsafe(lambda: entered.set() or leave.wait(10))
        assert entered.wait(10)
        with RawPeer(daemon.url, greet=False) as peer:
            hello = peer.peer.send(f.HELLO, Hello("x"))
            peer.peer._become("OPEN")
            peer.sock.sendall(hello + peer.packed(1, "double", b"\0\0\0\0", (1,)))
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leave.set()
        daemon.until(lambda: daemon.engine.counters["connections"] == 1 and not daemon.engine.sessions)
        assert not daemon.engine.counters["batches_idle"] and daemon.engine.counters["refused_token"] == 1
        assert peers == ["unknown"]
