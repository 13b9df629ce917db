"""The pool's bookkeeping, without a process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from inferd.memory import Region
from inferd.schedule.batch import Batch
from inferd.serve import workers
from inferd.serve.pool import Condition, Pool


@pytest.fixture
def arena() -> Iterator[Region]:
    region = Region.create("test", 4096)
    yield region
    region.close()


def ready_pool(arena: Region, count: int = 2) -> Pool[str]:
    pool: Pool[str] = Pool(("cpu",) * count)
    for worker in pool.workers:
        pool.spawning(worker, arena)
        pool.ready(worker, "cpu")
    return pool


def test_nobody_is_idle_before_it_is_ready(arena: Region) -> None:
    """A worker that loads its models gets no batch."""
    pool: Pool[str] = Pool(("cpu",))
    assert pool.idle is None and pool.serving == 0
    pool.spawning(pool.workers[0], arena)
    assert pool.idle is None and pool.serving == 0
    pool.ready(pool.workers[0], "cpu")
    assert pool.idle is pool.workers[0] and pool.serving == 1


def test_the_longest_idle_worker_is_next(arena: Region) -> None:
    """Work spreads over equal workers."""
    pool = ready_pool(arena)
    first, second = pool.workers
    pool.run(first, "batch", 0.0)
    assert pool.idle is second
    pool.finished(first, 1.0)
    assert pool.idle is second
    pool.run(second, "batch", 1.0)
    assert pool.idle is first
    assert first.busy_s == 1.0 and first.batches == 1


def test_a_process_that_never_was_is_no_death(arena: Region) -> None:
    """The place is free for another try, and the worker is as healthy as before."""
    pool: Pool[str] = Pool(("cpu",))
    [worker] = pool.workers
    pool.spawning(worker, arena)
    pool.not_started(worker)
    assert worker.condition is Condition.GONE and worker.arena is None and pool.idle is None
    assert (worker.deaths, worker.fruitless) == (0, 0)


def test_a_death_returns_what_was_running(arena: Region) -> None:
    """The batch comes back, and the place is free for a replacement at once."""
    pool = ready_pool(arena)
    worker = pool.workers[0]
    pool.run(worker, "batch", 0.0)
    assert pool.died(worker, "SIGKILL") == "batch"
    assert pool.pause_s(worker) == 0.0 and worker.last_exit == "SIGKILL"
    assert worker.condition is Condition.GONE and pool.serving == 1


def test_an_idle_worker_that_dies_is_no_longer_offered(arena: Region) -> None:
    """Its death loses nothing."""
    pool = ready_pool(arena, 1)
    assert pool.died(pool.workers[0]) is None
    assert pool.idle is None


def test_deaths_in_a_row_are_given_longer_pauses(arena: Region) -> None:
    """A model that dies while it loads is not forked again and again without end; one finished batch forgives."""
    pool = ready_pool(arena, 1)
    worker = pool.workers[0]
    pauses = []
    for _ in range(9):
        pool.died(worker)
        pauses.append(pool.pause_s(worker))
        pool.spawning(worker, arena)
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4] and pauses[-1] == 5.0
    pool.ready(worker, "cpu")
    pool.run(worker, "batch", 0.0)
    pool.finished(worker, 1.0)
    pool.died(worker)
    assert pool.pause_s(worker) == 0.0


def test_a_worker_that_dies_five_times_for_nothing_is_unhealthy_until_it_is_back(arena: Region) -> None:
    """The pool is unhealthy when all of its workers are."""
    pool = ready_pool(arena)
    first, second = pool.workers
    for _ in range(5):
        assert not first.unhealthy
        pool.died(first)
        pool.spawning(first, arena)
    assert first.unhealthy and not pool.unhealthy
    for _ in range(5):
        pool.died(second)
        pool.spawning(second, arena)
    assert pool.unhealthy
    pool.ready(first, "cpu")
    assert not first.unhealthy and not pool.unhealthy


def test_deaths_that_a_request_is_guilty_of_are_not_held_against_the_workers(arena: Region) -> None:
    """Two deaths by one request, found out at the second: both workers are as they were before."""
    pool = ready_pool(arena)
    first, second = pool.workers
    for _ in range(20):
        for worker in (first, second):
            pool.died(worker)
        pool.explained((first.id, second.id))
        assert pool.pause_s(first) == pool.pause_s(second) == 0.0
        for worker in (first, second):
            pool.spawning(worker, arena)
            pool.ready(worker, "cpu")


def test_a_batch_of_which_nothing_is_heard_hangs(arena: Region) -> None:
    """After its patience; word from the worker begins it anew, and who waits for room in the arena does not hang."""
    pool = ready_pool(arena, 1)
    [worker] = pool.workers
    assert pool.hung(1e9) == []
    pool.run(worker, "batch", 0.0, 5.0)
    assert pool.hung(4.9) == [] and pool.hung(5.1) == [worker]
    pool.heard(worker, 4.0)
    assert pool.hung(8.9) == [] and pool.hung(9.1) == [worker]
    assert worker.arena is not None
    worker.arena.starved = True
    assert pool.hung(100.0) == []
    worker.arena.starved = False
    pool.condemn(worker, "hung")
    assert pool.hung(100.0) == []


def test_a_long_batch_is_no_stall_until_it_is_overdue(arena: Region) -> None:
    """One that should take 20 s has these and a while more; word from its worker is as good as a beginning."""
    pool: Pool[Any] = Pool(("cpu",))
    [worker] = pool.workers
    pool.spawning(worker, arena)
    pool.ready(worker, "cpu")
    batch: Batch[Any] = Batch([])
    batch.ends_at = 20.0
    pool.run(worker, batch, 0.0, 200.0)
    assert not workers._is_stalled(worker, 25.0) and workers._is_stalled(worker, 25.1)
    pool.heard(worker, 24.0)
    assert not workers._is_stalled(worker, 29.0) and workers._is_stalled(worker, 29.1)
