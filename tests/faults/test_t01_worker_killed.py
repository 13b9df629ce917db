"""T1: a worker is killed in the middle of a batch. That is found out at once, it is replaced within a second, and its
batch runs again, once: nobody notices but by the time it took."""

from __future__ import annotations

import os
import random
import signal
import time

from tests.faults.world import Served, World, told


def kill_one(world: World, served: Served, rng: random.Random) -> tuple[float, float]:
    """Kills one worker. Seconds until the daemon has made another process, and until that one is ready."""
    before = served.workers()
    victim = rng.choice(before)
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    world.until(lambda: set(served.workers()) - set(before), every_s=0.001)
    found_s = time.monotonic() - began
    [successor] = set(served.workers()) - set(before)

    def ready() -> bool:
        return any(w["pid"] == successor and w["state"] in ("idle", "busy") for w in served.status()["workers"])

    world.until(ready, every_s=0.002)
    return found_s, time.monotonic() - began


def test_killed_workers_cost_nobody_an_answer(world: World) -> None:
    """Two workers under load, one after the other killed at random moments: all is answered, and all come back."""
    kills = world.scale(8, 200)
    served = world.serve(told(pause_s=0.01), workers=2)
    rng = random.Random(1)
    found, replaced = [], []
    with world.load(served, callers=6, depth=4, deadline_ms=5000) as load:
        world.until(lambda: load.answered() > world.scale(50, 2000), 60.0)
        before = time.monotonic()
        for _ in range(kills):
            time.sleep(rng.random() * 0.04)  # anywhere in a batch
            found_s, ready_s = kill_one(world, served, rng)
            found.append(found_s)
            replaced.append(ready_s)
        after = time.monotonic()
        answered = load.answered()
        world.until(lambda: load.answered() > answered + 50)
    outcomes = world.history.outcomes()
    # At so many kills a second a request is on a second worker that is killed now and then: typed, and retryable.
    assert set(outcomes) <= {"RESULT", "WORKER_LOST"} and outcomes["WORKER_LOST"] <= kills, outcomes
    assert served.status()["counters"]["workers_lost"] == kills
    rank = int(0.99 * kills)
    world.report("kills", kills, "")
    world.report("lost two workers", outcomes["WORKER_LOST"], f"of {outcomes.total()} requests")
    world.report("replacement process, p99", sorted(found)[rank] * 1000, "ms")
    world.report("replacement ready, p99", sorted(replaced)[rank] * 1000, "ms")
    undisturbed, killing = world.history.took_ms(0.99, until=before), world.history.took_ms(0.99, before, after)
    world.report("p99 undisturbed", undisturbed, "ms")
    world.report("p99 while killing", killing, "ms")


def test_a_replacement_knows_how_long_batches_take(world: World) -> None:
    """It inherits what was measured: nothing is measured again, so it is ready in a fraction of the warm-up."""
    served = world.serve(told(pause_s=0.05), workers=1)
    [worker] = served.status()["workers"]
    [model] = served.status()["models"]
    _, ready_s = kill_one(world, served, random.Random(0))
    [same] = served.status()["models"]
    assert same["latency"] == model["latency"] != []
    assert worker["deaths"] == 0 and served.status()["workers"][0]["deaths"] == 1
    world.report("replacement ready", ready_s * 1000, "ms")


def test_a_failpoint_kills_a_worker_that_has_just_taken_its_batch(world: World) -> None:
    """Each worker dies with the 20th batch that it has received and not begun, whosever it is. All of it runs again;
    only whose second worker came to its 20th batch with it is told so."""
    served = world.serve(told(pause_s=0.002), workers=2, failpoints="worker.after_recv=kill@20")
    with world.load(served, callers=4, depth=4, deadline_ms=5000) as load:
        world.until(lambda: load.answered() > world.scale(300, 3000), 60.0)
    assert served.log("failpoints_on")
    outcomes, deaths = world.history.outcomes(), served.status()["counters"]["workers_lost"]
    assert set(outcomes) <= {"RESULT", "WORKER_LOST"} and outcomes["WORKER_LOST"] < deaths >= 4, outcomes
