"""From text to tokens to integer features: what the tagger (`model.py`) reads, in training and in serving alike.

A token is a word, a number, a possessive 's or one other character. Its features are one word id (a known word, or
`UNKNOWN`) and up to PIECES - 1 hashed pieces of its spelling: prefixes, suffixes, character trigrams and the word's
shape, so that a name which was never seen still looks like a name (Bojanowski et al., "Enriching Word Vectors with
Subword Information", TACL 2017, for the hashed n-grams). Case is in the shape only; everything else is lower-cased.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

PADDING = 0
UNKNOWN = 1
TABLE = 8192  # rows of the table of pieces; row 0 is padding
PIECES = 20  # the context of the token, then at most 19 pieces of its spelling
WIDTH = 1 + PIECES  # columns of a feature row: the word id, then the pieces

_CONTEXTS = 4  # rows 1 to 4 of the table: first word of a sentence or not, blank before it or not
LONGEST = 24  # a longer word is known by its first 16 and its last 8 characters
_TOKEN = re.compile(
    r"\d+(?:st|nd|rd|th)\b|\d+"
    r"|['\u2019][sS]\b"
    r"|[^\W\d_][^\W_\u0300-\u036f]*(?:[\u0300-\u036f]+[^\W_]*)*(?:['\u2019](?![sS]\b)[^\W\d_]+)*"
    r"|\S"
)
_SENTENCE_ENDS = frozenset('.!?\u2026:\u201c"\u00bb\u3002')


class Tokens(NamedTuple):
    """A text cut into T tokens.

    text: the text itself; bounds: T pairs (start, end) of character offsets into it;
    features: int16 tensor of shape (T, WIDTH), column 0 the word id, the others rows of the table of pieces.
    """

    text: str
    bounds: list[tuple[int, int]]
    features: Tensor


def _hash(text: str) -> int:
    """A 31-bit checksum, the same in every process; lone surrogates are allowed."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


def _row(piece: str) -> int:
    return 1 + _CONTEXTS + _hash(piece) % (TABLE - 1 - _CONTEXTS)


def _shape(word: str) -> str:
    """The word with X for capitals, x for other letters and 9 for digits, each run written once or twice."""
    marks = "".join("9" if c.isdecimal() else "X" if c.isupper() else "x" if c.isalpha() else c for c in word)
    return re.sub(r"(.)\1+", r"\1\1", marks)


def _number(digits: str) -> str:
    """The class of a number: the tagger sees this instead of the digits."""
    if len(digits) == 4:
        return "year" if 1000 <= int(digits) < 2100 else "thousands"
    if len(digits) <= 2:
        return "day" if 1 <= int(digits) <= 31 else "tens"
    return "hundreds" if len(digits) == 3 else "long"


@lru_cache(maxsize=16384)
def spelling(word: str) -> tuple[int, tuple[int, ...]]:
    """A word's own features: the checksum by which it is known or not, and PIECES - 1 rows of the table.

    Call it with a word of at most LONGEST characters, so that the cache stays small whatever is sent.
    """
    if word.isdecimal():
        name = f"#{_number(word)}"
        rows = [_row(f"n{name}"), _row(f"l{min(len(word), 6)}")]
    else:
        name = "#ordinal" if word[0].isdecimal() else word.lower()
        bounded = f"^{name}$"
        rows = [_row(f"p{name[:n]}") for n in (2, 3, 4)]
        rows += [_row(f"s{name[-n:]}") for n in (1, 2, 3, 4, 5)]
        rows += [_row(f"x{_shape(word)}"), _row(f"c{_shape(word)[:1]}"), _row(f"l{min(len(word), 12)}")]
        rows += [_row(bounded[i : i + 3]) for i in range(min(len(bounded) - 2, PIECES - 1 - len(rows)))]
    return _hash(name), (*rows, *[PADDING] * (PIECES - 1 - len(rows)))


def tokenize(text: str, vocabulary: Mapping[int, int]) -> Tokens:
    """Cut a text into tokens and look up their features.

    vocabulary maps the checksum of a known word to its word id; every other word gets `UNKNOWN`.
    """
    bounds = [match.span() for match in _TOKEN.finditer(text)]
    rows: list[tuple[int, ...]] = []
    previous, first = 0, True
    for start, end in bounds:
        word = text[start:end]
        if end - start > LONGEST:
            word = word[:16] + word[-8:]
        checksum, pieces = spelling(word)
        context = 1 + 2 * first + (start > previous)
        rows.append((vocabulary.get(checksum, UNKNOWN), context, *pieces))
        previous, first = end, word in _SENTENCE_ENDS
    packed = array("h", chain.from_iterable(rows))
    features = torch.frombuffer(packed, dtype=torch.int16) if rows else torch.empty(0, dtype=torch.int16)
    return Tokens(text, bounds, features.view(-1, WIDTH))
