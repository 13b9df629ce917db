"""What every client does: threads, asyncio and uvloop, over TCP and Unix sockets, against a FakeServer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from inferd_client.call import Call
from inferd_client.codec import NUMPY_DTYPES
from inferd_client.testing import FakeServer

from inferd.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ProtocolError,
    ResourceExhausted,
    Superseded,
    Unavailable,
    Unimplemented,
    make,
)
from inferd.wire import frame as f
from inferd.wire.messages import Result, Welcome
from inferd.wire.peer import SERVER, Frame, Peer
from inferd.wire.values import pack_values
from tests.client.client_kinds import Background, Held, open_client

MIB = 1024 * 1024
Pair = Callable[..., tuple[FakeServer, Any]]


def start(client: Any, model: str, inputs: dict[str, Any], **options: Any) -> Background:
    return Background(lambda: client.infer(model, inputs, **options))


# ---- inputs and outputs


def test_tensors_and_values(client: Any, server: FakeServer) -> None:
    inputs: dict[str, Any] = {"text": "Ada Lovelace", "list": [1, 2.5, None], "empty": np.zeros((0, 3), np.float32)}
    inputs |= {name: np.arange(12).reshape(3, 4).astype(dtype) for name, dtype in NUMPY_DTYPES.items()}
    inputs["strided"] = np.arange(30).reshape(5, 6)[::2, ::3]
    result = client.infer("echo", inputs)
    assert result.keys() == inputs.keys()
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            assert result[name].dtype == value.dtype and np.array_equal(result[name], value)
        else:
            assert result[name] == value
    assert server.requests[0].rows == 0
    assert 0 < server.requests[0].deadline_ms <= 30_000  # type: ignore[operator]


def test_a_result_is_the_callers_to_keep(client: Any) -> None:
    first = client.infer("echo", {"x": np.arange(10)})["x"]
    client.infer("echo", {"x": np.zeros(10, np.int64)})
    first += 1
    assert first.tolist() == list(range(1, 11))


def test_rows(client: Any, server: FakeServer) -> None:
    result = client.infer_batch("echo", {"x": np.ones((3, 2)), "text": ["a", "b", "c"]})
    assert result["x"].shape == (3, 2) and result["text"] == ["a", "b", "c"]
    assert server.requests[0].rows == 3
    with pytest.raises(InvalidArgument, match="'text'"):
        client.infer_batch("echo", {"x": np.ones((3, 2)), "text": ["a"]})


def test_the_rest_of_the_face(client: Any, server: FakeServer) -> None:
    assert [model["name"] for model in client.models()] == list(server.models)
    assert client.models()[0].keys() == {"name", "inputs", "outputs", "max_batch_size"}
    assert client.status() == {"queued": 3}
    assert 0 < client.ping() < 10
    client.wait_ready(timeout_ms=10_000)
    quick = client.with_options(timeout_ms=5_000)
    quick.infer("echo", {})
    assert server.requests[0].deadline_ms <= 5_000  # type: ignore[operator]
    assert server.connections == 1


def test_a_ping_has_one_deadline(kind: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting and the answer share the timeout: a ping does not take twice as long."""
    with open_client(kind, server.url, timeout_ms=20_000) as client:
        link = client._link if kind == "sync" else client.client._link
        connection = link.connection
        deadlines = []

        def noted(call: Call, *args: Any) -> Any:
            deadlines.append(call.deadline)
            return connection(call, *args)

        monkeypatch.setattr(link, "connection", noted)
        client.ping()
        assert len(set(deadlines)) == 1


# ---- errors


def test_errors(client: Any) -> None:
    with pytest.raises(NotFound, match="no model 'nobody'"):
        client.infer("nobody", {})
    with pytest.raises(Internal, match="model 'crash' raised"):
        client.infer("crash", {})
    with pytest.raises(ResourceExhausted) as caught:
        client.infer("refuse", {"reason": "SLAB_FULL", "fields": {}})
    assert caught.value.reason == "SLAB_FULL" and caught.value.retryable and caught.value.request_id == 5
    for no_time in (float("nan"), "soon", 10**400):
        with pytest.raises(InvalidArgument, match="timeout_ms"):
            client.infer("echo", {}, timeout_ms=no_time)
    for no_inputs in (None, [1], "text"):
        with pytest.raises(InvalidArgument, match="'inputs' must be a map"):
            client.infer("echo", no_inputs)
    for no_model, words in ((["echo"], "'model' must be text"), ("\udc80", "'model' must be UTF-8")):
        with pytest.raises(InvalidArgument, match=words):
            client.infer(no_model, {})
    with pytest.raises(InvalidArgument, match="'inputs' has a tensor whose name is not 1 to 128 bytes"):
        client.infer("echo", {"\udc80": np.zeros(1)})
    for milliseconds in (Decimal(20_000), np.float32(20_000)):
        assert client.infer("echo", {"n": 1}, timeout_ms=milliseconds) == {"n": 1}


