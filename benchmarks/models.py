"""The models that are measured: `inferd serve benchmarks/models.py:Mlp`."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

INPUTS, HIDDEN, OUTPUTS = 128, 512, 10
TEXT = "In March 1905 Albert Einstein, then a clerk at the patent office in Bern, sent a paper to Leipzig. " * 4


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


class Tagger:
    """Tokenizes texts for a device that sleeps 3 ms a batch: in preprocess, which runs ahead of the device, or, with
    `within`, in forward, where the device waits for it."""

    inputs = {"text": ("STRING", ())}
    max_batch_size = 16

    def __init__(self, within: bool = False) -> None:
        # Here, because the other models need no tokenizer.
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        self.tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]"], show_progress=False)
        self.tokenizer.train_from_iterator([TEXT], trainer)
        self.within = within

    def preprocess(self, text: str) -> str | int:
        """Characters → the number of tokens, or nothing is done yet."""
        return text if self.within else self.count(text)

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.tokenizer.encode(text).ids)

    def forward(self, batch: list[Any]) -> list[dict[str, int]]:
        """[rows] texts or counts → [rows] counts."""
        counts = [self.count(item) if self.within else item for item in batch]
        time.sleep(0.003)
        return [{"tokens": tokens} for tokens in counts]
