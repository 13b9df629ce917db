"""A fuzzer of our own for the wire: the vectors, mutated by something that knows what a frame is.

The invariant, in one sentence: no input makes a decoder raise anything but a ProtocolError (or set frame.error), hang,
grow its buffer past 64 KiB, let a table through that does not describe its payload, or hold more memory than `budget`
allows.

    python tests/fuzz/fuzz_wire.py --seconds 120 --seed 1

The same seed makes the same inputs in the same order. An input that breaks the invariant is written to the folder
corpus/ and replayed by the tests from then on; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import signal
import struct
import sys
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack

from inferd.errors import InvalidArgument, ProtocolError, RequestError
from inferd.wire import frame as f
from inferd.wire import messages as m
from inferd.wire.peer import CLIENT, CLOSED, GREETING, MAX_BUFFER_BYTES, OPEN, SERVER, START, Peer
from inferd.wire.tensor import aligned
from inferd.wire.values import unpack_values

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
BOOK = json.loads((HERE.parent / "vectors" / "frames.json").read_text(encoding="utf-8"))

PREFIX = struct.Struct("<3sBBBHIIQ")
HANG_S = 2.0  # a 1 MiB segment of the worst kind takes about 0.15 s
WATCHED = 32  # one input of so many is run with its memory traced, which is ten times slower

# What a frame may hold beside its header: a grown receive buffer and the one before it, a copy of the header, an error.
FRAME_BYTES = 2 * MAX_BUFFER_BYTES
LIST_BYTES = 1_100  # what a list of a header may reserve: 128 entries of 8 bytes
MAX_LISTS = 1_024  # msgpack's depth: so many lists can be open at once
VALUES_LIST_BYTES = 80_100  # what a list of a values segment may reserve: 10,000 entries


@dataclass
class Input:
    """One thing to try: `target` is "peer" or "values"; the rest of the fields are a peer's."""

    target: str
    data: bytes
    role: str = SERVER
    state: str = OPEN
    piece: int = 1 << 30
    keep: bool = True  # payloads are received (True) or forgotten (False)

    def save(self, why: str) -> Path:
        fields = {**asdict(self), "data": self.data.hex(), "why": why}
        text = json.dumps(fields, indent=1) + "\n"
        path = CORPUS / f"{hashlib.sha256(self.data).hexdigest()[:12]}.json"
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Input:
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields.pop("why", None)
        return cls(**{**fields, "data": bytes.fromhex(fields["data"])})


# ---- the check


class Broken(AssertionError):
    """The invariant does not hold."""


def budget(one: Input) -> int:
    """The most bytes that decoding may hold at once: 96 times the header, its lists, and the payload twice."""
    size = len(one.data)
    lists = min(sum(map(one.data.count, _LIST_BYTES)), MAX_LISTS)
    if one.target == "values":
        return 96 * size + VALUES_LIST_BYTES * lists + FRAME_BYTES
    return 96 * min(size, f.Limits().header_bytes) + LIST_BYTES * lists + 2 * size + FRAME_BYTES


_LIST_BYTES = [bytes([byte]) for byte in (*range(0x90, 0xA0), 0xDC, 0xDD)]
_MEMORY = memoryview(bytearray(1 << 20))


def check(one: Input) -> int:
    """Runs one input; returns how many frames came out. Raises Broken, or what the decoder should not have raised."""
    if one.target == "values":
        try:
            values = unpack_values(one.data)
        except InvalidArgument as error:
            if error.reason != "VALUES":
                raise Broken(f"reason {error.reason}") from error
        else:
            if not all(isinstance(key, str) for key in values):
                raise Broken("a name that is no text")
        return 1
    peer = Peer(one.role)
    if one.state != START:
        peer._become(one.state)
    try:
        return _feed(peer, one)
    except ProtocolError as error:
        if peer.state != CLOSED:
            raise Broken("a ProtocolError that did not close the peer") from error
        return 1


