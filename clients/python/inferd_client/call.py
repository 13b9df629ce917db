"""One thing a caller waits for: an inference, a status, a ping, or the greeting.

WAITING ──credit──▶ GRANTED ──start()──▶ SENT ──answer, or the connection is lost──▶ DONE
   └──────── GOAWAY, or the connection is lost ──────▶ MOVED   (it was never sent: another connection takes it)
"""

from __future__ import annotations

from typing import Any

from inferd.errors import InferdError, RequestError, make
from inferd.wire import frame as f
from inferd.wire.messages import Result
from inferd.wire.peer import Frame
from inferd_client.codec import Request, decode

WAITING, GRANTED, SENT, DONE, MOVED = range(5)

# What a call of a kind is answered with, when not with an ERROR.
ANSWERS = {f.HELLO: f.WELCOME, f.INFER: f.RESULT, f.STATUS: f.STATUS, f.PING: f.PONG}


class Call:
    """One thing a caller waits for until `deadline`, in seconds of the monotonic clock.

    `waiter`, `promoted` and `expired` belong to the shells: how they wake the caller.
    """

    __slots__ = (
        "deadline",
        "error",
        "expired",
        "frame",
        "id",
        "kind",
        "promoted",
        "request",
        "state",
        "timeout_ms",
        "waiter",
    )

    def __init__(self, kind: int, deadline: float, timeout_ms: float, request: Request | None = None) -> None:
        self.kind = kind
        self.deadline = deadline
        self.timeout_ms = timeout_ms
        self.request = request
        self.id = 0
        self.state = WAITING
        self.error: InferdError | None = None
        self.frame: Frame | None = None
        self.waiter: Any = None
        self.promoted = False
        self.expired = False

    def time_up(self) -> RequestError:
        """The error for a call that got no answer in time."""
        error = make("TIMEOUT", limit=f"{self.timeout_ms:g}")
        error.request_id = self.id
        return error

    def answer(self) -> dict[str, Any]:
        """What the server answered; raises what went wrong instead. Only for a call that is DONE."""
        if self.error is not None:
            raise self.error
        assert self.frame is not None
        message, payload = self.frame.message, self.frame.payload
        assert payload is not None
        has_values = bool(self.frame.flags & f.HAS_VALUES)
        if isinstance(message, Result):
            return decode(message.tensors, message.tensor_end, has_values, payload)
        return decode((), 0, has_values, payload)