def test_a_payload_over_the_limit(another: Pair) -> None:
    server, client = another(payload_bytes=1000)
    with pytest.raises(InvalidArgument, match="1001 bytes is over"):
        client.infer("echo", {"x": np.zeros(1001, np.uint8)})
    assert server.requests == []


def test_an_error_for_the_connection(client: Any, server: FakeServer, held: Held) -> None:
    calls = [start(client, "held", {}) for _ in range(2)]
    server.wait_for(lambda s: len(s.requests) == 2)
    server.fail(make("UNSUPPORTED_VERSION", expected=2, actual=1))
    for call in calls:
        with pytest.raises(Unimplemented, match="versions 2"):
            call.result()
    assert client.infer("echo", {"n": 1}) == {"n": 1}


# ---- time


def test_a_timeout_cancels(client: Any, server: FakeServer, held: Held) -> None:
    with pytest.raises(DeadlineExceeded, match="no answer within 50 ms; the request was on its way") as caught:
        client.infer("held", {}, timeout_ms=50)
    assert isinstance(caught.value, TimeoutError) and caught.value.reason == "TIMEOUT"
    server.wait_for(lambda s: s.cancelled == [caught.value.request_id])
    held.release.set()
    assert client.infer("echo", {"n": 1}) == {"n": 1}
    assert server.connections == 1


@pytest.mark.parametrize("timeout_ms", [0, -5])
def test_no_time_at_all(client: Any, timeout_ms: float) -> None:
    with pytest.raises(DeadlineExceeded):
        client.infer("echo", {}, timeout_ms=timeout_ms)
    client.ping()
    with pytest.raises(DeadlineExceeded):
        client.infer("echo", {}, timeout_ms=timeout_ms)


def test_a_server_that_never_reads(kind: str) -> None:
    """A frame that could not be sent in time is cancelled; it does not hold its caller any longer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address) as client:
            connecting = Background(client.models)
            sock, peer = greeted(listener)
            connecting.result()
            call = start(client, "echo", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=500)
            with pytest.raises(DeadlineExceeded):
                call.result()
            # The rest of the frame goes out before the next one: the stream is still in step.
            requests: list[Any] = []
            reader = Background(lambda: answer_all(sock, peer, requests))
            assert client.infer("next", {}) == {"model": "next"}
            client.close()
            reader.result()
            assert requests == ["echo", "CANCEL", "next"]


def test_the_rest_of_a_frame_goes_out_while_another_waits(kind: str) -> None:
    """Who gave up in the middle of a large frame costs nobody else the connection: a server ends one that stalls."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address, max_retries=0) as client:
            connecting = Background(client.models)
            sock, peer = greeted(listener)
            connecting.result()
            sock.settimeout(20)
            waiting = start(client, "slow", {})
            slow = next_frame(sock, peer)
            with pytest.raises(DeadlineExceeded, match="on its way"):
                client.infer("large", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=1000)
            large = next_frame(sock, peer)
            assert large.message.model == "large"  # type: ignore[union-attr]
            cancel = next_frame(sock, peer)
            assert cancel.type == f.CANCEL and cancel.request_id == large.request_id
            payload = pack_values({"n": 1})
            head = peer.send(f.RESULT, Result(), slow.request_id, len(payload), f.HAS_VALUES, 8)
            sock.sendall(head + payload)
            assert waiting.result() == {"n": 1}
            sock.close()