def check_memory(one: Input) -> int:
    """`check`, and that it held no more than the budget.

    Seen twice before it counts: a table of the interpreter's own, such as that of interned keys, may happen to grow.
    """
    count, spent = _watch(one)
    if spent > budget(one):
        count, spent = _watch(one)
    if spent > budget(one):
        raise Broken(f"{spent} bytes held for an input of {len(one.data)}; {budget(one)} are allowed")
    return count


def _watch(one: Input) -> tuple[int, int]:
    for decode in (m.DECODERS[f.INFER], m.DECODERS[f.RESULT]):
        remembered = decode.__self__  # type: ignore[attr-defined]
        assert isinstance(remembered, m.Remembered)
        remembered.clear()
    tracemalloc.start()
    try:
        return check(one), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _feed(peer: Peer, one: Input) -> int:
    data, at, count = memoryview(one.data), 0, 0
    while at < len(data):
        room = peer.get_buffer()
        if not len(room):
            raise Broken("get_buffer() is empty")
        taken = min(len(room), len(data) - at, one.piece)
        room[:taken] = data[at : at + taken]
        at += taken
        peer.buffer_updated(taken)
        if len(peer._buffer) > MAX_BUFFER_BYTES:
            raise Broken("the buffer grew past its cap")
        while (frame := peer.next_frame()) is not None:
            if frame.complete:
                if frame.payload is None or len(frame.payload) != frame.payload_bytes:
                    raise Broken("a payload of another size than announced")
            else:
                keep = one.keep and frame.payload_bytes <= len(_MEMORY)
                peer.accept(_MEMORY if keep else None)
            if frame.error is not None:
                if not isinstance(frame.error, RequestError):
                    raise Broken(f"frame.error is {frame.error!r}")
                if not tracemalloc.is_tracing():  # msgpack reserves 256 KiB for it
                    m.Error.of(frame.error).pack()  # it can be answered
            elif isinstance(frame.message, (m.Infer, m.Result)):
                _check_table(frame.message, frame.flags, frame.payload_bytes)
            if peer.state == GREETING and one.role == SERVER:
                peer._become(OPEN)  # as send(WELCOME) does, without msgpack's packer, which reserves 256 KiB
            count += 1
    return count


def _check_table(message: m.Infer | m.Result, flags: int, payload_bytes: int) -> None:
    end = 0
    for tensor in message.tensors:
        if tensor.offset < end or tensor.offset % 64 or any(dim < 0 for dim in tensor.shape):
            raise Broken(f"{tensor} passed")
        end = tensor.offset + tensor.nbytes
    if (aligned(end) >= payload_bytes) if flags & f.HAS_VALUES else end != payload_bytes:
        raise Broken(f"tables that end at {end} passed with a payload of {payload_bytes} and flags {flags}")
    if isinstance(message, m.Infer) and message.deadline_ms is not None and not 0 <= message.deadline_ms < math.inf:
        raise Broken(f"deadline_ms {message.deadline_ms} passed")


# ---- the mutations

SEEDS = [(entry["direction"], bytes.fromhex(entry["hex"])) for entry in BOOK["frames"] + BOOK["refused"]]
TO = {role: [data for direction, data in SEEDS if direction.endswith(role)] for role in (CLIENT, SERVER)}
SEGMENTS = [msgpack.packb(entry["meaning"]["values"]) for entry in BOOK["frames"] if entry["meaning"]["values"]]
EDGES = [0, 1, 2, 23, 24, 63, 64, 65, 127, 128, 255, 256, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536]
EDGES += [2**20, 2**26, 2**26 + 1, 2**31 - 1, 2**31, 2**32 - 1]
WORDS = ["model", "inputs", "outputs", "rows", "deadline_ms", "versions", "limits", "version", "code", "reason", "x"]
SCALARS: list[Any] = [None, True, False, 0, -1, 1, 63, 64, 2**31, 2**32, 2**40, 2**63, 2**64 - 1, -(2**63), 0.0, -0.5]
SCALARS += [math.nan, math.inf, 1e308, "", "x", "m" * 65, "é" * 65, "FP32", "BOOL", "BF16", b"", b"x", [], {}]


