"""`inferd serve`: the daemon in the foreground."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import click

from inferd.cli.common import Command
from inferd.config import BUILT_IN, DEFAULT_WEB, ModelConfig, Settings, web_address, web_url
from inferd.errors import ConfigError
from inferd.wire.address import DEFAULT_PORT, Address

_HOST_PORT = re.compile(r".*:[0-9]{1,5}")


def default_socket() -> str:
    """The Unix socket's path when nothing is said: below $XDG_RUNTIME_DIR, else in a folder of the user's own.

    Raises ConfigError if somebody else could put a socket there: everybody may make folders in /tmp.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return f"{runtime}/inferd.sock"
    folder = f"{tempfile.gettempdir()}/inferd-{os.getuid()}"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; choose an address with --listen") from error
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{folder} is not a folder that you own and only you can write to, so the socket in it could be another "
            "user's; remove it, or choose a path with --listen"
        )
    return f"{folder}/inferd.sock"


def _setting(name: str, **given: Any) -> Callable[[Command], Command]:
    """The flag of a setting, and its variable."""
    variable = "INFERD_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, **given)


def _web(context: click.Context, parameter: click.Parameter, text: str | None) -> Address | None:
    return web_address(text) if text else None


class _Serve(click.Command):
    """`--web ner` is --web and the model ner, not an address: only what looks like one is taken for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = []
        for word, following in itertools.pairwise([*args, ""]):
            words.append(f"--web={DEFAULT_WEB}" if word == "--web" and not _HOST_PORT.fullmatch(following) else word)
        return super().parse_args(ctx, words)


@click.command(cls=_Serve, short_help="Run the daemon on the given models, or on the built-in ones.")
@click.argument("models", nargs=-1, metavar="[[NAME=]MODEL]...")
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="[MODEL.]KEY=VALUE",
    help="An argument of a model's factory, JSON or text; repeatable.",
)
@_setting(
    "--listen",
    multiple=True,
    metavar="URL",
    help="inferd://HOST[:PORT] or inferd+unix:///PATH; repeatable.  [default: 127.0.0.1:7433 and a Unix socket]",
)
@click.option(
    "--device",
    "devices",
    envvar="INFERD_DEVICE",
    show_envvar=True,
    multiple=True,
    default=["auto"],
    show_default=True,
    metavar="DEVICE",
    help="cpu, cuda, cuda:N or auto; repeatable, one worker each.",
)
@_setting(
    "--executor",
    type=click.Choice(["process", "inline"]),
    default="process",
    show_default=True,
    help="Where batches run; inline is for a debugger.",
)
@_setting("--slab-mib", type=click.IntRange(4), default=256, show_default=True, help="Memory for inputs.")
@_setting("--arena-mib", type=click.IntRange(4), default=256, show_default=True, help="Memory for outputs, a worker.")
@_setting("--payload-mib", type=click.IntRange(1, 4095), default=64, show_default=True, help="The largest request.")
@_setting("--max-connections", type=click.IntRange(1), default=4096, show_default=True)
@_setting("--max-in-flight", type=click.IntRange(1, 65535), default=1024, show_default=True, help="A connection.")
@_setting(
    "--drain-timeout-s",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="How long a stop may take to finish what is in flight.",
)
@_setting(
    "--web",
    is_flag=False,
    flag_value=DEFAULT_WEB,
    metavar="[HOST:PORT]",
    callback=_web,
    help=f"Serve HTTP, WebSocket, metrics and the page as well, at {DEFAULT_WEB} if nothing else is said.",
)
@_setting(
    "--web-origin",
    multiple=True,
    metavar="ORIGIN",
    help="SCHEME://HOST[:PORT] of another site whose pages may use the gateway; repeatable.",
)
@_setting(
    "--tokens",
    default="",
    metavar="FILE",
    help="Lines `name: token`; whoever comes over TCP or the gateway needs one of them.",
)
@_setting(
    "--insecure-no-auth", is_flag=True, help="Listen beyond this machine without tokens: open to all who can reach it."
)
@_setting("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_setting("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
def serve(
    models: tuple[str, ...], options: tuple[str, ...], listen: tuple[str, ...], executor: str, **given: Any
) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C, which drain it.

    A MODEL is package.module:Name, file.py:Name, hf:FOLDER, or one of the built-in ones: echo, ner, virtual. Name is a
    class with a forward(batch), or a function that makes an nn.Module; FOLDER is a Hugging Face model's. Without any,
    the built-in ones are served.

    \b
    inferd serve policy.py:Policy --device cuda
    inferd serve small=net.py:Net large=net.py:Net --set large.width=2048
    """
    # Looked for, not imported: this process becomes the loop, and torch has no place in it.
    for package in ("torch", "uvloop"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"serving needs {package}, which is not installed. In a checkout of inferd: pip install '.[server]' "
                "(for a GPU, install the torch build that fits it first)"
            )
    for package in ("aiohttp", "prometheus_client") if given["web"] else ():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"--web needs {package}, which is not installed. In a checkout of inferd: pip install '.[web]'"
            )
    settings = _settings(models, options, listen, given)
    settings.check()
    _run(settings, executor)


