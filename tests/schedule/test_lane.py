"""A lane keeps its order, and knows how many rows fit."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.schedule.lane import CODEL_INTERVAL_S, FLOOR_EVERY, SWEEP, Lane
from inferd.schedule.latency import Latency
from inferd.schedule.ticket import Ticket


def learned(batches: list[tuple[int, float]]) -> Latency:
    latency = Latency()
    for b, seconds in batches:
        latency.observe(b, seconds)
    return latency


def lane(largest: int = 64, batches: list[tuple[int, float]] | None = None) -> Lane[Ticket]:
    line = [(b, 0.005 + 0.001 * b) for b in (1, 2, 4, 8, 16, 32, 64)] * 4
    return Lane("a", learned(line if batches is None else batches), largest)


def add(one: Lane[Ticket], key: float, number: int, rows: int = 1, due: float | None = 1.0) -> Ticket:
    ticket = Ticket("a", rows, 64, 64, due)
    ticket.key, ticket.in_lane = key, True
    one.add(ticket, number)
    return ticket


def leave(one: Lane[Ticket], ticket: Ticket) -> None:
    ticket.in_lane = False
    one.removed(ticket)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.5]), st.booleans()), max_size=60))
def test_heads_come_in_the_order_of_their_keys(entries: list[tuple[float, bool]]) -> None:
    """By key, then by arrival; those withdrawn never come."""
    one = lane()
    tickets = [(add(one, key, number), gone) for number, (key, gone) in enumerate(entries)]
    for ticket, gone in tickets:
        if gone:
            leave(one, ticket)
    left = [ticket for ticket, gone in tickets if not gone]
    order = []
    while (head := one.head()) is not None:
        order.append(head)
        leave(one, head)
    assert order == sorted(left, key=lambda ticket: ticket.key)
    assert one.count == one.rows == 0


@given(st.lists(st.floats(0.0, 10.0), max_size=80), st.floats(0.0, 10.0))
def test_rows_before_are_counted(keys: list[float], key: float) -> None:
    """Exactly while nobody was withdrawn and all are alike, in proportion after that."""
    one = lane()
    tickets = [add(one, at, number) for number, at in enumerate(keys)]
    assert round(one.rows_before(key)) == sum(at < key for at in keys)
    for ticket in tickets[::2]:
        leave(one, ticket)
    assert 0.0 <= one.rows_before(key) <= one.rows


def test_the_withdrawn_are_swept_out() -> None:
    """A lane whose tickets are withdrawn one after the other stays small."""
    one = lane()
    kept = add(one, 0.0, 0)
    for number in range(1, 20_000):
        leave(one, add(one, float(number), number, due=None))
        assert len(one._entries) <= 2 * SWEEP + 4 and len(one._patient) <= 2 * SWEEP + 4
    assert one.head() is kept


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 1.0)), min_size=1, max_size=60),
    st.lists(st.floats(0.0, 2.0), min_size=2, max_size=10),
    st.sampled_from([1, 5, 64, 100]),
)
def test_what_fits_is_monotone_and_right(batches: list[tuple[int, float]], budgets: list[float], largest: int) -> None:
    """Against brute force over every batch size: straight between the buckets, never falling."""
    one = lane(largest, batches)
    plans = []
    for size in one.sizes:
        plans.append(max([one.latency.plan(size), *plans[-1:]]))

    def planned(b: int) -> float:
        if b in one.sizes:
            return plans[one.sizes.index(b)]
        over = next(n for n, size in enumerate(one.sizes) if size > b)
        low, high = one.sizes[over - 1], one.sizes[over]
        return plans[over - 1] + (plans[over] - plans[over - 1]) * (b - low) / (high - low)

    fits = [one.fitting(budget) for budget in sorted(budgets)]
    assert fits == sorted(fits)
    for budget, fit in zip(sorted(budgets), fits, strict=True):
        assert fit in (
            max((b for b in range(1, largest + 1) if planned(b) <= budget * (1 - 1e-9)), default=0),
            max((b for b in range(1, largest + 1) if planned(b) <= budget * (1 + 1e-9)), default=0),
        )
        assert one.target(budget) == max(1, fit)


def test_the_best_batch_is_all_there_is_on_a_line() -> None:
    """α is shared by more rows: nothing is gained by leaving some."""
    one = lane()
    assert all(one.best(rows) == rows for rows in range(1, 65))


def test_large_rows_are_not_batched_where_that_is_slower() -> None:
    """1656/s alone and 353/s in batches of 32: alone. Now and then all are tried, or nobody would see it change."""
    seen = [(b, b / 1656 if b < 4 else b / 353) for b in (1, 2, 3, 4, 8, 16, 32, 32)] * 16
    one = lane(32, seen)
    took = [one.best(32) for _ in range(256)]
    assert sorted(set(took))[0] <= 3 and took.count(32) == 4


def test_codel_lets_a_burst_pass_and_ends_a_standing_queue() -> None:
    """Waiting longer than the target for less than 100 ms is a burst. After that all that waited longer are refused,
    until one has not."""
    one = lane()
    ticket = Ticket("a", 1, 64, 64, None)
    ticket.key = 1.0
    assert not one.standing(ticket, 0.05, 0.02)
    assert not one.standing(ticket, 0.05 + CODEL_INTERVAL_S / 2, 0.02)
    assert not one.congested(0.1)
    assert one.standing(ticket, 0.051 + CODEL_INTERVAL_S, 0.02)
    assert one.standing(ticket, 0.051 + CODEL_INTERVAL_S, 0.02) and one.congested(0.2)
    young = Ticket("a", 1, 64, 64, None, 0.15)
    young.queued_at, young.key = 0.15, 1.15
    assert not one.standing(young, 0.151, 0.02)
    assert one.standing(ticket, 0.2, 0.02), "the queue has not been short in between"
    assert not one.standing(young, 0.165, 0.02)
    assert not one.standing(ticket, 0.3, 0.02), "it has"


def test_waiting_for_a_batch_is_no_standing_queue() -> None:
    """The target is never shorter than what a full batch takes."""
    one = lane()
    for n in range(100):
        ticket = Ticket("a", 1, 64, 64, None, n * 0.01)
        ticket.queued_at, ticket.key = n * 0.01, n * 0.01 + 1.0
        assert not one.standing(ticket, n * 0.01 + 0.060, 0.069)


def test_a_patient_ticket_is_taken_along_now_and_then() -> None:
    """One in eight batches has one of those that all others may pass: the one with the least time left."""
    one = lane()
    gone = add(one, 9.0, 0, due=None)
    kept = add(one, 9.5, 1, due=None)
    add(one, 1.0, 2)
    leave(one, gone)

    def taken() -> list[Ticket | None]:
        took = []
        for _ in range(32):
            one.best(1)
            took.append(one.floor(64))
        return took

    took = taken()
    assert took.count(kept) == 4 and took.count(None) == 28
    hurried = Ticket("a", 1, 64, 64, 5.0, priority=1.0)
    hurried.in_lane = True
    one.add(hurried, 3)
    assert taken().count(hurried) == 4


def test_a_turn_that_could_not_be_taken_is_not_lost() -> None:
    """A batch of one that is too large takes nobody along; where it is every eighth, the next one does."""
    one = lane()
    kept = add(one, 9.0, 0, due=None)
    turns = []
    for number in range(24):
        one.best(1)
        if number % FLOOR_EVERY != FLOOR_EVERY - 1:
            turns.append(one.floor(64))
    assert turns.count(kept) == 2


def test_one_that_is_too_large_is_stepped_over_once() -> None:
    """Those behind it are taken along, and it is among those passed over until it is gone; nothing of it is kept."""
    one = lane()
    large = add(one, 1.0, 0, rows=40, due=None)
    small = add(one, 2.0, 1, due=None)
    one.latency.ran_at = 1.0
    assert one.passed_over(0.5) is None
    for _ in range(FLOOR_EVERY):
        one.best(1)
    assert one.floor(39) is small and one.first_patient() is small
    assert one.passed_over(0.5) == (30.0, 0, large)
    leave(one, large)
    assert one.passed_over(0.5) is None and one.passed_over(1.0) == (30.0, 1, small)
    assert not one._outsize


def test_order_survives_the_compaction_of_a_long_queue() -> None:
    """Entries that were stepped over are deleted in bulk."""
    rng, one = random.Random(1), lane()
    waiting: list[Ticket] = []
    for step in range(4000):
        waiting.append(add(one, step + rng.random() * 50, step))
        if len(waiting) > 900:
            head = one.head()
            assert head is not None and head.key == min(ticket.key for ticket in waiting)
            leave(one, head)
            waiting.remove(head)
    assert one.head() is not None and len(one._entries) - one._start == one.count
