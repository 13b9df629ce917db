"""What only the client of an event loop has to get right, on asyncio's loop and uvloop's: tasks, transports, and
connecting without a thread."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import uvloop
from inferd_client import AsyncClient, aio, aio_connection, aio_link
from inferd_client.testing import FakeServer

from inferd.errors import Cancelled, DeadlineExceeded, InvalidArgument, Unavailable, make
from inferd.wire import frame as f
from inferd.wire.messages import GoAway, Result
from inferd.wire.values import pack_values
from tests.client.client_kinds import Background, Held

MIB = 1024 * 1024
Run = Callable[[Coroutine[Any, Any, None]], None]
ECHO: dict[str, Any] = {"echo": lambda inputs: inputs}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of the kind."""

    def run_it(main: Coroutine[Any, Any, None]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main, 60))

    return run_it


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def url_of(listener: socket.socket) -> str:
    return f"inferd://127.0.0.1:{listener.getsockname()[1]}"


def test_a_connection_notices_a_network_that_is_gone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket gets what a socket of this client needs, once it is connected."""
    peers = []
    monkeypatch.setattr(aio_connection, "set_tcp_options", lambda sock: peers.append(sock.getpeername()[1]))

    async def main(server: FakeServer) -> None:
        async with AsyncClient(server.url) as client:
            await client.ping()

    with FakeServer({}) as server:
        run(main(server))
        assert peers == [int(server.url.rpartition(":")[2])]


# ---- a server that does not read


def test_calls_that_gave_up_before_they_were_written_leave_nothing(run: Run, listener: socket.socket) -> None:
    """While the server does not read, nothing is kept of a call whose time is up, however many there are."""
    from tests.client.test_client_behaviour import greeted

    async def main() -> None:
        async with AsyncClient(url_of(listener)) as client:
            connecting = asyncio.create_task(client.models())
            sock, _ = await asyncio.to_thread(greeted, listener, 64)
            await connecting
            with sock:
                with pytest.raises(DeadlineExceeded):
                    await client.infer("fill", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=100)
                payloads = []
                for _ in range(20):
                    payload = np.zeros(MIB, np.uint8)
                    payloads.append(weakref.ref(payload))
                    with pytest.raises(DeadlineExceeded, match="waiting to be sent"):
                        await client.infer("echo", {"x": payload}, timeout_ms=5)
                    del payload
                gc.collect()
                assert sum(payload() is not None for payload in payloads) == 0

    run(main())


def test_pings_of_a_server_that_does_not_read_are_answered_once(run: Run, listener: socket.socket) -> None:
    """What waits to be written does not grow with them: when the server reads again it gets the last one's answer."""
    from tests.client.test_client_behaviour import greeted

    seen: list[Any] = []

    def serve() -> None:
        sock, peer = greeted(listener)
        with sock:
            sock.recv(24, socket.MSG_PEEK | socket.MSG_WAITALL)  # more is on its way than the sockets hold
            sock.sendall(b"".join(peer.send(f.PING, request_id=n) for n in range(1, 1001)))
            answer(sock, peer, 1)
            while nbytes := sock.recv_into(peer.get_buffer()):
                peer.buffer_updated(nbytes)
                while (frame := peer.next_frame()) is not None:
                    if not frame.complete:
                        peer.accept(memoryview(bytearray(frame.payload_bytes)))
                        continue
                    seen.append((f.TYPE_NAMES[frame.type], frame.request_id))
                    if frame.type == f.INFER and frame.request_id == 2:
                        answer(sock, peer, 2)

    def answer(sock: socket.socket, peer: Any, request_id: int) -> None:
        payload = pack_values({})
        sock.sendall(peer.send(f.RESULT, Result(), request_id, len(payload), f.HAS_VALUES, 8) + payload)

    async def main() -> None:
        async with AsyncClient(url_of(listener)) as client:
            await client.infer("fill", {"x": np.zeros(32 * MIB, np.uint8)})
            await client.infer("echo", {})

    serving = Background(serve)
    run(main())
    serving.result()
    assert seen == [("INFER", 1), ("PONG", 1000), ("INFER", 2)]


