"""T27: a thousand clients announce 3 MiB each and stall."""

from __future__ import annotations

import contextlib
import socket
import time

from inferd.wire import frame as f
from inferd.wire.messages import Infer
from inferd.wire.peer import CLIENT, OPEN, Peer
from inferd.wire.tensor import layout
from tests.faults.network import Peak, connect, ended, hello
from tests.faults.world import World, double, told

ANNOUNCED = 3 << 20
SENT = 100_000
LARGE = 200_000  # a good client's
# 5 s of grace, seen within two looks of housekeeping.
CUT_S = 7.5


def upload() -> bytes:
    """HELLO, and a request whose payload goes no further than 100 kB."""
    peer = Peer(CLIENT)
    peer._become(OPEN)
    table, end = layout([("x", "UINT8", (ANNOUNCED,))])
    return hello() + peer.send(f.INFER, Infer("hash", table, end), 1, ANNOUNCED) + bytes(SENT)


def test_they_do_not_own_the_memory(world: World) -> None:
    """What is announced is bounded, another client's payloads of 200 kB still arrive, and those that stall are cut."""
    served = world.serve(told(size=LARGE), double("Hash"), flags=["--slab-mib", "256", "--payload-mib", "16"])
    served.repeats |= {"connection_cut"}
    count = world.scale(60, 1000)
    message = upload()
    stalled: list[socket.socket] = []
    # The good client is another one than the thousand: it comes over the Unix socket, they from one address.
    with contextlib.ExitStack() as stack, Peak(served) as peak:
        large = stack.enter_context(world.caller(served, size=LARGE))
        for _ in range(world.scale(10, 100)):
            assert large.call().outcome == "RESULT"
        undisturbed = time.monotonic()
        for _ in range(count):
            sock = stack.enter_context(connect(served.url))
            sock.sendall(message)
            stalled.append(sock)
        used = served.status()["slab"]["used_bytes"]
        world.report("of the slab, taken by those that stall", used / (1 << 20), "MiB of 256")
        assert used <= 128 << 20
        meanwhile = time.monotonic()
        until = meanwhile + world.scale(1.0, CUT_S)
        while time.monotonic() < until:
            assert large.call(deadline_ms=2000).outcome == "RESULT"
        world.report("a good client's p99 before", world.history.took_ms(until=undisturbed), "ms")
        world.report("and meanwhile", world.history.took_ms(since=meanwhile), "ms")
        if world.scale(False, True):
            world.until(lambda: all(ended(sock) for sock in stalled), 10, 0.2)
            world.report("the last one cut after", time.monotonic() - undisturbed, "s")
    world.report("memory of the loop", peak.growth_mib, "MiB")
    assert peak.growth_mib < 64
