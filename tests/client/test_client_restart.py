"""Real daemons, one after the other behind one address, and a client that does not notice."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from tests.client.client_kinds import Background, open_client


@contextmanager
def daemon(url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`inferd serve` with the built-in echo, not waited for until its end."""
    start = [sys.executable, "-P", "-m", "inferd", "serve", "echo", "--listen", url, "--device", "cpu"]
    with log.open("wb") as said, subprocess.Popen(start, stdout=said, stderr=said) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("kind", "transport"), [("sync", "tcp"), ("asyncio", "unix")])
def test_a_daemon_is_replaced_under_load(tmp_path: Path, kind: str, transport: str) -> None:
    """The old one gets SIGTERM while calls come at their own pace; every call is answered, by one or the other."""
    url = f"inferd+unix://{tmp_path}/s"
    if transport == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as sock:
            url = f"inferd://127.0.0.1:{sock.getsockname()[1]}"
    with daemon(url, tmp_path / "old.log") as old, open_client(kind, url, timeout_ms=60_000) as client:
        client.wait_ready()
        done: list[bool] = []
        calls: list[Background] = []

        def ask(n: int) -> Any:
            return client.infer("echo", {"n": n, "x": np.full(100, n)})

        def load() -> None:
            while not done:
                n = len(calls)
                calls.append(Background(lambda n=n: ask(n)))  # type: ignore[misc]
                sleep(0.01)

        loading = Background(load)
        sleep(0.2)
        old.send_signal(signal.SIGTERM)
        assert old.wait(30) == 0
        with daemon(url, tmp_path / "new.log"):
            client.wait_ready()
            until = monotonic() + 0.3
            while monotonic() < until:
                client.infer("echo", {})
            done.append(True)
            loading.result()
            answers = [call.result() for call in calls]
    assert [answer["n"] for answer in answers] == list(range(len(answers)))
    assert all((answer["x"] == answer["n"]).all() for answer in answers) and len(answers) > 20


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_what_crosses_goaway_is_not_lost(tmp_path: Path, kind: str) -> None:
    """Many calls are on their way in the moment in which an idle daemon is told to stop: none is told that its
    connection was lost, and none of them spends the few retries that there are."""
    url = f"inferd+unix://{tmp_path}/s"
    with daemon(url, tmp_path / "old.log") as old, open_client(kind, url, timeout_ms=60_000) as client:
        client.wait_ready()
        calls: list[Background] = []
        old.send_signal(signal.SIGTERM)
        while old.poll() is None and (n := len(calls)) < 300:
            calls.append(Background(lambda n=n: client.infer("echo", {"n": n})))  # type: ignore[misc]
        assert old.wait(30) == 0
        with daemon(url, tmp_path / "new.log"):
            answers = [call.result() for call in calls]
    assert [answer["n"] for answer in answers] == list(range(len(answers)))
