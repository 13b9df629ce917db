"""Tensor tables: what is laid out is read back, and no lie gets past the door."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.errors import InvalidArgument
from inferd.wire import frame as f
from inferd.wire.tensor import (
    ALIGNMENT,
    ITEM_BYTES,
    MAX_DIM,
    MAX_DIMS,
    Spec,
    Tensor,
    aligned,
    layout,
    parse_table,
    specs,
)
from tests.wire.wire_link import infer, open_server, raw

NAMES = st.text(min_size=1, max_size=30).filter(lambda name: 0 < len(name.encode("utf-8", "replace")) <= 128)
SHAPES = st.lists(st.integers(0, 9), max_size=5).map(tuple)
DECLARED = st.lists(
    st.tuples(NAMES, st.sampled_from(sorted(ITEM_BYTES)), SHAPES), max_size=8, unique_by=lambda one: one[0]
)


@given(DECLARED)
def test_layout_is_read_back(declared: list[tuple[str, str, tuple[int, ...]]]) -> None:
    """What layout() places, parse_table() takes, and they agree where the last tensor ends."""
    table, end = layout(declared)
    assert parse_table([tensor.row() for tensor in table], "inputs") == (table, end)
    at = 0
    for tensor, (name, dtype, shape) in zip(table, declared, strict=True):
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, shape)
        assert tensor.offset % ALIGNMENT == 0 and at <= tensor.offset < at + ALIGNMENT
        assert tensor.nbytes == math.prod(shape) * ITEM_BYTES[dtype]
        at = tensor.offset + tensor.nbytes
    assert end == at


@given(st.integers(0, 1 << 50))
def test_aligned(offset: int) -> None:
    """The next multiple of 64, or the offset itself."""
    assert aligned(offset) % 64 == 0 and 0 <= aligned(offset) - offset < 64


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
LIES = st.lists(
    st.lists(
        st.one_of(
            ANYTHING,
            st.sampled_from(["x", "y", "FP32", "BOOL", "object", ">f4", [1], [2, 3], [0], [2**40] * 3, 0, 64, 128]),
        ),
        min_size=3,
        max_size=5,
    )
    | ANYTHING,
    max_size=5,
)


@given(LIES | ANYTHING, st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_lies_never_pass(rows: Any, payload_bytes: int) -> None:
    """Whatever a table says, either it describes the payload to its last byte or the frame's error says why not."""
    server = open_server()
    header = msgpack.packb({"model": "m", "inputs": rows})
    got = server.feed(raw(f.INFER, header, bytes(payload_bytes)) + infer(4, 2), 1000)
    assert [one.request_id for one in got] == [1, 2] and got[1].error is None
    if got[0].error is not None:
        assert isinstance(got[0].error, InvalidArgument)
        return
    end = 0
    for tensor in got[0].message.tensors:  # type: ignore[union-attr]
        assert end <= tensor.offset and tensor.offset % 64 == 0
        end = tensor.offset + tensor.nbytes
        # numpy can build what came through, at the place where it is said to be.
        flat = np.frombuffer(bytes(payload_bytes), np.uint8, tensor.nbytes, tensor.offset if tensor.nbytes else 0)
        assert flat.reshape(*tensor.shape, ITEM_BYTES[tensor.dtype]).nbytes == tensor.nbytes
    assert end == payload_bytes


@given(
    st.lists(st.integers(1, MAX_DIM), min_size=1, max_size=MAX_DIMS).filter(lambda shape: math.prod(shape) > 1000),
    st.sampled_from(sorted(ITEM_BYTES)),
    st.integers(0, 1000),
)
def test_products_are_exact(shape: list[int], dtype: str, payload_bytes: int) -> None:
    """A product over 2^63 does not wrap around to something small."""
    header = msgpack.packb({"model": "m", "inputs": [["x", dtype, shape, 0]]})
    (got,) = open_server().feed(raw(f.INFER, header, bytes(payload_bytes)))
    assert got.error is not None and got.error.reason == "FIELD_VALUE"


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (["", "FP32", [1], 0], "name"),
        (["n" * 129, "FP32", [1], 0], "name"),
        (["é" * 65, "FP32", [1], 0], "name"),
        ([7, "FP32", [1], 0], "name"),
        (["x", "fp32", [1], 0], "dtype"),
        (["x", ["FP32"], [1], 0], "dtype"),
        (["x", "FP32", 3, 0], "shape"),
        (["x", "FP32", [1] * 17, 0], "shape"),
        (["x", "FP32", [1.0], 0], "shape"),
        (["x", "FP32", [True], 0], "shape"),
        (["x", "FP32", [-1], 0], "shape"),
        (["x", "FP32", [2**40 + 1], 0], "shape"),
        (["x", "FP32", [0, 2**40, 2], 0], "shape"),
        (["x", "FP32", [1], -64], "offset"),
        (["x", "FP32", [1], 1], "offset"),
        (["x", "FP32", [1], 0.0], "offset"),
        (["x", "FP32", [1], 2**41], "offset"),
        (["x", "FP32", [1], None], "offset"),
    ],
)
def test_each_lie_is_named(row: list[Any], word: str) -> None:
    """The sentence says which part of the row is wrong."""
    with pytest.raises(InvalidArgument, match=word):
        parse_table([row], "inputs")


def test_names_at_the_cap() -> None:
    """A name of 128 bytes is taken, counted in UTF-8."""
    for name in ("n" * 128, "é" * 64):
        assert parse_table([[name, "FP32", [], 0]], "inputs")[0][0].name == name


def test_tensors_compare_and_print() -> None:
    """Two rows that say the same are equal, and print as what they say."""
    one, other = Tensor("x", "FP32", (2,), 0), Tensor("x", "FP32", (2,), 0)
    assert one == other and hash(one) == hash(other) and one != Tensor("x", "FP32", (2,), 64)
    assert repr(one) == "Tensor('x', FP32, [2], offset=0)"


def test_specs() -> None:
    """A signature takes tensors and values, −1 is any size, and an unknown dtype is refused with the list of them."""
    image, text = specs({"image": ("FP32", [3, -1]), "text": ("STRING", ())})
    assert image.is_tensor and not text.is_tensor and image.row() == ["image", "FP32", [3, -1]]
    assert image.accepts((3, 7)) and not image.accepts((4, 7)) and not image.accepts((3,))
    assert image == Spec("image", "FP32", (3, -1)) and hash(image) == hash(Spec("image", "FP32", (3, -1)))
    with pytest.raises(ValueError, match="is declared as 'float', which is none of BOOL"):
        specs({"x": ("float", ())})
