"""The client for threads where things go wrong below it: interrupted reads, endless timeouts, silent addresses, streams
that are left, clients that are closed."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from inferd_client import Client, link, sync
from inferd_client.connection import dial
from inferd_client.endpoints import set_tcp_options
from inferd_client.testing import FakeServer

from inferd.errors import Cancelled, DeadlineExceeded, InvalidArgument, make
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import BARE, Result
from tests.client.client_kinds import Background, Held
from tests.client.test_client_behaviour import answer_all, greeted, next_frame

MIB = 1024 * 1024
DAY_MS = 24 * 3600 * 1000.0


@pytest.fixture
def url() -> str:
    return "inferd://127.0.0.1:0"


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def infer(client: Client, model: str, n: int = 0, **options: Any) -> Background:
    return Background(lambda: client.infer(model, {"n": n}, **options))


def no_stream_goes_on() -> bool:
    """Whether the threads of all streams end although no server has answered."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("inferd-stream")]
    for thread in threads:
        thread.join(20)
    return not any(thread.is_alive() for thread in threads)


# ---- options of the socket


class FarSocket:
    """As far as its options are concerned, a connection to another machine."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.options: dict[tuple[int, int], int] = {}

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.7", 7433

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[level, option] = value


def test_a_peer_that_is_gone_without_a_word_is_found_by_the_system() -> None:
    sock: Any = FarSocket()
    set_tcp_options(sock)
    assert sock.options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    assert sock.options[socket.IPPROTO_TCP, socket.TCP_NODELAY] == 1
    assert sock.options[socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT] == 20_000
    assert sock.options[socket.IPPROTO_TCP, socket.TCP_KEEPIDLE] == 30


def test_a_connection_of_this_machine_is_left_alone(server: FakeServer) -> None:
    """Over the loopback interface small frames leave at once, and nobody is given up."""
    with dial(Address.parse(server.url), 5.0) as sock:
        assert isinstance(sock, socket.socket)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    with socket.socket(socket.AF_UNIX) as unix:
        set_tcp_options(unix)


# ---- an exception between the socket and the books


class Interrupted:
    """A socket on which Ctrl-C comes when bytes have just been taken from it, or handed to it."""

    def __init__(self, sock: socket.socket, method: str) -> None:
        self._sock = sock
        self._method = method

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._sock, name)
        if name != self._method:
            return method

        def interrupted(*args: Any) -> None:
            method(*args)
            raise KeyboardInterrupt

        return interrupted


def outcomes(calls: list[Background]) -> list[str]:
    """What became of the calls: their number, or the name of what they raised."""
    found = []
    for call in calls:
        try:
            found.append(str(call.result()["n"]))
        except BaseException as error:
            found.append(type(error).__name__)
    return found


def test_an_interrupted_read_harms_nobody_else(client: Client, server: FakeServer, held: Held) -> None:
    """The bytes are gone, so the connection is: the one that was interrupted hears of it, the others are sent again."""
    client.ping()
    connection: Any = client._link._only.connection  # type: ignore[union-attr]
    calls = [infer(client, "held", n, timeout_ms=20_000) for n in range(3)]
    server.wait_for(lambda s: len(s.requests) == 3)
    connection._sock = Interrupted(connection._sock, "recv_into")
    held.release.set()
    found = outcomes(calls)
    assert found.count("KeyboardInterrupt") == 1
    assert [n for n in range(3) if found[n] == str(n)] == [n for n in range(3) if found[n] != "KeyboardInterrupt"]
    assert client.infer("echo", {"n": 7}) == {"n": 7} and server.connections == 2


def test_an_interrupted_write_harms_nobody_else(client: Client, server: FakeServer, held: Held) -> None:
    """Nobody knows how much of the frame is on its way, so nothing may follow it."""
    client.ping()
    waiting = infer(client, "held", 1, timeout_ms=20_000)
    server.wait_for(lambda s: len(s.requests) == 1)
    connection: Any = client._link._only.connection  # type: ignore[union-attr]
    connection._sock = Interrupted(connection._sock, "sendmsg")
    assert outcomes([infer(client, "echo", 2)]) == ["KeyboardInterrupt"]
    held.release.set()
    assert outcomes([waiting]) == ["1"]
    assert server.connections == 2


def test_no_memory_for_an_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has received it is told, and the next call has a connection."""
    from inferd_client import core

    def full(*args: Any) -> bytearray:
        raise MemoryError

    client.ping()
    with monkeypatch.context() as patched:
        patched.setattr(core, "bytearray", full, raising=False)
        with pytest.raises(MemoryError):
            client.infer("flood", {"nbytes": MIB}, timeout_ms=20_000)
    assert len(client.infer("flood", {"nbytes": MIB}, timeout_ms=20_000)["y"]) == MIB


