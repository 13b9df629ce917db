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
from inferd.wire.tensor import MAX_TENSORS, Tensor, aligned, layout, parse_table
from inferd.wire.values import pack_values
from inferd.work.device import NAMES, RAW, Memory

MAX_REMEMBERED_LAYOUTS = 1024
# Up to so many bytes numpy copies faster than torch, which takes longer to begin.
SMALL_BYTES = 32 * 1024


class OutputError(Exception):
    """A model returned something that cannot be split or sent."""


class Arena:
    """Where results lie until they are sent. `wait` blocks until some of them have been given back."""

    wait: Callable[[], None]

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.extents = Extents(memory.region.nbytes)
        self._layouts: dict[tuple[Any, ...], Layout] = {}

    def give_back(self, freed: list[int]) -> None:
        """(offset, bytes) pairs whose replies have left."""
        for at in range(0, len(freed), 2):
            self.extents.give(freed[at], freed[at + 1])

    def take(self, nbytes: int) -> int:
        """The offset of `nbytes`, waiting for room if need be. Raises ResourceExhausted if there can never be."""
        nbytes = aligned(nbytes)
        if nbytes > self.extents.nbytes:
            raise make("OUTPUT_TOO_LARGE", limit=self.extents.nbytes)
        while (offset := self._take_now(nbytes)) is None:
            if not self.extents.used:
                raise make("OUTPUT_TOO_LARGE", limit=self.memory.region.ensured)  # nothing is there to come back
            self.wait()
        return offset

    def _take_now(self, nbytes: int) -> int | None:
        offset = self.extents.take(nbytes)
        if offset is not None:
            try:
                self.memory.region.ensure(offset + nbytes)
            except OSError:
                # The system has no memory for more of the arena: what there is of it has to do.
                self.extents.give(offset, nbytes)
                return None
        return offset

    def _give_up(self, offset: int, nbytes: int) -> None:
        """What was taken has not been written, and nobody else knows of it: a sparse tensor cannot be copied, a device
        may lack the memory for it."""
        if nbytes:
            self.extents.give(offset, aligned(nbytes))

    def layout(self, key: tuple[Any, ...]) -> Layout:
        """How tensors of (name, dtype, shape, name, dtype, shape, …) are laid out and announced; the same few come up
        again and again. Raises OutputError."""
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= MAX_REMEMBERED_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = Layout(key)
        return layout

    def write_rows(self, outputs: dict[str, torch.Tensor], rows: int) -> tuple[bytes, int, int, int] | None:
        """All rows of a batch of tensors at once, equally spaced. Returns head, offset, bytes of a row, distance; or
        None when there is no room for all of them together: they may still fit one by one, as replies leave."""
        key: tuple[Any, ...] = ()
        for name, tensor in outputs.items():
            key += (name, tensor.dtype, tensor.shape[1:])
        layout = self.layout(key)
        stride = layout.stride
        offset = self._take_now(rows * stride) if stride else 0
        if offset is None:
            return None
        memory = self.memory
        try:
            for row, tensor in zip(layout.table, outputs.values(), strict=True):
                if rows * row.nbytes <= SMALL_BYTES and row.nbytes and _is_plain(tensor):
                    size = tensor.itemsize
                    begin = offset // size
                    places = memory.raw[size][begin : begin + rows * stride // size].reshape(rows, -1)
                    begin = row.offset // size
                    values = tensor.view(RAW[size]).numpy().reshape(rows, -1)
                    places[:, begin : begin + row.nbytes // size] = values
                else:
                    memory.rows(row.dtype, row.shape, offset + row.offset, rows, stride).copy_(tensor)
        except BaseException:
            self._give_up(offset, rows * stride)
            raise
        return layout.head, offset, layout.nbytes, stride

    def write_cut(
        self, outputs: dict[str, torch.Tensor], cut: set[str], lengths: list[int]
    ) -> list[tuple[bytes, int, int]] | None:
        """All rows of a batch, each with so much of the first size of the outputs in `cut` as `lengths` says. Returns
        head, offset and bytes of each; or None when there is no room for all of them together."""
        columns: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        for name, tensor in outputs.items():
            _dtype(name, tensor.dtype)
            plain = tensor.detach().cpu().contiguous().resolve_neg()
            values = plain.view(RAW[plain.itemsize]).numpy()
            columns.append((values, self.memory.raw[plain.itemsize]))
        layouts: dict[int, Layout] = {}
        for length in set(lengths):
            key: tuple[Any, ...] = ()
            for name, tensor in outputs.items():
                key += (name, tensor.dtype, (length, *tensor.shape[2:]) if name in cut else tensor.shape[1:])
            layouts[length] = self.layout(key)
        end = sum(layouts[length].stride for length in lengths)
        offset = self._take_now(end) if end else 0
        if offset is None:
            return None
        written = []
        for at, length in enumerate(lengths):
            layout = layouts[length]
            for row, (values, memory) in zip(layout.table, columns, strict=True):
                size = values.itemsize
                begin, count = (offset + row.offset) // size, row.nbytes // size
                own = values[at, :length] if row.name in cut else values[at]
                memory[begin : begin + count] = own.reshape(-1)
            written.append((layout.head, offset, layout.nbytes))
            offset += layout.stride
        return written

    def write(self, outputs: Mapping[str, Any]) -> tuple[bytes, int, int, int]:
        """One request's result. Returns head, offset, bytes and flags. Raises OutputError."""
        tensors, values = sort_out(outputs)
        key: tuple[Any, ...] = ()
        for name, tensor in tensors.items():
            key += (name, tensor.dtype, tensor.shape)
        layout = self.layout(key)
        flags = 0
        segment = b""
        start = layout.nbytes
        if values:
            flags = HAS_VALUES
            start = aligned(start)
            segment = packed(values)
        nbytes = start + len(segment)
        offset = self.take(nbytes) if nbytes else 0
        try:
            for row, tensor in zip(layout.table, tensors.values(), strict=True):
                self._put(row, offset + row.offset, tensor)
            if segment:
                self.memory.region.view[offset + start : offset + nbytes] = segment
        except BaseException:
            self._give_up(offset, nbytes)
            raise
        return layout.head, offset, nbytes, flags

    def _put(self, row: Tensor, offset: int, tensor: torch.Tensor) -> None:
        if not row.nbytes:
            return
        if row.nbytes <= SMALL_BYTES and _is_plain(tensor):
            size = tensor.itemsize
            begin = offset // size
            self.memory.raw[size][begin : begin + row.nbytes // size] = tensor.view(RAW[size]).numpy().reshape(-1)
        else:
            self.memory.rows(row.dtype, row.shape, offset, 1, row.nbytes)[0].copy_(tensor)


class Layout:
    """Where the tensors of a result lie, and the RESULT header that says so. `stride` is the distance of results."""

    __slots__ = ("head", "nbytes", "stride", "table")

    def __init__(self, key: tuple[Any, ...]) -> None:
        named = [(key[at], _dtype(key[at], key[at + 1]), tuple(key[at + 2])) for at in range(0, len(key), 3)]
        self.table, self.nbytes = layout(named)
        try:
            parse_table([row.row() for row in self.table], "outputs")  # what a client will not take is not sent
        except RequestError as error:
            raise OutputError(error.message) from error
        self.stride = aligned(self.nbytes)
        self.head = Result(self.table).pack() if self.table else EMPTY_HEADER
        if len(self.head) > Limits().header_bytes:
            size = len(self.head)
            raise OutputError(f"the table of {len(self.table)} outputs takes {size} bytes, over the header's limit")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its bytes can be copied as they lie."""
    return tensor.is_cpu and tensor.is_contiguous() and not tensor.requires_grad and not tensor.is_neg()


def _dtype(name: str, dtype: torch.dtype) -> str:
    try:
        return NAMES[dtype]
    except KeyError:
        raise OutputError(f"output {name!r} has dtype {dtype}, which the wire does not know") from None


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
        value = without_numpy(value)
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        else:
            values[name] = value
    return tensors, values


def without_numpy(value: Any) -> Any:
    """An array as a tensor, a scalar of numpy's as a value; anything else as it is. Raises OutputError."""
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape)  # () has become (1,)
        except (TypeError, ValueError) as error:
            raise OutputError(f"an array of dtype {value.dtype} cannot be sent: {error}") from error
    return value.item() if isinstance(value, np.generic) else value


def packed(values: Mapping[str, Any]) -> bytes:
    """The values of a result as they are sent. Raises OutputError naming the one that no client could read."""
    try:
        return pack_values(values)
    except RequestError as error:
        for name, value in values.items():
            try:
                pack_values({name: value})
            except RequestError as its_own:
                raise OutputError(f"output {name!r} cannot be sent: {its_own.__cause__}") from its_own
        raise OutputError(error.message) from error


def as_columns(outputs: Any, rows: int) -> dict[str, Any] | list[Any]:
    """What forward returned, checked for length: a dict of [rows, …] tensors and lists, or a list of `rows` results."""
    if isinstance(outputs, torch.Tensor):
        outputs = {"output": outputs}
    if isinstance(outputs, (dict, Mapping)):
        columns: dict[str, Any] = {}
        for name, column in outputs.items():
            if isinstance(column, torch.Tensor):
                size = column.shape[0] if column.ndim else -1
            elif isinstance(column, np.ndarray):
                size = len(column) if column.ndim else -1
                column = without_numpy(column)
            elif isinstance(column, list | tuple):
                size = len(column)
            else:
                raise OutputError(f"output {name!r} must be a tensor or a list with a row for each request")
            if size != rows:
                actual = "no rows" if size < 0 else f"{size} rows"
                raise OutputError(f"output {name!r} has {actual} for a batch of {rows}")
            columns[name] = column
        return columns
    if isinstance(outputs, list | tuple):
        if len(outputs) != rows:
            raise OutputError(f"forward returned {len(outputs)} results for a batch of {rows}")
        return list(outputs)
    raise OutputError(f"forward must return a tensor, a dict or a list, got {type(outputs).__name__}")
