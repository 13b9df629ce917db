"""Admission, shares, places, expiry and ceilings, one decision at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inferd.schedule.known as known
from inferd.schedule.admission import LANES_LOOKED_AT, PROBE_AFTER
from inferd.schedule.known import MAX_LATENCIES
from inferd.schedule.lane import FLOOR_EVERY
from inferd.schedule.scheduler import Scheduler
from inferd.schedule.ticket import Client, State, Ticket

ALPHA, BETA = 0.005, 0.001


def scheduler(workers: int = 1, lanes: tuple[str, ...] = ("a", "b")) -> Scheduler[Ticket]:
    one: Scheduler[Ticket] = Scheduler(workers)
    for lane in lanes:
        one.known.teach(lane, [(b, ALPHA + BETA * b) for b in (1, 2, 4, 8, 16, 32, 64)])
    return one


def ticket(
    now: float = 0.0,
    deadline: float | None = 0.025,
    lane: str = "a",
    rows: int = 1,
    client: Client | None = None,
    priority: float = 0.0,
) -> Ticket:
    return Ticket((lane,), rows, 64, 64, None if deadline is None else now + deadline, now, client, priority)


def fill(one: Scheduler[Ticket], count: int, now: float = 0.0, **details: object) -> list[Ticket]:
    tickets = [ticket(now, **details) for _ in range(count)]  # type: ignore[arg-type]
    for each in tickets:
        one.submit(each, now)
    return tickets


def busy(one: Scheduler[Ticket], now: float, rows: int = 1) -> None:
    """The device begins a batch."""
    fill(one, rows, now, deadline=10.0)
    assert one.take(now).batch is not None


def lane_batch(one: Scheduler[Ticket], now: float, rows: int) -> None:
    """A batch of so many rows that takes what it is thought to take."""
    fill(one, rows, now, deadline=None)
    batch = one.take(now).batch
    assert batch is not None
    one.settle(batch, ALPHA + BETA * batch.rows)


def had_a_batch(one: Scheduler[Ticket]) -> None:
    """So that nothing is a probe."""
    fill(one, 1, -0.02, deadline=10.0)
    batch = one.take(-0.02).batch
    assert batch is not None
    one.settle(batch)


# ---- admission


@given(seconds=st.floats(1e-6, 1e3), deadline=st.floats(1e-6, 10.0), batches=st.integers(0, 20))
@settings(deadline=None)
def test_an_idle_device_refuses_nobody(seconds: float, deadline: float, batches: int) -> None:
    """Whatever was learned: a lone request runs at once, and what was learned can turn out wrong."""
    one: Scheduler[Ticket] = Scheduler()
    one.known.teach("a", [(1, seconds), (64, seconds)])
    now = 0.0
    for _ in range(batches):
        done = ticket(now, 1e4)
        one.submit(done, now)
        batch = one.take(now, "idle").batch
        assert batch is not None
        now += seconds
        one.settle(batch, seconds)
    lone = ticket(now, deadline)
    assert one.admit(lone, now) is None
    one.submit(lone, now)
    batch = one.take(now, "idle").batch
    assert batch is not None and batch.tickets == [lone]


def test_what_nobody_knows_is_admitted() -> None:
    """The first requests of a model that was not warmed up are not refused for that."""
    one: Scheduler[Ticket] = Scheduler()
    fill(one, 100)
    assert one.admit(ticket(), 0.0) is None


def test_the_hopeless_are_refused_at_the_header() -> None:
    """With a batch on the device that ends after it is due, and a positive time after which to try again."""
    one = scheduler()
    busy(one, 0.0, 64)  # until 0.069
    hint = one.admit(ticket(0.001), 0.001)
    assert hint is not None and 0.0 < hint < 0.1
    assert one.admit(ticket(0.001, 0.5), 0.001) is None


@pytest.mark.parametrize("rows", [40, 48, 64])
@pytest.mark.parametrize("moment", [0.0, 0.005, 0.010])
def test_the_hint_is_honest(rows: int, moment: float) -> None:
    """Who comes back after that time is let in, if nobody else came; who comes back much sooner is not."""
    one = scheduler()
    busy(one, 0.0, rows)
    hint = one.admit(ticket(moment), moment)
    assert hint is not None
    then = moment + hint + 1e-6
    assert one.admit(ticket(then), then) is None
    early = moment + hint / 4
    assert one.admit(ticket(early), early) is not None or hint < 0.002


def test_a_long_queue_refuses_only_who_has_no_time() -> None:
    """Nobody who has the time to wait for it, or is due before it."""
    one = scheduler()
    fill(one, 400, 0.0, deadline=0.5)
    assert one.admit(ticket(0.0, 0.40, rows=1), 0.0) is None, "before most of them"
    assert one.admit(ticket(0.0, 10.0), 0.0) is None
    busy(one, 0.0, 8)
    assert one.admit(ticket(0.0, 0.015), 0.0) is not None


def test_more_devices_mean_less_waiting() -> None:
    """A free device beside a busy one takes who would be refused by the busy one alone."""
    one = scheduler(workers=2)
    busy(one, 0.0, 64)
    assert one.admit(ticket(0.001), 0.001) is None


def test_after_a_while_of_refusals_something_runs_again() -> None:
    """What was learned is tried again after PROBE_AFTER budgets without a batch, so that it can turn out wrong."""
    one: Scheduler[Ticket] = Scheduler()
    one.known.teach("a", [(1, 0.1), (64, 0.1)])
    one.known.teach("b", [(1, 0.1), (64, 0.1)])
    fill(one, 1, 0.0)
    first = one.take(0.0, "idle").batch
    assert first is not None
    one.settle(first, 0.1)
    busy_with = fill(one, 1, 0.1, deadline=10.0, lane="b")
    other = one.take(0.1, "idle").batch
    assert other is not None and other.tickets == busy_with
    later = PROBE_AFTER * 0.025
    assert one.admit(ticket(0.1), later - 0.01) is not None
    probe = ticket(later + 0.11)
    assert one.admit(probe, later + 0.11) is None
    one.submit(probe, later + 0.11)
    one.settle(other, 0.1)
    batch = one.take(later + 0.111).batch
    assert batch is not None and batch.tickets == [probe]


def test_admission_looks_at_so_many_lanes_only() -> None:
    """Work of a thousand lanes is estimated from a few, and refuses as all of it would."""
    one = scheduler()
    busy(one, 0.0)
    names = [f"lane {n}" for n in range(500)]
    for name in names:
        one.known.teach(name, [(1, 0.006), (64, 0.069)])
        fill(one, 1, 0.0, deadline=0.9, lane=name)
    assert len(one._queue.lanes) > LANES_LOOKED_AT
    assert one.admit(ticket(0.0, 1.0), 0.0) is not None
    assert one.admit(ticket(0.0, 0.8), 0.0) is None
    assert one.admit(ticket(0.0, 30.0), 0.0) is None


def counted(one: Scheduler[Ticket], monkeypatch: pytest.MonkeyPatch) -> list[Ticket]:
    """The tickets whose admission was worked out, not taken from one like them."""
    worked_out: list[Ticket] = []
    forecast = one._admission._forecast

    def counting(ticket: Ticket, *rest: object) -> float | None:
        worked_out.append(ticket)
        return forecast(ticket, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(one._admission, "_forecast", counting)
    return worked_out


def test_who_comes_behind_a_refused_one_hears_the_same_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no more time than he had, until the time that he was told; who has more is looked at."""
    one = scheduler()
    had_a_batch(one)
    busy(one, 0.0, 16)
    fill(one, 1, 0.0)
    worked_out = counted(one, monkeypatch)
    wait_s = one.admit(ticket(0.0, 0.010), 0.0)
    assert wait_s is not None and len(worked_out) == 1
    later = one.admit(ticket(0.0001, 0.010), 0.0001)
    assert later == pytest.approx(wait_s - 0.0001) and len(worked_out) == 1
    assert one.admit(ticket(0.0002, 0.1), 0.0002) is None and len(worked_out) == 2
    at = wait_s + 0.0001
    assert one.admit(ticket(at, 0.010), at) is None and len(worked_out) == 3


