"""A running daemon does with every refused vector what frames.json says, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inferd.wire import frame as f
from inferd.wire.messages import Error, Hello
from tests.rawpeer import RawPeer
from tests.running import Daemon, double, running

BOOK = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text(encoding="utf-8"))
TO_SERVER = [vector for vector in BOOK["refused"] if vector["direction"] == "client->server"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon"), double("Double"), double("Slow", seconds=0.5)) as daemon:
        yield daemon


def told(peer: RawPeer) -> tuple[int, str, str]:
    frame = peer.next()
    assert isinstance(frame.message, Error)
    return frame.request_id, frame.message.code, frame.message.reason


@pytest.mark.parametrize("vector", TO_SERVER, ids=lambda one: one["name"])
def test_the_daemon_does_what_the_vector_says(daemon: Daemon, vector: dict[str, Any]) -> None:
    """closes: one ERROR with id 0 and the end; closes silently: no byte; answered and skipped: the connection lives."""
    outcome = vector["outcome"]
    with RawPeer(daemon.url, greet=vector["state"] != "START") as peer:
        if vector["state"] == "START":
            peer.peer.send(f.HELLO, Hello("x"))  # so that this end expects an answer
        peer.sock.sendall(bytes.fromhex(vector["hex"]))
        if outcome == "closes":
            assert told(peer) == (0, vector["code"], vector["reason"])
        if outcome == "answered":
            assert told(peer) == (1, vector["code"], vector["reason"])
        if outcome.startswith("closes"):
            with pytest.raises((EOFError, ConnectionResetError)):
                peer.next()
        else:
            peer.sock.sendall(peer.peer.send(f.PING, request_id=3))
            frame = peer.next()
            assert (frame.type, frame.request_id) == (f.PONG, 3)


def test_an_unknown_message_with_the_id_of_a_request_is_not_its_answer(daemon: Daemon) -> None:
    """It is skipped: the request has its one answer, which is its result."""
    with RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", b"\0\0\x80\x3f", (1,))
        peer.sock.sendall(f.pack_prefix(99, 1, 0) + f.pack_prefix(99, 2, 0))
        assert told(peer)[::2] == (2, "UNKNOWN_MESSAGE")
        assert peer.outcomes(1) == {1: "RESULT"}


def test_a_request_may_follow_hello_at_once(daemon: Daemon) -> None:
    """HELLO, a PING and an INFER in one write: WELCOME comes first, then the answers."""
    with RawPeer(daemon.url, greet=False) as peer:
        hello = peer.peer.send(f.HELLO, Hello("x"))
        prefix = f.pack_prefix(f.PING, 9, 0)
        table = b"\x82\xa5model\xa6double\xa6inputs\x91\x94\xa1x\xa4FP32\x91\x01\x00"
        infer = f.pack_prefix(f.INFER, 1, len(table), 4) + table + b"\0\0\x80\x3f"
        peer.sock.sendall(hello + prefix + infer)
        assert [peer.next().type for _ in range(3)] == [f.WELCOME, f.PONG, f.RESULT]


@pytest.mark.parametrize("deadline_ms", [0, 1e15, 1e300])
def test_any_deadline_is_taken(daemon: Daemon, deadline_ms: float) -> None:
    """No time is TIMEOUT at once, and there is no time that is too long."""
    with RawPeer(daemon.url) as peer:
        peer.infer(1, "double", b"\0\0\x80\x3f", (1,), deadline_ms=deadline_ms)
        assert peer.outcomes(1) == {1: "RESULT" if deadline_ms else "TIMEOUT"}


def test_a_name_is_a_tensors_or_a_values(tmp_path: Path) -> None:
    """Both at once is TENSOR, also for a model that declares nothing."""
    from inferd.wire.messages import Infer
    from inferd.wire.tensor import layout
    from inferd.wire.values import pack_values

    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.url) as peer:
        table, end = layout([("x", "FP32", (1,))])
        payload = b"\0\0\x80\x3f".ljust(64, b"\0") + pack_values({"x": 1})
        head = peer.peer.send(f.INFER, Infer("double", table, end), 1, len(payload), f.HAS_VALUES)
        peer.sock.sendall(head + payload)
        frame = peer.next()
        assert isinstance(frame.message, Error) and frame.message.reason == "TENSOR"
        assert "both a tensor and a value" in frame.message.message
