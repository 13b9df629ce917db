"""T19: the wall clock jumps by a day, either way, and the monotonic clock is another one than the client's. No request
times out for it: what is inside is CLOCK_MONOTONIC, and what is on the wire is what is left, in milliseconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.world import World, told

DAY_S = 86_400


@pytest.fixture
def clock(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """The environment of a process whose wall clock is off, and the file that says by how many seconds."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for a library that changes the wall clock of one process")
    library, offset = tmp_path / "clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    offset.write_text("0")
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}, offset


def test_the_wall_clock_may_jump(world: World, clock: tuple[dict[str, str], Path]) -> None:
    """A day ahead, a day back, and home, under load with deadlines: not one is missed, and the daemon goes on."""
    environment, offset = clock
    served = world.serve(told(pause_s=0.005), workers=2, environment=environment)
    jumps = [DAY_S, -DAY_S, 0] * world.scale(1, 10)
    started = served.status()["uptime_s"]
    began = time.monotonic()
    with world.load(served, callers=4, depth=2, deadline_ms=1000) as load:
        for jump in jumps:
            offset.write_text(str(jump))
            answered = load.answered()
            world.until(lambda: load.answered() > answered + 200)  # noqa: B023 (asked before the next turn)
        offset.write_text(str(DAY_S))
        os.kill(served.workers()[0], 9)
        world.until(lambda: len(served.log("worker_ready")) == 3)
    assert set(world.history.outcomes()) == {"RESULT"}
    told_at = [record["time"] for record in served.log("worker_ready")]
    assert told_at[-1] - told_at[0] > DAY_S / 2, "the daemon has seen the clock jump"
    assert abs(served.status()["uptime_s"] - started - (time.monotonic() - began)) < 5.0
    world.report("jumps of a day", len(jumps), "")
    world.report("requests, none late", len(world.history.calls), "")


def test_the_servers_monotonic_clock_may_be_another_one(world: World) -> None:
    """A time namespace in which the machine has been up for eleven days longer: deadlines mean the same."""
    unshare = ["unshare", "--time", "--monotonic", "1000000", "--boottime", "1000000", "--fork"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs unshare, and the right to make a time namespace")
    served = world.serve(told(pause_s=0.02), wrapper=unshare)
    with world.load(served, callers=4, depth=2, deadline_ms=1000) as load:
        world.until(lambda: load.answered() > world.scale(100, 2000), 60.0)
    assert set(world.history.outcomes()) == {"RESULT"}
    with world.caller(served) as caller:
        assert caller.call(deadline_ms=1).outcome in ("TIMEOUT", "OVERLOADED")