# ---- endless timeouts


@pytest.mark.parametrize("timeout_ms", [30 * DAY_MS, 1e300])
def test_a_timeout_may_be_longer_than_the_system_waits(
    client: Client, server: FakeServer, held: Held, timeout_ms: float
) -> None:
    """For whoever receives, and for those that sleep meanwhile."""
    calls = [infer(client, "held", n, timeout_ms=timeout_ms) for n in range(3)]
    server.wait_for(lambda s: len(s.requests) == 3)
    held.release.set()
    assert outcomes(calls) == ["0", "1", "2"]


def test_an_endless_wait_for_a_connection() -> None:
    with FakeServer({"echo": lambda inputs: inputs}) as server:
        server.stop()
        with Client(server.url, connect_timeout_ms=1e300) as client:
            ready = Background(lambda: client.wait_ready(timeout_ms=1e300))
            server.start()
            ready.result()


def test_an_endless_wait_for_room_in_the_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Client(f"inferd://127.0.0.1:{listener.getsockname()[1]}") as client:
            connecting = Background(client.models)
            sock, peer = greeted(listener)
            connecting.result()
            connection: Any = client._link._only.connection  # type: ignore[union-attr]
            large = Background(lambda: client.infer("m", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=1e300))
            requests: list[Any] = []
            peer.buffer_updated(sock.recv_into(peer.get_buffer()[:1]))  # it has begun
            until_true(lambda: bool(connection._send_lock.locked()))
            reader = Background(lambda: answer_all(sock, peer, requests))
            assert large.result() == {"model": "m"}
        reader.result()


# ---- connecting


