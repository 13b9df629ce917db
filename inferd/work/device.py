"""Which device a worker computes on, and the shared memory as torch sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from inferd.errors import DeviceUnavailable
from inferd.memory import Region

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
# For copying, a dtype is only so many bytes: numpy knows no bf16, and cuts slices ten times faster than torch.
RAW: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Of the matrices of `probe`: their numbers are exact in TF32 too, and their product's sum in float32.
PROBE_SIZE = 16


def pick(wanted: str) -> torch.device:
    """The device for `cpu`, `cuda`, `cuda:N`, or `auto` (a GPU if there is one). Raises DeviceUnavailable.

    A GPU that was asked for by name is never replaced by the CPU: an operator who pays for one wants to know.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DeviceUnavailable(f"{wanted!r} is no device; use cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise DeviceUnavailable(
                f"{wanted} was asked for and no CUDA device can be used: check nvidia-smi and that this torch "
                f"({torch.__version__}) is a CUDA build, or serve with --device cpu"
            )
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            raise DeviceUnavailable(f"{wanted} was asked for and there are {count} CUDA devices")
    elif device.type != "cpu":
        raise DeviceUnavailable(f"{wanted!r} is not supported; use cpu, cuda, cuda:N or auto")
    return device


def probe(device: torch.device) -> None:
    """Multiplies two matrices whose product is known: after an error a GPU may answer everything with errors, or with
    nonsense. Raises DeviceUnavailable.
    """
    rows = torch.arange(PROBE_SIZE, dtype=torch.float32)
    try:
        matrix = (rows[:, None] + rows[None, :]).to(device)
        total = float((matrix @ matrix).sum().item())
    except RuntimeError as error:
        raise DeviceUnavailable(f"{device} cannot multiply two matrices: {error}") from error
    # The sum over i, j, k of (i + k)·(k + j), in whole numbers that float32 holds exactly.
    numbers = range(PROBE_SIZE)
    sums = [sum(i + k for i in numbers) for k in numbers]
    expected = float(sum(s * s for s in sums))
    if total != expected:
        raise DeviceUnavailable(f"{device} computes wrong: the sum of a product is {total:g} and must be {expected:g}")


class Memory:
    """A shared region as torch tensors, one of each dtype over the same bytes.

    On a CUDA device the region is registered once, so that transfers are DMA without a copy on the host.
    """

    def __init__(self, region: Region, device: torch.device) -> None:
        self.region = region
        self.bytes = torch.frombuffer(region.view, dtype=torch.uint8)
        self._typed = {name: self.bytes.view(dtype) for name, dtype in DTYPES.items()}
        # The same bytes as numpy sees them, as whole numbers of 1, 2, 4 and 8 bytes.
        self.raw: dict[int, np.ndarray[Any, Any]] = {size: self.bytes.view(kind).numpy() for size, kind in RAW.items()}
        self.device = device
        if device.type == "cuda":
            region.ensure(region.nbytes)  # only pages that exist can be registered
            torch.cuda.init()  # type: ignore[no-untyped-call]
            status = torch.cuda.cudart().cudaHostRegister(  # type: ignore[no-untyped-call]
                self.bytes.data_ptr(), region.nbytes, 0
            )
            if int(status) != 0:
                raise DeviceUnavailable(f"cudaHostRegister of {region.nbytes} bytes failed with error {int(status)}")

    def rows(self, dtype: str, shape: tuple[int, ...], offset: int, rows: int, stride_bytes: int) -> torch.Tensor:
        """A view of `rows` items of `shape` that start at `offset` and are `stride_bytes` apart: [rows, *shape]."""
        base = self._typed[dtype]
        item_bytes = base.itemsize
        strides = []
        step = 1
        for dim in reversed(shape):
            strides.append(step)
            step *= dim
        strides.append(stride_bytes // item_bytes)
        strides.reverse()
        return base.as_strided((rows, *shape), strides, offset // item_bytes)

    @property
    def version(self) -> int:
        """Changes when somebody writes through a view of this memory; tells a model that works in place."""
        return self.bytes._version  # shared by all views
