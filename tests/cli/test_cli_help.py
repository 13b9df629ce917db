"""The door: light, and polite to those who do not know the way."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from inferd import cli as cli_module
from inferd.cli import cli
from inferd.errors import ConfigError, InferdError

VERBS = sorted(cli.commands)


def test_the_door_is_light() -> None:
    """Importing the command line, with every verb, loads neither torch nor numpy nor asyncio nor a plotting library."""
    code = "import inferd.cli, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "asyncio", "matplotlib", "inferd_client"} & set(loaded)


def test_help_names_every_verb(process) -> None:
    """`inferd --help` lists the verbs, as a process of its own."""
    said = process("--help")
    assert said.code == 0
    assert all(verb in said.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(inferd, verb: str) -> None:
    """Each verb has a --help with its usage and all options."""
    said = inferd(verb, "--help")
    assert said.code == 0
    assert f"inferd {verb}" in said.out or verb in said.out
    assert "--help" in said.out


@pytest.mark.parametrize("verb", ["infer", "models", "status", "bench"])
def test_a_daemon_that_does_not_run_is_one_sentence(inferd, nowhere: str, verb: str) -> None:
    """Each verb that talks to a daemon says in one line what is wrong and what to do, and exits 1."""
    said = inferd(verb, *(["m", "x=1"] if verb == "infer" else []), "--url", nowhere)
    assert said.code == 1
    assert said.err.count("\n") == 1
    assert "cannot connect to" in said.err and "inferd serve" in said.err


@pytest.mark.parametrize("url", ["http://127.0.0.1", "inferd://127.0.0.1:notaport", "127.0.0.1:7433"])
def test_a_url_that_is_none_is_a_mistake_of_usage(inferd, url: str) -> None:
    """A bad --url exits 2 before anything is tried."""
    said = inferd("models", "--url", url)
    assert said.code == 2
    assert "inferd://HOST" in said.err


def test_the_url_can_come_from_the_environment(inferd, fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """INFERD_URL stands in for --url, and --url goes before it."""
    monkeypatch.setenv("INFERD_URL", fake.url)
    assert inferd("models").code == 0
    assert inferd("models", "--url", "inferd+unix:///nowhere").code == 1


@pytest.mark.parametrize("place", ["flag", "url", "variable"])
def test_a_timeout_that_is_over_is_one_sentence(inferd, fake, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """An answer that does not come in time ends in DEADLINE_EXCEEDED and exit code 1, without a traceback; whoever has
    said what that time is: --timeout-ms goes before the URL, and that before INFERD_TIMEOUT_MS."""
    import threading

    gate = threading.Event()
    fake.models["slow"] = lambda inputs: gate.wait(30) and inputs
    monkeypatch.setenv("INFERD_TIMEOUT_MS", "60" if place == "variable" else "29000")
    url = fake.url + {"flag": "?timeout_ms=29000", "url": "?timeout_ms=60", "variable": ""}[place]
    said = inferd("infer", "slow", "x=1", "--url", url, *(["--timeout-ms", "60"] if place == "flag" else []))
    gate.set()
    assert said.code == 1
    assert said.err.startswith("inferd: DEADLINE_EXCEEDED") and said.err.count("\n") == 1


@pytest.mark.parametrize("kind", [InferdError, ConfigError, click.UsageError])
def test_a_sentence_does_nothing_to_a_terminal(inferd, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    """It may be a server's: control characters are shown by their codes, and a line for each mistake stays a line."""

    def fail(standalone_mode: bool) -> None:
        raise kind("one\x1b]0;pwned\x07\ntwo\x9b2J")

    monkeypatch.setattr(cli_module, "cli", fail)
    lines = inferd("status").err.splitlines()
    assert [line.removeprefix("inferd: ").removeprefix("Error: ") for line in lines] == [
        "one\\x1b]0;pwned\\x07",
        "two\\x9b2J",
    ]


@pytest.mark.parametrize(
    "words",
    [
        *[("status", "--watch", number) for number in ("nan", "inf", "1e300")],
        *[("bench", "--seconds", number) for number in ("nan", "inf", "1e300")],
        *[("bench", flag, number) for flag in ("--warmup-seconds", "--rate") for number in ("nan", "inf")],
    ],
)
def test_a_time_or_rate_is_a_finite_number(inferd, fake, words: tuple[str, ...]) -> None:
    """What cannot be waited for is a mistake on the command line."""
    said = inferd(*words, "--url", fake.url)
    assert said.code == 2 and words[1] in said.err
