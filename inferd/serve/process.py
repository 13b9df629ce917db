"""The process executor: workers from the fork server, one SEQPACKET channel each.

A worker's death is the pidfd's word: an end of file can be held back by a grandchild that the model forked. The fork
server, whose child it is, says so too, and how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from inferd import log
from inferd.config import MIB, Settings
from inferd.errors import InferdError
from inferd.memory import Region
from inferd.serve.executor import WorkerEvents
from inferd.wire import batch as b

FORK_SERVER = "inferd.work.forkserver"
# A batch's packets are small; this lets several wait in the socket, so that a send never does.
CHANNEL_BUFFER_BYTES = 1024 * 1024
# How long a worker's end waits for the fork server to say how it ended; mostly that takes less than a millisecond.
STATUS_TIMEOUT_S = 0.25
# Before the system is asked again for a descriptor or a process that it did not have.
AGAIN_S = 1.0
# How long a worker that is given up before the fork server has said that it is there may still come: after that the
# fork server itself stands still.
FORK_TIMEOUT_S = 10.0


class _Process:
    """One worker process, as this side knows it."""

    __slots__ = ("ahead", "channel", "patience", "pid", "pidfd", "status", "unwanted")

    def __init__(self, channel: socket.socket, ahead: socket.socket) -> None:
        self.channel = channel
        self.ahead = ahead  # for what it reads while a batch runs
        self.pid = 0
        self.pidfd = -1
        self.status = ""  # how it ended
        self.unwanted = False  # was killed before it was there
        # It has ended, and its status is on the way; or it is unwanted, and not there yet.
        self.patience: asyncio.TimerHandle | None = None


class ProcessExecutor:
    """Workers as processes of their own, one for each spawn."""

    def __init__(self, settings: Settings) -> None:
        self._processes: dict[int, _Process] = {}
        self._buffer = bytearray(b.MAX_PACKET_BYTES)
        self._view = memoryview(self._buffer)
        self._running = False
        self._closing = False
        cores = len(os.sched_getaffinity(0))
        # The loop keeps a core for itself; the workers share the others.
        self._threads = max(1, (cores - 1) // max(1, len(settings.devices)))

    async def start(self, events: WorkerEvents, slab: Region) -> None:
        self._events = events
        self._slab = slab
        self._loop = asyncio.get_running_loop()
        try:
            self._launch()
        except OSError as error:
            raise InferdError(
                f"cannot start the fork server: {error.strerror}; free what the system lacks, or raise its limit "
                "(ulimit -u for processes, ulimit -n for descriptors; TasksMax= and LimitNOFILE= of a systemd unit)"
            ) from error
        self._running = True

    def _launch(self) -> None:
        with contextlib.ExitStack() as kept:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            kept.enter_context(ours)
            with theirs:
                self._fork_server = subprocess.Popen(
                    [sys.executable, "-P", "-m", FORK_SERVER, str(theirs.fileno()), str(os.getpid())],
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            kept.pop_all()
        ours.setblocking(False)
        self._control = ours
        self._loop.add_reader(ours, self._on_control)

    def _launch_again(self) -> None:
        """Another fork server. Until there is one each `spawn` fails, and is tried again by who has called it."""
        if self._closing:
            return
        try:
            self._launch()
        except OSError as error:
            log.event("fork_server_failed", level=40, error=str(error))
            self._loop.call_later(AGAIN_S, self._launch_again)

    def spawn(self, worker: int, device: str, settings: Settings, warm_up: bool) -> Region:
        with contextlib.ExitStack() as passed, contextlib.ExitStack() as kept:
            arena = Region.create(f"arena-{worker}", settings.arena_mib * MIB)
            kept.callback(arena.close)
            ours, theirs = _channel(kept, passed)
            our_ahead, their_ahead = _channel(kept, passed)
            spec = {
                "worker": worker,
                "device": device,
                "threads": self._threads,
                "models": [asdict(model) for model in settings.models],
                "slab_bytes": self._slab.nbytes,
                "arena_bytes": arena.nbytes,
                "warm_up": warm_up,
                "log_format": settings.log_format,
                "log_level": settings.log_level,
            }
            file = passed.enter_context(open(os.memfd_create("inferd-spec", os.MFD_CLOEXEC), "wb", buffering=0))
            file.write(b.pack_map(spec))
            fds = [theirs.fileno(), their_ahead.fileno(), self._slab.fd, arena.fd, file.fileno()]
            try:
                socket.send_fds(self._control, [b.pack(worker)], fds)
            except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                # The fork server is gone or wedged: its end of file brings a new one, and this worker counts as lost.
                self._loop.call_soon(self._gone, worker)
            kept.pop_all()
        self._processes[worker] = _Process(ours, our_ahead)
        self._loop.add_reader(ours, self._on_readable, worker)
        return arena

    # ---- what comes in

    def _on_control(self) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, b.MAX_PACKET_BYTES, 1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet, fds = b"", []
        if not packet:
            self._fork_server_gone()
            return
        what, worker, *rest = b.unpack(packet)
        process = self._processes.get(worker)
        if process is None:
            for fd in fds:
                os.close(fd)  # nobody wants the worker any more, and it ends with its channel
        elif what == "started":
            [process.pid] = rest
            if fds:
                self._started(worker, process, fds[0])
            else:
                self._find(worker, process)  # the kernel drops a descriptor for which there is no number left
        elif what == "failed":
            [why] = rest
            self._forget(worker)
            self._events.on_not_started(worker, why)
        elif process.pid == rest[0]:
            process.status = _status(rest[1])
            self._gone(worker)

    def _started(self, worker: int, process: _Process, pidfd: int) -> None:
        process.pidfd = pidfd
        self._loop.add_reader(pidfd, self._ended, worker)
        self._events.on_started(worker, process.pid)
        if process.unwanted and process.patience is not None:
            process.patience.cancel()
            process.patience = None
            self.kill(worker)

    def _find(self, worker: int, process: _Process) -> None:
        """Gets the pidfd of a worker that came without one. Until then it may serve, cannot be killed, and the fork
        server alone says when it has ended."""
        if self._processes.get(worker) is not process or self._closing:
            return
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            pass  # it has ended, and the fork server's word of that is on the way
        except OSError as error:
            log.event("worker_not_watched", level=40, worker=worker, pid=process.pid, error=str(error))
            self._loop.call_later(AGAIN_S, self._find, worker, process)
        else:
            self._started(worker, process, pidfd)

    def _fork_server_gone(self) -> None:
        self._loop.remove_reader(self._control)
        if self._closing:
            return  # `close` does the rest
        self._control.close()
        status = self._fork_server.wait()
        log.event("fork_server_exited", level=40, status=_status(status))
        never_started = [worker for worker, process in self._processes.items() if process.pidfd < 0]
        self._launch_again()
        for worker in never_started:
            self._gone(worker)

    def _on_readable(self, worker: int) -> None:
        process = self._processes.get(worker)
        if process is not None and self._read(process, worker) == 0:
            self._loop.remove_reader(process.channel)  # its end of file; whether it is gone, the pidfd says

    def poll(self, worker: int) -> None:
        process = self._processes.get(worker)
        if process is not None:
            while self._read(process, worker) > 0:
                pass

    def _read(self, process: _Process, worker: int) -> int:
        """One packet, handed on. The bytes it had: 0 at the end of file, −1 when there is none now."""
        try:
            nbytes, _, flags, _ = process.channel.recvmsg_into([self._buffer])
        except BlockingIOError:
            return -1
        except ConnectionResetError:
            return 0
        if flags & socket.MSG_TRUNC:
            raise RuntimeError(f"worker {worker} sent a packet of more than {b.MAX_PACKET_BYTES} bytes")
        if nbytes:
            self._events.on_packet(worker, b.unpack(self._view[:nbytes]))
        return nbytes

    def _ended(self, worker: int) -> None:
        """The worker's pidfd says that it has ended; how, the fork server says at the same time."""
        process = self._processes[worker]
        self._loop.remove_reader(process.pidfd)
        process.patience = self._loop.call_later(STATUS_TIMEOUT_S, self._gone, worker)

    def _gone(self, worker: int) -> None:
        process = self._processes.get(worker)
        if process is None:
            return
        while self._read(process, worker) > 0:
            pass  # what it had finished before it died counts
        if self._processes.get(worker) is process:
            self._forget(worker)
            self._events.on_exit(worker, process.status)

    def _forget(self, worker: int) -> None:
        process = self._processes.pop(worker)
        if process.patience is not None:
            process.patience.cancel()
        self._loop.remove_reader(process.channel)
        process.channel.close()
        process.ahead.close()
        if process.pidfd >= 0:
            self._loop.remove_reader(process.pidfd)
            os.close(process.pidfd)

    # ---- what goes out

    def send(self, worker: int, packet: bytes) -> None:
        try:
            self._processes[worker].channel.send(packet)
        except (KeyError, BrokenPipeError, ConnectionResetError):
            pass  # it died; on_exit says so
        except BlockingIOError:
            # One batch and a few packets of freed extents fit; a worker that lets them pile up is stuck.
            log.event("worker_channel_full", level=40, worker=worker)
            self.kill(worker)

    def prepare(self, worker: int, packet: bytes) -> None:
        process = self._processes.get(worker)
        if process is not None:
            try:
                process.ahead.send(packet)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass  # it is behind, or gone

    def kill(self, worker: int) -> None:
        process = self._processes.get(worker)
        if process is None or process.patience is not None:
            return
        if not process.pid:
            process.unwanted = True
            process.patience = self._loop.call_later(FORK_TIMEOUT_S, self._replace_fork_server)
        elif process.pidfd >= 0:
            try:
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself

    def _replace_fork_server(self) -> None:
        """It stands still. Its end of file brings another one, and its workers with it."""
        log.event("fork_server_hung", level=40, pid=self._fork_server.pid)
        self._fork_server.kill()

    async def close(self) -> None:
        self._closing = True
        if self._running:
            await self._end_workers()
            await self._end_fork_server()

    async def _end_workers(self) -> None:
        for worker in list(self._processes):
            self.send(worker, b.pack(b.STOP))
        pidfds = [process.pidfd for process in self._processes.values() if process.pidfd >= 0]
        await self._loop.run_in_executor(None, _wait_all, pidfds, 2.0)
        for worker in list(self._processes):
            self.kill(worker)
            self._forget(worker)

    async def _end_fork_server(self) -> None:
        if self._control.fileno() >= 0:  # the fork server may have ended by itself
            self._loop.remove_reader(self._control)
            self._control.close()  # its end of file, and so its end
        try:
            await self._loop.run_in_executor(None, self._fork_server.wait, 2.0)
        except subprocess.TimeoutExpired:
            self._fork_server.kill()
            self._fork_server.wait()


def _channel(kept: contextlib.ExitStack, passed: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end, which never waits and is closed with `kept`, and the worker's, which is closed with `passed`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end, stack in ((ours, kept), (theirs, passed)):
        stack.enter_context(end)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BUFFER_BYTES)
    ours.setblocking(False)
    return ours, theirs


def _wait_all(pidfds: list[int], timeout_s: float) -> None:
    """Waits until every process has ended, or the time is over."""
    poll = select.poll()
    waiting = set(pidfds)
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting:
        ended = poll.poll(timeout_s * 1000)
        if not ended:
            return
        for fd, _ in ended:
            poll.unregister(fd)
            waiting.discard(fd)


def _status(code: Any) -> str:
    """How a process ended: "SIGKILL", "status 1"."""
    if isinstance(code, int) and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:  # a real-time signal
            return f"signal {-code}"
    return f"status {code}"
