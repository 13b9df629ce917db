"""Workers that die, callers that misbehave: nobody else is hurt."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from inferd_client import Client, DeadlineExceeded, Internal, Unavailable

from inferd.serve import report, workers
from inferd.wire import frame as f
from inferd.wire.messages import Infer
from inferd.wire.tensor import layout
from tests.rawpeer import RawPeer
from tests.running import double, running

ONE = struct.pack("<f", 5.0)


def number(value: float) -> bytes:
    return struct.pack("<f", value)


@pytest.mark.parametrize("deadly", [1.0, 2.0, 3.0], ids=["SIGKILL", "segfault", "exit"])
def test_a_request_that_kills_its_worker_takes_no_other_with_it(tmp_path: Path, deadly: float) -> None:
    """The innocent requests of its batch are answered; the poison fails typed after two deaths; the daemon lives.

    SIGKILL may have come from anybody, so it does not make a request a poison.
    """

    def ask(value: float) -> float | str:
        try:
            return float(client.infer("deadly", {"x": np.array([value], np.float32)})["y"][0])
        except (Internal, Unavailable) as error:
            return error.reason

    with running(tmp_path, double("Deadly", pause_s=0.02)) as daemon, Client(daemon.url) as client:
        numbers = [10.0 + n for n in range(12)]
        numbers[5] = deadly
        with ThreadPoolExecutor(len(numbers)) as threads:
            answers = list(threads.map(ask, numbers))
        reason = "WORKER_LOST" if deadly == 1.0 else "POISONED"
        assert answers == [reason if value == deadly else value for value in numbers]
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].deaths) == 2
        assert ask(20.0) == 20.0
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)


def test_a_worker_killed_mid_batch_is_replaced_and_its_requests_answered(tmp_path: Path) -> None:
    """From outside: kill −9 while it computes; the caller sees its answer, a little later."""
    with running(tmp_path, double("Slow", seconds=0.3)) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
        first = daemon.ask(lambda: daemon.engine.pool.workers[0].pid)
        os.kill(first, signal.SIGKILL)
        assert peer.outcomes(1) == {1: "RESULT"}
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].pid) != first


def test_a_worker_that_stands_still_is_ended_and_its_requests_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From outside: SIGSTOP. Nothing is heard of its batch, so it is ended, and its successor answers."""
    monkeypatch.setattr(workers, "LEAST_PATIENCE_S", 0.5)
    with running(tmp_path, double("Slow", seconds=0.01)) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        assert peer.outcomes(1) == {1: "RESULT"}
        first = daemon.ask(lambda: daemon.engine.pool.workers[0].pid)
        os.kill(first, signal.SIGSTOP)
        peer.infer(2, "slow", ONE, (1,))
        assert peer.outcomes(1) == {2: "RESULT"}
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].pid) != first
        assert daemon.ask(lambda: daemon.engine.counters["workers_hung"]) == 1
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)


def test_a_request_that_makes_the_model_hang_is_given_up_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs twice; those who were in its batch are answered, and so is who comes after it."""
    monkeypatch.setattr(workers, "LEAST_PATIENCE_S", 0.5)
    with running(tmp_path, double("Deadly", pause_s=0.02)) as daemon, Client(daemon.url) as client:

        def ask(value: float) -> float | str:
            try:
                return float(client.infer("deadly", {"x": np.array([value], np.float32)})["y"][0])
            except Internal as error:
                return error.reason

        numbers = [10.0, 11.0, 4.0, 12.0, 13.0]
        with ThreadPoolExecutor(len(numbers)) as threads:
            answers = list(threads.map(ask, numbers))
        assert answers == [10.0, 11.0, "POISONED", 12.0, 13.0]
        assert daemon.ask(lambda: daemon.engine.counters["workers_hung"]) == 2
        assert ask(20.0) == 20.0


def test_a_daemon_whose_only_worker_hangs_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is served, though the worker is alive, and its first batch may take minutes before it is ended."""
    monkeypatch.setattr(workers, "LEAST_PATIENCE_S", 0.2)
    with running(tmp_path, double("Hang")) as daemon, RawPeer(daemon.url) as peer:

        def state() -> str:
            return str(report.status(daemon.engine)["state"])

        assert daemon.ask(state) == "ready"
        peer.infer(1, "hang", ONE, (1,))
        daemon.until(lambda: state() == "stalled")
        assert not daemon.ask(lambda: daemon.engine.pool.hung(daemon.engine.clock()))
        os.kill(daemon.ask(lambda: daemon.engine.pool.workers[0].pid), signal.SIGKILL)
        daemon.until(lambda: state() != "stalled")


