"""The command line as its users meet it: words in; what it prints and its exit code out."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from inferd_client.testing import FakeServer

from inferd import cli


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def inferd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `inferd` with these words in this process, `stdin` as its standard input."""

    def run(*words: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["inferd", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


def inferd_process(*words: str, stdin: bytes = b"") -> Said:
    """Runs `inferd` as a process of its own."""
    command = [sys.executable, "-m", "inferd", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def process() -> Run:
    return inferd_process


@pytest.fixture(scope="session")
def daemon_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real daemon that serves echo and virtual, as `inferd serve` starts it."""
    url = f"inferd+unix://{tmp_path_factory.mktemp('daemon') / 'inferd.sock'}"
    command = [sys.executable, "-m", "inferd", "serve", "echo", "virtual", "--listen", url, "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        assert serving.stdout is not None
        lines = iter(serving.stdout.readline, "")
        assert any("is ready" in line for line in lines), "the daemon did not start"
        yield url
        serving.terminate()
        serving.wait(20)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server without a daemon: `echo` gives back its inputs, `greet` answers text with text."""
    models = {"echo": lambda inputs: inputs, "greet": lambda inputs: {"greeting": f"Hello, {inputs['text']}!"}}
    with FakeServer(models) as server:
        yield server


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """The address of a daemon that does not run."""
    return f"inferd+unix://{tmp_path / 'nobody.sock'}"
