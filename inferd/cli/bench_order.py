"""What a generator of `inferd bench` is told, and what it tells: both go between processes as JSON."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from inferd.cli.latency import Latencies


@dataclass(frozen=True, slots=True)
class Order:
    """What a generator shall do. `callers` is 0 for an open loop of `rate` requests a second."""

    url: str
    token: str | None  # to show, if the daemon asks for one
    frames: list[bytes]  # INFER, whole; sent in turn
    connections: int
    callers: int
    rate: float
    timeout_s: float
    warmup_s: float
    seconds: float
    slice_s: float
    seed: int

    @property
    def slices(self) -> int:
        """How many curves of latency the window is cut into."""
        return max(1, round(self.seconds / self.slice_s))

    def to_json(self) -> str:
        fields = {field: getattr(self, field) for field in self.__slots__}
        return json.dumps({**fields, "frames": [base64.b64encode(frame).decode() for frame in self.frames]})

    @classmethod
    def from_json(cls, text: str) -> Order:
        fields = json.loads(text)
        return cls(**{**fields, "frames": [base64.b64decode(frame) for frame in fields["frames"]]})


class Tally:
    """What came of the requests that belong to the window."""

    def __init__(self, order: Order, start: float) -> None:
        self.begin = start + order.warmup_s
        self.end = self.begin + order.seconds
        self.arrived = 0  # results that came within the window, whenever they were sent
        self.started = 0
        self.lag = Latencies()  # by how much requests were sent too late; only in an open loop
        self.errors: dict[str, list[Any]] = {}  # reason → [how many, what the first of them said]
        self.slices = [Latencies() for _ in range(order.slices)]
        self._slice_s = order.slice_s
        self._timeout_s = order.timeout_s

    def sent(self, due: float) -> None:
        """A request that was due then has been sent."""
        if self.begin <= due < self.end:
            self.started += 1

    def result(self, due: float, now: float) -> None:
        """Its result is there."""
        if self.begin <= now < self.end:
            self.arrived += 1
        if self.begin <= due < self.end:
            latency = now - due
            if latency > self._timeout_s:
                self._miss("LATE", "the result came after the timeout")
                return
            index = int((due - self.begin) / self._slice_s)
            slices = self.slices
            (slices[index] if index < len(slices) else slices[-1]).add(latency)

    def miss(self, due: float, reason: str, message: str) -> None:
        """It will have no result."""
        if self.begin <= due < self.end:
            self._miss(reason, message)

    def _miss(self, reason: str, message: str) -> None:
        self.errors.setdefault(reason, [0, message])[0] += 1

    def to_fields(self) -> dict[str, Any]:
        return {
            "arrived": self.arrived,
            "started": self.started,
            "errors": self.errors,
            "lag": [list(self.lag.counts.items()), self.lag.max_s],
            "slices": [[list(part.counts.items()), part.max_s] for part in self.slices],
        }
