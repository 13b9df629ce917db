"""At the door: whether a request can be served at all, decided from its header alone, before its payload is read.

What is decided for one header holds for every request with the same header, so it is decided once and remembered.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Hashable
from typing import Any

from inferd.errors import RequestError, make
from inferd.serve.meters import Meters
from inferd.wire.messages import Infer
from inferd.wire.tensor import MAX_DIM, Spec, Tensor, aligned
from inferd.wire.values import MAX_VALUES_BYTES

MAX_REMEMBERED_PLANS = 4096
MAX_REMEMBERED_LANES = 4096

# Lengths up to this one share a bucket: what they waste is small whatever it is in per cent.
SMALLEST_BUCKET = 16
# Three buckets to an octave, 1.26 apart: a batch is padded to its longest row, so lengths that are spread evenly over
# a bucket waste 10 % (at 1.41 apart it would be 15 %).
BUCKETS_PER_OCTAVE = 3


def _bucket_sizes() -> list[int]:
    sizes = []
    size = float(SMALLEST_BUCKET)
    while size <= MAX_DIM:
        sizes.append(round(size))
        size *= 2 ** (1 / BUCKETS_PER_OCTAVE)
    return [*sizes, MAX_DIM] if sizes[-1] < MAX_DIM else sizes


BUCKETS = _bucket_sizes()
# Larger payloads have chunks of their own in the slab anyway.
MAX_SHARED_SLOT_BYTES = 512 * 1024


def bucket(length: int) -> int:
    """The size of the bucket that `length` falls into: the smallest of BUCKETS that holds it."""
    return BUCKETS[bisect.bisect_left(BUCKETS, length)]


class Model:
    """What the loop process knows of a model: what its workers said when they were ready.

    `latency` is what its batches took in the warm-up, (rows, seconds) each, of items of `latency_elements` elements;
    `objective_s` the time in which it wants its requests answered, or None; `batch_sizes` are the only ones it
    computes, or none. `replaced` is set when it is served no longer, or another one under its name.
    """

    __slots__ = (
        "batch_sizes",
        "description",
        "index",
        "inputs",
        "latency",
        "latency_elements",
        "length_buckets",
        "max_batch_size",
        "meters",
        "name",
        "objective_s",
        "padding",
        "preprocess_s",
        "ragged",
        "replaced",
        "version",
    )

    def __init__(self, index: int, description: dict[str, Any]) -> None:
        self.index = index
        self.replaced = False
        self.description = description
        self.name: str = description["name"]
        self.max_batch_size: int = description["max_batch_size"]
        declared = description["inputs"]
        self.inputs: dict[str, Spec] | None = None
        if declared is not None:
            self.inputs = {name: Spec(name, dtype, tuple(shape)) for name, dtype, shape in declared}
        self.version: str | None = description.get("version")
        objective_ms = description.get("objective_ms")
        self.objective_s: float | None = None if objective_ms is None else objective_ms / 1000
        self.padding = frozenset(description.get("padding", ()))
        self.ragged: bool = description.get("ragged", False)
        self.length_buckets: bool = description.get("length_buckets", False)
        self.latency = [(int(b), float(seconds)) for b, seconds in description.get("latency", ())]
        self.latency_elements: int = description.get("latency_elements", 1)
        self.batch_sizes: tuple[int, ...] = tuple(description.get("batch_sizes") or ())
        self.preprocess_s = 0.0  # what its preprocess takes a row, as last seen; 0 if it has none
        self.meters = Meters()

    def shape_in_lane(self, tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What requests must have in common with an item of `shape` to share a batch: the shape itself, but for the −1
        sizes of an input that is padded (their bucket) or ragged (−1)."""
        if self.inputs is None or not (self.ragged or tensor.name in self.padding):
            return shape
        declared = self.inputs[tensor.name].shape
        if self.ragged:
            return declared
        return tuple(bucket(have) if want == -1 else have for want, have in zip(declared, shape, strict=True))


