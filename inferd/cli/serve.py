"""`inferd serve`: the daemon in the foreground."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable
from typing import Any

import click

from inferd.cli.settings import SettingsCommand, configuration, settings_options, sources
from inferd.config import Settings, web_url
from inferd.config.addresses import temporary_folder
from inferd.errors import ConfigError, InferdError
from inferd.serve.inherited import are_there
from inferd.serve.notify import Notifier
from inferd.wire.address import DEFAULT_PORT, Address

STDOUT_FD = 1


def default_socket_path() -> str:
    """The Unix socket's path when nothing is said: below $XDG_RUNTIME_DIR, else in a folder of the user's own.

    Raises ConfigError where there is no place for that folder.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/inferd.sock" if runtime else f"{temporary_folder()}/inferd-{os.getuid()}/inferd.sock"


def default_socket() -> str:
    """The same, its folder made.

    Raises ConfigError if it cannot be made, or somebody else could put a socket there: everybody may make folders in
    /tmp.
    """
    path = default_socket_path()
    if os.environ.get("XDG_RUNTIME_DIR"):
        return path
    folder = os.path.dirname(path)
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
    return path


@click.command(cls=SettingsCommand, short_help="Run the daemon on the given models, or on the built-in ones.")
@settings_options
@click.option(
    "--executor",
    envvar="INFERD_EXECUTOR",
    show_envvar=True,
    type=click.Choice(["process", "inline"]),
    default="process",
    show_default=True,
    help="Where batches run; inline is for a debugger.",
)
def serve(path: str, models: tuple[str, ...], options: tuple[str, ...], executor: str, **flags: Any) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C, which drain it.

    A MODEL is package.module:Name, file.py:Name, hf:FOLDER, or one of the built-in ones: echo, ner, virtual. Name is a
    class with a forward(batch), or a function that makes an nn.Module; FOLDER is a Hugging Face model's. They take the
    place of all models of the configuration file; without any there or here, the built-in ones are served.

    A flag goes before its variable, that before the file. `inferd config show` says where each value comes from.

    \b
    inferd serve policy.py:Policy --device cuda
    inferd serve small=net.py:Net large=net.py:Net --set large.width=2048
    inferd serve --config inferd.toml
    """
    _open_missing()
    # Read and removed before anything is started that would take the variables for its own.
    notifier = Notifier.from_environment(os.environ)
    try:
        _serve(path, models, options, executor, flags, notifier)
    except InferdError as error:
        notifier.doing(f"failed: {error}")
        raise
    finally:
        notifier.close()


def _open_missing() -> None:
    """Opens /dev/null for each of standard input, output and error that is closed: the next thing to be opened would
    take its number, and be written to by all who print."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one


def _serve(
    path: str,
    models: tuple[str, ...],
    options: tuple[str, ...],
    executor: str,
    flags: dict[str, Any],
    notifier: Notifier,
) -> None:
    # Looked for, not imported: this process becomes the loop, and torch has no place in it.
    for package in ("torch", "uvloop"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"serving needs {package}, which is not installed. In a checkout of inferd: pip install '.[server]' "
                "(for a GPU, install the torch build that fits it first)"
            )
    said = sources(path, models, options, flags)
    # With sockets from systemd nothing is bound that was not asked for.
    handed_over = are_there(os.environ)

    def reread() -> Settings:
        settings = configuration(said).settings
        if settings.listen or handed_over:
            return settings
        return dataclasses.replace(settings, listen=default_listen())

    settings = reread()
    _run(settings, executor, reread, notifier)


def default_listen() -> tuple[Address, ...]:
    """Where the daemon listens when nothing is said. Raises ConfigError as `default_socket`."""
    return Address(host="127.0.0.1", port=DEFAULT_PORT), Address(path=default_socket())


def _run(settings: Settings, executor: str, reread: Callable[[], Settings], notifier: Notifier) -> None:
    # asyncio, uvloop and torch are imported here so that other verbs do not wait for them.
    import uvloop

    from inferd import log
    from inferd.serve.daemon import serve as serve_daemon
    from inferd.serve.executor import Executor

    runs: Executor
    if executor == "inline":
        from inferd.work.inline import InlineExecutor

        runs = InlineExecutor()
    else:
        from inferd.serve.process import ProcessExecutor

        runs = ProcessExecutor(settings)

    # By a thread of its own: nobody may ever read it, or whoever did is gone.
    said = log.Lines(log.writes_to(STDOUT_FD))

    def on_ready(addresses: list[Address], web: Address | None) -> None:
        names = ", ".join(model.name for model in settings.models)
        places = [str(address) for address in addresses] + ([web_url(web)] if web is not None else [])
        said.put(log.encoded(f"inferd is ready: {names} on {' and '.join(places)}"))
        said.put(log.encoded(f"Try: {_try_next(settings, addresses)}"))

    log.set_up(settings.log_format, settings.log_level)
    try:
        uvloop.run(serve_daemon(settings, runs, on_ready, reread, notifier))
    finally:
        said.flush()
        log.flush()  # before the sentence that says why it ends, which is the last


def _try_next(settings: Settings, addresses: list[Address]) -> str:
    sockets = [address for address in addresses if address.path]
    # Where a client looks when it is told nothing.
    usual = any(a.port == DEFAULT_PORT and not a.tls and a.host in ("127.0.0.1", "0.0.0.0") for a in addresses)
    if sockets and (settings.tokens or any(address.tls for address in addresses)):
        url = f" --url {sockets[0]}"  # it asks for neither tokens nor certificates
    else:
        url = "" if usual else f" --url {addresses[0]}" if addresses else ""
        if settings.tokens:
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