def test_what_admission_found_ends_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that begins or ends changes what can be in time."""
    one = scheduler()
    had_a_batch(one)
    fill(one, 16, 0.0, deadline=10.0)
    batch = one.take(0.0).batch
    assert batch is not None
    fill(one, 1, 0.0)
    assert one.admit(ticket(0.0, 0.020), 0.0) is not None
    worked_out = counted(one, monkeypatch)
    one.settle(batch, 0.001)
    one.admit(ticket(0.001, 0.020), 0.001)
    assert len(worked_out) == 1


# ---- batches


def test_the_head_that_would_make_a_bad_batch_is_refused() -> None:
    """While many wait who are due soon, one with time for two rows only is refused: the rest go in good batches."""
    one = scheduler()
    had_a_batch(one)
    [tight] = fill(one, 1, -0.018)  # due at 0.007
    rest = fill(one, 40, 0.0, deadline=0.017)
    taken = one.take(0.0)
    assert tight in taken.refused and taken.batch is not None
    assert taken.batch.tickets == rest[: len(taken.batch.tickets)]
    assert taken.batch.rows >= 7, "0.75·D gives 7, and they have time for more"


def test_lax_work_behind_a_tight_head_does_not_get_it_refused() -> None:
    """The same head, but those behind it have a second."""
    one = scheduler()
    had_a_batch(one)
    [tight] = fill(one, 1, -0.017)
    fill(one, 40, 0.0, deadline=1.0)
    taken = one.take(0.0)
    assert taken.batch is not None and taken.batch.tickets[0] is tight and taken.batch.rows in (2, 3)


def test_a_request_of_many_rows_must_fit_as_a_whole() -> None:
    """Its first row could be computed in time, but not the others."""
    one = scheduler()
    had_a_batch(one)
    [large] = fill(one, 1, 0.0, rows=40)
    fill(one, 1, 0.0, deadline=1.0)
    taken = one.take(0.0)
    assert taken.refused == [large]


def test_batch_work_is_taken_along() -> None:
    """Beside standard work that never ends, one in FLOOR_EVERY batches has a request of the batch class in it."""
    one = scheduler()
    patient = fill(one, 3, 0.0, deadline=1.0, priority=1.0)
    done, now = 0, 0.0
    for _ in range(3 * FLOOR_EVERY + 1):
        fill(one, 8, now)
        batch = one.take(now).batch
        assert batch is not None
        done += sum(each in patient for each in batch.tickets)
        now += ALPHA + BETA * batch.rows
        one.settle(batch, ALPHA + BETA * batch.rows)
    assert done == 3


def beside_overload(one: Scheduler[Ticket], waiting: list[Ticket], batches: int) -> list[tuple[int, Ticket]]:
    """Of so many batches, beside standard work that never ends: which of `waiting` were in the how manieth."""
    had, now = [], 0.0
    for number in range(batches):
        fill(one, 8, now)
        batch = one.take(now).batch
        assert batch is not None
        had += [(number, each) for each in batch.tickets if each in waiting]
        now += ALPHA + BETA * batch.rows
        one.settle(batch, ALPHA + BETA * batch.rows)
    return had


def test_a_lane_that_is_passed_over_has_every_eighth_batch() -> None:
    """Batch class, or without deadline, in lanes of their own: the one with the least time left first."""
    one = scheduler()
    [lax] = fill(one, 1, 0.0, deadline=None, lane="b")
    [batch_class] = fill(one, 1, 0.0, deadline=5.0, lane="c", priority=1.0)
    had = beside_overload(one, [lax, batch_class], 3 * FLOOR_EVERY)
    assert had == [(FLOOR_EVERY, batch_class), (2 * FLOOR_EVERY, lax)]


def test_a_lane_that_has_its_turns_is_not_put_before_others() -> None:
    """Where there is time for both lanes, the more urgent one never waits for a batch of the other."""
    one = scheduler()
    now = 0.0
    for _ in range(4 * FLOOR_EVERY):
        urgent = fill(one, 1, now, deadline=0.1) + fill(one, 1, now, lane="b", deadline=30.0, priority=1.0)
        for each in urgent:
            batch = one.take(now).batch
            assert batch is not None and batch.tickets == [each]
            now += ALPHA + BETA
            one.settle(batch, ALPHA + BETA)


def test_one_that_is_too_large_to_be_taken_along_keeps_nobody_waiting_and_runs_alone() -> None:
    """Those of one row behind it are taken along as before; it has a batch of its own, and the next such one comes when
    the others have had seven times as long."""
    one = scheduler()
    large = fill(one, 2, 0.0, deadline=20.0, priority=1.0, rows=60)
    small = fill(one, 3, 0.0, deadline=25.0, priority=1.0)
    had, alone = [], []
    now = 0.0
    while any(each.state is not State.OVER for each in [*large, *small]) and now < 5.0:
        fill(one, 8, now)
        batch = one.take(now).batch
        assert batch is not None
        had += [each for each in batch.tickets if each in small]
        if any(each in large for each in batch.tickets):
            assert len(batch.tickets) == 1
            alone.append(now)
        now += ALPHA + BETA * batch.rows
        one.settle(batch, ALPHA + BETA * batch.rows)
    assert had == small
    took = ALPHA + BETA * 60
    assert len(alone) == 2 and 8 * took <= alone[1] - alone[0] < 11 * took


def test_one_that_cannot_be_in_time_does_not_take_the_place_of_one_that_can() -> None:
    """When its turn comes it is refused, and the next has the turn."""
    one = scheduler()
    had_a_batch(one)
    [hopeless] = fill(one, 1, 0.0, deadline=0.4, priority=1.0, rows=500)
    [good] = fill(one, 1, 0.0, deadline=5.0, lane="b", priority=1.0)
    assert beside_overload(one, [good], 2 * FLOOR_EVERY) == [(FLOOR_EVERY - 1, good)]
    assert hopeless.state is State.OVER


def test_who_is_left_behind_and_will_be_late_is_told_at_once() -> None:
    """Not when the batch that made him late is done."""
    one = scheduler()
    had_a_batch(one)
    fill(one, 200, 0.0, deadline=0.0155)
    taken = one.take(0.0)
    assert taken.batch is not None and taken.batch.rows == 10
    assert len(taken.refused) == 200 - taken.batch.rows and one.queued == 0


# ---- shares


def test_the_client_who_has_had_less_goes_first() -> None:
    """Of equal deadlines: a client with 100 requests in the queue is passed by one with a single one."""
    one = scheduler()
    loud, calm = Client("loud"), Client("calm")
    fill(one, 100, 0.0, deadline=0.5, client=loud)
    [first] = fill(one, 1, 0.0, deadline=0.5, client=calm)
    batch = one.take(0.0).batch
    assert batch is not None and first in batch.tickets[:2]


def test_deadlines_still_count_between_clients() -> None:
    """A share moves a place by what was used, no more: an urgent request of the loud client is before a lax one."""
    one = scheduler()
    loud, calm = Client("loud"), Client("calm")
    fill(one, 1, 0.0, deadline=1.0, client=calm)
    urgent = fill(one, 5, 0.0, deadline=0.1, client=loud)
    batch = one.take(0.0).batch
    assert batch is not None and batch.tickets[:5] == urgent


def test_who_says_nothing_is_not_before_who_has_the_clients_default() -> None:
    """Two large requests at a time without a deadline, for a minute: one with 30 s, which came last, is the next but
    one."""
    one = scheduler()
    loud, calm = Client("loud"), Client("calm")
    large = (64 * BETA + ALPHA) * 4
    now, mine = 0.0, None
    fill(one, 2, now, deadline=None, rows=256, client=loud)
    for turn in range(200):
        if turn == 100:
            [mine] = fill(one, 1, now, deadline=30.0, client=calm)
        batch = one.take(now).batch
        assert batch is not None
        if mine is not None and mine in batch.tickets:
            break
        now += large
        one.settle(batch, large)
        fill(one, 1, now, deadline=None, rows=256, client=loud)
    assert turn <= 102


def test_what_did_not_run_is_not_charged() -> None:
    """A client who withdrew a thousand requests is where he was."""
    one = scheduler()
    client = Client("a")
    for each in fill(one, 1000, 0.0, deadline=1.0, client=client):
        one.withdraw(each)
    assert client.tag == pytest.approx(0.0, abs=1e-9) and client.queued == 0 and one._queue.shares.backlogged == 0


def test_who_comes_back_from_idle_has_saved_up_nothing() -> None:
    """The tag of one who was away is lifted to now: he is not before all others for it."""
    one = scheduler()
    away, here = Client("away"), Client("here")
    fill(one, 1, 0.0, client=away, deadline=1.0)
    one.expire(2.0)
    early = fill(one, 1, 100.0, client=here, deadline=1.0)
    late = fill(one, 1, 100.001, client=away, deadline=1.0)
    batch = one.take(100.002).batch
    assert batch is not None and batch.tickets == early + late


# ---- places, ends, ceilings


def test_who_takes_a_place_keeps_it() -> None:
    """Typing does not put itself at the end of the queue with every key; and a place is never a worse one."""
    one = scheduler()
    first, _second = fill(one, 2, 0.0, deadline=1.0)
    newer = ticket(0.5, 1.0)
    newer.place = first.key
    one.withdraw(first)
    one.submit(newer, 0.5)
    batch = one.take(0.5).batch
    assert batch is not None and newer in batch.tickets and newer.key == first.key
    urgent = ticket(0.5, 0.1)
    urgent.place = 99.0
    one.submit(urgent, 0.5)
    assert urgent.key == pytest.approx(0.6)


def test_time_that_is_over_ends_what_waits() -> None:
    """`next_expiry` is the earliest due of those that wait, `expire` hands them back once."""
    one = scheduler()
    assert one.next_expiry() is None
    early, late = fill(one, 1, 0.0, deadline=0.1) + fill(one, 1, 0.0, deadline=0.2)
    endless = fill(one, 1, 0.0, deadline=None)
    assert one.next_expiry() == pytest.approx(0.1)
    assert one.expire(0.05) == []
    assert one.expire(0.1) == [early] and early.state is State.OVER
    one.withdraw(late)
    assert one.next_expiry() is None and one.expire(1e9) == []
    assert one.queued == 1 and endless[0].state is State.QUEUED


def test_the_heap_of_expiries_does_not_grow_with_what_is_over() -> None:
    """100,000 requests with an hour to spare come and go: no more than a few thousand entries."""
    one = scheduler()
    for _ in range(100_000):
        each = ticket(0.0, 3600.0)
        one.submit(each, 0.0)
        one.withdraw(each)
    assert len(one._queue._expiry) <= 1100


def test_out_of_memory_is_remembered() -> None:
    """Halves run again, and no batch of the lane is as large any more; of other lanes it is."""
    one = scheduler()
    order = fill(one, 64, 0.0, deadline=None)
    batch = one.take(0.0).batch
    assert batch is not None and batch.rows == 64
    assert one.out_of_memory(batch) is None
    halves = [one.take(0.0).batch for _ in range(2)]
    assert [half.tickets for half in halves if half is not None] == [order[:32], order[32:]]
    for half in halves:
        assert half is not None
        one.settle(half, 0.037)
    fill(one, 64, 0.2, deadline=None)
    fill(one, 64, 0.2, deadline=None, lane="b")
    assert sorted(one.take(0.2).batch.rows for _ in range(3)) == [32, 32, 64]  # type: ignore[union-attr]


def test_a_request_too_large_for_the_device_is_the_guilty_one() -> None:
    """Alone and out of memory: it fails, and does not come back."""
    one = scheduler()
    [large] = fill(one, 1, 0.0, deadline=None, rows=64)
    batch = one.take(0.0).batch
    assert batch is not None and one.out_of_memory(batch) is large
    assert one.queued == 0 and one.take(0.0).batch is None


def test_memory_is_bounded_against_callers_who_invent_shapes() -> None:
    """Ten thousand lanes: the latencies and ceilings of those that ran last are kept."""
    one = scheduler()
    for number in range(10_000):
        now = float(number)
        hot = fill(one, 1, now, deadline=None, lane="hot")
        fill(one, 1, now, deadline=None, lane=f"lane {number}")
        for _ in range(2):
            batch = one.take(now).batch
            assert batch is not None
            if batch.tickets == hot:
                one.settle(batch, 0.1)
            else:
                one.out_of_memory(batch)
    assert len(one.known.latencies) <= MAX_LATENCIES and len(one.known._ceilings) <= MAX_LATENCIES + 1
    assert one.known.latencies[("hot",)].seen > 1000


def test_few_ceilings_are_all_kept() -> None:
    """When lanes are forgotten for others, so many of their ceilings go as are too many, and none below that."""
    one = known.Known()
    for number in range(500):
        one.out_of_memory(("m", number), 64)
    for number in range(MAX_LATENCIES + 1):
        one.latency(("other", number))
    assert one.largest(("m", 0), 64) == 32


def test_more_is_tried_again_when_memory_may_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After enough full batches the ceiling rises by an eighth; a trial that fails goes back to what has run, and the
    next one waits twice as long."""
    monkeypatch.setattr(known, "CEILING_PATIENCE", 4)
    one = scheduler()

    def rows_of_a_batch(fails_above: int) -> int:
        fill(one, 64, 0.0, deadline=None)
        batch = one.take(0.0).batch
        assert batch is not None
        if batch.rows <= fails_above:
            one.settle(batch, ALPHA + BETA * batch.rows)
            return batch.rows
        rows = batch.rows
        one.out_of_memory(batch)
        while one._again:
            again = one.take(0.0).batch
            assert again is not None
            one.settle(again)
        return -rows

    assert [rows_of_a_batch(40) for _ in range(12)] == [-64, 32, 32, 32, 32, 36, 36, 36, 36, 40, 40, 40]
    assert [rows_of_a_batch(40) for _ in range(12)] == [40, -45, 40, 40, 40, 40, 40, 40, 40, 40, -45, 40]


