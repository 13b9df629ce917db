"""The values segment: what is no tensor (text, numbers, lists, maps), as one msgpack map.

The loop process never decodes what came: hostile msgpack costs up to 72 times its size in memory, so that is done in
the worker, under a cap of its own. Extension types, map keys that are numbers, and trailing bytes are refused; the
names of the values are text. A key that is there twice counts as it stood last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from inferd.errors import RequestError, make

# Text and lists of numbers are small; what is larger is a tensor. 1 MiB of hostile msgpack costs a worker 79 ms.
MAX_VALUES_BYTES = 1024 * 1024

# Values of these types can be read whatever they are; what msgpack has no bytes for does not pack.
PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


def refuse_ext(code: int, data: bytes) -> Any:
    """No extension type is part of this protocol. (`max_ext_len=0` alone lets one of no bytes pass.)"""
    raise ValueError(f"extension type {code}")


def pack_values(values: Mapping[str, Any]) -> bytes:
    """The segment for `values`. Raises InvalidArgument naming the problem for what msgpack cannot express, and for what
    `unpack_values` would not take on the other side."""
    try:
        packed: bytes = msgpack.packb(dict(values), use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise make("VALUES", problem=f"cannot hold these values: {error}") from error
    if not all(type(name) is str and type(value) in PLAIN for name, value in values.items()):
        # msgpack packs more than may be read: only reading tells.
        try:
            unpack_values(packed)
        except RequestError:
            problem = _unreadable(values)
            raise make("VALUES", problem=f"cannot hold these values: {problem}") from ValueError(problem)
    return packed


def _unreadable(values: Mapping[Any, Any]) -> str:
    """What it is in values that were packed and cannot be read."""
    if not all(isinstance(name, str) for name in values):
        return "the names of values must be text"
    left = list(values.values())
    while left:
        value = left.pop()
        if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
            return "msgpack's extension types, such as a timestamp, cannot be sent"
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str | bytes):
                    return f"the keys of a map must be text, and one is of type {type(key).__name__}"
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    return "they nest too deep"  # msgpack packs a level more than it reads


def unpack_values(segment: bytes | memoryview) -> dict[str, Any]:
    """The values of a segment. Raises InvalidArgument for anything that is not one msgpack map with text keys."""
    try:
        values = msgpack.unpackb(segment, raw=False, strict_map_key=True, max_ext_len=0, ext_hook=refuse_ext)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise make("VALUES", problem="is not valid msgpack") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise make("VALUES", problem="must be a map with text keys")
    return values
