"""T21: the daemon's loop stands still. Its service manager, played here, hears no WATCHDOG=1 in time and sends SIGABRT,
as systemd does; the log has where every thread was, and the manager starts it again."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import procfs
from tests.faults.world import Served, World, told

WATCHDOG_S = 2.0


class Manager:
    """What systemd is to the daemon: somebody who reads its words, and a watchdog."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._beat = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while word := self._socket.recv(4096):
            if b"WATCHDOG=1" in word:
                self._beat.set()

    def beats(self) -> bool:
        """Whether WATCHDOG=1 comes in time."""
        self._beat.clear()
        return self._beat.wait(WATCHDOG_S)

    def close(self) -> None:
        """An empty word ends the reader."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.environment["NOTIFY_SOCKET"])
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_a_loop_that_stands_still_misses_its_watchdog(manager: Manager, world: World) -> None:
    """Wedged at its third batch: no sign of life, SIGABRT, stacks of every thread, and nothing is left of it; the next
    one serves."""
    wedged = world.serve(told(), environment=manager.environment, failpoints="loop.batch=sleep:600@3", watch=False)
    wedged.ends_by_itself = True
    children = list(procfs.descendants(wedged.pid))
    with world.caller(wedged) as caller:
        assert [caller.call().outcome for _ in range(2)] == ["RESULT"] * 2
        assert manager.beats()
        third = caller.send()
        world.until(lambda: not manager.beats(), 30.0)
        assert not third.outcome
    os.kill(wedged.pid, signal.SIGABRT)
    aborted_at = time.monotonic()
    assert wedged.process.wait(10) == -signal.SIGABRT
    said = wedged.log_path.read_text()
    assert "Fatal Python error: Aborted" in said and "_dispatch" in said
    assert said.count("most recent call first") >= 1
    world.until(lambda: not any(procfs.is_alive(pid) for pid in children), 2.0)
    world.report("workers gone after", time.monotonic() - aborted_at, "s")
    again = world.serve(told(), environment=manager.environment)
    with world.caller(again) as caller:
        assert caller.call(deadline_ms=5000).outcome == "RESULT"
    world.report("served again after", time.monotonic() - aborted_at, "s")


def test_a_busy_daemon_keeps_its_watchdog(manager: Manager, world: World) -> None:
    """Under load, and while its worker hangs and is replaced, the loop is prompt and says so."""
    served = world.serve(told(pause_s=0.005), environment=manager.environment)
    with world.load(served, callers=8, depth=8, deadline_ms=10_000) as load:
        for round in range(world.scale(3, 15)):
            if round == 1:
                _kill_one(served)
            assert manager.beats()
        world.until(lambda: load.answered() > 100)


def _kill_one(served: Served) -> None:
    os.kill(served.workers()[0], signal.SIGKILL)
