"""The workers' lives, with an executor that makes no processes."""

from __future__ import annotations

import asyncio

import pytest

from inferd.config import ModelConfig, Settings
from inferd.errors import ConfigError, InferdError, ModelLoadError
from inferd.memory import Region
from inferd.serve.engine import Engine
from inferd.serve.executor import WorkerEvents
from inferd.wire import batch as b


class Refusing:
    """Each worker says that its models do not load, and ends, all heard in one turn of the loop."""

    def __init__(self) -> None:
        self.spawned: list[int] = []

    async def start(self, events: WorkerEvents, slab: Region) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()

    def spawn(self, worker: int, device: str, settings: Settings, warm_up: bool) -> Region:
        self.spawned.append(worker)
        self._loop.call_soon(self._refuse, worker)
        return Region.create("arena", 4096)

    def _refuse(self, worker: int) -> None:
        self._events.on_started(worker, 4711)
        self._events.on_packet(worker, [b.REFUSED, "model", "m", "no weights", "net.py:3", ""])
        self._events.on_exit(worker, "status 3")

    def send(self, worker: int, packet: bytes) -> None: ...

    def prepare(self, worker: int, packet: bytes) -> None: ...

    def poll(self, worker: int) -> None: ...

    def kill(self, worker: int) -> None: ...

    async def close(self) -> None: ...


def test_a_start_that_has_failed_starts_no_more_workers() -> None:
    """None of those that cannot load gets a successor, whatever is heard first: the refusal, or the end."""

    async def start() -> list[int]:
        executor = Refusing()
        engine = Engine(Settings(models=(ModelConfig("m", "m:M"),), devices=("cpu", "cpu"), slab_mib=4), executor)
        with pytest.raises(ModelLoadError, match="no weights"):
            await engine.start()
        await asyncio.sleep(0)  # a successor without a pause would be asked for now
        await engine.close()
        return executor.spawned

    assert asyncio.run(start()) == [0, 1]


class Ending(Refusing):
    """Each worker ends while it loads its models, in a certain way."""

    def __init__(self, status: str) -> None:
        super().__init__()
        self.status = status

    def _refuse(self, worker: int) -> None:
        self._events.on_started(worker, 4711)
        self._events.on_exit(worker, self.status)


@pytest.mark.parametrize(
    ("status", "transient"),
    [("SIGKILL", True), ("SIGSEGV", True), ("", True), ("status 3", False), ("status 0", False)],
)
def test_a_worker_that_is_killed_while_models_load_is_no_mistake_of_the_configuration(
    status: str, transient: bool
) -> None:
    """The start fails with a sentence that says how it ended, and as a ConfigError (78, which systemd does not try
    again) only if the model itself has ended it."""

    async def start() -> InferdError:
        engine = Engine(Settings(models=(ModelConfig("m", "m:M"),), devices=("cpu",), slab_mib=4), Ending(status))
        with pytest.raises(InferdError, match="worker 0 ended while it loaded its models") as caught:
            await engine.start()
        await engine.close()
        return caught.value

    error = asyncio.run(start())
    assert status in str(error) and isinstance(error, ConfigError) is not transient
