"""`inferd config`: what is wrong with a configuration, and where each value comes from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import click

from inferd.cli.common import printable, table
from inferd.cli.serve import default_socket_path
from inferd.cli.settings import SettingsCommand, configuration, look, settings_options, sources
from inferd.config import SETTINGS, Contradiction, ModelConfig, Settings
from inferd.config.models import digest
from inferd.config.read import Configuration, Mistaken, Sources
from inferd.errors import EXIT_CONFIG, ConfigError
from inferd.wire.address import DEFAULT_PORT

# Arguments of a model that look like secrets, by their names in small letters with "_" where a word begins. They belong
# in files; where one is here all the same, it is not shown. A tokenizer or an author is none.
_SECRET = re.compile(
    r"token(?!s|i[sz])|secret|passw|passphrase|credential|bearer|private|authori[sz]ation|(api|access)[_-]?key"
    r"|(?<![a-z])(o?auth[0-9]*|pass|[a-z]*pwd|dsn|jwt)(?![a-z])|[_-]keys?$"
)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_HIDDEN = "(not shown)"


@click.group(short_help="Check a configuration, or show where each value comes from.")
def config() -> None:
    """Check inferd.toml, and show where each value comes from. docs/CONFIGURATION.md has all settings."""


@config.command(short_help="All mistakes in a file, each with its line.")
@click.argument("path", metavar="FILE")
def check(path: str) -> None:
    """Say all that is wrong in FILE, each mistake on a line of its own, and exit 78; or that nothing is, and exit 0.

    Only the file counts here, and what it names (tokens, certificates, models): neither flags nor variables do. No
    model is run. `inferd serve` checks the same, and more that shows only there.
    """
    if not path.strip():
        raise ConfigError("FILE is empty, and names no file")  # without one nothing would be wrong
    try:
        found = configuration(Sources(path=path), _look)
    except Mistaken as mistaken:
        for mistake in mistaken.mistakes:
            click.echo(printable(str(mistake)), err=True)
        sys.exit(EXIT_CONFIG)
    names = ", ".join(model.name for model in found.settings.models)
    click.echo(f"{path}: nothing is wrong. It serves {names}")


@config.command(cls=SettingsCommand, short_help="Each setting, its value, and where that comes from.")
@settings_options
def show(path: str, models: tuple[str, ...], options: tuple[str, ...], **flags: Any) -> None:
    """Show what `inferd serve` would run with, given the same words (all but --executor), variables and file, and where
    each value comes from: a flag, a variable, a line of the file, or the default. What is in files of
    secrets is never shown.

    A model of a file or folder is shown with the sha256 of it, to be written into its table as a pin.
    """
    found = configuration(sources(path, models, options, flags), _look)
    rows = [_row(found, name) for name in SETTINGS]
    click.echo("\n".join(table(("setting", "value", "from"), rows)))
    rows = [row for model in found.settings.models for row in _model_rows(found, model)]
    click.echo()
    click.echo("\n".join(table(("model", "", "from"), rows)))


def _look(settings: Settings) -> Iterator[Contradiction]:
    """What is in the files that settings name, and in those that are pinned: `serve` leaves these to its workers."""
    yield from look(settings, lambda warning: click.echo(printable(f"warning: {warning}"), err=True))
    for item, model in enumerate(settings.models):
        if model.sha256 and model.pinned and not model.missing() and (sentence := _pin(model)):
            yield Contradiction(("models",), f"model {model.name!r}: {sentence}", item)


def _pin(model: ModelConfig) -> str:
    """What is wrong with a pin; "" if it is right."""
    if astray := model.astray():
        return astray
    found = digest(model.pinned)
    if not found:
        return f"{model.pinned} is pinned, and cannot be read"
    if found == model.sha256:
        return ""
    return (
        f"{model.pinned} is not the file that was pinned. Its sha256 is {found}, the configuration says "
        f"{model.sha256}; put the right file there, or pin this one if it is right"
    )


def _row(found: Configuration, name: str) -> tuple[str, str, str]:
    setting = SETTINGS[name]
    value = setting.shown(getattr(found.settings, name))
    if name == "listen" and not found.settings.listen:
        value = f"inferd://127.0.0.1:{DEFAULT_PORT}, inferd+unix://{default_socket_path()}"
    if name == "web" and found.settings.web is not None:
        value = str(found.settings.web).removeprefix("inferd://")  # as it is written in the file
    return setting.place, value, found.origins[name]


def _without_secrets(key: str, value: Any) -> Any:
    """The value of an argument, or of a key in one, to be shown: what looks like a secret is not, however deep."""
    name = _WORD.sub("_", key).lower()
    # `max_tokens` counts something.
    if _SECRET.search(name) or ("tokens" in name and not isinstance(value, int | float)):
        return _HIDDEN
    if isinstance(value, dict):
        return {inner: _without_secrets(inner, part) for inner, part in value.items()}
    if isinstance(value, list):
        return [_without_secrets(key, part) for part in value]
    return value


def _model_rows(found: Configuration, model: ModelConfig) -> list[tuple[str, str, str]]:
    rows = [(model.name, f"target = {model.said}", found.origins[f"models.{model.name}"])]
    for key, value in model.options.items():
        if key != "folder" or model.said.rpartition(":")[2] != value:
            shown = _without_secrets(key, value)
            text = _HIDDEN if shown is _HIDDEN else json.dumps(shown, ensure_ascii=False)
            rows.append(("", f"options.{key} = {text}", ""))
    if model.sha256:
        rows.append(("", f"sha256 = {model.sha256}", ""))
    elif model.pinned and (found_digest := digest(model.pinned)):
        rows.append(("", f"no pin; to pin it: sha256 = {json.dumps(found_digest)}", ""))
    return rows
