"""Many frames, fast: a pool of frames that the mutator of fuzz_wire.py has made, with a few bytes changed in each.

Finding new ground is the mutator's part; this one covers it densely, at some hundred times its rate.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from inferd.errors import ProtocolError
from inferd.wire.frame import HELLO, MAGIC, PREFIX_BYTES
from inferd.wire.peer import CLOSED, MAX_BUFFER_BYTES, OPEN, SERVER, Peer
from tests.fuzz.fuzz_session import STRANGERS, Bench
from tests.fuzz.fuzz_wire import TO, Broken, Input, Mutator

POOL = 500
RENEWED_EVERY = 50_000
LONGEST_BYTES = 2_000
FRAMES_IN_A_ROW = 4
SLICE = 256  # inputs between two looks at the clock


@dataclass
class Tally:
    """How much was tried, in how long, and what was found."""

    inputs: int = 0
    frames: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


class Bulk:
    """Inputs and their checks. The same seed makes the same ones in the same order."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._mutator = Mutator(seed)
        self._bench = Bench()
        self._left = 0
        self._number = 0
        self._peer_room = memoryview(bytearray(1 << 20))
        self.last: Input | None = None
        self.of = {"decoder": Tally(), "session": Tally()}

    def close(self) -> None:
        self._bench.close()

    def _frames(self) -> list[bytes]:
        if self._left <= 0:
            pool = [data for data in TO[SERVER] if PREFIX_BYTES <= len(data) <= LONGEST_BYTES and data[4] != HELLO]
            pool *= POOL // (2 * len(pool))
            while len(pool) < POOL:
                data = self._mutator._frame(SERVER)
                if PREFIX_BYTES <= len(data) <= LONGEST_BYTES:
                    pool.append(data)
            self._pool, self._left = pool, RENEWED_EVERY
        self._left -= 1
        return self._chance.choices(self._pool, k=self._chance.randrange(1, FRAMES_IN_A_ROW + 1))

    def _next(self) -> bytes:
        """Frames in a row. In most inputs one is damaged, seldom in its prefix, so that its header is looked at."""
        chance = self._chance
        frames = self._frames()
        at = chance.randrange(len(frames))
        self._number += 1
        for index, frame in enumerate(frames):
            if frame[:3] == MAGIC and chance.random() < 0.7:  # an id in flight ends the connection
                number = self._number * FRAMES_IN_A_ROW + index
                frames[index] = frame[:16] + number.to_bytes(8, "little") + frame[24:]
        if chance.random() < 0.6:
            damaged = bytearray(frames[at])
            low = 0 if chance.random() < 0.1 or len(damaged) == PREFIX_BYTES else PREFIX_BYTES
            for _ in range(chance.choice((1, 1, 2, 4))):
                place = chance.randrange(low, len(damaged))
                damaged[place] = chance.choice((damaged[place] ^ 1 << chance.randrange(8), chance.randrange(256)))
            frames[at] = bytes(damaged)
        return b"".join(frames)

    def run(self, what: str, seconds: float, frames: float) -> None:
        """The "decoder" or the "session", until the time is up or so many frames were tried."""
        tally = self.of[what]
        one = self._decode if what == "decoder" else self._converse
        started = time.perf_counter()
        goal = tally.frames + frames
        try:
            while tally.frames < goal and time.perf_counter() - started < seconds:
                for _ in range(SLICE):
                    tally.frames += one()
                    tally.inputs += 1
        finally:
            tally.seconds += time.perf_counter() - started

    def _decode(self) -> int:
        data = self._next()
        self.last = Input("peer", data, SERVER, OPEN)
        peer = Peer(SERVER)
        peer._become(OPEN)
        at, count = 0, 0
        try:
            while at < len(data):
                room = peer.get_buffer()
                taken = min(len(room), len(data) - at)
                room[:taken] = data[at : at + taken]
                at += taken
                peer.buffer_updated(taken)
                while (frame := peer.next_frame()) is not None:
                    count += 1
                    if not frame.complete:
                        nbytes = frame.payload_bytes
                        peer.accept(self._peer_room if nbytes <= len(self._peer_room) else None)
        except ProtocolError as error:
            if peer.state != CLOSED:
                raise Broken("a ProtocolError that did not close the peer") from error
            count += 1
        if len(peer._buffer) > MAX_BUFFER_BYTES:
            raise Broken("the buffer grew past its cap")
        return max(1, count)

    def _converse(self) -> int:
        chance = self._chance
        what = chance.random()
        if what < 0.03:
            data = bytearray(chance.choice(STRANGERS))
            for _ in range(chance.choice((0, 1, 3))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            self.last = Input("stranger", bytes(data))
            self._bench.check(bytes(data), greets=False)
            return 1
        data = b"".join(self._next() for _ in range(chance.choice((1, 1, 1, 5))))
        piece = chance.choice((1 << 30, 1 << 30, 1 << 30, 1000, 25))
        self.last = Input("session", data, piece=piece, keep=what < 0.8)
        return 1 + self._bench.check(data, reads=what < 0.8, piece=piece)
