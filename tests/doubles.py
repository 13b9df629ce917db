"""Models that behave in a way a test needs. Served by path: `tests/doubles.py:Name`."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import threading
import time
from typing import Any

import torch
from torch import nn

from inferd import errors


class Double:
    """Doubles a tensor."""

    inputs = {"x": ("FP32", (-1,))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"y": batch["x"] * 2, "rows": torch.full((len(batch["x"]), 1), len(batch["x"]), dtype=torch.int64)}


class Nonce:
    """Answers with as many bytes as the request asks for, generated from its nonce: a mixed-up answer shows."""

    inputs = {"nonce": ("STRING", ()), "size": ("NUMBER", ())}

    def preprocess(self, nonce: str, size: int) -> tuple[str, int]:
        return nonce, size

    def forward(self, batch: list[tuple[str, int]]) -> list[dict[str, Any]]:
        return [{"data": expected(nonce, size), "nonce": nonce} for nonce, size in batch]


def expected(nonce: str, size: int) -> torch.Tensor:
    """The answer of Nonce: `size` bytes that only this nonce leads to."""
    seed = hashlib.sha256(nonce.encode()).digest()
    block = torch.frombuffer(bytearray(seed), dtype=torch.uint8)
    return block.repeat(-(-size // len(seed)))[:size].clone()


class Hash:
    """Answers with a hash of each row of a tensor of any shape and dtype."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        digests = [hashlib.blake2b(row.numpy().tobytes(), digest_size=8).digest() for row in x]
        return {"digest": torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.uint8).view(len(x), 8)}


class Picky:
    """Raises on any batch that holds a negative number; answers with the batch's size."""

    inputs = {"x": ("FP32", (1,))}
    max_batch_size = 64

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.pause_s)
        if (batch["x"] < 0).any():
            raise ValueError("a secret detail about negative numbers")
        return {"y": batch["x"] + 1}


class Deadly:
    """Kills its process on a magic number: 1 by a signal, 2 by a wild pointer, 3 by os._exit. On 4 it hangs."""

    inputs = {"x": ("FP32", (1,))}

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.pause_s)
        numbers = batch["x"].flatten().tolist()
        if 1.0 in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if 2.0 in numbers:
            ctypes.string_at(0)
        if 3.0 in numbers:
            os._exit(0)
        if 4.0 in numbers:
            time.sleep(3600)
        return {"y": batch["x"]}


class InPlace:
    """Writes into its inputs, which a model should not, and then raises on a negative number."""

    inputs = {"x": ("FP32", (1,))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        x += 1
        if (x < 0).any():
            raise ValueError("negative")
        return {"y": x}


class InPlacePrepared:
    """Writes into its inputs in preprocess, and then raises on a negative number."""

    inputs = {"x": ("FP32", (16,))}
    warm_up = False

    def preprocess(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x += 1
        return {"x": x}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if (batch["x"] < 0).any():
            raise ValueError("negative")
        return {"y": batch["x"] * 1}


class Short:
    """Returns one row too few whenever it is given two or more."""

    inputs = {"x": ("FP32", (1,))}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        return {"y": x if len(x) == 1 else x[:-1]}


class Unsendable:
    """Returns something the wire has no word for."""

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        return [{"thing": object()} for _ in batch["x"]]


class Counted:
    """A device that sleeps, and says how many rows it has computed so far, this batch included."""

    inputs = {"x": ("FP32", (1,))}
    max_batch_size = 64
    warm_up = False

    def __init__(self) -> None:
        self.rows = 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = len(batch["x"])
        time.sleep(0.005 + 0.001 * rows)
        self.rows += rows
        return {"y": batch["x"], "computed": torch.full((rows, 1), self.rows, dtype=torch.int64)}


class Slow:
    """Takes a while, and says so. Nothing waits for its warm-up."""

    inputs = {"x": ("FP32", (1,))}
    warm_up = False

    def __init__(self, seconds: float = 0.2) -> None:
        self.seconds = seconds

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"y": batch["x"]}


class Hang:
    """Never ends what it begins."""

    inputs = {"x": ("FP32", (1,))}
    warm_up = False

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        threading.Event().wait()
        return batch


class Ahead:
    """Answers with where the preprocess of each row ran and how often, after a while; some words are special."""

    inputs = {"word": ("STRING", ())}

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.times: dict[str, int] = {}

    def preprocess(self, word: str) -> tuple[str, str]:
        if word == "wrong":
            raise ValueError(word)
        if word == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        self.times[word] = self.times.get(word, 0) + 1
        return word, threading.current_thread().name

    def forward(self, batch: list[tuple[str, str]]) -> list[dict[str, Any]]:
        time.sleep(self.seconds)
        return [{"word": word, "thread": thread, "times": self.times[word]} for word, thread in batch]


class Words:
    """Text in, its words and their number out: values both ways, with every stage in use."""

    inputs = {"text": ("STRING", ())}
    example = {"text": "an example"}

    def load(self, device: torch.device) -> None:
        self.device = device

    def preprocess(self, text: str) -> dict[str, torch.Tensor]:
        if "\0" in text:
            raise ValueError("no NUL, please")
        return {"length": torch.tensor(float(len(text.split())))}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"count": batch["length"] * 1}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        count = int(outputs["count"])
        return {"count": count, "even": count % 2 == 0}


