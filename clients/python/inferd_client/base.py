"""What the two clients share besides the core: their address, their timeouts, and how they are shown."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from typing import Any, Self

from inferd.errors import make
from inferd.wire.address import DEFAULT_PORT, Address
from inferd.wire.messages import STANDARD, Hello, checked_priority, checked_token
from inferd_client.codec import Request, encode
from inferd_client.core import CLIENT_NAME

DEFAULT_URL = f"inferd://127.0.0.1:{DEFAULT_PORT}"


class BaseClient:
    """A client's options. `timeout_ms` is the default for every call, `connect_timeout_ms` for one connection."""

    def __init__(self, url: str | None, timeout_ms: float, connect_timeout_ms: float) -> None:
        # An argument over the environment over the default.
        self._address = Address.parse(url or os.environ.get("INFERD_URL") or DEFAULT_URL)
        self._timeout_ms = checked_timeout("timeout_ms", timeout_ms)
        self._connect_timeout_ms = checked_timeout("connect_timeout_ms", connect_timeout_ms)
        self._priority = STANDARD

    def with_options(self, *, timeout_ms: float | None = None, priority: str | None = None) -> Self:
        """A client with another default timeout in milliseconds or another default priority: "interactive", "standard"
        or "batch". It shares this one's connection, and closing either closes the connection for both.
        """
        other = copy.copy(self)
        if timeout_ms is not None:
            other._timeout_ms = checked_timeout("timeout_ms", timeout_ms)
        if priority is not None:
            other._priority = checked_priority(priority)
        return other

    def _hello(self, token: str | None) -> Hello:
        """What is said first on each connection."""
        return Hello(CLIENT_NAME, token=checked_token(token))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._address)!r})"

    def _request(
        self,
        model: str,
        inputs: Mapping[str, Any],
        batch: bool,
        priority: str | None,
        supersede: str | None,
        timing: bool,
    ) -> Request:
        priority = self._priority if priority is None else checked_priority(priority)
        return encode(model, inputs, batch, priority, supersede, timing)

    def _budget_ms(self, timeout_ms: float | None) -> float:
        return self._timeout_ms if timeout_ms is None else checked_timeout("timeout_ms", timeout_ms)


def checked_timeout(name: str, timeout_ms: float) -> float:
    """`timeout_ms`, which must be finite. Zero or less is legal: a budget that is used up already."""
    if not math.isfinite(timeout_ms):
        raise make("FIELD_VALUE", field=name, problem="must be a finite number of milliseconds")
    return timeout_ms


def connect_problem(error: OSError) -> str:
    """Why connecting failed, in the system's words."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)  # a name that cannot be resolved, or several addresses that all failed


def retry_delay_s(attempt: int) -> float:
    """How long to wait before the next attempt to connect: 20 ms at first, doubling, at most half a second."""
    return min(0.02 * (1 << min(attempt, 5)), 0.5)