def test_only_the_sizes_that_a_model_computes_are_aimed_at() -> None:
    """Five rows take as long as eight where five are computed as eight, so four are taken if only they are in time."""
    one: Scheduler[Ticket] = Scheduler()
    one.known.teach("a", [(b, ALPHA + BETA * b) for b in (1, 2, 4, 8, 16)], sizes=(1, 2, 4, 8, 16))
    latency = one.known.latency(("a",))
    assert latency.mean(5) == latency.mean(8) and latency.mean(4) < latency.mean(5)
    for at in range(40):
        lane_batch(one, at * 0.1, 16)
    fill(one, 16, 10.0, deadline=0.0125)
    batch = one.take(10.0).batch
    assert batch is not None and batch.rows == 4


def test_rows_that_are_larger_are_taken_to_cost_more() -> None:
    """A lane of longer rows begins with the warm-up's line, steeper."""
    one = scheduler()
    assert one.known.latency(("a", "long"), 4.0).mean(8) == pytest.approx(ALPHA + 4 * BETA * 8, rel=0.05)
    assert one.known.latency(("a", "like it"), 1.0).mean(8) == pytest.approx(ALPHA + BETA * 8, rel=0.05)


def test_devices_at_rest_share_a_burst() -> None:
    """Sixteen rows at two idle devices are eight for each; a device that is alone at rest takes what fits."""
    one = scheduler(workers=2)
    fill(one, 16, 0.0, deadline=None)
    first, second = one.take(0.0).batch, one.take(0.0).batch
    assert first is not None and second is not None and first.rows == second.rows == 8
    fill(one, 16, 0.0, deadline=None)
    one.settle(first, 0.013)
    third = one.take(0.013).batch
    assert third is not None and third.rows == 16


