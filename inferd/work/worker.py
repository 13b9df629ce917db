"""The worker process: receive a packet, run it, send a packet, until told to stop.

Nothing here waits for anything but its channel, and nothing is shared but the slab and the arena.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from typing import Any

import torch

from inferd import failpoints, log
from inferd.config import ModelConfig
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.work import ahead
from inferd.work.runner import DeviceBroken, Runner, Stopped

# Exit statuses that say why a worker went, for the log.
EXIT_REFUSED, EXIT_DEVICE_BROKEN = 3, 4


class Channel:
    """The worker's end of the SEQPACKET pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(b.MAX_PACKET_BYTES)
        self._view = memoryview(self._buffer)

    def receive(self) -> list[Any]:
        """The next packet. Raises Stopped when the daemon is gone."""
        nbytes, _, flags, _ = self._sock.recvmsg_into([self._buffer])
        if nbytes == 0:
            raise Stopped
        if flags & socket.MSG_TRUNC:
            raise RuntimeError("a packet was cut; the daemon sent more than MAX_PACKET_BYTES")
        return b.unpack(self._view[:nbytes])

    def send(self, packet: bytes) -> None:
        """Sends one packet. Raises Stopped when the daemon is gone."""
        try:
            self._sock.send(packet)
        except (BrokenPipeError, ConnectionResetError):
            raise Stopped from None


def main(
    channel: socket.socket, ahead_channel: socket.socket, slab_fd: int, arena_fd: int, spec: dict[str, Any]
) -> None:
    """Serves one worker's life. `spec` is what the pool asked the fork server for."""
    log.set_up(spec["log_format"], spec["log_level"])
    torch.set_num_threads(spec["threads"])
    slab = Region(slab_fd, spec["slab_bytes"])
    arena = Region(arena_fd, spec["arena_bytes"])
    link = Channel(channel)

    def wait_for_room(finished: list[bytes]) -> None:
        for packet in finished:
            link.send(packet)
        link.send(b.pack(b.STARVED))
        message = link.receive()
        if message[0] == b.STOP:
            raise Stopped
        runner.give_back(message[1])

    runner = Runner(spec["device"], slab, arena, wait_for_room)
    packets = runner.load([ModelConfig(**model) for model in spec["models"]], warm_up=spec["warm_up"])
    # What loading made stays for good; a collector that walks torch's heap costs others 100 ms at p99.
    gc.collect()
    gc.freeze()
    with contextlib.suppress(Stopped):
        for packet in packets:
            link.send(packet)
        if b.unpack(packets[-1])[0] == b.REFUSED:
            raise SystemExit(EXIT_REFUSED)
        if runner.preprocesses:
            ahead.start(runner, ahead_channel)
        with torch.inference_mode():
            _serve(link, runner)


def _serve(link: Channel, runner: Runner) -> None:
    while True:
        message = link.receive()
        kind = message[0]
        if kind == b.RUN:
            failpoints.hit("worker.after_recv")
            try:
                packets = runner.run(*message[1:])
            except DeviceBroken as error:
                log.event("device_broken", level=40, pid=os.getpid(), error=str(error)[:500])
                log.flush()
                os._exit(EXIT_DEVICE_BROKEN)  # say nothing more: what the device computed since cannot be trusted
            failpoints.hit("worker.before_send")
            for packet in packets:
                link.send(packet)
        elif kind == b.FREE:
            runner.give_back(message[1])
        else:
            raise Stopped
