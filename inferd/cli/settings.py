"""What `inferd serve` and `inferd config` share: a flag for each setting, made from its definition, and the reading."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import click
from click.core import ParameterSource

from inferd.cli.common import Command
from inferd.config import DEFAULT_WEB, SETTINGS, Contradiction, Setting, Settings
from inferd.config.read import Configuration, Look, Sources, read
from inferd.errors import ConfigError

_HOST_PORT = re.compile(r".*:[0-9]{1,5}")


class SettingsCommand(click.Command):
    """`--web ner` is --web and the model ner, not an address: only what looks like one is taken for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = []
        for word, following in itertools.pairwise([*args, ""]):
            words.append(f"--web={DEFAULT_WEB}" if word == "--web" and not _HOST_PORT.fullmatch(following) else word)
        return super().parse_args(ctx, words)


def settings_options(command: Command) -> Command:
    """The arguments and flags that say what is served and how: MODELs, --set, --config, and one flag for each setting.

    Their texts are kept as they are: inferd.config reads them, the variables and the file alike, so that all mistakes
    are told at once."""
    for setting in reversed(SETTINGS.values()):
        command = _option(setting)(command)
    command = click.option(
        "--config",
        "path",
        envvar="INFERD_CONFIG",
        show_envvar=True,
        default="",
        callback=_named,
        metavar="FILE",
        help="A TOML file with settings and models; flags and variables go before it (docs/CONFIGURATION.md).",
    )(command)
    command = click.option(
        "--set",
        "options",
        multiple=True,
        metavar="[MODEL.]KEY=VALUE",
        help="An argument of a model's factory, JSON or text; repeatable.",
    )(command)
    return click.argument("models", nargs=-1, metavar="[[NAME=]MODEL]...")(command)


def _option(setting: Setting) -> Any:
    notes = [setting.variable]
    if setting.default not in ("", (), None, False):
        notes.append(f"default: {setting.shown(setting.default)}")
    if setting.repeatable:
        notes.append("repeatable")
    form: dict[str, Any] = {"metavar": setting.kind.metavar, "multiple": setting.repeatable}
    if setting.default is False:
        form = {"is_flag": True}
    elif setting.name == "web":
        form = {"is_flag": False, "flag_value": DEFAULT_WEB, "metavar": "[HOST:PORT]"}
    return click.option(setting.flag, setting.name, help=f"{setting.help}  [{'; '.join(notes)}]", **form)


def _named(context: click.Context, parameter: click.Parameter, path: str) -> str:
    """`--config "$UNSET"` would otherwise serve without the file, and without the tokens that it asks for."""
    if not path.strip() and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
        raise ConfigError("--config: this is empty, and names no file; name one, or leave it out")
    return path


def sources(path: str, models: tuple[str, ...], options: tuple[str, ...], flags: dict[str, Any]) -> Sources:
    """All that was said, so that it can be read again."""
    return Sources(flags, dict(os.environ), path, models, options)


def look(settings: Settings, warn: Callable[[str], None] | None = None) -> Iterator[Contradiction]:
    """What is wrong with the files that settings name: tokens and certificates. `warn` is told of certificates that
    expire soon; the daemon's log says it by itself."""

    def ending(setting: str, path: str, ends: str) -> None:
        if warn is not None:
            warn(f"{setting} {path} expires on {ends}; put a newer one there, and reload")

    # Imported here so that other verbs do not wait for them.
    from inferd.serve.secret import located
    from inferd.serve.tls import server_context
    from inferd.serve.tokens import read_tokens

    if settings.tokens:
        try:
            read_tokens(settings.tokens)
        except ConfigError as error:
            yield Contradiction(("tokens",), str(error))
    papers = {name: getattr(settings, name) for name in ("tls_cert", "tls_key", "tls_client_ca")}
    missing = [name for name, path in papers.items() if path and not os.path.exists(located(path))]
    for name in missing:
        yield Contradiction((name,), f"{name} {papers[name]}: there is no such file; put it there, or name another")
    if settings.tls_cert and settings.tls_key and not missing:
        try:
            server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca, ending)
        except ConfigError as error:
            # Its first word is the setting that the sentence is about.
            name = str(error).partition(" ")[0]
            yield Contradiction((name,) if name in SETTINGS else ("tls_cert", "tls_key"), str(error))


def configuration(said: Sources, look: Look = look) -> Configuration:
    """Reads and checks everything, the files that settings name included. Raises ConfigError with all mistakes."""
    try:
        return read(said, look)
    except FileNotFoundError as error:
        if os.stat(".").st_nlink:
            raise
        why = "the folder that this was started in has been deleted, and a path is seen from it; go to another one"
        raise ConfigError(why) from error