def test_what_is_not_written_goes_with_a_connection_that_is_taken_for_dead(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may be there to read it: the socket and the memory are given back at once."""
    from tests.client.test_client_behaviour import greeted

    monkeypatch.setattr("inferd_client.core.SILENCE_S", 0.0)

    async def main() -> None:
        async with AsyncClient(url_of(listener), max_retries=0) as client:
            connecting = asyncio.create_task(client.models())
            frozen, _ = await asyncio.to_thread(greeted, listener)
            await connecting
            connection: Any = client._link._only.connection  # type: ignore[union-attr]
            with frozen:
                with pytest.raises(DeadlineExceeded):
                    await client.infer("fill", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=100)
                await asyncio.wait_for(connection.ended, 20)

    run(main())


# ---- close


def test_close_ends_also_what_had_left_before(run: Run, listener: socket.socket) -> None:
    """A connection after GOAWAY, with bytes that its server does not read, and with a successor."""
    from tests.client.test_client_behaviour import greeted
    from tests.client.test_client_threads import until_true

    async def main() -> None:
        client = AsyncClient(url_of(listener))
        connecting = asyncio.create_task(client.models())
        first, peer = await asyncio.to_thread(greeted, listener)
        await connecting
        connection: Any = client._link._only.connection  # type: ignore[union-attr]
        with first:
            with pytest.raises(DeadlineExceeded):
                await client.infer("fill", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=100)
            first.sendall(peer.send(f.GOAWAY, GoAway()))
            await asyncio.to_thread(until_true, lambda: connection.conversation.draining)
            connecting = asyncio.create_task(client.models())
            second, _ = await asyncio.to_thread(greeted, listener)
            await connecting
            with second:
                await client.close()
                assert connection.ended.done()

    run(main())


@pytest.mark.parametrize("waiting_for", ["answer", "credit", "connection", "retry"])
def test_close_cancels_what_is_under_way(run: Run, held: Held, waiting_for: str) -> None:
    """Whatever a call waits for, it raises Cancelled at once; one that comes after is told that the client is
    closed."""

    def full(inputs: dict[str, Any]) -> dict[str, Any]:
        raise make("OVERLOADED", 30_000, limit=1, wait=1, model="m")

    async def main(server: FakeServer) -> None:
        client = AsyncClient(server.url)
        await client.ping()
        if waiting_for == "connection":
            server.stop()
            calls = [asyncio.create_task(client.infer("held", {})), asyncio.create_task(client.status())]
            await asyncio.wait(calls, timeout=0.1)
        elif waiting_for == "retry":
            calls = [asyncio.create_task(client.infer("full", {}, timeout_ms=120_000))]
            await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 1)
            await client.ping()  # its answer comes behind the refusal
        else:
            n = 3 if waiting_for == "credit" else 1
            calls = [asyncio.create_task(client.infer("held", {})) for _ in range(n)]
            await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 1)
        await asyncio.wait_for(client.close(), 5)
        for call in calls:
            with pytest.raises(Cancelled):
                await asyncio.wait_for(call, 5)
        for late in (client.infer("held", {}), client.ping(), client.wait_ready()):
            with pytest.raises(RuntimeError, match="closed"):
                await late

    with FakeServer({"held": held, "full": full}, credits=1) as server:
        run(main(server))


def test_close_cancels_who_waits_for_the_first_connection(run: Run, listener: socket.socket) -> None:
    async def main() -> None:
        client = AsyncClient(url_of(listener))
        calls = [asyncio.create_task(work) for work in (client.infer("echo", {}), client.wait_ready(), client.models())]
        await asyncio.sleep(0)
        await client.close()
        for call in calls:
            with pytest.raises(Cancelled):
                await call

    run(main())


def test_a_close_that_is_cancelled_says_so(run: Run, held: Held, listener: socket.socket) -> None:
    """Whoever cancels the task that closes is not ignored; the connections end all the same."""

    async def main(server: FakeServer) -> None:
        client = AsyncClient(f"{server.url},{url_of(listener)}")  # the second never says WELCOME
        call = asyncio.create_task(client.infer("held", {}))
        await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 1)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(Cancelled):
            await call

    with FakeServer({"held": held}) as server:
        run(main(server))


@pytest.mark.parametrize("begun", [False, True])
def test_cancelling_every_task_leaves_a_client_of_use(run: Run, listener: socket.socket, begun: bool) -> None:
    """An attempt to connect is a task, too: when it was cancelled with all others, the next call makes another."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncClient(url_of(listener)))
            calling = asyncio.create_task(client.infer("echo", {}))
            await asyncio.sleep(0)
            if begun:
                sock, _ = await asyncio.to_thread(listener.accept)
                stack.enter_context(sock)
            others = asyncio.all_tasks() - bystanders
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            assert calling.cancelled()
            listener.close()
            with pytest.raises(Unavailable):
                await client.infer("echo", {}, timeout_ms=20_000)

    async def with_bystanders() -> None:
        bystanders.update(asyncio.all_tasks())
        await main()

    bystanders: set[Any] = set()
    run(with_bystanders())


# ---- hosts with several addresses


class Host:
    """A name in a loop's directory: its addresses, some of them silent. `socks` are those that were to be connected to
    each."""

    def __init__(self, addresses: list[str], silent: list[str]) -> None:
        self._addresses = addresses
        self._silent = silent
        self.socks: dict[str, socket.socket] = {}
        self.all_tried = asyncio.Event()
        self.ended = 0  # attempts at silent addresses that were given up

    def enter(self, loop: asyncio.AbstractEventLoop) -> None:
        look_up, connect = loop.getaddrinfo, loop.sock_connect

        async def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
            if host != "several.example":
                return await look_up(host, port, **options)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self._addresses]

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            self.socks[address[0]] = sock
            if len(self.socks) == len(self._addresses):
                self.all_tried.set()
            if address[0] not in self._silent:
                return await connect(sock, address)
            try:
                await loop.create_future()
            finally:
                self.ended += 1

        loop.getaddrinfo = getaddrinfo  # type: ignore[assignment, method-assign]
        loop.sock_connect = sock_connect  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("connect_timeout_ms", [300, 60_000])
