"""What the clients of threads share: a connection for each address, made when it is needed and again when it has ended.

Each attempt to connect is a short-lived thread of its own: a call waits for one no longer than it has time, and while
one address does not answer, another is used.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from threading import Condition, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from inferd.errors import make
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.base import connect_failed
from inferd_client.call import Call
from inferd_client.connection import Connection, dial, lock_timeout_s
from inferd_client.endpoints import Endpoint, Endpoints, Waiter
from inferd_client.retry import RetryBudget

if TYPE_CHECKING:
    from ssl import SSLContext

# Held while a forked child makes its clients its own; new in each child, because the parent may have held it.
_adopting = Lock()


def _new_lock() -> None:
    global _adopting
    _adopting = Lock()


os.register_at_fork(after_in_child=_new_lock)


class Link:
    """The connections that clients share, with their budget for retries."""

    def __init__(
        self,
        addresses: Sequence[Address],
        hello: Callable[[], Hello],
        connect_timeout_ms: float,
        tls: SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._addresses = addresses
        self._hello = hello
        self._connect_timeout_ms = connect_timeout_ms
        self._closed = False
        self._begin(known=False)

    def _begin(self, known: bool) -> None:
        self.budget = RetryBudget()
        self._endpoints: Endpoints[Connection] = Endpoints(self._addresses)
        self._endpoints.known = known
        self._only = self._endpoints.all[0] if len(self._addresses) == 1 else None
        self._changed = Condition(Lock())  # guards the endpoints
        self._pid = os.getpid()  # last: who sees it has all the others

    def connection(self, call: Call, patience: int, avoid: Connection | None = None) -> Connection:
        """A connection that takes calls; not `avoid`, which did not answer the call, if another address has one.

        `patience` is how long to wait for one: `endpoints.ONCE_KNOWN`, say. Raises DeadlineExceeded when the call's
        time is up, Cancelled when it is taken back or the client is closed meanwhile, and what keeps it from
        connecting.
        """
        if self._pid != os.getpid():
            self._leave_parent()
        if self._only is not None:
            connection = self._only.connection
            if connection is not None and connection.conversation.usable:
                return connection
        with self._changed:
            if self._closed and avoid is None:
                raise RuntimeError("this client is closed")
            return self._wait(call, Waiter(self._endpoints, patience), avoid)

    def cancel(self, call: Call) -> None:
        """Takes a call back that another thread waits for, or will: wherever it is, it ends with Cancelled."""
        call.cancelled = True
        if self._pid != os.getpid():
            self._leave_parent()
        with self._changed:
            connections = self._endpoints.connections()
            self._changed.notify_all()
        for connection in connections:
            connection.cancel(call)

    def pause(self, call: Call, pause_s: float) -> None:
        """Sleeps, unless the call is taken back or the client is closed."""
        if pause_s > 0:
            with self._changed:
                self._changed.wait_for(lambda: call.cancelled or self._closed, pause_s)

    def close(self) -> None:
        """Ends the connections; there will be no others."""
        if self._pid != os.getpid():
            self._leave_parent()
        with self._changed:
            self._closed = True
            connections = self._endpoints.connections()
            self._changed.notify_all()
        for connection in connections:
            connection.close()

    def _wait(self, call: Call, waiter: Waiter, avoid: Connection | None) -> Connection:
        endpoints = self._endpoints
        while True:
            if self._closed or call.cancelled:
                raise make("CLIENT_CANCELLED")
            # First, or somebody who is about to be told would have it dialled once more.
            hopeless = endpoints.hopeless(waiter)
            if hopeless is not None:
                raise copy.copy(hopeless) from hopeless  # one of its own for every caller: errors collect tracebacks
            now = monotonic()
            self._start_dialing(endpoints.due(now, waiter), now)
            connection = endpoints.choose(call, avoid)
            if connection is not None:
                return connection
            if now >= call.deadline:
                raise call.time_up(endpoints.problem) from endpoints.problem
            self._changed.wait(lock_timeout_s(min(call.deadline, endpoints.next_due())))

    def _start_dialing(self, due: list[Endpoint[Connection]], now: float) -> None:
        try:
            for endpoint in due:
                try:
                    Thread(target=self._dial, args=(endpoint,), name="inferd-connect", daemon=True).start()
                except RuntimeError as error:  # too many threads, or the interpreter is ending
                    problem = make("CONNECT_FAILED", address=endpoint.address, problem=error)
                    self._endpoints.failed(endpoint, problem, now)
        except BaseException:
            # start() waits for its thread, and was interrupted. Which of them dial nobody knows: others may, too.
            for endpoint in due:
                endpoint.dialing = False
            raise

    def _dial(self, endpoint: Endpoint[Connection]) -> None:
        try:
            connection = self._connect(endpoint.address)
        except Exception as error:
            with self._changed:
                self._endpoints.failed(endpoint, error, monotonic())
                self._changed.notify_all()
            return
        with self._changed:
            unwanted = self._closed or endpoint.usable
            if not unwanted:
                self._endpoints.connected(endpoint, connection, monotonic())
                unwanted = not connection.conversation.usable  # GOAWAY can come right behind WELCOME
            self._changed.notify_all()
        if unwanted:
            connection.close()

    def _connect(self, address: Address) -> Connection:
        timeout_s = max(self._connect_timeout_ms / 1000, 0.001)  # no time at all would mean: do not wait for it
        deadline = monotonic() + timeout_s
        hello = self._hello()
        try:
            sock = dial(address, timeout_s, self._tls)
        except OSError as error:
            raise connect_failed(address, error) from error
        connection = Connection(sock, address, hello)
        if not connection.greet(deadline):
            problem = f"no WELCOME within {self._connect_timeout_ms:g} ms"
            raise make("CONNECT_FAILED", address=address, problem=problem)
        return connection

    def _leave_parent(self) -> None:
        """In a forked child: the sockets are the parent's, and so may be whoever holds the locks."""
        with _adopting:
            if self._pid == os.getpid():
                return
            connections = self._endpoints.connections()
            self._begin(self._endpoints.known)
        for connection in connections:
            connection.forget()
