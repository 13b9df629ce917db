"""Servers that restart, refuse, stall and vanish, and callers that see as little of it as can be: every kind of client
against FakeServers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any

import pytest
from inferd_client import endpoints
from inferd_client.testing import FakeServer

from inferd.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    make,
)
from tests.client.client_kinds import Background, Held, open_client

Start = Callable[..., FakeServer]
ECHO: dict[str, Any] = {"echo": lambda inputs: inputs}


@pytest.fixture
def serve() -> Iterator[Start]:
    """Starts servers of their own."""
    with ExitStack() as stack:
        yield lambda models=ECHO, **options: stack.enter_context(FakeServer(models, **options))


def several(*servers: FakeServer) -> str:
    return ",".join(server.url for server in servers)


class Failing:
    """A model that raises `reason` for its first `times` requests."""

    def __init__(self, reason: str, times: int, retry_after_ms: float | None = None) -> None:
        self.reason = reason
        self.times = times
        self.retry_after_ms = retry_after_ms
        self.at: list[float] = []

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.at.append(monotonic())
        if len(self.at) <= self.times:
            raise make(self.reason, self.retry_after_ms, limit=1, wait=1, model="m", known="m")
        return inputs


# ---- a restart


class OpenLoop:
    """Calls that start whether the ones before have been answered or not, one after the other for `seconds`."""

    def __init__(self, client: Any, seconds: float, pause_s: float = 0.004) -> None:
        self.calls: list[Background] = []
        self._thread = Background(lambda: self._run(client, seconds, pause_s))

    def _run(self, client: Any, seconds: float, pause_s: float) -> None:
        end = monotonic() + seconds
        while monotonic() < end:
            n = len(self.calls)
            self.calls.append(Background(lambda n=n: client.infer("echo", {"n": n})))  # type: ignore[misc]
            sleep(pause_s)

    def answers(self) -> list[Any]:
        self._thread.result()
        return [call.result() for call in self.calls]


@pytest.mark.parametrize("gap_s", [0.0, 0.3])
def test_a_restart_is_invisible(client: Any, server: FakeServer, gap_s: float) -> None:
    """Behind the one address a server drains, and a while later another listens there: no call fails, none is asked
    twice."""
    server.delay_ms = 20
    client.infer("echo", {"n": -1})
    load = OpenLoop(client, 1.0)
    for _ in range(2):
        sleep(0.15)
        server.drain()
        sleep(gap_s)
        server.start()
    answers = load.answers()
    assert answers == [{"n": n} for n in range(len(answers))] and len(answers) > 20
    assert sorted(request.inputs["n"] for request in server.requests) == list(range(-1, len(answers)))


def test_a_restart_behind_a_socket_that_stays(client: Any, server: FakeServer) -> None:
    """As with socket activation: the old server sends everybody away, and who connects gets the new one."""
    server.delay_ms = 20
    load = OpenLoop(client, 0.8)
    for _ in range(3):
        sleep(0.2)
        server.goaway()
    answers = load.answers()
    assert answers == [{"n": n} for n in range(len(answers))]
    assert sorted(request.inputs["n"] for request in server.requests) == list(range(len(answers)))


def test_calls_wait_for_a_server_that_comes_back(client: Any, server: FakeServer) -> None:
    """As long as they have time; those that have less are told why."""
    client.infer("echo", {})
    server.stop()
    hasty = Background(lambda: client.infer("echo", {}, timeout_ms=500))
    patient = [Background(lambda n=n: client.infer("echo", {"n": n})) for n in range(5)]  # type: ignore[misc]
    with pytest.raises(DeadlineExceeded, match=r"waiting for a connection \(cannot connect to") as caught:
        hasty.result()
    assert isinstance(caught.value.__cause__, Unavailable)
    server.start()
    assert [call.result() for call in patient] == [{"n": n} for n in range(5)]


def test_a_server_that_never_was_is_told_at_once(kind: str, serve: Start) -> None:
    """The address is wrong, or nobody has started it: no waiting, unless with wait_ready."""
    server = serve()
    server.stop()
    with open_client(kind, server.url) as client:
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"cannot connect to .* refused") as caught:
                client.infer("echo", {})
            assert caught.value.reason == "CONNECT_FAILED"
        ready = Background(lambda: client.wait_ready(timeout_ms=20_000))
        server.start()
        ready.result()
        assert client.infer("echo", {"n": 1}) == {"n": 1}


@pytest.mark.parametrize("max_retries", [0, 2])
def test_who_is_told_has_nobody_dial_again(kind: str, monkeypatch: pytest.MonkeyPatch, max_retries: int) -> None:
    """Not even if the pause after the failure is over by the time the caller wakes: with a wrong token each attempt
    counts as a guess."""
    monkeypatch.setattr(endpoints, "backoff_s", lambda attempt, jitter: 0.0)
    dialled: list[Any] = []
    due = endpoints.Endpoints.due

    def count(self: Any, *args: Any) -> Any:
        found = due(self, *args)
        dialled.extend(found)
        return found

    monkeypatch.setattr(endpoints.Endpoints, "due", count)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
    with open_client(kind, address, max_retries=max_retries) as client:
        for times in (1, 2):
            with pytest.raises(Unavailable, match="CONNECT_FAILED"):
                client.infer("m", {})
            assert len(dialled) == times


def test_the_models_are_those_of_now(client: Any, server: FakeServer) -> None:
    """A server whose models change sends everybody away, and who comes back is told anew; also a client that has been
    idle meanwhile."""
    assert "new" not in [model["name"] for model in client.models()]
    server.models["new"] = lambda inputs: inputs
    server.goaway()
    until = monotonic() + 10
    while "new" not in [model["name"] for model in client.models()]:
        assert monotonic() < until
    assert server.connections == 2


def test_a_crash_costs_a_retry(client: Any, server: FakeServer, held: Held) -> None:
    """Calls in flight on a connection that is lost without a word are sent again."""
    calls = [Background(lambda n=n: client.infer("held", {"n": n})) for n in range(3)]  # type: ignore[misc]
    server.wait_for(lambda s: len(s.requests) == 3)
    server.drop()
    server.wait_for(lambda s: len(s.requests) == 6)
    held.release.set()
    assert [call.result() for call in calls] == [{"n": n} for n in range(3)]


def test_a_call_that_crosses_goaway_goes_elsewhere(kind: str) -> None:
    """The server has said GOAWAY and closed while the request was on its way: it was never read, so it costs no retry,
    and many of them do not either."""
    from inferd.wire import frame as f
    from inferd.wire.messages import GoAway
    from tests.client.test_client_behaviour import answer_all, greeted

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address) as client:
            calls = [Background(lambda: client.infer("m", {})) for _ in range(30)]
            sock, peer = greeted(listener, credits=64)
            with sock:
                # One frame and a bit of the next: all of them are sent, or waiting.
                sock.recv(200)
                sock.sendall(peer.send(f.GOAWAY, GoAway()))
            sock, peer = greeted(listener, credits=64)
            seen: list[Any] = []
            answering = Background(lambda: answer_all(sock, peer, seen))
            assert [call.result() for call in calls] == [{"model": "m"}] * 30
            client.close()
            answering.result()
            assert seen == ["m"] * 30


def test_draining_sends_a_call_elsewhere(kind: str, serve: Start) -> None:
    """Also without GOAWAY: the connection is not used again, and no retry is spent."""
    failing = Failing("DRAINING", 20)
    server = serve({"m": failing})
    with open_client(kind, server.url, timeout_ms=60_000) as client:
        calls = [Background(lambda n=n: client.infer("m", {"n": n})) for n in range(15)]  # type: ignore[misc]
        assert [call.result() for call in calls] == [{"n": n} for n in range(15)]
        assert len(failing.at) == 35


# ---- retries


def test_what_passes_is_tried_again(kind: str, serve: Start) -> None:
    failing = Failing("SLAB_FULL", 2)
    server = serve({"m": failing})
    with open_client(kind, server.url) as client:
        assert client.infer("m", {"n": 1}, timeout_ms=5000) == {"n": 1}
    assert [request.inputs for request in server.requests] == [{"n": 1}] * 3
    deadlines = [request.deadline_ms or 0 for request in server.requests]
    assert deadlines == sorted(deadlines, reverse=True)  # what is left of the caller's time, not all of it again


def test_twice_and_then_it_is_told(kind: str, serve: Start) -> None:
    failing = Failing("SLAB_FULL", 100)
    server = serve({"m": failing})
    with open_client(kind, server.url) as client:
        with pytest.raises(ResourceExhausted) as caught:
            client.infer("m", {})
        assert caught.value.reason == "SLAB_FULL" and caught.value.request_id == 3 and len(failing.at) == 3
        with pytest.raises(ResourceExhausted):
            client.with_options(max_retries=0).infer("m", {})
        assert len(failing.at) == 4


@pytest.mark.parametrize("reason", ["MODEL_NOT_FOUND", "MODEL_FAILED", "WORKER_LOST", "INPUT_REJECTED"])
def test_what_stays_wrong_is_told_at_once(kind: str, serve: Start, reason: str) -> None:
    failing = Failing(reason, 100)
    server = serve({"m": failing})
    with open_client(kind, server.url) as client, pytest.raises(Exception, match=reason):
        client.infer("m", {})
    assert len(failing.at) == 1


def test_the_servers_word_is_waited_for(kind: str, serve: Start) -> None:
    failing = Failing("OVERLOADED", 1, retry_after_ms=150)
    server = serve({"m": failing})
    with open_client(kind, server.url) as client:
        client.infer("m", {})
        assert failing.at[1] - failing.at[0] >= 0.15
        failing.at.clear()
        with pytest.raises(ResourceExhausted):  # there is no time for that
            client.infer("m", {}, timeout_ms=140)
    assert len(failing.at) == 1


def test_a_storm_is_not_made_worse(kind: str, serve: Start) -> None:
    """When everything fails, a tenth more is asked than without retries, and a handful."""
    failing = Failing("SLAB_FULL", 10_000, retry_after_ms=0.1)
    server = serve({"m": failing})
    with open_client(kind, server.url) as client:
        for _ in range(100):
            with pytest.raises(ResourceExhausted):
                client.infer("m", {}, timeout_ms=1000)
    assert 110 <= len(failing.at) <= 120


# ---- several addresses


def test_calls_are_shared_among_servers(kind: str, serve: Start, held: Held) -> None:
    """The one with less to do gets the next: with four in flight, each has two."""
    models = {"held": held, **ECHO}
    servers = [serve(models), serve(models)]
    with open_client(kind, several(*servers)) as client:
        client.infer("echo", {})
        for server in servers:
            server.wait_for(lambda s: s.connections == 1)
        for n in range(20):
            client.infer("echo", {"n": n})
        calls = []
        for n in range(4):
            calls.append(Background(lambda: client.infer("held", {})))
            wait_for_sum(servers, n + 1)
        held.release.set()
        for call in calls:
            call.result()
    counts = [sum(request.model == "held" for request in server.requests) for server in servers]
    assert counts == [2, 2]


def wait_for_sum(servers: list[FakeServer], count: int) -> None:
    until = monotonic() + 10
    while sum(request.model == "held" for server in servers for request in server.requests) < count:
        assert monotonic() < until
        sleep(0.001)


def test_one_of_two_servers_is_gone(kind: str, serve: Start) -> None:
    """Nobody notices, from the first call on, and when it comes back it is used again."""
    there, away = serve(), serve()
    away.stop()
    with open_client(kind, several(away, there)) as client:
        for n in range(20):
            assert client.infer("echo", {"n": n}, timeout_ms=5000) == {"n": n}
        away.start()
        until = monotonic() + 10
        while not away.requests:
            client.infer("echo", {})
            assert monotonic() < until


def test_an_address_that_does_not_answer_holds_nobody_up(kind: str, serve: Start) -> None:
    """Something listens and never says WELCOME; calls with less time than an attempt to connect are answered."""
    there = serve()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"inferd://127.0.0.1:{silent.getsockname()[1]},{there.url}"
        with open_client(kind, url, connect_timeout_ms=60_000) as client:
            for n in range(20):
                assert client.infer("echo", {"n": n}, timeout_ms=5000) == {"n": n}


def test_rolling_restarts_of_two_servers(kind: str, serve: Start) -> None:
    """One after the other, and for a moment both at once."""
    servers = [serve(), serve()]
    for server in servers:
        server.delay_ms = 10
    with open_client(kind, several(*servers)) as client:
        load = OpenLoop(client, 1.0)
        sleep(0.1)
        for server in servers:
            server.drain()
            sleep(0.1)
            server.start()
            sleep(0.1)
        for server in servers:
            server.drain()
        sleep(0.1)
        for server in servers:
            server.start()
        answers = load.answers()
    assert answers == [{"n": n} for n in range(len(answers))]
    assert sum(len(server.requests) for server in servers) == len(answers)


def test_a_retry_goes_to_the_other_server(kind: str, serve: Start) -> None:
    failing = Failing("SLAB_FULL", 1000)
    full, free = serve({"m": failing}), serve({"m": lambda inputs: inputs})
    with open_client(kind, several(full, free)) as client:
        client.ping()
        for server in (full, free):
            server.wait_for(lambda s: s.connections == 1)
        for n in range(10):
            assert client.infer("m", {"n": n}) == {"n": n}


def test_all_problems_but_a_wait_helps_one(kind: str, serve: Start) -> None:
    """Told is what a wait could help; a token that nobody knows is told as such."""
    guarded, away = serve(token="right"), serve()
    away.stop()
    with open_client(kind, several(guarded, away), token="wrong") as client, pytest.raises(Unavailable):
        client.infer("echo", {})
    with open_client(kind, guarded.url, token="wrong") as client, pytest.raises(Unauthenticated):
        client.infer("echo", {})


def test_a_server_that_is_full_is_waited_for(client: Any, server: FakeServer) -> None:
    """Refused connections are tried again later, by clients that know the server."""
    client.infer("echo", {})
    server.refusal = make("TOO_MANY_CONNECTIONS", 10, limit=1)
    server.drop()
    call = Background(lambda: client.infer("echo", {"n": 1}))
    server.wait_for(lambda s: s.connections >= 3)
    server.refusal = None
    assert call.result() == {"n": 1}


# ---- streams


def test_a_stream_keeps_its_order(kind: str, serve: Start) -> None:
    """Results come in the order of the inputs, whatever the order of the answers; many are in flight."""

    def slow_at_first(inputs: dict[str, Any]) -> dict[str, Any]:
        sleep(0.05 if inputs["n"] % 4 == 0 else 0)
        return inputs

    server = serve({"m": slow_at_first})
    with open_client(kind, server.url) as client:
        results = streamed(client, "m", ({"n": n} for n in range(40)), max_in_flight=8)
        assert results == [{"n": n} for n in range(40)]
        assert streamed(client, "m", []) == []
    assert server.connections == 1


def streamed(client: Any, *args: Any, **options: Any) -> list[Any]:
    return list(stream(client, *args, **options))


def stream(client: Any, *args: Any, **options: Any) -> Iterator[Any]:
    """The stream of either client as a blocking iterator."""
    if not hasattr(client, "wait"):
        yield from client.stream(*args, **options)
        return
    results = client.client.stream(*args, **options)

    async def step() -> Any:
        return await anext(results, None)

    try:
        while (result := client.wait(step())) is not None:
            yield result
    finally:
        client.wait(results.aclose())


def test_a_stream_takes_no_more_than_it_may(kind: str, serve: Start, held: Held) -> None:
    """Inputs are drawn as results are taken: an endless stream is no trouble."""
    drawn: list[int] = []

    def numbers() -> Iterator[dict[str, Any]]:
        while True:
            drawn.append(len(drawn))
            yield {"n": drawn[-1]}

    server = serve(ECHO)
    with open_client(kind, server.url) as client:
        results = stream(client, "echo", numbers(), max_in_flight=4)
        for n in range(10):
            assert next(results) == {"n": n}
            assert len(drawn) <= n + 1 + 4
        results.close()


def test_a_failure_in_a_stream_is_in_its_place(kind: str, serve: Start) -> None:
    def picky(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["n"] == 3:
            raise make("INPUT_REJECTED", model="m")
        return inputs

    server = serve({"m": picky})
    with open_client(kind, server.url) as client:
        seen = []
        with pytest.raises(InvalidArgument, match="INPUT_REJECTED"):
            for result in stream(client, "m", ({"n": n} for n in range(1000)), max_in_flight=2):
                seen.append(result["n"])
        assert seen == [0, 1, 2] and len(server.requests) < 10
        with pytest.raises(NotFound):
            streamed(client, "nobody", [{"n": 1}])
        with pytest.raises(InvalidArgument, match="'max_in_flight' must be a whole number"):
            streamed(client, "m", [{"n": 1}], max_in_flight=0)


def test_what_a_streams_source_raises_comes_behind_the_answers(kind: str, serve: Start) -> None:
    """What is on its way then is not lost."""
    raised = threading.Event()

    def late(inputs: dict[str, Any]) -> dict[str, Any]:
        assert raised.wait(20)
        return inputs

    def source() -> Iterator[dict[str, Any]]:
        yield from ({"n": n} for n in range(3))
        raised.set()
        raise ZeroDivisionError

    server = serve({"m": late})
    with open_client(kind, server.url) as client:
        seen = []
        with pytest.raises(ZeroDivisionError):
            for result in stream(client, "m", source()):
                seen.append(result["n"])
        assert seen == [0, 1, 2] and not server.cancelled


def test_leaving_a_stream_cancels_what_is_behind(kind: str, serve: Start, held: Held) -> None:
    server = serve({"m": lambda inputs: inputs if inputs["n"] == 0 else held(inputs)})
    with open_client(kind, server.url) as client:
        results = stream(client, "m", ({"n": n} for n in range(100)), max_in_flight=4)
        assert next(results) == {"n": 0}
        behind = len(server.requests) - 1
        results.close()
        server.wait_for(lambda s: len(s.cancelled) >= behind)
        assert len(server.requests) <= 6
        held.release.set()
        client.ping()


def test_an_asynchronous_stream_yields_while_its_source_waits() -> None:
    """What is answered is there before the next input is."""
    import asyncio

    from inferd_client import AsyncClient

    async def conversation(server: FakeServer) -> None:
        go_on = asyncio.Event()

        async def source() -> Any:
            for n in range(3):
                yield {"n": n}
                await go_on.wait()
                go_on.clear()

        seen = []
        async with AsyncClient(server.url) as client:
            async for result in client.stream("echo", source()):
                seen.append(result["n"])
                go_on.set()
        assert seen == [0, 1, 2]

    with FakeServer(ECHO) as server:
        asyncio.run(asyncio.wait_for(conversation(server), 20))
