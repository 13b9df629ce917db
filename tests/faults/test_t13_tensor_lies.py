"""T13: a tensor table that lies about its payload."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import msgpack
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from inferd.wire import frame as f
from inferd.wire.messages import Error
from tests.faults.world import LONG, Served, World, double, told
from tests.rawpeer import RawPeer

PAYLOAD = bytes(64)
GOOD = {"model": "told", "inputs": [["x", "UINT8", [64], 0]]}

lies = st.one_of(
    st.lists(st.integers(-(2**63), 2**64 - 1), max_size=20).map(lambda shape: {"shape": shape}),
    st.just({"shape": [1 << 31, 1 << 31, 4]}),
    st.just({"shape": [1] * 65}),
    st.just({"shape": [-1, -64]}),
    st.just({"shape": [64.0]}),
    st.just({"shape": None}),
    st.sampled_from(["FP32", "INT64", "OBJECT", "BYTES", "STRING", ">f4", "<u1", "float32", "", "O", "U8"]).map(
        lambda dtype: {"dtype": dtype}
    ),
    st.one_of(st.integers(1, 2**64 - 1), st.integers(-(2**63), -1)).map(lambda offset: {"offset": offset}),
    st.text(max_size=200).filter(lambda name: name != "x").map(lambda name: {"name": name}),
    st.just({"twice": True}),
    st.integers(1, 2**40).map(lambda rows: {"rows": rows}),
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0, -1]).map(lambda number: {"deadline_ms": number}),
    st.sampled_from(["", "urgent", "INTERACTIVE", 3, math.nan, []]).map(lambda word: {"priority": word}),
    st.integers(0, 63).map(lambda nbytes: {"payload": nbytes}),
    st.integers(65, 4096).map(lambda nbytes: {"payload": nbytes}),
)


def frame_of(request_id: int, lie: dict[str, Any]) -> bytes:
    """A good request but for the lie."""
    row = [lie.get("name", "x"), lie.get("dtype", "UINT8"), lie.get("shape", [64]), lie.get("offset", 0)]
    header: dict[str, Any] = {"model": "told", "inputs": [row, row] if lie.get("twice") else [row]}
    header |= {name: lie[name] for name in ("rows", "deadline_ms", "priority") if name in lie}
    packed = msgpack.packb(header)
    payload = bytes(lie.get("payload", len(PAYLOAD)))
    return f.pack_prefix(f.INFER, request_id, len(packed), len(payload)) + packed + payload


def test_no_lie_reaches_a_worker(world: World) -> None:
    """Each is answered INVALID_ARGUMENT, the connection goes on, and no batch has run."""
    served = world.serve(told(), double("Double"))
    batches = served.status()["counters"].get("batches", 0)
    reasons: dict[str, int] = {}
    next_id = iter(range(1, 10**9))
    with RawPeer(served.unix_url) as peer:

        @seed(random.randrange(1 << 30))
        @settings(
            max_examples=1500 if LONG else 300,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(lies)
        def check(lie: dict[str, Any]) -> None:
            if lie.get("shape") in ([64],) or lie == {"payload": 64}:
                return
            request_id = next(next_id)
            peer.sock.sendall(frame_of(request_id, lie))
            frame = peer.next()
            assert isinstance(frame.message, Error) and frame.request_id == request_id, (lie, frame)
            assert frame.message.code == "INVALID_ARGUMENT", (lie, frame.message.code, frame.message.message)
            reasons[frame.message.reason] = reasons.get(frame.message.reason, 0) + 1

        check()
    assert served.status()["counters"].get("batches", 0) == batches
    world.report("lies answered", sum(reasons.values()), f"with {len(reasons)} reasons")
    with world.caller(served) as good:
        assert good.call().outcome == "RESULT"

    nan_and_infinity(served)


def nan_and_infinity(served: Served) -> None:
    """In a tensor they are data, and what the caller meant."""
    numbers = struct.pack("<3f", math.nan, math.inf, -math.inf)
    with RawPeer(served.url) as peer:
        peer.infer(1, "double", numbers, (3,))
        frame = peer.next()
        assert frame.type == f.RESULT and frame.payload is not None
        y = struct.unpack("<3f", frame.payload[:12])
        assert math.isnan(y[0]) and y[1:] == (math.inf, -math.inf)
