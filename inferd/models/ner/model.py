"""The model `ner` as the daemon serves it: spans of people, organisations, places and dates in a text.

The network tags words by what they look like and what stands around them: embedded word ids and hashed pieces of
spelling (`features.py`), then dilated convolutions over the words (Strubell et al., "Fast and Accurate Entity
Recognition with Iterated Dilated Convolutions", EMNLP 2017), then a score per tag. Tags are BIOES (Ratinov and Roth,
CoNLL 2009); the best sequence that the scheme allows is found with Viterbi's algorithm.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from .features import PADDING, TABLE, WIDTH, Tokens, tokenize

WEIGHTS = Path(__file__).with_name("weights.safetensors")
VOCABULARY = "vocabulary"  # the entry of the weights file with the checksums of the known words
ENTITIES = ("PER", "ORG", "LOC", "DATE")
# Outside, then for each entity: beginning, inside, end, and a whole entity in one word.
TAGS = ("O", *(f"{part}-{entity}" for entity in ENTITIES for part in "BIES"))
FIRST_KNOWN = 2  # word ids: padding, unknown, then the known words

_EMBEDDED = 48
_HIDDEN = 96
_DILATIONS = (1, 2, 4, 1)
# Texts of a batch stand one behind the other, this many empty rows apart: no convolution reaches across.
GAP = max(_DILATIONS)
_REACH = sum(_DILATIONS)  # how far a word's tag depends on other words
_WINDOW = 8192  # rows computed at a time, which bounds the memory for long texts


class Tagged(NamedTuple):
    """One text's result: its T tokens and the log probabilities of the tags, float32 of shape (T, len(TAGS))."""

    tokens: Tokens
    log_probabilities: Tensor


