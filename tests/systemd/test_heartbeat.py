"""When systemd is told that the daemon lives, and when it is not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from inferd.serve.heartbeat import HANGING_S, PROMPT_S, Heartbeat, Progress
from inferd.serve.notify import Notifier
from inferd.serve.pool import Condition, Worker


class Told(Notifier):
    """A manager that expects a sign of life every 20 s, and hears nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.watchdog_s = 20.0


def engine(*conditions: Condition, queued: int = 0) -> Any:
    """As much of an engine as is looked at."""
    workers: list[Worker[Any]] = []
    for index, condition in enumerate(conditions):
        worker: Worker[Any] = Worker(index, "cpu")
        worker.condition = condition
        workers.append(worker)
    pool = SimpleNamespace(
        workers=workers,
        serving=sum(condition in (Condition.IDLE, Condition.BUSY) for condition in conditions),
        idle=next((worker for worker in workers if worker.condition is Condition.IDLE), None),
    )
    return SimpleNamespace(
        pool=pool,
        scheduler=SimpleNamespace(queued=queued),
        sessions=[],
        settings=SimpleNamespace(models=(), devices=("cpu",) * len(conditions)),
        door=SimpleNamespace(models={}),
    )


@pytest.mark.parametrize(
    ("conditions", "queued", "alive"),
    [
        ([Condition.IDLE], 0, True),
        ([Condition.BUSY], 5, True),
        ([Condition.IDLE], 5, False),
        ([Condition.BUSY, Condition.IDLE], 5, False),
        ([Condition.ENDING], 0, False),
        ([Condition.LOADING], 5, True),
        ([Condition.GONE], 5, True),
    ],
    ids=["idle", "at work", "work and a worker", "one of two", "cannot be ended", "loading", "being replaced"],
)
def test_work_that_nobody_does_is_no_progress(conditions: list[Condition], queued: int, alive: bool) -> None:
    """Judged at the second look at which nothing has moved; a worker that is being replaced is the daemon's business,
    and a restart would not help."""
    progress = Progress(engine(*conditions, queued=queued))
    assert progress.is_made(0.0)
    assert progress.is_made(5.0) is alive


def test_a_batch_that_has_ended_is_progress() -> None:
    """However much is queued."""
    world = engine(Condition.IDLE, queued=5)
    progress = Progress(world)
    for now in range(5):
        world.pool.workers[0].batches += 1
        assert progress.is_made(float(now))


def test_a_batch_that_should_have_been_ended_is_none() -> None:
    """Past its patience and housekeeping's second; one that waits for those who read slowly is not to blame."""
    world = engine(Condition.BUSY)
    worker = world.pool.workers[0]
    worker.hangs_at = 10.0
    progress = Progress(world)
    assert progress.is_made(0.0) and progress.is_made(10.0 + HANGING_S)
    assert not progress.is_made(10.1 + HANGING_S)
    worker.arena = SimpleNamespace(starved=True)
    assert progress.is_made(10.1 + HANGING_S)


def test_a_loop_that_is_late_gives_no_sign_of_life() -> None:
    """The look was due at 0."""
    heartbeat = Heartbeat(engine(Condition.IDLE), Told(), clock=lambda: 0.0)
    assert heartbeat.beats(PROMPT_S)
    assert not heartbeat.beats(PROMPT_S + 0.001)


def test_a_look_that_fails_is_not_the_last() -> None:
    """A defect of ours in one of them would otherwise be the end of the daemon, by its watchdog."""
    looks: list[str] = []

    class Broken(Told):
        is_heard = True

        def doing(self, text: str) -> None:
            looks.append(text)
            raise ValueError("as it was asked to")

    async def look_twice() -> None:
        notifier = Broken()
        notifier.watchdog_s = 0.004  # four looks in that
        heartbeat = Heartbeat(engine(Condition.IDLE), notifier, clock=lambda: 0.0)
        again = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda *_: again.set())
        with pytest.raises(ValueError):
            heartbeat.start()
        async with asyncio.timeout(10):
            await again.wait()
        heartbeat.stop()

    asyncio.run(look_twice())
    assert len(looks) >= 2


def test_a_daemon_without_all_of_its_workers_is_degraded() -> None:
    """The status says how many are left, and how the last one ended."""
    world = engine(Condition.GONE)
    world.pool.workers[0].last_exit = "SIGKILL"
    heartbeat = Heartbeat(world, Told(), clock=lambda: 0.0)
    heartbeat.ready()
    assert heartbeat.text() == ("degraded: 0 of 1 workers (the last one lost: SIGKILL), 0 connections, 0 in flight")
