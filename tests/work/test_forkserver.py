"""The fork server, when the system has no process or descriptor left: it costs one worker, which is asked for again.
And what becomes of what models print."""

from __future__ import annotations

import contextlib
import errno
import os
import select
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


# ---- what models print


def said(*options: str) -> tuple[list[bytes], bytes]:
    """What a program of few lines writes to standard output, write by write, and to standard error."""
    program = """if True:
        import sys
        from inferd.work import forkserver
        forkserver.take_prints()
        print("one", 2, "three")
        print("beginning", end=" ")
        print("and end")
        print("no end", end="")
        print("error", 2, file=sys.stderr)
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # which keeps writes apart
    with ours:
        with theirs:
            command = [sys.executable, *options, "-c", program]
            done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=True, timeout=60)
        return list(iter(lambda: ours.recv(1000), b"")), done.stderr


@pytest.mark.parametrize("options", [(), ("-u",)])
def test_what_a_model_prints_is_written_by_the_line(options: tuple[str, ...]) -> None:
    """Each line at once and in one write, so that workers' lines are not mixed: also with PYTHONUNBUFFERED (-u)."""
    writes, errors = said(*options)
    assert writes == [b"one 2 three\n", b"beginning and end\n", b"no end"] and errors == b"error 2\n"


def test_prints_that_nobody_takes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that is gone, a full disk, a pipe that is full and does not wait: printing raises nothing, and what is
    printed once there is room again is written."""
    read, gone = os.pipe()
    os.close(read)
    read, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(1 << 16))
    for fd in (gone, full, os.open("/dev/full", os.O_WRONLY)):
        with open(fd, "w") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            monkeypatch.setattr(sys, "stderr", stream)
            forkserver.take_prints()
            assert sys.stdout is not stream is not sys.stderr
            for text in ("some", "text\n" * 10_000):
                print(text)
                print(text, file=sys.stderr)
            sys.stdout.flush()
            if fd == full:
                while not select.select([], [full], [], 0)[1]:
                    os.read(read, 1 << 16)
                print("again")
    content = b""
    while part := os.read(read, 1 << 16):
        content += part
    os.close(read)
    assert content.endswith(b"again\n")
