"""One thing a caller waits for: an inference, a status, a ping, or the greeting.

WAITING ◀─credit─▶ GRANTED ──start()──▶ SENT ──answer, or the connection is lost──▶ DONE
   │         │                            └──── DRAINING, or lost after GOAWAY ────▶ MOVED   (it was not taken)
   ├─────────┴─ GOAWAY, or the connection is lost ──▶ MOVED   (it was never sent: another connection takes it)
   └─────────┴─ a newer call with the same key ─────▶ DONE    (it was never sent: SUPERSEDED)

`again()` makes one that is MOVED, or DONE with an error, as good as new: its deadline and its number stay.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from inferd.errors import InferdError, RequestError, make
from inferd.wire import frame as f
from inferd.wire import messages
from inferd.wire.peer import Frame
from inferd_client.codec import Request, decode

WAITING, GRANTED, SENT, DONE, MOVED = range(5)

# What a call of a kind is answered with, when not with an ERROR.
ANSWERS = {f.HELLO: f.WELCOME, f.INFER: f.RESULT, f.STATUS: f.STATUS, f.PING: f.PONG}


_numbers = count(1)


class Result(dict[str, Any]):
    """The outputs by name. `timing` is the timeline if it was asked for, otherwise None."""

    timing: dict[str, Any] | None = None


class Call:
    """One thing a caller waits for until `deadline`, in seconds of the monotonic clock.

    `number` grows with every call of the process: it says which of two calls with a key is the newer. `id` is the
    connection's, 0 until it is sent; `home` is the conversation that took the call in. `cancelled` is set by whoever
    takes it back from its caller, wherever it is, and stays; `expired` says that its time was up without an answer.
    `waiter` and `promoted` belong to the shells: how they wake the caller.
    """

    __slots__ = (
        "cancelled",
        "deadline",
        "error",
        "expired",
        "frame",
        "home",
        "id",
        "kind",
        "number",
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
        self.number = next(_numbers)
        self.id = 0
        self.state = WAITING
        self.error: InferdError | None = None
        self.frame: Frame | None = None
        self.home: Any = None
        self.waiter: Any = None
        self.promoted = False
        self.cancelled = False
        self.expired = False

    def again(self) -> None:
        """Another connection, or another attempt, shall answer it."""
        self.id = 0
        self.state = WAITING
        self.error = self.frame = self.waiter = None

    def time_up(self, problem: Exception | None = None) -> RequestError:
        """The error for a call that got no answer in time; `problem` is why there was no connection for it."""
        self.expired = True
        stage = "on its way" if self.id else "waiting to be sent"
        if problem is not None:
            stage = f"waiting for a connection ({getattr(problem, 'message', problem)})"
        error = make("TIMEOUT", limit=f"{self.timeout_ms:g}", stage=stage)
        error.request_id = self.id
        return error

    def answer(self) -> Result:
        """What the server answered; raises what went wrong instead. Only for a call that is DONE."""
        if self.error is not None:
            raise self.error
        if self.kind == f.PING:
            return Result()  # what a PONG may carry besides is not for this version, and not always kept
        assert self.frame is not None
        message, payload = self.frame.message, self.frame.payload
        assert payload is not None
        has_values = bool(self.frame.flags & f.HAS_VALUES)
        if not isinstance(message, messages.Result):
            return Result(decode((), 0, has_values, payload))
        result = Result(decode(message.tensors, message.tensor_end, has_values, payload))
        result.timing = message.timing
        return result
