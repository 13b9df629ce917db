"""T16: SIGHUP again and again under half of the load the daemon can bear, with other settings, other models, and a file
that cannot be read in between: no request fails, and what is broken changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from inferd.config import ModelConfig
from tests.faults.world import MODELS, Served, World

CONFIGURATION = """
[limits]
max_connections = {connections}
"""


def serve(world: World) -> tuple[Served, Path, Path]:
    """A daemon, its configuration and its model's file, both of this test's own."""
    configuration, model = world.folder / "inferd.toml", world.folder / "told.py"
    configuration.write_text(CONFIGURATION.format(connections=1000))
    shutil.copy(MODELS, model)
    told = ModelConfig("told", f"{model}:Told", {"pause_s": 0.01})
    return world.serve(told, flags=("--config", str(configuration))), configuration, model


def hang_up(world: World, served: Served, event: str) -> float:
    """SIGHUP. Seconds until the log has its outcome, which must be `event`."""

    def outcomes() -> list[str]:
        return [record["event"] for record in served.log() if record["event"] in ("reloaded", "reload_failed")]

    before = len(outcomes())
    began = time.monotonic()
    os.kill(served.pid, signal.SIGHUP)
    world.until(lambda: len(outcomes()) > before, 60.0)
    took_s = time.monotonic() - began
    assert outcomes()[before:] == [event]
    return took_s


def test_sighup_under_load(world: World) -> None:
    """One in three changes a limit, one the model, one is broken."""
    times = world.scale(6, 20)
    served, configuration, model = serve(world)
    served.repeats |= {"reload_failed", "reloaded", "worker_started", "worker_ready", "worker_left"}
    took = []
    with world.load(served, callers=3, depth=1, pause_s=0.01, deadline_ms=10_000) as load:
        world.until(lambda: load.answered() > 50)
        calm = time.monotonic()
        time.sleep(world.scale(0.5, 5.0))
        began = time.monotonic()
        for number in range(times):
            if number % 3 == 0:
                configuration.write_text(CONFIGURATION.format(connections=1001 + number))
                hang_up(world, served, "reloaded")
            elif number % 3 == 1:
                with model.open("a") as file:
                    file.write(f"# {number}\n")
                took.append(hang_up(world, served, "reloaded"))
            else:
                configuration.write_text("[limits]\nmax_conections = 3\n")
                hang_up(world, served, "reload_failed")
            time.sleep(world.scale(0.0, max(0.0, began + (number + 1) * 60.0 / times - time.monotonic())))
        ended = time.monotonic()
        answered = load.answered()
        world.until(lambda: load.answered() > answered + 50)
    outcomes = world.history.outcomes()
    assert set(outcomes) == {"RESULT"}, outcomes
    assert len(served.log("reload_failed")) == times // 3
    assert sum("model told: replaced" in record["changed"] for record in served.log("reloaded")) == len(took)
    world.until(lambda: len(served.workers()) == 1)
    world.report("reloads", times, "")
    world.report("requests, none failed", outcomes.total(), "")
    world.report("a new model serves after, at most", max(took) * 1000, "ms")
    world.report("p99 before", world.history.took_ms(0.99, calm, began), "ms")
    world.report("p99 while reloading", world.history.took_ms(0.99, began, ended), "ms")


def test_a_broken_file_changes_nothing(world: World) -> None:
    """`inferd reload` says what is wrong with it and exits with 1, STATUS says that it failed, and all goes on."""
    served, configuration, model = serve(world)

    def reload() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "inferd", "reload", served.unix_url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    configuration.write_text("[limits]\nmax_conections = 3\n")
    done = reload()
    assert done.returncode == 1 and not done.stdout
    assert "nothing was changed" in done.stderr and "max_conections" in done.stderr and "inferd.toml:2" in done.stderr
    assert served.status()["reload"]["state"] == "failed"
    configuration.write_text(CONFIGURATION.format(connections=7))
    model.write_text("class Told:\n    inputs = nothing\n")
    done = reload()
    assert done.returncode == 1 and "told.py:2" in done.stderr
    with world.caller(served) as caller:
        assert caller.call().outcome == "RESULT"
    shutil.copy(MODELS, model)
    done = reload()
    assert done.returncode == 0 and done.stdout == "max_connections: 1000 -> 7\n", done
    done = reload()
    assert done.returncode == 0 and done.stdout == "nothing has changed\n"
    assert served.status()["reload"]["state"] == "nothing changed"
