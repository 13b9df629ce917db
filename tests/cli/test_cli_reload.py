"""`inferd reload`, and SIGHUP."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from inferd.cli import cli
from inferd.errors import InferdError


def test_a_reload_is_asked_for_over_a_unix_socket() -> None:
    """An address of TCP is a mistake on the command line."""
    done = CliRunner().invoke(cli, ["reload", "inferd://127.0.0.1:7433"])
    assert done.exit_code == 2 and "inferd+unix:///PATH" in done.output


def test_no_daemon_is_a_sentence(tmp_path: Path) -> None:
    """It names the path and what to type."""
    done = CliRunner().invoke(cli, ["reload", f"inferd+unix://{tmp_path}/none.sock"])
    assert isinstance(done.exception, InferdError)
    assert f"cannot reach a daemon at {tmp_path}/none.sock" in str(done.exception)
    assert "inferd reload inferd+unix:///PATH" in str(done.exception)


@pytest.mark.parametrize("url", ["inferd+unix://{}/named.sock", "inferd+unix://{}/named.sock?timeout_ms=5"])
def test_the_environment_names_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """$INFERD_URL, where it is a Unix socket; a daemon without one is told by SIGHUP."""
    monkeypatch.setenv("INFERD_URL", url.format(tmp_path))
    done = CliRunner().invoke(cli, ["reload"])
    assert f"cannot reach a daemon at {tmp_path}/named.sock" in str(done.exception)
    assert "SIGHUP" in str(done.exception)


def test_an_environment_that_names_no_socket_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for the other verbs."""
    monkeypatch.setenv("INFERD_URL", "inferd://127.0.0.1:7433")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = CliRunner().invoke(cli, ["reload"])
    assert f"cannot reach a daemon at {tmp_path}/inferd.sock" in str(done.exception)


def serve_in_terminal(folder: Path) -> tuple[subprocess.Popen[bytes], int, Path]:
    """A daemon that a terminal controls, the terminal, and its log."""
    ours, theirs = pty.openpty()
    log = folder / "log"
    command = [sys.executable, "-m", "inferd", "serve", "echo", "--device", "cpu"]
    command += ["--listen", f"inferd+unix://{folder}/inferd.sock"]
    # `setsid --ctty` is not everywhere: the child takes the terminal by opening it as the head of a new session.
    opening = f"import os, sys; os.open({os.ttyname(theirs)!r}, os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", opening, *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    os.close(theirs)
    return process, ours, log


def until(log: Path, word: str) -> None:
    deadline = time.monotonic() + 60
    while word not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def test_a_closed_terminal_is_no_reload(tmp_path: Path) -> None:
    """SIGHUP of an operator reloads; that of a terminal which is closed drains, and the daemon ends with 0."""
    process, terminal, log = serve_in_terminal(tmp_path)
    try:
        until(log, "is ready")
        os.kill(process.pid, signal.SIGHUP)
        until(log, "reloaded changed=nothing")
        os.close(terminal)
        assert process.wait(60) == 0
        assert "draining" in log.read_text()
    finally:
        process.kill()
        process.wait()


def test_what_has_changed_does_nothing_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers: control characters are shown by their codes."""
    monkeypatch.setattr(sys.modules["inferd.cli.reload"], "ask", lambda path: ["\x1b]0;pwned\x07"])
    done = CliRunner().invoke(cli, ["reload", "inferd+unix:///x.sock"])
    assert done.output == "\\x1b]0;pwned\\x07\n"
