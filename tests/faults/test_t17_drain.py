"""T17: the daemon is told to go, told twice, or killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter

import numpy as np
from inferd_client import Client, InferdError

from tests.faults import procfs
from tests.faults.network import connect
from tests.faults.world import Served, World, told

DRAIN_S = 30.0
GONE_S = 2.0


def refused(served: Served) -> bool:
    """Whether the kernel refuses a new connection: nobody listens."""
    try:
        connect(served.url, 1.0).close()
    except ConnectionRefusedError:
        return True
    except (ConnectionResetError, TimeoutError):
        pass
    return False


def exit_of(served: Served, timeout_s: float) -> int:
    """Waits for its end; its exit status."""
    served.ends_by_itself = True
    return served.process.wait(timeout_s)


def test_it_leaves_in_order(world: World) -> None:
    """The listener is closed at once, everybody hears GOAWAY, what is in flight is answered, and it exits with 0."""
    served = world.serve(told(pause_s=0.02), watch=False)
    with world.load(served, callers=4, depth=4) as load:
        world.until(lambda: load.answered() > 100)
        os.kill(served.pid, signal.SIGTERM)
        since = time.monotonic()
        world.until(lambda: refused(served), 5, 0.001)
        closed_s = time.monotonic() - since
        status = exit_of(served, DRAIN_S)
        gone_s = time.monotonic() - since
        load.stop()
    world.report("listener closed after", closed_s * 1000, "ms")
    world.report("exit after", gone_s, "s")
    assert status == 0
    outcomes = world.history.outcomes()
    assert set(outcomes) <= {"RESULT", "DRAINING"}, outcomes
    assert closed_s < 0.25


def test_a_client_with_two_addresses_notices_nothing(world: World) -> None:
    """The shipped client, two daemons, one is stopped under load: no call fails."""
    daemons = [world.serve(told(pause_s=0.005), watch=False) for _ in range(2)]
    outcomes: Counter[str] = Counter()
    stop = threading.Event()
    x = np.zeros(64, np.uint8)

    def calls(client: Client) -> None:
        while not stop.is_set():
            try:
                client.infer("told", {"x": x}, timeout_ms=10_000)
                outcomes["RESULT"] += 1
            except InferdError as error:
                outcomes[str(error)] += 1

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(",".join(served.unix_url for served in daemons))) for _ in range(4)]
        threads = [threading.Thread(target=calls, args=(client,)) for client in clients for _ in range(2)]
        for thread in threads:
            thread.start()
        world.until(lambda: outcomes["RESULT"] > 200)
        os.kill(daemons[0].pid, signal.SIGTERM)
        assert exit_of(daemons[0], DRAIN_S) == 0
        before = outcomes["RESULT"]
        world.until(lambda: outcomes["RESULT"] > before + 200)
        stop.set()
        for thread in threads:
            thread.join(20)
    world.report("calls through the stop of one of two", outcomes["RESULT"], "answered")
    assert set(outcomes) == {"RESULT"}, outcomes


def test_told_twice_it_does_not_wait(world: World) -> None:
    """A batch that takes a minute holds the first SIGTERM up, and not the second."""
    served = world.serve(told(pause_s=60.0, warm_up=False), watch=False)
    with world.caller(served) as caller:
        call = caller.send()
        world.until(lambda: served.status()["workers"][0]["state"] == "busy")
        os.kill(served.pid, signal.SIGTERM)
        world.until(lambda: refused(served))
        assert served.is_alive()
        os.kill(served.pid, signal.SIGTERM)
        since = time.monotonic()
        status = exit_of(served, GONE_S + 1)
        world.report("exit after the second SIGTERM", time.monotonic() - since, "s")
        assert status == 0
        caller.finish()
        assert call.outcome == "CONNECTION_LOST"


def test_killed_it_leaves_nobody(world: World) -> None:
    """SIGKILL of the daemon: fork server, workers and gateway are gone within two seconds."""
    for _ in range(world.scale(1, 5)):
        served = world.serve(told(pause_s=0.05), workers=2, web=True, watch=False)
        children = list(procfs.descendants(served.pid))
        assert len(children) >= 4
        with world.load(served, callers=2, depth=2) as load:
            world.until(lambda: load.answered() > 20)
            os.kill(served.pid, signal.SIGKILL)
            since = time.monotonic()
            exit_of(served, 5)
            world.until(lambda: not any(procfs.is_alive(pid) for pid in children), GONE_S + 1)  # noqa: B023
            world.report("the last child gone after", time.monotonic() - since, "s")
            load.stop()
