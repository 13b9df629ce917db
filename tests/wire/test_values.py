"""The values segment: what goes in comes out, and what is not one map with text names is refused."""

from __future__ import annotations

import datetime
import math
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inferd_client.codec import encode

from inferd.errors import InvalidArgument
from inferd.wire.values import pack_values, unpack_values

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.dictionaries(
    TEXT,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | TEXT
        | st.binary(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=6,
)


@given(VALUES)
def test_values_come_back(values: dict[str, Any]) -> None:
    """Text, numbers, lists, maps and bytes survive, from bytes as from a view of shared memory."""
    segment = pack_values(values)
    assert unpack_values(segment) == values
    assert unpack_values(memoryview(bytearray(b"##" + segment))[2:]) == values


def test_nan_is_data() -> None:
    """NaN and infinity are values like others."""
    back = unpack_values(pack_values({"a": math.nan, "b": -math.inf}))
    assert math.isnan(back["a"]) and back["b"] == -math.inf


REFUSED = {
    "nothing": b"",
    "a list": b"\x90",
    "nil": b"\xc0",
    "a key that is a number": b"\x81\x01\x01",
    "a key that is binary": b"\x81\xc4\x01a\x01",
    "a key that is a number, further in": b"\x81\xa1a\x81\x01\x01",
    "a key that is a list": b"\x81\x90\x01",
    "trailing bytes": b"\x80\x00",
    "cut short": b"\x82\xa1a\x01",
    "an ext type": b"\x81\xa1a\xd4\x05\x00",
    "an ext type of no bytes": b"\x81\xa1a\xc7\x00\x05",
    "a timestamp": b"\x81\xa1a\xd7\xff" + bytes(8),
    "bad UTF-8": b"\x81\xa1a\xa1\xff",
    "nesting 1025": b"\x81\xa1a" + b"\x91" * 1025 + b"\xc0",
    "a list that announces 4e9": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "lists that announce each other": b"\x81\xa1a" + (b"\xdd" + struct.pack(">I", 9_000)) * 1_000 + b"\x80" * 5_000,
}


@pytest.mark.parametrize("segment", REFUSED.values(), ids=REFUSED)
def test_refused_segments(segment: bytes) -> None:
    """Anything but one msgpack map with text names is an InvalidArgument of reason VALUES."""
    with pytest.raises(InvalidArgument) as refused:
        unpack_values(segment)
    assert refused.value.reason == "VALUES"


def test_a_name_twice() -> None:
    """A name that is there twice counts as it stood last; the worker's answer cannot depend on a parser's mood."""
    assert unpack_values(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2}


@pytest.mark.parametrize("value", [{1, 2}, datetime.datetime(2026, 1, 1), object(), 2**64, "\ud800"])
def test_what_msgpack_cannot_say(value: Any) -> None:
    """A value that cannot travel is refused at the sender, with what msgpack says of it."""
    with pytest.raises(InvalidArgument, match="cannot hold these values"):
        pack_values({"a": value})


UNREADABLE = {
    "a key that is a number": ({1: "a"}, "the keys of a map must be text, and one is of type int"),
    "a key that is a number, further in": ([{"a": ({1.5: "a"},)}], "one is of type float"),
    "a key that is true": ({True: "a"}, "one is of type bool"),
    "a key that is nothing": ({None: "a"}, "one is of type NoneType"),
    "a key that is a tuple": ({("a", "b"): "a"}, "one is of type tuple"),
    "an ext type": ([msgpack.ExtType(5, b"")], "extension types"),
    "a timestamp": (msgpack.Timestamp(1), "extension types"),
}


@pytest.mark.parametrize(("value", "says"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_could_not_be_read_is_not_packed(value: Any, says: str) -> None:
    """msgpack packs more than may be read: the sender hears of it, and a client of which input it was."""
    with pytest.raises(InvalidArgument, match=says):
        pack_values({"fine": "a", "a": value})
    with pytest.raises(InvalidArgument, match="'a'"):
        encode("model", {"fine": "a", "a": value})


def test_a_name_that_is_no_text() -> None:
    """The names of values are text, where keys further in may be bytes."""
    assert unpack_values(pack_values({"a": {b"b": 1}})) == {"a": {b"b": 1}}
    for name in (b"a", 1):
        with pytest.raises(InvalidArgument, match="names of values must be text"):
            pack_values({name: "a"})  # type: ignore[dict-item]


@pytest.mark.parametrize("depth", [500, 1023, 1024, 2000])
def test_what_is_packed_nests_no_deeper_than_may_be_read(depth: int) -> None:
    """Although msgpack packs a level more than it reads."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    if depth < 1000:
        assert unpack_values(pack_values({"a": value})) == {"a": value}
        return
    with pytest.raises(InvalidArgument, match=r"nest too deep|recursion limit"):
        pack_values({"a": value})


def test_values_that_hold_themselves() -> None:
    """A list within itself is refused, not followed."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidArgument, match="cannot hold these values"):
        pack_values({"a": loop})