def test_a_silent_address_of_a_host_leaves_time_for_the_next(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv6 that leads nowhere, say: the first address has its share of the time, and no more."""
    there = ("127.0.0.1", Address.parse(server.url).port)
    silent = [("127.0.0.2", 1), ("127.0.0.3", 1)]
    spent = []
    connect = socket.socket.connect

    def answer(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", where) for where in (*silent, there)]

    def fake_connect(sock: socket.socket, where: Any) -> None:
        if where in silent:
            spent.append(sock.gettimeout())
            raise TimeoutError
        connect(sock, where)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(socket.socket, "connect", fake_connect)
    dial(Address(host="many", port=1), 60.0).close()
    assert 0 < spent[0] <= 20.0 and 0 < spent[1] <= 30.0
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answer("", 0)[:2])
    with pytest.raises(TimeoutError):
        dial(Address(host="many", port=1), 60.0)


class InterruptedThread(threading.Thread):
    """A thread on whose start Ctrl-C comes: it runs, or it does not."""

    runs = False

    def start(self) -> None:
        if self.runs:
            super().start()
        raise KeyboardInterrupt


@pytest.mark.parametrize("runs", [False, True])
def test_an_interrupt_while_dialing_begins_leaves_every_address_of_use(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """Also those whose turn had not come."""
    with FakeServer({"echo": lambda inputs: inputs}) as other, Client(f"{server.url},{other.url}") as client:
        with monkeypatch.context() as patched:
            patched.setattr(InterruptedThread, "runs", runs)
            patched.setattr(link, "Thread", InterruptedThread)
            with pytest.raises(KeyboardInterrupt):
                client.infer("echo", {})
        server.stop()
        assert client.infer("echo", {"n": 1}, timeout_ms=20_000) == {"n": 1}
        assert len(other.requests) == 1


def test_of_two_connections_to_an_address_one_is_kept(client: Client, server: FakeServer) -> None:
    """After an interrupt two may be made at once."""
    client.ping()
    endpoint: Any = client._link._only
    first = endpoint.connection
    client._link._dial(endpoint)
    assert server.connections == 2 and endpoint.connection is first
    until_true(lambda: len(server._sessions) == 1)
    client.ping()


def test_wait_ready_does_not_sleep_past_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the pause before the next attempt would be."""
    monkeypatch.setattr(sync, "backoff_s", lambda attempt, jitter: 1000.0)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, Client(f"inferd://127.0.0.1:{listener.getsockname()[1]}") as client:
        ready = Background(lambda: client.wait_ready(timeout_ms=300))
        greeted(listener)[0].close()
        with pytest.raises(DeadlineExceeded):
            ready.result()


# ---- streams


def test_what_cannot_be_sent_is_told_in_its_place(client: Client, server: FakeServer) -> None:
    """Those before it are answered, those behind it are not drawn."""
    items: list[dict[str, Any]] = [{"n": 0}, {"n": 1}, {"n": object()}, {"n": 3}]
    drawn = iter(items)
    seen = []
    with pytest.raises(InvalidArgument):
        for result in client.stream("echo", drawn, max_in_flight=32):
            seen.append(result["n"])
    assert seen == [0, 1] and list(drawn) == [{"n": 3}]
    assert len(server.requests) == 2 and not server.cancelled


def test_a_forked_child_leaves_its_parents_stream_alone(client: Client, server: FakeServer, held: Held) -> None:
    """It drops its copy of the stream; the parent's calls are not cancelled by that."""
    results = client.stream("m", ({"n": n} for n in range(3)), max_in_flight=3)
    server.models["m"] = lambda inputs: inputs if inputs["n"] == 0 else held(inputs)
    assert next(results) == {"n": 0}
    server.wait_for(lambda s: len(s.requests) >= 2)
    if (child := os.fork()) == 0:
        status = 1
        try:
            results.close()  # type: ignore[attr-defined]
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.release.set()
    assert [result["n"] for result in results] == [1, 2]
    assert not server.cancelled


def test_leaving_a_stream_takes_back_what_waits_for_a_connection(client: Client, server: FakeServer) -> None:
    """Nobody sends it later, and the interpreter's end does not wait for it."""
    client.ping()
    server.stop()

    def source() -> Iterator[dict[str, Any]]:
        yield from ({"n": n} for n in range(4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(client.stream("echo", source(), timeout_ms=60_000))
    assert no_stream_goes_on()
    server.start()
    client.ping()
    assert not server.requests


def test_leaving_a_stream_takes_back_what_waits_for_a_retry(client: Client, server: FakeServer) -> None:
    def busy(inputs: dict[str, Any]) -> dict[str, Any]:
        raise make("OVERLOADED", 50_000, limit=1, wait=1, model="m")

    server.models["m"] = busy

    def source() -> Iterator[dict[str, Any]]:
        yield {"n": 1}
        server.wait_for(lambda s: len(s.requests) == 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(client.stream("m", source(), timeout_ms=120_000))
    assert no_stream_goes_on() and len(server.requests) == 1


def test_a_stream_that_the_garbage_collector_ends_waits_for_no_lock(
    client: Client, server: FakeServer, held: Held
) -> None:
    """It may have interrupted the very thread that holds the lock. What runs is taken back all the same."""

    def forget(stream: Any) -> None:
        """Only the collector finds it from here on."""
        cycle = [stream]
        cycle.append(cycle)

    def collect() -> None:
        with client._link._changed, connection._send_lock, connection._mutex:
            gc.collect()

    def first_when_all_are_there(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["n"]:
            return held(inputs)
        server.wait_for(lambda s: len(s.requests) == 3)
        return inputs

    server.models["m"] = first_when_all_are_there
    results = client.stream("m", ({"n": n} for n in range(3)), max_in_flight=3, timeout_ms=600_000)
    assert next(results) == {"n": 0}
    connection: Any = client._link._only.connection  # type: ignore[union-attr]
    forget(results)
    del results
    Background(collect).result()
    server.wait_for(lambda s: len(s.cancelled) == 2)
    assert no_stream_goes_on()


def test_leaving_a_stream_needs_no_word_of_a_server_that_hangs() -> None:
    """Nothing comes any more, and whoever waits for that notices that its call has been taken back."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, Client(f"inferd://127.0.0.1:{listener.getsockname()[1]}") as client:
        connecting = Background(client.models)
        hanging, _ = greeted(listener)
        connecting.result()
        conversation: Any = client._link._only.connection.conversation  # type: ignore[union-attr]

        def source() -> Iterator[dict[str, Any]]:
            yield from ({"n": n} for n in range(4))
            until_true(lambda: len(conversation._pending) == 4)
            raise KeyboardInterrupt

        with hanging:
            with pytest.raises(KeyboardInterrupt):
                list(client.stream("m", source(), timeout_ms=600_000))
            assert no_stream_goes_on()


# ---- closing


def test_closing_cancels_what_waits_for_credits(server: FakeServer, held: Held) -> None:
    """As it does what is on its way."""
    server.credits = 1
    with Client(server.url) as client:
        client.ping()
        calls = [infer(client, "held", n) for n in range(3)]
        conversation: Any = client._link._only.connection.conversation  # type: ignore[union-attr]
        until_true(lambda: conversation.load == 3)
        client.close()
        assert outcomes(calls) == ["Cancelled"] * 3
        with pytest.raises(RuntimeError, match="closed"):
            client.infer("echo", {})


@pytest.mark.parametrize("call", ["infer", "wait_ready"])
def test_closing_cancels_what_waits_for_a_connection(server: FakeServer, call: str) -> None:
    with Client(server.url) as client:
        client.ping()
        server.stop()
        dialled = threading.Event()
        changed: Any = client._link._changed
        wait = changed.wait
        changed.wait = lambda timeout=None: (dialled.set(), wait(timeout))[1]
        work = client.wait_ready if call == "wait_ready" else lambda: client.infer("echo", {})
        waiting = Background(work)
        assert dialled.wait(20)
        client.close()
        with pytest.raises(Cancelled):
            waiting.result()
        with pytest.raises(RuntimeError, match="closed"):
            client.wait_ready()


def test_closing_cancels_what_waits_for_a_retry(client: Client, server: FakeServer) -> None:
    def busy(inputs: dict[str, Any]) -> dict[str, Any]:
        raise make("OVERLOADED", 50_000, limit=1, wait=1, model="m")

    server.models["m"] = busy
    waiting = infer(client, "m", timeout_ms=120_000)
    server.wait_for(lambda s: len(s.requests) == 1)
    conversation: Any = client._link._only.connection.conversation  # type: ignore[union-attr]
    until_true(lambda: conversation.idle)
    client.close()
    with pytest.raises(Cancelled):
        waiting.result()


def until_true(condition: Callable[[], bool]) -> None:
    """Looks until it is so."""
    event = threading.Event()
    for _ in range(20_000):
        if condition():
            return
        event.wait(0.001)
    raise AssertionError("it did not happen")


# ---- silence


def test_a_call_that_times_out_after_a_long_silence_costs_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is frozen, or a proxy that has lost its server, says nothing and does not hang up: the next call
    makes a connection of its own."""
    monkeypatch.setattr("inferd_client.core.SILENCE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Client(f"inferd://127.0.0.1:{listener.getsockname()[1]}", max_retries=0) as client:
            connecting = Background(client.models)
            frozen, _ = greeted(listener)
            connecting.result()
            with frozen, pytest.raises(DeadlineExceeded):
                client.infer("m", {}, timeout_ms=200)
            again = Background(lambda: client.infer("m", {}))
            sock, peer = greeted(listener)
            answering = Background(lambda: answer_all(sock, peer, []))
            assert again.result() == {"model": "m"}
        answering.result()


# ---- writing


def test_more_frames_than_one_write_takes() -> None:
    """A server may ask for more signs of life than sendmsg() takes buffers: each is answered."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, Client(f"inferd://127.0.0.1:{listener.getsockname()[1]}", max_retries=0) as client:
        connecting = Background(client.models)
        sock, peer = greeted(listener)
        connecting.result()
        sock.settimeout(20)
        waiting = Background(lambda: client.infer("m", {}))
        request = next_frame(sock, peer)
        connection: Any = client._link._only.connection  # type: ignore[union-attr]
        with connection._send_lock:  # they gather while another writes
            sock.sendall(b"".join(peer.send(f.PING, BARE, ping_id) for ping_id in range(1, 3001)))
            until_true(lambda: len(connection.conversation.outbox) == 3000)
        assert [next_frame(sock, peer).request_id for _ in range(3000)] == list(range(1, 3001))
        sock.sendall(peer.send(f.RESULT, Result(), request.request_id, 0, 0, 8))
        assert waiting.result() == {}
        sock.close()
