"""The model of the fault tests: an answer that only its own request can have, and every way to misbehave.

Served by path: `tests/faults/models.py:Told`. A request is one tensor `x` of bytes: what it is to do, the request's id,
and a nonce (`body`); the answer is a hash of all of it, so a mixed-up answer shows.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import time
from typing import Any

import torch

# The first byte of a request: what it does to its worker.
NOTHING, KILL, SEGFAULT, EXIT, SLEEP, HOLD_GIL, BREAK_DEVICE, ALLOCATE, RAISE, FILL, GROW = range(11)

DIGEST_BYTES = 16
# So much that a worker whose address space is bounded cannot have it; nobody touches it, so no other minds.
TOO_MUCH_BYTES = 1 << 34
# What a row that fills memory touches, where a cgroup gives less.
FILL_BYTES = 1 << 30


def digest(x: bytes) -> bytes:
    """What the model answers to the bytes `x`."""
    return hashlib.blake2b(x, digest_size=DIGEST_BYTES).digest()


class Told:
    """Answers with the digest of each row, repeated to `reply_bytes`, after `pause_s` and `pause_per_row_s` a batch.

    A row's first byte may tell it to harm its process first. While the file `fail_load` exists, loading kills the
    process; whoever finds the file `break_once` removes it and finds the device broken; `memory_fraction` is how much
    of a GPU's memory there is.
    """

    outputs = {"digest": ("UINT8", (-1,))}

    def __init__(
        self,
        pause_s: float = 0.0,
        pause_per_row_s: float = 0.0,
        size: int = 64,
        reply_bytes: int = DIGEST_BYTES,
        max_batch_size: int = 64,
        warm_up: bool = True,
        fail_load: str = "",
        break_once: str = "",
        memory_fraction: float = 0.0,
    ) -> None:
        self.inputs = {"x": ("UINT8", (size,))}
        self.pause_s = pause_s
        self.pause_per_row_s = pause_per_row_s
        self.repeats = -(-reply_bytes // DIGEST_BYTES)
        self.max_batch_size = max_batch_size
        self.warm_up = warm_up
        self.fail_load = fail_load
        self.break_once = break_once
        self.memory_fraction = memory_fraction

    def load(self, device: torch.device) -> None:
        """Kills the process instead when it is told so by a file."""
        self.device = device
        if self.memory_fraction:
            torch.cuda.set_per_process_memory_fraction(self.memory_fraction, device)
        if self.fail_load and os.path.exists(self.fail_load):
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One row of `reply_bytes` for each row of x."""
        x = batch["x"]
        pause_s = self.pause_s + self.pause_per_row_s * len(x)
        if pause_s:
            time.sleep(pause_s)
        if self.break_once and os.path.exists(self.break_once):
            os.unlink(self.break_once)
            misbehave(BREAK_DEVICE, self.device)
        acts = x[:, 0].tolist()
        for act in set(acts):
            misbehave(act, self.device)
        if GROW in acts:
            self._grow(acts.count(GROW))
        answers = b"".join(digest(row.tobytes()) * self.repeats for row in x.cpu().numpy())
        return {"digest": torch.frombuffer(bytearray(answers), dtype=torch.uint8).view(len(x), -1)}

    def _grow(self, rows: int) -> None:
        """Takes memory on the GPU for each row: two have what they need, three have not."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.empty(int(0.4 * self.memory_fraction * total) * rows, dtype=torch.uint8, device=self.device)


class ToldAhead(Told):
    """Told, with a preprocess in which its rows misbehave: beside the batch before, when there is one."""

    def preprocess(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Does what the row says, and lets nobody do it again."""
        misbehave(int(x[0]), self.device)
        return {"x": x}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As Told, whose rows have done their worst."""
        time.sleep(self.pause_s)
        answers = b"".join(digest(row.tobytes()) * self.repeats for row in batch["x"].cpu().numpy())
        return {"digest": torch.frombuffer(bytearray(answers), dtype=torch.uint8).view(len(batch["x"]), -1)}


def misbehave(act: int, device: torch.device) -> None:
    """Does to this process what a request's first byte says."""
    if act == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == SEGFAULT:
        ctypes.string_at(0)
    elif act == EXIT:
        os._exit(0)
    elif act == SLEEP:
        time.sleep(3600)
    elif act == HOLD_GIL:
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the lock while it calls
    elif act == BREAK_DEVICE and device.type == "cuda":
        torch.zeros(1, device=device)[torch.tensor([1 << 20], device=device)].sum().item()
    elif act == BREAK_DEVICE:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered (made up by a test)")
    elif act == ALLOCATE:
        torch.empty(TOO_MUCH_BYTES << (6 if device.type == "cuda" else 0), dtype=torch.uint8, device=device)
    elif act == FILL:
        torch.zeros(FILL_BYTES, dtype=torch.uint8)[:: resource.getpagesize()] = 1
    elif act == RAISE:
        raise ValueError("a row asked for it")
