"""Credits: additive up, multiplicative down, never below a few full batches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inferd.schedule.credits import FIRST, LEAST_BATCHES, TARGET, Window


def test_it_grows_by_one_for_each_window_of_answers() -> None:
    """While requests start within a quarter of their budget."""
    window = Window(1024)
    for n in range(int(FIRST)):
        window.waited(0.1 * TARGET, 0.1, 1, n * 0.001)
    assert window.credits in (int(FIRST), int(FIRST) + 1)


def test_it_halves_once_for_each_long_wait() -> None:
    """All answers of one bad moment are one piece of news."""
    window = Window(1024)
    for _ in range(100):
        window.waited(0.05, 0.1, 1, 1.0)
    assert window.credits == FIRST // 2
    window.waited(0.05, 0.1, 1, 1.04)
    assert window.credits == FIRST // 2
    window.waited(0.05, 0.1, 1, 1.06)
    assert window.credits == FIRST // 4


def test_a_refusal_halves_as_well() -> None:
    """And is remembered as long as the request's budget."""
    window = Window(1024)
    window.congested(0.1, 1, 1.0)
    window.congested(0.1, 1, 1.05)
    assert window.credits == FIRST // 2


def test_a_small_limit_is_the_first_size() -> None:
    """Never more than the server allows at all."""
    window = Window(3)
    assert window.credits == 3
    window.congested(0.1, 64, 1.0)
    assert window.credits == 3


def test_there_are_always_credits_for_full_batches() -> None:
    """Whoever has fewer sends requests that have waited with him until they are nearly late, one by one, to a device
    that could take many: he would never be rid of them."""
    window = Window(1024)
    for second in range(100):
        window.congested(0.1, 16, float(second))
    assert window.credits == LEAST_BATCHES * 16
    window.congested(0.1, 1, 100.0)
    assert window.credits == LEAST_BATCHES * 8


@given(
    st.integers(1, 5000),
    st.integers(1, 512),
    st.lists(st.tuples(st.booleans(), st.floats(0.0, 2.0), st.floats(1e-6, 2.0), st.floats(0.0, 0.5)), max_size=300),
)
def test_it_stays_between_one_and_the_largest(
    largest: int, batch: int, news: list[tuple[bool, float, float, float]]
) -> None:
    """Whatever happens."""
    window, now = Window(largest), 0.0
    for refused, delay, budget, gap in news:
        now += gap
        if refused:
            window.congested(delay, batch, now)
        else:
            window.waited(delay, budget, batch, now)
        assert 1 <= window.credits <= largest


def test_a_flood_settles_where_requests_start_in_time() -> None:
    """A device that takes 100 a second and a caller who always uses all his credits: the window ends near a quarter of
    the budget's worth of requests, and swings no further than AIMD does."""
    window, seen = Window(1024), []
    now = 0.0
    for step in range(20_000):
        now += 0.01
        window.waited(window.credits * 0.01, 1.0, 1, now)
        if step > 2000:
            seen.append(window.credits)
    assert min(seen) >= 10 and max(seen) <= 27
