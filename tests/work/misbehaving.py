"""Models whose failures are hard to tell of: served by path, as those of tests/doubles.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inferd.config import ModelConfig


def misbehaving(name: str, **options: Any) -> ModelConfig:
    """A model of this file, served under its name in small letters."""
    return ModelConfig(name.lower(), f"{Path(__file__)}:{name}", options)


class Panic(BaseException):
    """What an extension in Rust raises when it panics: no Exception (pyo3_runtime.PanicException)."""


class Wordless(Exception):
    """It cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("there are no words")


def fail(what: str) -> None:
    """Raises what is asked for."""
    if what == "surrogate":
        raise ValueError("\ud800" * 4000)  # as json.loads makes it of "\ud800"
    if what == "wordless":
        raise Wordless
    if what == "panic":
        raise Panic("called `Option::unwrap()` on a `None` value")
    if what == "exit":
        raise SystemExit(1)


class Raises:
    """Raises what a request names, in the stage that it was made for."""

    inputs = {"what": ("STRING", ())}
    warm_up = False

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def load(self, device: torch.device) -> None:
        if self.stage.startswith("load"):
            fail(self.stage.removeprefix("load "))

    def preprocess(self, what: str) -> str:
        return self._pass("preprocess", what)

    def forward(self, batch: list[str]) -> list[Any]:
        return [{"what": self._pass("forward", what)} for what in batch]

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        self._pass("postprocess", outputs["what"])
        return outputs

    def _pass(self, stage: str, what: str) -> str:
        if stage == self.stage:
            fail(what)
        return what


class Unwritable:
    """Answers with tensors that cannot be written into the arena, beside one that can."""

    inputs = {"x": ("FP32", (8,))}
    warm_up = False

    def __init__(self, kind: str, by_row: bool = False) -> None:
        self.kind = kind
        self.by_row = by_row

    def forward(self, batch: dict[str, Any]) -> Any:
        x = batch["x"]
        answer = {"fine": x * 2, "wrong": self._wrong(x)}
        if not self.by_row:
            return answer
        return [{"fine": row * 2, "wrong": self._wrong(row)} for row in x]

    def _wrong(self, x: torch.Tensor) -> torch.Tensor:
        return x.to_sparse() if self.kind == "sparse" else x.to("meta")


class Unreadable:
    """Answers `number` with a map by number, which msgpack packs and no client reads."""

    inputs = {"what": ("STRING", ())}
    warm_up = False

    def __init__(self, example: str = "fine") -> None:
        self.example = {"what": example}

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        return [{"echo": what, "found": {1: "a"} if what == "number" else {"1": "a"}} for what in batch["what"]]


class Endless:
    """Has far too much to say when it is loaded."""

    def load(self, device: torch.device) -> None:
        raise RuntimeError("the first missing key, " + "another missing key, " * 20_000 + "the last missing key")

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


class Declares:
    """Declares as many inputs as it is asked for."""

    warm_up = False

    def __init__(self, inputs: int, version: str = "") -> None:
        self.inputs = {f"an input with a long name of its own, number {n}": ("FP32", (-1,)) for n in range(inputs)}
        self.version = version

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch
