"""The client for asyncio, on its own loop or uvloop's."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Self

from inferd.wire import frame as f
from inferd_client.aio_link import Link
from inferd_client.base import STREAM_IN_FLIGHT, BaseClient, checked_count
from inferd_client.call import DONE, MOVED, Call, Result
from inferd_client.endpoints import ALWAYS
from inferd_client.retry import MAX_RETRIES, backoff_s

Item = Mapping[str, Any]
_END = object()


class AsyncClient(BaseClient):
    """Connections to an inferd server, or to several, for any number of tasks of one event loop.

    `url` is `inferd://host[:port]`, `inferds://host[:port]` (TLS) or `inferd+unix:///path`, or several of them with
    commas between; without one it is $INFERD_URL, or the default port of this machine. `token` is for a server that
    asks for one; without it, it is what the file $INFERD_TOKEN_FILE holds ("" shows none). `timeout_ms` is what each
    call may take, connecting and retries included ($INFERD_TIMEOUT_MS, or 30,000); `connect_timeout_ms` what one
    attempt to connect may take (5,000). The URL can say these, too: `?timeout_ms=500`.

    Connections are made by the first call and made again after they were lost; a forked child makes its own. A call
    that no server has taken waits for a connection, once one has answered before. One that failed with what may pass
    is sent again at most `max_retries` times; with 0 every problem is told at once.

    For TLS, `ca` is a PEM file of whose signature to trust (by default, whom the system trusts), `cert` and `key` are
    what to show to a server that asks for a certificate ($INFERD_CA, $INFERD_CERT, $INFERD_KEY).

    Raises ConfigError for a URL, an environment variable, or a file of these that cannot be used.
    """

    # The loop reads at all times, so a server may ask for a sign of life at all times.
    _features = ("ping",)

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout_ms: float | None = None,
        connect_timeout_ms: float | None = None,
        max_retries: int = MAX_RETRIES,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(url, timeout_ms, connect_timeout_ms, max_retries)
        tls = self._target.tls(ca, cert, key)
        self._link = Link(self._target.addresses, self._hello(token), self._connect_timeout_ms, tls)

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
        return await self._call(self._new_call(f.INFER, timeout_ms, request))

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
        return await self._call(self._new_call(f.INFER, timeout_ms, request))

    async def stream(
        self,
        model: str,
        inputs: Iterable[Item] | AsyncIterable[Item],
        *,
        timeout_ms: float | None = None,
        priority: str | None = None,
        timing: bool = False,
        max_in_flight: int = STREAM_IN_FLIGHT,
    ) -> AsyncIterator[Result]:
        """Runs `model` on each item of `inputs`, many at a time, and returns their outputs in the same order; what
        `Client.stream` says holds here. `inputs` may be an asynchronous iterable: while that waits for its next item,
        results are handed out all the same.
        """
        checked_count("max_in_flight", max_in_flight, 1)
        items = _pulled(inputs)
        pulling: asyncio.Task[Any] | None = None
        waiting: deque[asyncio.Task[Any]] = deque()
        more = True
        try:
            while more or waiting:
                if more and pulling is None and len(waiting) < max_in_flight:
                    pulling = asyncio.ensure_future(anext(items, _END))
                pending: list[asyncio.Task[Any]] = [task for task in (pulling, *waiting) if task is not None][:2]
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if pulling is not None and pulling.done():
                    pulled, pulling = pulling, None
                    if isinstance(pulled.exception(), Exception):
                        more = False
                        waiting.append(pulled)  # those before it have their answers first
                    elif more := (item := pulled.result()) is not _END:
                        call = self.infer(model, item, timeout_ms=timeout_ms, priority=priority, timing=timing)
                        waiting.append(asyncio.ensure_future(call))
                while waiting and waiting[0].done():
                    yield waiting.popleft().result()
        finally:
            tasks = [task for task in (pulling, *waiting) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await items.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """The models served, as the server described them when it was connected to.

        Each has "name", "inputs" and "outputs" ([name, dtype, shape] each; −1 is any size) and "max_batch_size".
        """
        connection = await self._link.connection(self._new_call(f.HELLO, None), self._patience)
        return connection.conversation.models.copy()

    async def status(self) -> dict[str, Any]:
        """What the server says about itself now: models, queues, workers."""
        return await self._call(self._new_call(f.STATUS, None))

    async def ping(self) -> float:
        """The time to the server and back, in seconds."""
        call = self._new_call(f.PING, None)
        await self._link.connection(call, self._patience)  # which is not to be measured
        start = monotonic()
        await self._call(call)
        return monotonic() - start

    async def wait_ready(self, *, timeout_ms: float | None = None) -> None:
        """Returns when the server answers; until then keeps trying to connect.

        Raises DeadlineExceeded after `timeout_ms`, with the last failure as its cause.
        """
        call = self._new_call(f.PING, timeout_ms)
        attempt = 0
        while True:
            connection = await self._link.connection(call, ALWAYS)
            await connection.run(call)
            if call.state == DONE and (call.error is None or not call.error.retryable):
                call.answer()
                return
            pause_s = backoff_s(attempt, random.random())
            await self._link.pause(min(pause_s, call.deadline - monotonic()))
            attempt += 1
            call.again()

    async def close(self) -> None:
        """Ends the connections. Calls that other tasks wait for raise Cancelled; calls after it, RuntimeError."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call) -> Result:
        """Sends a call, and again if need be, and returns its answer."""
        link, patience = self._link, self._patience
        connection = await link.connection(call, patience)
        link.budget.earn()
        await connection.run(call)
        retries = 0
        while call.state == MOVED or call.error is not None:
            pause_s = self._pause_s(call, retries, link.budget)
            if pause_s is None:
                break
            retries += call.state != MOVED
            await link.pause(pause_s)
            call.again()
            connection = await link.connection(call, patience, connection)
            await connection.run(call)
        return call.answer()


async def _pulled(inputs: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    if isinstance(inputs, AsyncIterable):
        async for item in inputs:
            yield item
    else:
        for item in inputs:
            yield item
