"""Made-up callers. Each function yields arrivals in order of time; `merged` joins several."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from typing import Any

from tests.sim.world import Arrival


def poisson(rng: random.Random, rate: float, seconds: float, deadline: float, **details: Any) -> Iterator[Arrival]:
    """Independent callers: exponential gaps."""
    now = rng.expovariate(rate)
    while now < seconds:
        yield Arrival(now, deadline, **details)
        now += rng.expovariate(rate)


def bursts(
    rng: random.Random, rate: float, seconds: float, deadline: float, times: float = 3.0, period: float = 0.4
) -> Iterator[Arrival]:
    """On and off (a Markov-modulated Poisson process): `times` the mean rate, or nothing; both phases are of random
    length, and the mean over all is `rate`."""
    now, on = 0.0, True
    share = 1.0 / times
    while now < seconds:
        ends = now + rng.expovariate(1.0 / (period * (share if on else 1.0 - share)))
        while on:
            now += rng.expovariate(rate * times)
            if now >= min(ends, seconds):
                break
            yield Arrival(now, deadline)
        now, on = ends, not on


def spike(
    rng: random.Random, rate: float, seconds: float, deadline: float, at: float, lasts: float, times: float
) -> Iterator[Arrival]:
    """A calm rate, and `times` that for a while."""
    now = 0.0
    while True:
        now += rng.expovariate(rate * times if at <= now < at + lasts else rate)
        if now >= seconds:
            return
        yield Arrival(now, deadline)


def mixed(
    rng: random.Random, rate: float, seconds: float, tight: float = 0.010, lax: float = 1.0, share: float = 0.2
) -> Iterator[Arrival]:
    """`share` of the requests have the tight deadline, the rest the lax one."""
    for arrival in poisson(rng, rate, seconds, lax):
        if rng.random() < share:
            arrival.deadline = tight
        yield arrival


def typing(rng: random.Random, people: int, keys: float, seconds: float, deadline: float, supersede: bool) -> Any:
    """People who type `keys` keys a second; each keystroke asks anew, with `supersede` in place of the one before."""

    def one(person: int) -> Iterator[Arrival]:
        now = rng.random()
        while now < seconds:
            yield Arrival(now, deadline, client=str(person), key=str(person) if supersede else "")
            now += rng.uniform(0.5, 1.5) / keys

    return merged(*(one(person) for person in range(people)))


def merged(*streams: Iterator[Arrival]) -> Iterator[Arrival]:
    """All of them, in order of time."""
    return heapq.merge(*streams, key=lambda arrival: arrival.at)
