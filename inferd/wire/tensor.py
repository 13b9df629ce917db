"""Tensors on the wire: name, dtype, shape, offset. The bytes are little-endian, C order, aligned to 64.

The names of the dtypes are those of the Open Inference Protocol, with BF16.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from inferd.errors import make

# The closed list: name → bytes per element.
ITEM_BYTES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}

# What a signature may call a value that is not a tensor.
VALUE_KINDS = frozenset({"STRING", "NUMBER", "BOOLEAN", "LIST", "MAP", "ANY"})

ALIGNMENT = 64  # bytes: a cache line, and what vector loads and DMA like
MAX_TENSORS = 64
MAX_DIMS = 16
MAX_NAME_BYTES = 128
MAX_DIM = 1 << 40


def aligned(offset: int) -> int:
    """`offset` rounded up to the next multiple of 64."""
    return (offset + 63) & ~63


class Tensor:
    """One row of a tensor table: where in a payload which tensor lies. Immutable once made."""

    __slots__ = ("dtype", "name", "nbytes", "offset", "shape")

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.offset = offset
        nbytes = ITEM_BYTES[dtype]
        for dim in shape:
            nbytes *= dim
        self.nbytes = nbytes

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.dtype}, {list(self.shape)}, offset={self.offset})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensor) and self.row() == other.row()

    def __hash__(self) -> int:
        return hash((self.name, self.dtype, self.shape, self.offset))

    def row(self) -> list[Any]:
        """As it stands in a header: [name, dtype, shape, offset]."""
        return [self.name, self.dtype, list(self.shape), self.offset]


def layout(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[tuple[Tensor, ...], int]:
    """Places tensors one after the other on 64-byte boundaries.

    Returns the table and the offset at which the last tensor ends.
    """
    table: list[Tensor] = []
    end = 0
    for name, dtype, shape in tensors:
        tensor = Tensor(name, dtype, shape, aligned(end))
        end = tensor.offset + tensor.nbytes
        table.append(tensor)
    return tuple(table), end


def parse_table(rows: object, field: str) -> tuple[tuple[Tensor, ...], int]:
    """Checks a header's tensor table; returns it with the offset at which the last tensor ends.

    No table (None) is an empty one. Raises InvalidArgument naming the field: counts come first, so that nothing large
    is built from a lie.
    """
    if rows is None:
        return (), 0
    if not isinstance(rows, list):
        raise make("FIELD_TYPE", field=field, expected="a list of [name, dtype, shape, offset]")
    if len(rows) > MAX_TENSORS:
        raise make("FIELD_VALUE", field=field, problem=f"has {len(rows)} tensors, at most {MAX_TENSORS} are allowed")
    table: list[Tensor] = []
    names: set[str] = set()
    end = 0
    for row in rows:
        tensor = _parse_row(row, field)
        if tensor.name in names:
            raise make("TENSOR", field=tensor.name, problem="is there twice")
        if tensor.offset % ALIGNMENT or tensor.offset < end:
            raise make("TENSOR", field=tensor.name, problem="offset must be a multiple of 64 behind the tensor before")
        names.add(tensor.name)
        end = tensor.offset + tensor.nbytes
        table.append(tensor)
    return tuple(table), end


def _count_bytes(name: str) -> int:
    try:
        return len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        return 0  # it holds a surrogate


def _parse_row(row: object, field: str) -> Tensor:
    if not isinstance(row, list) or len(row) != 4:
        raise make("FIELD_TYPE", field=field, expected="a list of [name, dtype, shape, offset]")
    name, dtype, shape, offset = row
    if not isinstance(name, str) or not 0 < _count_bytes(name) <= MAX_NAME_BYTES:
        raise make("FIELD_VALUE", field=field, problem=f"has a tensor whose name is not 1 to {MAX_NAME_BYTES} bytes")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise make("TENSOR", field=name, problem=f"dtype must be one of {', '.join(ITEM_BYTES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS:
        raise make("TENSOR", field=name, problem=f"shape must be a list of at most {MAX_DIMS} sizes")
    for dim in shape:
        if type(dim) is not int or not 0 <= dim <= MAX_DIM:
            raise make("TENSOR", field=name, problem="shape must hold whole numbers from 0 to 2^40")
    if 0 in shape and math.prod(dim or 1 for dim in shape) > MAX_DIM:
        # No bytes on the wire, but strides that overflow in numpy and torch.
        raise make("TENSOR", field=name, problem="shape must not exceed 2^40 elements beside its 0")
    if type(offset) is not int or not 0 <= offset <= MAX_DIM:
        raise make("TENSOR", field=name, problem="offset must be a whole number from 0 to 2^40")
    return Tensor(name, dtype, tuple(shape), offset)


class Spec:
    """What a model says of one input or output: dtype and shape of one item; −1 is any size.

    `dtype` is one of ITEM_BYTES for a tensor, or one of VALUE_KINDS for a value (its shape is then empty).
    """

    __slots__ = ("dtype", "is_tensor", "name", "shape")

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.is_tensor = dtype in ITEM_BYTES

    def __repr__(self) -> str:
        return f"Spec({self.name!r}, {self.dtype}, {list(self.shape)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.row() == other.row()

    def __hash__(self) -> int:
        return hash((self.name, self.dtype, self.shape))

    @property
    def sentence(self) -> str:
        """`a tensor of FP32 [4]`, `a value of STRING`: for error messages."""
        return f"a tensor of {self.dtype} {list(self.shape)}" if self.is_tensor else f"a value of {self.dtype}"

    def row(self) -> list[Any]:
        """As it stands in WELCOME: [name, dtype, shape]."""
        return [self.name, self.dtype, list(self.shape)]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an item of `shape` fits."""
        return len(shape) == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, shape, strict=True)
        )


def specs(declared: Mapping[str, tuple[str, Iterable[int]]]) -> tuple[Spec, ...]:
    """A signature from {name: (dtype, shape)}. Raises ValueError on a dtype that is neither tensor nor value."""
    result = []
    for name, (dtype, shape) in declared.items():
        if dtype not in ITEM_BYTES and dtype not in VALUE_KINDS:
            known = ", ".join([*ITEM_BYTES, *sorted(VALUE_KINDS)])
            raise ValueError(f"{name!r} is declared as {dtype!r}, which is none of {known}")
        result.append(Spec(name, dtype, tuple(int(dim) for dim in shape)))
    return tuple(result)
