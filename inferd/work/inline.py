"""The inline executor: the worker's runner inside the caller's process, for a debugger and for tests.

A model's crash is then the daemon's crash, and a forward holds up the loop: it is no executor for serving.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol

from inferd.config import MIB, Settings
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.work.runner import Runner


class Events(Protocol):
    """What it tells whom it works for."""

    def on_started(self, worker: int, pid: int) -> None: ...

    def on_packet(self, worker: int, message: list[Any]) -> None: ...

    def on_exit(self, worker: int) -> None: ...


class InlineExecutor:
    """Runs batches where it is called from. Answers come with the loop's next turn, as from a process."""

    def __init__(self) -> None:
        self._runners: dict[int, Runner] = {}

    async def start(self, events: Events, slab: Region) -> None:
        self._events = events
        self._slab = slab
        self._loop = asyncio.get_running_loop()

    def spawn(self, worker: int, device: str, settings: Settings, warm_up: bool) -> Region:
        arena = Region.create(f"arena-{worker}", settings.arena_mib * MIB)

        def wait_for_room(finished: list[bytes]) -> None:
            used = runner.arena_used
            for packet in [*finished, b.pack(b.STARVED)]:
                self._events.on_packet(worker, b.unpack(packet))
            if runner.arena_used == used:
                # Nothing can leave while this process is busy here.
                raise MemoryError("the arena is full, and the inline executor cannot wait for room")

        runner = Runner(device, self._slab, arena, wait_for_room)

        def load() -> None:
            self._runners[worker] = runner
            self._events.on_started(worker, os.getpid())
            for packet in runner.load(list(settings.models), warm_up=warm_up):
                self._events.on_packet(worker, b.unpack(packet))

        self._loop.call_soon(load)
        return arena

    def send(self, worker: int, packet: bytes) -> None:
        message = b.unpack(packet)
        if message[0] == b.RUN:
            self._loop.call_soon(self._run, worker, message)
        elif message[0] == b.FREE and worker in self._runners:
            self._runners[worker].give_back(message[1])
        elif message[0] == b.STOP:
            self.kill(worker)

    def _run(self, worker: int, message: list[Any]) -> None:
        runner = self._runners.get(worker)
        if runner is not None:
            for answer in runner.run(*message[1:]):
                self._events.on_packet(worker, b.unpack(answer))

    def prepare(self, worker: int, packet: bytes) -> None:
        pass  # there is no time beside the batch: it runs in the loop

    def poll(self, worker: int) -> None:
        pass  # nothing waits: it is said when it is done

    def kill(self, worker: int) -> None:
        if self._runners.pop(worker, None) is not None:
            self._loop.call_soon(self._events.on_exit, worker)

    async def close(self) -> None:
        self._runners.clear()
