"""Fork servers that are kept for the next test's daemon: each takes two seconds of a core to import torch."""

from __future__ import annotations

import asyncio
import atexit
import os
import resource
import socket
import subprocess
import time
from collections.abc import Hashable
from pathlib import Path

from inferd.serve import process
from inferd.serve.process import ProcessExecutor

# How long the last worker's end may take before the fork server is not worth the wait.
EMPTY_TIMEOUT_S = 1.0

_kept: dict[Hashable, list[tuple[subprocess.Popen[bytes], socket.socket]]] = {}


class KeptForkServer(ProcessExecutor):
    """Takes the fork server that an earlier daemon of this process has left, and leaves its own to a later one. The
    daemon must run in a thread that does not end before the process, for with its thread the fork server ends."""

    def _launch(self) -> None:
        self._inherited = _inherited()
        if waiting := _kept.get(self._inherited):
            self._fork_server, self._control = waiting.pop()
            self._loop.add_reader(self._control, self._on_control)
        else:
            super()._launch()

    async def _end_workers(self) -> None:
        # What it has not answered yet would be answered to the next.
        self._is_asked = any(not known.pid for known in self._processes.values())
        await super()._end_workers()

    async def _end_fork_server(self) -> None:
        if self._is_asked or self._control.fileno() < 0 or not await asyncio.to_thread(_is_idle, self._fork_server.pid):
            await super()._end_fork_server()
            return
        self._loop.remove_reader(self._control)
        while _is_packet(self._control):
            pass
        _kept.setdefault(self._inherited, []).append((self._fork_server, self._control))


def _inherited() -> Hashable:
    """What a fork server has from the process that starts it: who has changed it gets one of his own."""
    streams = [os.fstat(fd) for fd in (0, 1, 2)]
    return (
        process.FORK_SERVER,
        os.getcwd(),
        tuple(sorted((name, value) for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST")),
        tuple((stream.st_dev, stream.st_ino) for stream in streams),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        tuple(sorted(os.sched_getaffinity(0))),
    )


def _is_idle(pid: int) -> bool:
    """Whether the process waits, and has no child."""
    end = time.monotonic() + EMPTY_TIMEOUT_S
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
            if state == "S" and not Path(f"/proc/{pid}/task/{pid}/children").read_text():
                return True
        except OSError:
            return False
        time.sleep(0.002)
    return False


def _is_packet(control: socket.socket) -> bool:
    """Whether there was one, and with it something to close."""
    try:
        packet, fds, _, _ = socket.recv_fds(control, 4096, 1)
    except BlockingIOError:
        return False
    for fd in fds:
        os.close(fd)
    return bool(packet)


@atexit.register
def _end() -> None:
    for waiting in _kept.values():
        for fork_server, control in waiting:
            control.close()
            fork_server.wait()
