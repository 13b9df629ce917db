"""Named tokens: the file, and who gets in with and without one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inferd_client import AsyncClient, Client, Unauthenticated

from inferd.config import Settings, web_address
from inferd.errors import ConfigError
from inferd.serve.tokens import read_tokens
from inferd.wire import frame as f
from inferd.wire.messages import Welcome
from tests.gateway.serving import Served, page, serving

ADA, BOB = "ada-0123456789abcdef", "bob-0123456789abcdef"
X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}


def write(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# ---- the file


def test_names_are_found_by_token(tmp_path: Path) -> None:
    """Comments and empty lines are skipped; what is nobody's has no name."""
    tokens = read_tokens(write(tmp_path, f"# people\n\nada: {ADA}\n  bob:{BOB}  \n"))
    assert (tokens.name_of(ADA), tokens.name_of(BOB)) == ("ada", "bob")
    for guess in ("", ADA[:-1], ADA + "x", ADA.upper(), "\ud800"):
        assert tokens.name_of(guess) is None
    tokens.add("gateway", "secret")
    assert tokens.name_of("secret") == "gateway"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666])
def test_a_file_that_others_can_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    """The sentence says what to type."""
    with pytest.raises(ConfigError, match="chmod 600"):
        read_tokens(write(tmp_path, f"ada: {ADA}\n", mode))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no token"),
        ("# only a comment\n", "no token"),
        (f"{ADA}\n", "line 1: write `name: token`"),
        (f": {ADA}\n", "line 1: write `name: token`"),
        (f"a b: {ADA}\n", "line 1: write `name: token`"),
        ("ada:\n", "line 1: a token has 16 to 1024"),
        ("ada: 0123456789abcde\n", "line 1: a token has 16 to 1024"),
        (f"ada: {ADA} {ADA}\n", "line 1: a token has 16 to 1024"),
        (f"ada: {'x' * 1025}\n", "line 1: a token has 16 to 1024"),
        (f"\nada: {ADA}\nada: {BOB}\n", "line 3: the name 'ada' is there twice"),
        (f"ada: {ADA}\nbob: {ADA}\n", "line 2: the token of 'bob' is another"),
        (f"gateway: {ADA}\n", "line 1: the name 'gateway' is taken"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """With the line, and never with a token in the sentence."""
    with pytest.raises(ConfigError) as caught:
        read_tokens(write(tmp_path, text))
    assert words in str(caught.value) and ADA not in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Not there, a folder, no text."""
    with pytest.raises(ConfigError, match="No such file"):
        read_tokens(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError):
        read_tokens(str(tmp_path))
    (tmp_path / "tokens").write_bytes(b"\xff\xfe")
    (tmp_path / "tokens").chmod(0o600)
    with pytest.raises(ConfigError, match="UTF-8"):
        read_tokens(str(tmp_path / "tokens"))


def test_only_this_machine_gets_in_without_tokens() -> None:
    """An address beyond loopback needs tokens, or the word that it is meant."""
    for text, problem in {
        "0.0.0.0:80": "--tokens FILE",
        "192.0.2.1:7480": "--tokens FILE",
        "[::]:7480": "--tokens FILE",
        "box.invalid:80": "knows no host 'box.invalid'",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            Settings(web=web_address(text)).check()
        Settings(web=web_address(text), tokens="file").check()
        Settings(web=web_address(text), insecure_no_auth=True).check()
    Settings(web=web_address("127.0.0.1:0")).check()


# ---- the daemon


@contextlib.contextmanager
def guarding(folder: Path, *more: str) -> Iterator[Served]:
    """A daemon that asks for a token; `tcp` is its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = [
        "virtual",
        "--tokens",
        write(folder, f"ada: {ADA}\nbob: {BOB}\n"),
        "--listen",
        f"inferd://127.0.0.1:{port}",
        *more,
    ]
    with serving(folder, *words) as served:
        served.tcp = f"inferd://127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield served


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all tests that do not stop it."""
    with guarding(tmp_path_factory.mktemp("guarded")) as served:
        yield served


def test_the_clients_show_a_token(guarded: Any) -> None:
    """With one they get in over TCP, without or with a wrong one Unauthenticated; a Unix socket needs none."""
    x = np.float32([1])
    with Client(guarded.tcp, token=ADA) as client:
        assert client.infer("virtual", {"x": x})["y"] == 1
        assert ADA not in repr(client)
    with Client(guarded.url) as client:
        assert client.models()
    for token in (None, "", "wrong-0123456789abcdef"):
        with Client(guarded.tcp, token=token) as client, pytest.raises(Unauthenticated) as caught:
            client.infer("virtual", {"x": x})
        assert caught.value.reason == "TOKEN" and not caught.value.retryable and "wrong" not in str(caught.value)

    async def talk() -> None:
        async with AsyncClient(guarded.tcp, token=BOB) as client:
            assert (await client.infer("virtual", {"x": x}))["y"] == 1
        async with AsyncClient(guarded.tcp) as client:
            with pytest.raises(Unauthenticated):
                await client.models()

    asyncio.run(talk())


def test_the_command_line_shows_a_token(guarded: Any, tmp_path: Path) -> None:
    """`--token-file`, in every verb; what is in it is nowhere in what is said."""
    good, wrong, two = tmp_path / "good", tmp_path / "wrong", tmp_path / "two"
    good.write_text(ADA + "\n")
    wrong.write_text("wrong-0123456789abcdef")
    two.write_text(f"{ADA} {BOB}")
    ask = [sys.executable, "-m", "inferd"]

    def run(*words: str, stdin: str = "", url: str = guarded.tcp) -> subprocess.CompletedProcess[str]:
        command = [*ask, *words, "--url", url]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)

    for words, stdin in (
        (("models",), ""),
        (("infer", "virtual", "x=[1]"), ""),
        (("infer", "virtual", "--lines"), "[1]\n[2]\n"),
        (("bench", "virtual", "--seconds", "0.2", "--warmup-seconds", "0", "--callers", "2"), ""),
    ):
        done = run(*words, "--token-file", str(good), stdin=stdin)
        assert done.returncode == 0, (words, done.stderr)
        assert ADA not in done.stdout + done.stderr
        done = run(*words, stdin=stdin, url=f"{guarded.tcp}?token_file={good}")
        assert done.returncode == 0, (words, done.stderr)
    done = run("models", "--token-file", str(wrong))
    assert done.returncode == 1 and "token" in done.stderr and "wrong-" not in done.stderr
    assert run("models").returncode == 1
    assert run("models", "--token-file", str(two)).returncode == 2
    assert run("models", "--token-file", str(tmp_path / "none")).returncode == 2


def test_rest_shows_a_token(guarded: Served) -> None:
    """`Authorization: Bearer`, else 401; health and the page need none, metrics and metadata do."""
    path = "/v2/models/virtual/infer"
    assert guarded.ask("POST", path, {"inputs": [X]}, Authorization=f"Bearer {ADA}").status == 200
    for headers in ({}, {"Authorization": "Bearer wrong-0123456789abcdef"}, {"Authorization": f"Basic {ADA}"}):
        answer = guarded.ask("POST", path, {"inputs": [X]}, **headers)
        assert answer.status == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json["reason"] == "TOKEN"
    for open_path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert guarded.ask("GET", open_path).status == 200
    for closed in ("/metrics", "/v2", "/v2/models/virtual", "/v2/models/virtual/ready"):
        assert guarded.ask("GET", closed).status == 401
        assert guarded.ask("GET", closed, Authorization=f"Bearer {ADA}").status == 200
    assert guarded.ask("GET", "/").status in (200, 404)


def test_a_page_shows_a_token(guarded: Served) -> None:
    """In HELLO; a wrong one is answered by the daemon's own ERROR, and the end."""

    async def talk() -> None:
        async with page(guarded) as here:
            assert isinstance((await here.greet(token=ADA)).message, Welcome)
        for token in ("", "wrong-0123456789abcdef"):
            async with page(guarded) as here:
                error = await here.greet(token=token)
                assert error.type == f.ERROR and error.request_id == 0
                assert error.message.reason == "TOKEN"  # type: ignore[union-attr]
                with pytest.raises(EOFError):
                    await here.next()

    asyncio.run(talk())


def test_a_token_is_nowhere_in_the_log(tmp_path: Path) -> None:
    """Neither a right one nor a wrong one, whichever way it came, though the log has all else: that one was wrong."""
    wrong = "wrong-0123456789abcdef"

    async def show(served: Served, token: str) -> int:
        async with page(served) as here:
            return (await here.greet(token=token)).type

    with guarding(tmp_path, "--log-level", "debug") as served:
        for token, status, said in ((ADA, 200, f.WELCOME), (wrong, 401, f.ERROR)):
            assert served.ask("GET", "/v2", Authorization=f"Bearer {token}").status == status
            assert asyncio.run(show(served, token)) == said
            with Client(served.tcp, token=token, max_retries=0) as client:  # type: ignore[attr-defined]
                if token is ADA:
                    assert client.models()
                else:
                    with pytest.raises(Unauthenticated):
                        client.models()
    log = (tmp_path / "log").read_text()
    assert "token_refused" in log and ADA not in log and wrong not in log
