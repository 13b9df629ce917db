"""Deadlines, latest-wins, priorities, credits and the timeline, on the real daemon with a device that sleeps."""

from __future__ import annotations

import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inferd_client import Client, ResourceExhausted, Superseded

from inferd.config import ModelConfig
from inferd.serve.session import Session
from inferd.wire import frame as f
from inferd.wire.messages import Error
from tests.rawpeer import RawPeer
from tests.running import Daemon, double, running


def virtual(**options: object) -> ModelConfig:
    return ModelConfig("virtual", "inferd.models.virtual:Virtual", dict(options))


def x(value: float) -> bytes:
    return struct.pack("<f", value)


def busy(daemon: Daemon, peer: RawPeer, request_id: int = 1, model: str = "virtual") -> None:
    """The device computes request `request_id`, and will for a while."""
    peer.infer(request_id, model, x(0), (1,))
    daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)


def test_the_newest_request_of_a_key_takes_the_place_of_the_one_that_waits(tmp_path: Path) -> None:
    """Each older one is answered SUPERSEDED at once and never computed; the one that runs is not touched."""
    with running(tmp_path, virtual(alpha_ms=200, beta_ms=0)) as daemon, RawPeer(daemon.url) as peer:
        busy(daemon, peer)
        for request_id in range(2, 7):
            peer.infer(request_id, "virtual", x(request_id), (1,), supersede="key")
        peer.infer(7, "virtual", x(7), (1,), supersede="another")
        assert peer.outcomes(4) == dict.fromkeys((2, 3, 4, 5), "SUPERSEDED")
        assert peer.outcomes(3) == {1: "RESULT", 6: "RESULT", 7: "RESULT"}
        assert daemon.ask(lambda: daemon.engine.door.models["virtual"].meters.results) == 3
        assert daemon.ask(lambda: daemon.engine.counters["superseded_while_queued"]) == 4


def test_keys_belong_to_their_connection(tmp_path: Path) -> None:
    """Two callers with the same key do not know of each other."""
    serving = running(tmp_path, virtual(alpha_ms=100, beta_ms=0))
    with serving as daemon, RawPeer(daemon.url) as one, RawPeer(daemon.url) as other:
        busy(daemon, one)
        one.infer(2, "virtual", x(2), (1,), supersede="key")
        other.infer(1, "virtual", x(1), (1,), supersede="key")
        assert one.outcomes(2) == {1: "RESULT", 2: "RESULT"} and other.outcomes(1) == {1: "RESULT"}


def test_typing_sees_superseded_as_an_exception_of_its_own(tmp_path: Path) -> None:
    """The client's call raises Superseded, so that a page can drop it without a word."""
    with running(tmp_path, virtual(alpha_ms=500, beta_ms=0)) as daemon, Client(daemon.url) as client:
        found: list[object] = []

        def key(number: int) -> None:
            try:
                found.append(client.infer("virtual", {"x": np.full(1, number, np.float32)}, supersede="box")["y"][0])
            except Superseded as error:
                found.append(error)

        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=key, args=(number,)))
            threads[-1].start()
            if number == 0:
                daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
            else:
                count = number - 1
                daemon.until(lambda count=count: daemon.engine.counters["superseded_while_queued"] == count)
                daemon.until(lambda: daemon.engine.scheduler.queued == 1)
        for thread in threads:
            thread.join()
        assert sorted(one for one in found if not isinstance(one, Superseded)) == [0, 3]
        assert sum(isinstance(one, Superseded) for one in found) == 2


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_its_header(tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED with retry_after_ms, while the device is busy for longer than the request has."""
    with running(tmp_path, virtual(alpha_ms=300, beta_ms=0)) as daemon, RawPeer(daemon.url) as peer:
        busy(daemon, peer)
        started = time.monotonic()
        peer.infer(2, "virtual", x(2), (1,), deadline_ms=100)
        frame = peer.next()
        assert frame.type == f.ERROR and isinstance(frame.message, Error)
        assert frame.message.reason == "OVERLOADED" and frame.message.retryable
        assert frame.message.retry_after_ms is not None and frame.message.retry_after_ms > 0
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].batch is not None) and time.monotonic() - started < 5
        assert peer.outcomes(1) == {1: "RESULT"}


def test_the_client_says_when_to_try_again(tmp_path: Path) -> None:
    """The exception carries the server's estimate."""
    serving = running(tmp_path, virtual(alpha_ms=500, beta_ms=0))
    with serving as daemon, RawPeer(daemon.url) as peer, Client(daemon.url) as client:
        busy(daemon, peer)
        with pytest.raises(ResourceExhausted) as caught:
            client.infer("virtual", {"x": np.zeros(1, np.float32)}, timeout_ms=200)
        assert caught.value.reason == "OVERLOADED" and caught.value.retry_after_ms


def test_a_waiting_request_is_told_when_its_time_is_over(tmp_path: Path) -> None:
    """Also while the device is busy with something that takes much longer: a timer waits for the first to expire."""
    with running(tmp_path, double("Slow", seconds=1.5), double("Picky")) as daemon, RawPeer(daemon.url) as peer:
        busy(daemon, peer, model="slow")
        peer.infer(2, "picky", x(2), (1,), deadline_ms=150)
        frame = peer.next()
        assert frame.request_id == 2 and isinstance(frame.message, Error)
        assert frame.message.reason in ("TIMEOUT", "OVERLOADED")
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].batch is not None)  # still busy: nobody waited for it
        assert peer.outcomes(1) == {1: "RESULT"}