def test_a_silent_address_of_a_host_is_passed_over(run: Run, connect_timeout_ms: int) -> None:
    """The next ones are tried beside it, however long or short the time for connecting is; what is left of the others
    ends with the first that answers."""
    host = Host(["127.0.0.2", "127.0.0.3", "127.0.0.1"], silent=["127.0.0.2", "127.0.0.3"])

    async def main(server: FakeServer) -> None:
        host.enter(asyncio.get_running_loop())
        url = server.url.replace("127.0.0.1", "several.example")
        async with AsyncClient(url, connect_timeout_ms=connect_timeout_ms) as client:
            assert await client.infer("echo", {"n": 1}) == {"n": 1}
            assert host.ended == 2
            assert [host.socks[address].fileno() for address in ("127.0.0.2", "127.0.0.3")] == [-1, -1]

    with FakeServer(ECHO) as server:
        run(main(server))


def test_a_host_of_which_no_address_answers(run: Run) -> None:
    """When each has said so, what each said is told; when one is silent, the time for connecting is what ends it."""

    async def main(url: str, host: Host, words: str, connect_timeout_ms: int) -> None:
        host.enter(asyncio.get_running_loop())
        async with AsyncClient(url, connect_timeout_ms=connect_timeout_ms) as client:
            with pytest.raises(Unavailable, match=words) as caught:
                await client.infer("echo", {})
            assert caught.value.reason == "CONNECT_FAILED"
            assert [sock.fileno() for sock in host.socks.values()] == [-1, -1]

    with FakeServer({}) as server:
        url = server.url.replace("127.0.0.1", "several.example")
    refusing = ["127.0.0.2", "127.0.0.3"]
    run(main(url, Host(refusing, silent=[]), f"several.example.*: {os.strerror(errno.ECONNREFUSED)}$", 60_000))
    run(main(url, Host(refusing, silent=["127.0.0.2"]), "several.example.*: timed out$", 300))


