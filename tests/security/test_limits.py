"""Counts before use, and what hostile bytes cost: the caps of docs/PROTOCOL.md, tried one above each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from inferd_client import Client

from inferd.errors import ProtocolError
from inferd.wire import frame as f
from inferd.wire.messages import Error, pack_header, unpack_header
from inferd.wire.peer import SERVER, Peer
from inferd.wire.tensor import MAX_DIMS, MAX_NAME_BYTES, MAX_TENSORS
from tests.rawpeer import RawPeer
from tests.running import Daemon, double, running


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One with a model that takes whatever comes."""
    with running(tmp_path_factory.mktemp("limits"), double("Hash"), executor="inline") as served:
        yield served


def refused(peer: RawPeer, header: dict[str, Any], payload: bytes = b"", flags: int = 0) -> str:
    """Why an INFER with this header is not taken; "" if it is."""
    packed = pack_header(header)
    peer.sock.sendall(f.pack_prefix(f.INFER, 7, len(packed), len(payload), flags) + packed + payload)
    message = peer.next().message
    return message.reason if isinstance(message, Error) else ""


def table(count: int, name: str = "t", shape: list[int] | None = None, dtype: str = "UINT8") -> list[list[Any]]:
    return [[f"{name}{index}", dtype, [0] if shape is None else shape, 0] for index in range(count)]


