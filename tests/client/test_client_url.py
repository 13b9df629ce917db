"""Where a client finds its server: the URL, what it may say besides, the environment, and what goes before what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inferd_client import AsyncClient, Client, ConfigError, DeadlineExceeded, InvalidArgument
from inferd_client.testing import FakeServer
from inferd_client.url import Target, parse_addresses

from tests.client.client_kinds import KINDS, open_client

VARIABLES = ("INFERD_URL", "INFERD_TOKEN_FILE", "INFERD_TIMEOUT_MS", "INFERD_CONNECT_TIMEOUT_MS")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("right\n")
    return path


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("inferd://a", ["inferd://a:7433"]),
        ("inferd://a,b:1,[::1]:2", ["inferd://a:7433", "inferd://b:1", "inferd://[::1]:2"]),
        ("inferd://a,inferd://b", ["inferd://a:7433", "inferd://b:7433"]),
        ("inferd+unix:///run/a,b,inferd://c,d", ["inferd+unix:///run/a,b", "inferd://c:7433", "inferd://d:7433"]),
        ("inferd://a:1,a:1,b", ["inferd://a:1", "inferd://b:7433"]),
    ],
)
def test_addresses(text: str, addresses: list[str]) -> None:
    """A scheme holds until the next one; a comma in a path is the path's; one address counts once."""
    assert list(map(str, parse_addresses(text))) == addresses


@pytest.mark.parametrize("text", ["a,b", "inferd://a,", "inferd://,a", "inferd://a,b:x", "inferd://a,http://b"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        parse_addresses(text)


def test_what_goes_before_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument, then the URL, then the environment, then the default."""

    def timeouts(url: str | None = None, **options: Any) -> tuple[float, float]:
        client = Client(url, **options)
        return client._timeout_ms, client._connect_timeout_ms

    assert timeouts() == (30_000, 5_000)
    monkeypatch.setenv("INFERD_TIMEOUT_MS", "700")
    monkeypatch.setenv("INFERD_CONNECT_TIMEOUT_MS", "70")
    assert timeouts() == (700, 70)
    assert timeouts("inferd://a?timeout_ms=600&connect_timeout_ms=60") == (600, 60)
    assert timeouts("inferd://a,b?timeout_ms=600", timeout_ms=500) == (500, 70)
    monkeypatch.setenv("INFERD_URL", "inferd://a?connect_timeout_ms=40")
    assert timeouts() == (700, 40)


def test_a_token_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, token_file: Path) -> None:
    """Never from the environment or the URL themselves: those are seen by others. No token at all can be asked for."""
    monkeypatch.setenv("INFERD_TOKEN_FILE", "/nowhere")
    assert Target(f"inferd://a?token_file={token_file}").token(None) == "right"
    assert Target("inferd://a").token("mine") == "mine" and Target("inferd://a").token("") == ""
    monkeypatch.setenv("INFERD_TOKEN_FILE", str(token_file))
    with FakeServer({"echo": lambda inputs: inputs}, token="right") as server, Client(server.url) as client:
        assert client.infer("echo", {"n": 1}) == {"n": 1}
        for shown in (repr(client), str(client), str(vars(client))):
            assert "right" not in shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_file_is_read_for_each_connection(kind: str, token_file: Path) -> None:
    """So a client outlives the token that it began with."""
    with (
        FakeServer({"echo": lambda inputs: inputs}, token="right") as server,
        open_client(kind, f"{server.url}?token_file={token_file}") as client,
    ):
        assert client.infer("echo", {"n": 1}) == {"n": 1}
        token_file.write_text("new\n")
        server.token = "new"
        server.drop()
        assert client.infer("echo", {"n": 2}) == {"n": 2}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("url", "variables", "words"),
    [
        ("inferd://secret@a", {}, "a URL holds no token"),
        ("inferd://name:secret@a", {}, "a URL holds no token"),
        ("inferd://a,name:secret@b", {}, "a URL holds no token"),
        ("inferd://a?token=secret", {}, "an option 'token'; there are: timeout_ms, connect_timeout_ms, token_file"),
        ("inferd://a?timeout_ms=soon", {}, "timeout_ms in the URL is 'soon': it must be a finite number"),
        ("inferd://a?timeout_ms=nan", {}, "timeout_ms in the URL is 'nan': it must be a finite number"),
        (None, {"INFERD_TIMEOUT_MS": "inf"}, "$INFERD_TIMEOUT_MS is 'inf': it must be a finite number"),
        (None, {"INFERD_TIMEOUT_MS": "1s"}, "INFERD_TIMEOUT_MS is '1s': it must be a finite number"),
        (None, {"INFERD_TOKEN_FILE": "/no/such/file"}, "cannot read the token file /no/such/file: No such file"),
        (None, {"INFERD_TOKEN_FILE": "/dev/null"}, "/dev/null must hold one token"),
        (None, {"INFERD_URL": "somewhere"}, "'somewhere' is no address"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: Any, url: str | None, variables: dict[str, str], words: str
) -> None:
    """One sentence that says what to do, and never shows a secret."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        kind(url)
    assert words in str(caught.value) and "secret" not in str(caught.value)


def test_a_certificates_file_that_no_file_can_be() -> None:
    for path in ("/a\0b", "/\ud800"):
        with pytest.raises(ConfigError, match="no file can have that name"):
            Client("inferds://a", ca=path)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_ms": float("inf")},
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"connect_timeout_ms": float("nan")},
        {"token": "\udc80"},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        Client("inferd://a", **options)


def test_the_environment_bounds_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_TIMEOUT_MS", "0")
    with FakeServer({}) as server, Client(server.url) as client, pytest.raises(DeadlineExceeded):
        client.infer("echo", {})
