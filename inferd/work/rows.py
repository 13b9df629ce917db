"""Rows: stacked to a batch, padded, cut back, and joined again. Nothing here knows of memory that is shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inferd.work import inputs, outputs
from inferd.work.inputs import Padding
from inferd.work.loader import Served
from inferd.work.outputs import OutputError


def kind(item: Any, served: Served) -> Any:
    """What preprocess results must have in common to be stacked; None for what is not stacked but listed."""
    if not isinstance(item, dict) or not item:
        return None
    key: list[tuple[str, str, tuple[int, ...]]] = []
    for name, value in item.items():
        if _is_array(value):
            shape = tuple(value.shape)
            if shape and served.ragged:
                shape = (-1,)
            elif shape and name in served.padding:
                shape = (-1, *shape[1:])
            key.append((name, str(value.dtype), shape))
        elif isinstance(value, bool | int | float):
            key.append((name, type(value).__name__, ()))
        else:
            key.append((name, "", ()))
    return tuple(key)


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or hasattr(value, "__array__")


def collate(items: list[dict[str, Any]], served: Served, padding: Padding) -> dict[str, Any]:
    """Dicts of one kind: tensors, arrays or numbers stacked to [rows, …], those in the model's padding padded to the
    longest, those of a ragged model listed; and so is everything else."""
    batch: dict[str, Any] = {}
    for name, first in items[0].items():
        if not (_is_array(first) or isinstance(first, bool | int | float)):
            batch[name] = [item[name] for item in items]
            continue
        column = [torch.as_tensor(item[name]) for item in items]
        if column[0].ndim and served.ragged:
            batch[name] = column
        elif column[0].ndim and name in served.padding:
            batch[name], batch[name + ".lengths"] = inputs.pad_items(column, served.padding[name], padding)
        else:
            batch[name] = torch.stack(column)
    return batch


def cut_back(found: dict[str, Any], cuts: dict[str, list[tuple[int, list[int]]]]) -> dict[str, Any]:
    """The columns with their cuts made: those that are cut become lists."""
    columns = dict(found)
    for name, made in cuts.items():
        rows = list(found[name].cpu().unbind(0))
        for dim, own in made:
            rows = [
                row if size == row.shape[dim] else row.narrow(dim, 0, size) for row, size in zip(rows, own, strict=True)
            ]
        columns[name] = rows
    return columns


def each(column: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A column with `change` made to its tensors."""
    if isinstance(column, torch.Tensor):
        return change(column)
    return [change(value) if isinstance(value, torch.Tensor) else value for value in column]


def part(batch: Any, start: int, end: int) -> Any:
    """Some rows of a batch."""
    if isinstance(batch, dict):
        return {name: column[start:end] for name, column in batch.items()}
    return batch[start:end]


def fill_up(batch: Any, rows: int) -> Any:
    """The batch with `rows` more, which are copies of its first."""
    if not rows:
        return batch
    if not isinstance(batch, dict):
        return [*batch, *batch[:1] * rows]
    return {
        name: torch.cat([column, column[:1].expand(rows, *column.shape[1:])])
        if isinstance(column, torch.Tensor)
        else [*column, *column[:1] * rows]
        for name, column in batch.items()
    }


def concatenate(pieces: list[dict[str, Any] | list[Any]]) -> dict[str, Any] | list[Any]:
    """What the pieces of a batch led to, as if it had been run at once."""
    first = pieces[0]
    if isinstance(first, list):
        joined: list[Any] = []
        for piece in pieces:
            if not isinstance(piece, list):
                raise OutputError("forward must return the same kind of thing for every batch")
            joined += piece
        return joined
    columns: dict[str, Any] = {}
    for name in first:
        parts = [piece[name] for piece in pieces if isinstance(piece, dict) and name in piece]
        if len(parts) != len(pieces) or any(isinstance(piece, dict) and len(piece) != len(first) for piece in pieces):
            raise OutputError("forward must return the same names for every batch")
        alike = all(
            isinstance(part, torch.Tensor) and (part.dtype, part.shape[1:]) == (parts[0].dtype, parts[0].shape[1:])
            for part in parts
        )
        columns[name] = torch.cat(parts) if alike else [row for part in parts for row in part]
    return columns


def stacked(name: str, column: Any) -> Any:
    """The column of one request: tensors of its rows as one tensor, values in a list."""
    if isinstance(column, torch.Tensor):
        return column
    column = [outputs.without_numpy(row) for row in column]
    if not any(isinstance(row, torch.Tensor) for row in column):
        return column
    if any(not isinstance(row, torch.Tensor) or row.shape != column[0].shape for row in column):
        raise OutputError(f"output {name!r} has a different shape in each row; a request of many rows needs one")
    return torch.stack(column)


def join(results: list[Any]) -> dict[str, Any]:
    """The results of a request of many rows: tensors stacked, values in lists."""
    joined: dict[str, Any] = {}
    sorted_out = [outputs.sort_out(result) for result in results]
    for tensors, values in sorted_out:
        if tensors.keys() != sorted_out[0][0].keys() or values.keys() != sorted_out[0][1].keys():
            raise OutputError("the rows of one request must have results of the same names")
    for name in sorted_out[0][0]:
        column = [tensors[name] for tensors, _ in sorted_out]
        if any(tensor.shape != column[0].shape for tensor in column):
            raise OutputError(f"output {name!r} has a different shape in each row; a request of many rows needs one")
        joined[name] = torch.stack(column)
    for name in sorted_out[0][1]:
        joined[name] = [values[name] for _, values in sorted_out]
    return joined
