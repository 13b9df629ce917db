"""Sockets for the fault tests that misuse connections, and a network of its own: two ends of a cable, for root."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd.wire.peer import CLIENT, Peer
from tests.faults import procfs
from tests.faults.world import Served

WATCH_RSS_S = 0.01


def hello(*features: str) -> bytes:
    """A HELLO frame."""
    return Peer(CLIENT).send(f.HELLO, Hello("fault", features=features))


def connect(url: str, timeout_s: float = 10.0, send_buffer_bytes: int = 0) -> socket.socket:
    """A connection on which nothing has been said."""
    address = Address.parse(url)
    sock = socket.socket(socket.AF_UNIX if address.path else socket.AF_INET)
    if send_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    sock.settimeout(timeout_s)
    sock.connect(address.path or (address.host, address.port))
    return sock


def rest(sock: socket.socket) -> bytes:
    """What still comes, until the other end closes or resets."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return data


def ended(sock: socket.socket) -> bool:
    """Whether the other end has closed or reset this one; what else has come is read and forgotten."""
    while select.select([sock], [], [], 0)[0]:
        try:
            if not sock.recv(65536):
                return True
        except OSError:
            return True
    return False


def needs(*programs: str) -> None:
    """Skips the test, by the program's name, where one is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")


class Peak:
    """The most anonymous memory that a daemon had while the block ran, beyond what it had at its beginning."""

    def __init__(self, served: Served) -> None:
        self._pid = served.pid
        self._before = procfs.rss_anon_bytes(served.pid)
        self._most = self._before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(WATCH_RSS_S):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                self._most = max(self._most, procfs.rss_anon_bytes(self._pid))

    @property
    def growth_mib(self) -> float:
        """In MiB."""
        return (self._most - self._before) / 1048576


class Cable:
    """Another network namespace, and the cable to it: this end has the address `here`, that one `there`."""

    def __init__(self, number: int) -> None:
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self.name = f"inferd{number}"
        self._number = number

    def cut(self) -> None:
        """The cable is out: nobody hears anything from the other end."""
        _ip("link", "set", self.name, "down")

    def run(self, program: list[str], **options: object) -> subprocess.Popen[str]:
        """Starts a program at the far end."""
        command = ["nsenter", "-t", str(self._holder.pid), "-n", *program]
        return subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload, no-any-return]

    @contextlib.contextmanager
    def plugged_in(self, shaping: str = "") -> Iterator[Cable]:
        """Both ends are up until the block ends. `shaping` are words for tc's root qdisc, at both ends."""
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        try:
            deadline = time.monotonic() + 5
            while "sleep" not in procfs.command_of(self._holder.pid).split()[:1]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            far = f"{self.name}b"
            _ip("link", "add", self.name, "type", "veth", "peer", "name", far)
            _ip("link", "set", far, "netns", str(self._holder.pid))
            _ip("addr", "add", f"{self.here}/24", "dev", self.name)
            _ip("link", "set", self.name, "up")
            ends: list[tuple[list[str], str]] = [([], self.name)]
            inside = ["nsenter", "-t", str(self._holder.pid), "-n"]
            for words in (["addr", "add", f"{self.there}/24", "dev", far], ["link", "set", far, "up"]):
                subprocess.run([*inside, "ip", *words], check=True)
            ends.append((inside, far))
            for prefix, device in ends if shaping else []:
                subprocess.run([*prefix, "tc", "qdisc", "add", "dev", device, "root", *shaping.split()], check=True)
            yield self
        finally:
            subprocess.run(["ip", "link", "del", self.name], stderr=subprocess.DEVNULL)
            self._holder.kill()
            self._holder.wait()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def needs_cable() -> None:
    """Skips the test where network namespaces cannot be had."""
    needs("ip", "unshare", "nsenter", "tc")
    if subprocess.run(["unshare", "-n", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to make network namespaces (unshare -n)")
