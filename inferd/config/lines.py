"""Where in a TOML text each key stands: tomllib gives values, and no lines.

The text is read once more, only as far as keys are concerned: headers, dotted and quoted keys, inline tables, the items
of arrays, and strings that could look like any of them. What is no TOML is skipped to the end of its line; tomllib is
the one that says so.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

# A key's way through the tables, an array's item by its number: ("models", "ner", "options", "labels", 2).
Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


class Again(NamedTuple):
    """A table or key that is there a second time, from `start` to `end` of the text; first on line `first`."""

    path: Path
    line: int
    first: int
    start: int
    end: int


class _Lost(Exception):
    """What comes here is no TOML."""


class Lines:
    """The lines of a text's keys, counted from 1, and what is there twice."""

    def __init__(self, text: str) -> None:
        self.again: list[Again] = []
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[Path, int] = {}
        self._set: set[Path] = set()  # by a header or a value, not only on the way to one
        self._read()

    def of(self, *path: str | int) -> int:
        """The line of a key or item; of the nearest thing around it where it has none of its own."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    # ---- reading

    def _read(self) -> None:
        """Statement after statement."""
        table: Path = ()
        numbers: dict[Path, tuple[int]] = {}  # of the last table in each array of tables
        twice: Again | None = None  # the table it is in, when that was there before
        at = 0
        while (at := self._skip(_SPACE, at)) < len(self._text):
            start = at
            try:
                if self._text[at] == "[":
                    if twice is not None:
                        self.again.append(twice._replace(end=start))
                    is_array = self._text.startswith("[[", at)
                    table, twice = (start,), None  # nowhere, if this is no header
                    key, at = self._key(at + 1 + is_array)
                    self._after(at, "]]" if is_array else "]")
                    table = ()
                    for part in key[:-1]:
                        table = (*table, part, *numbers.get((*table, part), ()))
                    table = (*table, key[-1])
                    if is_array:
                        numbers[table] = (numbers.get(table, (-1,))[0] + 1,)
                        table += numbers[table]
                    twice = self._note(table, start)
                else:
                    key, at = self._key(at)
                    path = (*table, *key)
                    again = self._note(path, start)
                    at = self._value(path, self._after(at, "="))
                    if again is not None and twice is None:
                        self.again.append(again._replace(end=at))
            except _Lost:
                at = max(at, start)
            at = self._line_end(at)
        if twice is not None:
            self.again.append(twice._replace(end=len(self._text)))

    def _note(self, path: Path, at: int) -> Again | None:
        """Notes the line of a key and of the tables it is the first in; what says that it was set before."""
        line = bisect_right(self._starts, at)
        first = self._lines.get(path, line)
        for depth in range(1, len(path) + 1):
            self._lines.setdefault(path[:depth], line)
        if path in self._set:
            return Again(path, line, first, at, at)
        self._set.add(path)
        return None

    def _value(self, path: Path, at: int) -> int:
        """The end of the value at `at`; notes what is in it."""
        first = self._text[at : at + 1]
        if first in ("'", '"'):
            return self._string(at)
        if first == "[":
            return self._items(path, at + 1)
        if first == "{":
            return self._pairs(path, at + 1)
        return self._skip(_BARE_VALUE, at)

    def _items(self, path: Path, at: int) -> int:
        number = 0
        while (at := self._skip(_SPACE, at)) < len(self._text):
            if self._text[at] == "]":
                return at + 1
            self._note((*path, number), at)
            at = self._next(self._value((*path, number), at), at, "]")
            number += 1
        raise _Lost

    def _pairs(self, path: Path, at: int) -> int:
        while (at := self._skip(_SPACE, at)) < len(self._text):
            if self._text[at] == "}":
                return at + 1
            key, end = self._key(at)
            self._note((*path, *key), at)
            at = self._next(self._value((*path, *key), self._after(end, "=")), at, "}")
        raise _Lost

    def _next(self, at: int, before: int, closing: str) -> int:
        """Behind the comma that follows an item, or before what closes them."""
        at = self._skip(_SPACE, at)
        if at > before and self._text.startswith(",", at):
            return at + 1
        if not self._text.startswith(closing, at):
            raise _Lost
        return at

    def _key(self, at: int) -> tuple[tuple[str, ...], int]:
        """A dotted key, and where it ends."""
        parts = []
        while True:
            at = self._skip(_BLANK, at)
            if self._text[at : at + 1] in ("'", '"'):
                end = self._string(at)
                parts.append(self._text[at + 1 : end - 1])
            else:
                end = self._skip(_BARE_KEY, at)
                if end == at:
                    raise _Lost
                parts.append(self._text[at:end])
            at = self._skip(_BLANK, end)
            if not self._text.startswith(".", at):
                return tuple(parts), at
            at += 1

    def _string(self, at: int) -> int:
        for pattern in _STRINGS:
            if found := pattern.match(self._text, at):
                return found.end()
        raise _Lost

    def _after(self, at: int, mark: str) -> int:
        if not self._text.startswith(mark, at):
            raise _Lost
        return self._skip(_BLANK, at + 1)

    def _skip(self, what: re.Pattern[str], at: int) -> int:
        found = what.match(self._text, at)
        return found.end() if found else at

    def _line_end(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end + 1