class Mutator:
    """Makes inputs out of a seed, the same ones each time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def next(self) -> Input:
        chance = self.chance
        if chance.random() < 0.2:
            return Input("values", self._segment())
        role = chance.choice((CLIENT, SERVER))
        state = chance.choices((OPEN, START if role == SERVER else GREETING), (8, 1))[0]
        data = b"".join(self._frame(role) for _ in range(chance.choice((1, 1, 1, 2, 3))))
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
            data = self._bytes(data)
        # Long ones are not fed byte by byte: that only tries the same copy again and again.
        piece = chance.choice((1 << 30, 1 << 30, 1, 7, 23, 25, 4096) if len(data) < 2_000 else (1 << 30, 1_000, 4096))
        return Input("peer", data, role, state, piece, chance.random() < 0.7)

    # A frame with something wrong in it, but mostly with sizes that are right: the rest would never be looked at.

    def _frame(self, role: str) -> bytes:
        chance = self.chance
        data = chance.choice(TO[role])
        if len(data) < 24 or data[:3] != f.MAGIC:
            return data
        _, version, kind, flags, credits, header_bytes, payload_bytes, request_id = PREFIX.unpack_from(data)
        header, payload = data[24 : 24 + header_bytes], data[24 + header_bytes :]
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
            what = chance.random()
            if what < 0.45:
                header = self._header(header)
            elif what < 0.55:
                payload = self._bytes(payload) if payload else bytes(chance.choice(EDGES[:20]))
            elif what < 0.62:
                payload = payload[: chance.randrange(len(payload) + 1)]
            elif what < 0.69:
                payload += bytes(chance.choice((1, 60, 64, 4096, 5000, 70_000)))
            elif what < 0.79:
                flags ^= 1 << chance.randrange(8)
            elif what < 0.89:
                kind = chance.choice((*f.TYPE_NAMES, 0, 13, 16, 19, 255))
            elif what < 0.95:
                request_id = chance.choice((0, 1, 2**32, 2**63, 2**64 - 1))
            else:
                version = chance.choice((0, 2, 255))
        header_bytes, payload_bytes = len(header), len(payload)
        if chance.random() < 0.08:
            header_bytes = chance.choice(EDGES)
        if chance.random() < 0.08:
            payload_bytes = chance.choice(EDGES)
        opening = PREFIX.pack(f.MAGIC, version, kind, flags, credits, header_bytes, payload_bytes, request_id)
        return opening + header + payload

    def _header(self, header: bytes) -> bytes:
        chance = self.chance
        what = chance.random()
        if what < 0.15:
            return self._bytes(header)
        if what < 0.25:
            return self._bomb(chance.choice((100, 2_000, 16_384)))
        try:
            fields = msgpack.unpackb(header) if header else {}
        except (ValueError, msgpack.UnpackException):
            return self._bytes(header)
        if not isinstance(fields, dict):
            return self._bytes(header)
        if chance.random() < 0.5:
            fields[chance.choice(WORDS)] = self._value(3)
        if fields and chance.random() < 0.7:
            name = chance.choice(list(fields))
            fields[name] = self._near(fields[name])
        packed: bytes = msgpack.packb(fields)
        return packed

    def _near(self, value: Any) -> Any:
        """Something like `value`, with one part of it replaced."""
        chance = self.chance
        if isinstance(value, list) and value and chance.random() < 0.85:
            value = list(value)
            what = chance.random()
            at = chance.randrange(len(value))
            if what < 0.75:
                value[at] = self._near(value[at])
            elif what < 0.85:
                value.insert(at, value[at])
            else:
                del value[at]
            return value
        if isinstance(value, int) and chance.random() < 0.5:
            return min(max(value + chance.choice((-65, -64, -1, 1, 2, 64, 2**40)), -(2**63)), 2**64 - 1)
        return self._value(2)

    def _value(self, depth: int) -> Any:
        chance = self.chance
        what = chance.random()
        if depth == 0 or what < 0.6:
            return chance.choice(SCALARS)
        if what < 0.8:
            count = chance.choice((0, 1, 3, 4, 65, 130) if depth > 2 else (1, 4))
            return [self._value(depth - 1) for _ in range(count)]
        if what < 0.9:
            return {chance.choice(WORDS): self._value(depth - 1) for _ in range(2)}
        return ["x", chance.choice(("FP32", "BOOL")), [chance.choice((0, 1, 3, 2**40)) for _ in range(3)], 64]

    def _bomb(self, size: int) -> bytes:
        """msgpack that is much larger inside than outside."""
        chance = self.chance
        data = b"\x81\xa1t"
        openings = (
            b"\x91",
            b"\x81\xa0",
            b"\xdc" + struct.pack(">H", chance.choice((1, 127, 128, 129, 10_000, 65_535))),
            b"\xdd" + struct.pack(">I", chance.choice((1, 128, 10_000, 2**20, 2**32 - 1))),
            b"\xde" + struct.pack(">H", chance.choice((1, 128, 65_535))) + b"\xa0",
            b"\xc6" + struct.pack(">I", 2**32 - 1),
            b"\xc7\x00\x05",
        )
        while len(data) < size:
            opening = chance.choice(openings)
            data += opening * min(chance.choice((1, 3, 500, 1_020, 1_030)), (size - len(data)) // len(opening) + 1)
            data += chance.choice((b"\x80", b"\x90", b"\xc0", b"\xa0", b"")) * chance.choice((0, 1, 126, 4_000))
        return data[:size]

    def _segment(self) -> bytes:
        what = self.chance.random()
        if what < 0.1:
            return self._bomb(self.chance.choice((100, 2_000, 20_000)))
        if what < 0.4:
            packed: bytes = msgpack.packb({self.chance.choice(WORDS): self._value(4) for _ in range(3)})
            return packed
        data = self.chance.choice(SEGMENTS)
        for _ in range(self.chance.choice((1, 2, 4))):
            data = self._bytes(data)
        return data

    def _bytes(self, data: bytes) -> bytes:
        """Bits, bytes, cuts and splices, for whom it hits."""
        chance = self.chance
        if not data:
            return bytes([chance.randrange(256)])
        at = chance.randrange(len(data))
        what = chance.randrange(7)
        if what == 0:
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        if what == 1:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        if what == 2:
            return data[:at]
        if what == 3:
            return data[:at] + data[at + chance.randrange(1, 9) :]
        if what == 4:
            return data[:at] + data[at : at + chance.randrange(1, 30)] + data[at:]
        if what == 5:
            other = chance.choice(SEEDS)[1]
            return data[:at] + other[chance.randrange(len(other)) :]
        number = struct.pack(chance.choice(("<I", ">I", "<I", ">I")), chance.choice(EDGES))
        return data[:at] + number + data[at + 4 :]


# ---- the run


def _hangs(signum: int, stack: object) -> None:
    raise Broken(f"no end after {HANG_S} s")


def run(seed: int, seconds: float = math.inf, inputs: float = math.inf) -> tuple[int, int, list[Path]]:
    """Fuzzes until the time or the inputs are up. Returns how many inputs and frames there were, and the findings."""
    mutator, tried, frames, findings = Mutator(seed), 0, 0, []
    end = time.monotonic() + seconds
    before = signal.signal(signal.SIGALRM, _hangs)
    try:
        while tried < inputs and (tried % 64 or time.monotonic() < end):
            one = mutator.next()
            tried += 1
            signal.setitimer(signal.ITIMER_REAL, HANG_S)
            try:
                frames += check_memory(one) if tried % WATCHED == 0 else check(one)
            except BaseException as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                if isinstance(error, KeyboardInterrupt):
                    raise
                findings.append(one.save(f"{type(error).__name__}: {error} (seed {seed}, input {tried})"))
                print(f"{findings[-1]}: {type(error).__name__}: {error}", flush=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return tried, frames, findings


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the decoders of the wire.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None, help="default: from the clock, and printed")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 2**32
    print(f"seed {seed}, {arguments.seconds:g} s", flush=True)
    start = time.monotonic()
    tried, frames, findings = run(seed, arguments.seconds)
    took = time.monotonic() - start
    print(f"{tried:,} inputs in {took:.1f} s: {tried / took:,.0f} inputs/s, {frames / took:,.0f} frames/s")
    print(f"seed {seed}: {len(findings)} findings" + "".join(f"\n  {path}" for path in findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
