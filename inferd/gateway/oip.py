"""The Open Inference Protocol, version 2, without HTTP: a model's signature in its terms, and what a request is.

oip_request.py reads bodies, oip_answer.py writes them.

A body is JSON, or, with the header `Inference-Header-Content-Length: N`, N bytes of JSON and behind them the bytes of
those tensors that say `binary_data_size`, in their order.

The protocol knows tensors only. So a model's values (docs/PROTOCOL.md) travel as elements of dtype BYTES: a STRING as
its text, every other kind as JSON text. And it expects a batch dimension, so what metadata announces leads with −1; a
request whose tensors have it is one of n rows, a request whose tensors have the shape of one item is one item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inferd.wire.tensor import Spec

BYTES = "BYTES"

Array = np.ndarray[Any, Any]
Buffer = bytes | memoryview


class Signature:
    """A model as WELCOME describes it. `inputs` and `outputs` are None where the model does not say."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.name: str = description["name"]
        self.version = str(description.get("version") or "1")
        self.max_batch_size: int = description.get("max_batch_size", 0)
        self.inputs = _specs(description.get("inputs"))
        self.outputs = _specs(description.get("outputs"))

    def metadata(self) -> dict[str, Any]:
        """The answer to GET /v2/models/{model}."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "inferd",
            "inputs": [announced(spec) for spec in (self.inputs or {}).values()],
            "outputs": [announced(spec) for spec in (self.outputs or {}).values()],
        }

    def config(self) -> dict[str, Any]:
        """The answer to Triton's GET /v2/models/{model}/config: what its clients look up the batch size in."""

        def fields(specs: Mapping[str, Spec] | None) -> list[dict[str, Any]]:
            return [
                {"name": spec.name, "data_type": _triton_type(spec), "dims": list(spec.shape) or [1]}
                for spec in (specs or {}).values()
            ]

        return {
            "name": self.name,
            "platform": "inferd",
            "backend": "inferd",
            "max_batch_size": self.max_batch_size,
            "input": fields(self.inputs),
            "output": fields(self.outputs),
        }


def _specs(rows: Sequence[Sequence[Any]] | None) -> dict[str, Spec] | None:
    return None if rows is None else {name: Spec(name, dtype, tuple(shape)) for name, dtype, shape in rows}


def announced(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype if spec.is_tensor else BYTES, "shape": [-1, *spec.shape]}


def _triton_type(spec: Spec) -> str:
    return f"TYPE_{spec.dtype}" if spec.is_tensor else "TYPE_STRING"


@dataclass(slots=True)
class Asked:
    """A request in the client's terms. `batch` says that inputs lead with their rows. `wanted` are the names of the
    outputs that were asked for (None: all), `binary` says which of them go as bytes, `binary_rest` whether the others
    do."""

    inputs: dict[str, Any]
    batch: bool
    id: str | None = None
    wanted: list[str] | None = None
    binary: dict[str, bool] = field(default_factory=dict)
    binary_rest: bool = False
    timeout_ms: float | None = None
    priority: str | None = None
    supersede: str | None = None
    timing: bool = False
