"""Rows of the slab, seen as one batch.

The loop process puts consecutive arrivals into consecutive rows, so the batch is mostly a single strided view; what is
not equally spaced is joined with one copy, and what is not equally long is padded in the same copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inferd.errors import RequestError, make
from inferd.wire.batch import NUMBERS_PER_REQUEST
from inferd.wire.tensor import Spec, Tensor, aligned
from inferd.wire.values import unpack_values
from inferd.work.device import DTYPES, RAW, Memory

Table = tuple[Tensor, ...]


class Requests:
    """Where the requests of a batch lie: a column for each of the five numbers, because a batch is handled whole.

    `rows` is 0 for a single item without a batch dimension.
    """

    __slots__ = ("has_values", "nbytes", "offset", "rows", "table")

    def __init__(
        self,
        table: Sequence[int],
        rows: Sequence[int],
        offset: Sequence[int],
        nbytes: Sequence[int],
        has_values: Sequence[int],
    ) -> None:
        self.table = table
        self.rows = rows
        self.offset = offset
        self.nbytes = nbytes
        self.has_values = has_values

    @classmethod
    def parse(cls, numbers: Sequence[int]) -> Requests:
        """The requests of a packet."""
        step = NUMBERS_PER_REQUEST
        return cls(numbers[0::step], numbers[1::step], numbers[2::step], numbers[3::step], numbers[4::step])

    def __len__(self) -> int:
        return len(self.offset)

    def chosen(self, members: Sequence[int]) -> Requests:
        """Only those of `members`, in their order."""
        columns = (self.table, self.rows, self.offset, self.nbytes, self.has_values)
        return Requests(*([column[index] for index in members] for column in columns))

    def items(self) -> list[int]:
        """How many items each request has."""
        return [rows or 1 for rows in self.rows]


class Padding:
    """What padding a batch has: its rows' own lengths, and how much of it is real.

    `lengths` has, for the position of each size that varies, every row's own size and the size after padding: a pair
    for each input whose sizes there are not those of another.
    """

    __slots__ = ("lengths", "padded", "real")

    def __init__(self) -> None:
        self.lengths: dict[int, list[tuple[list[int], int]]] = {}
        self.real = 0
        self.padded = 0

    def add(self, dims: Sequence[int], sizes: list[list[int]], longest: Sequence[int], real: int, padded: int) -> None:
        """One input: for each of `dims` the rows' own `sizes`; its elements before and after padding."""
        for dim, own, length in zip(dims, sizes, longest, strict=True):
            known = self.lengths.setdefault(dim, [])
            if (own, length) not in known:
                known.append((own, length))
        self.real += real
        self.padded += padded

    @property
    def even(self) -> bool:
        """Whether no row was padded."""
        return self.real == self.padded


