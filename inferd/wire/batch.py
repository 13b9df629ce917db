"""The language between the loop process and a worker process: one message per batch, offsets only.

Each message is one packet of a SOCK_SEQPACKET pair, a msgpack array that opens with its kind. The bytes of requests
and results never travel here: they lie in the slab and in the worker's arena, and a message says where. A packet stays
under 64 KiB: one over about 208 KiB cannot be sent, and a short receive would cut it silently.

    loop → worker                                        worker → loop
    RUN    batch, model, tables, requests, freed         READY    models
    FREE   freed                                         REFUSED  a LoadFailure
    STOP                                                 DONE     batch, heads, outcomes, failures, compute_us
                                                         RAISED   batch, reason, detail
                                                         STARVED  (the arena is full: send FREE when you can)

    requests   five numbers each: index of its table, rows, offset in the slab, payload bytes, 1 if it has values
    outcomes   four numbers each: index of its head (−1: it failed), offset in the arena, bytes, flags
    freed      two numbers each: offset in the arena, bytes
    heads      ready-made RESULT headers; the results of one batch mostly share one
    failures   (index, reason, detail) for each request that failed alone
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


def unpack(packet: bytes | memoryview) -> list[Any]:
    """What a packet says. Both ends are ours, so a packet that cannot be read is a defect and raises."""
    message: list[Any] = msgpack.unpackb(packet)
    return message
