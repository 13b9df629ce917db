"""The client for asyncio, on its own loop or uvloop's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self

from inferd.errors import DeadlineExceeded, RequestError, make
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.aio_connection import Connection
from inferd_client.base import BaseClient, connect_problem, retry_delay_s
from inferd_client.call import MOVED, Call, Result
from inferd_client.codec import Request

# In a forked child: what belongs to the parent is kept as it is. Freeing a transport may take its socket out of the
# loop's epoll set, which parent and child share.
_of_the_parent: list[Connection | None] = []


class Link:
    """The connection that clients share: made when it is needed, and again when it has ended.

    It belongs to an event loop and a process; in another loop, or in a forked child, a new one is made.
    """

    def __init__(self, address: Address, hello: Hello, connect_timeout_ms: float) -> None:
        self._address = address
        self._hello = hello
        self._connect_timeout_ms = connect_timeout_ms
        self._connection: Connection | None = None
        self._dialing: asyncio.Task[Connection] | None = None
        self._closed = False
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None

    async def connection(self, call: Call) -> Connection:
        """A connection that takes calls. Raises Unavailable, or DeadlineExceeded when the call's time is up."""
        loop = asyncio.get_running_loop()
        home = (os.getpid(), loop)
        if self._home != home:
            if self._home is not None and self._home[0] != home[0]:
                _of_the_parent.append(self._connection)
            self._home, self._connection, self._dialing = home, None, None
        connection = self._connection
        if connection is not None and connection.conversation.usable:
            return connection
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._dialing is None:
            self._dialing = loop.create_task(self._dial(loop))
            self._dialing.add_done_callback(_retrieved)
        try:
            async with asyncio.timeout(max(call.deadline - monotonic(), 0)):
                # Shielded: others may wait for the same connection.
                return await asyncio.shield(self._dialing)
        except TimeoutError as error:
            raise call.time_up() from error

    async def close(self) -> None:
        """Ends the connection; there will be no other."""
        self._closed = True
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            return
        if self._dialing is not None:
            self._dialing.cancel()
            with suppress(asyncio.CancelledError, RequestError):
                await self._dialing
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> Connection:
        address = self._address
        connection = Connection(address, self._hello, loop)
        try:
            async with asyncio.timeout(self._connect_timeout_ms / 1000):
                if address.path:
                    await loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await loop.create_connection(lambda: connection, address.host, address.port)
                await connection.greet()
        except OSError as error:
            raise make("CONNECT_FAILED", address=address, problem=connect_problem(error)) from error
        finally:
            # Here and not in a callback: a caller that tries again without a pause gets no callback in between.
            if self._dialing is asyncio.current_task():
                self._dialing = None
        self._connection = connection
        return connection


def _retrieved(dialing: asyncio.Task[Connection]) -> None:
    if not dialing.cancelled():
        dialing.exception()  # whoever still waits for it has it; if nobody does, nobody wants to know


class AsyncClient(BaseClient):
    """A connection to an inferd server, for any number of tasks of one event loop.

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

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        timeout_ms: float | None = None,
        priority: str | None = None,
        supersede: str | None = None,
        timing: bool = False,
    ) -> Result:
        """Runs `model` on one item and returns its outputs by name; what `Client.infer` says holds here.

        Cancelling the task cancels the request at the server.
        """
        request = self._request(model, inputs, False, priority, supersede, timing)
        return await self._call(f.INFER, timeout_ms, request)

    async def infer_batch(
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
        return await self._call(f.INFER, timeout_ms, request)

    async def models(self) -> list[dict[str, Any]]:
        """The models served, as the server described them when it was connected to.

        Each has "name", "inputs" and "outputs" ([name, dtype, shape] each; −1 is any size) and "max_batch_size".
        """
        connection = await self._link.connection(self._new_call(f.HELLO, None))
        return connection.conversation.models.copy()

    async def status(self) -> dict[str, Any]:
        """What the server says about itself now: models, queues, workers."""
        return await self._call(f.STATUS, None)

    async def ping(self) -> float:
        """The time to the server and back, in seconds."""
        await self._link.connection(self._new_call(f.PING, None))
        start = monotonic()
        await self._call(f.PING, None)
        return monotonic() - start

    async def wait_ready(self, *, timeout_ms: float | None = None) -> None:
        """Returns when the server answers; until then keeps trying to connect.

        Raises DeadlineExceeded after `timeout_ms`, with the last failure as its cause.
        """
        waiting = self._new_call(f.PING, timeout_ms)
        failure: RequestError | None = None
        attempt = 0
        while (remaining := waiting.deadline - monotonic()) > 0:
            try:
                await self._call(f.PING, remaining * 1000)
                return
            except DeadlineExceeded as error:
                failure = failure or error  # what went wrong before it says more
            except RequestError as error:
                if not error.retryable:
                    raise
                failure = error
            await asyncio.sleep(max(min(retry_delay_s(attempt), waiting.deadline - monotonic()), 0))
            attempt += 1
        raise waiting.time_up() from failure

    async def close(self) -> None:
        """Ends the connection. Calls that other tasks wait for raise Cancelled; calls after it, RuntimeError."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _new_call(self, kind: int, timeout_ms: float | None, request: Request | None = None) -> Call:
        budget_ms = self._budget_ms(timeout_ms)
        return Call(kind, monotonic() + budget_ms / 1000, budget_ms, request)

    async def _call(self, kind: int, timeout_ms: float | None, request: Request | None = None) -> Result:
        call = self._new_call(kind, timeout_ms, request)
        moves = 0
        while True:
            connection = await self._link.connection(call)
            await connection.run(call)
            if call.state != MOVED:
                return call.answer()
            if moves:
                # A server that is leaving sends everybody away who comes: do not storm it.
                await asyncio.sleep(retry_delay_s(moves))
            moves += 1
