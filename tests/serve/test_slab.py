"""The slab's accounting: rows of a lane lie one behind the other, and all of it comes back."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from inferd.memory import Region
from inferd.serve.slab import Slab


@pytest.fixture
def slab() -> Iterator[Slab]:
    region = Region.create("test", 4 * 1024 * 1024)
    yield Slab(region)
    region.close()


def test_consecutive_arrivals_are_consecutive_rows(slab: Slab) -> None:
    """Even when two lanes arrive interleaved."""
    offsets: dict[str, list[int]] = {"a": [], "b": []}
    for number in range(20):
        lane = "ab"[number % 2]
        row = slab.reserve(lane, 100)
        assert row is not None
        offsets[lane].append(row[1])
    for found in offsets.values():
        assert [second - first for first, second in itertools.pairwise(found)] == [128] * 9


def test_a_slab_without_room_says_so_and_recovers(slab: Slab) -> None:
    """Full is None, not an error; what is released can be had again."""
    rows = []
    while (row := slab.reserve("a", 1024 * 1024)) is not None:
        rows.append(row)
    assert len(rows) == 4
    slab.release(rows[0][0])
    assert slab.reserve("b", 1000) is not None
    assert slab.reserve("a", 1024 * 1024) is None


def test_rows_of_many_sizes_do_not_take_the_slab_with_what_they_do_not_use(slab: Slab) -> None:
    """Each opens a chunk for more of its size only while there is much room: 180 rows of 16 KiB are 2.8 MiB of 4."""
    rows = [slab.reserve(number, 16 * 1024) for number in range(180)]
    assert all(rows) and slab.reserve("other", 128 * 1024) is not None


def test_when_a_chunk_does_not_fit_a_row_may(slab: Slab) -> None:
    """Little room is used row by row."""
    big = [slab.reserve("big", 1024 * 1024) for _ in range(3)]
    rest = slab.reserve("half", 1024 * 1024 - 64)
    assert all(big) and rest is not None
    assert slab.reserve("small", 64) is not None
    assert slab.reserve("small", 64) is None


def test_everything_comes_back(slab: Slab) -> None:
    """Random lives of rows of all sizes leave nothing behind, and no two live rows overlap."""
    rng = random.Random(7)
    live: list[tuple[object, int, int]] = []
    for _ in range(5000):
        if rng.random() < 0.55:
            nbytes = rng.choice([1, 64, 1000, 5000, 70_000])
            row = slab.reserve(rng.choice("abcd"), nbytes)
            if row is not None:
                for _, start, size in live:
                    assert row[1] + nbytes <= start or start + size <= row[1]
                live.append((row[0], row[1], nbytes))
        elif live:
            slab.release(live.pop(rng.randrange(len(live)))[0])  # type: ignore[arg-type]
    for chunk, _, _ in live:
        slab.release(chunk)  # type: ignore[arg-type]
    assert slab.used_bytes == 0
