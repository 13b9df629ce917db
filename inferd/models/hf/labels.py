"""Text classification: a score for each label of the folder (`id2label`), and the best."""

from __future__ import annotations

from typing import Any

import torch

from .folder import Folder
from .text import TextModel


class TextClassification(TextModel):
    """Text in; out come the best label, its score, and the scores of all."""

    outputs = {"label": ("STRING", ()), "score": ("NUMBER", ()), "scores": ("MAP", ())}

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.labels: dict[int, str] = self.config.id2label

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """FP32 [rows, labels]: probabilities of one label or of each by itself, as the library's pipeline has them, or
        the numbers themselves of a regression."""
        outputs, _ = self._run(batch)
        logits = outputs.logits.float()
        kind = self.config.problem_type
        if kind == "regression":
            return {"scores": logits}
        if kind == "multi_label_classification" or logits.shape[1] == 1:
            return {"scores": logits.sigmoid()}
        return {"scores": logits.softmax(dim=1)}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """{"label", "score", "scores": {label: score}}."""
        scores = outputs["scores"].tolist()
        best = max(range(len(scores)), key=scores.__getitem__)
        return {
            "label": self.labels[best],
            "score": scores[best],
            "scores": {self.labels[at]: score for at, score in enumerate(scores)},
        }
