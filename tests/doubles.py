"""Models that behave in a way a test needs. Served by path: `tests/doubles.py:Name`."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import time
from typing import Any

import torch
from torch import nn


class Double:
    """Doubles a tensor."""

    inputs = {"x": ("FP32", (-1,))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"y": batch["x"] * 2, "rows": torch.full((len(batch["x"]), 1), len(batch["x"]), dtype=torch.int64)}


class Nonce:
    """Answers with as many bytes as the request asks for, generated from its nonce: a mixed-up answer shows."""

    inputs = {"nonce": ("STRING", ()), "size": ("NUMBER", ())}

    def preprocess(self, nonce: str, size: int) -> tuple[str, int]:
        return nonce, size

    def forward(self, batch: list[tuple[str, int]]) -> list[dict[str, Any]]:
        return [{"data": expected(nonce, size), "nonce": nonce} for nonce, size in batch]


def expected(nonce: str, size: int) -> torch.Tensor:
    """The answer of Nonce: `size` bytes that only this nonce leads to."""
    seed = hashlib.sha256(nonce.encode()).digest()
    block = torch.frombuffer(bytearray(seed), dtype=torch.uint8)
    return block.repeat(-(-size // len(seed)))[:size].clone()


class Hash:
    """Answers with a hash of each row of a tensor of any shape and dtype."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        digests = [hashlib.blake2b(row.numpy().tobytes(), digest_size=8).digest() for row in x]
        return {"digest": torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(len(x), 8)}


class Picky:
    """Raises on any batch that holds a negative number; answers with the batch's size."""

    inputs = {"x": ("FP32", (1,))}
    max_batch_size = 64

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.pause_s)
        if (batch["x"] < 0).any():
            raise ValueError("a secret detail about negative numbers")
        return {"y": batch["x"] + 1}


class Deadly:
    """Kills its process on a magic number: 1 by a signal, 2 by a wild pointer, 3 by os._exit."""

    inputs = {"x": ("FP32", (1,))}

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.pause_s)
        numbers = batch["x"].flatten().tolist()
        if 1.0 in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if 2.0 in numbers:
            ctypes.string_at(0)
        if 3.0 in numbers:
            os._exit(0)
        return {"y": batch["x"]}


class InPlace:
    """Writes into its inputs, which a model should not, and then raises on a negative number."""

    inputs = {"x": ("FP32", (1,))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        x += 1
        if (x < 0).any():
            raise ValueError("negative")
        return {"y": x}


class Short:
    """Returns one row too few whenever it is given two or more."""

    inputs = {"x": ("FP32", (1,))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        return {"y": x if len(x) == 1 else x[:-1]}


class Unsendable:
    """Returns something the wire has no word for."""

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        return [{"thing": object()} for _ in batch["x"]]


class Slow:
    """Takes a while, and says so."""

    inputs = {"x": ("FP32", (1,))}

    def __init__(self, seconds: float = 0.2) -> None:
        self.seconds = seconds

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"y": batch["x"]}


class Words:
    """Text in, its words and their number out: values both ways, with every stage in use."""

    inputs = {"text": ("STRING", ())}
    example = {"text": "an example"}

    def load(self, device: torch.device) -> None:
        self.device = device

    def preprocess(self, text: str) -> dict[str, torch.Tensor]:
        if "\0" in text:
            raise ValueError("no NUL, please")
        return {"length": torch.tensor(float(len(text.split())))}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"count": batch["length"] * 1}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        count = int(outputs["count"])
        return {"count": count, "even": count % 2 == 0}


def mlp() -> nn.Module:
    """A plain module from a plain function."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


class Two(nn.Module):
    """A module that takes two tensors by name."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Example:
    """Declares nothing, but shows an example."""

    example = {"x": torch.zeros(4), "label": "text"}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"sum": batch["x"].sum(1), "label": batch["label"]}
