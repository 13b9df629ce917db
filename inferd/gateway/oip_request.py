"""A body of the Open Inference Protocol (oip.py) → what is asked. Every problem is an InvalidArgument that names it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from inferd_client.codec import NUMPY_DTYPES, WIRE_DTYPES

from inferd.errors import RequestError, make
from inferd.gateway.oip import BYTES, Array, Asked, Signature, announced
from inferd.wire.tensor import ITEM_BYTES, MAX_DIM, MAX_DIMS, MAX_TENSORS, Spec

LENGTH = struct.Struct("<I")  # in front of each element of a binary BYTES tensor
# Thirty years. A number of JSON can have any size, and that of a float must do.
MAX_TIMEOUT_US = 1e15
# Of a body: reading JSON holds up everybody, in whatever thread it is done, for 76 ms with so much of it.
MAX_JSON_BYTES = 4 * 1024 * 1024
# What JSON may have for a datatype; the others are whole numbers, or numbers.
_OF_JSON: dict[str, tuple[set[type], str]] = {BYTES: ({str}, "text"), "BOOL": ({bool}, "true or false")}


def parse(body: memoryview, json_bytes: int | None, signature: Signature) -> Asked:
    """The request in a body, of which `json_bytes` are JSON (None: all). Raises InvalidArgument."""
    if json_bytes is None:
        json_bytes = len(body)
    if not 0 <= json_bytes <= len(body):
        raise make("BODY", problem=f"has {len(body)} bytes, and {json_bytes} are said to be JSON")
    if json_bytes > MAX_JSON_BYTES:
        problem = (
            f"has {json_bytes} bytes of JSON, and at most {MAX_JSON_BYTES} are read; send tensors in the binary form"
        )
        raise make("BODY", problem=problem)
    fields = _json(body[:json_bytes], "the body")
    if not isinstance(fields, dict):
        raise make("BODY", problem="must be a JSON object")
    tensors = _list(fields, "inputs") or []
    rest = body[json_bytes:]
    inputs: dict[str, Any] = {}
    batched: dict[str, bool] = {}
    for tensor in tensors:
        name, shape, elements, rest = _tensor(tensor, rest)
        if name in inputs:
            raise make("TENSOR", field=name, problem="is there twice")
        inputs[name], batched[name] = _input(name, shape, elements, signature)
    if len(rest):
        raise make("BODY", problem=f"ends with {len(rest)} bytes that belong to no tensor")
    if len(set(batched.values())) > 1:
        single = next(name for name, has_rows in batched.items() if not has_rows)
        raise make("BODY", problem=f"has inputs with a batch dimension, but {single!r} has none")
    asked = Asked(inputs, any(batched.values()))
    _options(asked, fields)
    return asked


def _json(text: memoryview, what: str) -> Any:
    try:
        return json.loads(bytes(text), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise make("BODY", problem=f"is no JSON: {what} cannot be read") from error


def _no_number(text: str) -> float:
    """NaN, Infinity and -Infinity are no JSON, though Python reads them."""
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    """1e999 is JSON, and no float."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


def _list(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]] | None:
    """A list of objects, each with a name; None if it is not there."""
    rows = fields.get(name)
    if rows is None:
        return None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) and _is_text(row["name"]) for row in rows
    ):
        raise make("FIELD_TYPE", field=name, expected="a list of objects, each with a name")
    if len(rows) > MAX_TENSORS:
        raise make("FIELD_VALUE", field=name, problem=f"has {len(rows)} tensors, at most {MAX_TENSORS} are allowed")
    return rows


