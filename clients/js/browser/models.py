"""Models for the page's tests: they mark words that begin with a capital."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from pathlib import Path
from typing import Any


def spans(text: str) -> list[dict[str, Any]]:
    return [{"entity": "PER", "start": word.start(), "end": word.end()} for word in re.finditer(r"\b[A-Z]\w*", text)]


class Slow:
    """Takes its time for each text. `seen` is every text that was computed so far, in order."""

    inputs = {"text": ("STRING", ())}
    outputs = {"spans": ("LIST", ()), "seen": ("LIST", ())}
    max_batch_size = 1
    warm_up = False

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.seen: list[str] = []

    def forward(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        (text,) = batch["text"]
        time.sleep(self.pause_s)
        self.seen.append(text)
        return [{"spans": spans(text), "seen": list(self.seen)}]


class Fragile:
    """Raises on "Bad"; on "Die Twice" its process is killed, twice, which the daemon does not hold against the text."""

    inputs = {"text": ("STRING", ())}
    outputs = {"spans": ("LIST", ())}
    warm_up = False

    def __init__(self) -> None:
        # Known to the workers that come after this one, and to no other daemon.
        self.deaths = Path(tempfile.gettempdir(), f"inferd-fragile-{os.getppid()}")

    def forward(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        for text in batch["text"]:
            if text == "Bad":
                raise ValueError(text)
            if text == "Die Twice":
                self._die_twice()
        return [{"spans": spans(text)} for text in batch["text"]]

    def _die_twice(self) -> None:
        deaths = len(self.deaths.read_text()) if self.deaths.exists() else 0
        if deaths < 2:
            self.deaths.write_text("x" * (deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        self.deaths.unlink()
