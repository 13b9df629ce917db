"""The fork server, when the system has no process or descriptor left: it costs one worker, which is asked for again."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from inferd.work import forkserver


@contextlib.contextmanager
def control() -> Iterator[socket.socket]:
    """The daemon's end, while the fork server's loop runs in this process: nothing may be forked in earnest."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    thread = threading.Thread(target=forkserver.serve, args=(theirs,))
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(10)
        theirs.close()
    assert not thread.is_alive()


def ask(ours: socket.socket, worker: int, descriptors: int = forkserver.DESCRIPTORS) -> list[Any]:
    """What the fork server says when it is asked for a worker."""
    with open(os.devnull) as null:
        socket.send_fds(ours, [msgpack.packb([worker])], [null.fileno()] * descriptors)
        packet, fds, _, _ = socket.recv_fds(ours, 1024, 1)
    for fd in fds:
        os.close(fd)
    said: list[Any] = msgpack.unpackb(packet)
    return said


def refuse(number: int) -> Any:
    def call(*args: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Each time, with its reason, and what was passed for it is closed."""
    monkeypatch.setattr(os, "fork", refuse(number))
    with control() as ours:
        assert ask(ours, 7) == ["failed", 7, str(OSError(number, os.strerror(number)))]
        before = len(os.listdir("/proc/self/fd"))
        assert ask(ours, 8)[:2] == ["failed", 8]
        assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_did_not_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops those for which the fork server has no number left; nothing is forked then."""
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    with control() as ours:
        assert ask(ours, 7, forkserver.DESCRIPTORS - 1)[:2] == ["failed", 7]


def test_a_worker_without_a_pidfd_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed and reaped: nobody could tell its end. The next one is started."""
    children: list[subprocess.Popen[bytes]] = []

    def fork() -> int:
        children.append(subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE))
        return children[-1].pid

    monkeypatch.setattr(forkserver, "_fork", lambda control, fds: fork())
    with control() as ours:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", refuse(errno.EMFILE))
            assert ask(ours, 7)[:2] == ["failed", 7]
        with pytest.raises(ProcessLookupError):
            os.kill(children[0].pid, 0)
        assert ask(ours, 8) == ["started", 8, children[1].pid]
        assert children[1].stdin is not None
        children[1].stdin.close()
        assert msgpack.unpackb(ours.recv(1024)) == ["exited", 8, children[1].pid, 1]
    for child in children:
        child.communicate()
