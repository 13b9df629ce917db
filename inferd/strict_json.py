"""JSON as the standard has it, for what models return: Python's own writes NaN and Infinity, which few others read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any


def dumps(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """`value` as JSON text, null for NaN and infinity wherever they stand. `default` is json's: what to write for what
    JSON has no form for. Raises TypeError and RecursionError as json does."""
    try:
        return json.dumps(value, default=default, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_with_nulls(value, default), ensure_ascii=False)


def _with_nulls(value: Any, default: Callable[[Any], Any] | None) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _with_nulls(item, default) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item, default) for item in value]
    if value is None or isinstance(value, str | int) or default is None:
        return value
    return _with_nulls(default(value), default)