def test_the_rest_of_a_frame_goes_out_before_the_window_opens_again(kind: str) -> None:
    """A window of one: the next call can be sent only when the server has read the frame and its CANCEL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address) as client:
            connecting = Background(client.models)
            sock, peer = greeted(listener, credits=1)
            connecting.result()
            with pytest.raises(DeadlineExceeded, match="on its way"):
                client.infer("large", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=1000)
            requests: list[Any] = []
            reader = Background(lambda: answer_all(sock, peer, requests))
            assert client.infer("next", {}, timeout_ms=20_000) == {"model": "next"}
            client.close()
            reader.result()
            assert requests == ["large", "CANCEL", "next"]


def next_frame(sock: socket.socket, peer: Peer) -> Frame:
    """The next frame that the client sends, with its payload."""
    while True:
        while (frame := peer.next_frame()) is None:
            nbytes = sock.recv_into(peer.get_buffer())
            assert nbytes, "the client has hung up"
            peer.buffer_updated(nbytes)
        if frame.complete:
            return frame
        peer.accept(memoryview(bytearray(frame.payload_bytes)))


def greeted(listener: socket.socket, credits: int = 8) -> tuple[socket.socket, Peer]:
    """A connection on which WELCOME was said and nothing is read any more."""
    sock, _ = listener.accept()
    peer = Peer(SERVER)
    while peer.next_frame() is None:
        peer.buffer_updated(sock.recv_into(peer.get_buffer()))
    payload = pack_values({"models": []})
    sock.sendall(peer.send(f.WELCOME, Welcome("test", {}), 0, len(payload), f.HAS_VALUES, credits) + payload)
    return sock, peer


def answer_all(sock: socket.socket, peer: Peer, requests: list[Any]) -> None:
    """Reads frames until the end and answers each INFER with the name of its model."""
    with sock:
        while nbytes := sock.recv_into(peer.get_buffer()):
            peer.buffer_updated(nbytes)
            while (frame := peer.next_frame()) is not None:
                if not frame.complete:
                    peer.accept(memoryview(bytearray(frame.payload_bytes)))
                elif frame.type == f.CANCEL:
                    requests.append("CANCEL")
                else:
                    requests.append(frame.message.model)  # type: ignore[union-attr]
                    payload = pack_values({"model": requests[-1]})
                    head = peer.send(f.RESULT, Result(), frame.request_id, len(payload), f.HAS_VALUES, 8)
                    sock.sendall(head + payload)


def test_a_server_that_never_greets(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address, connect_timeout_ms=50) as client:
            with pytest.raises(Unavailable) as caught:
                client.infer("echo", {})
            assert caught.value.reason == "CONNECT_FAILED"
            with pytest.raises(DeadlineExceeded):
                client.infer("echo", {}, timeout_ms=20)


# ---- many at once


def test_answers_out_of_order(client: Any, server: FakeServer, held: Held) -> None:
    slow = start(client, "held", {"n": 1})
    server.wait_for(lambda s: len(s.requests) == 1)
    for n in range(20):
        assert client.infer("echo", {"n": n}) == {"n": n}
    held.release.set()
    assert slow.result() == {"n": 1}
    assert server.connections == 1


def test_many_callers_share_a_connection(client: Any, server: FakeServer) -> None:
    def work(caller: int) -> None:
        for n in range(15):
            x = np.full(50 * (caller + 1), n, np.int32)
            result = client.infer("double", {"x": x}) if caller % 3 else client.infer("echo", {"y": 2 * x})
            assert np.array_equal(result["y"], 2 * x)

    for caller in [Background(lambda caller=caller: work(caller)) for caller in range(32)]:  # type: ignore[misc]
        caller.result()
    assert server.connections == 1


def test_a_window_of_one(another: Pair) -> None:
    """With credits of 1 the server never sees two requests at a time."""
    inside, worst = [0], [0]
    lock = threading.Lock()

    def count(inputs: dict[str, Any]) -> dict[str, Any]:
        with lock:
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
        with lock:
            inside[0] -= 1
        return inputs

    server, client = another(credits=1)
    server.models["count"] = count
    for call in [start(client, "count", {"n": n}) for n in range(16)]:
        call.result()
    assert len(server.requests) == 16 and worst[0] == 1 and server.connections == 1


def test_waiting_for_credit(another: Pair, held: Held) -> None:
    """It counts against the caller's time, and a larger window ends it."""
    server, client = another(credits=1)
    first = start(client, "held", {"n": 1})
    server.wait_for(lambda s: len(s.requests) == 1)
    with pytest.raises(DeadlineExceeded, match="waiting to be sent"):
        client.infer("echo", {}, timeout_ms=30)
    assert client.ping() > 0  # what is no request needs no credit
    waiting = start(client, "echo", {"n": 2})
    server.grant(2)
    assert waiting.result() == {"n": 2}
    held.release.set()
    assert first.result() == {"n": 1}
    assert len(server.requests) == 2 and server.cancelled == []


