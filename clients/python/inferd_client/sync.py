"""The client for threads and plain scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from threading import Lock
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from inferd.errors import DeadlineExceeded, RequestError, make
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.base import BaseClient, connect_problem, retry_delay_s
from inferd_client.call import MOVED, Call, Result
from inferd_client.codec import Request
from inferd_client.connection import Connection, dial


class Link:
    """The connection that clients share: made when it is needed, and again when it has ended."""

    def __init__(self, address: Address, hello: Hello, connect_timeout_ms: float) -> None:
        self._address = address
        self._hello = hello
        self._connect_timeout_ms = connect_timeout_ms
        self._connection: Connection | None = None
        self._closed = False
        self._dialing = Lock()
        self._pid = os.getpid()

    def connection(self, call: Call) -> Connection:
        """A connection that takes calls. Raises Unavailable, or DeadlineExceeded when the call's time is up."""
        if self._pid != os.getpid():
            self._leave_parent()
        connection = self._connection
        if connection is not None and connection.conversation.usable:
            return connection
        if not self._dialing.acquire(timeout=max(call.deadline - monotonic(), 0)):
            raise call.time_up()
        try:
            connection = self._connection
            if connection is None or not connection.conversation.usable:
                if self._closed:
                    raise RuntimeError("this client is closed")
                connection = self._connection = self._dial(call)
            return connection
        finally:
            self._dialing.release()

    def close(self) -> None:
        """Ends the connection; there will be no other."""
        if self._pid != os.getpid():
            self._leave_parent()
        self._closed = True
        with self._dialing:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _leave_parent(self) -> None:
        """In a forked child: the socket is the parent's, and so may be whoever holds these locks."""
        connection, self._connection = self._connection, None
        self._dialing = Lock()
        self._pid = os.getpid()
        if connection is not None:
            connection.forget()

    def _dial(self, call: Call) -> Connection:
        now = monotonic()
        deadline = min(now + self._connect_timeout_ms / 1000, call.deadline)
        if deadline <= now:
            raise call.time_up()
        try:
            sock = dial(self._address, deadline - now)
        except OSError as error:
            if monotonic() >= call.deadline:
                raise call.time_up() from error
            raise make("CONNECT_FAILED", address=self._address, problem=connect_problem(error)) from error
        connection = Connection(sock, self._address, self._hello)
        if not connection.greet(deadline):
            if deadline == call.deadline:
                raise call.time_up()
            problem = f"no WELCOME within {self._connect_timeout_ms:g} ms"
            raise make("CONNECT_FAILED", address=self._address, problem=problem)
        return connection


class Client(BaseClient):
    """A connection to an inferd server, for any number of threads.

    `url` is `inferd://host[:port]` or `inferd+unix:///path`; without one it is $INFERD_URL, or the default port of this
    machine. `token` is for a server that asks for one. `timeout_ms` is what each call may take, connecting included;
    `connect_timeout_ms` what one attempt to connect may take. Both in milliseconds.

    The connection is made by the first call and made again after it was lost. A forked child makes its own.
    Raises ConfigError for a URL that cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_ms: float = 30_000,
        connect_timeout_ms: float = 5_000,
    ) -> None:
        super().__init__(url, timeout_ms, connect_timeout_ms)
        self._link = Link(self._address, self._hello(token), connect_timeout_ms)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        timeout_ms: float | None = None,
        priority: str | None = None,
        supersede: str | None = None,
        timing: bool = False,
    ) -> Result:
        """Runs `model` on one item and returns its outputs by name.

        Inputs are numpy arrays and scalars or torch tensors of the item's shape, without a batch dimension, and values:
        text, numbers, booleans, None, lists and maps. Contiguous arrays are not copied, so leave them alone until the
        answer is there. Outputs are numpy arrays, views of the bytes received, and values.

        `priority` is "interactive", "standard" or "batch", by default the client's. A request with a `supersede` key
        takes the place of an older one of this connection that has the same key and still waits: that one raises
        Superseded at once. With `timing` the result's `timing` says where the time went.

        Raises InvalidArgument, NotFound, DeadlineExceeded after `timeout_ms`, ResourceExhausted, Unavailable, Internal;
        all are InferdError, and `retryable` says whether the same call can succeed later.
        """
        request = self._request(model, inputs, False, priority, supersede, timing)
        return self._call(f.INFER, timeout_ms, request)

    def infer_batch(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        timeout_ms: float | None = None,
        priority: str | None = None,
        supersede: str | None = None,
        timing: bool = False,
    ) -> Result:
        """Runs `model` on n items at once: every tensor has shape [n, ...], every value is a list of n values.

        Outputs have the same form. Raises what `infer` raises, and InvalidArgument if the inputs disagree about n.
        """
        request = self._request(model, inputs, True, priority, supersede, timing)
        return self._call(f.INFER, timeout_ms, request)

    def models(self) -> list[dict[str, Any]]:
        """The models served, as the server described them when it was connected to.

        Each has "name", "inputs" and "outputs" ([name, dtype, shape] each; −1 is any size) and "max_batch_size".
        """
        call = self._new_call(f.HELLO, None)
        return self._link.connection(call).conversation.models.copy()

    def status(self) -> dict[str, Any]:
        """What the server says about itself now: models, queues, workers."""
        return self._call(f.STATUS, None)

    def ping(self) -> float:
        """The time to the server and back, in seconds."""
        self._link.connection(self._new_call(f.PING, None))
        start = monotonic()
        self._call(f.PING, None)
        return monotonic() - start

    def wait_ready(self, *, timeout_ms: float | None = None) -> None:
        """Returns when the server answers; until then keeps trying to connect.

        Raises DeadlineExceeded after `timeout_ms`, with the last failure as its cause.
        """
        waiting = self._new_call(f.PING, timeout_ms)
        failure: RequestError | None = None
        attempt = 0
        while (remaining := waiting.deadline - monotonic()) > 0:
            try:
                self._call(f.PING, remaining * 1000)
                return
            except DeadlineExceeded as error:
                failure = failure or error  # what went wrong before it says more
            except RequestError as error:
                if not error.retryable:
                    raise
                failure = error
            sleep(max(min(retry_delay_s(attempt), waiting.deadline - monotonic()), 0))
            attempt += 1
        raise waiting.time_up() from failure

    def close(self) -> None:
        """Ends the connection. Calls that other threads wait for raise Cancelled; calls after it, RuntimeError."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _new_call(self, kind: int, timeout_ms: float | None, request: Request | None = None) -> Call:
        budget_ms = self._budget_ms(timeout_ms)
        return Call(kind, monotonic() + budget_ms / 1000, budget_ms, request)

    def _call(self, kind: int, timeout_ms: float | None, request: Request | None = None) -> Result:
        call = self._new_call(kind, timeout_ms, request)
        moves = 0
        while True:
            self._link.connection(call).run(call)
            if call.state != MOVED:
                return call.answer()
            if moves:
                # A server that is leaving sends everybody away who comes: do not storm it.
                sleep(retry_delay_s(moves))
            moves += 1