def test_who_gives_up_while_connecting_leaves_no_socket(run: Run) -> None:
    host = Host(["127.0.0.2", "127.0.0.3"], silent=["127.0.0.2", "127.0.0.3"])

    async def main() -> None:
        host.enter(asyncio.get_running_loop())
        client = AsyncClient("inferd://several.example", connect_timeout_ms=60_000)
        calling = asyncio.create_task(client.ping())
        await host.all_tried.wait()
        await client.close()
        with pytest.raises(Cancelled):
            await calling
        assert host.ended == 2
        assert [sock.fileno() for sock in host.socks.values()] == [-1, -1]

    run(main())


@pytest.mark.parametrize("connect_timeout_ms", [0, -5])
def test_no_time_to_connect_is_a_millisecond(
    run: Run, monkeypatch: pytest.MonkeyPatch, connect_timeout_ms: float
) -> None:
    """As with the client for threads; none at all would be over before anything is tried."""
    given = []

    def timeout(seconds: float) -> asyncio.Timeout:
        given.append(seconds)
        return asyncio.Timeout(None)

    async def main(server: FakeServer) -> None:
        async with AsyncClient(server.url, connect_timeout_ms=connect_timeout_ms) as client:
            with monkeypatch.context() as patched:
                patched.setattr(aio_link.asyncio, "timeout", timeout)
                assert await client.infer("echo", {"n": 1}) == {"n": 1}

    with FakeServer(ECHO) as server:
        run(main(server))
    assert given == [0.001]


def test_wait_ready_does_not_sleep_past_its_time(
    run: Run, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the pause before the next attempt would be."""
    from tests.client.test_client_behaviour import greeted

    monkeypatch.setattr(aio, "backoff_s", lambda attempt, jitter: 1000.0)

    async def main() -> None:
        async with AsyncClient(url_of(listener)) as client:
            ready = asyncio.create_task(client.wait_ready(timeout_ms=300))
            sock, _ = await asyncio.to_thread(greeted, listener)
            sock.close()
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(ready, 20)

    run(main())


# ---- the server for tests


def test_a_fake_server_is_told_things_while_it_writes_a_large_answer(run: Run) -> None:
    """By a test on the client's own loop, which reads no answer until the server has been told."""
    from tests.client.test_client_threads import until_true

    large = np.zeros(64 * MIB, np.uint8)

    async def main(server: FakeServer) -> None:
        async with AsyncClient(server.url) as client:
            await client.ping()
            [session] = server._sessions
            conversation: Any = client._link._only.connection.conversation  # type: ignore[union-attr]

            async def begin() -> asyncio.Task[Any]:
                count = len(server.requests) + 1
                call = asyncio.create_task(client.infer("large", {}))
                await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == count)
                until_true(lambda: not session._in_flight)  # and so its answer is begun
                return call

            call = await begin()
            server.grant(9)
            server.ping(7)
            assert len((await call)["y"]) == 64 * MIB
            await asyncio.to_thread(server.wait_for, lambda s: s.pongs == [7])
            assert conversation.credits == 9
            call = await begin()
            server.goaway()
            assert len((await call)["y"]) == 64 * MIB
            await asyncio.to_thread(until_true, lambda: conversation.draining)
            await client.ping()
            assert server.connections == 2

    with FakeServer({"large": lambda inputs: {"y": large}}) as server:
        run(main(server))


def test_a_fake_model_whose_outputs_cannot_be_sent_is_told_to_its_caller(run: Run) -> None:
    async def main(server: FakeServer) -> None:
        async with AsyncClient(server.url) as client:
            with pytest.raises(InvalidArgument, match="object"):
                await client.infer("broken", {}, timeout_ms=20_000)

    with FakeServer({"broken": lambda inputs: {"x": [object()]}}) as server:
        run(main(server))


def test_a_fake_status_that_cannot_be_sent_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument, match="object"):
        FakeServer({}, status={"x": object()})
