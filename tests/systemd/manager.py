"""A service manager for tests, as small as can be: it holds sockets, starts the daemon with them, and hears it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Puts the named descriptors at 3, 4, …, says whose they are, and becomes the program.
LAUNCHER = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",") if fd]
for place, fd in enumerate(high, 3):
    os.dup2(fd, place)
    os.close(fd)
if high:
    os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[2], sys.argv[2:])
"""
START_TIMEOUT_S = 60.0


class Manager:
    """`said` is every datagram that has come to $NOTIFY_SOCKET, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets: list[tuple[socket.socket, str]] = []
        self.said: list[str] = []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        self.log = folder / "log"

    def hold(self, place: str | tuple[str, int], name: str = "") -> socket.socket:
        """Listens at a path or at (host, port), and hands that over from now on."""
        sock = socket.socket(socket.AF_UNIX if isinstance(place, str) else socket.AF_INET)
        sock.bind(place)
        sock.listen(128)
        self.sockets.append((sock, name))
        return sock

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Starts a program with the sockets and NOTIFY_SOCKET; its standard error goes to the log."""
        words = command or (sys.executable, "-P", "-m", "inferd", "serve", "echo", "--device", "cpu")
        fds = [sock.fileno() for sock, _ in self.sockets]
        names = {"LISTEN_FDNAMES": ":".join(name for _, name in self.sockets)} if fds else {}
        with self.log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-S", "-c", LAUNCHER, ",".join(map(str, fds)), *words],
                pass_fds=fds,
                cwd=self.folder,
                env={**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify"), **names, **environ},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def until(self, line: str, process: subprocess.Popen[bytes] | None = None) -> str:
        """The next datagram with a line that begins so. Fails when none comes, or when the process is over."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            over = (process is not None and process.poll() is not None) or time.monotonic() > deadline
            self._notify.settimeout(0.1)
            try:
                datagram = self._notify.recv(65536).decode()
            except TimeoutError:
                assert not over, f"no {line!r}; said: {self.said}\n{self.log.read_text()}"
                continue
            self.said.append(datagram)
            if any(each.startswith(line) for each in datagram.splitlines()):
                return datagram

    def rest(self) -> list[str]:
        """What has been said and not been heard yet."""
        self._notify.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._notify.recv(65536).decode())
        self.said += found
        return found

    def close(self) -> None:
        for sock, _ in self.sockets:
            sock.close()
        self._notify.close()


@contextlib.contextmanager
def managing(folder: Path) -> Iterator[Manager]:
    """A manager until the block ends."""
    manager = Manager(folder)
    try:
        yield manager
    finally:
        manager.close()


@contextlib.contextmanager
def service(manager: Manager, *command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon under the manager, ready; ended with the block."""
    with manager.start(*command, **environ) as process:
        try:
            manager.until("READY=1", process)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