def test_large_payloads_both_ways_at_once(client: Any, server: FakeServer) -> None:
    x = np.random.default_rng(1).integers(0, 255, 8 * MIB, np.uint8)
    calls = [start(client, "echo", {"x": x, "n": n}) for n in range(4)]
    for n, call in enumerate(calls):
        result = call.result()
        assert result["n"] == n and np.array_equal(result["x"], x)
    assert server.connections == 1


def test_a_server_that_writes_before_it_reads_on(kind: str) -> None:
    """Both sides have more to say than the sockets hold: the client must read while it writes."""
    answer = pack_values({"blob": "x" * (16 * MIB)})

    def serve(listener: socket.socket) -> None:
        sock, peer = greeted(listener)
        with sock:
            opening = sock.recv(24)  # the prefix of a large request, whose answer comes before it is read
            request_id = int.from_bytes(opening[16:], "little")
            head = peer.send(f.RESULT, Result(), request_id, len(answer), f.HAS_VALUES, 8)
            sock.sendall(head + answer)
            while sock.recv(MIB):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = Background(lambda: serve(listener))
        with open_client(kind, f"inferd://127.0.0.1:{listener.getsockname()[1]}") as client:
            result = client.infer("echo", {"x": np.zeros(32 * MIB, np.uint8)}, timeout_ms=20_000)
            assert len(result["blob"]) == 16 * MIB
        serving.result()


# ---- latest wins, classes, the timeline


def test_the_latest_call_wins_before_it_is_sent(another: Pair, held: Held) -> None:
    """Callers that wait for credit are told at once that a newer call has their key, and only the last is sent."""
    server, client = another(credits=1)
    first = start(client, "held", {"n": 0})
    server.wait_for(lambda s: len(s.requests) == 1)
    waiting = [start(client, "echo", {"n": 1}, supersede="k")]
    for n in range(2, 12):
        waiting.append(start(client, "echo", {"n": n}, supersede="k"))
        # Which of the two came first is for the threads to settle: one of them is out, while nothing is answered.
        out = settled(waiting)
        with pytest.raises(Superseded, match="a newer request with the same supersede key"):
            out.result()
        waiting.remove(out)
    held.release.set()
    assert first.result() == {"n": 0}
    assert waiting[0].result()["n"] in range(1, 12)
    assert len(server.requests) == 2 and server.requests[1].supersede == "k" and server.cancelled == []


