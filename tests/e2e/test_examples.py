"""The examples do what the documents say, against a daemon that serves the built-in models."""

from __future__ import annotations

import io
import json
import runpy
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inferd.config import BUILT_IN, ModelConfig
from tests.running import Daemon, running

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BOOK = json.loads((ROOT / "tests" / "vectors" / "frames.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    models = [ModelConfig(name, BUILT_IN[name]) for name in ("echo", "ner")]
    with running(tmp_path_factory.mktemp("daemon"), *models, max_in_flight=8) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def scratch() -> dict[str, Any]:
    """The client from scratch, as a module's names."""
    return runpy.run_path(str(EXAMPLES / "client_from_scratch.py"))


def numbers(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize("over", ["url", "unix_url"])
def test_the_client_from_scratch_is_served(daemon: Daemon, scratch: dict[str, Any], over: str) -> None:
    """Text, tensors with values, rows, more requests than credits, errors, cancelling, PING and STATUS."""
    client = scratch["Client"](getattr(daemon, over))
    RESULT, ERROR = scratch["RESULT"], scratch["ERROR"]
    assert set(client.models) == {"echo", "ner"}
    text = "Ada Lovelace met Charles Babbage in London in 1833."
    kind, _, _, values = client.wait(client.infer("ner", values={"text": text}, deadline_ms=20_000))
    assert kind == RESULT and values["spans"][0]["text"] == "Ada Lovelace"
    tensors = {
        "x": ("FP32", [3], numbers(1, 2, 3)),
        "scalar": ("INT64", [], struct.pack("<q", -7)),
        "nothing": ("FP64", [0, 4], b""),
    }
    assert client.wait(client.infer("echo", tensors, {"a": "é", "n": None}))[2:] == (tensors, {"a": "é", "n": None})
    pair = {"x": ("FP32", [2, 2], numbers(1, 2, 3, 4))}
    assert client.wait(client.infer("echo", pair, {"t": ["a", "b"]}, rows=2))[2:] == (pair, {"t": ["a", "b"]})
    ids = [client.infer("echo", {"x": ("FP32", [1], numbers(n))}) for n in range(50)]
    assert [client.wait(id)[2]["x"][2] for id in reversed(ids)] == [numbers(n) for n in reversed(range(50))]
    kind, header, _, _ = client.wait(client.infer("nobody"))
    assert (kind, header["code"], header["reason"]) == (ERROR, "NOT_FOUND", "MODEL_NOT_FOUND")
    given_up = client.infer("ner", values={"text": text * 1000})
    client.send(scratch["CANCEL"], given_up)
    kind, header, _, _ = client.wait(given_up)
    assert kind == RESULT or header["reason"] == "CLIENT_CANCELLED"
    client.send(scratch["PING"], 0)
    client.send(scratch["STATUS"], 2**64 - 1)
    assert client.wait(0)[0] == scratch["PONG"]
    assert client.wait(2**64 - 1)[3]["state"] == "ready"
    client.socket.close()


@pytest.mark.parametrize(
    # A reload is for the daemon's own user, not for clients.
    "vector",
    [frame for frame in BOOK["frames"] if frame["meaning"]["type"] != "RELOAD"],
    ids=lambda one: one["name"],
)
def test_the_client_from_scratch_speaks_the_vectors(scratch: dict[str, Any], vector: dict[str, Any]) -> None:
    """It reads every frame as its meaning, and what it writes means the same."""
    meaning, data = vector["meaning"], bytes.fromhex(vector["hex"])
    kind, id, credits, header, tensors, values = scratch["read_frame"](io.BytesIO(data))
    assert (kind, id, credits) == (scratch[meaning["type"]], meaning["request_id"], meaning["credits"])
    assert (header, values) == (meaning["header"], meaning["values"])
    payload = bytes.fromhex(meaning["payload"])
    for name, _, _, offset in meaning["header"].get("outputs") or meaning["header"].get("inputs") or []:
        assert payload[offset:].startswith(tensors[name][2])
    if vector["direction"] == "client->server" and vector["name"] != "infer_gap":
        written = scratch["encode"](kind, id, header)
        if meaning["type"] == "INFER":
            fields = {name: value for name, value in header.items() if name not in ("model", "inputs")}
            written = scratch["encode_infer"](id, header["model"], tensors, values, **fields)
        again = scratch["read_frame"](io.BytesIO(written))
        sent = {name: value for name, value in again[3].items() if value is not None}  # nil is as absent
        assert (*again[:3], sent, *again[4:]) == (kind, id, credits, header, tensors, values)


def test_the_client_from_scratch_is_short() -> None:
    """75 lines of code, as docs/PROTOCOL.md says."""
    code = (EXAMPLES / "client_from_scratch.py").read_text(encoding="utf-8").split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 75
    assert "75 lines" in (ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")


def test_the_first_request_is_the_readmes(daemon: Daemon) -> None:
    """The README shows the example as it is, and what it prints."""
    code = (EXAMPLES / "first_request.py").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert code.partition("\n\n")[2] in readme
    said = subprocess.run(
        [sys.executable, str(EXAMPLES / "first_request.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"INFERD_URL": daemon.url, "PATH": "/usr/bin"},
    )
    assert said.returncode == 0 and said.stdout.strip() in readme
