"""How long batches of a model take, measured before the first request: the scheduler plans with it from the start."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from inferd.work.device import DTYPES
from inferd.work.loader import Served
from inferd.work.outputs import sort_out

# The time for one model; what is larger than what fits is learned from real batches.
BUDGET_S = 2.0
# A size that varies is made up as this.
MADE_UP_SIZE = 16


class Stop(Exception):
    """The model cannot run at this size."""


def sizes(max_batch_size: int, batch_sizes: tuple[int, ...]) -> list[int]:
    """The batch sizes to measure: those that the model allows, or powers of two and the largest."""
    if batch_sizes:
        return list(batch_sizes)
    found = [1]
    while found[-1] * 2 <= max_batch_size:
        found.append(found[-1] * 2)
    return found if found[-1] == max_batch_size else [*found, max_batch_size]


def measure(
    max_batch_size: int,
    batch_sizes: tuple[int, ...],
    trial: Callable[[int], float] | None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[int, float]]:
    """(rows, seconds) for each size, the second of two trials: the first may compile, choose and allocate."""
    found: list[tuple[int, float]] = []
    if trial is None:
        return found
    began = clock()
    for rows in sizes(max_batch_size, batch_sizes):
        try:
            trial(rows)
            found.append((rows, trial(rows)))
        except Stop:
            break
        if clock() - began > BUDGET_S:
            break
    return found


def made_up(served: Served) -> Mapping[str, Any] | None:
    """An item of zeros for a model whose inputs are all declared as tensors; None for another."""
    if not served.inputs or served.takes_values:
        return None
    return {
        spec.name: torch.zeros([MADE_UP_SIZE if size == -1 else size for size in spec.shape], dtype=DTYPES[spec.dtype])
        for spec in served.inputs
    }


def batch_of(served: Served, item: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The item `rows` times, as real requests of it would come out of the slab."""
    tensors, values = sort_out(item)
    batch: dict[str, Any] = {}
    for name, tensor in tensors.items():
        dims = served.variable.get(name)
        if dims is not None and served.as_items:
            batch[name] = [tensor] * rows
            continue
        batch[name] = tensor.unsqueeze(0).repeat(rows, *[1] * tensor.ndim)
        if dims is not None:
            own = torch.tensor([tensor.shape[dim] for dim in dims]).repeat(rows, 1)
            batch[name + ".lengths"] = own[:, 0].contiguous() if len(dims) == 1 else own
    batch.update({name: [value] * rows for name, value in values.items()})
    return batch
