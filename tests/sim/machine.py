"""Worker processes that are no processes: they read the slab, write arenas, and speak the packets of inferd.wire.batch.

They fail as the story says: a request can ask for it in its payload, and a step can strike whoever is there.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
import struct
from collections import deque
from typing import Any

from inferd.config import Settings
from inferd.memory import Extents, Region
from inferd.serve.executor import WorkerEvents
from inferd.wire import batch as b
from inferd.wire.messages import Result
from inferd.wire.tensor import aligned, layout
from tests.sim.story import FAILS, FINE, HANGS, KILLS, KILLS_PREPARING, MIB, RAISES
from tests.sim.virtual import VirtualLoop

ALPHA_S, BETA_S, PREPROCESS_S = 0.002, 0.0005, 0.0003
LOAD_S = 0.2
MAX_BATCH = 16
ARENA_BYTES = MIB
MODELS = ("plain", "texts", "cold")  # `texts` has a preprocess; nothing is known of how long `cold` takes
OPENING = struct.Struct("<BxxxIQ")  # of a payload: kind, bytes of the reply, a number of its own


def payload(kind: int, reply_bytes: int, number: int, nbytes: int) -> bytes:
    """A request's payload: no two are the same, and each byte counts for its answer."""
    opening = OPENING.pack(kind, reply_bytes, number)
    return (opening * -(-nbytes // len(opening)))[:nbytes]


def answer(data: bytes | memoryview) -> bytes:
    """The one right answer to a payload."""
    nbytes = OPENING.unpack_from(data)[1] if len(data) >= OPENING.size else 0
    digest = hashlib.blake2b(data, digest_size=32).digest()
    return (digest * -(-nbytes // len(digest)))[:nbytes]


def kind_of(data: memoryview) -> int:
    """What the request does to its worker."""
    return data[0] if data else FINE


def descriptions(names: list[str]) -> list[dict[str, Any]]:
    """The models as a worker announces them."""
    known = [[rows, ALPHA_S + BETA_S * rows] for rows in (1, 2, 4, 8, 16)]
    return [
        {
            "name": name,
            "inputs": None,
            "outputs": None,
            "max_batch_size": MAX_BATCH,
            "latency": [] if name == "cold" else known,
            "latency_elements": 16,
        }
        for name in names
    ]


class Death(Exception):
    """The process ends as its argument says."""


class Process:
    """One life in a worker's place."""

    def __init__(self, machine: Machine, worker: int, names: list[str], loads: bool) -> None:
        self.machine = machine
        self.worker = worker
        self.names = names
        self.region = Region.create(f"arena-{worker}", ARENA_BYTES)
        self.extents = Extents(ARENA_BYTES)
        self.dead = False
        self.frozen_until = 0.0
        self.slow_until, self.factor = 0.0, 1.0
        self._loads = loads
        self._inbox: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._said: deque[bytes] = deque()
        self._rng = random.Random(f"{machine.seed} {worker} {machine.born}")
        self.task = machine.loop.create_task(self._live())

    # ---- what the daemon does to it

    def receive(self, packet: bytes) -> None:
        if not self.dead:
            self._inbox.put_nowait(b.unpack(packet))

    def prepare(self, packet: bytes) -> None:
        """A thread of the process preprocesses, and may take the process with it."""
        if self.dead or self.machine.loop.time() < self.frozen_until:
            return
        _, _, _, model, tables, numbers = b.unpack(packet)
        assert self.names[model] == "texts" and tables
        for data, _ in self._requests(numbers):
            if kind_of(data) == KILLS_PREPARING:
                self.machine.loop.call_later(PREPROCESS_S, self.end, "SIGSEGV")

    def read(self) -> None:
        """The daemon reads what it has said."""
        while self._said:
            self.machine.events.on_packet(self.worker, b.unpack(self._said.popleft()))

    def end(self, status: str) -> None:
        """It dies. What it has said before can still be read; then the daemon hears of it."""
        if not self.dead:
            self.dead = True
            self.task.cancel()
            self.machine.loop.call_later(self._rng.uniform(0.0, 0.01), self.machine.gone, self, status)

    # ---- what it does

    def _say(self, *message: Any) -> None:
        if not self.dead:
            self._said.append(b.pack(*message))
            self.machine.loop.call_soon(self.read)

    async def _spend(self, seconds: float) -> None:
        loop = self.machine.loop
        if loop.time() < self.slow_until:
            seconds *= self.factor
        await asyncio.sleep(seconds)
        while (now := loop.time()) < self.frozen_until:  # noqa: ASYNC110 (the time is virtual)
            await asyncio.sleep(min(self.frozen_until - now, 1000.0))

    async def _live(self) -> None:
        try:
            await self._spend(LOAD_S)
            if not self._loads:
                raise Death("exit status 1")
            self._say(b.READY, "fake", descriptions(self.names))
            while True:
                message = await self._inbox.get()
                await self._spend(0.0)
                if message[0] == b.RUN:
                    await self._run(*message[1:])
                elif message[0] == b.FREE:
                    self._give_back(message[1])
                else:
                    assert message[0] == b.STOP
                    raise Death("exit status 0")
        except Death as death:
            self.end(str(death))

    def _give_back(self, freed: list[int]) -> None:
        for at in range(0, len(freed), 2):
            self.extents.give(freed[at], freed[at + 1])

    def _requests(self, numbers: list[int]) -> list[tuple[memoryview, int]]:
        slab = self.machine.slab.view
        five = b.NUMBERS_PER_REQUEST
        return [
            (slab[offset : offset + nbytes], rows or 1)
            for _, rows, offset, nbytes, _ in (numbers[at : at + five] for at in range(0, len(numbers), five))
        ]

    async def _run(
        self, batch_id: int, model: int, tables: list[Any], numbers: list[int], freed: list[int], prepared: list[int]
    ) -> None:
        self._give_back(freed)
        requests = self._requests(numbers)
        rows = sum(each for _, each in requests)
        kinds = {kind_of(data) for data, _ in requests}
        seconds = (ALPHA_S + BETA_S * rows) * self._rng.lognormvariate(0.0, 0.1)
        has_preprocess = self.names[model] == "texts"
        if has_preprocess:
            assert not prepared or len(prepared) == len(requests)
            seconds += PREPROCESS_S * (prepared.count(-1) if prepared else len(requests))
        if kinds & {KILLS, KILLS_PREPARING}:
            await self._spend(seconds * self._rng.random())
            raise Death("SIGSEGV")
        if HANGS in kinds:
            self.frozen_until = float("inf")
        await self._spend(seconds)
        if RAISES in kinds:
            self._say(b.RAISED, batch_id, "MODEL_FAILED", "a detail that is nobody's business")
            return
        if self.machine.loop.time() < self.machine.memory_until and rows > self.machine.memory_rows:
            self._say(b.RAISED, batch_id, "DEVICE_MEMORY", "a detail that is nobody's business")
            return
        heads: list[bytes] = []
        outcomes: list[int] = []
        failures: list[tuple[int, str, str]] = []

        def finished(more: bool) -> None:
            preprocess_us = PREPROCESS_S * 1e6 if has_preprocess else 0.0
            compute_us = round(seconds * 1e6)
            for packet in b.pack_done(
                batch_id, heads[:], outcomes[:], failures[:], compute_us, preprocess_us, 0.0, self.extents.used, more
            ):
                self._say(*b.unpack(packet))
            heads.clear()
            outcomes.clear()
            failures.clear()

        for index, (data, _) in enumerate(requests):
            if kind_of(data) == FAILS:
                failures.append((index, "MODEL_FAILED", "a detail that is nobody's business"))
                continue
            reply = answer(data)
            if aligned(len(reply)) > ARENA_BYTES:
                failures.append((index, "OUTPUT_TOO_LARGE", ""))
                continue
            offset = 0
            while reply and (found := self.extents.take(aligned(len(reply)))) is None:
                finished(more=True)
                self._say(b.STARVED)
                message = await self._inbox.get()
                await self._spend(0.0)
                if message[0] == b.STOP:
                    raise Death("exit status 0")
                assert message[0] == b.FREE, message
                self._give_back(message[1])
            else:
                offset = found if reply else 0
            self.region.view[offset : offset + len(reply)] = reply
            table, end = layout([("y", "UINT8", (len(reply),))])
            outcomes += (index, len(heads), offset, len(reply), 0)
            heads.append(Result(table, end).pack())
            if self._rng.random() < 0.02:
                finished(more=True)
                await self._spend(0.0005)
        finished(more=False)


class Machine:
    """The executor, and the hand of fate."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.seed = seed
        self.born = 0
        self.processes: dict[int, Process] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.memory_until, self.memory_rows = 0.0, 0
        self.no_memory_until = 0.0
        self.fails_until = 0.0
        self.deaths = 0

    # ---- Executor

    async def start(self, events: WorkerEvents, slab: Region) -> None:
        self.events = events
        self.slab = slab

    def spawn(self, worker: int, device: str, settings: Settings, warm_up: bool) -> Region:
        if self.loop.time() < self.no_memory_until:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        assert worker not in self.processes, "two processes in one place"
        self.born += 1
        names = [model.name for model in settings.models]
        process = Process(self, worker, names, self.loop.time() >= self.fails_until)
        self.processes[worker] = process
        self.tasks.append(process.task)
        self.loop.call_soon(self.events.on_started, worker, 1000 + self.born)
        return process.region

    def send(self, worker: int, packet: bytes) -> None:
        assert len(packet) <= b.MAX_PACKET_BYTES
        if worker in self.processes:
            self.processes[worker].receive(packet)

    def prepare(self, worker: int, packet: bytes) -> None:
        if worker in self.processes:
            self.processes[worker].prepare(packet)

    def poll(self, worker: int) -> None:
        if worker in self.processes:
            self.processes[worker].read()

    def kill(self, worker: int) -> None:
        if worker in self.processes:
            self.processes[worker].end("SIGKILL")

    async def close(self) -> None:
        for process in list(self.processes.values()):
            process.end("exit status 0")
        while self.processes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    # ---- fate

    def gone(self, process: Process, status: str) -> None:
        process.read()
        del self.processes[process.worker]
        self.deaths += 1
        self.events.on_exit(process.worker, status)

    def strike(self, what: str, worker: int, args: dict[str, Any]) -> None:
        """A fault of the story."""
        until = self.loop.time() + args.get("for_s", 0.0)
        alive = list(self.processes.values())
        process = alive[worker % len(alive)] if alive else None
        if what == "no_memory":
            self.no_memory_until = until
        elif what == "load_fails":
            self.fails_until = until
            if process is not None:
                process.end("SIGKILL")
        elif what == "device_memory":
            self.memory_until, self.memory_rows = until, args["rows"]
        elif process is None:
            return
        elif what == "kill":
            process.end("SIGKILL")
        elif what == "freeze":
            process.frozen_until = max(process.frozen_until, until)
        elif what == "slow_device":
            process.slow_until, process.factor = until, args["factor"]
