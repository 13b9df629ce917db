"""What is on its way to one client: parts that wait for the end of this turn of the loop, and what the link is sending.

Results lie in a worker's arena, and what a worker has written is its again when nobody reads it any more. Small results
are joined with their neighbours into one write, which copies them; large ones are sent from where they lie, and their
place is held until the kernel has taken them. Synchronous; the socket is behind `Link`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from inferd.serve.pool import Arena

# A reply up to this size is copied into one write with its neighbours, and its place in the arena is free at once;
# a larger one is sent from where it lies.
COPY_BYTES = 64 * 1024
# With more than this unsent, a connection's waiting requests stay undone and its finished ones leave the arena: a slow
# reader must not hold what others need.
CONGESTED_BYTES = 1024 * 1024


class Link(Protocol):
    """The socket of a session. Writing never raises: what comes after the end is dropped."""

    name: str
    behind: bool  # the kernel does not take all that is written
    copies: bool  # what is written is copied at once

    def write(self, data: bytes) -> None:
        """Sends, or queues what the kernel does not take."""

    def writelines(self, buffers: list[bytes | memoryview]) -> None:
        """Sends several buffers as one."""

    def unsent(self) -> int:
        """Bytes queued here that the kernel has not taken."""

    def close(self) -> None:
        """Ends the connection when what is queued has been sent."""

    def abort(self) -> None:
        """Ends the connection now."""


class Outbox:
    """One session's. `parts` wait for `flush`; `congested` is set while the link has too much unsent.

    `feed` is called with an arena whose worker waits for room, when some of it has become free.
    """

    __slots__ = (
        "_feed",
        "_has_views",
        "_held",
        "_held_bytes",
        "_link",
        "_waiting_bytes",
        "_written",
        "congested",
        "parts",
    )

    def __init__(self, link: Link, feed: Callable[[Arena], None]) -> None:
        self.parts: list[bytes | memoryview] = []
        self.congested = False
        self._link = link
        self._feed = feed
        self._waiting_bytes = 0
        self._has_views = False
        self._written = 0  # bytes handed to the link since it opened
        # Parts of arenas that are being sent: (position in the stream behind them, arena, offset, bytes).
        self._held: deque[tuple[int, Arena, int, int]] = deque()
        self._held_bytes = 0

    def push(self, data: bytes) -> None:
        """Bytes of ours."""
        self.parts.append(data)
        self._waiting_bytes += len(data)

    def push_result(self, head: bytes, arena: Arena, offset: int, nbytes: int) -> None:
        """`head`, and behind it bytes that lie in an arena. They are the worker's again as soon as they have left."""
        self.parts.append(head)
        self._waiting_bytes += len(head) + nbytes
        if not nbytes:
            return
        view = arena.view[offset : offset + nbytes]
        if nbytes <= COPY_BYTES:
            # Joined with the others before this turn of the loop is over, so the worker may have it back.
            self.parts.append(view)
            arena.give_back(offset, nbytes)
        elif self._link.copies:
            self.parts.append(view)
            self._has_views = True
            arena.give_back(offset, nbytes)
        elif not arena.may_hold(nbytes, self.congested):
            self.parts.append(bytes(view))
            arena.give_back(offset, nbytes)
        else:
            self.parts.append(view)
            self._has_views = True
            arena.held += nbytes
            self._held_bytes += nbytes
            self._held.append((self._written + self._waiting_bytes, arena, offset, nbytes))

    def flush(self) -> bool:
        """Hands what waits to the link, in one gathered write. Returns whether that has made it congested."""
        parts = self.parts
        if self._has_views:
            # Views that are sent later must be those that are held; small ones are copied now.
            self._link.writelines(
                [part if isinstance(part, bytes) or len(part) > COPY_BYTES else bytes(part) for part in parts]
            )
            self._has_views = False
        else:
            self._link.write(b"".join(parts))
        self._written += self._waiting_bytes
        self._waiting_bytes = 0
        self.parts = []
        if self._held:
            self.release_sent()
        if self._link.behind and not self.congested and self._link.unsent() > CONGESTED_BYTES:
            self.congested = True
            return True
        return False

    def waiting(self) -> int:
        """Bytes of the daemon's own memory that the kernel has not taken; what lies in an arena is not."""
        return max(0, self._link.unsent() - self._held_bytes)

    def taken(self) -> int:
        """Bytes that the kernel has taken since the link opened."""
        return self._written - self._link.unsent()

    @property
    def starves(self) -> bool:
        """Whether a worker waits for room in an arena of which something is still to be sent here."""
        return any(arena.starved for _, arena, _, _ in self._held)

    def drained(self) -> None:
        """The link has sent everything."""
        self.release_sent()
        self.congested = False

    def abandon(self) -> None:
        """The link is gone, and nothing more will leave."""
        self.parts.clear()
        while self._held:
            self._release_first()

    def release_sent(self) -> None:
        """Gives back the parts of arenas that the kernel has taken."""
        held = self._held
        sent = self.taken()
        while held and held[0][0] <= sent:
            self._release_first()

    def _release_first(self) -> None:
        _, arena, offset, nbytes = self._held.popleft()
        arena.held -= nbytes
        self._held_bytes -= nbytes
        arena.give_back(offset, nbytes)
        if arena.starved:
            self._feed(arena)
