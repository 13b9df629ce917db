"""What the policy is measured by. Each case plays a world or several and returns lines of text; all are functions of
their arguments and a seed, and can run in a process of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from statistics import fmean

from tests.sim.traffic import bursts, merged, mixed, poisson, spike, typing
from tests.sim.world import NEVER, PROFILES, Arrival, Device, Outcome, Profile, World, first_come, play

FOUR = Profile(0.003, 0.0002, 0.040, 64)
POLICIES = ("first come", "queue timeout = objective", "inferd")
TAIL_S = 0.2  # requests that arrive in the last moments are not counted: nobody arrives after them


def seconds_of(profile: Profile, quick: bool) -> tuple[float, float]:
    """Warm-up and measured seconds of a run. The second profile sees 50 times the requests of the others."""
    if profile.beta < 0.0002:
        return (0.5, 2.0) if quick else (1.0, 6.0)
    return (2.0, 15.0) if quick else (5.0, 60.0)


def share(policy: str, profile: Profile, load: float, noise: float, seed: int, quick: bool) -> float:
    """Goodput at `load` times λ*, as a share of λ*."""
    warm, measured = seconds_of(profile, quick)
    end = warm + measured
    arrivals = poisson(random.Random(seed), load * profile.rate, end + TAIL_S, profile.objective)
    device = Device(profile, random.Random(seed + 1000), noise)
    if policy == "inferd":
        outcome = play(arrivals, device, profile.largest)
    else:
        timeout = NEVER if policy == "first come" else profile.objective
        outcome = first_come(arrivals, device, profile.largest, timeout)
    return outcome.goodput(warm, end) / profile.rate


def quantile(values: list[float], q: float) -> float:
    """Of sorted values; NEVER of none."""
    return values[int(q * (len(values) - 1))] if values else NEVER


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has all."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def everyone(outcome: Outcome) -> Iterator[Arrival]:
    """All requests, whatever became of them."""
    for ends in (outcome.answered, outcome.turned_away, outcome.refused, outcome.withdrawn, outcome.failed):
        yield from (arrival for _, arrival in ends)


def refusing(profile: Profile, quick: bool) -> list[str]:
    """How soon those who are not served are told, at 2× and 4×."""
    lines = []
    warm, measured = seconds_of(profile, True)
    for load in (2, 4):
        arrivals = poisson(random.Random(23), load * profile.rate, warm + measured, profile.objective)
        outcome = play(arrivals, Device(profile, random.Random(24)), profile.largest)
        header, queue = len(outcome.turned_away), len(outcome.refused)
        after = sorted([0.0] * header + [at - arrival.at for at, arrival in outcome.refused])
        lines.append(
            f"refusals, {profile}, {load}×: at the header {header / (header + queue):.0%}, "
            f"after p50 {quantile(after, 0.5) * 1e3:.1f}, p99 {quantile(after, 0.99) * 1e3:.1f} ms"
        )
    return lines


def light(profile: Profile, quick: bool) -> list[str]:
    """At half of λ* nothing is late, and the mean latency is that of taking what is there."""
    warm, measured = seconds_of(profile, quick)
    rate = profile.rate / 2
    outcome = play(
        poisson(random.Random(1), rate, warm + measured, profile.objective),
        Device(profile, random.Random(2)),
        profile.largest,
    )
    latencies = outcome.latencies(warm, warm + measured)
    mean, says = fmean(latencies), formula(profile, rate)
    good = outcome.goodput(warm, warm + measured) / (len(latencies) / measured)
    return [
        f"light load, {profile}: mean {mean * 1e3:.2f} ms, the formula says {says * 1e3:.2f} ms "
        f"({mean / says - 1:+.1%}); in time {good:.1%}, refused {len(outcome.turned_away) + len(outcome.refused)}"
    ]


def formula(profile: Profile, rate: float) -> float:
    """The mean latency of taking what is there, in seconds."""
    x = rate * profile.beta
    return 1.5 * profile.alpha / (1 - x) + profile.beta / 2 * (x + 2) / (1 - x * x)


def bursty(profile: Profile, quick: bool) -> list[str]:
    """On and off: three times the rate or nothing."""
    warm, measured = seconds_of(profile, quick)
    lines = []
    for load in (1, 2):
        outcome = play(
            bursts(random.Random(3), load * profile.rate, warm + measured, profile.objective),
            Device(profile, random.Random(4)),
            profile.largest,
        )
        base = first_come(
            bursts(random.Random(3), load * profile.rate, warm + measured, profile.objective),
            Device(profile, random.Random(4)),
            profile.largest,
        )
        # While it is on it sends 3·load·λ*: so many seconds at λ* are what a perfect server could do.
        sent = sum(warm <= arrival.at < warm + measured for arrival in everyone(outcome))
        ideal = sent / (3 * load)
        goods = [one.goodput(warm, warm + measured) * measured / ideal for one in (outcome, base)]
        lines.append(
            f"bursty (on a third of the time, then {3 * load} λ*), {profile}: goodput while on {goods[0]:.2f} λ*; "
            f"first come {goods[1]:.2f}"
        )
    return lines


def mixed_deadlines(profile: Profile, quick: bool) -> list[str]:
    """20 % at 10 ms and 80 % at 1 s."""
    warm, measured = seconds_of(profile, quick)
    lines = []
    for load in (1, 2):
        rate = load * profile.rate
        ours, base = (
            run(
                mixed(random.Random(5), rate, warm + measured + 1.0), Device(profile, random.Random(6)), profile.largest
            )
            for run in (play, first_come)
        )

        def served(outcome: Outcome, tight: bool, rate: float = rate) -> float:
            good = outcome.goodput(warm, warm + measured, lambda arrival: (arrival.deadline < 0.5) == tight)
            return good / (rate * (0.2 if tight else 0.8))

        lines.append(
            f"mixed deadlines (20 % at 10 ms, 80 % at 1 s), {profile}, {load}×: tight served {served(ours, True):.0%}, "
            f"lax {served(ours, False):.0%}; first come {served(base, True):.0%} and {served(base, False):.0%}"
        )
    return lines


def four_models(quick: bool) -> list[str]:
    """Four models on one device, 2× what it can do: (1/β)(1 − 5α/D)."""
    end = 6.0 if quick else 20.0
    rate = 2 * (1 - 5 * FOUR.alpha / FOUR.objective) / FOUR.beta
    goods = []
    for run in (
        lambda it, device: World(device, 64, lanes="abcd").play(it),
        lambda it, device: first_come(it, device, 64),
    ):
        streams = [
            poisson(random.Random(n), rate / 4, end + TAIL_S, FOUR.objective, lane=lane)
            for n, lane in enumerate("abcd")
        ]
        goods.append(run(merged(*streams), Device(FOUR, random.Random(7))).goodput(1.0, end))
    return [
        f"four models on one device, {FOUR}, {rate:.0f}/s: goodput {goods[0]:.0f}/s (reference 3203); "
        f"first come {goods[1]:.0f}/s (reference 105)"
    ]


def drifting(profile: Profile, noise: float, quick: bool) -> list[str]:
    """The device becomes half as fast in the middle of a run at 2×."""
    warm, measured = seconds_of(profile, quick)
    half = warm + measured / 2
    outcome = play(
        poisson(random.Random(8), 2 * profile.rate, half + measured / 2 + TAIL_S, profile.objective),
        Device(profile, random.Random(9), noise, drift_at=half),
        profile.largest,
    )
    # With α twice as long the reference may be tiny (200/s at α10 β2 D25), so what is steady afterwards is the measure.
    slower = (1 - 4 * profile.alpha / profile.objective) / (2 * profile.beta)
    steady = outcome.goodput(half + measured / 4, half + measured / 2)
    step = 0.02
    back = next(
        (n * step for n in range(200) if outcome.goodput(half + n * step, half + n * step + 0.1) >= 0.9 * steady), NEVER
    )
    return [
        f"drift 2×, {profile}, noise {noise:.0%}: before {outcome.goodput(warm, half - TAIL_S) / profile.rate:.2f} λ*, "
        f"after {steady / slower:.2f} λ* of the slower device; at 90 % of that after {back * 1e3:.0f} ms"
    ]


def spiked(profile: Profile, quick: bool) -> list[str]:
    """Half of λ*, ten times that for a second, half again: how long until all is as before."""
    at, end = 3.0, 7.0
    outcome = play(
        spike(random.Random(10), profile.rate / 2, end, profile.objective, at, 1.0, 10.0),
        Device(profile, random.Random(11)),
        profile.largest,
    )
    bad = [arrival.at for _, arrival in outcome.turned_away + outcome.refused]
    bad += [arrival.at for done, arrival in outcome.answered if done > arrival.at + arrival.deadline]
    calm = quantile(outcome.latencies(0.5, at), 0.99)
    slow = [arrival.at for done, arrival in outcome.answered if done - arrival.at > 1.5 * calm]
    # A slow answer now and then is normal; back to normal is the end of the first stretch of them.
    over = at + 1.0
    for moment in sorted(moment for moment in bad + slow if moment > over):
        if moment - over > profile.objective:
            break
        over = moment
    during = outcome.goodput(at, at + 1.0) / profile.rate
    back = (over - at - 1.0) / profile.objective
    return [
        f"spike of 1 s at 5 λ*, {profile}: {during:.2f} λ* during it; back to normal {back:.2f} objectives after it"
    ]


def stream(number: int, rate: float, end: float, deadline: float) -> Iterator[Arrival]:
    """One client's requests."""
    return poisson(random.Random(100 + number), rate, end, deadline, client=str(number))


