"""A batch's results, split by row and written into the arena, from where the kernel sends them.

The worker alone decides who has which part of its arena: only it knows the size of spans and text. Parts come back
with later packets, when the replies have left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from inferd.errors import RequestError, make
from inferd.memory import Extents
from inferd.wire.frame import HAS_VALUES, Limits
from inferd.wire.messages import EMPTY_HEADER, Result
from inferd.wire.tensor import MAX_TENSORS, Tensor, aligned, layout
from inferd.wire.values import pack_values
from inferd.work.device import NAMES, Memory

MAX_REMEMBERED_HEADS = 256


class OutputError(Exception):
    """A model returned something that cannot be split or sent."""


class Arena:
    """Where results lie until they are sent. `wait` blocks until some of them have been given back."""

    wait: Callable[[], None]

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.extents = Extents(memory.region.nbytes)
        self._heads: dict[tuple[Any, ...], bytes] = {}

    def give_back(self, freed: list[int]) -> None:
        """(offset, bytes) pairs whose replies have left."""
        for at in range(0, len(freed), 2):
            self.extents.give(freed[at], freed[at + 1])

    def take(self, nbytes: int) -> int:
        """The offset of `nbytes`, waiting for room if need be. Raises ResourceExhausted if there can never be."""
        nbytes = aligned(nbytes)
        if nbytes > self.extents.nbytes:
            raise make("OUTPUT_TOO_LARGE", actual=nbytes, limit=self.extents.nbytes)
        while (offset := self._take_now(nbytes)) is None:
            self.wait()
        return offset

    def _take_now(self, nbytes: int) -> int | None:
        offset = self.extents.take(nbytes)
        if offset is not None:
            try:
                self.memory.region.ensure(offset + nbytes)
            except OSError as error:
                self.extents.give(offset, nbytes)
                raise make("OUTPUT_TOO_LARGE", actual=nbytes, limit=self.extents.used) from error
        return offset

    def head(self, table: tuple[Tensor, ...]) -> bytes:
        """The RESULT header for a table; the same few come up again and again."""
        if not table:
            return EMPTY_HEADER
        key = tuple((tensor.name, tensor.dtype, tensor.shape) for tensor in table)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= MAX_REMEMBERED_HEADS:
                self._heads.clear()
            head = Result(table).pack()
            if len(head) > Limits().header_bytes:
                raise OutputError(f"the table of {len(table)} outputs takes {len(head)} bytes, over the header's limit")
            self._heads[key] = head
        return head

    def write_rows(self, outputs: dict[str, torch.Tensor], rows: int) -> tuple[bytes, int, int, int] | None:
        """All rows of a batch of tensors at once, equally spaced. Returns head, offset, bytes of a row, distance; or
        None when there is no room for all of them together: they may still fit one by one, as replies leave."""
        table, end = layout((name, _dtype(name, tensor), tuple(tensor.shape[1:])) for name, tensor in outputs.items())
        stride = aligned(end)
        offset = self._take_now(rows * stride) if stride else 0
        if offset is None:
            return None
        for row, tensor in zip(table, outputs.values(), strict=True):
            self.memory.rows(row.dtype, row.shape, offset + row.offset, rows, stride).copy_(tensor)
        return self.head(table), offset, end, stride

    def write(self, outputs: Mapping[str, Any]) -> tuple[bytes, int, int, int]:
        """One request's result. Returns head, offset, bytes and flags. Raises OutputError."""
        tensors, values = sort_out(outputs)
        table, end = layout((name, _dtype(name, tensor), tuple(tensor.shape)) for name, tensor in tensors.items())
        flags = 0
        segment = b""
        start = end
        if values:
            flags = HAS_VALUES
            start = aligned(end)
            try:
                segment = pack_values(values)
            except RequestError as error:
                raise OutputError(error.message) from error
        nbytes = start + len(segment)
        offset = self.take(nbytes) if nbytes else 0
        for row, tensor in zip(table, tensors.values(), strict=True):
            self.memory.rows(row.dtype, row.shape, offset + row.offset, 1, row.nbytes or 1)[0].copy_(tensor)
        self.memory.region.view[offset + start : offset + nbytes] = segment
        return self.head(table), offset, nbytes, flags


def _dtype(name: str, tensor: torch.Tensor) -> str:
    try:
        return NAMES[tensor.dtype]
    except KeyError:
        raise OutputError(f"output {name!r} has dtype {tensor.dtype}, which the wire does not know") from None


def sort_out(outputs: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What of a result is a tensor and what is a value. Raises OutputError."""
    if not isinstance(outputs, Mapping):
        raise OutputError(f"a result must be a dict of name to tensor or value, got {type(outputs).__name__}")
    if len(outputs) > MAX_TENSORS:
        raise OutputError(f"a result has at most {MAX_TENSORS} entries, got {len(outputs)}")
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for name, value in outputs.items():
        if not isinstance(name, str):
            raise OutputError(f"the names of a result must be text, got {name!r}")
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, np.ndarray):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
        elif isinstance(value, np.generic):
            values[name] = value.item()
        else:
            values[name] = value
    return tensors, values


def as_columns(outputs: Any, rows: int) -> dict[str, Any] | list[Any]:
    """What forward returned, checked for length: a dict of [rows, …] tensors and lists, or a list of `rows` results."""
    if isinstance(outputs, torch.Tensor):
        outputs = {"output": outputs}
    if isinstance(outputs, Mapping):
        for name, column in outputs.items():
            if not isinstance(column, torch.Tensor | np.ndarray | list | tuple):
                raise OutputError(f"output {name!r} must be a tensor or a list with a row for each request")
            if getattr(column, "ndim", 1) == 0 or len(column) != rows:
                size = "no rows" if getattr(column, "ndim", 1) == 0 else f"{len(column)} rows"
                raise OutputError(f"output {name!r} has {size} for a batch of {rows}")
        return {
            name: torch.from_numpy(np.ascontiguousarray(column)) if isinstance(column, np.ndarray) else column
            for name, column in outputs.items()
        }
    if isinstance(outputs, list | tuple):
        if len(outputs) != rows:
            raise OutputError(f"forward returned {len(outputs)} results for a batch of {rows}")
        return list(outputs)
    raise OutputError(f"forward must return a tensor, a dict or a list, got {type(outputs).__name__}")
