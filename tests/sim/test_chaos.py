"""The daemon's core in made-up lives full of faults, on a virtual clock; what has failed once stays mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferd.schedule.scheduler import Scheduler
from inferd.serve.outbox import Outbox
from inferd.serve.slab import Slab
from tests.sim.chaos import STORIES, Life, minimise, play, try_seeds
from tests.sim.story import Step, Story, story_of

SEEDS = 200


def test_nothing_is_wrong_in_made_up_lives() -> None:
    """One outcome for each request, its own answer, in time, and nothing left behind: whatever fails, and whenever."""
    failed, ends = try_seeds(range(SEEDS), jobs=1)
    assert not failed, f"python -m tests.sim.chaos --seed {min(failed)} --minimise\n" + "\n".join(failed[min(failed)])
    # The lives are full of what they are meant to be full of.
    for what in ("RESULT", "TIMEOUT", "WORKER_LOST", "POISONED", "MODEL_FAILED", "DEVICE_MEMORY", "SUPERSEDED", "gone"):
        assert ends[what] > 0, what
    assert ends["RESULT"] > ends.total() / 4


@pytest.mark.parametrize("path", sorted(STORIES.glob("*.json")), ids=lambda path: path.stem)
def test_what_has_failed_once(path: Path) -> None:
    """A story that has found a defect finds it no more."""
    assert play(Story.load(path)) == []


def test_the_same_seed_makes_the_same_life() -> None:
    """A failure can be made again from its seed: every outcome comes at the same moment."""

    def ends(seed: int) -> list[tuple[int, list[tuple[float, str]]]]:
        life = Life(story_of(seed))
        life.play()
        return [(call.id, call.outcomes) for client in life.clients.values() for _, call in client.calls]

    assert [ends(seed) for seed in range(30, 40)] == [ends(seed) for seed in range(30, 40)]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Outbox, "release_sent"), (Scheduler, "expire"), (Slab, "release")],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_check_can_fail(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that forgets to give memory back, or to end what is too late, is found out within a few lives."""
    monkeypatch.setattr(owner, name, lambda *_: [])
    failed, _ = try_seeds(range(8), jobs=1)
    assert failed


def test_a_story_that_fails_is_made_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it are the steps without which it does not fail."""
    monkeypatch.setattr("tests.sim.machine.Machine.strike", lambda *_: 1 / 0)
    steps = [Step(0.1 * at, "infer", 0, {"payload_bytes": 16, "reply_bytes": 16, "model": "plain"}) for at in range(8)]
    steps.insert(5, Step(0.45, "kill"))
    assert minimise(Story(0, 1, 32, 0.0, tuple(steps))).steps == (Step(0.45, "kill"),)
