"""Models that the gateway's tests are served with."""

from __future__ import annotations

import time
from pathlib import Path

import torch


class Gate:
    """Runs one row at a time, and none while the file `shut` is there. Answers with how many it has run."""

    inputs = {"x": ("FP32", (1,))}
    outputs = {"ran": ("NUMBER", ())}
    max_batch_size = 1
    warm_up = False

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.ran = 0

    def forward(self, batch):
        while (self.folder / "shut").exists():
            time.sleep(0.001)
        self.ran += 1
        return [{"ran": self.ran}]


class Kinds:
    """Gives every kind of value back as it came, and a tensor doubled."""

    inputs = {
        "text": ("STRING", ()),
        "number": ("NUMBER", ()),
        "flag": ("BOOLEAN", ()),
        "list": ("LIST", ()),
        "map": ("MAP", ()),
        "any": ("ANY", ()),
        "x": ("FP32", (2,)),
    }
    outputs = inputs
    example = {"text": "a", "number": 1, "flag": True, "list": [], "map": {}, "any": None, "x": torch.zeros(2)}

    def forward(self, batch):
        rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        return [{**row, "x": row["x"] * 2} for row in rows]


class Big:
    """Answers each row with 16 MiB."""

    inputs = {"x": ("FP32", (1,))}
    outputs = {"y": ("FP32", (4 * 1024 * 1024,))}
    max_batch_size = 1

    def forward(self, batch):
        return {"y": batch["x"].expand(-1, 4 * 1024 * 1024)}


class Half:
    """BF16 in, BF16 out."""

    inputs = {"x": ("BF16", (2,))}
    outputs = {"y": ("BF16", (2,))}

    def forward(self, batch):
        return {"y": batch["x"] * 2}


class Deadly:
    """Its process ends on a negative number, and never comes back while the file `broken` is there."""

    inputs = {"x": ("FP32", (1,))}
    outputs = {"y": ("FP32", (1,))}

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def load(self, device) -> None:
        if (self.folder / "broken").exists():
            raise RuntimeError("broken")

    def forward(self, batch):
        if (batch["x"] < 0).any():
            import os

            os._exit(7)
        return {"y": batch["x"]}
