"""T10: a frame that is announced larger than any may be."""

from __future__ import annotations

import time

import pytest

from inferd.wire import frame as f
from inferd.wire.messages import Error
from tests.faults.network import Peak
from tests.faults.world import Served, World, told
from tests.rawpeer import RawPeer

LARGEST_PAYLOAD = 16 << 20  # of the daemon in these tests
ANNOUNCED = [
    (0xFFFFFFFF, 0),
    (1 << 31, 0),
    (16 * 1024 + 1, 0),
    (0, 0xFFFFFFFF),
    (0, 1 << 31),
    (10, LARGEST_PAYLOAD + 1),
    (0xFFFFFFFF, 0xFFFFFFFF),
]


def test_it_is_refused_from_its_prefix(world: World) -> None:
    """One ERROR and the end, without a byte of memory, whatever its type; the neighbour notices nothing. A stranger's
    first frame is small, or it is not read."""
    served = world.serve(told())
    for kind in (f.INFER, 99):
        after_hello(world, served, kind)
    before_hello(served)


def after_hello(world: World, served: Served, kind: int) -> None:
    """4 GiB, 2 GiB, and one byte too many."""
    times = []
    with world.caller(served) as good, Peak(served) as peak:
        for _ in range(world.scale(1, 10)):
            for header_bytes, payload_bytes in ANNOUNCED:
                with RawPeer(served.url) as bad:
                    since = time.monotonic()
                    bad.sock.sendall(f.pack_prefix(kind, 1, header_bytes, payload_bytes))
                    frame = bad.next()
                    times.append(time.monotonic() - since)
                    assert isinstance(frame.message, Error)
                    assert (frame.request_id, frame.message.reason) == (0, "PROTOCOL")
                    with pytest.raises((EOFError, ConnectionResetError)):
                        bad.next()
            assert good.call().outcome == "RESULT"
    world.report("refused after, at most", max(times) * 1000, "ms")
    world.report("memory", peak.growth_mib, "MiB")
    assert peak.growth_mib < 1.5


def before_hello(served: Served) -> None:
    """Nothing over 4 KiB."""
    with Peak(served) as peak:
        for header_bytes, payload_bytes in [*ANNOUNCED, (4097, 0), (1, 4096)]:
            with RawPeer(served.url, greet=False) as bad:
                bad.peer.send(f.HELLO)
                bad.sock.sendall(f.pack_prefix(f.HELLO, 0, header_bytes, payload_bytes))
                frame = bad.next()
                assert isinstance(frame.message, Error) and frame.message.reason == "PROTOCOL"
    assert peak.growth_mib < 1.5
