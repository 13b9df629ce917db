"""Who waits: the lanes and their tickets, when their time is over, what they will cost. Nothing is decided here."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

from inferd.schedule.known import Known
from inferd.schedule.lane import Lane
from inferd.schedule.shares import Shares
from inferd.schedule.ticket import State, Ticket

T = TypeVar("T", bound=Ticket)


class Queue(Generic[T]):
    """All lanes of all models. `count` counts the tickets that wait, in lanes or to run again; `backlog` is what those
    in lanes cost in full batches, in seconds of device."""

    def __init__(self, known: Known) -> None:
        self.count = 0
        self.backlog = 0.0
        self.lanes: dict[Hashable, Lane[T]] = {}
        self.shares = Shares()
        self._known = known
        self._expiry: list[tuple[float, int, T]] = []
        self._number = 0

    def join(self, ticket: T, workers: int, now: float) -> None:
        """The ticket joins its lane, at its place; its client is charged for it."""
        lane = self._lane(ticket)
        ticket.state = State.QUEUED
        ticket.queued_at = now
        ticket.key = self.shares.key(ticket, now)
        if ticket.place is not None and ticket.place < ticket.key:
            ticket.key = ticket.place
        ticket.cost = lane.row_seconds() * ticket.rows
        self.backlog += ticket.cost
        if ticket.client is not None:
            self.shares.waits(ticket.client)
            ticket.charge = self.shares.charge(ticket, ticket.cost, workers, now)
        self._number += 1
        ticket.in_lane = True
        lane.add(ticket, self._number)
        self.count += 1
        if ticket.due is not None:
            if len(self._expiry) > 4 * self.count + 1024:  # mostly tickets that are over
                self._expiry = [entry for entry in self._expiry if entry[2].state is State.QUEUED]
                heapq.heapify(self._expiry)
            heapq.heappush(self._expiry, (ticket.due, self._number, ticket))

    def join_again(self, ticket: T) -> None:
        """The ticket has run, or was to, and waits to run again: in no lane."""
        self.count += 1
        ticket.state = State.QUEUED
        if ticket.due is not None:
            self._number += 1
            heapq.heappush(self._expiry, (ticket.due, self._number, ticket))
        if ticket.client is not None:
            self.shares.waits(ticket.client)

    def leave(self, ticket: T, state: State) -> None:
        """The ticket waits no longer: it runs, or is over."""
        ticket.state = state
        self.count -= 1
        if ticket.client is not None:
            self.shares.waits_no_more(ticket, ticket.client, state is State.RUNNING)
        if ticket.in_lane:
            ticket.in_lane = False
            self.backlog -= ticket.cost
            lane = self.lanes[ticket.lane]
            lane.removed(ticket)
            if not lane.count:
                del self.lanes[ticket.lane]
                if not self.lanes:
                    self.backlog = 0.0  # what rounding has left

    def withdraw(self, ticket: T) -> bool:
        """Takes a waiting ticket back; it will not run. False when it is running or over already."""
        if ticket.state is not State.QUEUED:
            return False
        self.leave(ticket, State.OVER)
        return True

    def next_expiry(self) -> float | None:
        """When `expire` has something to do at the earliest."""
        expiry = self._expiry
        while expiry and expiry[0][2].state is not State.QUEUED:
            heapq.heappop(expiry)
        return expiry[0][0] if expiry else None

    def expire(self, now: float) -> list[T]:
        """Takes out the tickets whose time is over."""
        late: list[T] = []
        expiry = self._expiry
        while expiry and (expiry[0][0] <= now or expiry[0][2].state is not State.QUEUED):
            ticket = heapq.heappop(expiry)[2]
            if self.withdraw(ticket):
                late.append(ticket)
        return late

    def first(self) -> Lane[T] | None:
        """The lane whose head is due first."""
        first: Lane[T] | None = None
        first_key = 0.0
        for lane in self.lanes.values():
            head = lane.head()
            if head is not None and (first is None or head.key < first_key):
                first, first_key = lane, head.key
        return first

    def passed_over(self, since: float) -> T | None:
        """Of those whom no batch takes along (`Lane.passed_over`) who has the least time left."""
        entries = (lane.passed_over(since) for lane in self.lanes.values())
        first = min((entry for entry in entries if entry is not None), default=None)
        return None if first is None else first[2]

    def full_round(self, lane: Lane[T], workers: int) -> float:
        """Seconds between two full batches of a lane while all lanes have work."""
        return lane.latency.mean(lane.largest) * len(self.lanes) / workers

    def _lane(self, ticket: T) -> Lane[T]:
        lane = self.lanes.get(ticket.lane)
        if lane is None:
            latency = self._known.latency(ticket.lane, ticket.weight)
            lane = self.lanes[ticket.lane] = Lane(
                ticket.lane, latency, self._known.largest(ticket.lane, ticket.max_rows)
            )
        return lane
