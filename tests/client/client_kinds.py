"""One face for all clients, so that one list of behaviours holds for each: blocking calls, from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from inferd_client import AsyncClient, Client

KINDS = ["sync", "asyncio", "uvloop"]


class Blocking:
    """An AsyncClient whose methods block; its loop runs in a thread."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self.loop = loop

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.client, name)
        return lambda *args, **options: self.wait(method(*args, **options))

    def with_options(self, **options: Any) -> Blocking:
        return Blocking(self.client.with_options(**options), self.loop)


@contextmanager
def running_loop(kind: str) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread."""
    if kind == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def open_client(kind: str, url: str, **options: Any) -> Iterator[Any]:
    """A client of the kind, with blocking methods."""
    if kind == "sync":
        with Client(url, **options) as client:
            yield client
        return
    with running_loop(kind) as loop:
        client = Blocking(AsyncClient(url, **options), loop)
        try:
            yield client
        finally:
            client.close()


class Background:
    """A call in a thread of its own; `result()` is what it returned or raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the call did not end"
        if self._error is not None:
            raise self._error
        return self._result


class Held:
    """A model that answers when it is told to."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        assert self.release.wait(20)
        return inputs
