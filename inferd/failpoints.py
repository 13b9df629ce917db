"""Named places where a fault can be made to happen, for tests. All off unless INFERD_FAILPOINTS names some.

    INFERD_FAILPOINTS=worker.after_recv=kill@20,loop.batch=sleep:60@3

    NAME=kill        the process kills itself: SIGKILL
    NAME=sleep:S     it stands still for S seconds
    NAME=…@N         at the N-th time that this process comes to the place, and then no more; without @N, every time

The names are where `hit` is called: `worker.after_recv` (a worker has received a packet), `worker.before_send` (its
batch is done, nobody knows), `loop.batch` (the loop is about to give a worker a batch).
"""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

VARIABLE = "INFERD_FAILPOINTS"


class Failpoint(NamedTuple):
    """What happens at one place: "kill", or "sleep" for so many seconds; at the `nth` time, 0: every time."""

    action: str
    seconds: float
    nth: int


def parse(text: str) -> dict[str, Failpoint]:
    """The failpoints that `text` turns on, by name. Raises ValueError when it is not of the form above."""
    found = {}
    for word in filter(None, text.split(",")):
        name, equals, rest = word.partition("=")
        what, _, nth = rest.partition("@")
        action, _, seconds = what.partition(":")
        if not equals or action not in ("kill", "sleep"):
            raise ValueError(f"{VARIABLE}: {word!r} is not NAME=kill or NAME=sleep:SECONDS, either with @N behind it")
        found[name] = Failpoint(action, float(seconds or 0), int(nth or 0))
    return found


ON = parse(os.environ.get(VARIABLE, ""))
_hits: dict[str, int] = {}


def hit(name: str) -> None:
    """This process has come to the place `name`."""
    if ON:
        _act(name)


def _act(name: str) -> None:
    point = ON.get(name)
    if point is None:
        return
    _hits[name] = _hits.get(name, 0) + 1
    if point.nth and _hits[name] != point.nth:
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(point.seconds)