def _is_text(text: str) -> bool:
    """Whether it has a form in UTF-8: JSON can name half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    parameters = fields.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise make("FIELD_TYPE", field="parameters", expected="an object")
    for name in parameters:
        if name.startswith(("shared_memory", "sequence_")) or name == "classification":
            raise make("FIELD_VALUE", field=name, problem="is nothing that this server does")
    return parameters


def _tensor(row: Mapping[str, Any], rest: memoryview) -> tuple[str, tuple[int, ...], Array | list[Any], memoryview]:
    """A tensor's name and shape, its elements (an array; a flat list for BYTES), and what follows its bytes."""
    name = row["name"]
    shape = row.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(type(size) is int and 0 <= size <= MAX_DIM for size in shape)
    ):
        raise make("TENSOR", field=name, problem=f"shape must be a list of at most {MAX_DIMS} whole numbers")
    dtype = row.get("datatype")
    if not isinstance(dtype, str) or (dtype != BYTES and dtype not in ITEM_BYTES):
        raise make("TENSOR", field=name, problem=f"datatype must be BYTES or one of {', '.join(ITEM_BYTES)}")
    if math.prod(size or 1 for size in shape) > MAX_DIM:
        raise make("TENSOR", field=name, problem="shape must not exceed 2^40 elements")
    count = math.prod(shape)
    nbytes = _parameters(row).get("binary_data_size")
    if nbytes is None:
        elements = _from_json(name, dtype, count, row.get("data"))
    else:
        if type(nbytes) is not int or not 0 <= nbytes <= len(rest):
            raise make("TENSOR", field=name, problem=f"binary_data_size is {nbytes!r}, and {len(rest)} bytes are there")
        elements, rest = _from_binary(name, dtype, count, rest[:nbytes]), rest[nbytes:]
    if not isinstance(elements, list):
        elements = elements.reshape(shape)
    return name, tuple(shape), elements, rest


