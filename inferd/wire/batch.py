"""The language between the loop process and a worker process: one message per batch, offsets only.

Each message is one packet of a SOCK_SEQPACKET pair, a msgpack array that opens with its kind. The bytes of requests
and results never travel here: they lie in the slab and in the worker's arena, and a message says where. A packet stays
under 64 KiB: one over about 208 KiB cannot be sent, and a short receive would cut it silently.

    loop → worker
    RUN      batch, model, tables, requests, freed, prepared
    FREE     freed
    STOP

    loop → worker, on a channel of their own, read while a batch runs
    PREPARE  running, first, model, tables, requests

    worker → loop
    MODELS   models   (some of those it has loaded; READY, which follows, has the rest)
    READY    device, models
    REFUSED  a LoadFailure
    DONE     batch, heads, outcomes, failures, compute_us, preprocess_us, padded, arena_used, more
    RAISED   batch, reason, detail
    STARVED  (the arena is full: send FREE when you can)

    requests   five numbers each: index of its table, rows, offset in the slab, payload bytes, 1 if it has values
    outcomes   five numbers each: index of its request, index of its head, offset in the arena, bytes, flags
    freed      two numbers each: offset in the arena, bytes
    prepared   for each request its number among those that were prepared since the batch before, or -1; empty: none was
    running    the batch behind which what is prepared may run
    first      the number of the first of these requests among those that are prepared behind it
    heads      ready-made RESULT headers; the results of one batch mostly share one
    failures   (index of its request, reason, detail) for each that failed alone
    preprocess_us  what preprocess took a row, of those whose turn it was in the batch itself; 0.0 if there were none,
               or if a thread beside the batch would only take its core from it
    padded     the share of what the model computed that was padding, 0.0 to 1.0
    more       another DONE of the same batch follows: the results differ too much for one packet, or the arena is full
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

RUN, FREE, STOP, PREPARE = 1, 2, 3, 4
READY, REFUSED, DONE, RAISED, STARVED, MODELS = 11, 12, 13, 14, 15, 16

MAX_PACKET_BYTES = 64 * 1024
# 512 requests or outcomes of five numbers, at most 9 bytes a number, stay under the packet with room for tables and
# heads.
MAX_REQUESTS = 512
MAX_DETAIL_CHARS = 4000
# What a worker may say of one model, so that it fits a packet with what is around it.
MAX_MODEL_BYTES = MAX_PACKET_BYTES - 1024

NUMBERS_PER_REQUEST = 5
NUMBERS_PER_OUTCOME = 5


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
    """A worker's spec."""
    packed: bytes = msgpack.packb(fields)
    return packed


def escaped(text: str) -> str:
    """Text of a model's, as a packet can take it: UTF-8 has no bytes for a lone surrogate, which becomes \\udxxx."""
    return text.encode(errors="backslashreplace").decode()


def pack_ready(device: str, models: list[dict[str, Any]]) -> list[bytes]:
    """The READY packet, behind as many MODELS packets as keep each under the limit. None of the models takes more than
    MAX_MODEL_BYTES."""
    packets: list[bytes] = []
    part: list[dict[str, Any]] = []
    part_bytes = 0
    for model in models:
        model_bytes = len(pack(model))
        if part_bytes + model_bytes > MAX_MODEL_BYTES:
            packets.append(pack(MODELS, part))
            part, part_bytes = [], 0
        part.append(model)
        part_bytes += model_bytes
    packets.append(pack(READY, device, part))
    return packets


def pack_done(
    batch_id: int,
    heads: list[bytes],
    outcomes: list[int],
    failures: list[tuple[int, str, str]],
    compute_us: int,
    preprocess_us: float,
    padded: float,
    arena_used: int,
    more: bool = False,
) -> list[bytes]:
    """The DONE packets of a batch: one, or as many as keep each under the limit when the results differ much."""
    measured = compute_us, preprocess_us, padded, arena_used
    packet = pack(DONE, batch_id, heads, outcomes, failures, *measured, more)
    if len(packet) <= MAX_PACKET_BYTES:
        return [packet]
    packets = []
    # Three heads of at most 16 KiB fit, and so do three failures with their details.
    for at in range(0, len(outcomes), 3 * NUMBERS_PER_OUTCOME):
        numbers = outcomes[at : at + 3 * NUMBERS_PER_OUTCOME]
        own_heads = [heads[head] for head in numbers[1::NUMBERS_PER_OUTCOME]]
        numbers[1::NUMBERS_PER_OUTCOME] = range(len(own_heads))
        packets.append(pack(DONE, batch_id, own_heads, numbers, [], *measured, True))
    for at in range(0, len(failures), 3):
        packets.append(pack(DONE, batch_id, [], [], failures[at : at + 3], *measured, True))
    packets.append(pack(DONE, batch_id, [], [], [], *measured, more))
    return packets


def unpack(packet: bytes | memoryview) -> list[Any]:
    """What a packet says. Both ends are ours, so a packet that cannot be read is a defect and raises."""
    message: list[Any] = msgpack.unpackb(packet)
    return message