def fairness(quick: bool) -> list[str]:
    """Seven calm clients and one that sends ten times as much."""
    profile, end = PROFILES[0], 12.0 if quick else 40.0
    lines = []
    for deadline, name in ((0.1, "100 ms"), (0.5, "500 ms"), (NEVER, "no deadline")):
        streams = [stream(n, profile.rate * (0.25 if n < 7 else 2.5), end, deadline) for n in range(8)]
        outcome = World(Device(profile, random.Random(12)), 64).play(merged(*streams))
        served = [0.0] * 8
        for done, arrival in outcome.answered:
            if 3.0 <= done < end and done <= arrival.at + arrival.deadline:
                served[int(arrival.client)] += 1
        lines.append(
            f"fairness, {profile.rate:.0f}/s and eight clients who want 2.5 to 25 times their share, {name}: "
            f"Jain {jain(served):.4f}, the aggressor has {served[7] / fmean(served[:7]):.2f} of a calm one's"
        )
    # The same load on the device in both worlds: what the aggressor sends is sent by twenty others.
    keep: Callable[[Arrival], bool] = lambda arrival: int(arrival.client) < 7  # noqa: E731
    calm = 0.4 / 7
    for load in (10 * calm, 2.0):
        p99s, times = [], []
        for others in (1, 20):
            streams = [stream(n, profile.rate * calm, end, 0.1) for n in range(7)]
            streams += [stream(n, profile.rate * load / others, end, 0.1) for n in range(7, 7 + others)]
            outcome = World(Device(profile, random.Random(13)), 64).play(merged(*streams))
            p99s.append(quantile(outcome.latencies(2.0, end - 0.5, keep), 0.99) * 1e3)
            times.append(outcome.goodput(2.0, end - 0.5, keep) / (profile.rate * calm * 7))
        lines.append(
            f"seven victims (0.4 λ*) beside one aggressor of {load:.2f} λ*: "
            f"p99 {p99s[0]:.1f} ms, in time {times[0]:.1%}; "
            f"beside twenty who send as much: {p99s[1]:.1f} ms, {times[1]:.1%}; ratio {p99s[0] / p99s[1]:.2f}"
        )
    return lines


