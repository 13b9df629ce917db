"""What other servers do, in the same daemon: first come, first served, and a batching window.

    python benchmarks/policies.py first-come serve virtual --listen …
    python benchmarks/policies.py window:10  serve virtual --listen …       (milliseconds)
    python benchmarks/policies.py timeout    serve virtual --listen …

starts `inferd serve …` with that policy in the scheduler's place; everything else is the product's. They are here so
that a difference in a table is the policy's, and not that of another transport, another codec, another language.

    first-come   a queue; whatever is there runs when the device is free, in the order of arrival
    window       the same, but a batch that is not full waits until its oldest request has waited so long
    timeout      first come, and what is past its deadline when its turn comes is dropped
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from inferd.schedule.batch import Batch
from inferd.schedule.scheduler import Scheduler, Taken
from inferd.schedule.ticket import State, Ticket
from inferd.serve import daemon
from inferd.serve.engine import Engine


class FirstCome(Scheduler[Any]):
    """For one model with one shape that never fails."""

    def __init__(self, window_s: float = 0.0, drops: bool = False) -> None:
        super().__init__()
        self.wake: Callable[[], None] = lambda: None
        self._window_s = window_s
        self._drops = drops
        self._line: deque[Ticket] = deque()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        return self._waiting

    def admit(self, ticket: Ticket, now: float) -> float | None:
        """Everybody is let in."""
        return None

    def submit(self, ticket: Ticket, now: float) -> None:
        ticket.state = State.QUEUED
        ticket.queued_at = now
        ticket.key = now
        self._line.append(ticket)
        self._waiting += 1

    def withdraw(self, ticket: Ticket) -> bool:
        if ticket.state is not State.QUEUED:
            return False
        ticket.state = State.OVER
        self._waiting -= 1
        return True

    def next_expiry(self) -> float | None:
        return None

    def expire(self, now: float) -> list[Any]:
        return []

    def take(self, now: float, why: str = "freed") -> Taken[Any]:
        line, late = self._line, []
        while line and line[0].state is not State.QUEUED:
            line.popleft()
        if not line:
            return Taken(None, [], [])
        ripe = line[0].queued_at + self._window_s
        if self._waiting < line[0].max_rows and now < ripe:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(ripe - now, self._ripe)
            return Taken(None, [], [])
        tickets: list[Ticket] = []
        while line and len(tickets) < line[0].max_rows:
            ticket = line.popleft()
            if ticket.state is not State.QUEUED:
                continue
            self._waiting -= 1
            if self._drops and ticket.due is not None and ticket.due <= now:
                ticket.state = State.OVER
                late.append(ticket)
            else:
                ticket.state = State.RUNNING
                tickets.append(ticket)
        if not tickets:
            return Taken(None, late, [])
        batch: Batch[Any] = Batch(tickets)
        batch.why = why
        batch.started_at = now
        batch.rows = len(tickets)
        return Taken(batch, late, [])

    def _ripe(self) -> None:
        self._timer = None
        self.wake()

    def settle(self, batch: Batch[Any], seconds: float | None = None) -> None:
        for ticket in batch.tickets:
            ticket.state = State.OVER

    def lost(self, batch: Batch[Any]) -> list[Any]:
        return batch.tickets


def make(policy: str) -> FirstCome:
    """By name."""
    name, _, milliseconds = policy.partition(":")
    if name == "window":
        return FirstCome(float(milliseconds or 10) / 1000)
    if name in ("first-come", "timeout"):
        return FirstCome(drops=name == "timeout")
    raise SystemExit(f"{policy!r} is no policy: first-come, window:MILLISECONDS or timeout")


def main() -> None:
    """`inferd`, with another scheduler."""
    policy, sys.argv[1:] = sys.argv[1], sys.argv[2:]

    def engine(settings: Any, executor: Any) -> Engine:
        scheduler = make(policy)
        made = Engine(settings, executor, scheduler=scheduler)
        scheduler.wake = made._dispatch
        return made

    daemon.Engine = engine  # type: ignore[attr-defined,assignment]
    from inferd.cli import main as inferd

    inferd()


if __name__ == "__main__":
    main()
