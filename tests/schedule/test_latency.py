"""What a batch takes is learned from what batches took."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.schedule.latency import BUCKETS, ENOUGH, FASTER, SLOWER, WINDOW, Latency

BATCHES = st.lists(st.tuples(st.integers(1, 5000), st.floats(0.0, 100.0)), min_size=1, max_size=200)


def taught(alpha: float, beta: float, batches: int = 200, noise: float = 0.0, seed: int = 1) -> Latency:
    rng = random.Random(seed)
    latency = Latency()
    for _ in range(batches):
        b = rng.randint(1, 64)
        latency.observe(b, (alpha + beta * b) * (rng.lognormvariate(0.0, noise) if noise else 1.0))
    return latency


def test_alpha_and_beta_are_learned() -> None:
    """Without noise the line is the device's, and the plan is the line."""
    latency = taught(0.005, 0.001)
    for b in (1, 7, 32, 64, 200):
        assert latency.mean(b) == pytest.approx(0.005 + 0.001 * b, rel=1e-3)
        assert latency.plan(b) == pytest.approx(latency.mean(b), rel=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_the_plan_covers_most_batches(seed: int) -> None:
    """With 20 % of log-normal noise the 95th percentile is exp(1.645 · 0.2) = 1.39 times the median, the 85th 1.23."""
    latency = taught(0.005, 0.001, 2000, 0.2, seed)
    assert 1.2 < latency.plan(32) / (0.005 + 0.001 * 32) < 1.7
    rng = random.Random(seed + 100)
    late = sum(0.037 * rng.lognormvariate(0.0, 0.2) > latency.plan(32) for _ in range(2000))
    assert late < 0.15 * 2000


def test_nothing_is_planned_while_nothing_is_known() -> None:
    """The first batch is not refused for what nobody knows."""
    latency = Latency()
    assert not latency.known and latency.plan(64) == 0.0


def test_a_drift_is_followed() -> None:
    """One per cent a batch, too little to surprise."""
    latency = taught(0.005, 0.001)
    factor = 1.0
    for n in range(200):
        factor *= 1.005
        b = 1 + n * 7 % 64
        latency.observe(b, (0.005 + 0.001 * b) * factor)
    assert latency.mean(32) == pytest.approx(0.037 * factor, rel=0.2)


@pytest.mark.parametrize(("factor", "batches"), [(2.0, SLOWER), (5.0, SLOWER), (0.5, FASTER)])
def test_a_sustained_surprise_resets(factor: float, batches: int) -> None:
    """Two batches far too slow, or four far too fast, and the device is taken to be another one: at all sizes, although
    only one was seen."""
    latency = taught(0.005, 0.001)
    for _ in range(batches):
        latency.observe(16, 0.021 * factor)
    for b in (1, 16, 64):
        assert latency.mean(b) == pytest.approx((0.005 + 0.001 * b) * factor, rel=0.02)
        assert latency.plan(b) < 1.1 * latency.mean(b)


def test_one_hiccup_does_not_reset() -> None:
    """A single batch that took ten times as long moves the line by little."""
    latency = taught(0.005, 0.001)
    latency.observe(16, 0.21)
    latency.observe(16, 0.021)
    assert latency.mean(16) < 0.021 * 1.4


def test_noise_after_a_silent_warm_up_is_no_change_of_regime() -> None:
    """Warm-up on an idle device saw no noise. What is off the line since then must not surprise for ever."""
    latency = Latency()
    for b in (1, 2, 4, 8, 16, 32, 64) * 4:
        latency.observe(b, 0.005 + 0.001 * b)
    rng, resets = random.Random(1), 0
    for _ in range(2000):
        b = rng.randint(1, 16)
        latency.observe(b, (0.005 + 0.001 * b) * rng.lognormvariate(0.0, 0.2))
        resets += len(latency._all) <= FASTER
    assert resets <= 4


def test_one_size_for_hours_keeps_the_line() -> None:
    """100,000 batches of one size say nothing of the slope: it stays, within what the noise moves."""
    latency = taught(0.005, 0.001)
    rng = random.Random(1)
    for _ in range(100_000):
        latency.observe(8, 0.013 * rng.lognormvariate(0.0, 0.05))
    assert latency.mean(8) == pytest.approx(0.013, rel=0.05)
    assert latency.mean(64) == pytest.approx(0.069, rel=0.2)


def test_a_new_lane_begins_with_what_its_model_is_known_to_take() -> None:
    """And follows its own batches within a few."""
    latency = Latency(taught(0.005, 0.001))
    assert latency.known and latency.mean(32) == pytest.approx(0.037, rel=1e-2)
    for _ in range(20):
        latency.observe(32, 0.050)
    assert latency.mean(32) == pytest.approx(0.050, rel=0.1)


def test_seen_means_are_those_of_the_last_batches_of_a_bucket() -> None:
    """Where a line is wrong the bucket's own mean says so; it is kept as running sums and forgets the oldest."""
    latency = taught(0.005, 0.001)
    for _ in range(300):
        latency.observe(64, 0.100)
        latency.observe(1, 0.001)
        latency.observe(32, 0.012)
    assert latency.mean_seen(64) == pytest.approx(0.100, rel=1e-6)
    assert latency.mean_seen(32) == pytest.approx(0.012, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(batches=BATCHES)
def test_whatever_is_seen_the_plan_is_a_number(batches: list[tuple[int, float]]) -> None:
    """Positive, finite, never falling with b along the line, and never below the line."""
    latency = Latency()
    for b, seconds in batches:
        latency.observe(b, seconds)
        assert latency._alpha >= 0.0 and latency._beta >= 0.0 and latency._variance >= 0.0
    means = [latency.mean(b) for b in (*BUCKETS, 5000)]
    plans = [latency.plan(b) for b in (*BUCKETS, 5000)]
    assert all(math.isfinite(value) and value > 0.0 for value in means + plans)
    assert means == sorted(means)
    assert all(plan >= mean for plan, mean in zip(plans, means, strict=True))
    assert all(math.isfinite(latency.mean_seen(b)) and latency.mean_seen(b) > 0.0 for b in BUCKETS)


def test_a_bucket_that_was_unlucky_is_tried_again() -> None:
    """A bucket whose last batches took long is planned by what all batches take once it has not been tried for long."""
    latency = Latency()
    for _ in range(100):
        latency.observe(3, 0.008)
    for n in range(2 * ENOUGH):
        latency.observe(4, 0.025 if n % 2 else 0.009)
        latency.observe(3, 0.008)
    assert latency.plan(4) > 0.020
    for _ in range(WINDOW):
        latency.observe(3, 0.008)
    assert latency.plan(4) < 0.015


def test_the_plan_of_a_large_batch_is_bolder_where_its_size_pays() -> None:
    """Where α is most of a batch a larger one gives many more rows for its time, and some may be late for that; where
    β is, it gives none, and hardly any may."""
    level = {}
    for alpha, beta in ((0.005, 0.001), (0.0001, 0.004)):
        latency = taught(alpha, beta, 4000, 0.2)
        late = sum(
            random.Random(n).lognormvariate(0.0, 0.2) * (alpha + beta * 8) > latency.plan(8) for n in range(4000)
        )
        level[alpha] = late / 4000
    assert level[0.0001] < 0.06 < level[0.005] < 0.3
