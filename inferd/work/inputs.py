"""Rows of the slab, seen as one batch.

The loop process puts consecutive arrivals into consecutive rows, so the batch is mostly a single strided view; what is
not equally spaced is joined with one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from inferd.errors import RequestError, make
from inferd.wire.batch import NUMBERS_PER_REQUEST
from inferd.wire.tensor import Spec, Tensor, aligned
from inferd.wire.values import unpack_values
from inferd.work.device import Memory

Table = tuple[Tensor, ...]


class Request(NamedTuple):
    """Where one request of the batch lies. `rows` is 0 for a single item without a batch dimension."""

    table: int
    rows: int
    offset: int
    nbytes: int
    has_values: int

    @property
    def items(self) -> int:
        return self.rows or 1


def parse_requests(numbers: Sequence[int]) -> list[Request]:
    """The requests of a packet."""
    step = NUMBERS_PER_REQUEST
    return [Request(*numbers[at : at + step]) for at in range(0, len(numbers), step)]


def parse_tables(tables: list[Any]) -> list[Table]:
    """The tensor tables of a packet; they were checked at the door."""
    return [tuple(Tensor(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in rows) for rows in tables]


def tensors(memory: Memory, tables: list[Table], requests: list[Request]) -> dict[str, torch.Tensor]:
    """Every tensor of the batch, [items, *shape], contiguous, on the host."""
    first = requests[0]
    table = tables[first.table]
    if not table:
        return {}
    stride = _stride(requests)
    batch: dict[str, torch.Tensor] = {}
    if stride is not None:
        for tensor in table:
            view = memory.rows(tensor.dtype, tensor.shape, first.offset + tensor.offset, len(requests), stride)
            batch[tensor.name] = (view if first.rows == 0 else view[0]).contiguous()
        return batch
    for index, tensor in enumerate(table):
        parts = []
        for request in requests:
            row = tables[request.table][index]
            part = memory.rows(row.dtype, row.shape, request.offset + row.offset, 1, row.nbytes or 1)
            parts.append(part if request.rows == 0 else part[0])
        batch[tensor.name] = torch.cat(parts)
    return batch


def _stride(requests: list[Request]) -> int | None:
    """The distance of the requests' payloads when they can be seen as one view; None when they cannot."""
    first = requests[0]
    if len(requests) == 1:
        return aligned(first.nbytes) or 64
    if first.rows:
        return None
    stride = requests[1].offset - first.offset
    if stride <= 0 or stride % 64:
        return None
    expected = first.offset
    for request in requests:
        if request.offset != expected or request.rows or request.table != first.table:
            return None
        expected += stride
    return stride


def values(memory: Memory, tables: list[Table], request: Request) -> dict[str, Any]:
    """The values of one request. Raises InvalidArgument."""
    table = tables[request.table]
    start = request.offset + (aligned(table[-1].offset + table[-1].nbytes) if table else 0)
    found = unpack_values(memory.region.view[start : request.offset + request.nbytes])
    if request.rows:
        for name, value in found.items():
            if not isinstance(value, list) or len(value) != request.rows:
                actual = len(value) if isinstance(value, list) else type(value).__name__
                raise make("ROWS", field=name, expected=request.rows, actual=actual)
    return found


_KINDS: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "MAP": (dict,),
}


def check_values(model: str, inputs: tuple[Spec, ...], found: dict[str, Any], rows: int) -> RequestError | None:
    """What is wrong with a request's values, by the model's declared inputs; None when nothing is."""
    for spec in inputs:
        if spec.is_tensor:
            continue
        if spec.name not in found:
            return make("INPUT_MISSING", model=model, field=spec.name)
        if spec.dtype == "ANY":
            continue
        kinds = _KINDS[spec.dtype]
        for value in found[spec.name] if rows else (found[spec.name],):
            if not isinstance(value, kinds) or (isinstance(value, bool) and spec.dtype != "BOOLEAN"):
                actual = type(value).__name__
                return make("INPUT_DTYPE", field=spec.name, model=model, expected=spec.dtype, actual=actual)
    declared = {spec.name for spec in inputs}
    for name in found:
        if name not in declared:
            return make("INPUT_UNKNOWN", model=model, field=name, expected=", ".join(sorted(declared)))
    return None