def _settings(
    models: tuple[str, ...], options: tuple[str, ...], listen: tuple[str, ...], given: dict[str, Any]
) -> Settings:
    configs = [ModelConfig.parse(text) for text in models or BUILT_IN]
    for option in options:
        configs = _with_option(configs, option)
    addresses = tuple(Address.parse(url) for url in listen)
    if not addresses:
        addresses = (Address(host="127.0.0.1", port=DEFAULT_PORT), Address(path=default_socket()))
    return Settings(models=tuple(configs), listen=addresses, **given)


def _with_option(configs: list[ModelConfig], option: str) -> list[ModelConfig]:
    path, equals, text = option.partition("=")
    name, dot, key = path.rpartition(".")
    if not equals or not key.isidentifier():
        raise ConfigError(f"--set {option}: write KEY=VALUE, or MODEL.KEY=VALUE when several models are served")
    if not dot and len(configs) > 1:
        raise ConfigError(f"--set {option}: several models are served; write MODEL.{option}")
    name = name or configs[0].name
    if name not in [config.name for config in configs]:
        known = ", ".join(config.name for config in configs)
        raise ConfigError(f"--set {option}: no model {name!r} is served; there are: {known}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return [
        dataclasses.replace(config, options={**config.options, key: value}) if config.name == name else config
        for config in configs
    ]


def _run(settings: Settings, executor: str) -> None:
    # asyncio, uvloop and torch are imported here so that other verbs do not wait for them.
    import uvloop

    from inferd import log
    from inferd.serve.daemon import serve as serve_daemon
    from inferd.serve.executor import Executor

    runs: Executor
    if executor == "inline":
        from inferd.work.inline import InlineExecutor

        runs = InlineExecutor(settings)
    else:
        from inferd.serve.process import ProcessExecutor

        runs = ProcessExecutor(settings)

    def on_ready(addresses: list[Address], web: Address | None) -> None:
        names = ", ".join(model.name for model in settings.models)
        places = [str(address) for address in addresses] + ([web_url(web)] if web is not None else [])
        click.echo(f"inferd is ready: {names} on {' and '.join(places)}")
        click.echo(f"Try: {_try_next(settings, addresses)}")
        sys.stdout.flush()

    log.set_up(settings.log_format, settings.log_level)
    uvloop.run(serve_daemon(settings, runs, on_ready))


def _try_next(settings: Settings, addresses: list[Address]) -> str:
    url = "" if any(a.port == DEFAULT_PORT for a in addresses) else f" --url {addresses[0]}" if addresses else ""
    if settings.tokens and not any(address.path for address in addresses):
        url += " --token-file FILE"
    if any(model.name == "ner" for model in settings.models):
        return f'{command()} infer{url} ner "Ada Lovelace met Charles Babbage in London in 1833."'
    return f"{command()} models{url}"


def command() -> str:
    """`inferd` as it can be typed in this folder: by its path where it is not on $PATH."""
    if shutil.which("inferd"):
        return "inferd"
    program = os.path.abspath(sys.argv[0])
    words = [program]
    if program.endswith(".py"):
        words = [sys.executable, "-m", "inferd"]
    near = os.path.relpath(words[0])
    if not near.startswith(".."):
        words[0] = near
    return shlex.join(words)
