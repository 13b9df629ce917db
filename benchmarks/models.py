"""The model that is measured: `inferd serve benchmarks/models.py:Mlp`."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

INPUTS, HIDDEN, OUTPUTS = 128, 512, 10


class Mlp(nn.Module):
    """128-512-512-10, a plain module that knows nothing of inferd."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, OUTPUTS),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [rows, 128] → float32 [rows, 10]."""
        result: torch.Tensor = self.layers(x)
        return result


class Tail:
    """Doubles rows of any length, padded to the longest of a batch, on a device that sleeps 2 ms + 0.2 ms a row."""

    inputs = {"x": ("FP32", (-1,))}
    outputs = {"y": ("FP32", (-1,))}
    padding = {"x": 0}
    max_batch_size = 16

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """[rows, longest] → [rows, longest]."""
        time.sleep(0.002 + 0.0002 * len(batch["x"]))
        return {"y": batch["x"] * 2}
