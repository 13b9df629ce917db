"""asyncio without sockets and without time: whenever nothing is left to do, the clock jumps to what is due next.

So the daemon's engine runs as it is, minutes of its life take milliseconds, and the same calls come in the same order
each time.
"""

from __future__ import annotations

import asyncio
from typing import Any

STARTS_AT_S = 1000.0


class VirtualLoop(asyncio.BaseEventLoop):
    """`complaints` are what its callbacks and tasks have raised and nobody has caught."""

    def __init__(self) -> None:
        super().__init__()
        self._now = STARTS_AT_S
        self._selector = self  # what BaseEventLoop waits in
        self._clock_resolution = 1e-9
        self.complaints: list[str] = []
        self.stalls: list[tuple[float, float]] = []  # (from, to)
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._now

    def spend(self, seconds: float) -> None:
        """The callback that runs takes so long."""
        self._now += seconds

    def stall(self, seconds: float) -> None:
        """The machine gives this process nothing for so long."""
        self.stalls.append((self._now, self._now + seconds))
        self._now += seconds

    def stalled_s(self, start: float, end: float) -> float:
        """How much of the time between them was a stall."""
        return sum(max(0.0, min(end, to) - max(start, at)) for at, to in self.stalls)

    def select(self, timeout: float | None) -> list[Any]:
        """Nobody ever sends anything: waiting is all there is to it."""
        if timeout is None:
            raise RuntimeError("nothing is left that could happen, and somebody still waits")
        self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {error!r}")