def priorities(quick: bool) -> list[str]:
    """Three classes of equal load and deadline; and batch work with seconds to spare beside an overload."""
    profile, end = PROFILES[0], 10.0 if quick else 30.0
    lines = []
    classes = {"interactive": -0.25, "standard": 0.0, "batch": 1.0}
    for load in (1, 2):
        streams = [
            poisson(random.Random(n), load * profile.rate / 3, end, 0.05, priority=priority)
            for n, priority in enumerate(classes.values())
        ]
        outcome = World(Device(profile, random.Random(14)), 64).play(merged(*streams))
        shares = []
        for name, priority in classes.items():
            good = outcome.goodput(2.0, end - 1.0, lambda arrival, priority=priority: arrival.priority == priority)
            shares.append(f"{name} {good * 3 / (load * profile.rate):.0%}")
        lines.append(f"classes at {load}× (λ* of 25 ms, deadlines of 50 ms), served: {', '.join(shares)}")
    streams = [
        poisson(random.Random(1), 2 * profile.rate, end, profile.objective),
        poisson(random.Random(2), 20.0, end, 5.0, priority=1.0),
        poisson(random.Random(3), 20.0, end, NEVER, priority=1.0),
    ]
    outcome = World(Device(profile, random.Random(14)), 64).play(merged(*streams))
    good = [
        outcome.goodput(2.0, end - 6.0, lambda arrival, deadline=deadline: arrival.deadline == deadline)
        for deadline in (profile.objective, 5.0, NEVER)
    ]
    return [
        *lines,
        f"batch class beside 2×: standard {good[0] / profile.rate:.2f} λ*; of 20/s at 5 s {good[1]:.0f}/s served, "
        f"of 20/s without deadline {good[2]:.0f}/s",
    ]


