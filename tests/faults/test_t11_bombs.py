"""T11: msgpack that is small to send and large to decode."""

from __future__ import annotations

import time
from typing import Any

import msgpack
import pytest

from inferd.wire import frame as f
from inferd.wire.messages import Error, Infer
from inferd.wire.peer import CLIENT, OPEN, Peer
from tests.faults.network import Peak
from tests.faults.world import Served, World, double, told
from tests.rawpeer import RawPeer

HEADER_BYTES = 16 * 1024
VALUES_BYTES = 1024 * 1024


def filled(unit: bytes, nbytes: int, opening: bytes = b"") -> bytes:
    """`opening`, and as often `unit` as fits."""
    return opening + unit * ((nbytes - len(opening)) // len(unit))


def bombs(nbytes: int) -> dict[str, bytes]:
    """Each as a whole segment of at most `nbytes`."""
    return {
        "deep lists": b"\x81\xa1x" + b"\x91" * (nbytes - 4) + b"\xc0",
        "1,025 levels": b"\x81\xa1x" + b"\x91" * 1025 + b"\xc0",
        "a list of 4 billion": b"\x81\xa1x\xdd\xff\xff\xff\xff",
        "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
        "bytes of 4 billion": b"\x81\xa1x\xc6\xff\xff\xff\xff",
        "lists that announce each other": filled(b"\xdd\x00\x01\x00\x00", nbytes, b"\x81\xa1x"),
        "small lists that announce each other": filled(b"\xdc\x00\x80", nbytes, b"\x81\xa1x"),
        "empty maps": filled(b"\x80", nbytes, b"\x81\xa1x\xdd" + (nbytes - 8).to_bytes(4, "big")),
        "extension types": filled(b"\xd4\x01\x00", nbytes, b"\x81\xa1x\xdd" + (nbytes // 3 - 4).to_bytes(4, "big")),
        "a number as key": b"\x81\x01\x02",
        "a key twice": b"\x82\xa1x\x01\xa1x\x02",
        "no UTF-8": b"\x81\xa1\xff\x01",
        "bytes behind it": b"\x80\x80",
    }


def answered(peer: RawPeer) -> str:
    """The reason of the next ERROR."""
    frame = peer.next()
    assert isinstance(frame.message, Error), frame
    return frame.message.reason


def test_headers(world: World) -> None:
    """One protocol error, the end, and the loop is held up for no longer than a good client notices."""
    served = world.serve(told())
    for kind in (f.INFER, f.HELLO):
        headers(world, served, kind)


def headers(world: World, served: Served, kind: int) -> None:
    """Each bomb as the header of a frame of this type."""
    times: dict[str, float] = {}
    most = 4096 if kind == f.HELLO else HEADER_BYTES
    with world.load(served, callers=1, depth=1, pause_s=0.002, deadline_ms=2000) as load:
        world.until(lambda: load.answered() > world.scale(20, 500))
        began = time.monotonic()
        with Peak(served) as peak:
            for _ in range(world.scale(1, 10)):
                for name, header in bombs(most).items():
                    with RawPeer(served.url, greet=kind != f.HELLO) as bad:
                        if kind == f.HELLO:
                            bad.peer.send(f.HELLO)
                        since = time.monotonic()
                        bad.sock.sendall(f.pack_prefix(kind, int(kind == f.INFER), len(header)) + header)
                        assert answered(bad) == "PROTOCOL", name
                        times[name] = max(times.get(name, 0.0), time.monotonic() - since)
                        with pytest.raises((EOFError, ConnectionResetError)):
                            bad.next()
    slowest = max(times, key=lambda name: times[name])
    world.report(f"the slowest ({slowest})", times[slowest] * 1000, "ms")
    world.report("a good client's p99 before", world.history.took_ms(until=began), "ms")
    world.report("and meanwhile", world.history.took_ms(since=began), "ms")
    world.report("memory", peak.growth_mib, "MiB")
    assert peak.growth_mib < 8
    assert {call.outcome for call in world.history.calls} == {"RESULT"}


def test_values(world: World) -> None:
    """They are decoded in a worker: that request's error, the connection goes on, and the loop does not feel it."""
    served = world.serve(told(), double("Words"), workers=1)
    # What is refused as values, too; a key that is there twice is not, and deep lists are up to 1,024.
    fine = {"a key twice"}
    refused = {name: segment for name, segment in bombs(VALUES_BYTES).items() if name not in fine}
    codec = Peer(CLIENT)
    codec._become(OPEN)
    with world.load(served, callers=1, depth=1, pause_s=0.002) as load, Peak(served) as peak:
        world.until(lambda: load.answered() > 20)
        lags = []
        with RawPeer(served.url) as bad, RawPeer(served.url) as pinger:
            request_id = 0
            for _ in range(world.scale(1, 5)):
                for name, segment in refused.items():
                    request_id += 1
                    head = codec.send(f.INFER, Infer("words"), request_id, len(segment), f.HAS_VALUES)
                    bad.sock.sendall(head + segment)
                    since = time.monotonic()
                    pinger.sock.sendall(codec.send(f.PING, request_id=request_id))
                    assert pinger.next().type == f.PONG
                    lags.append(time.monotonic() - since)
                    assert answered(bad) in {"VALUES", "INPUT_MISSING", "INPUT_UNKNOWN", "INPUT_DTYPE"}, name
            sane: dict[str, Any] = {"text": "two words"}
            good = msgpack.packb(sane)
            bad.sock.sendall(codec.send(f.INFER, Infer("words"), 9999, len(good), f.HAS_VALUES) + good)
            assert bad.next().type == f.RESULT
    world.report("values of 1 MiB: the loop answers PING after, at most", max(lags) * 1000, "ms")
    world.report("values of 1 MiB: memory of the loop", peak.growth_mib, "MiB")
    assert peak.growth_mib < 16
    # The worker is the same: nothing of this has ended it.
    assert served.status()["counters"].get("workers_lost", 0) == 0
