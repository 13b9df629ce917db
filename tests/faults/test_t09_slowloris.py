"""T9: very many clients that say very little."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inferd.wire import frame as f
from inferd.wire.messages import Infer
from inferd.wire.peer import CLIENT, OPEN, Peer
from inferd.wire.tensor import layout
from tests.faults.network import hello
from tests.faults.world import LONG, Served, World, told

ROOT = Path(__file__).parents[2]
HELLO_LIMIT_S = 5.5
# A frame that trickles is seen to begin within a second, and to be too slow within another.
FRAME_LIMIT_S = 5.0 + 2.5


def slow_clients(served: Served, count: int, opening: bytes, limit_s: float) -> list[float]:
    """`count` connections that send `opening` and then a byte a second: after how long each was closed, in seconds."""
    host, port = served.url.removeprefix("inferd://").rsplit(":", 1)
    words = ["-m", "tests.faults.trickle", host, port, str(count), opening.hex(), str(limit_s)]
    closed: list[float] = json.loads(subprocess.check_output([sys.executable, *words], cwd=ROOT))
    return closed


def check(world: World, served: Served, name: str, count: int, opening: bytes, limit_s: float) -> None:
    """All of them are closed in time, while others are served."""
    with world.load(served, callers=1, depth=1, pause_s=0.01, deadline_ms=2000) as load:
        world.until(lambda: load.answered() > world.scale(20, 200))
        since = time.monotonic()
        closed = slow_clients(served, count, opening, limit_s)
        until = time.monotonic()
    world.report(f"{name}: the last of {count} closed after", max(closed), "s")
    world.report("a good client's p99 before", world.history.took_ms(until=since), "ms")
    world.report("and meanwhile", world.history.took_ms(since=since, until=until), "ms")
    assert len(closed) == count
    assert max(closed) < limit_s + world.meter.stalled_s(since, until)
    assert {call.outcome for call in world.history.calls} == {"RESULT"}


def test_no_hello(world: World) -> None:
    """A HELLO of one byte a second ends after five seconds, or earlier when others wait for its place."""
    served = world.serve(told())
    served.repeats |= {"connection_cut", "stranger_cut"}
    check(world, served, "no HELLO", world.scale(100, 1000), b"\xf1", HELLO_LIMIT_S)


@pytest.mark.skipif(not LONG, reason="takes its time: make faults")
@pytest.mark.parametrize("what", ["header", "payload"])
def test_after_hello(world: World, what: str) -> None:
    """A header has five seconds; a payload has five, and then comes at 64 KiB/s."""
    served = world.serve(told())
    served.repeats.add("connection_cut")
    opening = hello()
    if what == "header":
        opening += f.pack_prefix(f.INFER, 1, 1000)
    else:
        peer = Peer(CLIENT)
        peer._become(OPEN)
        table, end = layout([("x", "UINT8", (1 << 20,))])
        opening += peer.send(f.INFER, Infer("told", table, end), 1, 1 << 20) + bytes(20_000)
    check(world, served, f"half a {what}", 1000, opening, FRAME_LIMIT_S)
