"""The client for threads and plain scripts."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Self

from inferd.wire import frame as f
from inferd_client.base import STREAM_IN_FLIGHT, BaseClient, checked_count
from inferd_client.call import DONE, MOVED, Call, Result
from inferd_client.endpoints import ALWAYS
from inferd_client.link import Link
from inferd_client.retry import MAX_RETRIES, backoff_s

_END: Any = object()


class Client(BaseClient):
    """Connections to an inferd server, or to several, for any number of threads.

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
        return self._call(self._new_call(f.INFER, timeout_ms, request))

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
        return self._call(self._new_call(f.INFER, timeout_ms, request))

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, Any]],
        *,
        timeout_ms: float | None = None,
        priority: str | None = None,
        timing: bool = False,
        max_in_flight: int = STREAM_IN_FLIGHT,
    ) -> Iterator[Result]:
        """Runs `model` on each item of `inputs`, many at a time, and returns their outputs in the same order.

        `inputs` may be endless: no more than `max_in_flight` items are taken from it beyond the results that have been
        taken. `timeout_ms` is for each item. An item that fails raises in its place what `infer` raises; that, or
        leaving the loop, cancels those behind it. What `inputs` raises comes behind the answers to what it gave before.

        `inputs` is read in the caller's thread, and while it waits for its next item no result is handed out. If they
        come slowly, `AsyncClient.stream` with an asynchronous iterable hands out each result when it is there.
        """
        from concurrent.futures import Future  # only here, because few need it

        from inferd_client.stream import StreamThreads

        checked_count("max_in_flight", max_in_flight, 1)
        waiting: deque[Future[Result]] = deque()
        threads = StreamThreads(self._call, self._link.cancel)
        try:
            items = iter(inputs)
            while True:
                try:
                    item = next(items, _END)
                    if item is _END:
                        break
                    request = self._request(model, item, False, priority, None, timing)
                    call = self._new_call(f.INFER, timeout_ms, request)
                except Exception as error:
                    # Those before it have their answers first, and there are none behind it.
                    failed: Future[Result] = Future()
                    failed.set_exception(error)
                    waiting.append(failed)
                    break
                waiting.append(threads.submit(call))
                while waiting and (len(waiting) >= max_in_flight or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.leave()

    def models(self) -> list[dict[str, Any]]:
        """The models served, as the server described them when it was connected to.

        Each has "name", "inputs" and "outputs" ([name, dtype, shape] each; −1 is any size) and "max_batch_size".
        """
        call = self._new_call(f.HELLO, None)
        self._link.connection(call, self._patience).look()  # when they change, the server asks us to connect anew
        return self._link.connection(call, self._patience).conversation.models.copy()

    def status(self) -> dict[str, Any]:
        """What the server says about itself now: models, queues, workers."""
        return self._call(self._new_call(f.STATUS, None))

    def ping(self) -> float:
        """The time to the server and back, in seconds."""
        call = self._new_call(f.PING, None)
        self._link.connection(call, self._patience)  # which is not to be measured
        start = monotonic()
        self._call(call)
        return monotonic() - start

    def wait_ready(self, *, timeout_ms: float | None = None) -> None:
        """Returns when the server answers; until then keeps trying to connect.

        Raises DeadlineExceeded after `timeout_ms`, with the last failure as its cause.
        """
        call = self._new_call(f.PING, timeout_ms)
        attempt = 0
        connection = None
        while True:
            connection = self._link.connection(call, ALWAYS, connection)
            connection.run(call)
            if call.state == DONE and (call.error is None or not call.error.retryable):
                call.answer()
                return
            pause_s = backoff_s(attempt, random.random())
            self._link.pause(call, min(pause_s, call.deadline - monotonic()))
            attempt += 1
            call.again()

    def close(self) -> None:
        """Ends the connections. Calls that other threads wait for raise Cancelled; calls after it, RuntimeError."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call) -> Result:
        """Sends a call, and again if need be, and returns its answer."""
        link, patience = self._link, self._patience
        connection = link.connection(call, patience)
        link.budget.earn()
        connection.run(call)
        retries = 0
        while call.state == MOVED or call.error is not None:
            pause_s = self._pause_s(call, retries, link.budget)
            if pause_s is None:
                break
            retries += call.state != MOVED
            link.pause(call, pause_s)
            call.again()
            connection = link.connection(call, patience, connection)
            connection.run(call)
        return call.answer()
