"""Token classification: a label for each token, and tokens of one entity merged to spans.

The labels are those of the folder (`id2label`), mostly B-, I- and O (Ramshaw and Marcus, "Text Chunking using
Transformation-Based Learning", 1995). Merging is that of the library's pipeline with aggregation_strategy="simple".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .folder import Folder
from .text import TextModel

OUTSIDE = "O"


class TokenClassification(TextModel):
    """Text in, spans out, in the form of the built-in `ner`."""

    outputs = {"spans": ("LIST", ())}

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.labels: dict[int, str] = self.config.id2label

    def preprocess(self, text: str) -> dict[str, Any]:
        """The tensors of one text; beside them the text and its encoding, for postprocess."""
        encoding = self.tokenizer(text)
        return {**self._tensors(encoding), "text": text, "encoding": encoding}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The best label of each token, INT64 [rows, longest], and its probability, FP32 [rows, longest]."""
        outputs, _ = self._run(batch)
        scores, labels = outputs.logits.float().softmax(dim=-1).max(dim=-1)
        return {"labels": labels, "scores": scores, "text": batch["text"], "encoding": batch["encoding"]}

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """{"spans": [{"entity", "start", "end", "text", "score"}, …]} in the order of the text.

        start and end are offsets in characters, text is what they cut out; score, in 0..1, is the mean over the span's
        tokens of the probability of the token's label.
        """
        encoding = outputs["encoding"]
        labels = [self.labels[label] for label in outputs["labels"].tolist()[: len(encoding)]]
        tokens = [
            (label, score, start, end)
            for label, score, (start, end), special in zip(
                labels, outputs["scores"].tolist(), encoding.offsets, encoding.special_tokens_mask, strict=False
            )
            if not special
        ]
        return {"spans": merged(outputs["text"], tokens)}


def merged(text: str, tokens: Sequence[tuple[str, float, int, int]]) -> list[dict[str, Any]]:
    """Spans from the (label, score, start, end) of a text's tokens: neighbours of one entity belong together, unless
    the second begins with B-."""
    groups: list[list[tuple[str, float, int, int]]] = []
    last = ""
    for token in tokens:
        begins = token[0].startswith("B-")
        tag = token[0][2:] if token[0].startswith(("B-", "I-")) else token[0]
        if groups and tag == last and not begins:
            groups[-1].append(token)
        else:
            groups.append([token])
        last = tag
    spans = []
    for group in groups:
        label, _, start, _ = group[0]
        end = group[-1][3]
        # The library merges by B- and I- and strips any prefix: of E-PER, too, PER is left.
        entity = label.partition("-")[2] if "-" in label else label
        if entity != OUTSIDE:
            score = sum(token[1] for token in group) / len(group)
            spans.append({"entity": entity, "start": start, "end": end, "text": text[start:end], "score": score})
    return spans