def without_deadline(quick: bool) -> list[str]:
    """Neither deadline nor objective: the queue stays short, and the device busy."""
    lines = []
    end = 8.0 if quick else 20.0
    for profile in (PROFILES[0], PROFILES[2]):
        full = profile.largest / (profile.alpha + profile.beta * profile.largest)
        for load in (0.8, 3.0):
            outcome = play(
                poisson(random.Random(15), load * full, end, NEVER), Device(profile, random.Random(16)), profile.largest
            )
            latencies = outcome.latencies(2.0, end - 1.0)
            done = sum(2.0 <= at < end - 1.0 for at, _ in outcome.answered) / (end - 3.0)
            gone = (len(outcome.refused) + len(outcome.turned_away)) / (load * full * end)
            lines.append(
                f"no deadline, {profile}, {load:g}× what full batches give: {done / full:.2f} of that, "
                f"refused {gone:.0%}, p99 {quantile(latencies, 0.99) * 1e3:.0f} ms "
                f"(a full batch: {(profile.alpha + profile.beta * profile.largest) * 1e3:.0f} ms)"
            )
        streams = [
            poisson(random.Random(17), profile.rate / 2, end, profile.objective),
            poisson(random.Random(18), 2 * full, end, NEVER),
        ]
        outcome = World(Device(profile, random.Random(16)), profile.largest).play(merged(*streams))
        good = outcome.goodput(2.0, end - 1.0, lambda arrival: arrival.deadline < NEVER) / (profile.rate / 2)
        lines.append(f"  beside half of λ* with deadlines, 2×: {good:.0%} of those with deadlines served")
    return lines


def superseding(quick: bool) -> list[str]:
    """50 people type 10 keys a second at a device that can do 200 alone and less than half of that in time."""
    profile, end = Profile(0.004, 0.004, 0.060, 16), 10.0 if quick else 30.0
    lines = []
    for supersede in (False, True):
        outcome = World(Device(profile, random.Random(19)), profile.largest).play(
            typing(random.Random(20), 50, 10.0, end, 0.5, supersede)
        )
        latencies = outcome.latencies(2.0, end - 1.0)
        gone = len(outcome.refused) + len(outcome.turned_away)
        lines.append(
            f"typing, 50 × 10 keys/s, {'latest wins' if supersede else 'every key'}: "
            f"p50 {quantile(latencies, 0.5) * 1e3:.0f}, "
            f"p99 {quantile(latencies, 0.99) * 1e3:.0f} ms; computed {len(outcome.answered) / end:.0f}/s, "
            f"superseded {len(outcome.withdrawn) / end:.0f}/s, refused {gone / end:.0f}/s"
        )
    return lines


def devices(quick: bool) -> list[str]:
    """Several equal devices and one queue."""
    lines, end = [], 6.0 if quick else 20.0
    profile = PROFILES[0]
    for workers in (2, 4):
        shares = []
        for load in (2, 4):
            rate = load * workers * profile.rate
            outcome = play(
                poisson(random.Random(21), rate, end + TAIL_S, profile.objective),
                Device(profile, random.Random(22)),
                profile.largest,
                workers,
            )
            shares.append(f"{outcome.goodput(1.0, end) / (workers * profile.rate):.2f} at {load}×")
        lines.append(f"{workers} devices, {profile}: of {workers} λ* {', '.join(shares)}")
    return lines