def test_small_batches_are_charged_for_what_they_cost() -> None:
    """A row in a batch of one costs six times what it costs in a full one, and so much further is its client ahead."""
    leads = []
    for rows in (1, 64):
        one, client = scheduler(), Client("one")
        lane_batch(one, 0.0, 64)
        fill(one, rows, 1.0, client=client)
        assert one.take(1.0).batch is not None
        leads.append((client.tag - 1.0) / rows)
    price = (ALPHA + BETA * 64) / 64
    assert leads[0] == pytest.approx(ALPHA + BETA, rel=0.05) and leads[1] == pytest.approx(price, rel=0.1)


def test_a_request_that_never_fits_does_not_make_the_others_run_alone() -> None:
    """It runs out of memory by itself, so it was not the size of the batches it was in: they are as large as before."""
    one = scheduler()
    [greedy] = fill(one, 1, 0.0, deadline=None)
    fill(one, 63, 0.0, deadline=None)
    guilty = None
    while (batch := one.take(0.0).batch) is not None:
        if greedy in batch.tickets:
            guilty = one.out_of_memory(batch)
        else:
            one.settle(batch, 0.037)
    assert guilty is greedy
    fill(one, 64, 1.0, deadline=None)
    batch = one.take(1.0).batch
    assert batch is not None and batch.rows == 64
