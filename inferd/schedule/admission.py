"""Admission: is the answer possible in time, given what waits before it? Asked when only the header is here."""

from __future__ import annotations

import itertools
from typing import Generic, TypeVar

from inferd.schedule.devices import Devices
from inferd.schedule.known import Known
from inferd.schedule.lane import Lane, Verdict
from inferd.schedule.latency import Latency
from inferd.schedule.queue import Queue
from inferd.schedule.ticket import Ticket

# A lane that refuses all and has run nothing for so many budgets runs one request all the same: what was learned must
# be able to turn out wrong.
PROBE_AFTER = 4.0
# Admission counts only so much of the wait that it expects: batches that are shorter than usual have room for more, and
# whoever was let in for nothing is refused when his turn comes. Simulated, goodput at 2×, α5 β1 D25, 20 % noise, and
# how many refusals come at the header: 0.92 λ* and none at 0.5, 0.91 and 3 % at 0.7, 0.90 and 25 % at 0.8, 0.64
# and 96 % at 1. Four models on one device: 3226/s at 0.5, 3090 at 0.7, 2278 at 1.
KINDNESS = 0.7
# How many batches ahead admission looks; a request with time for more than that is let in.
LOOK_AHEAD = 8
# What admission found for one request holds for a sixteenth of a batch like it, until the next batch: for seven more
# where batches have 128 rows.
ALIKE = 16
# With more lanes than this, what comes before a request is estimated from so many of them.
LANES_LOOKED_AT = 16
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 0.001, 10.0

T = TypeVar("T", bound=Ticket)


class Admission(Generic[T]):
    """Looks at the queue and the devices, and changes nothing."""

    def __init__(self, queue: Queue[T], devices: Devices[T], known: Known) -> None:
        self._queue = queue
        self._devices = devices
        self._known = known

    def admit(self, ticket: T, now: float) -> float | None:
        """None when the answer can be there in time; else the seconds after which it is worth trying again.

        Meant for the moment when only the header is known; nothing is changed but the count of refusals.
        """
        if not (self._queue.count or self._devices.running):
            return None  # an idle device loses nothing by trying, and learns
        lane = self._queue.lanes.get(ticket.lane)
        if ticket.due is None:
            return self._ahead_of_share(ticket, lane, now)
        latency = lane.latency if lane is not None else self._known.latencies.get(ticket.lane)
        if latency is None or not latency.known:
            return None
        ahead = self._queue.backlog
        if len(self._queue.lanes) > LANES_LOOKED_AT:
            ahead += len(self._queue.lanes) * latency.mean(1)  # many lanes are many small batches
        if now + 2.0 * (ahead / self._devices.count + latency.mean(ticket.max_rows)) < ticket.due:
            return None  # plenty of time, whatever comes first
        if ticket.priority > 0.0 and (lane is None or lane.first_patient() is None):
            return None  # the progress floor needs one to take along
        if lane is None:
            return self._hint(self._forecast(ticket, None, latency, now))
        lane.arrivals += ticket.rows
        if lane.verdicts_of != self._devices.turn:
            lane.verdicts_of = self._devices.turn
            lane.verdicts.clear()
        like = (ticket.client, ticket.priority, ticket.rows)
        verdict = lane.verdicts.get(like)
        if verdict is not None and verdict.holds(ticket.budget, now):
            return self._hint(verdict.wait_s(now))
        wait_s = self._forecast(ticket, lane, latency, now)
        alike = lane.target(ticket.budget) // ALIKE - 1
        if wait_s is not None or alike > 0:
            lane.verdicts[like] = Verdict(ticket.budget, None if wait_s is None else now + wait_s, alike)
        return self._hint(wait_s)

    @staticmethod
    def _hint(wait_s: float | None) -> float | None:
        return None if wait_s is None else min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)

    def _forecast(self, ticket: T, lane: Lane[T] | None, latency: Latency, now: float) -> float | None:
        """`admit`, worked out for a ticket with a deadline."""
        due = ticket.due
        assert due is not None
        # A refusal cannot be taken back and waiting costs nothing, so the estimate is kind: means, not what is planned
        # with; and whoever ahead will be too late for his batch, will not be in it.
        start = now if self._devices.is_one_free else max(now, self._devices.next_end())
        if len(self._queue.lanes) > (lane is not None):
            start += self._others_before(ticket, lane, now) / self._devices.count
        needs = latency.mean(ticket.rows)
        if lane is not None:
            key = self._queue.shares.key(ticket, now)
            before = lane.rows_before(key)
            moved = key - due  # the lane is sorted by keys, not by when answers are due
            wanted = lane.wanted(ticket.budget, len(self._queue.lanes), now)
            full = latency.mean(wanted)
            if before >= wanted and start + (before / wanted + 1.0) * full / self._devices.count <= due:
                return None  # even if nobody ahead is late
            # Lax work behind it does not make its batch larger.
            near = lane.rows_before(key + full)
            rate = lane.rate * near / lane.rows
            for _ in range(LOOK_AHEAD):
                # Of those who wait and those who come until then, who can be in a batch that starts then?
                alive = near - lane.rows_before(moved + start + full) + rate * (start - now)
                size = max(ticket.rows, min(wanted, int(alive)))
                needs = latency.mean(size)
                if start + needs > due or before - lane.rows_before(moved + start + needs) < size:
                    break
                start += needs / self._devices.count
            else:
                return None
        over = now + KINDNESS * (start - now) + needs - due
        if over <= 0 or now - latency.ran_at > PROBE_AFTER * ticket.budget:
            return None
        # `over` falls by KINDNESS for each second that passes.
        return over / KINDNESS

    def _ahead_of_share(self, ticket: T, lane: Lane[T] | None, now: float) -> float | None:
        """For requests that could wait for ever. While CoDel refuses, it is the client far ahead of its share that is
        turned away (simulated: one of eight who sent ten times as much had 7 times a calm client's share without
        this, and 1.2 times with it, in the 17 s after the first three)."""
        client = ticket.client
        if client is None or lane is None or not lane.congested(now):
            return None
        ahead = client.tag - now - self._queue.full_round(lane, self._devices.count)
        return min(ahead, MAX_RETRY_AFTER_S) if ahead > 0.0 else None

    def _others_before(self, ticket: T, own: Lane[T] | None, now: float) -> float:
        """Seconds of work of other lanes that comes before the ticket."""
        key = self._queue.shares.key(ticket, now)
        seconds = 0.0
        for lane in itertools.islice(self._queue.lanes.values(), LANES_LOOKED_AT):
            if lane is not own and lane.latency.known:
                rows = lane.rows_before(key)
                size = min(lane.largest, max(1, int(rows)))
                seconds += rows / size * lane.latency.mean(size)
        return seconds * max(1.0, len(self._queue.lanes) / LANES_LOOKED_AT)