def test_two_workers_share_the_work(tmp_path: Path) -> None:
    """Two places on the CPU compute two batches at a time, and one death leaves the other serving."""
    with running(tmp_path, double("Slow", seconds=1.0), devices=("cpu", "cpu")) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        daemon.until(lambda: any(worker.batch is not None for worker in daemon.engine.pool.workers))
        peer.infer(2, "slow", ONE, (1,))
        daemon.until(lambda: all(worker.batch is not None for worker in daemon.engine.pool.workers))
        os.kill(daemon.ask(lambda: daemon.engine.pool.workers[1].pid), signal.SIGKILL)
        assert peer.outcomes(2) == {1: "RESULT", 2: "RESULT"}


def test_a_killed_fork_server_is_replaced(tmp_path: Path) -> None:
    """Its workers die with it, and all come back."""
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        fork_server = daemon.engine.executor._fork_server.pid  # type: ignore[attr-defined]
        os.kill(fork_server, signal.SIGKILL)
        assert client.infer("double", {"x": np.ones(1, np.float32)}, timeout_ms=20_000)["y"].tolist() == [2]


def test_a_cancelled_request_that_waits_is_never_computed(tmp_path: Path) -> None:
    """CANCEL takes it out of the queue: one outcome, CANCELLED, and the model never saw it."""
    with running(tmp_path, double("Slow", seconds=0.1), double("Picky")) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
        peer.infer(2, "picky", ONE, (1,))
        peer.sock.sendall(peer.peer.send(f.CANCEL, request_id=2) + peer.peer.send(f.CANCEL, request_id=99))
        assert peer.outcomes(2) == {2: "CLIENT_CANCELLED", 1: "RESULT"}
        daemon.until(lambda: daemon.engine.pool.idle is not None)
        assert daemon.ask(lambda: daemon.engine.door.models["picky"].meters.results) == 0
        assert daemon.ask(lambda: daemon.engine.counters["cancelled_while_queued"]) == 1


def test_a_cancelled_request_that_runs_is_answered_once(tmp_path: Path) -> None:
    """Its result is thrown away, and its id can be used again."""
    with running(tmp_path, double("Slow", seconds=0.1)) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
        peer.sock.sendall(peer.peer.send(f.CANCEL, request_id=1))
        assert peer.outcomes(1) == {1: "CLIENT_CANCELLED"}
        peer.infer(1, "slow", number(7), (1,))
        frame = peer.next()
        assert frame.type == f.RESULT and frame.payload is not None and bytes(frame.payload) == number(7)


def test_work_of_a_client_that_is_gone_is_not_computed(tmp_path: Path) -> None:
    """A disconnect empties its part of the queue and of the slab."""
    with running(tmp_path, double("Slow", seconds=0.2)) as daemon:
        with RawPeer(daemon.url) as peer:
            peer.infer(1, "slow", ONE, (1,))
            daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
            for request_id in range(2, 12):
                peer.infer(request_id, "slow", ONE, (1,))
            daemon.until(lambda: daemon.engine.scheduler.queued == 10)
        daemon.until(lambda: daemon.engine.scheduler.queued == 0)
        daemon.until(lambda: daemon.engine.pool.idle is not None)
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].batches) == 1
        assert daemon.ask(lambda: daemon.engine.slab.used_bytes) == 0


def test_a_request_past_its_deadline_is_not_computed(tmp_path: Path) -> None:
    """It is answered DEADLINE_EXCEEDED instead."""
    with running(tmp_path, double("Slow", seconds=0.2)) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
        peer.infer(2, "slow", ONE, (1,), deadline_ms=1)
        assert peer.outcomes(2) == {1: "RESULT", 2: "TIMEOUT"}
        assert daemon.ask(lambda: daemon.engine.door.models["slow"].meters.results) == 1


def test_a_callers_timeout_reaches_the_server(tmp_path: Path) -> None:
    """The client gives up in time and the server forgets the request."""
    with running(tmp_path, double("Slow", seconds=0.5)) as daemon, Client(daemon.url) as client:
        with pytest.raises(DeadlineExceeded):
            client.infer("slow", {"x": np.ones(1, np.float32)}, timeout_ms=50)
        daemon.until(lambda: not any(session.in_flight for session in daemon.engine.sessions))


def test_more_requests_than_credits_are_refused_not_queued(tmp_path: Path) -> None:
    """The window holds for clients that ignore it, too."""
    with running(tmp_path, double("Slow", seconds=0.2), max_in_flight=4) as daemon, RawPeer(daemon.url) as peer:
        for request_id in range(1, 7):
            peer.infer(request_id, "slow", ONE, (1,))
        outcomes = peer.outcomes(6)
        assert [outcomes[n] for n in (5, 6)] == ["TOO_MANY_IN_FLIGHT"] * 2
        assert [outcomes[n] for n in (1, 2, 3, 4)] == ["RESULT"] * 4


