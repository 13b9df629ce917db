"""The devices, as far as the order of things goes: how many there are, and what runs on them."""

from __future__ import annotations

from typing import Generic, TypeVar

from inferd.schedule.batch import Batch
from inferd.schedule.ticket import Ticket

T = TypeVar("T", bound=Ticket)


class Devices(Generic[T]):
    """`count` equal devices, which may become fewer and more. `turn` changes whenever a batch begins or ends."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.running: list[Batch[T]] = []
        self.turn = 0

    @property
    def is_one_free(self) -> bool:
        """Whether a batch could begin now."""
        return len(self.running) < self.count

    def next_end(self) -> float:
        """When the first of the running batches should be done."""
        return min(batch.ends_at for batch in self.running)

    def begin(self, batch: Batch[T]) -> None:
        """The batch runs."""
        self.running.append(batch)
        self.turn += 1

    def end(self, batch: Batch[T]) -> None:
        """It is done, or lost; one that does not run changes nothing."""
        self.turn += 1
        if batch in self.running:
            self.running.remove(batch)
