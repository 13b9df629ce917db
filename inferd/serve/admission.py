"""At the door: whether a request can be served at all, decided from its header alone, before its payload is read.

What is decided for one header holds for every request with the same header, so it is decided once and remembered.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from inferd.errors import RequestError, make
from inferd.wire.messages import Infer
from inferd.wire.tensor import Spec, aligned
from inferd.wire.values import MAX_VALUES_BYTES

MAX_REMEMBERED_PLANS = 4096


class Model:
    """What the loop process knows of a model: what its workers said when they were ready."""

    __slots__ = ("description", "index", "inputs", "max_batch_size", "name", "results", "rows")

    def __init__(self, index: int, description: dict[str, Any]) -> None:
        self.index = index
        self.description = description
        self.name: str = description["name"]
        self.max_batch_size: int = description["max_batch_size"]
        declared = description["inputs"]
        self.inputs: dict[str, Spec] | None = None
        if declared is not None:
            self.inputs = {name: Spec(name, dtype, tuple(shape)) for name, dtype, shape in declared}
        self.results = 0
        self.rows = 0


class Plan:
    """What will be done with requests of one header: with whom they may share a batch, and where their parts lie."""

    __slots__ = ("lane", "model", "rows", "table", "tensor_end", "values_start")

    def __init__(self, model: Model, header: Infer) -> None:
        self.model = model
        self.rows = header.rows
        self.table = [tensor.row() for tensor in header.tensors]
        self.tensor_end = header.tensor_end
        self.values_start = aligned(header.tensor_end)
        first = 1 if header.rows else 0
        # Requests of equal item shapes share a batch, whether they come as items or as rows.
        self.lane: Hashable = (
            model.index,
            tuple((tensor.name, tensor.dtype, tensor.shape[first:]) for tensor in header.tensors),
        )


class Door:
    """Turns headers into plans, or into the error that names what is wrong."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self._plans: dict[Infer, Plan | RequestError] = {}

    def open(self, descriptions: list[dict[str, Any]]) -> None:
        """These models are served."""
        self.models = {d["name"]: Model(index, d) for index, d in enumerate(descriptions)}
        self._plans.clear()

    def plan(self, header: Infer) -> Plan | RequestError:
        """What to do with requests of this header."""
        plan = self._plans.get(header)
        if plan is None:
            if len(self._plans) >= MAX_REMEMBERED_PLANS:
                self._plans.clear()
            plan = self._plans[header] = self._decide(header)
        return plan

    def _decide(self, header: Infer) -> Plan | RequestError:
        model = self.models.get(header.model)
        if model is None:
            return make("MODEL_NOT_FOUND", model=header.model, known=", ".join(sorted(self.models)))
        if header.rows > model.max_batch_size:
            problem = f"is {header.rows}; model {model.name!r} takes at most {model.max_batch_size} rows in a request"
            return make("FIELD_VALUE", field="rows", problem=problem)
        if model.inputs is not None:
            problem_found = self._check(model, model.inputs, header)
            if problem_found is not None:
                return problem_found
        return Plan(model, header)

    def _check(self, model: Model, declared: dict[str, Spec], header: Infer) -> RequestError | None:
        names = set()
        for tensor in header.tensors:
            spec = declared.get(tensor.name)
            names.add(tensor.name)
            if spec is None:
                expected = ", ".join(sorted(declared)) or "none"
                return make("INPUT_UNKNOWN", model=model.name, field=tensor.name, expected=expected)
            if spec.dtype != tensor.dtype:
                return make(
                    "INPUT_DTYPE", field=tensor.name, model=model.name, expected=spec.dtype, actual=tensor.dtype
                )
            shape = tensor.shape[1:] if header.rows else tensor.shape
            if not spec.accepts(shape):
                return make(
                    "INPUT_SHAPE", field=tensor.name, model=model.name, expected=list(spec.shape), actual=list(shape)
                )
        for spec in declared.values():
            if spec.is_tensor and spec.name not in names:
                return make("INPUT_MISSING", model=model.name, field=spec.name)
        return None


def check_payload(plan: Plan, payload_bytes: int, has_values: bool) -> RequestError | None:
    """Whether the payload has the size that the table says; None when it has."""
    if not has_values:
        if payload_bytes != plan.tensor_end:
            problem = f"has {payload_bytes} bytes and its tensors end at {plan.tensor_end}"
            return make("FIELD_VALUE", field="payload", problem=problem)
        return None
    values_bytes = payload_bytes - plan.values_start
    if values_bytes <= 0:
        return make("VALUES", problem=f"is announced and missing: the payload ends at byte {payload_bytes}")
    if values_bytes > MAX_VALUES_BYTES:
        return make("VALUES", problem=f"has {values_bytes} bytes, at most {MAX_VALUES_BYTES} are allowed")
    return None