def test_a_full_slab_refuses_and_recovers(tmp_path: Path) -> None:
    """Clients that announce and stall cannot own the slab: others are served, and refusals are typed."""
    with running(tmp_path, double("Hash"), slab_mib=4, payload_mib=1) as daemon:
        stalled = []
        try:
            for url in (daemon.url, daemon.url, daemon.unix_url):  # the third is another client's
                peer = RawPeer(url)
                stalled.append(peer)
                table, end = layout([("x", "FP32", (200_000,))])
                head = peer.peer.send(f.INFER, Infer("hash", table, end), 1, 800_000)
                peer.sock.sendall(head + bytes(100_000))
            # Half of the slab may be on its way: the third is refused, although its payload is still to come.
            assert stalled[2].outcomes(1) == {1: "SLAB_FULL"}
            stalled[2].sock.sendall(bytes(700_000))
            stalled[2].infer(2, "hash", bytes(4000), (1000,))
            assert stalled[2].outcomes(1) == {2: "RESULT"}
            stalled[0].sock.sendall(bytes(700_000))
            assert stalled[0].outcomes(1) == {1: "RESULT"}
        finally:
            for peer in stalled:
                peer.sock.close()
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)
        assert daemon.ask(lambda: daemon.engine.holdings.arriving_bytes) == 0


def test_slow_readers_do_not_stop_the_others(tmp_path: Path) -> None:
    """Callers that do not read 1 MiB answers hold neither the arena nor the worker."""
    with running(tmp_path, double("Hash"), double("Double"), arena_mib=8) as daemon:
        slow = [RawPeer(daemon.url, receive_buffer_bytes=4096) for _ in range(4)]
        try:
            big = bytes(1024 * 1024)
            for request_id in range(1, 9):
                for peer in slow:
                    peer.infer(request_id, "double", big, (256 * 1024,))
            with Client(daemon.url) as client:
                for _ in range(20):
                    assert (
                        client.infer("double", {"x": np.ones(3, np.float32)}, timeout_ms=10_000)["y"].tolist()
                        == [2] * 3
                    )
            answers: list[dict[int, str]] = [{} for _ in slow]

            def read(index: int) -> None:
                answers[index] = slow[index].outcomes(8)

            threads = [threading.Thread(target=read, args=(index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert answers == [dict.fromkeys(range(1, 9), "RESULT")] * 4
        finally:
            for peer in slow:
                peer.sock.close()
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-x\r\n",
        bytes(64),
    ],
    ids=["HTTP", "TLS", "SSH", "zeros"],
)
def test_another_protocol_gets_nothing_back(tmp_path: Path, opening: bytes) -> None:
    """Closed at once, nothing echoed, and the log says what it looked like."""
    with running(tmp_path, double("Double"), executor="inline") as daemon, RawPeer(daemon.url, greet=False) as peer:
        peer.sock.sendall(opening)
        assert peer.rest() == b""


def test_a_protocol_error_ends_only_its_own_connection(tmp_path: Path) -> None:
    """One ERROR frame that says why, then the end; the neighbour notices nothing."""
    serving = running(tmp_path, double("Double"), executor="inline")
    with serving as daemon, RawPeer(daemon.url) as good, RawPeer(daemon.url) as bad:
        bad.sock.sendall(f.pack_prefix(f.INFER, 1, 1 << 20, 0))
        frame = bad.next()
        assert frame.type == f.ERROR and frame.request_id == 0
        with pytest.raises(EOFError):
            bad.next()
        good.infer(1, "double", ONE, (1,))
        assert good.outcomes(1) == {1: "RESULT"}


def test_an_id_that_is_in_flight_cannot_be_used_again(tmp_path: Path) -> None:
    """Two answers for one id could not be told apart: the connection ends."""
    with running(tmp_path, double("Slow", seconds=0.1)) as daemon, RawPeer(daemon.url) as peer:
        peer.infer(1, "slow", ONE, (1,))
        peer.infer(1, "slow", ONE, (1,))
        frame = peer.next()
        assert frame.type == f.ERROR and frame.request_id == 0


def test_the_workers_go_when_the_daemon_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the daemon leaves no fork server and no worker behind."""
    import subprocess
    import sys

    daemon = subprocess.Popen(
        [sys.executable, "-m", "inferd", "serve", "echo", "--listen", f"inferd+unix://{tmp_path}/a.sock"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert daemon.stdout is not None and b"ready" in daemon.stdout.readline()
        children = _descendants(daemon.pid)
        assert len(children) == 2  # fork server and worker
    finally:
        daemon.kill()
        daemon.communicate()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in children):
        assert time.monotonic() < deadline


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found
