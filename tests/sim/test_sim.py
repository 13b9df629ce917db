"""The policy as a whole, on a virtual clock: exactly one outcome for each request, and the goodput that is promised."""

from __future__ import annotations

import random

import pytest

from tests.sim.cases import TAIL_S, formula, jain, share
from tests.sim.lives import life
from tests.sim.plot import svg
from tests.sim.traffic import merged, poisson, spike
from tests.sim.world import NEVER, PROFILES, Arrival, Device, Profile, World, first_come, play

FIRST, GPU, LAST = PROFILES
FULL = 64 / (FIRST.alpha + FIRST.beta * 64)  # a second, in full batches


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_every_request_has_exactly_one_outcome(first: int) -> None:
    """300 seeded lives with every kind of trouble; `make sim` plays 2,000."""
    for seed in range(first, first + 100):
        try:
            life(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def goodput(profile: Profile, load: float, noise: float) -> float:
    """Of a short run, as a share of λ*."""
    seconds = 2.0 if profile is GPU else 20.0
    arrivals = poisson(random.Random(3), load * profile.rate, seconds + TAIL_S, profile.objective)
    outcome = play(arrivals, Device(profile, random.Random(4), noise), profile.largest)
    return outcome.goodput(0.5, seconds) / profile.rate


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_goodput_holds_under_overload(profile: Profile) -> None:
    """Within 5 % of λ* at twice of it, within 10 % at four times."""
    assert goodput(profile, 2.0, 0.0) >= 0.95
    assert goodput(profile, 4.0, 0.0) >= 0.90


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_goodput_holds_with_noise(profile: Profile) -> None:
    """With 20 % of noise in every batch: 0.90 and 0.85."""
    assert goodput(profile, 2.0, 0.2) >= 0.90
    assert goodput(profile, 4.0, 0.2) >= 0.85


@pytest.mark.parametrize("policy", ["first come", "queue timeout = objective"])
def test_the_usual_ways_collapse(policy: str) -> None:
    """What the policy is compared with serves under a tenth of λ*."""
    assert share(policy, FIRST, 2.0, 0.0, 1, quick=True) < 0.1


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_light_load_has_the_latency_of_taking_what_is_there(profile: Profile) -> None:
    """Within 7 % of the formula at half of λ*."""
    seconds = 5.0 if profile is GPU else 60.0
    outcome = play(
        poisson(random.Random(1), profile.rate / 2, seconds, profile.objective),
        Device(profile, random.Random(2)),
        profile.largest,
    )
    latencies = outcome.latencies(1.0, seconds)
    assert sum(latencies) / len(latencies) == pytest.approx(formula(profile, profile.rate / 2), rel=0.07)


def test_four_models_share_a_device() -> None:
    """Each plans with the others' batches: within 5 % of the figure of the plan."""
    profile = Profile(0.003, 0.0002, 0.040, 64)
    streams = [poisson(random.Random(n), 6250 / 4, 4.2, 0.040, lane=lane) for n, lane in enumerate("abcd")]
    outcome = World(Device(profile, random.Random(7)), 64, lanes="abcd").play(merged(*streams))
    assert outcome.goodput(1.0, 4.0) >= 0.95 * 3203


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_a_device_that_slows_down_is_learned_anew(profile: Profile) -> None:
    """Half as fast from one moment on: a second later it serves what such a device can."""
    at = 2.0 if profile is GPU else 5.0
    outcome = play(
        poisson(random.Random(1), 2 * profile.rate, at + 3.2, profile.objective),
        Device(profile, random.Random(2), drift_at=at),
        profile.largest,
    )
    slower = (1 - 4 * profile.alpha / profile.objective) / (2 * profile.beta)
    assert outcome.goodput(at + 0.5, at + 3.0) >= 0.9 * slower


def test_after_a_spike_all_is_as_before() -> None:
    """Ten times the load for a second; nobody who comes two objectives later notices."""
    for profile in (FIRST, LAST):
        outcome = play(
            spike(random.Random(1), profile.rate / 3, 6.0, profile.objective, 3.0, 1.0, 10.0),
            Device(profile, random.Random(2)),
            profile.largest,
        )
        after = 4.0 + 2 * profile.objective
        unlucky = [arrival for _, arrival in outcome.refused + outcome.turned_away if arrival.at > after]
        assert len(unlucky) <= 0.01 * profile.rate / 3 * (6.0 - after)
        assert outcome.goodput(3.0, 4.0) >= 0.9 * profile.rate


def test_without_deadlines_the_queue_stays_short_and_the_device_busy() -> None:
    """Three times what full batches give: all of that is served, and nobody waits much longer than two batches."""
    outcome = play(poisson(random.Random(1), 3 * FULL, 8.0, NEVER), Device(FIRST, random.Random(2)), 64)
    latencies = outcome.latencies(2.0, 7.0)
    assert sum(2.0 <= at < 7.0 for at, _ in outcome.answered) / 5.0 >= 0.95 * FULL
    assert latencies[int(0.99 * len(latencies))] < 3 * 64 / FULL


def test_without_deadlines_nothing_is_refused_at_light_load() -> None:
    """A batch takes longer than CoDel's 5 ms; waiting for one is no standing queue."""
    outcome = play(poisson(random.Random(1), 0.7 * FULL, 10.0, NEVER), Device(FIRST, random.Random(2)), 64)
    assert not outcome.refused and not outcome.turned_away


def test_a_flood_without_deadlines_leaves_room_for_those_with() -> None:
    """Twice what the device can do without deadlines, half of λ* with: most of these are served, and the others too."""
    streams = [poisson(random.Random(1), 300, 8.0, FIRST.objective), poisson(random.Random(2), 2 * FULL, 8.0, NEVER)]
    outcome = World(Device(FIRST, random.Random(3)), 64).play(merged(*streams))
    assert outcome.goodput(2.0, 7.0, lambda arrival: arrival.deadline < NEVER) >= 0.7 * 300
    assert outcome.goodput(2.0, 7.0, lambda arrival: arrival.deadline == NEVER) >= 0.2 * FULL


@pytest.mark.parametrize("deadline", [0.1, 0.5, NEVER])
def test_who_sends_ten_times_as_much_gets_no_more(deadline: float) -> None:
    """Eight clients who all want more than their share: Jain's index of at least 0.98."""
    streams = [
        poisson(random.Random(n), 600 * (0.25 if n < 7 else 2.5), 10.0, deadline, client=str(n)) for n in range(8)
    ]
    outcome = World(Device(FIRST, random.Random(9)), 64).play(merged(*streams))
    served = [0.0] * 8
    for done, arrival in outcome.answered:
        if 2.0 <= done < 10.0 and done <= arrival.at + arrival.deadline:
            served[int(arrival.client)] += 1
    assert jain(served) >= 0.98, served


def test_batch_work_is_done_beside_an_overload() -> None:
    """Work of the batch class with 5 s, or all the time, beside twice λ* of standard work: it ages in."""
    streams = [
        poisson(random.Random(1), 2 * FIRST.rate, 12.0, FIRST.objective),
        poisson(random.Random(2), 10.0, 12.0, 5.0, priority=1.0),
        poisson(random.Random(3), 10.0, 12.0, NEVER, priority=1.0),
    ]
    outcome = World(Device(FIRST, random.Random(4)), 64).play(merged(*streams))
    assert outcome.goodput(1.0, 6.0, lambda arrival: arrival.deadline == 5.0) >= 2.0
    assert outcome.goodput(1.0, 6.0, lambda arrival: arrival.deadline == NEVER) >= 2.0
    assert outcome.goodput(1.0, 11.0, lambda arrival: arrival.deadline == FIRST.objective) >= 0.9 * FIRST.rate


@pytest.mark.parametrize("deadline", [10.0, NEVER])
def test_batch_work_of_another_lane_is_late_and_not_starved(deadline: float) -> None:
    """Batch class in a lane of its own, beside 1800/s in another: all of it is served, within half a second, and the
    other lane's goodput stays."""
    streams = [
        poisson(random.Random(1), 3 * FIRST.rate, 20.0, 0.05),
        poisson(random.Random(2), 5.0, 20.0, deadline, lane="other", priority=1.0),
    ]
    outcome = World(Device(FIRST, random.Random(3)), 32, lanes=("model", "other")).play(merged(*streams))
    assert not [arrival for _, arrival in outcome.refused + outcome.turned_away if arrival.lane == "other"]
    assert outcome.latencies(0.0, 20.0, lambda arrival: arrival.lane == "other")[-1] < 0.5
    assert outcome.goodput(1.0, 19.0, lambda arrival: arrival.lane == "model") >= 1.25 * FIRST.rate


def test_a_flood_of_batch_work_in_another_lane_has_an_eighth_of_the_device() -> None:
    """Batch class whose batches take ten times as long as the others': it is served, and the others keep what an eighth
    of the time leaves them, less what every interruption of five times their objective costs."""
    alone, beside = (
        World(Device(FIRST, random.Random(3)), 128, lanes=("model", "other")).play(
            merged(
                poisson(random.Random(1), 3 * FIRST.rate, 20.0, 0.025),
                poisson(random.Random(2), 5.0, 20.0 if flood else 1e-9, 30.0, lane="other", priority=1.0, rows=128),
            )
        )
        for flood in (False, True)
    )
    good = [one.goodput(2.0, 18.0, lambda arrival: arrival.lane == "model") for one in (alone, beside)]
    assert good[1] >= 0.75 * good[0]
    ran = sum(arrival.lane == "other" and at < 20.0 for at, arrival in beside.answered)
    assert 14 <= ran <= 20, "an eighth of 20 s is 19 times 133 ms"


def test_large_batch_work_keeps_nobody_waiting_and_is_not_starved() -> None:
    """Requests of 64 rows, which no batch beside an overload can take along: those of one row behind them are served as
    if they were not there, they themselves run too, and the overload's goodput stays."""
    outcomes = []
    for large in (0.0, 0.5):
        streams = [
            poisson(random.Random(1), 3 * FIRST.rate, 20.0, 0.05, client="busy"),
            poisson(random.Random(2), 20.0, 20.0, 30.0, client="small", priority=1.0),
            poisson(random.Random(3), large or 1e-9, 20.0, 30.0, client="large", priority=1.0, rows=64),
        ]
        outcomes.append(World(Device(FIRST, random.Random(4)), 128).play(merged(*streams)))
    waits = [one.latencies(0.0, 18.0, lambda arrival: arrival.client == "small") for one in outcomes]
    assert len(waits[1]) == len(waits[0]) and waits[1][len(waits[1]) // 2] < 2 * waits[0][len(waits[0]) // 2]
    large_ones = outcomes[1].latencies(0.0, 20.0, lambda arrival: arrival.client == "large")
    assert len(large_ones) >= 5 and large_ones[-1] < 2.0
    assert not [each for _, each in outcomes[1].refused + outcomes[1].turned_away if each.client == "large"]
    good = [one.goodput(1.0, 19.0, lambda arrival: arrival.client == "busy") for one in outcomes]
    assert good[1] >= 0.93 * good[0]


def test_interactive_work_goes_first() -> None:
    """Of three classes with equal deadlines the interactive one suffers least under overload."""
    classes = (-0.25, 0.0, 1.0)
    streams = [poisson(random.Random(n), 400, 10.0, 0.05, priority=priority) for n, priority in enumerate(classes)]
    outcome = World(Device(FIRST, random.Random(4)), 64).play(merged(*streams))
    first, second, third = (
        outcome.goodput(1.0, 9.0, lambda arrival, priority=priority: arrival.priority == priority)
        for priority in classes
    )
    assert first > second > third > 20.0


def test_several_devices_take_from_one_queue() -> None:
    """Two and four devices serve two and four times as much."""
    for workers in (2, 4):
        arrivals = poisson(random.Random(1), 2 * workers * FIRST.rate, 4.2, FIRST.objective)
        outcome = play(arrivals, Device(FIRST, random.Random(2)), 64, workers)
        assert outcome.goodput(1.0, 4.0) >= 0.95 * workers * FIRST.rate


def test_the_same_seed_gives_the_same_world() -> None:
    """Nothing here looks at a clock or at the order of a set."""
    first, second = life(17).outcome, life(17).outcome
    assert first.batches == second.batches and first.answered == second.answered


def test_first_come_takes_one_lane_at_a_time() -> None:
    """The comparison batches like the rest, one model after another."""
    arrivals = [Arrival(0.0, 1.0, lane=lane) for lane in "abab"]
    outcome = first_come(iter(arrivals), Device(FIRST, random.Random(1)), 64)
    assert [rows for _, rows in outcome.batches] == [1, 1, 2] or [rows for _, rows in outcome.batches] == [1, 2, 1]


def test_the_plot_is_an_svg() -> None:
    """One polyline for each policy, and one for the ideal."""
    text = svg([("title", {"ours": [(0.0, 0.0), (6.0, 1.0)]})])
    assert text.startswith("<svg") and text.count("<polyline") == 2
