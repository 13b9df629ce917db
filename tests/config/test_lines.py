"""Where the keys of a TOML text are."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from inferd.config.lines import Lines

TEXT = '''\
# [not.a.table]
listen = [          # a comment with "quotes" and [brackets]
    "inferd://127.0.0.1:7433",

    "inferd+unix:///tmp/x=y#z.sock", # another
]
a.b . "c d" = { x = 1, 'y.z' = [ { w = 2 },
    { v = """
[limits]
slab_mib = 5
""" } ] }

[limits]   # the table
slab_mib = 512
"payload_mib"=64

[ models . "ner" ]
target = \'\'\'
[auth]
\'\'\'
options.label = 'a = b'
options.sizes = [
    [1, 2],
    [3,
     4]]
[[layers]]
name = "one"
[layers.inner]
name = "a"
[[layers]]
name = "two"
[layers.inner]
name = "b"
'''


def test_every_key_and_item_has_its_line() -> None:
    """In tables, dotted and quoted keys, inline tables and arrays; what strings and comments hold is no key."""
    lines = Lines(TEXT)
    tomllib.loads(TEXT)
    where: dict[tuple[str | int, ...], int] = {
        ("listen",): 2,
        ("listen", 0): 3,
        ("listen", 1): 5,
        ("a", "b", "c d"): 7,
        ("a", "b", "c d", "y.z", 0, "w"): 7,
        ("a", "b", "c d", "y.z", 1, "v"): 8,
        ("limits",): 13,
        ("limits", "slab_mib"): 14,
        ("limits", "payload_mib"): 15,
        ("models", "ner"): 17,
        ("models", "ner", "target"): 18,
        ("models", "ner", "options"): 21,
        ("models", "ner", "options", "sizes", 1, 1): 25,
        ("layers", 0, "name"): 27,
        ("layers", 1, "inner", "name"): 33,
    }
    assert {path: lines.of(*path) for path in where} == where
    assert lines.of("models", "ner", "sha256") == 17, "what is not there is where it would be"
    assert lines.of("nothing") == 1
    assert lines.again == []


def test_what_is_there_twice_is_found() -> None:
    """A table with all that is in it, and a key; each with the line of the first."""
    text = '[a]\nx = 1\nx = """\n2"""\n[b]\n[a]\ny = 1\n[c]\nx = 3'
    again = Lines(text).again
    assert [(a.path, a.line, a.first) for a in again] == [(("a", "x"), 3, 2), (("a",), 6, 1)]
    assert [text[a.start : a.end] for a in again] == ['x = """\n2"""', "[a]\ny = 1\n"]


def test_what_is_no_toml_is_passed_over() -> None:
    """The keys around it are still found."""
    lines = Lines('a = [1, 2\nb ! 3\n[limits\n[auth]\ntokens = "x\nallow_uids = 5 5\n]]\n\nlast = 1')
    assert (lines.of("auth"), lines.of("auth", "allow_uids"), lines.of("auth", "last")) == (4, 6, 9)


@given(st.text(alphabet="ab.[]{}=,\"'\\#\n 1", max_size=60))
def test_it_ends_and_agrees_with_tomllib(text: str) -> None:
    """Whatever the text, it is read to its end; in a valid one every key has been seen, and nothing is there twice."""
    lines = Lines(text)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert lines.again == []

    def each(value: Any, *path: str | int) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, below in inner:
            assert (*path, key) in lines._lines or "\\" in text, (path, key)
            each(below, *path, key)

    each(document)
