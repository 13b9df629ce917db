"""The model that is measured: `inferd serve benchmarks/models.py:Mlp`."""

from __future__ import annotations

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
