"""The policy: never wait for company; earliest deadline first; refuse early so that what is served is served in good
batches; nobody starves; nothing runs that nobody wants. docs/SCHEDULING.md has the reasons, the formulae and the plots.

    admit    header in: is the answer possible in time, given what waits before it?
    submit   payload in: the ticket joins its lane
    take     a device is free: the lane whose head is due first gives a batch
             B* = the largest b with (A+1)·pl(b) ≤ budget       A = lanes with work
                  while refusals go on: pl(b) ≤ 0.85·budget
             while the head fits only k < min(B*, m) rows: refuse the head
                  m = rows in the lane due before now + pl(k) + pl(B*): lax work behind a tight head must not refuse it
    settle   the batch is done, and the lane has learned how long it took
    split    the model raised: halves run again until the guilty one is alone
    lost     the worker died: each runs once more, alone
    withdraw, expire   nobody wants it any more, and it is never computed
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from inferd.schedule.batch import Batch, halved, once_more
from inferd.schedule.known import Known
from inferd.schedule.lane import Lane, Verdict
from inferd.schedule.latency import Latency
from inferd.schedule.ticket import State, Ticket

# While requests are being refused, a batch may take so much of a head's budget: larger batches serve more of them.
GREEDY = 0.85
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
# How long after a refusal a lane counts as overloaded, in budgets.
OVERLOADED_FOR = 2.0
# What a reply needs between the end of its batch and its socket, in seconds.
REPLY_MARGIN_S = 0.0005
# How far a client can be ahead of its fair share, in budgets.
LEAD = 8.0
# With more lanes than this, what comes before a request is estimated from so many of them.
LANES_LOOKED_AT = 16
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 0.001, 10.0

T = TypeVar("T", bound=Ticket)


class Taken(NamedTuple, Generic[T]):
    """What `take` decided: a batch to run now (or None), tickets that are too late, and tickets that are refused so
    that those behind them are served in good batches."""

    batch: Batch[T] | None
    late: list[T]
    refused: list[T]


class Scheduler(Generic[T]):
    """All lanes of all models, on `workers` equal devices, which may become fewer and more. `queued` counts the tickets
    that wait."""

    def __init__(self, workers: int = 1, max_requests: int = 512, max_batch_bytes: int = 64 * 1024 * 1024) -> None:
        self.queued = 0
        self.workers = workers
        self.known = Known()
        self._max_requests = max_requests
        self._max_batch_bytes = max_batch_bytes
        self._lanes: dict[Hashable, Lane[T]] = {}
        self._again: deque[Batch[T]] = deque()
        self._running: list[Batch[T]] = []
        self._expiry: list[tuple[float, int, T]] = []
        self._number = 0
        self._backlogged = 0  # clients with waiting tickets
        self._backlog = 0.0  # seconds of device that all waiting tickets cost in full batches
        self._turn = 0  # changes whenever a batch begins or ends

    @property
    def backlog_s(self) -> float:
        """Seconds until what waits now is done, in full batches."""
        return self._backlog / self.workers

    def _lane(self, ticket: T) -> Lane[T]:
        lane = self._lanes.get(ticket.lane)
        if lane is None:
            latency = self.known.latency(ticket.lane, ticket.weight)
            lane = self._lanes[ticket.lane] = Lane(
                ticket.lane, latency, self.known.largest(ticket.lane, ticket.max_rows)
            )
        return lane

    # ---- arrivals

    def admit(self, ticket: T, now: float) -> float | None:
        """None when the answer can be there in time; else the seconds after which it is worth trying again.

        Meant for the moment when only the header is known; nothing is changed but the count of refusals.
        """
        if not (self.queued or self._running):
            return None  # an idle device loses nothing by trying, and learns
        lane = self._lanes.get(ticket.lane)
        if ticket.due is None:
            return self._ahead_of_share(ticket, lane, now)
        latency = lane.latency if lane is not None else self.known.latencies.get(ticket.lane)
        if latency is None or not latency.known:
            return None
        ahead = self._backlog
        if len(self._lanes) > LANES_LOOKED_AT:
            ahead += len(self._lanes) * latency.mean(1)  # many lanes are many small batches
        if now + 2.0 * (ahead / self.workers + latency.mean(ticket.max_rows)) < ticket.due:
            return None  # plenty of time, whatever comes first
        if ticket.priority > 0.0 and (lane is None or lane.first_patient() is None):
            return None  # the progress floor needs one to take along
        if lane is None:
            return self._hint(self._forecast(ticket, None, latency, now))
        lane.arrivals += ticket.rows
        if lane.verdicts_of != self._turn:
            lane.verdicts_of = self._turn
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
        start = now
        if len(self._running) >= self.workers:
            start = max(now, min(batch.ends_at for batch in self._running))
        if len(self._lanes) > (lane is not None):
            start += self._others_before(ticket, lane, now) / self.workers
        needs = latency.mean(ticket.rows)
        if lane is not None:
            key = self._key(ticket, now)
            before = lane.rows_before(key)
            moved = key - due  # the lane is sorted by keys, not by when answers are due
            target = self._target(lane, ticket.budget, now)
            full = latency.mean(target)
            if before >= target and start + (before / target + 1.0) * full / self.workers <= due:
                return None  # even if nobody ahead is late
            # Lax work behind it does not make its batch larger.
            near = lane.rows_before(key + full)
            rate = lane.rate * near / lane.rows
            for _ in range(LOOK_AHEAD):
                # Of those who wait and those who come until then, who can be in a batch that starts then?
                alive = near - lane.rows_before(moved + start + full) + rate * (start - now)
                size = max(ticket.rows, min(target, int(alive)))
                needs = latency.mean(size)
                if start + needs > due or before - lane.rows_before(moved + start + needs) < size:
                    break
                start += needs / self.workers
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
        ahead = client.tag - now - self._full_round(lane)
        return min(ahead, MAX_RETRY_AFTER_S) if ahead > 0.0 else None

    def _full_round(self, lane: Lane[T]) -> float:
        """Seconds between two full batches of a lane while all lanes have work."""
        return lane.latency.mean(lane.largest) * len(self._lanes) / self.workers

    def _others_before(self, ticket: T, own: Lane[T] | None, now: float) -> float:
        """Seconds of work of other lanes that comes before the ticket."""
        key = self._key(ticket, now)
        seconds = 0.0
        for lane in itertools.islice(self._lanes.values(), LANES_LOOKED_AT):
            if lane is not own and lane.latency.known:
                rows = lane.rows_before(key)
                size = min(lane.largest, max(1, int(rows)))
                seconds += rows / size * lane.latency.mean(size)
        return seconds * max(1.0, len(self._lanes) / LANES_LOOKED_AT)

    def _key(self, ticket: T, now: float) -> float:
        """Its place: when it is due, moved by how far its client is ahead of its share, and by its class."""
        budget = ticket.budget
        key = (ticket.due if ticket.due is not None else ticket.arrived + budget) + ticket.priority * budget
        client = ticket.client
        if client is not None and client.tag > now:
            key += client.tag - now
        return key

    def submit(self, ticket: T, now: float) -> None:
        """The ticket joins its lane."""
        lane = self._lane(ticket)
        ticket.state = State.QUEUED
        ticket.queued_at = now
        ticket.key = self._key(ticket, now)
        if ticket.place is not None and ticket.place < ticket.key:
            ticket.key = ticket.place
        ticket.cost = lane.row_seconds() * ticket.rows
        self._backlog += ticket.cost
        client = ticket.client
        if client is not None:
            if not client.queued:
                self._backlogged += 1
            client.queued += 1
            # Its fair share is a part of the device among all who wait: with n of them, a second of work is n seconds.
            # A lead of more than LEAD budgets is forgiven: who used what nobody else wanted owes nothing for it.
            start = client.tag if client.tag > now else now
            most = max(start, now + LEAD * ticket.budget)
            client.tag = min(start + ticket.cost * self._backlogged / self.workers, most)
            ticket.charge = client.tag - start
        self._number += 1
        ticket.in_lane = True
        lane.add(ticket, self._number)
        self.queued += 1
        if ticket.due is not None:
            if len(self._expiry) > 4 * self.queued + 1024:  # mostly tickets that are over
                self._expiry = [entry for entry in self._expiry if entry[2].state is State.QUEUED]
                heapq.heapify(self._expiry)
            heapq.heappush(self._expiry, (ticket.due, self._number, ticket))

    # ---- departures

    def withdraw(self, ticket: T) -> bool:
        """Takes a waiting ticket back; it will not run. False when it is running or over already."""
        if ticket.state is not State.QUEUED:
            return False
        self._leaves(ticket, State.OVER)
        return True

    def _leaves(self, ticket: T, state: State) -> None:
        ticket.state = state
        self.queued -= 1
        client = ticket.client
        if client is not None:
            client.queued -= 1
            if not client.queued:
                self._backlogged -= 1
            if state is State.OVER:
                client.tag -= ticket.charge  # it has not had what it was charged for
                ticket.charge = 0.0
        if ticket.in_lane:
            ticket.in_lane = False
            self._backlog -= ticket.cost
            lane = self._lanes[ticket.lane]
            lane.removed(ticket)
            if not lane.count:
                del self._lanes[ticket.lane]
                if not self._lanes:
                    self._backlog = 0.0  # what rounding has left

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

    # ---- batches

    def take(self, now: float, why: str = "freed") -> Taken[T]:
        """The batch that a free device should run now."""
        late: list[T] = []
        refused: list[T] = []
        batch = self._take_again(now, late)
        while batch is None:
            lane = self._first()
            if lane is None:
                return Taken(None, late, refused)
            batch = self._take_from(lane, now, why == "idle", late, refused)
        if batch.half_of is None and batch.lane is not None:
            batch.why = why
        batch.started_at = now
        batch.rows = sum(ticket.rows for ticket in batch.tickets)
        latency = self.known.latency(batch.tickets[0].lane)
        batch.ends_at = now + latency.mean(batch.rows) if latency.known else now
        batch.is_known = latency.seen > 1 or (latency.known and batch.tickets[0].weight == 1.0)
        self._running.append(batch)
        self._turn += 1
        if batch.lane is not None and batch.lane.count and len(self._running) >= self.workers:
            self._refuse_early(batch.lane, now, refused)
        return Taken(batch, late, refused)

    def likely(self, at: float) -> list[T]:
        """Who would be in the batch if a device were free at `at` and nobody else came. Nothing is decided by it."""
        lane = self._first()
        if lane is None or self._again:
            return []
        limit, least_s = lane.largest, lane.latency.plan(1)
        chosen: list[T] = []
        rows = 0
        for ticket in lane.waiting():
            if ticket.due is not None:
                if ticket.due < at + least_s:
                    continue  # too late by then
                if not chosen:
                    limit = min(limit, self._target(lane, ticket.due - at, at))
            if chosen and (rows + ticket.rows > limit or len(chosen) == self._max_requests):
                break
            chosen.append(ticket)
            rows += ticket.rows
        return chosen

    def _refuse_early(self, lane: Lane[T], now: float, refused: list[T]) -> None:
        """Tells those whom the batch has left behind and who will be too late when it is done: now, not then."""
        free_at = now + KINDNESS * (min(batch.ends_at for batch in self._running) - now)
        while (head := lane.head()) is not None and head.due is not None:
            if free_at + lane.latency.mean(head.rows) <= head.due:
                return
            lane.dropped_at = now
            self._leaves(head, State.OVER)
            refused.append(head)

    def _take_again(self, now: float, late: list[T]) -> Batch[T] | None:
        while self._again:
            batch = self._again.popleft()
            tickets: list[T] = []
            for ticket in batch.tickets:
                if ticket.state is not State.QUEUED:
                    continue
                expired = ticket.due is not None and ticket.due <= now
                self._leaves(ticket, State.OVER if expired else State.RUNNING)
                (late if expired else tickets).append(ticket)
            if tickets:
                batch.tickets = tickets
                return batch
        return None

    def _first(self) -> Lane[T] | None:
        """The lane whose head is due first."""
        first: Lane[T] | None = None
        first_key = 0.0
        for lane in self._lanes.values():
            head = lane.head()
            if head is not None and (first is None or head.key < first_key):
                first, first_key = lane, head.key
        return first

    def _target(self, lane: Lane[T], budget: float, now: float) -> int:
        """B*: the batch to aim at for a head of that budget."""
        if not lane.latency.known:
            return lane.largest
        if now - lane.dropped_at < OVERLOADED_FOR * budget:
            return lane.target(GREEDY * budget)
        return lane.target(budget / (len(self._lanes) + 1))

    def _take_from(self, lane: Lane[T], now: float, idle: bool, late: list[T], refused: list[T]) -> Batch[T] | None:
        limit = self._clear_the_way(lane, now, idle, late, refused)
        if not limit:
            return None
        limit = min(limit, lane.best(min(limit, lane.rows)))
        others = self.workers - len(self._running) - 1
        if others > 0:
            # Devices at rest take their part of what is there: half of it is done sooner than all of it.
            limit = min(limit, max(1, -(-lane.rows // (others + 1))))
        tickets: list[T] = []
        rows = nbytes = 0
        ends_at = now + lane.latency.plan(min(limit, lane.rows))
        patient = lane.floor()
        if patient is not None and patient.rows <= limit and (patient.due is None or patient.due >= ends_at):
            self._leaves(patient, State.RUNNING)
            tickets.append(patient)
            rows, nbytes = patient.rows, patient.nbytes
        while len(tickets) < self._max_requests:
            ticket = lane.head()
            if ticket is None:
                break
            if tickets and (rows + ticket.rows > limit or nbytes + ticket.nbytes > self._max_batch_bytes):
                break
            if ticket.due is not None and tickets and ticket.due < ends_at:
                # Its class or its client's share put it behind others, and now it is too late for it.
                self._leaves(ticket, State.OVER)
                (late if ticket.due <= now else refused).append(ticket)
            else:
                self._leaves(ticket, State.RUNNING)
                tickets.append(ticket)
                rows += ticket.rows
                nbytes += ticket.nbytes
        lane.latency.ran_at = now
        lane.count_arrivals(now)
        self._charge_rest(lane, tickets, rows, now)
        return Batch(tickets, lane=lane)

    def _charge_rest(self, lane: Lane[T], tickets: list[T], rows: int, now: float) -> None:
        """Clients were charged what their rows cost in a full batch; in this one they cost more.

        With tight deadlines batches are small, and by the price of full ones nobody would be ahead of his share: eight
        who wanted 1.5 to 6 times theirs within 25 ms got 34 to 103 rows a second.
        """
        price = lane.row_seconds()
        if not price or not tickets:
            return
        dearer = lane.latency.mean(rows) / rows / price - 1.0
        if dearer <= 0.0:
            return
        for ticket in tickets:
            client = ticket.client
            if client is not None:
                most = max(client.tag, now + LEAD * ticket.budget)
                client.tag = min(client.tag + dearer * ticket.charge, most)

    def _clear_the_way(self, lane: Lane[T], now: float, idle: bool, late: list[T], refused: list[T]) -> int:
        """Refuses heads that would make a bad batch; returns how many rows the head that stays has time for."""
        idle = idle and self.queued == 1 and not self._running
        while (head := lane.head()) is not None:
            if head.due is None:
                if lane.standing(head, now, self._full_round(lane)) and lane.count > 1:
                    self._leaves(head, State.OVER)
                    refused.append(head)
                    continue
                return lane.largest
            left = head.due - now
            if left <= 0:
                self._leaves(head, State.OVER)
                late.append(head)
                continue
            fits = lane.fitting(left)
            wanted = self._target(lane, head.budget, now)
            if fits < max(wanted, head.rows):
                plan = lane.latency.plan
                soon = head.key - head.due + now + plan(fits) + plan(wanted) + 1e-9  # as a key of this lane
                urgent = int(lane.rows_before(soon)) if fits else lane.rows
                probe = idle or now - lane.latency.ran_at > PROBE_AFTER * head.budget
                whole = fits >= head.rows or plan(head.rows) <= left  # larger than any batch, it runs alone
                if (fits < max(1, min(wanted, urgent)) or not whole) and not probe:
                    lane.dropped_at = now
                    self._leaves(head, State.OVER)
                    refused.append(head)
                    continue
            return max(1, fits)
        return 0

    def settle(self, batch: Batch[T], now: float = 0.0, seconds: float | None = None) -> None:
        """The batch is done, whatever became of its tickets; `seconds` is how long it took, if that teaches."""
        for ticket in batch.tickets:
            ticket.state = State.OVER
        self._ended(batch)
        if seconds is not None:
            self.learn(batch, seconds)

    def learn(self, batch: Batch[T], seconds: float) -> None:
        """The batch took so long. Apart from `settle`, because answers need not wait for it."""
        if batch.tickets:
            key = batch.tickets[0].lane
            largest = self.known.ran(key, batch.rows, batch.tickets[0].max_rows, seconds)
            lane = self._lanes.get(key)
            if largest is not None and lane is not None:
                lane.bound(largest)

    def _ended(self, batch: Batch[T]) -> None:
        self._turn += 1
        try:
            self._running.remove(batch)
        except ValueError:
            pass

    def split(self, batch: Batch[T], largest: int = 0) -> T | None:
        """The model raised on the batch, which may have had `largest` rows. Returns the guilty ticket if it was alone;
        otherwise halves run next."""
        self._ended(batch)
        guilty, again = halved(batch, largest)
        self._run_again(again)
        if guilty is not None:
            guilty.state = State.OVER
        return guilty

    def out_of_memory(self, batch: Batch[T]) -> T | None:
        """The device had no memory for the batch: halves run next, and its lane does not take as many again for long.
        Returns the ticket that does not fit alone: then it was to blame, and not how many there were, and its lane may
        have as many as before it came. (Otherwise whoever asks for too much makes everybody run alone.)"""
        first, level = batch.tickets[0], batch.half_of
        key, lane = first.lane, self._lanes.get(first.lane)
        before = level.largest if level is not None else self.known.largest(key, first.max_rows)
        guilty = self.split(batch, before)
        if guilty is None:
            largest = self.known.out_of_memory(key, batch.rows)
            if lane is not None and lane.largest > largest:
                lane.bound(largest)
        elif before:
            self.known.forgive(key, before, first.max_rows)
            if lane is not None:
                lane.bound(before)
        return guilty

    def lost(self, batch: Batch[T]) -> list[T]:
        """The worker died with the batch: each ticket runs once more, alone, so that one that kills workers takes no
        other with it. Returns those that have had their second chance."""
        self._ended(batch)
        given_up, again = once_more(batch)
        self._run_again(again)
        for ticket in given_up:
            ticket.state = State.OVER
        return given_up

    def charge(self, ticket: T, seconds: float, now: float) -> None:
        """The ticket has cost so many seconds of a device that nobody had expected: its client is that much further
        ahead of its share."""
        client = ticket.client
        if client is not None:
            start = max(client.tag, now)
            most = max(start, now + LEAD * ticket.budget)
            client.tag = min(start + seconds * max(1, self._backlogged) / self.workers, most)

    def suspect(self, tickets: list[T]) -> None:
        """A worker died while it prepared these, which wait: the guilty one may be among them, so each runs alone."""
        for ticket in tickets:
            if ticket.state is State.QUEUED and ticket.in_lane:
                self._leaves(ticket, State.RUNNING)
                ticket.losses += 1
                self._run_again([Batch([ticket])])

    def cut(self, batch: Batch[T]) -> None:
        """The batch cannot be sent as it is: its second half runs in a batch of its own."""
        self._run_again([batch.cut()])

    def _run_again(self, batches: list[Batch[T]]) -> None:
        # At the end, so that both halves of a level are known before the level below begins.
        self._again.extend(batches)
        for batch in batches:
            self.queued += len(batch.tickets)
            for ticket in batch.tickets:
                ticket.state = State.QUEUED
                if ticket.due is not None:
                    self._number += 1
                    heapq.heappush(self._expiry, (ticket.due, self._number, ticket))
                if ticket.client is not None:
                    if not ticket.client.queued:
                        self._backlogged += 1
                    ticket.client.queued += 1
