"""Shared memory: who has which part, and pages that are there before they are touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from inferd.memory import GROWTH_BYTES, PAGE_BYTES, Extents, Region

SPACE = 1_000


class ExtentsModel(RuleBasedStateMachine):
    """Extents against the plainest model there is: one flag for each byte."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents(SPACE)
        self.owned = [False] * SPACE

    @rule(target=taken, nbytes=st.integers(1, SPACE // 3))
    def take(self, nbytes: int) -> tuple[int, int]:
        """What is taken was free and is the lowest that fits; nothing is given only when nothing fits."""
        free = "".join("x" if owned else "." for owned in self.owned)
        start = self.extents.take(nbytes)
        assert (-1 if start is None else start) == free.find("." * nbytes)
        if start is None:
            return 0, 0
        self.owned[start : start + nbytes] = [True] * nbytes
        return start, nbytes

    @rule(target=taken, extent=consumes(taken), share=st.floats(0, 1))
    def give(self, extent: tuple[int, int], share: float) -> tuple[int, int]:
        """A first part of what was taken, or all of it, goes back; the rest stays taken."""
        start, nbytes = extent
        part = max(int(nbytes * share), min(nbytes, 1))
        if part:
            self.extents.give(start, part)
            self.owned[start : start + part] = [False] * part
        return start + part, nbytes - part

    @rule(start=st.integers(0, SPACE - 1), nbytes=st.integers(1, SPACE))
    def give_what_is_free(self, start: int, nbytes: int) -> None:
        """Giving back anything that is free already, wholly or in part, raises and changes nothing."""
        end = min(start + nbytes, SPACE)
        if not all(self.owned[start:end]):
            with pytest.raises(ValueError, match="given back twice"):
                self.extents.give(start, end - start)

    @invariant()
    def counts_agree(self) -> None:
        """The bytes in use are those of the model, and neighbours that are free are one extent."""
        assert self.extents.used == sum(self.owned)
        free = "".join("x" if owned else "." for owned in self.owned).replace("x", " ").split()
        assert len(self.extents._starts) == len(free)
        assert [self.extents._sizes[start] for start in self.extents._starts] == [len(part) for part in free]

    def teardown(self) -> None:
        """All given back is one free extent again."""
        for start in range(SPACE):
            if self.owned[start]:
                self.extents.give(start, 1)
        assert self.extents.used == 0
        assert self.extents.take(SPACE) == 0


ExtentsModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExtents = ExtentsModel.TestCase


def test_full_and_free_again() -> None:
    """A region that is full gives nothing, and all of it once everything is back, in whatever order."""
    extents = Extents(300)
    parts = [extents.take(100) for _ in range(3)]
    assert parts == [0, 100, 200] and extents.take(1) is None and extents.used == 300
    for start in (100, 0, 200):
        extents.give(start, 100)
    assert extents.used == 0 and extents.take(300) == 0


def test_double_free() -> None:
    """The same bytes given back twice are an error, and so are bytes that reach into what is free."""
    extents = Extents(100)
    assert extents.take(50) == 0
    extents.give(0, 20)
    for start, nbytes in ((0, 20), (10, 20), (0, 50), (50, 10), (49, 2)):
        with pytest.raises(ValueError, match="given back twice"):
            extents.give(start, nbytes)
    assert extents.used == 30


def allocated(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_pages_come_as_they_are_needed() -> None:
    """A region takes pages in steps from below: never all of them at the start, never none before they are touched."""
    region = Region.create("test", 3 * GROWTH_BYTES + 1)
    try:
        assert region.nbytes == 3 * GROWTH_BYTES + PAGE_BYTES == len(region.view)
        assert allocated(region.fd) == GROWTH_BYTES
        region.ensure(GROWTH_BYTES)
        assert allocated(region.fd) == GROWTH_BYTES
        region.ensure(GROWTH_BYTES + 1)
        assert allocated(region.fd) == 2 * GROWTH_BYTES
        region.ensure(region.nbytes)
        region.ensure(1)
        assert allocated(region.fd) == region.nbytes
        region.view[-1] = 7
    finally:
        region.close()


def test_two_mappings_are_one_memory() -> None:
    """Who maps the descriptor sees the same bytes: that is how a worker gets its inputs."""
    region = Region.create("test", PAGE_BYTES)
    other = Region(os.dup(region.fd), region.nbytes)
    region.view[10:15] = b"hello"
    assert bytes(other.view[10:15]) == b"hello"
    region.close()
    assert bytes(other.view[10:15]) == b"hello"
    other.close()


def test_close_while_a_reply_is_leaving() -> None:
    """A view that is still held keeps the memory until it goes; nothing raises."""
    region = Region.create("test", PAGE_BYTES)
    leaving = region.view[:4]
    leaving[:] = b"last"
    region.close()
    assert bytes(leaving) == b"last"


def test_no_memory_is_an_error_not_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has no pages, create() and ensure() raise OSError, and create() leaves no descriptor behind."""

    def full(fd: int, offset: int, nbytes: int) -> None:
        raise OSError(28, "No space left on device")

    region = Region.create("test", 2 * GROWTH_BYTES)
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        region.ensure(GROWTH_BYTES + 1)
    with pytest.raises(OSError, match="No space"):
        Region.create("test", PAGE_BYTES)
    # The mapping keeps a duplicate of the descriptor until it is collected.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    region.close()
