"""The slab: where requests lie while they wait and run. The loop process owns it; workers only read it.

Rows of one lane are handed out one behind the other from chunks, so that consecutive arrivals are consecutive rows and
a batch of them is one view. A chunk goes back when the last of its rows does.
"""

from __future__ import annotations

from collections.abc import Hashable

from inferd.memory import Extents, Region
from inferd.wire.tensor import aligned

# Rows in a chunk: a batch's worth, as long as that is no more than the second figure.
CHUNK_ROWS = 64
CHUNK_BYTES = 1024 * 1024
# Until so great a part of the slab is taken, as in a fourth.
ROOMY = 4


class Chunk:
    """Rows of one size; `live` of the `used` ones are still held."""

    __slots__ = ("live", "place", "row_bytes", "rows", "start", "used")

    def __init__(self, place: Hashable, start: int, row_bytes: int, rows: int) -> None:
        self.place = place
        self.start = start
        self.row_bytes = row_bytes
        self.rows = rows
        self.used = 0
        self.live = 0


class Slab:
    """Rows in a region. Synchronous; knows no clock and no socket."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.view = region.view
        self._extents = Extents(region.nbytes)
        self._open: dict[Hashable, Chunk] = {}

    @property
    def used_bytes(self) -> int:
        """What chunks hold, whether all their rows are in use or not."""
        return self._extents.used

    def reserve(self, lane: Hashable, nbytes: int) -> tuple[Chunk, int] | None:
        """A row of at least `nbytes` (> 0) next to the lane's last one: its chunk and offset; None when full."""
        row_bytes = aligned(nbytes)
        place = (lane, row_bytes)
        chunk = self._open.get(place)
        if chunk is None or chunk.used == chunk.rows:
            chunk = self._new_chunk(place, row_bytes)
            if chunk is None:
                return None
            self._open[place] = chunk
        offset = chunk.start + chunk.used * row_bytes
        chunk.used += 1
        chunk.live += 1
        return chunk, offset

    def _new_chunk(self, place: Hashable, row_bytes: int) -> Chunk | None:
        # When there is no room for many rows there may be for one. And when much is taken nobody gets rows that he may
        # never need: of 16 KiB, and no other row of its size, a chunk is 1 MiB.
        many = max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes))
        for rows in (many, 1) if self._extents.used < self.region.nbytes // ROOMY else (1,):
            start = self._extents.take(rows * row_bytes)
            if start is not None:
                try:
                    self.region.ensure(start + rows * row_bytes)
                except OSError:
                    self._extents.give(start, rows * row_bytes)
                    return None
                return Chunk(place, start, row_bytes, rows)
        return None

    def release(self, chunk: Chunk) -> None:
        """One of the chunk's rows is not needed any more."""
        chunk.live -= 1
        if chunk.live == 0:
            if self._open.get(chunk.place) is chunk:
                del self._open[chunk.place]
            self._extents.give(chunk.start, chunk.rows * chunk.row_bytes)
