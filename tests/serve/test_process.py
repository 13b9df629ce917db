"""Worker processes on a system that has nothing left: no process, no descriptor, no memory. Those that serve go on."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inferd_client import Client

import inferd
from inferd.config import ModelConfig
from inferd.errors import ConfigError, InferdError, ModelLoadError
from inferd.serve import process, workers
from inferd.serve.process import ProcessExecutor
from inferd.wire import batch as b
from tests.rawpeer import RawPeer
from tests.running import Daemon, double, running
from tests.serve import fork_server_that_fails

ONE = np.ones(1, np.float32)


class NoFork:
    """A system that has no process left, while it is told so."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begins(self) -> None:
        self.path.touch()

    def ends(self) -> None:
        self.path.unlink()

    def refused(self) -> int:
        return self.path.stat().st_size


@pytest.fixture
def no_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NoFork:
    path = tmp_path / "no-fork"
    roots = [str(Path(__file__).parents[2]), str(Path(inferd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, roots)))
    monkeypatch.setenv(fork_server_that_fails.VARIABLE, str(path))
    monkeypatch.setattr(process, "FORK_SERVER", fork_server_that_fails.__name__)
    monkeypatch.setattr(workers, "NOT_STARTED_PAUSE_S", 0.02)
    return NoFork(path)


def executor_of(daemon: Daemon) -> ProcessExecutor:
    executor = daemon.engine.executor
    assert isinstance(executor, ProcessExecutor)
    return executor


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def refuse(number: int) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


# ---- no process


def test_a_replacement_that_cannot_be_forked_comes_later(tmp_path: Path, no_fork: NoFork) -> None:
    """It is tried again until there is a process for it; the fork server and the other worker go on meanwhile, and
    nothing is lost by trying."""
    with running(tmp_path, double("Double"), devices=("cpu", "cpu")) as daemon, Client(daemon.url) as client:
        places = daemon.engine.pool.workers
        other = daemon.ask(lambda: places[1].pid)
        fork_server = executor_of(daemon)._fork_server.pid
        no_fork.begins()
        os.kill(daemon.ask(lambda: places[0].pid), signal.SIGKILL)
        counts: list[int] = []

        def between_two_tries() -> bool:
            if places[0].arena is None:
                counts.append(open_descriptors())
            return places[0].arena is None

        daemon.until(lambda: no_fork.refused() >= 3)
        daemon.until(between_two_tries)
        daemon.until(lambda: no_fork.refused() >= 6)
        daemon.until(lambda: between_two_tries() and counts[-1] <= counts[0])
        assert client.infer("double", {"x": ONE})["y"].tolist() == [2]
        assert daemon.ask(lambda: daemon.engine.pool.serving) == 1
        no_fork.ends()
        daemon.until(lambda: daemon.engine.pool.serving == 2)
        assert daemon.ask(lambda: (places[0].deaths, places[1].deaths)) == (1, 0)
        assert daemon.ask(lambda: places[1].pid) == other and executor_of(daemon)._fork_server.pid == fork_server