def test_the_latest_call_wins_when_nothing_comes(kind: str) -> None:
    """Also where the caller that waits for credit is the one that reads for all, and there is nothing to read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address) as client:
            connecting = Background(client.models)
            sock, _ = greeted(listener, credits=1)
            connecting.result()
            with sock:
                with pytest.raises(DeadlineExceeded):
                    client.infer("echo", {}, timeout_ms=20)  # it keeps the credit: the server never answers
                older = start(client, "echo", {"n": 1}, supersede="k")
                sleep(0.05)
                newer = start(client, "echo", {"n": 2}, supersede="k", timeout_ms=500)
                with pytest.raises(Superseded):
                    older.result()
                assert not newer.ended
                with pytest.raises(DeadlineExceeded, match="waiting to be sent"):
                    newer.result()


def settled(calls: list[Background]) -> Background:
    """The first of `calls` that ends."""
    until = monotonic() + 10
    while monotonic() < until:
        for call in calls:
            if call.ended:
                return call
        sleep(0.001)
    raise AssertionError("no call ended")


def test_the_server_supersedes(client: Any, server: FakeServer) -> None:
    with pytest.raises(Superseded) as caught:
        client.infer("refuse", {"reason": "SUPERSEDED", "fields": {}}, supersede="k")
    assert isinstance(caught.value, Cancelled) and not caught.value.retryable


def test_when_to_try_again(client: Any) -> None:
    fields = {"retry_after_ms": 12.5, "wait": 80}
    with pytest.raises(ResourceExhausted, match="about 80 ms of work are ahead") as caught:
        client.infer("refuse", {"reason": "OVERLOADED", "fields": fields})
    assert caught.value.retry_after_ms == 12.5 and caught.value.retryable


def test_the_timeline(client: Any, server: FakeServer) -> None:
    result = client.infer("echo", {"timing": "mine"}, timing=True)
    assert result == {"timing": "mine"}
    assert result.timing.keys() == {
        "queued_ms", "compute_ms", "total_ms", "batch_id", "batch_rows", "padded", "released",
    }  # fmt: skip
    rows = client.infer_batch("double", {"x": np.ones((3, 2))}, timing=True)
    assert rows.timing["batch_rows"] == 3 and rows["y"].shape == (3, 2)
    assert client.infer("echo", {}).timing is None
    assert [request.timing for request in server.requests] == [True, True, False]


def test_classes(client: Any, server: FakeServer) -> None:
    """A call's own class, else the client's; clients made with options share the connection."""
    background = client.with_options(priority="batch")
    hasty = background.with_options(timeout_ms=1000)
    client.infer("echo", {})
    background.infer("echo", {})
    background.infer_batch("echo", {"x": [1]}, priority="interactive", supersede="k")
    hasty.infer("echo", {})
    seen = [(request.priority, request.supersede) for request in server.requests]
    assert seen == [("standard", None), ("batch", None), ("interactive", "k"), ("batch", None)]
    assert server.requests[-1].deadline_ms <= 1000  # type: ignore[operator]
    assert server.connections == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": "urgent"}, "'priority' must be one of interactive, standard, batch"),
        ({"priority": 1}, "'priority' must be text"),
        ({"priority": ["batch"]}, "'priority' must be text"),
        ({"supersede": ""}, "'supersede' must be 1 to 128 bytes"),
        ({"supersede": "k" * 129}, "'supersede' must be 1 to 128 bytes"),
        ({"supersede": "\ud800"}, "'supersede' must be 1 to 128 bytes"),
        ({"supersede": 7}, "'supersede' must be text"),
    ],
)
def test_options_that_cannot_be_sent(client: Any, server: FakeServer, options: Any, words: str) -> None:
    for method in (client.infer, client.infer_batch):
        with pytest.raises(InvalidArgument, match=words):
            method("echo", {"x": [1]}, **options)
    if "priority" in options:
        with pytest.raises(InvalidArgument, match=words):
            client.with_options(**options)
    assert server.requests == []


# ---- the connection


def test_ping_from_the_server(client: Any, server: FakeServer) -> None:
    client.ping()
    server.ping(41)
    client.ping()  # a client of threads reads when somebody calls
    server.wait_for(lambda s: s.pongs == [41])


def test_goaway(client: Any, server: FakeServer, held: Held) -> None:
    """What is in flight is finished where it is, what comes after goes to a new connection."""
    old = start(client, "held", {"n": 1})
    server.wait_for(lambda s: len(s.requests) == 1)
    server.goaway()
    client.infer("echo", {"n": 2})
    client.infer("echo", {"n": 3})
    server.wait_for(lambda s: s.connections == 2)
    held.release.set()
    assert old.result() == {"n": 1}
    assert client.infer("echo", {"n": 4}) == {"n": 4}
    assert server.connections == 2


def test_goaway_moves_those_who_wait_for_credit(another: Pair, held: Held) -> None:
    server, client = another(credits=1)
    first = start(client, "held", {"n": 1})
    server.wait_for(lambda s: len(s.requests) == 1)
    waiting = [start(client, "echo", {"n": n}) for n in range(5)]
    server.goaway()
    assert [call.result() for call in waiting] == [{"n": n} for n in range(5)]
    held.release.set()
    assert first.result() == {"n": 1}


def test_goaway_while_nobody_waits(client: Any, server: FakeServer) -> None:
    client.infer("echo", {})
    server.goaway()
    client.infer("echo", {})
    client.infer("echo", {})
    assert server.connections == 2


def test_the_connection_is_lost(client: Any, server: FakeServer, held: Held) -> None:
    impatient = client.with_options(max_retries=0)
    calls = [start(impatient, "held", {"n": n}) for n in range(5)]
    server.wait_for(lambda s: len(s.requests) == 5)
    server.drop()
    for call in calls:
        with pytest.raises(Unavailable, match="was lost before the answer") as caught:
            call.result()
        assert caught.value.reason == "CONNECTION_LOST" and caught.value.retryable and server.url in str(caught.value)
    assert client.infer("echo", {"n": 1}) == {"n": 1}
    assert server.connections == 2


def test_the_server_is_gone_and_comes_back(client: Any, server: FakeServer) -> None:
    """Calls wait for it, as long as they have time, and say what for; those that shall not wait are told at once."""
    client.infer("echo", {})
    impatient = client.with_options(max_retries=0)
    server.stop()
    with pytest.raises(Unavailable) as caught:
        impatient.infer("echo", {})
    assert caught.value.reason in ("CONNECT_FAILED", "CONNECTION_LOST")
    with pytest.raises(Unavailable) as caught:
        impatient.infer("echo", {})
    assert caught.value.reason == "CONNECT_FAILED" and server.url in str(caught.value)
    for wait in (lambda: client.wait_ready(timeout_ms=50), lambda: client.infer("echo", {}, timeout_ms=50)):
        with pytest.raises(DeadlineExceeded, match="waiting for a connection") as late:
            wait()
        assert isinstance(late.value.__cause__, Unavailable) and server.url in str(late.value)
    ready = Background(lambda: client.wait_ready(timeout_ms=15_000))
    server.start()
    ready.result()
    assert client.infer("echo", {"n": 1}) == {"n": 1}


def test_something_else_on_the_port(kind: str) -> None:
    def serve(listener: socket.socket, words: bytes) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(4096)
            sock.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"inferd://127.0.0.1:{listener.getsockname()[1]}"
        with open_client(kind, address) as client:
            serving = Background(lambda: serve(listener, b"HTTP/1.1 400 Bad Request\r\n\r\n"))
            with pytest.raises(ProtocolError, match="not an inferd frame"):
                client.infer("echo", {})
            serving.result()
            serving = Background(lambda: serve(listener, b""))
            with pytest.raises(Unavailable, match="closed before WELCOME"):
                client.infer("echo", {})
            serving.result()


def test_close(client: Any, server: FakeServer, held: Held) -> None:
    """Who waits is told at once; afterwards the client is of no use."""
    calls = [start(client, "held", {}) for _ in range(3)]
    server.wait_for(lambda s: len(s.requests) == 3)
    client.close()
    for call in calls:
        with pytest.raises(Cancelled):
            call.result()
    with pytest.raises(RuntimeError, match="closed"):
        client.infer("echo", {})
    client.close()


@contextmanager
def forked_child(work: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """A child that does some work, and lives on meanwhile."""
    said, say = os.pipe()
    told, tell = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(tell)
            work()
            os.write(say, b"x")
            os.read(told, 1)
        finally:
            os._exit(0)
    os.close(say)
    assert os.read(said, 1), "the child's work failed"
    try:
        yield
    finally:
        for descriptor in (tell, told, said):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_close_ends_connections_that_a_forked_child_has_too(client: Any, server: FakeServer) -> None:
    """The server is not left with one that nobody uses for as long as the child lives."""
    client.ping()
    with forked_child():
        client.close()
        until = monotonic() + 10
        while server._sessions:
            assert monotonic() < until
            sleep(0.001)


def test_a_forked_child_does_not_end_its_parents_connections(client: Any, server: FakeServer, kind: str) -> None:
    """Not even where an exception leads it out of what its parent was doing."""
    client.ping()
    connection = getattr(client, "client", client)._link._only.connection
    with forked_child(connection.close if kind == "sync" else connection.abort):
        client.ping()
    assert server.connections == 1


@pytest.mark.parametrize("url", ["unix"], indirect=True)
def test_a_full_queue_of_connections_is_waited_for(
    client: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the listener is a Unix socket, the system does not do it."""
    attempts = []
    connect = socket.socket.connect

    def full_at_first(sock: socket.socket, where: Any) -> None:
        attempts.append(where)
        if len(attempts) <= 3:
            raise BlockingIOError
        connect(sock, where)

    monkeypatch.setattr(socket.socket, "connect", full_at_first)
    assert client.infer("echo", {"n": 1}) == {"n": 1}
    assert len(attempts) == 4


def test_a_queue_of_connections_that_stays_full(kind: str, tmp_path: Path) -> None:
    """It is no better than a server that does not answer: the time for connecting is over at last."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(f"{tmp_path}/s")
            url = f"inferd+unix://{tmp_path}/s"
            with (
                open_client(kind, url, connect_timeout_ms=100) as client,
                pytest.raises(Unavailable, match="timed out"),
            ):
                client.infer("echo", {})


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost", "inferd://", "inferd://h:x", "inferd+unix://rel", "inferd://a..b"]
)
def test_a_bad_url(url: str) -> None:
    from inferd_client import AsyncClient, Client

    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match="use inferd://"):
            kind(url)
