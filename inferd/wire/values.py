"""The values segment: what is no tensor (text, numbers, lists, maps), as one msgpack map.

The loop process never decodes it: hostile msgpack costs up to 72 times its size in memory, so that is done in the
worker, under a cap of its own. Extension types, map keys that are numbers, and trailing bytes are refused; the names
of the values are text. A key that is there twice counts as it stood last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from inferd.errors import make

# Text and lists of numbers are small; what is larger is a tensor. 1 MiB of hostile msgpack costs a worker 79 ms.
MAX_VALUES_BYTES = 1024 * 1024


def refuse_ext(code: int, data: bytes) -> Any:
    """No extension type is part of this protocol. (`max_ext_len=0` alone lets one of no bytes pass.)"""
    raise ValueError(f"extension type {code}")


def pack_values(values: Mapping[str, Any]) -> bytes:
    """The segment for `values`. Raises InvalidArgument naming the problem if msgpack cannot express one."""
    try:
        packed: bytes = msgpack.packb(dict(values), use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise make("VALUES", problem=f"cannot hold these values: {error}") from error
    return packed


def unpack_values(segment: bytes | memoryview) -> dict[str, Any]:
    """The values of a segment. Raises InvalidArgument for anything that is not one msgpack map with text keys."""
    try:
        values = msgpack.unpackb(segment, raw=False, strict_map_key=True, max_ext_len=0, ext_hook=refuse_ext)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise make("VALUES", problem="is not valid msgpack") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise make("VALUES", problem="must be a map with text keys")
    return values
