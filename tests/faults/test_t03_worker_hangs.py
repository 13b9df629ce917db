"""T3: a worker hangs: stopped by a signal, asleep, or in C code that holds the interpreter's lock.

Callers hear DEADLINE_EXCEEDED when their time is over; the worker is ended after ten times what its batch should take,
and after five seconds at least; its successor serves; what has been given up is never answered later (I1).
"""

from __future__ import annotations

import os
import signal
import time

from tests.faults import models
from tests.faults.world import World, told

DEADLINE_MS = 1000.0


def test_who_waits_for_a_worker_that_hangs_hears_in_time(world: World) -> None:
    """Three workers hang at once, each in a way of its own. The fourth goes on; all three are replaced."""
    served = world.serve(told(pause_s=0.005), workers=4)
    hung = {}
    with world.caller(served) as caller:
        for act in (models.SLEEP, models.HOLD_GIL):
            hung[act] = caller.send(act, DEADLINE_MS)
        world.until(lambda: sum(w["state"] == "busy" for w in served.status()["workers"]) == 2)
        idle = next(w["pid"] for w in served.status()["workers"] if w["state"] == "idle")
        os.kill(idle, signal.SIGSTOP)
        began = time.monotonic()
        before = set(served.workers())
        # Whoever is given to the stopped one hangs with it; the other answers.
        others = [caller.send(deadline_ms=DEADLINE_MS) for _ in range(2)]
        caller.finish()
        assert [call.outcome for call in hung.values()] == ["TIMEOUT", "TIMEOUT"]
        while not any(call.outcome == "TIMEOUT" for call in others):
            others.append(caller.call(deadline_ms=DEADLINE_MS))
        with world.load(served, callers=2, deadline_ms=DEADLINE_MS) as load:
            world.until(lambda: len(before - set(served.workers())) == 3, timeout_s=20.0)
            replaced_s = time.monotonic() - began
            world.until(lambda: served.status()["counters"].get("workers_hung") == 3)
            world.until(lambda: all(w["state"] in ("idle", "busy") for w in served.status()["workers"]))
            answered = load.answered()
            world.until(lambda: load.answered() > answered + 20)
    outcomes = world.history.outcomes()
    assert set(outcomes) == {"RESULT", "TIMEOUT"} and outcomes["TIMEOUT"] == 3, outcomes
    late = [call.took_s * 1000 - DEADLINE_MS for call in world.history.calls if call.outcome == "TIMEOUT"]
    world.report("TIMEOUT after the deadline, longest", max(late), "ms")
    world.report("all three replaced after", replaced_s, "s")
