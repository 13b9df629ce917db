"""One request: its ticket in the schedule, with its way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.schedule.ticket import CLASSES, State, Ticket
from inferd.serve.admission import Plan
from inferd.serve.slab import Chunk
from inferd.wire.messages import Infer

if TYPE_CHECKING:
    from inferd.serve.session import Session

# A newer request with a key may be so much larger than the one whose place it takes: a few more letters.
LARGER_BYTES = 256


class Request(Ticket):
    """A ticket with its way back: whose it is, where its payload lies. `session` is None when nobody waits for it."""

    __slots__ = ("chunk", "has_values", "header", "id", "killed", "offset", "parked", "plan", "session")

    def __init__(
        self,
        session: Session,
        id: int,
        header: Infer,
        plan: Plan,
        nbytes: int,
        has_values: bool,
        due: float | None,
        now: float,
    ) -> None:
        super().__init__(
            plan.lane_of(nbytes, has_values),
            plan.rows or 1,
            nbytes,
            plan.model.max_batch_size,
            due,
            now,
            session.owner,
            CLASSES[header.priority],
            plan.weight,
        )
        self.session: Session | None = session
        self.id = id
        self.header = header
        self.plan = plan
        self.has_values = has_values
        self.chunk: Chunk | None = None
        self.offset = 0
        self.killed: tuple[int, ...] = ()  # the workers that died while they computed it
        self.parked = False  # waits until its client has read enough to have answers again

    @property
    def waits(self) -> bool:
        """Whether its payload is there and it has not begun: in the queue, or parked behind a slow link."""
        return self.state is State.QUEUED or self.parked

    def adds_nothing_to(self, older: Request) -> bool:
        """Whether it is no more work than the other one, so that it may have its place."""
        return (
            self.plan.model is older.plan.model
            and self.rows <= older.rows
            and self.nbytes <= older.nbytes + LARGER_BYTES
            and self.priority >= older.priority
        )
