"""T2: a request that kills its worker, each time. Two workers at most die of it, nobody who shared its batch is hurt.
A model that cannot live at all is reported, and not forked without end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.faults import models
from tests.faults.world import World, told


def test_a_poison_costs_two_workers_and_no_neighbour(world: World) -> None:
    """Each is POISONED after at most two deaths; every innocent that shared a batch with it is answered."""
    rounds = world.scale(2, 20)
    served = world.serve(told(pause_s=0.02), workers=2)
    took = []
    with world.caller(served) as innocent, world.caller(served) as guilty:
        for poisons in range(1, rounds + 1):
            calls = [innocent.send() for _ in range(4)]
            poison = guilty.send(models.SEGFAULT)
            calls += [innocent.send() for _ in range(4)]
            innocent.finish()
            guilty.finish()
            assert poison.outcome == "POISONED" and poison.error is not None and not poison.error.retryable
            assert [call.outcome for call in calls] == ["RESULT"] * 8
            # In all, because a status may be 10 ms old: it can be one short, and the next is not three more.
            deaths = sum(worker["deaths"] for worker in served.status()["workers"])
            assert deaths <= 2 * poisons
            took.append(poison.took_s)
    assert served.log("request_poisoned")
    assert not served.log("worker_unhealthy"), "the workers are not to blame"
    world.report("poisons", rounds, "")
    world.report("deaths for each", deaths / rounds, "")
    world.report("until POISONED, longest", max(took) * 1000, "ms")


def test_poison_in_preprocess_costs_nobody_else_an_answer(world: World) -> None:
    """It kills the worker while that prepares it beside somebody else's batch: they are not taken for the culprits."""
    rounds = world.scale(2, 20)
    served = world.serve(told("ToldAhead", pause_s=0.03), workers=1)
    with world.caller(served) as innocent, world.caller(served) as guilty:
        for poisons in range(1, rounds + 1):
            calls = [innocent.send() for _ in range(3)]
            world.until(lambda: any(w["state"] == "busy" for w in served.status()["workers"]), every_s=0.001)
            poison = guilty.send(models.SEGFAULT)
            calls += [innocent.send() for _ in range(4)]
            innocent.finish()
            guilty.finish()
            assert poison.outcome == "POISONED", poison
            assert [call.outcome for call in calls] == ["RESULT"] * 7
            [worker] = served.status()["workers"]
            assert worker["deaths"] <= 2 * poisons
    world.report("poisons in preprocess", rounds, "")


def test_poison_alone_never_makes_a_model_unhealthy(world: World) -> None:
    """Nothing but poison comes, more of it than the breaker has patience for: the deaths are put down to who sent it,
    and the model is there for who comes next."""
    served = world.serve(told(), workers=1)
    with world.caller(served) as caller:
        calls = [caller.call(models.EXIT) for _ in range(world.scale(6, 20))]
        assert [call.outcome for call in calls] == ["POISONED"] * len(calls)
        assert caller.call(deadline_ms=2000).outcome == "RESULT"
    assert not served.log("worker_unhealthy")


def test_a_model_that_dies_while_it_loads_is_unhealthy_until_it_lives(world: World, tmp_path: Path) -> None:
    """After five deaths the daemon is not ready and says why; requests are told at once, and not kept; it keeps trying,
    and when the model loads again all is as it was."""
    broken = tmp_path / "broken"
    served = world.serve(told(fail_load=str(broken)), workers=1)
    broken.touch()
    os.kill(served.workers()[0], signal.SIGKILL)
    with world.caller(served) as caller:
        waiting = caller.send(deadline_ms=60_000)
        world.until(lambda: served.status()["state"] == "unhealthy")
        [worker] = served.status()["workers"]
        assert worker["state"] == "unhealthy" and worker["last_exit"] == "SIGKILL" and worker["deaths"] >= 5
        caller.finish()
        assert waiting.outcome == "WORKER_LOST"
        refused = caller.call(deadline_ms=60_000)
        assert refused.outcome == "WORKER_LOST" and refused.took_s < 1.0
        assert refused.error is not None and refused.error.retryable and refused.error.retry_after_ms
        broken.unlink()
        mended_at = time.monotonic()
        world.until(lambda: served.status()["state"] == "ready", timeout_s=20.0)
        world.report("ready again after", time.monotonic() - mended_at, "s")
        assert caller.call().outcome == "RESULT"
    assert len(served.log("worker_unhealthy")) == 1
