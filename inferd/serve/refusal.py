"""Refusals that come by the thousand when there is too much to do: made and packed once for all who hear the same.

A server under twice its capacity says no as often as yes; each no that costs as much as an answer is one answer less.
"""

from __future__ import annotations

import functools

from inferd.errors import RequestError, make
from inferd.wire.messages import Error

MAX_REMEMBERED = 4096


def overloaded(wait_s: float) -> RequestError:
    """OVERLOADED: it is worth trying again in about `wait_s` seconds (told in two digits: it is an estimate)."""
    wait_ms = max(1.0, wait_s * 1000)
    digits = 1 if wait_ms < 10 else 0 if wait_ms < 100 else -1 if wait_ms < 1000 else -2
    return _overloaded(round(wait_ms, digits))


@functools.lru_cache(MAX_REMEMBERED)
def _overloaded(wait_ms: float) -> RequestError:
    return make("OVERLOADED", retry_after_ms=wait_ms, wait=wait_ms)


@functools.lru_cache(MAX_REMEMBERED)
def too_late(waited_ms: int, stage: str = "queued") -> RequestError:
    """TIMEOUT: the request's time was over after `waited_ms`, and it had not begun."""
    return make("TIMEOUT", limit=waited_ms, stage=stage)


@functools.lru_cache(MAX_REMEMBERED)
def header_of(error: RequestError) -> bytes:
    """The header of the ERROR that tells it. Packed once for an error that comes again as the same object, as those of
    this module do, and those that the door remembers."""
    return Error.of(error).pack()
