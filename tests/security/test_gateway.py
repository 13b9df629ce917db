"""JSON that means more than it says, and what a gateway that was killed leaves behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inferd.errors import ConfigError, InvalidArgument
from inferd.gateway.oip import Signature
from inferd.gateway.oip_request import parse
from inferd.serve import gateway
from inferd.wire.tensor import MAX_TENSORS
from tests.gateway.serving import serving

ANY = Signature({"name": "any", "max_batch_size": 8})
NUMBER = Signature({"name": "number", "inputs": [["n", "NUMBER", []]], "max_batch_size": 8})


def body(text: str) -> memoryview:
    return memoryview(text.encode())


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1" + "0" * 400])
@pytest.mark.parametrize("dtype", ["FP16", "BF16", "FP32", "FP64", "INT32", "BOOL", "BYTES"])
def test_no_number_of_json_becomes_infinity(number: str, dtype: str) -> None:
    """Python reads 1e999 as infinity and NaN as a number; JSON means neither."""
    row = f'{{"name": "x", "shape": [1, 1], "datatype": "{dtype}", "data": [{number}]}}'
    with pytest.raises(InvalidArgument):
        parse(body(f'{{"inputs": [{row}]}}'), None, ANY)


@pytest.mark.parametrize(
    ("dtype", "number"), [("FP16", "70000"), ("BF16", "1e39"), ("FP32", "1e39"), ("FP32", "-1e39")]
)
def test_nor_does_one_that_its_dtype_cannot_hold(dtype: str, number: str) -> None:
    """1e39 is a number, and infinity as FP32. In binary infinity can be said, and is data."""
    row = f'{{"name": "x", "shape": [1, 1], "datatype": "{dtype}", "data": [{number}]}}'
    with pytest.raises(InvalidArgument, match=f"no {dtype} can hold"):
        parse(body(f'{{"inputs": [{row}]}}'), None, ANY)


@pytest.mark.parametrize("text", ["1e999", "NaN", "[1, [-1e999]]"])
def test_values_in_json_are_finite_too(text: str) -> None:
    """A value that travels as JSON text is read with the same care."""
    row = {"name": "n", "shape": [1], "datatype": "BYTES", "data": [text]}
    with pytest.raises(InvalidArgument):
        parse(body(json.dumps({"inputs": [row]})), None, NUMBER)


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_there_are_at_most_64_of_either(field: str) -> None:
    """Before any of them is looked at."""
    rows = [{"name": f"t{number}"} for number in range(MAX_TENSORS + 1)]
    with pytest.raises(InvalidArgument, match="at most 64"):
        parse(body(json.dumps({field: rows})), None, ANY)


# ---- the folder of the private socket


def folders(place: Path) -> set[str]:
    return {name for name in os.listdir(place) if name.startswith(gateway.FOLDER_PREFIX)}


def test_a_killed_daemons_folder_goes_with_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL leaves it; the next daemon of this user takes it away, and never one that is in use."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # short, for the path of a socket
    try:
        monkeypatch.setenv("TMPDIR", str(place))
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        with serving(one, "echo") as killed:
            (left,) = folders(place)
            assert stat.S_IMODE((place / left).stat().st_mode) == 0o700
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait(20)
            assert folders(place) == {left}
        with serving(two, "echo") as lives:
            (used,) = folders(place)
            assert used != left
            monkeypatch.setattr(tempfile, "tempdir", str(place))
            gateway._clear_stale_folders(str(place))
            assert folders(place) == {used}
            assert lives.ask("GET", "/readyz").status == 200
        assert folders(place) == set()
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)


def test_what_is_not_such_a_folder_is_left_alone(tmp_path: Path) -> None:
    """Other modes, other contents, links; a user's own `inferd-1000`, and whatever else begins with `inferd-`."""
    ours = gateway.FOLDER_PREFIX
    others = ("inferd-1000", "inferd-datasets", "inferd-abcdefgh", "inferd-gateway")
    for name in (f"{ours}openopen", f"{ours}withfile", f"{ours}abcdefghi", f"{ours}abcdefg", *others):
        (tmp_path / name).mkdir(mode=0o700)
    (tmp_path / f"{ours}openopen").chmod(0o755)
    (tmp_path / f"{ours}withfile" / "precious").write_text("data")
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (tmp_path / f"{ours}linklink").symlink_to(target)
    before = set(os.listdir(tmp_path))
    gateway._clear_stale_folders(str(tmp_path))
    assert set(os.listdir(tmp_path)) == before
    for name in ("stalexyz", "12345678"):
        (tmp_path / f"{ours}{name}").mkdir(mode=0o700)
        (tmp_path / f"{ours}{name}" / gateway.SOCKET_NAME).write_text("")
    gateway._clear_stale_folders(str(tmp_path))
    assert set(os.listdir(tmp_path)) == before


def test_a_temporary_folder_that_cannot_be_listed_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mode may be 1733: anybody may put something there, and nobody see what else there is."""

    def refused(place: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", place)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path) if len(str(tmp_path)) < 50 else None)
    monkeypatch.setattr(os, "listdir", refused)
    folder, lock = gateway._private_folder()
    os.rmdir(folder)
    os.close(lock)


def test_without_a_temporary_folder_the_gateway_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder can be written to, or not this one: both say what to do."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="TMPDIR"):
        patch.setattr(tempfile, "gettempdir", none)
        gateway._private_folder()
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no such folder")
    with pytest.raises(ConfigError, match=r"/proc/no such folder: No such file or directory.* TMPDIR"):
        gateway._private_folder()


# ---- what is open without a configuration


def test_beyond_this_machine_it_does_not_start_without_authentication(tmp_path: Path) -> None:
    """Exit 78, and a sentence that says what to do; for every kind of listener, also with an empty file of tokens."""
    empty = tmp_path / "tokens"
    empty.touch(mode=0o600)
    for words in (
        ["--listen", "inferd://0.0.0.0:7999"],
        ["--listen", "inferd://[::]:7999"],
        ["--listen", "inferds://0.0.0.0:7999", "--tls-cert", "none", "--tls-key", "none"],
        ["--web", "0.0.0.0:7998"],
        ["--listen", "inferd://0.0.0.0:7999", "--tokens", str(empty)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "inferd", "serve", "echo", *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 78, (words, done.stderr)
        assert "token" in done.stderr and "Traceback" not in done.stderr, done.stderr
