"""`inferd doctor`: what stands in the way of a daemon, and what does not."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from inferd.cli import cli

# `inferd.cli.doctor` is the command, and this the module.
doctor = sys.modules["inferd.cli.doctor"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs it with torch's answer about devices made up; (exit code, the findings as level → texts)."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(doctor, "_ask_torch", lambda: {"cuda": None, "devices": []})

    def ask(*words: str) -> tuple[int, dict[str, list[str]]]:
        done = CliRunner().invoke(cli, ["doctor", *words], catch_exceptions=False)
        found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
        for line in done.output.splitlines():
            level, text = re.split(r" +", line, maxsplit=1)
            found[level].append(text)
        return done.exit_code, found

    return ask


def test_a_machine_that_can_serve(asked: Any) -> None:
    """Exit 0, a line each, nothing failed."""
    code, found = asked("--listen", "inferd://127.0.0.1:0", "--device", "cpu", "--slab-mib", "16", "--payload-mib", "4")
    assert code == 0 and not found["fail"]
    said = "\n".join(found["ok"] + found["warn"])
    for what in ("inferd", "torch", "open files", "locked memory", "memory", "address", "cache"):
        assert re.search(f"^{what} ", said, re.MULTILINE), said


def test_without_torch_it_says_how_to_get_it(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on with the rest."""
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "torch" else there(name))
    monkeypatch.setattr(doctor, "_ask_torch", lambda: pytest.fail("torch was asked"))
    code, found = asked()
    assert code == 1 and any("torch" in line and "pip install" in line for line in found["fail"])
    assert any(line.startswith("memory") for line in found["ok"] + found["warn"])


def test_a_gpu_that_is_not_there_is_a_failure(asked: Any) -> None:
    """cuda was asked for, and this torch has none."""
    code, found = asked("--device", "cuda:3")
    assert code == 1 and any(line.startswith("cuda:3") for line in found["fail"])


def test_a_driver_that_hangs_is_a_finding(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are asked for in another process, so that what happens there is a sentence."""
    monkeypatch.setattr(doctor, "_ask_torch", lambda: "asking it for devices ended with status -11: ")
    code, found = asked("--device", "cpu")
    assert code == 1 and any("status -11" in line for line in found["fail"])


def test_an_address_in_use_is_a_warning(asked: Any) -> None:
    """It may be the daemon that runs already."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        _, found = asked("--listen", f"inferd://127.0.0.1:{port}", "--device", "cpu")
    assert any(f":{port}" in line for line in found["warn"])


def test_an_address_of_another_machine_cannot_be_had(asked: Any) -> None:
    """192.0.2.1 is nobody's."""
    code, found = asked("--listen", "inferd://192.0.2.1:7433", "--insecure-no-auth", "--device", "cpu")
    assert code == 1 and any("192.0.2.1" in line for line in found["fail"])


def test_every_mistake_of_the_configuration_is_a_line(asked: Any, tmp_path: Path) -> None:
    """With the line of the file, and the machine is examined all the same."""
    config = tmp_path / "inferd.toml"
    config.write_text("nonsense = 1\n[limits]\nslab_mib = 'many'\n")
    code, found = asked("--config", str(config))
    assert code == 1 and sum(line.startswith("configuration") for line in found["fail"]) == 2
    assert any(line.startswith("memory") for line in found["ok"] + found["warn"])


def test_memory_that_is_not_there_is_a_failure(asked: Any) -> None:
    """The setting to lower is named."""
    code, found = asked("--slab-mib", "16000000", "--device", "cpu")
    assert code == 1 and any("slab_mib" in line for line in found["fail"])


def test_tokens_that_others_can_read_are_a_failure(asked: Any, tmp_path: Path) -> None:
    """Nothing of the token is shown."""
    tokens = tmp_path / "tokens"
    tokens.write_text("me: 0123456789abcdef\n")
    tokens.chmod(0o644)
    code, found = asked("--tokens", str(tokens), "--device", "cpu")
    assert code == 1 and any("chmod 600" in line for line in found["fail"])
    assert "0123456789abcdef" not in str(found)


def test_a_cache_that_cannot_be_written_is_a_warning(
    asked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kernels would be compiled anew at each start."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "/proc/1/nowhere")
    _, found = asked("--device", "cpu")
    assert any("TRITON_CACHE_DIR" in line or "/proc" in line for line in found["warn"])


def test_what_cannot_be_looked_into_is_a_finding(asked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket or a cache below another user's folder, as root's."""
    (tmp_path / "root").mkdir()
    real = os.stat

    def stat(path: Any, *rest: Any, **more: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/root/"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != f"{tmp_path}/root")
    monkeypatch.setenv("TRITON_CACHE_DIR", f"{tmp_path}/root/triton")
    code, found = asked("--listen", f"inferd+unix://{tmp_path}/root/x/y.sock", "--device", "cpu")
    assert code == 1 and any(f"{tmp_path}/root cannot be written to" in line for line in found["fail"])
    assert any(f"{tmp_path}/root cannot be written to" in line for line in found["warn"])


def test_without_a_folder_for_temporary_files_the_default_socket_is_a_failure(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the rest is told all the same."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.gettempdir", none)
    code, found = asked("--device", "cpu")
    assert code == 1 and any("TMPDIR" in line for line in found["fail"])
    assert any(line.startswith("cache") for line in found["ok"] + found["warn"])
