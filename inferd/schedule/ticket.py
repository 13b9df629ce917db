"""What the scheduler knows of one request, and of who sent it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

# How far a class moves its requests in the order of deadlines, as a share of their budget. It is bounded, so batch work
# ages in: a standard request that arrives later than that is behind it.
CLASSES = {"interactive": -0.25, "standard": 0.0, "batch": 1.0}
# The budget that orders a request with neither a deadline nor an objective, in seconds: what the Python client gives
# its calls. With less, whoever says nothing goes before all who left it at that, whatever he has used (with 1 s two
# requests of 4,096 rows at a time kept such a one waiting for 25 s).
ORDER_BUDGET_S = 30.0


class State(Enum):
    """Where a ticket is. Only QUEUED tickets can be taken or withdrawn."""

    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    OVER = "over"


class Client:
    """Whoever is to get a fair share: a token, a user or an address, however many connections it opens.

    `tag` is the time by which the device would have done all of this client's work, had the client its fair share of it
    (the finish tag of start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996). `queued` counts its waiting tickets,
    `arriving_bytes` what of its payloads is announced and not here.
    """

    __slots__ = ("arriving_bytes", "name", "queued", "tag")

    def __init__(self, name: str) -> None:
        self.name = name
        self.tag = 0.0
        self.queued = 0
        self.arriving_bytes = 0


class Ticket:
    """One request in the scheduler's eyes.

    `lane` says with whom it may share a batch, `rows` and `nbytes` how large it is, `max_rows` how many rows a batch of
    its lane may have, `weight` how large a row is if those of its model's warm-up are 1; `due` is when its answer must
    be computed (seconds on the clock of `now`, None: never), `arrived` when it came; `losses` counts the workers that
    have died with it.
    """

    __slots__ = (
        "arrived",
        "charge",
        "client",
        "cost",
        "due",
        "in_lane",
        "key",
        "lane",
        "losses",
        "max_rows",
        "nbytes",
        "place",
        "priority",
        "queued_at",
        "rows",
        "state",
        "weight",
    )

    def __init__(
        self,
        lane: Hashable,
        rows: int,
        nbytes: int,
        max_rows: int,
        due: float | None,
        arrived: float = 0.0,
        client: Client | None = None,
        priority: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        self.weight = weight
        self.lane = lane
        self.rows = rows
        self.nbytes = nbytes
        self.max_rows = max_rows
        self.due = due
        self.arrived = arrived
        self.client = client
        self.priority = priority
        self.key = 0.0  # its place in the order of its lane
        self.place: float | None = (
            None  # the key of the one whose place it takes, so that typing does not starve itself
        )
        self.in_lane = False  # not while it waits to run again
        self.queued_at = 0.0
        self.cost = 0.0  # seconds of device, in a full batch
        self.charge = 0.0  # what its client's tag was moved by; given back if it never runs
        self.losses = 0
        self.state = State.NEW

    @property
    def budget(self) -> float:
        """The time it had when it came, in seconds."""
        return ORDER_BUDGET_S if self.due is None else self.due - self.arrived
