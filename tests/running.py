"""A daemon for a test: engine, listener and workers on a loop in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from inferd.config import ModelConfig, Settings
from inferd.serve.engine import Engine
from inferd.serve.executor import Executor
from inferd.serve.listener import Listener
from inferd.wire.address import Address
from tests.kept import KeptForkServer

# `make gpu-test` runs the same tests with the workers on a GPU.
DEVICE = os.environ.get("TEST_DEVICE", "cpu")
DOUBLES = Path(__file__).with_name("doubles.py")
T = TypeVar("T")

# Threads that outlive the daemons in them, for the fork servers that are kept.
_threads = ThreadPoolExecutor(thread_name_prefix="daemon")


def double(name: str, **options: Any) -> ModelConfig:
    """A model of tests/doubles.py, served under its name in small letters."""
    return ModelConfig(name.lower(), f"{DOUBLES}:{name}", options)


class Daemon:
    """A running daemon, as a test sees it."""

    def __init__(self, engine: Engine, url: str, unix_url: str, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self.url = url
        self.unix_url = unix_url
        self._loop = loop

    def ask(self, question: Callable[[], T]) -> T:
        """The answer of `question`, asked on the loop's thread."""

        async def call() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Returns when `condition` holds on the loop's thread; fails when it never does."""

        async def wait() -> None:
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 (the condition is somebody else's state)
                    await asyncio.sleep(0.002)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(timeout_s + 1)


def end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM. Fails when the process has not ended after 20 seconds, and then it is killed: nobody shall wait for it
    in silence."""
    process.terminate()
    try:
        process.wait(20)
    finally:
        process.kill()


@contextlib.contextmanager
def running(
    tmp_path: Path, *models: ModelConfig, executor: str = "process", use_uvloop: bool = True, **settings: Any
) -> Iterator[Daemon]:
    """Serves `models` until the block ends."""
    started = threading.Event()
    box: dict[str, Any] = {}

    async def main() -> None:
        unix = Address(path=str(tmp_path / "inferd.sock"))
        chosen = Settings(
            models=models,
            listen=(Address(host="127.0.0.1", port=0, tls="tls_cert" in settings), unix),
            **{"devices": (DEVICE,), **settings},
        )
        runs: Executor
        if executor == "inline":
            from inferd.work.inline import InlineExecutor

            runs = InlineExecutor()
        else:
            runs = KeptForkServer(chosen)
        engine = Engine(chosen, runs)
        listener = Listener(engine)
        stop = asyncio.Event()
        try:
            await engine.start()
            urls = [str(await listener.open(address)) for address in chosen.listen]
            box["daemon"] = Daemon(engine, urls[0], urls[1], asyncio.get_running_loop())
            box["stop"] = stop
            started.set()
            await stop.wait()
        finally:
            listener.close()
            await engine.close()

    def run() -> None:
        try:
            if use_uvloop:
                import uvloop

                uvloop.run(main())
            else:
                asyncio.run(main())
        except BaseException as error:
            box["error"] = error
        finally:
            started.set()

    ended = _threads.submit(run)
    started.wait()
    try:
        if "error" in box:
            raise box["error"]
        yield box["daemon"]
    finally:
        if "daemon" in box:
            box["daemon"]._loop.call_soon_threadsafe(box["stop"].set)
        ended.result(20)
    if "error" in box:
        raise box["error"]
