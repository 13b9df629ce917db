"""T20: nobody takes the log: a pipe that is full, a disk that is full, a reader that is gone. Serving goes on as
before, and what the log has lost is counted."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.faults import models
from tests.faults.world import Served, World, told

F_SETPIPE_SZ = 1031
PAGE_BYTES = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The smallest pipe there is: a page."""
    read, write = os.pipe()
    fcntl.fcntl(write, F_SETPIPE_SZ, PAGE_BYTES)
    yield read, write
    os.close(read)
    os.close(write)


def fill(write: int) -> None:
    """Writes until the pipe takes nothing more. Another end is opened for that, so that the daemon's stays blocking."""
    again = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(again, b"\n")
    except BlockingIOError:
        pass
    finally:
        os.close(again)


def drain(read: int) -> bytes:
    """What is in the pipe now."""
    os.set_blocking(read, False)
    taken = b""
    try:
        while piece := os.read(read, 1 << 16):
            taken += piece
    except BlockingIOError:
        pass
    return taken


def serve_and_say_much(world: World, served: Served, seconds: float) -> float:
    """Requests, of which each 20th makes the daemon log a line; returns their p99 in milliseconds."""
    since = time.monotonic()
    acts = [models.NOTHING] * 19 + [models.RAISE]
    with world.load(served, callers=2, depth=2, deadline_ms=2000, act=lambda n: acts[n % 20]):
        time.sleep(seconds)
    return world.history.took_ms(0.99, since)


def test_a_log_that_nobody_reads_stops_nobody(world: World, pipe: tuple[int, int]) -> None:
    """The pipe is full before the load's first line. All is answered as fast; once somebody reads, the lines come."""
    read, write = pipe
    served = world.serve(told(pause_s=0.002), stderr=write)
    drain(read)
    seconds = world.scale(1.0, 10.0)
    free_ms = serve_and_say_much(world, served, seconds)
    drain(read)
    fill(write)
    blocked_ms = serve_and_say_much(world, served, seconds)
    assert set(world.history.outcomes()) == {"RESULT", "MODEL_FAILED"}
    said = b""
    deadline = time.monotonic() + 5
    while b"request_failed" not in said and time.monotonic() < deadline:
        said += drain(read)
    events = [json.loads(line)["event"] for line in said.splitlines() if line.strip()]
    assert set(events) == {"request_failed"}, "the lines that waited, whole and in order"
    assert served.status()["counters"]["dropped_logs"] == 0
    world.report("p99 with a log that is read", free_ms, "ms")
    world.report("p99 with one that stands still", blocked_ms, "ms")
    world.report("ratio", blocked_ms / free_ms, "")


def test_a_daemon_ends_although_its_log_stands_still(world: World, pipe: tuple[int, int]) -> None:
    """SIGTERM: it drains and exits with 0; for its last lines it waits a second and no more."""
    read, write = pipe
    served = world.serve(told(), stderr=write)
    drain(read)
    fill(write)
    began = time.monotonic()
    assert served.stop() == 0
    served.ends_by_itself = True
    world.report("ended after", time.monotonic() - began, "s")


@pytest.mark.parametrize("sink", ["a full disk", "a reader that is gone"])
def test_lines_that_cannot_be_written_are_counted(world: World, sink: str) -> None:
    """ENOSPC (/dev/full) and EPIPE: no exception, no request harmed, and STATUS tells how many lines are missing."""
    if sink == "a full disk":
        write = os.open("/dev/full", os.O_WRONLY)
        served = world.serve(told(pause_s=0.002), stderr=write)
    else:
        read, write = os.pipe()
        served = world.serve(told(pause_s=0.002), stderr=write)
        os.close(read)
    os.close(write)
    before = served.status()["counters"]["dropped_logs"]
    serve_and_say_much(world, served, 1.0)
    assert set(world.history.outcomes()) == {"RESULT", "MODEL_FAILED"}
    lost = served.status()["counters"]["dropped_logs"]
    assert lost > before
    world.report(f"lines lost to {sink}", lost, "")
