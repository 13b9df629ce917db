"""What the other side is told comes from a catalogue: nothing of a model's exception, a path or a token leaves."""

from __future__ import annotations

import asyncio
import string
from pathlib import Path

import numpy as np
import pytest
from inferd_client import AsyncClient, Client, RequestError

from inferd.config import ModelConfig
from inferd.errors import CATALOGUE, make
from tests.gateway.serving import serving
from tests.rawpeer import RawPeer
from tests.running import running

SECRET = "hunter2-/etc/shadow"
LEAKY = f"""
import torch
from inferd.errors import InvalidArgument

class Leaky:
    inputs = {{"x": ("FP32", (1,))}}
    warm_up = False

    def preprocess(self, x):
        if x[0] == 1:
            raise ValueError({SECRET!r})
        if x[0] == 2:
            raise KeyError({SECRET!r})
        return {{"x": x}}

    def forward(self, batch):
        x = batch["x"]
        if (x == 3).any():
            raise RuntimeError({SECRET!r})
        if (x == 4).any():
            raise type({SECRET!r}, (Exception,), {{}})({SECRET!r})
        return {{"y": x}}

    def postprocess(self, outputs):
        if outputs["y"][0] == 5:
            raise OSError(2, {SECRET!r}, {SECRET!r})
        if outputs["y"][0] == 6:
            return {{"y": object()}}
        return outputs
"""


@pytest.fixture
def leaky(tmp_path: Path) -> ModelConfig:
    """A model whose exceptions say what nobody should hear."""
    code = tmp_path / "leaky.py"
    code.write_text(LEAKY)
    return ModelConfig("leaky", f"{code}:Leaky")


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_a_models_exception_fails_its_request_and_says_nothing(
    tmp_path: Path, leaky: ModelConfig, executor: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it is raised: the caller hears a sentence of the catalogue, the log has the rest, the process lives."""
    with running(tmp_path, leaky, executor=executor) as daemon, Client(daemon.url) as client:
        for number in (1, 2, 3, 4, 5, 6):
            with pytest.raises(RequestError) as caught:
                client.infer("leaky", {"x": np.float32([number])})
            said = str(caught.value)
            assert SECRET not in said and "leaky.py" not in said and "Traceback" not in said, said
            assert caught.value.reason in ("INPUT_REJECTED", "MODEL_FAILED", "OUTPUT_INVALID")
        assert client.infer("leaky", {"x": np.float32([0])})["y"] == 0
    assert any(SECRET in str(record.__dict__.get("fields")) for record in caplog.records)


def test_the_gateway_says_nothing_either(tmp_path: Path, leaky: ModelConfig) -> None:
    """Over HTTP the same sentences; and what is wrong with an address is not told with a path of this machine."""
    with serving(tmp_path, f"leaky={leaky.target}") as served:
        for number in (1, 3, 5, 6):
            body = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [number]}
            answer = served.infer("leaky", body)
            assert answer.status >= 400 and SECRET.encode() not in answer.body and b"leaky.py" not in answer.body
        for path in (
            "/page/../../../../etc/passwd",
            "/page/%2e%2e%2fapp.py",
            "/page/.hidden",
            "/v2/models/..%2f..%2fetc/infer",
        ):
            answer = served.ask("GET", path)
            assert answer.status in (400, 404, 405) and b"/work" not in answer.body and b"root:" not in answer.body


def test_every_sentence_is_fixed() -> None:
    """Each names only fields of the request and limits of the server; filling one in cannot reach into an object."""
    for reason, (_, text) in CATALOGUE.items():
        fields = [name for _, name, spec, _ in string.Formatter().parse(text) if name is not None]
        assert all(name.isidentifier() for name in fields), reason  # no {error.args}, no {0}
        error = make(reason, **dict.fromkeys(fields, "{error.__class__}"))
        assert "<class" not in error.message


def test_names_from_the_wire_are_quoted() -> None:
    """A name with a line break or an escape in it cannot look like something else where the sentence is shown."""
    message = make("MODEL_NOT_FOUND", model="x\n2026 error \x1b[31m", known="a").message
    assert "\n" not in message and "\x1b" not in message


def test_models_are_named_and_never_located(tmp_path: Path, leaky: ModelConfig) -> None:
    """Paths, URLs and modules are names that nobody has: NOT_FOUND or a wrong field, and nothing is opened."""
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Trap: pass\n")
    names = [
        f"{trap}:Trap",
        "trap.py:Trap",
        "../trap",
        "/etc/passwd",
        "http://127.0.0.1/model",
        "hf:..",
        "os:system",
        "inferd.models.echo:Echo",
        "echo",
        "leaky\0",
        "LEAKY",
        "leaky/../leaky",
    ]
    with running(tmp_path, leaky, executor="process") as daemon, Client(daemon.url) as client:
        for name in names:
            with pytest.raises(RequestError) as caught:
                client.infer(name[:64], {"x": np.float32([0])})
            assert caught.value.reason in ("MODEL_NOT_FOUND", "FIELD_VALUE"), name
    assert not (tmp_path / "sprung").exists()


def test_a_client_never_shows_its_token() -> None:
    """Not in its repr, nor in what it raises."""
    token = "ada-0123456789abcdef"

    async def refused() -> RequestError:
        async with AsyncClient("inferd://127.0.0.1:1", token=token, max_retries=0) as client:
            assert token not in repr(client)
            with pytest.raises(RequestError) as caught:
                await client.models()
            return caught.value

    with Client("inferd://127.0.0.1:1", token=token, max_retries=0) as client:
        assert token not in repr(client)
        with pytest.raises(RequestError) as caught:
            client.models()
    for error in (caught.value, asyncio.run(refused())):
        assert token not in str(error) and token not in repr(error)


def test_a_stranger_is_not_told_what_is_served(tmp_path: Path, leaky: ModelConfig) -> None:
    """Names of models are for those who have been let in."""
    tokens = tmp_path / "tokens"
    tokens.write_text("ada: ada-0123456789abcdef\n")
    tokens.chmod(0o600)
    with (
        running(tmp_path, leaky, executor="inline", tokens=str(tokens)) as daemon,
        RawPeer(daemon.url, greet=False) as peer,
    ):
        from inferd.wire import frame as f
        from inferd.wire.messages import Hello

        peer.sock.sendall(peer.peer.send(f.HELLO, Hello("test", token="wrong-0123456789abcdef")))
        assert b"leaky" not in peer.rest()
