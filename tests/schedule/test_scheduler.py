"""What runs together, and when: take what is there, run nothing that nobody wants, find the guilty."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from inferd.schedule.batch import Batch
from inferd.schedule.scheduler import Scheduler
from inferd.schedule.shares import LEAD
from inferd.schedule.ticket import Client, State, Ticket


def ticket(lane: str = "a", rows: int = 1, nbytes: int = 64, max_rows: int = 64, due: float | None = None) -> Ticket:
    return Ticket(lane, rows, nbytes, max_rows, due)


def submitted(scheduler: Scheduler[Ticket], tickets: list[Ticket], now: float = 0.0) -> list[Ticket]:
    for one in tickets:
        scheduler.submit(one, now)
    return tickets


def taken(scheduler: Scheduler[Ticket], now: float = 0.0) -> list[Ticket]:
    batch = scheduler.take(now).batch
    return [] if batch is None else batch.tickets


def test_a_lone_request_is_taken_at_once() -> None:
    """Nothing waits for company."""
    scheduler: Scheduler[Ticket] = Scheduler()
    [lone] = submitted(scheduler, [ticket()])
    assert taken(scheduler) == [lone]
    assert scheduler.queued == 0


def test_what_is_there_is_taken_together_in_order() -> None:
    """A free device gets all that is queued for one lane, first come first."""
    scheduler: Scheduler[Ticket] = Scheduler()
    tickets = submitted(scheduler, [ticket() for _ in range(10)])
    assert taken(scheduler) == tickets


def test_lanes_do_not_mix_and_do_not_break_each_other() -> None:
    """Interleaved lanes give one whole batch each, the one with the oldest head first."""
    scheduler: Scheduler[Ticket] = Scheduler()
    tickets = [ticket("ab"[n % 2]) for n in range(10)]
    for now, one in enumerate(tickets):
        scheduler.submit(one, float(now))
    assert taken(scheduler) == tickets[0::2]
    assert taken(scheduler) == tickets[1::2]


def test_a_batch_ends_at_the_models_rows() -> None:
    """Rows are counted, not requests; a request over the limit by itself still runs alone."""
    scheduler: Scheduler[Ticket] = Scheduler()
    tickets = submitted(scheduler, [ticket(rows=rows, max_rows=8) for rows in (3, 5, 1, 20)])
    assert taken(scheduler) == tickets[:2]
    assert taken(scheduler) == [tickets[2]]
    assert taken(scheduler) == [tickets[3]]


def test_a_batch_ends_at_its_bytes() -> None:
    """Large rows do not gain from company."""
    scheduler: Scheduler[Ticket] = Scheduler(max_batch_bytes=100)
    tickets = submitted(scheduler, [ticket(nbytes=60) for _ in range(2)])
    assert taken(scheduler) == tickets[:1]


def test_a_withdrawn_request_never_runs() -> None:
    """Withdrawn while it waits: it is gone. Once it runs it cannot be withdrawn."""
    scheduler: Scheduler[Ticket] = Scheduler()
    first, second, third = submitted(scheduler, [ticket() for _ in range(3)])
    assert scheduler.withdraw(second)
    assert not scheduler.withdraw(second)
    assert taken(scheduler) == [first, third]
    assert not scheduler.withdraw(first)


def test_a_request_that_is_late_never_runs() -> None:
    """What is due by now is handed back as late."""
    scheduler: Scheduler[Ticket] = Scheduler()
    late, good = submitted(scheduler, [ticket(due=1.0), ticket(due=3.0)])
    decision = scheduler.take(2.0)
    assert decision.late == [late]
    assert decision.batch is not None and decision.batch.tickets == [good]


def run_model(scheduler: Scheduler[Ticket], guilty: set[int], order: list[Ticket]) -> tuple[list[int], list[int], int]:
    """Plays a worker whose model raises on any batch with a guilty ticket. Returns failed, answered, runs."""
    failed, answered, runs = [], [], 0
    while (batch := scheduler.take(0.0).batch) is not None:
        runs += 1
        numbers = [order.index(one) for one in batch.tickets]
        if guilty & set(numbers):
            one = scheduler.split(batch)
            if one is not None:
                failed.append(order.index(one))
        else:
            scheduler.settle(batch)
            answered += numbers
    return failed, answered, runs


@given(size=st.integers(1, 64), data=st.data())
def test_exactly_the_guilty_fail(size: int, data: st.DataObject) -> None:
    """Whoever is guilty, they and nobody else fail, each ticket ends once, and it costs at most 2n + 1 runs."""
    guilty = data.draw(st.sets(st.integers(0, size - 1)))
    scheduler: Scheduler[Ticket] = Scheduler()
    order = submitted(scheduler, [ticket() for _ in range(size)])
    failed, answered, runs = run_model(scheduler, guilty, order)
    assert sorted(failed) == sorted(guilty)
    assert sorted(answered + failed) == list(range(size))
    assert runs <= 2 * size + 1
    assert scheduler.queued == 0 and all(one.state is State.OVER for one in order)


def test_one_guilty_of_64_costs_two_runs_a_level() -> None:
    """Halving finds one among 64 in 13 runs."""
    scheduler: Scheduler[Ticket] = Scheduler()
    order = submitted(scheduler, [ticket() for _ in range(64)])
    assert run_model(scheduler, {37}, order)[2] == 13


def test_a_broken_model_is_not_halved_to_the_end() -> None:
    """When both halves raise twice in a row the rest runs one by one: n runs and a few, not 2n."""
    scheduler: Scheduler[Ticket] = Scheduler()
    order = submitted(scheduler, [ticket() for _ in range(64)])
    failed, answered, runs = run_model(scheduler, set(range(64)), order)
    assert len(failed) == 64 and not answered
    assert runs < 64 + 40


def test_a_lost_batch_runs_once_more_one_by_one() -> None:
    """After a worker's death each request runs alone, and gives up after the second death with it."""
    scheduler: Scheduler[Ticket] = Scheduler()
    submitted(scheduler, [ticket() for _ in range(3)])
    batch = scheduler.take(0.0).batch
    assert batch is not None
    first, second, third = batch.tickets
    assert scheduler.lost(batch) == []
    assert taken(scheduler) == [first]
    single = scheduler.take(0.0).batch
    assert single is not None and single.tickets == [second]
    assert scheduler.lost(single) == [second]
    assert taken(scheduler) == [third]


