"""The policy: never wait for company; earliest deadline first; refuse early so that what is served is served in good
batches; nobody starves; nothing runs that nobody wants. docs/SCHEDULING.md has the reasons, the formulae and the plots.

    admit    header in: is the answer possible in time, given what waits before it?
    submit   payload in: the ticket joins its lane
    take     a device is free: the lane whose head is due first gives a batch
             B* = the largest b with (A+1)·pl(b) ≤ budget       A = lanes with work
                  while refusals go on: pl(b) ≤ 0.85·budget
             while the head fits only k < min(B*, m) rows: refuse the head
                  m = rows in the lane due before now + pl(k) + pl(B*): lax work behind a tight head must not refuse it
             every eighth batch is for who has been passed over, while these have no more than an eighth of the devices
    settle   the batch is done, and the lane has learned how long it took
    split    the model raised: halves run again until the guilty one is alone
    lost     the worker died: each runs once more, alone
    withdraw, expire   nobody wants it any more, and it is never computed
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

from inferd.schedule.admission import KINDNESS, PROBE_AFTER, Admission
from inferd.schedule.batch import Batch, halved, once_more
from inferd.schedule.devices import Devices
from inferd.schedule.known import Known
from inferd.schedule.lane import FLOOR_EVERY, Lane
from inferd.schedule.queue import Queue
from inferd.schedule.ticket import State, Ticket

T = TypeVar("T", bound=Ticket)


class Taken(NamedTuple, Generic[T]):
    """What `take` decided: a batch to run now (or None), tickets that are too late, and tickets that are refused so
    that those behind them are served in good batches."""

    batch: Batch[T] | None
    late: list[T]
    refused: list[T]


class Scheduler(Generic[T]):
    """Decides for all models, on `workers` equal devices."""

    def __init__(self, workers: int = 1, max_requests: int = 512, max_batch_bytes: int = 64 * 1024 * 1024) -> None:
        self.known = Known()
        self._queue: Queue[T] = Queue(self.known)
        self._devices: Devices[T] = Devices(workers)
        self._admission = Admission(self._queue, self._devices, self.known)
        self._again: deque[Batch[T]] = deque()
        self._max_requests = max_requests
        self._max_batch_bytes = max_batch_bytes
        self._batches = 0  # of all lanes, since one could be for who has been passed over
        self._floor_at = float("-inf")  # when that was
        self._floor_from = float("-inf")  # when the next one may be

    @property
    def queued(self) -> int:
        """How many tickets wait."""
        return self._queue.count

    @property
    def backlog_s(self) -> float:
        """Seconds until what waits now is done, in full batches."""
        return self._queue.backlog / self._devices.count

    @property
    def workers(self) -> int:
        """How many devices there are."""
        return self._devices.count

    @workers.setter
    def workers(self, count: int) -> None:
        self._devices.count = count

    # ---- arrivals and departures

    def admit(self, ticket: T, now: float) -> float | None:
        """None when the answer can be there in time; else the seconds after which it is worth trying again."""
        return self._admission.admit(ticket, now)

    def submit(self, ticket: T, now: float) -> None:
        """The ticket joins its lane."""
        self._queue.join(ticket, self._devices.count, now)

    def withdraw(self, ticket: T) -> bool:
        """Takes a waiting ticket back; it will not run. False when it is running or over already."""
        return self._queue.withdraw(ticket)

    def next_expiry(self) -> float | None:
        """When `expire` has something to do at the earliest."""
        return self._queue.next_expiry()

    def expire(self, now: float) -> list[T]:
        """Takes out the tickets whose time is over."""
        return self._queue.expire(now)

    # ---- batches

    def take(self, now: float, why: str = "freed") -> Taken[T]:
        """The batch that a free device should run now."""
        late: list[T] = []
        refused: list[T] = []
        batch = self._take_again(now, late)
        patient: T | None = None
        while batch is None:
            patient = self._passed_over(now, late, refused)
            lane = self._queue.first() if patient is None else self._queue.lanes[patient.lane]
            if lane is None:
                return Taken(None, late, refused)
            batch = self._take_from(lane, now, why == "idle", late, refused, patient)
        if batch.half_of is None and batch.lane is not None:
            batch.why = why
        batch.started_at = now
        batch.rows = sum(ticket.rows for ticket in batch.tickets)
        latency = self.known.latency(batch.tickets[0].lane)
        batch.ends_at = now + latency.mean(batch.rows) if latency.known else now
        batch.is_known = latency.seen > 1 or (latency.known and batch.tickets[0].weight == 1.0)
        self._devices.begin(batch)
        if patient is not None:
            self._floor_from = now + FLOOR_EVERY * (batch.ends_at - now) / self._devices.count
        if batch.lane is not None and batch.lane.count and not self._devices.is_one_free:
            self._refuse_early(batch.lane, now, refused)
        return Taken(batch, late, refused)

    def likely(self, at: float) -> list[T]:
        """Who would be in the batch if a device were free at `at` and nobody else came. Nothing is decided by it."""
        lane = self._queue.first()
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
                    limit = min(limit, lane.wanted(ticket.due - at, len(self._queue.lanes), at))
            if chosen and (rows + ticket.rows > limit or len(chosen) == self._max_requests):
                break
            chosen.append(ticket)
            rows += ticket.rows
        return chosen

    def _refuse_early(self, lane: Lane[T], now: float, refused: list[T]) -> None:
        """Tells those whom the batch has left behind and who will be too late when it is done: now, not then."""
        free_at = now + KINDNESS * (self._devices.next_end() - now)
        while (head := lane.head()) is not None and head.due is not None:
            if free_at + lane.latency.mean(head.rows) <= head.due:
                return
            lane.dropped_at = now
            self._queue.leave(head, State.OVER)
            refused.append(head)

    def _take_again(self, now: float, late: list[T]) -> Batch[T] | None:
        while self._again:
            batch = self._again.popleft()
            tickets: list[T] = []
            for ticket in batch.tickets:
                if ticket.state is not State.QUEUED:
                    continue
                expired = ticket.due is not None and ticket.due <= now
                self._queue.leave(ticket, State.OVER if expired else State.RUNNING)
                (late if expired else tickets).append(ticket)
            if tickets:
                batch.tickets = tickets
                return batch
        return None

    def _passed_over(self, now: float, late: list[T], refused: list[T]) -> T | None:
        """For whom the next batch is although others are more urgent, if it is time for that: who is too large for what
        his lane runs, or whose lane has not run since it was last time."""
        if self._batches < FLOOR_EVERY or now < self._floor_from:
            return None
        self._batches = 0
        since, self._floor_at = self._floor_at, now
        while (patient := self._queue.passed_over(since)) is not None:
            latency = self._queue.lanes[patient.lane].latency
            if (
                patient.due is None
                or now + latency.plan(patient.rows) <= patient.due
                or now - latency.ran_at > PROBE_AFTER * patient.budget
            ):
                return patient
            self._queue.leave(patient, State.OVER)
            (late if patient.due <= now else refused).append(patient)
        return None

    def _take_from(
        self, lane: Lane[T], now: float, idle: bool, late: list[T], refused: list[T], patient: T | None
    ) -> Batch[T] | None:
        limit = self._clear_the_way(lane, now, idle, late, refused)
        if not limit:
            return None
        limit = min(limit, lane.best(min(limit, lane.rows)))
        others = self._devices.count - len(self._devices.running) - 1
        if others > 0:
            # Devices at rest take their part of what is there: half of it is done sooner than all of it.
            limit = min(limit, max(1, -(-lane.rows // (others + 1))))
        if patient is not None and not patient.in_lane:
            patient = None  # it was a head that had to go
        if patient is not None and patient.due is not None:
            limit = min(limit, lane.target(patient.due - now))
        tickets: list[T] = []
        rows = nbytes = 0
        ends_at = now + lane.latency.plan(min(limit, lane.rows))
        if patient is None:
            patient = self._taken_along(lane, limit, now, ends_at, late, refused)
        if patient is not None:  # if it is larger than `limit`, it is alone
            self._queue.leave(patient, State.RUNNING)
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
                self._queue.leave(ticket, State.OVER)
                (late if ticket.due <= now else refused).append(ticket)
            else:
                self._queue.leave(ticket, State.RUNNING)
                tickets.append(ticket)
                rows += ticket.rows
                nbytes += ticket.nbytes
        self._batches += 1
        lane.latency.ran_at = now
        lane.count_arrivals(now)
        if (price := lane.row_seconds()) and tickets:
            dearer = lane.latency.mean(rows) / rows / price - 1.0
            if dearer > 0.0:
                self._queue.shares.charge_rest(tickets, dearer, now)
        return Batch(tickets, lane=lane)

    def _taken_along(
        self, lane: Lane[T], limit: int, now: float, ends_at: float, late: list[T], refused: list[T]
    ) -> T | None:
        """Who is in this batch although others are more urgent (`Lane.floor`), and in time for it."""
        while (patient := lane.floor(limit)) is not None:
            if patient.due is None or patient.due >= ends_at or patient is lane.head():
                break
            self._queue.leave(patient, State.OVER)
            (late if patient.due <= now else refused).append(patient)
        return patient

    def _clear_the_way(self, lane: Lane[T], now: float, idle: bool, late: list[T], refused: list[T]) -> int:
        """Refuses heads that would make a bad batch; returns how many rows the head that stays has time for."""
        idle = idle and self._queue.count == 1 and not self._devices.running
        while (head := lane.head()) is not None:
            if head.due is None:
                if lane.standing(head, now, self._queue.full_round(lane, self._devices.count)) and lane.count > 1:
                    self._queue.leave(head, State.OVER)
                    refused.append(head)
                    continue
                return lane.largest
            left = head.due - now
            if left <= 0:
                self._queue.leave(head, State.OVER)
                late.append(head)
                continue
            fits = lane.fitting(left)
            wanted = lane.wanted(head.budget, len(self._queue.lanes), now)
            if fits < max(wanted, head.rows):
                plan = lane.latency.plan
                soon = head.key - head.due + now + plan(fits) + plan(wanted) + 1e-9  # as a key of this lane
                urgent = int(lane.rows_before(soon)) if fits else lane.rows
                probe = idle or now - lane.latency.ran_at > PROBE_AFTER * head.budget
                whole = fits >= head.rows or plan(head.rows) <= left  # larger than any batch, it runs alone
                if (fits < max(1, min(wanted, urgent)) or not whole) and not probe:
                    lane.dropped_at = now
                    self._queue.leave(head, State.OVER)
                    refused.append(head)
                    continue
            return max(1, fits)
        return 0

    def settle(self, batch: Batch[T], seconds: float | None = None) -> None:
        """The batch is done, whatever became of its tickets; `seconds` is how long it took, if that teaches."""
        for ticket in batch.tickets:
            ticket.state = State.OVER
        self._devices.end(batch)
        if seconds is not None:
            self.learn(batch, seconds)

    def learn(self, batch: Batch[T], seconds: float) -> None:
        """The batch took so long. Apart from `settle`, because answers need not wait for it."""
        if batch.tickets:
            key = batch.tickets[0].lane
            largest = self.known.ran(key, batch.rows, batch.tickets[0].max_rows, seconds)
            lane = self._queue.lanes.get(key)
            if largest is not None and lane is not None:
                lane.bound(largest)

    def split(self, batch: Batch[T], largest: int = 0) -> T | None:
        """The model raised on the batch, which may have had `largest` rows. Returns the guilty ticket if it was alone;
        otherwise halves run next."""
        self._devices.end(batch)
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
        key, lane = first.lane, self._queue.lanes.get(first.lane)
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
        self._devices.end(batch)
        given_up, again = once_more(batch)
        self._run_again(again)
        for ticket in given_up:
            ticket.state = State.OVER
        return given_up

    def charge(self, ticket: T, seconds: float, now: float) -> None:
        """The ticket has cost so many seconds of a device that nobody had expected: its client is that much further
        ahead of its share."""
        self._queue.shares.charge(ticket, seconds, self._devices.count, now)

    def suspect(self, tickets: list[T]) -> None:
        """A worker died while it prepared these, which wait: the guilty one may be among them, so each runs alone."""
        for ticket in tickets:
            if ticket.state is State.QUEUED and ticket.in_lane:
                self._queue.leave(ticket, State.RUNNING)
                ticket.losses += 1
                self._run_again([Batch([ticket])])

    def cut(self, batch: Batch[T]) -> None:
        """The batch cannot be sent as it is: its second half runs in a batch of its own."""
        self._run_again([batch.cut()])

    def _run_again(self, batches: list[Batch[T]]) -> None:
        # At the end, so that both halves of a level are known before the level below begins.
        self._again.extend(batches)
        for batch in batches:
            for ticket in batch.tickets:
                self._queue.join_again(ticket)