def _from_json(name: str, dtype: str, count: int, data: Any) -> Array | list[Any]:
    flat = _flat(name, data)
    if len(flat) != count:
        raise make("TENSOR", field=name, problem=f"its data has {len(flat)} elements, its shape {count}")
    whole = "INT" in dtype
    allowed, expected = _OF_JSON.get(dtype) or (({int}, "whole numbers") if whole else ({int, float}, "numbers"))
    if not set(map(type, flat)) <= allowed:
        raise make("TENSOR", field=name, problem=f"its data must be {expected}")
    if dtype == BYTES:
        return flat
    numpy_dtype = _numpy_dtype(dtype)
    if whole and flat:
        limits = np.iinfo(numpy_dtype)
        if not limits.min <= min(flat) <= max(flat) <= limits.max:
            raise make("TENSOR", field=name, problem=f"its data goes beyond {limits.min} to {limits.max}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, np.float64).astype(numpy_dtype) if dtype == "BF16" else np.array(flat, numpy_dtype)
    except OverflowError as error:
        raise make("TENSOR", field=name, problem="has a number that no float can hold") from error
    if not whole and dtype != "BOOL" and not np.isfinite(array).all():
        # JSON has no infinity, so nobody means one: 1e999, or 1e39 for FP32.
        raise make("TENSOR", field=name, problem=f"has a number that no {dtype} can hold")
    return array


def _flat(name: str, data: Any) -> list[Any]:
    """Nested lists as one, in row-major order."""
    if not isinstance(data, list):
        raise make("TENSOR", field=name, problem="needs `data`, a list, or `binary_data_size`")
    flat: list[Any] = data
    for _ in range(MAX_DIMS):
        kinds = set(map(type, flat))
        if list not in kinds:
            return flat
        if kinds != {list}:
            break
        flat = list(chain.from_iterable(flat))
    raise make("TENSOR", field=name, problem="its data is nested unevenly")


def _from_binary(name: str, dtype: str, count: int, data: memoryview) -> Array | list[Any]:
    if dtype != BYTES:
        if len(data) != count * ITEM_BYTES[dtype]:
            expected = count * ITEM_BYTES[dtype]
            raise make("TENSOR", field=name, problem=f"has {len(data)} bytes, and its shape needs {expected}")
        return np.frombuffer(data, _numpy_dtype(dtype))
    elements: list[Any] = []
    at = 0
    while at < len(data):
        end = at + LENGTH.size
        if end <= len(data):
            at, end = end, end + LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            raise make("TENSOR", field=name, problem="ends in the middle of an element")
        elements.append(bytes(data[at:end]))
        at = end
    if len(elements) != count:
        raise make("TENSOR", field=name, problem=f"has {len(elements)} elements, and its shape {count}")
    return elements


def _numpy_dtype(dtype: str) -> Any:
    if dtype == "BF16":
        import ml_dtypes  # only here, because few models need it

        return ml_dtypes.bfloat16
    return NUMPY_DTYPES[dtype]


def _input(name: str, shape: tuple[int, ...], elements: Array | list[Any], signature: Signature) -> tuple[Any, bool]:
    """An input as the client takes it, and whether it leads with rows."""
    spec = _declared(name, signature)
    if isinstance(elements, list):
        if spec is not None and spec.is_tensor:
            raise _wrong_dtype(name, spec, BYTES, signature)
        # [n, 1] is how Triton's models mostly declare text.
        if not (len(shape) <= 1 or shape[1:] == (1,)) or (spec is None and not shape):
            raise make("INPUT_SHAPE", field=name, model=signature.name, expected=[-1], actual=list(shape))
        kind = spec.dtype if spec is not None else "STRING"
        values = [_value(name, kind, element) for element in elements]
        return (values if shape else values[0]), bool(shape)
    if spec is not None and not spec.is_tensor:
        raise _wrong_dtype(name, spec, WIRE_DTYPES.get(elements.dtype.str, "BF16"), signature)
    item = spec.shape if spec is not None else ()
    # Where nothing is declared only the protocol's own rule is left: a batch dimension leads.
    fits = len(shape) - len(item) in (0, 1) if spec is not None else bool(shape)
    if not fits:
        raise make("INPUT_SHAPE", field=name, model=signature.name, expected=[-1, *item], actual=list(shape))
    return elements, len(shape) > len(item)


def _declared(name: str, signature: Signature) -> Spec | None:
    """What the model says of an input; None if it says nothing of any."""
    if signature.inputs is None:
        return None
    spec = signature.inputs.get(name)
    if spec is None:
        expected = ", ".join(sorted(signature.inputs)) or "none"
        raise make("INPUT_UNKNOWN", model=signature.name, field=name, expected=expected)
    return spec


def _wrong_dtype(name: str, spec: Spec, actual: str, signature: Signature) -> RequestError:
    expected = announced(spec)["datatype"]
    return make("INPUT_DTYPE", field=name, model=signature.name, expected=expected, actual=actual)


def _value(name: str, kind: str, element: str | bytes) -> Any:
    try:
        text = element.decode() if isinstance(element, bytes) else element
    except UnicodeDecodeError as error:
        raise make("FIELD_VALUE", field=name, problem="has an element that is no text in UTF-8") from error
    if kind == "STRING":
        return text
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        problem = f"has an element that is no JSON, in which a {kind} travels here"
        raise make("FIELD_VALUE", field=name, problem=problem) from error


def _options(asked: Asked, fields: Mapping[str, Any]) -> None:
    """What a request says besides its inputs."""
    parameters = _parameters(fields)
    asked.id = _option(fields, "id", str, "text")
    if asked.id is not None and not _is_text(asked.id):
        raise make("FIELD_VALUE", field="id", problem="is no text in UTF-8")
    timeout_us = _option(parameters, "timeout", (int, float), "a number of microseconds")
    if timeout_us is not None:
        if not 0 <= timeout_us < MAX_TIMEOUT_US:
            raise make("FIELD_VALUE", field="timeout", problem=f"must be from 0 to {MAX_TIMEOUT_US:g}")
        asked.timeout_ms = timeout_us / 1000
    asked.priority = _option(parameters, "priority", str, "text: interactive, standard or batch")
    asked.supersede = _option(parameters, "supersede", str, "text")
    asked.timing = _option(parameters, "timing", bool, "true or false") or False
    asked.binary_rest = _option(parameters, "binary_data_output", bool, "true or false") or False
    outputs = _list(fields, "outputs")
    if outputs:
        asked.wanted = [row["name"] for row in outputs]
        for row in outputs:
            binary = _option(_parameters(row), "binary_data", bool, "true or false")
            if binary is not None:
                asked.binary[row["name"]] = binary


def _option(fields: Mapping[str, Any], name: str, kind: type | tuple[type, ...], expected: str) -> Any:
    value = fields.get(name)
    if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise make("FIELD_TYPE", field=name, expected=expected)
    return value
