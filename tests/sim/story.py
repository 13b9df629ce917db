"""What happens in a made-up life of the daemon: who sends what when, and which faults come when. All of it from a seed.

A story is a list of steps with absolute times, and no step draws a random number while it is played. So any of them can
be left out without changing the others, which is how a story that fails is made short.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

# What a request does to its worker. It stands in the payload, so it happens wherever and whenever that is computed.
FINE, RAISES, FAILS, KILLS, KILLS_PREPARING, HANGS = range(6)
KIND_NAMES = ("fine", "raises", "fails", "kills", "kills_preparing", "hangs")

MIB = 1024 * 1024
PAYLOAD_BYTES = (16, 16, 16, 16, 64, 2000, 70_000, 200_000, 900_000)
REPLY_BYTES = (0, 16, 16, 16, 1000, 70_000, 150_000, 400_000)


@dataclass(frozen=True)
class Step:
    """One thing that happens: `who` is a client's number for what clients do, a worker's for what befalls workers."""

    at: float  # seconds since the daemon is ready
    what: str
    who: int = 0
    args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = " ".join(f"{name}={value!r}" for name, value in self.args.items())
        return f"{self.at:9.4f}  {self.what:<12} {self.who}  {words}".rstrip()


@dataclass(frozen=True)
class Story:
    """One life: the machine it is set on, and its steps in order of time."""

    seed: int
    workers: int
    max_in_flight: int
    turn_cost_s: float  # what reading from a socket takes the loop
    steps: tuple[Step, ...]

    def without(self, gone: set[int]) -> Story:
        """The same without the steps of these numbers."""
        return replace(self, steps=tuple(step for at, step in enumerate(self.steps) if at not in gone))

    def save(self, path: Path, why: str) -> None:
        """Keeps it, with what it was that it has found."""
        fields = asdict(self)
        steps = ",\n  ".join(json.dumps(step) for step in fields.pop("steps"))
        head = json.dumps({"why": why, **fields})
        path.write_text(f'{head[:-1]},\n "steps": [\n  {steps}]}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Story:
        """One that was kept."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        del fields["why"]
        return cls(**{**fields, "steps": tuple(Step(**step) for step in fields["steps"])})

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.workers} workers, {self.max_in_flight} in flight, turns {self.turn_cost_s:g} s"
        return "\n".join([head, *map(str, self.steps)])


def story_of(seed: int) -> Story:
    """The story of a seed, always the same."""
    rng = random.Random(seed)
    seconds = rng.uniform(0.3, 3.0)
    clients = rng.randrange(1, 6)
    workers = rng.choice((1, 1, 1, 2, 3))
    steps: list[Step] = []
    for client in range(clients):
        steps += _client(rng, client, seconds, rng.choice((5, 10, 20, 40)))
    steps += _faults(rng, workers, seconds)
    if rng.random() < 0.15:
        steps.append(Step(rng.uniform(0.0, seconds), "drain", 0, {"timeout_s": rng.choice((0.05, 2.0, 30.0))}))
    steps.sort(key=lambda step: step.at)
    return Story(seed, workers, rng.choice((4, 32, 1024)), rng.choice((0.0, 0.00002, 0.0003)), tuple(steps))


def _client(rng: random.Random, client: int, seconds: float, calls: int) -> list[Step]:
    steps = []
    hostile = rng.random() < 0.35
    deadlines = rng.choice(((None,), (0.05, 0.2), (0.02, 0.5, None), (2.0,)))
    bursts = [rng.uniform(0.0, seconds) for _ in range(rng.randrange(1, 6))]
    for _ in range(calls):
        at = rng.choice(bursts) + rng.choice((0.0, 0.0, rng.expovariate(100.0)))
        what = rng.choices(("infer", "cancel", "ping", "status", "reload"), (80, 8, 4, 3, 1))[0]
        args: dict[str, Any] = {}
        if what == "infer":
            args = _call(rng, rng.choice(deadlines))
        elif what == "cancel":
            args = {"nth": rng.randrange(8)}
        steps.append(Step(at, what, client, args))
    if hostile:
        for _ in range(rng.randrange(1, 4)):
            at = rng.uniform(0.0, seconds)
            what = rng.choice(("repeat", "garbage", "stranger", "stall", "vanish", "vanish", "silent"))
            args = {}
            if what == "garbage":
                args = {"bit": rng.randrange(24 * 8), "payload_bytes": rng.choice((0, 16, 70_000))}
            elif what == "stall":
                args = {**_call(rng, rng.choice(deadlines)), "payload_bytes": 200_000, "share": rng.random()}
            steps.append(Step(at, what, client, args))
    if rng.random() < 0.25:
        rate = rng.choice((0, 2_000, 100_000, 2_000_000))  # bytes a second
        args = {"rate": rate, "for_s": rng.choice((0.2, 3.0, 20.0)), "kernel_bytes": rng.choice((4096, 200_000))}
        steps.append(Step(rng.uniform(0.0, seconds), "slow", client, args))
    return steps


def _call(rng: random.Random, deadline_s: float | None) -> dict[str, Any]:
    args: dict[str, Any] = {
        "model": rng.choice(("plain", "plain", "texts", "cold")),
        "payload_bytes": rng.choice(PAYLOAD_BYTES),
        "reply_bytes": rng.choice(REPLY_BYTES),
    }
    if rng.random() < 0.01:
        args["reply_bytes"] = 2 * MIB  # more than the arena
    kind = rng.choices(range(6), (94, 2, 2, 1, 0.5, 0.5))[0]
    if kind != FINE:
        args["kind"] = kind
    if deadline_s is not None:
        args["deadline_s"] = deadline_s
    if rng.random() < 0.1:
        args["supersede"] = rng.choice("ab")
    if rng.random() < 0.1:
        args["priority"] = rng.choice(("interactive", "batch"))
    if rng.random() < 0.1:
        args["rows"] = rng.randrange(1, 40)
    if rng.random() < 0.1:
        args["pieces"], args["pause_s"] = rng.randrange(2, 5), rng.choice((0.001, 0.05))
    if rng.random() < 0.05:
        args["timing"] = True
    return args


def _faults(rng: random.Random, workers: int, seconds: float) -> list[Step]:
    """Most lives have a few kinds of faults, some have none."""
    steps = []
    kinds = ("kill", "kill", "freeze", "slow_device", "no_memory", "load_fails", "device_memory", "stall_loop")
    kinds += ("limits", "models")
    for what in rng.sample(kinds, rng.choice((0, 1, 2, 3))):
        for _ in range(rng.randrange(1, 4)):
            args: dict[str, Any] = {}
            if what == "freeze":
                args = {"for_s": rng.choice((0.02, 0.3, 400.0))}
            elif what == "slow_device":
                args = {"factor": rng.choice((3.0, 30.0)), "for_s": rng.uniform(0.1, seconds)}
            elif what in ("no_memory", "load_fails"):
                args = {"for_s": rng.choice((0.1, 1.0, 8.0))}
            elif what == "device_memory":
                args = {"rows": rng.choice((1, 3, 8)), "for_s": rng.uniform(0.1, seconds)}
            elif what == "stall_loop":
                args = {"for_s": rng.choice((0.005, 0.05))}
            elif what == "limits":
                args = {"max_in_flight": rng.choice((2, 16, 512)), "max_connections": rng.choice((50, 60))}
            elif what == "models":
                args = {
                    "replaced": rng.choice(("plain", "texts", "")),
                    "removed": rng.choice(("cold", "texts", "", "")),
                }
            steps.append(Step(rng.uniform(0.0, seconds), what, rng.randrange(workers), args))
    return steps
