"""`--web` on the command line: its value may be left out, and a model behind it is a model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferd import cli
from inferd.config import Settings, web_address
from inferd.errors import ConfigError


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """What `inferd serve` would run with, in a folder with a net.py and a file of tokens."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").touch()
    (tmp_path / "tokens").write_text("ada: 0123456789abcdef\n")
    (tmp_path / "tokens").chmod(0o600)
    seen: list[Settings] = []
    monkeypatch.setattr(sys.modules["inferd.cli.serve"], "_run", lambda settings, *_: seen.append(settings))

    def of(*words: str) -> Settings:
        monkeypatch.setattr(sys, "argv", ["inferd", "serve", *words])
        with contextlib.suppress(SystemExit):
            cli.main()
        return seen.pop()

    return of


@pytest.mark.parametrize(
    ("words", "web", "models"),
    [
        (("echo",), None, ["echo"]),
        (("--web",), "127.0.0.1:7480", ["echo", "ner", "virtual"]),
        (("--web", "ner"), "127.0.0.1:7480", ["ner"]),
        (("ner", "--web"), "127.0.0.1:7480", ["ner"]),
        (("--web", "--log-level", "debug", "ner"), "127.0.0.1:7480", ["ner"]),
        (("--web", "localhost:80", "ner"), "localhost:80", ["ner"]),
        (("--web=[::1]:7", "ner"), "[::1]:7", ["ner"]),
        (("--web", "net.py:Net"), "127.0.0.1:7480", ["net"]),
    ],
)
def test_the_value_may_be_left_out(settings: Any, words: tuple[str, ...], web: str | None, models: list[str]) -> None:
    """Only what looks like an address is taken for one."""
    given = settings(*words)
    assert (str(given.web).removeprefix("inferd://") if given.web else None) == web
    assert [model.name for model in given.models] == models


def test_variables(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """INFERD_WEB, INFERD_WEB_ORIGIN (divided by blanks), INFERD_TOKENS, INFERD_INSECURE_NO_AUTH."""
    monkeypatch.setenv("INFERD_WEB", "0.0.0.0:80")
    monkeypatch.setenv("INFERD_WEB_ORIGIN", "https://a.example http://b.example:81")
    monkeypatch.setenv("INFERD_TOKENS", "tokens")
    monkeypatch.setenv("INFERD_INSECURE_NO_AUTH", "1")
    given = settings("echo")
    assert (str(given.web), given.tokens, given.insecure_no_auth) == ("inferd://0.0.0.0:80", "tokens", True)
    assert given.web_origin == ("https://a.example", "http://b.example:81")


@pytest.mark.parametrize("text", ["", "7480", ":7480", "host", "host:", "host:x", "host:99999", "a b:1", "http://a:1"])
def test_what_is_no_address(text: str) -> None:
    """The sentence has an example."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:7480"):
        web_address(text)
