"""The fork server: imports torch once and forks a worker in milliseconds instead of seconds.

Run as `python -P -m inferd.work.forkserver FD PARENT`, where FD is one end of a SEQPACKET pair. With -P the current
folder is not on the path while torch is imported: a torch.py or random.py there is the user's and no part of torch
(`loader.py` puts the folder on the path for the user's own model). A program of our own because multiprocessing's
pickles what it is sent. It never touches CUDA, which does not survive a fork.

    → [worker] with five descriptors: channel, channel for what is read while a batch runs, slab, arena, and
      a file with the worker's spec, a msgpack map, which may be longer than a packet
    ← ["started", worker, pid] with one descriptor: the pidfd
    ← ["failed", worker, why]             the system had no process for it, or no descriptor
    ← ["exited", worker, pid, status]     as os.waitstatus_to_exitcode: 0, an exit status, or −signal

When the daemon ends, however it ends, the kernel kills this process, and when this process ends, its workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import io
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any

import msgpack

from inferd import log

PR_SET_PDEATHSIG = 1
MAX_REQUEST_BYTES = 64
DESCRIPTORS = 5  # with each request
# How much sooner than the daemon a worker goes when memory runs out, of 1000.
OOM_SCORE, MAX_OOM_SCORE = 500, 1000


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when `parent` ends; if it has ended already, this process ends now."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def serve(control: socket.socket) -> None:
    """Forks workers as asked until the daemon hangs up."""
    children: dict[int, tuple[int, int]] = {}  # pidfd → (worker, pid)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == control.fileno():
                packet, fds, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, DESCRIPTORS)
                if not packet:
                    return
                [worker] = msgpack.unpackb(packet)
                try:
                    pid, pidfd = _start(control, fds)
                except OSError as error:
                    # Whoever asked tries again. If this process ended of it, so would all workers.
                    control.send(msgpack.packb(["failed", worker, str(error)]))
                    continue
                children[pidfd] = (worker, pid)
                poll.register(pidfd, select.POLLIN)
                socket.send_fds(control, [msgpack.packb(["started", worker, pid])], [pidfd])
            else:
                worker, pid = children.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                _, status = os.waitpid(pid, 0)
                control.send(msgpack.packb(["exited", worker, pid, os.waitstatus_to_exitcode(status)]))


def _prefer_for_the_oom_killer() -> None:
    """A machine that runs out of memory takes a worker, which is replaced, and not the daemon."""
    path = "/proc/self/oom_score_adj"
    try:
        with open(path) as file:
            score = min(int(file.read()) + OOM_SCORE, MAX_OOM_SCORE)
        with open(path, "w") as file:
            file.write(str(score))
    except OSError:
        pass  # no /proc, or not ours to write: all processes are alike then


def _start(control: socket.socket, fds: list[int]) -> tuple[int, int]:
    """A new worker's pid and pidfd; `fds` are its own from here on. Raises OSError when the system has no process or no
    descriptor for it; then there is no worker."""
    try:
        if len(fds) < DESCRIPTORS:  # the kernel drops those for which this process has no number left
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = _fork(control, fds)
    finally:
        for passed in fds:
            os.close(passed)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _fork(control: socket.socket, fds: list[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent(parent)
        _prefer_for_the_oom_killer()
        control.close()
        channel, ahead = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
        with open(fds[4], "rb") as file:
            file.seek(0)
            spec = msgpack.unpackb(file.read())
        from inferd.work import worker

        worker.main(channel, ahead, fds[2], fds[3], spec)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        log.flush()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the model may have put anything in its place
                stream.flush()
        os._exit(status)


class _Prints(io.FileIO):
    """Where prints go. What is not taken is lost: that nobody reads any more, or a disk is full, is no fault of the
    model's, whose print would raise it."""

    def write(self, data: Any) -> int:
        written = None
        with contextlib.suppress(OSError):
            written = super().write(data)
        return memoryview(data).nbytes if written is None else written


def take_prints() -> None:
    """From here on what is printed is written line by line, each line at once and whole: in a pipe, too, and with
    PYTHONUNBUFFERED."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            raw = io.BufferedWriter(_Prints(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True))


def main() -> None:
    """The program."""
    die_with_parent(int(sys.argv[2]))
    # The daemon decides when to stop; a Ctrl-C in the terminal reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import inferd.work.worker  # noqa: F401  (torch, once for all workers)

    take_prints()
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        serve(control)
    except (BrokenPipeError, ConnectionResetError):
        pass


if __name__ == "__main__":
    main()