def parse_tables(tables: list[Any]) -> list[Table]:
    """The tensor tables of a packet; they were checked at the door."""
    return [tuple(Tensor(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in rows) for rows in tables]


def tensors(memory: Memory, tables: list[Table], requests: Requests) -> dict[str, torch.Tensor]:
    """Every tensor of the batch, [items, *shape], contiguous, on the host. All items have the same shapes."""
    return {
        tensor.name: stack(memory, tables, requests, index) for index, tensor in enumerate(tables[requests.table[0]])
    }


def stack(memory: Memory, tables: list[Table], requests: Requests, index: int) -> torch.Tensor:
    """Tensor number `index` of every item: [items, *shape], for items of one shape."""
    tensor = tables[requests.table[0]][index]
    rows = requests.rows[0]
    stride = _stride(requests)
    if stride is None:
        items = requests.items()
        return _gather(memory, tables, requests, index, items, tensor.shape[1:] if rows else tensor.shape)
    view = memory.rows(tensor.dtype, tensor.shape, requests.offset[0] + tensor.offset, len(requests), stride)
    return (view[0] if rows else view).contiguous()


def _stride(requests: Requests) -> int | None:
    """The distance of the requests' payloads when they can be seen as one view; None when they cannot."""
    offsets = requests.offset
    count = len(offsets)
    if count == 1:
        return aligned(requests.nbytes[0]) or 64
    first = offsets[0]
    stride = offsets[1] - first
    if stride <= 0 or stride % 64 or any(requests.rows):
        return None
    if offsets != list(range(first, first + count * stride, stride)):
        return None
    table = requests.table
    return stride if table.count(table[0]) == count else None


def _gather(
    memory: Memory, tables: list[Table], requests: Requests, index: int, items: list[int], shape: tuple[int, ...]
) -> torch.Tensor:
    """Items of `shape` from wherever they lie, in one contiguous tensor."""
    dtype = DTYPES[tables[requests.table[0]][index].dtype]
    whole = torch.empty((sum(items), *shape), dtype=dtype)
    source = memory.raw[dtype.itemsize]
    size = dtype.itemsize
    flat = whole.view(RAW[size]).numpy().reshape(len(whole), -1) if whole.numel() else None
    if flat is None:
        return whole
    width = flat.shape[1]
    at = 0
    for table, count, offset in zip(requests.table, items, requests.offset, strict=True):
        begin = (offset + tables[table][index].offset) // size
        if count == 1:
            flat[at] = source[begin : begin + width]
        else:
            flat[at : at + count] = source[begin : begin + count * width].reshape(count, width)
        at += count
    return whole


def pad(
    memory: Memory,
    tables: list[Table],
    requests: Requests,
    index: int,
    dims: tuple[int, ...],
    value: float,
    padding: Padding,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensor number `index` of every item, padded with `value` at its end in each of `dims` to the largest; and the
    lengths: [items] for one dim, [items, dims] for several."""
    items = requests.items()
    shapes = [
        tables[table][index].shape[1:] if rows else tables[table][index].shape
        for table, rows in zip(requests.table, requests.rows, strict=True)
    ]
    largest = list(shapes[0])
    sizes: list[list[int]] = []
    for dim in dims:
        own = [shape[dim] for shape in shapes]
        largest[dim] = max(own)
        if any(requests.rows):
            own = [size for size, count in zip(own, items, strict=True) for _ in range(count)]
        sizes.append(own)
    goal = tuple(largest)
    lengths = torch.tensor(sizes[0]) if len(dims) == 1 else torch.tensor(sizes).t().contiguous()
    if shapes.count(goal) == len(shapes):
        whole = stack(memory, tables, requests, index)
        padding.add(dims, sizes, [goal[dim] for dim in dims], whole.numel(), whole.numel())
        return whole, lengths
    dtype = DTYPES[tables[requests.table[0]][index].dtype]
    whole = torch.full((sum(items), *goal), value, dtype=dtype)
    size = dtype.itemsize
    source = memory.raw[size]
    target = whole.view(RAW[size]).numpy()
    # Where only the first size varies, an item is a run of bytes before and after padding.
    flat = target.reshape(len(whole), -1) if dims == (0,) else None
    at = real = 0
    for table, count, offset, shape in zip(requests.table, items, requests.offset, shapes, strict=True):
        elements = 1
        for have in shape:
            elements *= have
        begin = (offset + tables[table][index].offset) // size
        if flat is not None and count == 1:
            flat[at, :elements] = source[begin : begin + elements]
        else:
            where = (slice(at, at + count), *(slice(have) for have in shape))
            target[where] = source[begin : begin + count * elements].reshape((count, *shape))
        at += count
        real += count * elements
    padding.add(dims, sizes, [goal[dim] for dim in dims], real, whole.numel())
    return whole, lengths


def pad_items(items: list[torch.Tensor], value: float, padding: Padding) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors that differ in their first size, padded at the end to the longest; and their lengths."""
    own = [len(item) for item in items]
    whole = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=value)
    padding.add((0,), [own], [whole.shape[1]], sum(item.numel() for item in items), whole.numel())
    return whole, torch.tensor(own)


def listed(memory: Memory, tables: list[Table], requests: Requests, index: int) -> list[torch.Tensor]:
    """Tensor number `index` of every item, as views of the slab."""
    found: list[torch.Tensor] = []
    for table, rows, offset in zip(requests.table, requests.rows, requests.offset, strict=True):
        tensor = tables[table][index]
        view = memory.rows(tensor.dtype, tensor.shape, offset + tensor.offset, 1, tensor.nbytes or 1)[0]
        if rows:
            found.extend(view.unbind(0))
        else:
            found.append(view)
    return found


def batch_of(
    memory: Memory,
    tables: list[Table],
    requests: Requests,
    variable: Mapping[str, tuple[int, ...]],
    pad_with: Mapping[str, float] | None,
    padding: Padding,
) -> dict[str, Any]:
    """Every tensor of the batch by name. Inputs in `variable` are padded, with `<name>.lengths` beside them, or listed
    when `pad_with` is None."""
    batch: dict[str, Any] = {}
    for index, tensor in enumerate(tables[requests.table[0]]):
        name = tensor.name
        dims = variable.get(name)
        if dims is None:
            batch[name] = stack(memory, tables, requests, index)
        elif pad_with is None:
            batch[name] = listed(memory, tables, requests, index)
        else:
            whole, lengths = pad(memory, tables, requests, index, dims, pad_with[name], padding)
            batch[name], batch[name + ".lengths"] = whole, lengths
    return batch


def values(memory: Memory, table: Table, rows: int, offset: int, nbytes: int) -> dict[str, Any]:
    """The values of one request. Raises InvalidArgument."""
    start = offset + (aligned(table[-1].offset + table[-1].nbytes) if table else 0)
    found = unpack_values(memory.region.view[start : offset + nbytes])
    if rows:
        for name, value in found.items():
            if not isinstance(value, list) or len(value) != rows:
                actual = len(value) if isinstance(value, list) else type(value).__name__
                raise make("ROWS", field=name, expected=rows, actual=actual)
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
            return make("INPUT_MISSING", model=model, field=spec.name, expected=spec.sentence)
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
