"""Failpoints are off until a test turns them on, and say what they do not understand."""

from __future__ import annotations

import time

import pytest

from inferd import failpoints


def test_nothing_happens_unless_it_is_asked_for() -> None:
    """This process has none."""
    assert failpoints.ON == {}
    failpoints.hit("worker.after_recv")


def test_a_failpoint_acts_at_the_time_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asleep at the second hit, and at no other place."""
    monkeypatch.setattr(failpoints, "ON", failpoints.parse("loop.batch=sleep:0.05@2"))
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for _ in range(3):
        failpoints.hit("loop.batch")
        failpoints.hit("worker.after_recv")
    assert slept == [0.05]


@pytest.mark.parametrize("text", ["worker.after_recv", "a=explode", "a=sleep:x", "a=kill@x"])
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    """A test with a slip of the pen must not pass without its fault."""
    with pytest.raises(ValueError):
        failpoints.parse(text)
