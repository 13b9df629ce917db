"""What the clients of an event loop share: a connection for each address, made when it is needed and again when it has
ended.

Connections belong to a loop and a process: in another loop, or in a forked child, new ones are made.
"""

from __future__ import annotations

import asyncio
import copy
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from inferd.errors import make
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.aio_connection import Connection
from inferd_client.base import connect_failed, connect_problem
from inferd_client.call import Call
from inferd_client.endpoints import FULL_QUEUE_S, Endpoint, Endpoints, Waiter
from inferd_client.retry import RetryBudget

if TYPE_CHECKING:
    from ssl import SSLContext

# How long one address of a host has before the next is tried beside it, as RFC 8305 recommends; less if the time for
# connecting would end before each had its turn.
HEAD_START_S = 0.25

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
        self._there: set[Connection] = set()  # whose transports have not ended
        self._dialing: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Future[None]] = set()  # callers, until an attempt to connect has ended
        self._pausing: set[asyncio.Future[None]] = set()  # callers, before they try again

    async def connection(self, call: Call, patience: int, avoid: Connection | None = None) -> Connection:
        """A connection that takes calls; not `avoid`, if another address has one.

        `patience` is how long to wait for one: `endpoints.ONCE_KNOWN`, say. Raises DeadlineExceeded when the call's
        time is up, and what keeps it from connecting; Cancelled if the client is closed while the call is under way.
        """
        if self._closed and call.home is None:
            raise RuntimeError("this client is closed")
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
                raise make("CLIENT_CANCELLED")
            # First, or somebody who is about to be told would have it dialled once more.
            hopeless = endpoints.hopeless(waiter)
            if hopeless is not None:
                raise copy.copy(hopeless) from hopeless  # one of its own for every caller: errors collect tracebacks
            now = monotonic()
            for endpoint in endpoints.due(now, waiter):
                dialing = loop.create_task(self._dial(endpoint, loop))
                self._dialing.add(dialing)
                dialing.add_done_callback(partial(self._dialed, endpoint))
            connection = endpoints.choose(call, avoid)
            if connection is not None:
                return connection
            if now >= call.deadline:
                raise call.time_up(endpoints.problem) from endpoints.problem
            await _wait(loop, self._waiting, min(call.deadline, endpoints.next_due()) - now)

    async def pause(self, seconds: float) -> None:
        """Returns after a while, or when the client is closed: nobody waits for that in vain."""
        await _wait(asyncio.get_running_loop(), self._pausing, seconds)

    async def close(self) -> None:
        """Ends the connections; there will be no others."""
        self._closed = True
        if self._home != (os.getpid(), asyncio.get_running_loop()):
            return
        _wake(self._waiting)
        _wake(self._pausing)
        ending: list[asyncio.Future[None]] = []
        for dialing in self._dialing:
            dialing.cancel()
            ending.append(dialing)
        for connection in self._there:
            connection.close()
            ending.append(connection.ended)
        if ending:
            await asyncio.wait(ending)

    def _move_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """The connections of another loop, or of the process this one was forked from, are not for here."""
        if self._home is not None and self._home[0] != os.getpid():
            _of_the_parent.append((self._endpoints, self._there, self._dialing, self._waiting, self._pausing))
            self.budget = RetryBudget()
        known = self._endpoints.known
        self._endpoints = Endpoints(self._addresses)
        self._endpoints.known = known
        self._only = self._endpoints.all[0] if len(self._addresses) == 1 else None
        self._there, self._dialing, self._waiting, self._pausing = set(), set(), set(), set()
        self._home = (os.getpid(), loop)

    async def _dial(self, endpoint: Endpoint[Connection], loop: asyncio.AbstractEventLoop) -> None:
        endpoints = self._endpoints
        try:
            connection = await self._connect(endpoint.address, loop)
        except Exception as error:
            endpoints.failed(endpoint, error, monotonic())
        else:
            endpoints.connected(endpoint, connection, monotonic())
        _wake(self._waiting)

    def _dialed(self, endpoint: Endpoint[Connection], dialing: asyncio.Task[None]) -> None:
        self._dialing.discard(dialing)
        if dialing.cancelled():
            # By somebody who cancels all the tasks there are, maybe before it has begun: others may dial again.
            endpoint.dialing = False
            _wake(self._waiting)

    async def _connect(self, address: Address, loop: asyncio.AbstractEventLoop) -> Connection:
        hello, there = self._hello(), self._there
        try:
            timeout_s = max(self._connect_timeout_ms / 1000, 0.001)  # no time at all would mean: do not try
            async with asyncio.timeout(timeout_s):
                if address.path:
                    sock = await _connected_unix(address.path)
                    connection = Connection(sock, address, hello, loop)
                    await loop.create_unix_connection(lambda: connection, sock=sock)
                else:
                    sock = await _connected(loop, address.host, address.port, timeout_s)
                    connection = Connection(sock, address, hello, loop)
                    tls, name = (self._tls, address.host) if address.tls else (None, None)
                    await loop.create_connection(lambda: connection, sock=sock, ssl=tls, server_hostname=name)
                there.add(connection)
                connection.ended.add_done_callback(lambda _: there.discard(connection))
                await connection.greet()
        except OSError as error:
            raise connect_failed(address, error) from error
        return connection