class Plan:
    """What will be done with requests of one header: with whom they may share a batch, and where their parts lie.

    `weight` is how large one item is, padded to its bucket, if those of the warm-up are 1.
    """

    __slots__ = (
        "_lanes",
        "_shapes",
        "_varies",
        "model",
        "rows",
        "table",
        "tensor_end",
        "values_start",
        "weight",
    )

    def __init__(self, model: Model, header: Infer, shapes: int, elements: int) -> None:
        self.model = model
        self.rows = header.rows
        self.table = [tensor.row() for tensor in header.tensors]
        self.tensor_end = header.tensor_end
        self.values_start = aligned(header.tensor_end)
        self.weight = elements / model.latency_elements
        self._shapes = shapes
        self._varies = bool(model.ragged or model.padding)
        self._lanes: tuple[Hashable, Hashable] = ((model.index, shapes, False), (model.index, shapes, True))

    def lane_of(self, payload_bytes: int, has_values: bool) -> Hashable:
        """With whom a request of this plan may share a batch: a tuple that opens with the model's index.

        Requests of like item shapes share one, whether they come as items or as rows.
        """
        if has_values and self.model.length_buckets:
            length = bucket((payload_bytes - self.values_start) // (self.rows or 1))
            return (self.model.index, self._shapes, True, length)
        return self._lanes[has_values]

    def slot_bytes(self, payload_bytes: int, has_values: bool) -> int:
        """How much of the slab a request should be given: where sizes vary within a lane, that of its bucket, so that
        its rows share chunks instead of opening one for every size."""
        if (self._varies or has_values) and payload_bytes <= MAX_SHARED_SLOT_BYTES:
            return bucket(payload_bytes)
        return payload_bytes


class Door:
    """Turns headers into plans, or into the error that names what is wrong."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self._next_index = 0
        self._plans: dict[Infer, Plan | RequestError] = {}
        # A small number for each combination of names, dtypes and shapes: lanes are hashed several times a request.
        self._shapes: dict[Hashable, int] = {}
        self._next_shapes = 0

    def open(self, descriptions: list[dict[str, Any]], kept: Collection[str] = ()) -> list[Model]:
        """These models are served from here on; those named in `kept` are what they have been. Returns the new ones."""
        before, self.models = self.models, {}
        new: list[Model] = []
        for description in descriptions:
            name = description["name"]
            if name in kept:
                self.models[name] = before[name]
                continue
            model = self.models[name] = Model(self._next_index, description)
            self._next_index += 1
            new.append(model)
            if name in before:
                model.meters = before[name].meters  # what is counted of a name never becomes less
        for model in before.values():
            model.replaced = self.models.get(model.name) is not model
        self._plans.clear()
        return new

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
        if model.inputs is not None:
            problem_found = self._check(model, model.inputs, header)
            if problem_found is not None:
                return problem_found
        first = 1 if header.rows else 0
        elements = 0
        key: list[Hashable] = [model.index]
        for tensor in header.tensors:
            shape = model.shape_in_lane(tensor, tensor.shape[first:])
            key += (tensor.name, tensor.dtype, shape)
            size = 1
            for in_lane, have in zip(shape, tensor.shape[first:], strict=True):
                size *= have if in_lane == -1 else in_lane
            elements += size
        return Plan(model, header, self._number(tuple(key)), max(1, elements))

    def _number(self, key: Hashable) -> int:
        number = self._shapes.get(key)
        if number is None:
            if len(self._shapes) >= MAX_REMEMBERED_LANES:
                self._shapes.clear()  # numbers are not used twice, so nothing is mixed up
                self._plans.clear()
            number = self._shapes[key] = self._next_shapes
            self._next_shapes += 1
        return number

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
                return make("INPUT_MISSING", model=model.name, field=spec.name, expected=spec.sentence)
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
