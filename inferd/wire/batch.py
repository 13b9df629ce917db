"""The language between the loop process and a worker process: one message per batch, offsets only.

Each message is one packet of a SOCK_SEQPACKET pair, a msgpack array that opens with its kind. The bytes of requests
and results never travel here: they lie in the slab and in the worker's arena, and a message says where. A packet stays
under 64 KiB: one over about 208 KiB cannot be sent, and a short receive would cut it silently.

    loop → worker
    RUN      batch, model, tables, requests, freed
    FREE     freed
    STOP

    worker → loop
    READY    device, models
    REFUSED  a LoadFailure
    DONE     batch, start, heads, outcomes, failures, compute_us, more
    RAISED   batch, reason, detail
    STARVED  (the arena is full: send FREE when you can)

    requests   five numbers each: index of its table, rows, offset in the slab, payload bytes, 1 if it has values
    outcomes   four numbers each: index of its head (−1: it failed), offset in the arena, bytes, flags
    freed      two numbers each: offset in the arena, bytes
    heads      ready-made RESULT headers; the results of one batch mostly share one
    failures   (index, reason, detail) for each request that failed alone
    start      the index in the batch of the first outcome here; `more` says that another DONE of the batch follows
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

RUN, FREE, STOP = 1, 2, 3
READY, REFUSED, DONE, RAISED, STARVED = 11, 12, 13, 14, 15

MAX_PACKET_BYTES = 64 * 1024
# 512 requests of five numbers and 512 outcomes of four, at most 9 bytes a number, stay under the packet with room for
# tables and heads.
MAX_REQUESTS = 512
MAX_DETAIL_CHARS = 4000

NUMBERS_PER_REQUEST = 5
NUMBERS_PER_OUTCOME = 4


class LoadFailure(NamedTuple):
    """Why a worker could not begin: what kind of failure, which model, and where in the user's file."""

    kind: str  # "model" or "device"
    model: str
    message: str
    location: str  # "file.py:12", or ""
    detail: str


def pack(*message: Any) -> bytes:
    """One packet."""
    packed: bytes = msgpack.packb(message)
    return packed


def pack_map(fields: dict[str, Any]) -> bytes:
    """A worker's spec, for the fork server."""
    packed: bytes = msgpack.packb(fields)
    return packed


def pack_done(
    batch_id: int, heads: list[bytes], outcomes: list[int], failures: list[tuple[int, str, str]], compute_us: int
) -> list[bytes]:
    """The DONE packets of a batch: one, or as many as keep each under the limit when the results differ much."""
    packet = pack(DONE, batch_id, 0, heads, outcomes, failures, compute_us, False)
    if len(packet) <= MAX_PACKET_BYTES:
        return [packet]
    packets = []
    details = {index: (reason, detail) for index, reason, detail in failures}
    count = len(outcomes) // NUMBERS_PER_OUTCOME
    # Ten heads of at most 16 KiB would not fit; three and a few failures always do.
    step = 3
    for start in range(0, count, step):
        own = range(start, min(start + step, count))
        numbers = outcomes[start * NUMBERS_PER_OUTCOME : own.stop * NUMBERS_PER_OUTCOME]
        own_heads = [heads[head] if head >= 0 else b"" for head in numbers[::NUMBERS_PER_OUTCOME]]
        for position in range(len(own)):
            if numbers[position * NUMBERS_PER_OUTCOME] >= 0:
                numbers[position * NUMBERS_PER_OUTCOME] = position
        own_failures = [(index, *details[index]) for index in own if index in details]
        more = own.stop < count
        packets.append(pack(DONE, batch_id, start, own_heads, numbers, own_failures, compute_us, more))
    return packets


def unpack(packet: bytes | memoryview) -> list[Any]:
    """What a packet says. Both ends are ours, so a packet that cannot be read is a defect and raises."""
    message: list[Any] = msgpack.unpackb(packet)
    return message