TOO_MUCH = {
    "tensors": {"inputs": table(MAX_TENSORS + 1)},
    "dimensions": {"inputs": [["x", "UINT8", [0] * (MAX_DIMS + 1), 0]]},
    "name": {"inputs": [["x" * (MAX_NAME_BYTES + 1), "UINT8", [0], 0]]},
    "name in bytes": {"inputs": [["ü" * (MAX_NAME_BYTES // 2 + 1), "UINT8", [0], 0]]},
    "no name": {"inputs": [["", "UINT8", [0], 0]]},
    "dtype": {"inputs": [["x", "OBJECT", [0], 0]]},
    "big-endian": {"inputs": [["x", ">f4", [0], 0]]},
    "size": {"inputs": [["x", "UINT8", [2**40 + 1], 0]]},
    "negative": {"inputs": [["x", "UINT8", [-1], 0]]},
    "product": {"inputs": [["x", "UINT8", [2**40] * 16, 0]]},
    "bytes": {"inputs": [["x", "FP64", [1], 0]]},
    "offset": {"inputs": [["x", "UINT8", [0], 63]]},
    "overlap": {"inputs": [["x", "UINT8", [64], 0], ["y", "UINT8", [0], 0]]},
    "rows": {"rows": 4097},
    "key": {"supersede": "k" * 129},
    "deadline": {"deadline_ms": float("nan")},
    "endless": {"deadline_ms": float("inf")},
    "model": {"model": "m" * 65},
}


@pytest.mark.parametrize("header", TOO_MUCH.values(), ids=TOO_MUCH)
def test_one_above_each_cap_is_refused_at_the_header(daemon: Daemon, header: dict[str, Any]) -> None:
    """Typed, with its connection still good, and without a byte of input memory."""
    with RawPeer(daemon.url) as peer:
        assert refused(peer, {"model": "hash", **header}) in ("FIELD_VALUE", "TENSOR", "FIELD_TYPE")
        assert daemon.ask(lambda: daemon.engine.slab.used_bytes) == 0
        assert refused(peer, {"model": "hash", "inputs": [["x", "UINT8", [1], 0]]}, b"\1") == ""


def test_the_caps_themselves_are_allowed(daemon: Daemon) -> None:
    """64 tensors, 16 dimensions, 128 bytes of name: exactly what is promised."""
    with RawPeer(daemon.url) as peer:
        rows: list[list[Any]] = [["x", "UINT8", [1] * MAX_DIMS, 0]]
        rows += [["n" * (MAX_NAME_BYTES - 2) + f"{index:02}", "UINT8", [0], 64] for index in range(MAX_TENSORS - 1)]
        assert refused(peer, {"model": "hash", "inputs": rows}, b"\1" + b"\0" * 63) == ""


@pytest.mark.parametrize(
    "segment",
    [
        b"\xc1",
        b"\x91\x01",
        msgpack.packb({1: 2}),
        msgpack.packb({"x": 1}) + b"\0",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1x\xc7\0\1",
    ],
    ids=["no msgpack", "no map", "key", "tail", "announced", "extension"],
)
def test_values_are_checked_where_they_are_decoded(daemon: Daemon, segment: bytes) -> None:
    """Not by the loop; what they cannot be is that request's error."""
    with RawPeer(daemon.url) as peer:
        assert refused(peer, {"model": "hash"}, segment, f.HAS_VALUES) == "VALUES"
        assert refused(peer, {"model": "hash"}, b"\x80" + b"\xc0" * (1024 * 1024), f.HAS_VALUES) == "VALUES"


def test_a_model_may_not_return_more_than_the_wire_has_words_for(tmp_path: Path) -> None:
    """65 outputs are that request's failure, and the worker goes on."""
    code = tmp_path / "many.py"
    code.write_text(
        "class Many:\n"
        "    inputs = {'n': ('INT64', ())}\n"
        "    warm_up = False\n"
        "    def forward(self, batch):\n"
        "        n = int(batch['n'][0])\n"
        "        return {f'o{index}': batch['n'] for index in range(n)}\n"
    )
    from inferd.config import ModelConfig

    with (
        running(tmp_path, ModelConfig("many", f"{code}:Many"), executor="inline") as daemon,
        Client(daemon.url) as client,
    ):
        assert len(client.infer("many", {"n": np.int64(MAX_TENSORS)})) == MAX_TENSORS
        with pytest.raises(Exception, match="OUTPUT_INVALID"):
            client.infer("many", {"n": np.int64(MAX_TENSORS + 1)})
        assert len(client.infer("many", {"n": np.int64(1)})) == 1


# ---- what it costs

MAX_CPU_TIMES = 100

EMPTY_MAPS = b"\xdc\x00\x80" + b"\x80" * 128
BOMBS = {
    "empty maps": b"\x81\xa1x" + b"\xdc\x00\x7c" + (b"\xdc\x00\x80" + b"\x80" * 128) * 124,
    "nested lists": b"\x81\xa1x" + b"\x91" * 1000 + b"\xc0",
    "nested announcements": b"\x81\xa1x" + b"\xdc\x00\x80" * 1000,
    "short texts": b"\x81\xa1x" + b"\xdc\x00\x7d" + (b"\xdc\x00\x3f" + b"\xa1y" * 63) * 125,
    "huge announcements": b"\xdf\xff\xff\xff\xff" + b"\xa1x" * 5000,
}


def cpu_s(header: bytes) -> float:
    """What reading it takes of a CPU, the least of some tries."""
    best = 1e9
    for _ in range(9):
        began = time.thread_time()
        for _ in range(3):
            try:
                unpack_header(header)
            except ProtocolError:
                pass
        best = min(best, (time.thread_time() - began) / 3)
    return best


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_hostile_headers_cost_no_more_than_a_hundred_times_honest_ones(bomb: bytes) -> None:
    """By the byte, compared with a header of 64 tensors: the only thing that is decoded before a client is known to be
    good. What they cost in memory is in tests/wire/test_messages.py."""
    honest = pack_header({"model": "m", "inputs": table(MAX_TENSORS)})
    assert len(bomb) <= f.Limits().header_bytes
    each = cpu_s(honest) / len(honest)
    assert cpu_s(bomb) / len(bomb) <= MAX_CPU_TIMES * each


def test_an_announced_payload_costs_nothing() -> None:
    """Four gigabytes announced, ten thousand times over: what is not there takes no memory."""
    import tracemalloc

    tracemalloc.start()
    try:
        peers = []
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            peer = Peer(SERVER, f.Limits(payload_bytes=2**32 - 1))
            peer._become("OPEN")
            header = pack_header({"model": "m", "inputs": [["x", "UINT8", [2**32 - 1], 0]]})
            data = f.pack_prefix(f.INFER, 1, len(header), 2**32 - 1) + header
            peer.get_buffer()[: len(data)] = data
            peer.buffer_updated(len(data))
            frame = peer.next_frame()
            assert frame is not None and not frame.complete
            peers.append(peer)
        assert tracemalloc.get_traced_memory()[0] - before < 100 * 16 * 1024
    finally:
        tracemalloc.stop()
