"""T22: the system has no memory for the slab or an arena. A full /dev/shm does not touch a memfd, so the refusal is
made by a limit of file sizes, and by strace, which makes fallocate fail."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from inferd.errors import EXIT_CONFIG
from tests.faults.world import World, told

MIB = 1024 * 1024


@contextlib.contextmanager
def no_memory_for(pid: int) -> Iterator[None]:
    """Each fallocate of the process's main thread is refused until the block ends."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace, to make fallocate fail")
    # What it traces goes nowhere: into a pipe that nobody reads, it would stand still, and the process with it.
    inject = ["-o", "/dev/null", "-e", "trace=fallocate", "-e", "inject=fallocate:error=ENOSPC"]
    tracer = subprocess.Popen(
        ["strace", *inject, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        tracer.wait()
        pytest.skip(f"strace cannot attach here: {said.strip()}")
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGTERM)
        tracer.wait()
        tracer.stderr.close()


def test_a_start_without_memory_says_so(world: World) -> None:
    """Exit status 78 and a sentence with the setting's name, before anything listens."""

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, 8 * MIB))

    served = world.serve(told(), before_exec=little, settle=False)
    served.ends_by_itself = True
    assert served.process.wait(30) == EXIT_CONFIG
    said = served.log_path.read_text()
    assert "slab_mib = 64" in said and "set it to less" in said and "Traceback" not in said


def test_a_slab_that_cannot_grow_refuses_and_recovers(world: World) -> None:
    """What does not fit what the slab has got is RESOURCE_EXHAUSTED; the rest is served; then all is."""
    served = world.serve(told(pause_s=0.05, size=MIB))
    options = {"callers": 4, "depth": 8, "size": MIB, "deadline_ms": 10_000}
    with no_memory_for(served.pid):
        with world.load(served, **options) as load:
            world.until(lambda: load.answered() >= world.scale(50, 500), 60.0)
        outcomes = world.history.outcomes()
        assert set(outcomes) <= {"RESULT", "SLAB_FULL", "OVERLOADED"} and outcomes["SLAB_FULL"], outcomes
    since = len(world.history.calls)
    with world.load(served, **options) as load:
        answered = load.answered()
        world.until(lambda: load.answered() >= answered + 100, 60.0)
    after = world.history.outcomes(world.history.calls[since:])
    assert set(after) <= {"RESULT", "OVERLOADED"}, after
    world.report("refused while there was none", outcomes["SLAB_FULL"], f"of {outcomes.total()}")


def test_an_arena_that_cannot_grow_makes_do(world: World) -> None:
    """A worker without memory for more results waits for what it has to come back, and every answer is right."""
    served = world.serve(told(size=64, reply_bytes=MIB))
    [worker] = served.workers()
    with world.caller(served, reply_bytes=MIB) as caller:
        assert caller.call().outcome == "RESULT"  # it has its first pages
    with no_memory_for(worker), world.load(served, callers=4, depth=8, reply_bytes=MIB) as load:
        world.until(lambda: load.answered() >= world.scale(100, 1000), 60.0)
    assert set(world.history.outcomes()) == {"RESULT"}


def test_a_worker_for_which_there_is_no_memory_comes_later(world: World) -> None:
    """A replacement needs an arena. Without one the daemon is not ready and tries again each second."""
    served = world.serve(told())
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(served.pid, resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))
    with world.caller(served) as caller:
        [worker] = served.workers()
        os.kill(worker, signal.SIGKILL)
        world.until(lambda: served.log("spawn_failed"))
        world.until(lambda: served.status()["state"] == "no worker")
        call = caller.send(deadline_ms=300)
        caller.finish()
        assert call.outcome == "TIMEOUT"
        resource.prlimit(served.pid, resource.RLIMIT_FSIZE, unlimited)
        lifted_at = time.monotonic()
        assert caller.call(deadline_ms=5000).outcome == "RESULT"
        world.report("served again after", time.monotonic() - lifted_at, "s")
