"""Sentence embeddings: a network's vectors of a text's tokens, pooled to one.

Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks" (EMNLP 2019). modules.json and
its neighbours say how, as sentence-transformers reads them; without them it is the mean, of its own length.
"""

from __future__ import annotations

from typing import Any

import torch

from .folder import Folder
from .text import TextModel


class SentenceEmbedding(TextModel):
    """Text in, `embedding` FP32 [hidden size] out."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.outputs = {"embedding": ("FP32", (self.config.hidden_size,))}

    def preprocess(self, text: str) -> dict[str, Any]:
        """The tensors of one text, in small letters if the folder says so."""
        return super().preprocess(text.lower() if self.folder.lower_case else text)

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """FP32 [rows, hidden size]."""
        outputs, mask = self._run(batch)
        vectors = outputs.last_hidden_state.float()
        if self.folder.pooling == "cls":
            pooled = vectors[:, 0]
        else:
            real = mask[:, :, None].float()
            pooled = (vectors * real).sum(dim=1) / real.sum(dim=1)
        return {"embedding": torch.nn.functional.normalize(pooled) if self.folder.normalize else pooled}
