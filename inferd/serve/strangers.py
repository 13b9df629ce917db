"""Strangers: connections that have not said HELLO. Anybody can be one, so there are few, and they have little time.

A client says HELLO as its first bytes, so it is a stranger for as long as those take. There are at most MAX_STRANGERS.
Whoever comes next is not refused but waits in the kernel's queue: after a restart a thousand clients come at once, and
each has its turn within milliseconds. Only if a place does not become free by itself within GRACE_S is the stranger
closed that has been silent longest. The grace shrinks with each that had to be closed, and grows with each that said
HELLO: those who connect to say nothing lose their places ever faster, and a client that speaks needs one for a moment
only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from inferd.serve.patience import HELLO_TIMEOUT_S

MAX_STRANGERS = 64
# What a stranger is left at first when others wait for its place. Of 1,000 clients that one busy process opened at
# once, 128 and 215 were closed at 0.25 s, because it opens all of them before it writes to any; at 1 s none (measured).
GRACE_S = 1.0
# And at least, which is enough for a handshake of TLS over 100 ms there and back.
LEAST_GRACE_S = 0.2
# After 64 that were closed the grace is a quarter.
SHRINKS, GROWS = 0.98, 1.1

T = TypeVar("T")


class Strangers(Generic[T]):
    """Who they are, and since when. `when_room` is called when one leaves and all places were taken."""

    def __init__(self) -> None:
        self.coming = 0  # accepted, and not yet here by name
        self.when_room: Callable[[], None] = lambda: None
        self._since: dict[T, float] = {}
        self._grace_s = GRACE_S
        self._pressed_until = 0.0  # until then they have no more than the grace

    def __len__(self) -> int:
        # For a moment one is counted twice: places are rather too few than too many.
        return len(self._since) + self.coming

    @property
    def full(self) -> bool:
        """Whether nobody else may come now."""
        return len(self) >= MAX_STRANGERS

    def add(self, stranger: T, now: float) -> None:
        """One more. They are added in the order in which they come."""
        self._since[stranger] = now

    def greeted(self, stranger: T) -> None:
        """It has said HELLO, and may stay."""
        self._grace_s = min(GRACE_S, self._grace_s * GROWS)
        self.discard(stranger)

    def discard(self, stranger: T) -> None:
        """It is none any more, or gone."""
        was_full = self.full
        if self._since.pop(stranger, None) is not None and was_full:
            self.when_room()

    def press(self, now: float) -> None:
        """Others wait for a place, and there is none."""
        self._pressed_until = now + HELLO_TIMEOUT_S

    def overdue(self, now: float) -> T | None:
        """The one whose time is over, the oldest first. It counts as closed for want of places if others have waited
        of late."""
        if now >= self._pressed_until:
            self._grace_s = GRACE_S
        for stranger, since in self._since.items():
            if now < since + self._patience_s(now):
                return None
            self._grace_s = max(LEAST_GRACE_S, self._grace_s * SHRINKS)
            return stranger
        return None

    def next_due(self, now: float) -> float | None:
        """When `overdue` has to be asked next."""
        return next((since + self._patience_s(now) for since in self._since.values()), None)

    def _patience_s(self, now: float) -> float:
        return self._grace_s if now < self._pressed_until else HELLO_TIMEOUT_S
