"""What `inferd bench` sends: a model's inputs, given or made up, packed into frames once for all requests."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from inferd.cli.common import type_text
from inferd.wire.tensor import ITEM_BYTES, Spec

VARIABLE_SIZE = 16  # for a dimension that a model leaves open
SMALL_INTEGERS = 8  # they index tables of any model

SHAPE = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=([A-Z0-9]+)\[([0-9, ]*)\]")
SENTENCES = (
    "Ada Lovelace met Charles Babbage in London in 1833.",
    "The meeting starts at nine, and nobody has read the report.",
    "Grace Hopper joined the Navy in December 1943 and worked on the Mark I at Harvard University.",
    "Rain is likely.",
    "In March 1905 Albert Einstein, then a clerk at the patent office in Bern, sent a paper to Leipzig.",
    "Please send two boxes of paper to the third floor before Friday, together with the invoice.",
    "Marie Curie and Pierre Curie worked in Paris until 1906.",
    "Most of what was said that evening was forgotten by the next morning, which was for the best.",
)


def make_frames(
    served: Sequence[dict[str, Any]],
    description: dict[str, Any],
    inputs: Sequence[str],
    shapes: Sequence[str],
    timeout_ms: float,
) -> tuple[str, list[bytes]]:
    """The requests as frames, to be sent in turn, and what they are in words."""
    from inferd_client.codec import split

    from inferd.cli.inputs import Inputs

    name = str(description["name"])
    given: dict[str, Any] = {}
    if inputs:
        given, _ = Inputs(served, name, sys.stdin.read).parse(inputs)
    tensors = {spec.name: spec for spec in map(_parse_shape, shapes)}
    declared = description.get("inputs")
    if declared is None and not given and not tensors:
        tensors = {"x": Spec("x", "FP32", (16,))}
    texts: list[str] = []
    for spec in [Spec(n, dtype, tuple(shape)) for n, dtype, shape in declared or ()]:
        if spec.name in given or spec.name in tensors:
            continue
        if spec.is_tensor:
            shape = tuple(VARIABLE_SIZE if size < 0 else size for size in spec.shape)
            tensors[spec.name] = Spec(spec.name, spec.dtype, shape)
        elif spec.dtype in ("STRING", "ANY"):
            texts.append(spec.name)
        else:
            given[spec.name] = {"NUMBER": 1, "BOOLEAN": True, "LIST": [], "MAP": {}}[spec.dtype]
    rows, data, values = split(given)
    rows += [(spec.name, spec.dtype, spec.shape) for spec in tensors.values()]
    data += [memoryview(_random_bytes(spec)) for spec in tensors.values()]
    frames = [
        _frame(name, rows, data, {**values, **dict.fromkeys(texts, sentence)}, timeout_ms)
        for sentence in (SENTENCES if texts else ("",))
    ]
    parts = [f"{n}={type_text(dtype, shape)}" for n, dtype, shape in rows]
    parts += [f"{name}=STRING" for name in texts] + list(values)
    return f"{name} {', '.join(parts)}".strip(), frames


def _frame(
    model: str, rows: list[Any], data: Sequence[memoryview | None], values: dict[str, Any], timeout_ms: float
) -> bytes:
    from inferd_client.codec import Plan, assemble

    from inferd.wire import frame as f

    plan = Plan(model, 0, rows)
    pieces, nbytes = assemble(plan.table, plan.tensor_end, list(data), values)
    header = plan.header(math.ceil(timeout_ms))
    return f.pack_prefix(f.INFER, 0, len(header), nbytes, f.HAS_VALUES if values else 0) + header + b"".join(pieces)


def _parse_shape(text: str) -> Spec:
    match = SHAPE.fullmatch(text)
    if match is None or match[2] not in ITEM_BYTES:
        raise click.UsageError(f"--shape {text}: write NAME=DTYPE[SIZES], such as x=FP32[16]; {', '.join(ITEM_BYTES)}")
    return Spec(match[1], match[2], tuple(int(size) for size in match[3].split(",") if size.strip()))


def _random_bytes(spec: Spec) -> bytes:
    import numpy
    from inferd_client.codec import NUMPY_DTYPES

    draw = numpy.random.default_rng(0)
    if spec.dtype == "BF16":
        # numpy has none: the upper half of a float32.
        wide = draw.standard_normal(spec.shape, numpy.float32).view(numpy.uint32) >> 16
        return wide.astype("<u2").tobytes()
    dtype = NUMPY_DTYPES[spec.dtype]
    if spec.dtype.startswith("FP"):
        return draw.standard_normal(spec.shape).astype(dtype).tobytes()
    top = {"BOOL": 2, "UINT8": 256}.get(spec.dtype, SMALL_INTEGERS)
    return draw.integers(0, top, spec.shape).astype(dtype).tobytes()
