"""Outputs → a body of the Open Inference Protocol (oip.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from inferd_client.codec import WIRE_DTYPES

from inferd import strict_json
from inferd.errors import make
from inferd.gateway.oip import BYTES, Array, Asked, Buffer, Signature
from inferd.gateway.oip_request import LENGTH

# How many numbers are written at once: nobody else is served meanwhile, in whatever thread it is done.
AT_ONCE = 8192
HOLDS_BYTES = "holds bytes that JSON has no form for"


def answer(
    outputs: Mapping[str, Any], timing: Mapping[str, Any] | None, asked: Asked, signature: Signature
) -> tuple[list[Buffer], int | None]:
    """A result as the buffers of a body, and how many bytes of it are JSON if that is not all. Raises NotFound for an
    output that was asked for and is not there."""
    rows: list[str] = []
    buffers: list[Buffer] = []
    for name in outputs if asked.wanted is None else asked.wanted:
        if name not in outputs:
            raise make("OUTPUT_UNKNOWN", field=name, model=signature.name, known=", ".join(sorted(outputs)))
        row, numbers, data = _output(name, outputs[name], asked, signature)
        rows.append(_json(row) if numbers is None else f'{_json(row)[:-1]},"data":[{_numbers(numbers)}]}}')
        if data is not None:
            buffers.append(data)
    fields: dict[str, Any] = {"model_name": signature.name, "model_version": signature.version}
    if asked.id is not None:
        fields["id"] = asked.id
    if timing is not None:
        fields["parameters"] = dict(timing)
    head = f'{_json(fields)[:-1]},"outputs":[{",".join(rows)}]}}'.encode()
    return [head, *buffers], (len(head) if buffers else None)


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _output(
    name: str, value: Any, asked: Asked, signature: Signature
) -> tuple[dict[str, Any], Array | None, Buffer | None]:
    """An output as its row of the JSON, the numbers that belong in that, and its bytes if they go behind it."""
    numbers: Array | None = None
    binary = asked.binary.get(name, asked.binary_rest)
    if isinstance(value, np.ndarray):
        shape = list(value.shape)
        row: dict[str, Any] = {"name": name, "datatype": WIRE_DTYPES.get(value.dtype.str, "BF16"), "shape": shape}
        data: Buffer | None = None
        if binary:
            data = value.reshape(-1).view(np.uint8).data if value.size else b""
        else:
            numbers = value
    else:
        spec = (signature.outputs or {}).get(name)
        kind = spec.dtype if spec is not None else ""
        texts = [_text(name, kind, item) for item in value] if asked.batch else [_text(name, kind, value)]
        row = {"name": name, "datatype": BYTES, "shape": [len(texts)] if asked.batch else []}
        data = None
        if binary:
            data = b"".join(LENGTH.pack(len(text)) + text for text in texts)
        else:
            row["data"] = [_unicode(name, text) for text in texts]
    if data is not None:
        row["parameters"] = {"binary_data_size": len(data)}
    return row, numbers, data


def _numbers(array: Array) -> str:
    """The elements in row-major order, with commas between; null for NaN and infinity, which JSON does not have."""
    flat = array.reshape(-1)
    pieces = (flat[start : start + AT_ONCE] for start in range(0, len(flat), AT_ONCE))
    return ",".join(json.dumps(_listed(piece), separators=(",", ":"))[1:-1] for piece in pieces)


def _listed(piece: Array) -> list[Any]:
    if piece.dtype.kind not in "biu":
        piece = piece.astype(np.float64)
        finite = np.isfinite(piece)
        if not finite.all():
            piece = np.where(finite, piece, None)  # type: ignore[call-overload]
    elements: list[Any] = piece.tolist()
    return elements


def _text(name: str, kind: str, value: Any) -> bytes:
    """A value as an element of BYTES: text as it is, the rest as JSON, unless the model declares it ANY."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and kind in ("STRING", ""):
        return value.encode("utf-8", "surrogatepass")
    try:
        return strict_json.dumps(value).encode("utf-8", "surrogatepass")
    except RecursionError as error:
        raise make("NOT_IN_JSON", field=name, problem="is nested too deep to be written as JSON") from error
    except (TypeError, ValueError) as error:
        raise make("NOT_IN_JSON", field=name, problem=HOLDS_BYTES) from error


def _unicode(name: str, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise make("NOT_IN_JSON", field=name, problem=HOLDS_BYTES) from error
