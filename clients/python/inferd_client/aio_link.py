"""What the clients of an event loop share: a connection for each address, made when it is needed and again when it has
ended.

Connections belong to a loop and a process: in another loop, or in a forked child, new ones are made.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.aio_connection import Connection
from inferd_client.base import connect_failed
from inferd_client.call import Call
from inferd_client.endpoints import Endpoint, Endpoints, Waiter
from inferd_client.retry import RetryBudget

if TYPE_CHECKING:
    from ssl import SSLContext

# In a forked child: what belongs to the parent is kept as it is. Freeing a transport may take its socket out of the
# loop's epoll set, which parent and child share.
_of_the_parent: list[object] = []


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
        self.budget = RetryBudget()
        self._addresses = addresses
        self._hello = hello
        self._connect_timeout_ms = connect_timeout_ms
        self._closed = False
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._endpoints: Endpoints[Connection] = Endpoints(addresses)
        self._only = self._endpoints.all[0] if len(addresses) == 1 else None
        self._dialing: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Future[None]] = set()  # callers, until an attempt to connect has ended

    async def connection(self, call: Call, patience: int, avoid: Connection | None = None) -> Connection:
        """A connection that takes calls; not `avoid`, if another address has one.

        `patience` is how long to wait for one: `endpoints.ONCE_KNOWN`, say. Raises DeadlineExceeded when the call's
        time is up, and what keeps it from connecting.
        """
        loop = asyncio.get_running_loop()
        if self._home is None or self._home[1] is not loop or self._home[0] != os.getpid():
            self._move_in(loop)
        if self._only is not None:
            connection = self._only.connection
            if connection is not None and connection.conversation.usable:
                return connection
        endpoints, waiter = self._endpoints, Waiter(self._endpoints, patience)
        while True:
            if self._closed:
                raise RuntimeError("this client is closed")
            now = monotonic()
            for endpoint in endpoints.due(now, waiter):
                dialing = loop.create_task(self._dial(endpoint, loop))
                self._dialing.add(dialing)
                dialing.add_done_callback(self._dialing.discard)
            connection = endpoints.choose(call, avoid)
            if connection is not None:
                return connection
            if now >= call.deadline:
                raise call.time_up(endpoints.problem) from endpoints.problem
            hopeless = endpoints.hopeless(waiter)
            if hopeless is not None:
                raise copy.copy(hopeless) from hopeless  # one of its own for every caller: errors collect tracebacks
            await self._wait(loop, min(call.deadline, endpoints.next_due()) - now)

    async def close(self) -> None:
        """Ends the connections; there will be no others."""
        self._closed = True
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            return
        self._wake()
        for dialing in tuple(self._dialing):
            dialing.cancel()
            with suppress(asyncio.CancelledError):
                await dialing
        for connection in self._endpoints.connections():
            await connection.close()

    def _move_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """The connections of another loop, or of the process this one was forked from, are not for here."""
        if self._home is not None and self._home[0] != os.getpid():
            _of_the_parent.append((self._endpoints, self._dialing, self._waiting))
            self.budget = RetryBudget()
        known = self._endpoints.known
        self._endpoints = Endpoints(self._addresses)
        self._endpoints.known = known
        self._only = self._endpoints.all[0] if len(self._addresses) == 1 else None
        self._dialing, self._waiting = set(), set()
        self._home = (os.getpid(), loop)

    async def _wait(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Returns when an attempt to connect has ended, or the time is up."""
        waiter = loop.create_future()
        self._waiting.add(waiter)
        timer = loop.call_later(timeout_s, _settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            _settle(waiter)

    async def _dial(self, endpoint: Endpoint[Connection], loop: asyncio.AbstractEventLoop) -> None:
        endpoints = self._endpoints
        try:
            connection = await self._connect(endpoint.address, loop)
        except Exception as error:
            endpoints.failed(endpoint, error, monotonic())
        else:
            endpoints.connected(endpoint, connection, monotonic())
        self._wake()

    async def _connect(self, address: Address, loop: asyncio.AbstractEventLoop) -> Connection:
        connection = Connection(address, self._hello(), loop)
        try:
            async with asyncio.timeout(self._connect_timeout_ms / 1000):
                if address.path:
                    await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    tls = self._tls if address.tls else None
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=tls)
                await connection.greet()
        except OSError as error:
            raise connect_failed(address, error) from error
        return connection


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