def mlp() -> nn.Module:
    """A plain module from a plain function."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


class Two(nn.Module):
    """A module that takes two tensors by name."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class Example:
    """Declares nothing, but shows an example."""

    example = {"x": torch.zeros(4), "label": "text"}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"sum": batch["x"].sum(1), "label": batch["label"]}


class Sums:
    """Sequences of any length, padded: the sum and the running sums of each, which padding must not change."""

    inputs = {"x": ("FP32", (-1,)), "scale": ("FP32", ())}
    outputs = {"total": ("FP32", ()), "running": ("FP32", (-1,)), "length": ("INT64", ())}
    padding = {"x": 1e6}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x, lengths = batch["x"], batch["x.lengths"]
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        x = torch.where(mask, x, 0.0) * batch["scale"][:, None]
        return {"total": x.sum(1), "running": x.cumsum(1), "length": lengths}


class Pixels:
    """Pictures of any height and width, padded: each pixel plus one, and the picture's own size."""

    inputs = {"image": ("UINT8", (-1, -1, 3))}
    outputs = {"brighter": ("UINT8", (-1, -1, 3)), "size": ("INT64", (2,))}
    padding = {"image": 7}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"brighter": batch["image"] + 1, "size": batch["image.lengths"]}


class Letters:
    """Text to tensors of its length in preprocess, padded; each letter and their number come back."""

    inputs = {"text": ("STRING", ())}
    outputs = {"codes": ("INT64", (-1,)), "length": ("INT64", ())}
    example = {"text": "an example"}
    padding = {"codes": -1}
    length_buckets = True

    def preprocess(self, text: str) -> dict[str, torch.Tensor]:
        return {"codes": torch.tensor([ord(letter) for letter in text], dtype=torch.int64)}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"codes": batch["codes"], "length": batch["codes.lengths"]}

    def postprocess(self, outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {"text": "".join(map(chr, outputs["codes"].tolist())), "length": int(outputs["length"])}


class Lists:
    """Takes sequences of any length as they are, one tensor each."""

    inputs = {"x": ("FP32", (-1,))}
    ragged = True

    def forward(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"total": x.sum(), "twice": x * 2} for x in batch["x"]]


class Sized:
    """Runs at few batch sizes, and says at which it ran."""

    inputs = {"x": ("FP32", (-1,))}
    batch_sizes = (8, 2, 4)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        return {"y": x * 2, "ran": torch.full((len(x),), len(x))}


class Hungry:
    """Asks for more memory than there is when a batch has more than `rows` rows."""

    inputs = {"x": ("FP32", (1,))}
    max_batch_size = 64

    def __init__(self, rows: int = 4) -> None:
        self.rows = rows

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if len(batch["x"]) > self.rows:
            torch.empty(1 << 50, dtype=torch.uint8)
        return {"y": batch["x"]}


class Leaky:
    """Raises inferd's own errors with words of its own, in every stage."""

    inputs = {"stage": ("STRING", ())}
    warm_up = False

    def preprocess(self, stage: str) -> str:
        if stage == "preprocess":
            raise errors.InvalidArgument("a secret of preprocess", reason="ROWS")
        return stage

    def forward(self, batch: list[str]) -> list[Any]:
        if "forward" in batch:
            raise errors.InvalidArgument("a secret of forward", reason="VALUES")
        return [{"stage": stage} for stage in batch]

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        if outputs["stage"] == "postprocess":
            raise errors.InvalidArgument("a secret of postprocess", reason="TENSOR")
        return outputs