def test_a_fork_server_that_stands_still_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that it does not make is given up, as one whose loading hangs, and then the fork server is."""
    monkeypatch.setattr(process, "FORK_TIMEOUT_S", 0.05)
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        monkeypatch.setattr(workers, "LEAST_LOADING_S", 0.0)
        [place] = daemon.engine.pool.workers
        daemon.ask(lambda: setattr(place, "load_s", 0.05))
        stands = executor_of(daemon)._fork_server
        os.kill(stands.pid, signal.SIGSTOP)
        os.kill(daemon.ask(lambda: place.pid), signal.SIGKILL)
        daemon.until(lambda: executor_of(daemon)._fork_server is not stands)
        daemon.ask(lambda: monkeypatch.undo() or setattr(place, "load_s", 60.0))  # its successor takes its time
        assert client.infer("double", {"x": ONE}, timeout_ms=20_000)["y"].tolist() == [2]
        assert stands.returncode == -signal.SIGKILL


def test_a_worker_that_is_not_wanted_any_more_when_it_comes_is_ended(tmp_path: Path) -> None:
    """Killed while the fork server has not made it yet; the fork server, which was only late, stays."""
    with running(tmp_path, double("Double")) as daemon:
        executor = executor_of(daemon)
        fork_server = executor._fork_server
        [place] = daemon.engine.pool.workers
        os.kill(fork_server.pid, signal.SIGSTOP)
        os.kill(daemon.ask(lambda: place.pid), signal.SIGKILL)
        daemon.until(lambda: place.deaths == 1 and 0 in executor._processes)
        daemon.ask(lambda: executor.kill(0))
        os.kill(fork_server.pid, signal.SIGCONT)
        daemon.until(lambda: place.deaths == 2)
        daemon.until(lambda: daemon.engine.pool.serving == 1)
        assert executor._fork_server is fork_server and place.last_exit == "SIGKILL"


def test_a_reload_whose_workers_cannot_be_forked_changes_nothing(tmp_path: Path, no_fork: NoFork) -> None:
    """It fails with the system's word; who serves goes on, and the next reload goes through."""
    with running(tmp_path, double("Double"), devices=("cpu", "cpu")) as daemon, Client(daemon.url) as client:
        places = list(daemon.engine.pool.workers)
        pids = daemon.ask(lambda: [place.pid for place in places])
        new = dataclasses.replace(daemon.engine.settings, models=(double("Double"), double("Picky")))

        def bring_up() -> list[dict[str, Any]]:
            coming = daemon.engine.workers.bring_up(new)
            return asyncio.run_coroutine_threadsafe(coming, daemon._loop).result(60)

        no_fork.begins()
        with pytest.raises(ModelLoadError, match=r"cannot be started: .*temporarily unavailable"):
            bring_up()
        daemon.until(lambda: daemon.engine.pool.workers == places)
        assert client.infer("double", {"x": ONE})["y"].tolist() == [2]
        assert daemon.ask(lambda: [place.pid for place in places]) == pids
        no_fork.ends()
        assert [model["name"] for model in bring_up()] == ["double", "picky"]


