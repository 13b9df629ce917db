"""What the two clients share besides the core: where the server is, their options, and how they are shown."""

from __future__ import annotations

import copy
import math
import os
import random
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Self

from inferd.errors import RequestError, make
from inferd.wire.address import Address
from inferd.wire.messages import STANDARD, Hello, checked_priority, checked_token
from inferd_client.call import MOVED, Call
from inferd_client.codec import Request, encode
from inferd_client.core import CLIENT_NAME
from inferd_client.endpoints import NEVER, ONCE_KNOWN
from inferd_client.retry import RetryBudget, retry_after_s
from inferd_client.url import CONNECT_TIMEOUT_MS, TIMEOUT_MS, Target

# How many of a stream's items are on their way by default: enough for a batch to gather while another is computed.
STREAM_IN_FLIGHT = 32


class BaseClient:
    """A client's options. `timeout_ms` is the default for every call, `connect_timeout_ms` for one connection."""

    _features: tuple[str, ...] = ()  # what HELLO asks for

    def __init__(
        self, url: str | None, timeout_ms: float | None, connect_timeout_ms: float | None, max_retries: int
    ) -> None:
        self._target = Target(url)
        self._timeout_ms = checked_timeout("timeout_ms", self._target.timeout_ms("timeout_ms", timeout_ms, TIMEOUT_MS))
        connect_ms = self._target.timeout_ms("connect_timeout_ms", connect_timeout_ms, CONNECT_TIMEOUT_MS)
        self._connect_timeout_ms = checked_timeout("connect_timeout_ms", connect_ms)
        self._max_retries = checked_count("max_retries", max_retries, 0)
        self._priority = STANDARD

    def with_options(
        self, *, timeout_ms: float | None = None, priority: str | None = None, max_retries: int | None = None
    ) -> Self:
        """A client with another default timeout in milliseconds, another default priority ("interactive", "standard"
        or "batch"), or another number of retries. It shares this one's connections, and closing either closes them for
        both.
        """
        other = copy.copy(self)
        if timeout_ms is not None:
            other._timeout_ms = checked_timeout("timeout_ms", timeout_ms)
        if priority is not None:
            other._priority = checked_priority(priority)
        if max_retries is not None:
            other._max_retries = checked_count("max_retries", max_retries, 0)
        return other

    def _hello(self, token: str | None) -> Callable[[], Hello]:
        """Makes what is said first on each connection: anew for each, because the token in a file may have been
        replaced since the last. Raises ConfigError at once when there is none to show."""
        target, features = self._target, self._features

        def hello() -> Hello:
            return Hello(CLIENT_NAME, features=features, token=checked_token(target.token(token)))

        hello()
        return hello

    @property
    def _patience(self) -> int:
        return ONCE_KNOWN if self._max_retries else NEVER

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._target)!r})"

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

    def _new_call(self, kind: int, timeout_ms: float | None, request: Request | None = None) -> Call:
        budget_ms = self._timeout_ms if timeout_ms is None else checked_timeout("timeout_ms", timeout_ms)
        return Call(kind, monotonic() + budget_ms / 1000, budget_ms, request)

    def _pause_s(self, call: Call, retries: int, budget: RetryBudget) -> float | None:
        """How long to wait before a call that has no answer is sent again; None: it is not, its error is to be told.

        A call that was not taken goes to another connection, and that waits when it has to: no pause for it here.
        """
        if call.state == MOVED and (self._max_retries or call.error is None):
            return 0.0
        assert call.error is not None
        left_s = call.deadline - monotonic()
        return retry_after_s(call.error, retries, self._max_retries, left_s, random.random(), budget)


def checked_timeout(name: str, timeout_ms: float) -> float:
    """`timeout_ms`, which must be finite. Zero or less is legal: a budget that is used up already."""
    try:
        is_time = math.isfinite(timeout_ms)
    except (TypeError, ValueError, OverflowError):
        is_time = False
    if not is_time:
        raise make("FIELD_VALUE", field=name, problem="must be a finite number of milliseconds")
    return float(timeout_ms)  # a Decimal, or one of numpy's numbers, does not go with the clock's


def checked_count(name: str, count: int, least: int) -> int:
    """`count`, which must be a whole number, and `least` or more."""
    if not isinstance(count, int) or count < least:
        raise make("FIELD_VALUE", field=name, problem=f"must be a whole number, {least} or more")
    return count


def connect_failed(address: Address, error: OSError) -> RequestError:
    """What to tell whoever wanted to connect."""
    if address.tls:
        from inferd_client.tls import handshake_failed

        failure = handshake_failed(address, error)
        if failure is not None:
            return failure
    return make("CONNECT_FAILED", address=address, problem=connect_problem(error))


def connect_problem(error: OSError) -> str:
    """Why connecting failed, in the system's words."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)  # a name that cannot be resolved, or several addresses that all failed
