"""When a call is sent again: the pauses, the budget, and what is final. Pure: `jitter` and what is left are numbers."""

from __future__ import annotations

from string import Formatter

import pytest
from inferd_client.retry import MAX_RETRY_AFTER_S, RetryBudget, asked_pause_s, backoff_s, retry_after_s

from inferd.errors import CATALOGUE, ProtocolError, RequestError, make


def error_for(reason: str, retry_after_ms: float | None = None) -> RequestError:
    """The error of the catalogue, with something in each of its fields."""
    _, text = CATALOGUE[reason]
    fields = {name: "x" for _, name, _, _ in Formatter().parse(text) if name}
    return make(reason, retry_after_ms, **fields)


def decided(
    reason: str, retries: int = 0, left_s: float = 30.0, jitter: float = 0.5, after_ms: float | None = None
) -> float | None:
    return retry_after_s(error_for(reason, after_ms), retries, 2, left_s, jitter, RetryBudget())


def test_pauses_grow_and_are_spread() -> None:
    """Any time up to 50 ms at first, doubled each time, never over two seconds."""
    assert [backoff_s(attempt, 1.0) for attempt in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff_s(3, 0.25) == pytest.approx(0.1)
    assert backoff_s(10_000, 0.0) == 0.0


def test_what_is_sent_again() -> None:
    """What the catalogue calls retryable, but for what the server has tried twice by itself."""
    again = {reason for reason in CATALOGUE if decided(reason) is not None}
    retryable = {reason for reason in CATALOGUE if error_for(reason).retryable}
    assert again == retryable - {"WORKER_LOST"}
    assert decided("WORKER_LOST", after_ms=100) is not None
    assert {"OVERLOADED", "SLAB_FULL", "CONNECTION_LOST"} <= again
    assert not {"TIMEOUT", "TOKEN", "MODEL_FAILED", "SUPERSEDED", "FIELD_VALUE"} & again


def test_two_retries_and_no_more() -> None:
    assert decided("SLAB_FULL", retries=0) == pytest.approx(0.025)
    assert decided("SLAB_FULL", retries=1) == pytest.approx(0.05)
    assert decided("SLAB_FULL", retries=2) is None


def test_the_servers_word_on_when_to_come_back() -> None:
    """It is waited for, and a little longer, so that those who were told the same do not come together."""
    assert decided("OVERLOADED", after_ms=300) == pytest.approx(0.325)
    assert decided("OVERLOADED", after_ms=300, jitter=0.0) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("after_ms", "pause_s"),
    [
        (None, 0.0),
        (300, 0.3),
        (1e15, MAX_RETRY_AFTER_S),
        (-1e9, 0.0),
        (float("nan"), 0.0),
        (float("inf"), 0.0),
    ],
)
def test_no_server_keeps_a_client_away_for_good(after_ms: float | None, pause_s: float) -> None:
    """A minute is obeyed at most, and what is no time is ignored."""
    assert asked_pause_s(error_for("OVERLOADED", after_ms)) == pause_s
    assert decided("OVERLOADED", after_ms=after_ms, jitter=0.0, left_s=100.0) == pause_s


def test_no_retry_that_would_come_too_late() -> None:
    """The caller is told at once instead of at the end of its time."""
    assert decided("OVERLOADED", after_ms=300, left_s=0.31) is None
    assert decided("SLAB_FULL", left_s=0.01) is None


def test_an_error_that_is_no_answer_is_final() -> None:
    assert retry_after_s(ProtocolError("nonsense"), 0, 2, 30.0, 0.5, RetryBudget()) is None


def test_at_most_a_tenth_of_all_calls() -> None:
    """When every call fails, a thousand of them make a hundred retries, and the first handful."""
    budget = RetryBudget()
    retries = 0
    for _ in range(1000):
        budget.earn()
        retries += budget.spend()
    assert 100 <= retries <= 110
    assert not budget.spend()


def test_calls_that_need_no_retry_pay_for_those_that_do() -> None:
    """Up to a handful: a quiet day does not save up for a storm."""
    budget = RetryBudget()
    while budget.spend():
        pass
    for _ in range(10):
        budget.earn()
    assert budget.spend() and not budget.spend()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10


def test_a_retry_that_is_not_made_costs_nothing() -> None:
    budget = RetryBudget()
    error = make("SLAB_FULL")
    for _ in range(100):
        assert retry_after_s(error, 2, 2, 30.0, 0.5, budget) is None
        assert retry_after_s(error, 0, 2, 0.001, 0.5, budget) is None
    assert sum(budget.spend() for _ in range(100)) == 10