def test_a_start_waits_for_a_process(tmp_path: Path, no_fork: NoFork, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for memory: the daemon is not ready until there is one."""
    no_fork.begins()
    not_started = workers.Workers.on_not_started

    def told(self: workers.Workers, worker: int, why: str) -> None:
        not_started(self, worker, why)
        if no_fork.path.exists():
            no_fork.ends()

    monkeypatch.setattr(workers.Workers, "on_not_started", told)
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        assert client.infer("double", {"x": ONE})["y"].tolist() == [2]
        assert not no_fork.path.exists()


def test_a_fork_server_that_cannot_be_made_comes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its predecessor was killed, and the system has no process: tried again until there is one."""
    monkeypatch.setattr(process, "AGAIN_S", 0.02)
    monkeypatch.setattr(workers, "NOT_STARTED_PAUSE_S", 0.02)
    tries = 0

    def no_process(*args: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(process.subprocess, "Popen", no_process)
            os.kill(executor_of(daemon)._fork_server.pid, signal.SIGKILL)
            daemon.until(lambda: tries >= 3)
        assert client.infer("double", {"x": ONE}, timeout_ms=20_000)["y"].tolist() == [2]


def test_a_start_without_a_process_for_the_fork_server_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what, why, and what to do; it is no mistake in the configuration, and all that was there is closed."""

    def slabs() -> set[int]:
        found = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        return {int(fd.name) for fd in found if "slab" in os.readlink(fd)}

    before = slabs()
    monkeypatch.setattr(process, "FORK_SERVER", "of which none is kept")
    monkeypatch.setattr(process.subprocess, "Popen", refuse(errno.EAGAIN))
    says = r"fork server: Resource temporarily unavailable; .*ulimit -u"
    with pytest.raises(InferdError, match=says) as raised, running(tmp_path, double("Double")):
        pytest.fail("it serves")
    assert not isinstance(raised.value, ConfigError)
    assert slabs() <= before


# ---- no descriptor


@pytest.mark.parametrize(("where", "name"), [(process, "_channel"), (process.b, "pack_map"), (socket, "send_fds")])
def test_a_worker_that_cannot_be_asked_for_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    """Whatever of it fails for want of descriptors: those that it had are given back, and so is its arena."""
    with running(tmp_path, double("Double")) as daemon:
        executor = executor_of(daemon)

        def fail() -> tuple[int, int]:
            before = open_descriptors()
            with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many"):
                patch.setattr(where, name, refuse(errno.EMFILE))
                executor.spawn(99, "cpu", daemon.engine.settings, False)
            return before, open_descriptors()

        before, after = daemon.ask(fail)
        assert after <= before  # whatever else the process lets go of meanwhile
        assert daemon.ask(lambda: list(executor._processes)) == [0]


def without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is received with a packet is dropped, as the kernel does it where there is no number left."""
    receive = socket.recv_fds

    def recv_fds(*args: Any) -> Any:
        packet, fds, flags, address = receive(*args)
        for fd in fds:
            os.close(fd)
        return packet, [], flags | socket.MSG_CTRUNC, address

    monkeypatch.setattr(socket, "recv_fds", recv_fds)


def test_a_pidfd_that_did_not_come_is_got_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as there is a descriptor for it; then its worker can be killed as any."""
    monkeypatch.setattr(process, "AGAIN_S", 0.02)
    pidfd_open, tries = os.pidfd_open, 0

    def third_time(pid: int) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", third_time)
    without_descriptors(monkeypatch)
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        [place] = daemon.engine.pool.workers
        daemon.until(lambda: place.pid != 0)
        first = daemon.ask(lambda: place.pid)
        assert client.infer("double", {"x": ONE})["y"].tolist() == [2]
        daemon.ask(lambda: executor_of(daemon).kill(0))
        daemon.until(lambda: place.deaths == 1 and place.pid not in (0, first))
        assert client.infer("double", {"x": ONE}, timeout_ms=20_000)["y"].tolist() == [2]


def test_the_death_of_a_worker_without_a_pidfd_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork server says so: it is replaced, and what it ran is run again."""
    monkeypatch.setattr(os, "pidfd_open", refuse(errno.EMFILE))
    without_descriptors(monkeypatch)
    with running(tmp_path, double("Double")) as daemon, Client(daemon.url) as client:
        [place] = daemon.engine.pool.workers
        pid = daemon.ask(lambda: executor_of(daemon)._processes[0].pid)
        os.kill(pid, signal.SIGKILL)
        daemon.until(lambda: place.deaths == 1)
        assert client.infer("double", {"x": ONE}, timeout_ms=20_000)["y"].tolist() == [2]
        assert daemon.ask(lambda: place.last_exit) == "SIGKILL"


# ---- a stop


def test_a_worker_that_waits_for_room_ends_when_it_is_told(tmp_path: Path) -> None:
    """Its arena is full of what nobody reads; it does not take the word for a failure of the model, and needs no
    kill."""
    small, large = np.ones(7 << 18, np.float32), np.ones(12 << 18, np.float32)  # 7 and 12 MiB
    with (
        running(tmp_path, double("Double"), arena_mib=16) as daemon,
        RawPeer(daemon.unix_url) as silent,
        RawPeer(daemon.unix_url) as other,
    ):
        [place] = daemon.engine.pool.workers
        silent.infer(1, "double", small.tobytes(), small.shape)
        daemon.until(lambda: place.arena is not None and place.arena.held > 0)
        other.infer(1, "double", large.tobytes(), large.shape)
        daemon.until(lambda: place.arena is not None and place.arena.starved)
        daemon.ask(lambda: executor_of(daemon).send(0, b.pack(b.STOP)))
        daemon.until(lambda: place.deaths == 1)
        assert place.last_exit == "status 0" and daemon.engine.counters["batches_raised"] == 0


# ---- many models


def test_five_hundred_models_are_served(tmp_path: Path) -> None:
    """Neither what their worker is told of them fits a packet, nor what it says of them."""
    options = {"texts": "of some length " * 20}
    path = tmp_path / "many.py"
    path.write_text(
        "class Many:\n    warm_up = False\n    inputs = {'x' * 100: ('FP32', (1,))}\n\n"
        "    def __init__(self, texts): ...\n\n"
        "    def forward(self, batch):\n        return {'y': batch['x' * 100] + 1}\n"
    )
    models = [ModelConfig(f"many-{number}", f"{path}:Many", options) for number in range(500)]
    with running(tmp_path, *models) as daemon, Client(daemon.url) as client:
        assert client.infer("many-499", {"x" * 100: ONE})["y"].tolist() == [2]
        assert daemon.ask(lambda: list(daemon.engine.door.models)) == [model.name for model in models]