class Tagger(nn.Module):
    """The network: feature rows in, log probabilities of TAGS out, each row depending on `_REACH` rows either side."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, _EMBEDDED, padding_idx=PADDING)
        self.pieces = nn.EmbeddingBag(TABLE, _EMBEDDED, mode="sum", padding_idx=PADDING)
        self.mix = nn.Linear(2 * _EMBEDDED, _HIDDEN)
        self.convolutions = nn.ModuleList(nn.Linear(3 * _HIDDEN, _HIDDEN) for _ in _DILATIONS)
        self.norms = nn.ModuleList(nn.LayerNorm(_HIDDEN) for _ in _DILATIONS)
        self.tags = nn.Linear(_HIDDEN, len(TAGS))
        self.dropout = nn.Dropout(0.2)

    def forward(self, features: Tensor) -> Tensor:
        """features: integers of shape (T, WIDTH), an empty row all PADDING; returns float32 (T, len(TAGS))."""
        ids = features.int()
        # A row is made zero again after every layer if it is empty: it must look the same as the end of the text.
        mask = (ids[:, :1] != PADDING).float()
        embedded = torch.cat([self.words(ids[:, 0]), self.pieces(ids[:, 1:])], dim=1)
        hidden = functional.relu(self.mix(self.dropout(embedded))) * mask
        length = hidden.shape[0]
        for dilation, convolution, norm in zip(_DILATIONS, self.convolutions, self.norms, strict=True):
            # A convolution of width 3 as one matrix product over (before, here, after).
            padded = functional.pad(hidden, (0, 0, dilation, dilation))
            around = torch.cat([padded[:length], hidden, padded[2 * dilation :]], dim=1)
            hidden = norm(hidden + self.dropout(functional.relu(convolution(around)))) * mask
        return functional.log_softmax(self.tags(hidden), dim=1)


def pack(features: list[Tensor]) -> Tensor:
    """The rows of several texts as one tensor, GAP empty rows between neighbours."""
    if len(features) == 1:
        return features[0]
    gap = torch.full((GAP, WIDTH), PADDING, dtype=torch.int16)
    return torch.cat([rows for text in features for rows in (text, gap)][:-1])


def decode(scores: list[list[float]]) -> list[int]:
    """The best sequence of tags that BIOES allows, for T rows of log probabilities: indices into TAGS.

    Viterbi's algorithm over five states: no entity is open, or one of ENTITIES is.
    """
    closed, opened = 0.0, [-math.inf] * len(ENTITIES)
    closing: list[int] = []  # per row, the best tag after which nothing is open
    opening: list[list[int]] = []  # per row and entity, the best tag after which it is open
    for row in scores:
        best, tag = closed + row[0], 0
        still_open, tags = [], []
        for entity, inside in enumerate(opened):
            begin = 4 * entity + 1
            if (single := closed + row[begin + 3]) > best:
                best, tag = single, begin + 3
            if (end := inside + row[begin + 2]) > best:
                best, tag = end, begin + 2
            start, stay = closed + row[begin], inside + row[begin + 1]
            still_open.append(max(start, stay))
            tags.append(begin if start >= stay else begin + 1)
        closing.append(tag)
        opening.append(tags)
        closed, opened = best, still_open
    path: list[int] = []
    entity = -1  # the entity that is open after the row at hand, -1 for none
    for closing_tag, opening_tags in zip(reversed(closing), reversed(opening), strict=True):
        tag = closing_tag if entity < 0 else opening_tags[entity]
        path.append(tag)
        part = (tag - 1) % 4 if tag else -1
        entity = (tag - 1) // 4 if part in (1, 2) else -1
    return path[::-1]


class Ner:
    """Named entities: text in, spans out. The methods run in the daemon's order: load once, then per request."""

    inputs = {"text": ("STRING", ())}
    outputs = {"spans": ("LIST", ())}
    max_batch_size = 64
    example = {"text": "Ada Lovelace met Charles Babbage in London in 1833."}

    def load(self, device: torch.device) -> None:
        """Read the weights (stored float16, computed float32) and put the network on the device."""
        self.device = device
        state = load_file(WEIGHTS)
        known = state.pop(VOCABULARY).tolist()
        self.vocabulary = {checksum: FIRST_KNOWN + index for index, checksum in enumerate(known)}
        self.tagger = Tagger(FIRST_KNOWN + len(known))
        self.tagger.load_state_dict(state)
        self.tagger.to(device).eval()

    def preprocess(self, text: str) -> Tokens:
        """One request's text, any Unicode, as tokens with features."""
        return tokenize(text, self.vocabulary)

    def forward(self, batch: list[Tokens]) -> list[Tagged]:
        """Tag several texts at once; a text's result does not depend on its neighbours."""
        features = pack([tokens.features for tokens in batch]).to(self.device)
        total = features.shape[0]
        parts = []
        with torch.inference_mode():
            for start in range(0, total, _WINDOW):
                # The rows either side that the window's own rows depend on are computed too, and dropped.
                before = min(start, _REACH)
                window = self.tagger(features[start - before : start + _WINDOW + _REACH])
                parts.append(window[before : before + _WINDOW])
            results = torch.cat(parts).cpu() if parts else torch.empty(0, len(TAGS))
        tagged, at = [], 0
        for tokens in batch:
            length = len(tokens.bounds)
            tagged.append(Tagged(tokens, results[at : at + length]))
            at += length + GAP
        return tagged

    def postprocess(self, outputs: Tagged) -> dict[str, Any]:
        """{"spans": [{"entity", "start", "end", "text", "score"}, ...]} in the order of the text.

        start and end are offsets in characters, text is what they cut out; score, in 0..1 with four decimals, is
        the mean over the span's words of the probability of the word's tag.
        """
        text, bounds, _ = outputs.tokens
        scores = outputs.log_probabilities.tolist()
        spans: list[dict[str, Any]] = []
        begin, total = 0, 0.0
        for index, tag in enumerate(decode(scores)):
            if tag == 0:
                continue
            part = (tag - 1) % 4
            if part in (0, 3):
                begin, total = index, 0.0
            total += math.exp(scores[index][tag])
            if part in (2, 3):
                start, end = bounds[begin][0], bounds[index][1]
                spans.append(
                    {
                        "entity": ENTITIES[(tag - 1) // 4],
                        "start": start,
                        "end": end,
                        "text": text[start:end],
                        "score": round(total / (index - begin + 1), 4),
                    }
                )
        return {"spans": spans}