async def _wait(loop: asyncio.AbstractEventLoop, waiting: set[asyncio.Future[None]], timeout_s: float) -> None:
    """Returns when those who are `waiting` are woken, or the time is up."""
    waiter = loop.create_future()
    waiting.add(waiter)
    timer = loop.call_later(timeout_s, _settle, waiter)
    try:
        await waiter
    finally:
        timer.cancel()
        waiting.discard(waiter)


def _wake(waiting: set[asyncio.Future[None]]) -> None:
    for waiter in waiting:
        _settle(waiter)


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def _connected_unix(path: str) -> socket.socket:
    """A socket that is connected to `path`.

    The loops take it for connected while the server's queue of connections is full, or give up at once.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                await asyncio.sleep(FULL_QUEUE_S)
    except BaseException:
        sock.close()
        raise


async def _connected(loop: asyncio.AbstractEventLoop, host: str, port: int, timeout_s: float) -> socket.socket:
    """A socket that is connected to the first address of a host that answers ("happy eyeballs").

    A silent address keeps the next ones waiting for a moment only. asyncio itself can do that; uvloop cannot.
    """
    addresses = deque(await _addresses(loop, host, port))
    head_start_s = min(HEAD_START_S, timeout_s / max(len(addresses), 1))
    attempts: set[asyncio.Task[socket.socket | OSError]] = set()
    problems: dict[str, OSError] = {}
    try:
        while addresses or attempts:
            if addresses:
                attempts.add(loop.create_task(_attempt(loop, addresses.popleft())))
            patience_s = head_start_s if addresses else None
            ended, attempts = await asyncio.wait(attempts, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for attempt in ended:
                outcome = attempt.result()
                if isinstance(outcome, OSError):
                    problems[connect_problem(outcome)] = outcome
                else:
                    attempts |= ended - {attempt}
                    return outcome
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_drop)
    if len(problems) == 1:
        raise problems.popitem()[1]
    raise OSError("; ".join(problems) or "the name has no addresses")


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
    """The addresses of a host, as `getaddrinfo` describes them."""
    try:
        # What is an address already needs no thread to be looked up.
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _attempt(loop: asyncio.AbstractEventLoop, where: Any) -> socket.socket | OSError:
    """A socket that is connected to one address of `getaddrinfo`, or why there is none."""
    family, kind, protocol, _, address = where
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as problem:  # a family that this machine does not have
        return problem
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except OSError as problem:
        sock.close()
        return problem
    except BaseException:
        sock.close()
        raise
    return sock


def _drop(attempt: asyncio.Task[socket.socket | OSError]) -> None:
    """Another address was faster, or nobody waits any longer."""
    if not attempt.cancelled() and isinstance(sock := attempt.result(), socket.socket):
        sock.close()
