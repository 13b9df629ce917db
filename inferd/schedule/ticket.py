"""What the scheduler knows of one request."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum


class State(Enum):
    """Where a ticket is. Only QUEUED tickets can be taken or withdrawn."""

    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    OVER = "over"


class Ticket:
    """One request in the scheduler's eyes.

    `lane` says with whom it may share a batch, `rows` and `nbytes` how large it is, `max_rows` how many rows a batch of
    its lane may have, `due` when its caller stops waiting (seconds on the clock of `now`, None: never), `losses` how
    many workers have died with it.
    """

    __slots__ = ("due", "lane", "losses", "max_rows", "nbytes", "queued_at", "rows", "state")

    def __init__(self, lane: Hashable, rows: int, nbytes: int, max_rows: int, due: float | None) -> None:
        self.lane = lane
        self.rows = rows
        self.nbytes = nbytes
        self.max_rows = max_rows
        self.due = due
        self.queued_at = 0.0
        self.losses = 0
        self.state = State.NEW
