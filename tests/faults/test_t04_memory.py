"""T4: memory runs out. A worker meets the limit, or the system takes a worker; never the daemon."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.faults import models
from tests.faults.world import World, told

MIB = 1024 * 1024


def address_space_bytes(pid: int) -> int:
    """How large a process's address space is."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def test_a_worker_that_is_refused_memory_fails_the_request_that_wanted_it(world: World) -> None:
    """RLIMIT_AS from outside: torch cannot allocate. The batch is halved down to the one that asked for too much, which
    gets RESOURCE_EXHAUSTED; its neighbours are answered by the same worker."""
    served = world.serve(told(pause_s=0.01), workers=1)
    [worker] = served.workers()
    limit = address_space_bytes(worker) + 1024 * MIB
    resource.prlimit(worker, resource.RLIMIT_AS, (limit, limit))
    with world.caller(served) as caller:
        for _ in range(world.scale(3, 30)):
            calls = [caller.send() for _ in range(5)]
            hungry = caller.send(models.ALLOCATE)
            calls += [caller.send() for _ in range(5)]
            caller.finish()
            assert hungry.outcome == "DEVICE_MEMORY", hungry
            assert hungry.error is not None and hungry.error.code == "RESOURCE_EXHAUSTED"
            assert [call.outcome for call in calls] == ["RESULT"] * 10
    assert served.workers() == [worker]
    served.expects.add("request_failed")


def test_the_system_takes_a_worker_before_the_daemon(world: World) -> None:
    """A worker's oom_score_adj is 500 above the daemon's, so that the kernel prefers it; the fork server's is not."""
    served = world.serve(told(), workers=2)

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert score(served.fork_server()) == score(served.pid)
    for worker in served.workers():
        assert score(worker) == min(score(served.pid) + 500, 1000)


def test_a_cgroup_that_runs_full_costs_a_worker_only(world: World) -> None:
    """The kernel's own out-of-memory killer, in a memory cgroup of the daemon's: it takes the worker that grows."""
    group = Path(f"/sys/fs/cgroup/memory/inferd-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error.strerror}")
    try:
        served = world.serve(told(), workers=1)
        [worker] = served.workers()
        for pid in (served.pid, served.fork_server(), worker):
            (group / "cgroup.procs").write_text(str(pid))
        # What they have already is charged elsewhere; what comes now is charged here.
        (group / "memory.limit_in_bytes").write_text(str(256 * MIB))
        with world.caller(served) as caller:
            greedy = caller.send(models.FILL)
            caller.finish()
            assert greedy.outcome == "WORKER_LOST", greedy
            assert caller.call().outcome == "RESULT"
        assert served.is_alive() and worker not in served.workers()
        assert "SIGKILL" in [record["status"] for record in served.log("worker_lost")]
        os.kill(served.pid, signal.SIGTERM)
        served.process.wait(20)
        served.ends_by_itself = True
    finally:
        world.until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