def test_a_batch_can_be_cut() -> None:
    """What does not fit one packet runs in two batches, in order."""
    scheduler: Scheduler[Ticket] = Scheduler()
    order = submitted(scheduler, [ticket() for _ in range(5)])
    batch = scheduler.take(0.0).batch
    assert batch is not None
    scheduler.cut(batch)
    assert batch.tickets == order[:2] and taken(scheduler) == order[2:]


def test_every_ticket_has_one_end_whatever_happens() -> None:
    """2,000 seeded lives of submit, take, settle, split, lost and withdraw: each ticket ends exactly once."""
    for seed in range(2000):
        rng = random.Random(seed)
        scheduler: Scheduler[Ticket] = Scheduler(max_requests=rng.choice([1, 4, 512]))
        ends: dict[Ticket, int] = {}
        running: list[Batch[Ticket]] = []
        tickets: list[Ticket] = []
        now = 0.0

        def end(one: Ticket, ends: dict[Ticket, int] = ends) -> None:
            ends[one] = ends.get(one, 0) + 1

        for _ in range(rng.randrange(60)):
            now += rng.random()
            step = rng.random()
            if step < 0.5:
                due = now + rng.random() * 5 if rng.random() < 0.3 else None
                one = ticket(rng.choice("abc"), rng.choice([1, 1, 1, 5]), due=due)
                tickets.append(one)
                scheduler.submit(one, now)
            elif step < 0.6 and tickets:
                one = rng.choice(tickets)
                if scheduler.withdraw(one):
                    end(one)
            elif step < 0.8 and len(running) < 2:
                decision = scheduler.take(now)
                for one in decision.late + decision.refused:
                    end(one)
                if decision.batch is not None:
                    running.append(decision.batch)
            elif running:
                batch = running.pop(rng.randrange(len(running)))
                fate = rng.random()
                if fate < 0.6:
                    scheduler.settle(batch)
                    for one in batch.tickets:
                        end(one)
                elif fate < 0.8:
                    guilty = scheduler.split(batch)
                    if guilty is not None:
                        end(guilty)
                else:
                    for one in scheduler.lost(batch):
                        end(one)
        for batch in running:
            scheduler.settle(batch)
            for one in batch.tickets:
                end(one)
        while True:
            decision = scheduler.take(now)
            for one in decision.late + decision.refused:
                end(one)
            if decision.batch is None:
                break
            scheduler.settle(decision.batch)
            for one in decision.batch.tickets:
                end(one)
        assert scheduler.queued == 0, seed
        assert all(ends.get(one) == 1 for one in tickets), seed


def test_who_is_likely_to_be_next_is_who_is_taken() -> None:
    """And asking decides nothing: the first lane's tickets in their order, up to a batch, without those too late."""
    scheduler: Scheduler[Ticket] = Scheduler()
    running = submitted(scheduler, [ticket()])
    assert taken(scheduler) == running
    late = ticket("b", due=1.0, max_rows=2)
    others = [ticket("b", due=5.0 + n, max_rows=2) for n in range(3)]
    submitted(scheduler, [late, *others, ticket("a", due=9.0)])
    assert scheduler.likely(2.0) == others[:2]
    assert scheduler.likely(2.0) == others[:2] and scheduler.queued == 5


def test_who_was_prepared_by_a_worker_that_died_runs_alone() -> None:
    """One of them may be why it died; a second death is no coincidence."""
    scheduler: Scheduler[Ticket] = Scheduler()
    prepared = submitted(scheduler, [ticket(), ticket()])
    other = submitted(scheduler, [ticket()])
    scheduler.suspect([*prepared, ticket()])  # one of them has gone since
    assert [taken(scheduler) for _ in range(2)] == [prepared[:1], prepared[1:]]
    assert taken(scheduler) == other and scheduler.queued == 0


def test_what_a_request_has_cost_is_charged_to_who_sent_it() -> None:
    """Its client is that much further ahead of its share, though never by more than LEAD budgets; nobody else is."""
    scheduler: Scheduler[Ticket] = Scheduler()
    guilty, other = Client("guilty"), Client("other")
    mine, theirs = (Ticket("lane", 1, 64, 64, due=2.0, client=client) for client in (guilty, other))
    for waiting in (mine, theirs):
        scheduler.submit(waiting, 0.0)
    before = guilty.tag
    scheduler.charge(mine, 1.5, 0.0)
    assert guilty.tag == before + 2 * 1.5  # two clients wait, so a second of device is two of its share
    assert other.tag == 0.0
    scheduler.charge(mine, 1000.0, 0.0)
    assert guilty.tag == LEAD * mine.budget