def test_interactive_work_goes_before_batch_work(tmp_path: Path) -> None:
    """Of requests that wait together, the interactive ones run first whatever their order of arrival."""
    serving = running(tmp_path, virtual(alpha_ms=100, beta_ms=0, max_batch_size=1))
    with serving as daemon, RawPeer(daemon.url) as peer:
        busy(daemon, peer)
        peer.infer(2, "virtual", x(2), (1,), priority="batch", deadline_ms=20_000)
        peer.infer(3, "virtual", x(3), (1,), deadline_ms=20_000)
        peer.infer(4, "virtual", x(4), (1,), priority="interactive", deadline_ms=20_000)
        assert list(peer.outcomes(4)) == [1, 4, 3, 2]


def test_the_reply_says_why_it_was_slow(tmp_path: Path) -> None:
    """The timeline: waiting, computing, with whom, and why the batch began."""
    with running(tmp_path, virtual(alpha_ms=100, beta_ms=0)) as daemon, RawPeer(daemon.url) as peer:
        busy(daemon, peer)
        with Client(daemon.url) as client:
            answer = client.infer("virtual", {"x": np.ones(1, np.float32)}, timing=True)
            timing = answer.timing
            assert timing is not None and answer["y"].tolist() == [1]
            assert timing["released"] == "freed" and timing["batch_rows"] == 1 and timing["padded"] == 0
            assert timing["compute_ms"] >= 100 and timing["queued_ms"] > 0
            assert timing["total_ms"] >= timing["queued_ms"] + timing["compute_ms"]
            again = client.infer("virtual", {"x": np.ones(1, np.float32)}, timing=True).timing
            assert again is not None and again["released"] == "idle" and again["batch_id"] > timing["batch_id"]
            assert client.infer("virtual", {"x": np.ones(1, np.float32)}).timing is None


def test_credits_shrink_when_requests_wait_and_grow_when_they_do_not(tmp_path: Path) -> None:
    """The window in the replies follows the queue, so that a caller that obeys slows down before it fails."""
    with running(tmp_path, virtual(alpha_ms=20, beta_ms=0, max_batch_size=1)) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "virtual", x(1), (1,), deadline_ms=1000)
        first = peer.next().credits
        for request_id in range(2, 62):
            peer.infer(request_id, "virtual", x(1), (1,), deadline_ms=1000)
        last = [peer.next().credits for _ in range(60)][-1]
        assert last < first
        for request_id in range(100, 100 + 3 * last):
            peer.infer(request_id, "virtual", x(1), (1,), deadline_ms=10_000)
            grown = peer.next().credits
            if grown > last:
                break
        assert grown > last


def test_a_cancelled_request_of_a_congested_connection_stays_cancelled(tmp_path: Path) -> None:
    """It is parked while the connection does not read; cancelled there, it is not computed and not answered twice."""
    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.url, receive_buffer_bytes=4096) as peer:
        big = bytes(4 * 1024 * 1024)
        for request_id in range(1, 5):
            peer.infer(request_id, "double", big, (1024 * 1024,))
        [session] = daemon.ask(lambda: list(daemon.engine.sessions))
        daemon.until(lambda: session.outbox.congested and daemon.engine.pool.idle is not None)
        peer.infer(100, "double", x(1), (1,))
        peer.infer(101, "double", x(1), (1,))
        daemon.until(lambda: len(session.parked) >= 2)
        peer.sock.sendall(peer.peer.send(f.CANCEL, request_id=100))
        daemon.until(lambda: 100 not in session.in_flight)
        outcomes = peer.outcomes(6)
        assert outcomes == {1: "RESULT", 2: "RESULT", 3: "RESULT", 4: "RESULT", 100: "CLIENT_CANCELLED", 101: "RESULT"}
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].deaths) == 0


def test_a_defect_of_ours_costs_a_worker_and_not_the_daemon(tmp_path: Path) -> None:
    """A packet that cannot be handled kills its worker; its requests run again and everybody is answered."""
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        engine = daemon.engine
        whole = engine.batch_done
        broken = iter([True])

        def once(*args: object) -> None:
            if next(broken, False):
                raise KeyError("a defect")
            whole(*args)  # type: ignore[arg-type]

        engine.batch_done = once  # type: ignore[method-assign]
        assert client.infer("double", {"x": np.ones(1, np.float32)})["y"].tolist() == [2]
        assert daemon.ask(lambda: engine.pool.workers[0].deaths) == 1


def test_a_defect_while_answering_costs_nobody_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has its next batch already when answers are written: what has not been answered runs again."""
    broken = iter([True])
    whole = Session.answer

    def once(self: Session, *args: Any) -> None:
        if next(broken, False):
            raise KeyError("a defect")
        whole(self, *args)

    monkeypatch.setattr(Session, "answer", once)
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(
                lambda n: client.infer("double", {"x": np.full(1, n, np.float32)})["y"].tolist(), range(64)
            )
            assert list(answers) == [[2.0 * n] for n in range(64)]
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)


def test_a_result_may_be_larger_than_any_request(tmp_path: Path) -> None:
    """The client takes what WELCOME says that the daemon may send."""
    with running(tmp_path, double("Nonce"), payload_mib=1) as daemon, Client(daemon.url) as client:
        answer = client.infer("nonce", {"nonce": "n", "size": 80 * 1024 * 1024})
        assert answer["data"].nbytes == 80 * 1024 * 1024
