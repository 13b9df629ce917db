"""`inferd systemd`: the units of a service, for the interpreter and the packages of this command.

The templates are in systemd/ of a checkout, and travel in the wheel as inferd/systemd/.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from inferd.cli.common import Command
from inferd.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent
# Installed, or in a checkout.
TEMPLATES = next(path for path in (_PACKAGE / "systemd", _PACKAGE.parent / "systemd") if path.is_dir())
DROP_INS = ("socket-activation", "private-network", "cuda", "notify-reload")
LISTEN = """listen = ["inferd://127.0.0.1:7433", "inferd+unix:///run/inferd/inferd.sock"]
"""
# What ProtectHome=yes and PrivateTmp=yes hide.
HOMES = ("/home/", "/root/", "/run/user/")
TEMPORARY = ("/tmp/", "/var/tmp/")


# The first systemd that knows Type=notify-reload.
NOTIFY_RELOAD = 253


class File(NamedTuple):
    """One file of the service. One that is `kept` is the operator's: it is never written over."""

    path: Path
    text: str
    kept: bool = False


def _options(command: Command) -> Command:
    decorators: tuple[Callable[[Command], Command], ...] = (
        click.option("--user", "for_user", is_flag=True, help="For your own systemd, without root."),
        click.option(
            "--with",
            "drop_ins",
            multiple=True,
            type=click.Choice(DROP_INS),
            help="A drop-in for the system service; repeatable.",
        ),
        click.option(
            "--prefix",
            type=click.Path(file_okay=False),
            metavar="DIR",
            help="In place of / (with --user: of $XDG_CONFIG_HOME), for a package or an image.",
        ),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@click.group(short_help="The units that make inferd a systemd service.")
def systemd() -> None:
    """Make inferd a systemd service (docs/SYSTEMD.md).

    \b
    inferd systemd print                          every file, to be read
    sudo inferd systemd install                   the daemon opens its own sockets
    sudo inferd systemd install --with cuda --with socket-activation
    inferd systemd install --user                 for yourself, without root

    Drop-ins: socket-activation (systemd holds the sockets, a restart refuses nobody), private-network (models cannot
    open connections; systemd holds the sockets), cuda (NVIDIA devices), notify-reload (from systemd 253 on).
    """


@systemd.command("print", short_help="Show the files.")
@_options
def print_(**given: Any) -> None:
    """Print the files that `install` writes, each below its path."""
    for file in files(**given):
        click.echo(f"# ---- {file.path}\n{file.text}")


@systemd.command(short_help="Write the files.")
@_options
def install(**given: Any) -> None:
    """Write the files. Starts nothing: what to do next is said at the end.

    The configuration inferd.toml is written only where there is none.
    """
    if "notify-reload" in given["drop_ins"] and not given["prefix"] and (found := _version()) < NOTIFY_RELOAD:
        raise ConfigError(
            f"notify-reload needs systemd {NOTIFY_RELOAD}, and here is {found}, with which there would be nothing left "
            "to reload with; leave it out: `systemctl reload inferd` works, it only does not wait"
        )
    for file in files(**given):
        if file.kept and file.path.exists():
            click.echo(f"left     {file.path}")
            continue
        try:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.write_text(file.text, encoding="utf-8")
            file.path.chmod(0o644)
        except OSError as error:
            hint = (
                "; the system's folders are root's: use sudo, or --user" if isinstance(error, PermissionError) else ""
            )
            raise ConfigError(f"{error.filename}: {error.strerror}{hint}") from error
        click.echo(f"written  {file.path}")
    click.echo("Next:\n" + "\n".join(f"  {line}" for line in _next(**given)))


def files(for_user: bool, drop_ins: tuple[str, ...], prefix: str | None) -> Iterator[File]:
    """The rendered files. Raises ConfigError for drop-ins of a user's service, and where that user has no home."""
    words = {"PYTHON": _word(sys.executable), "PROTECT_HOME": "", "LISTEN": ""}
    if for_user:
        if drop_ins:
            raise ConfigError("--with is for the system service: a user's systemd cannot do what the drop-ins ask for")
        home = Path(prefix or os.environ.get("XDG_CONFIG_HOME") or _home() / ".config")
        yield from _rendered("user/*", home / "systemd/user", words)
        yield from _rendered("inferd.toml", home / "inferd", words, kept=True)
        return
    words |= {"PROTECT_HOME": _protect_home(), "LISTEN": LISTEN}
    root = Path(prefix or "/") / "etc"
    yield from _rendered("system/*", root / "systemd/system", words)
    for name in DROP_INS:
        # Without the network the daemon's own sockets could be reached by nobody; that drop-in asks for systemd's.
        if name in drop_ins:
            yield from _rendered(
                f"system/inferd.service.d/{name}.conf", root / "systemd/system/inferd.service.d", words
            )
    yield from _rendered("sysusers.d/*", root / "sysusers.d", words)
    yield from _rendered("tmpfiles.d/*", root / "tmpfiles.d", words)
    yield from _rendered("inferd.toml", root / "inferd", words, kept=True)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        why = "this user has no home folder that the system knows, and HOME is not set"
        raise ConfigError(f"{why}; set HOME or XDG_CONFIG_HOME, or name a folder with --prefix") from error


def _rendered(pattern: str, folder: Path, words: dict[str, str], kept: bool = False) -> Iterator[File]:
    for template in sorted(path for path in TEMPLATES.glob(pattern) if path.is_file()):
        text = template.read_text(encoding="utf-8")
        for name, value in words.items():
            text = text.replace(f"@{name}@", value)
        yield File(folder / template.name, text, kept)


def _version() -> int:
    """This machine's systemd; one that cannot be asked is taken to be new."""
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return NOTIFY_RELOAD
    found = re.search(r"\d+", said)
    return int(found[0]) if found else NOTIFY_RELOAD


def _word(path: str) -> str:
    """A path as one word of ExecStart=."""
    path = path.replace("%", "%%").replace("$", "$$")
    return path if path.isascii() and not any(c.isspace() or c in "\"'\\;" for c in path) else _quoted(path)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _protect_home() -> str:
    """What the service may see of home folders: nothing, unless this interpreter is in one."""
    places = {f"{Path(place).absolute()}/" for place in (sys.executable, sys.prefix, sys.base_prefix)}
    if any(place.startswith(TEMPORARY) for place in places):
        click.echo(
            f"warning: {sys.executable} is in a folder for temporary files, which the service does not see "
            "(PrivateTmp=yes); install inferd elsewhere, as in /opt/inferd",
            err=True,
        )
    return "read-only" if any(place.startswith(HOMES) for place in places) else "yes"


def _next(for_user: bool, drop_ins: tuple[str, ...], prefix: str | None) -> list[str]:
    held = for_user or bool({"socket-activation", "private-network"} & set(drop_ins))
    units = "inferd.socket inferd.service" if held else "inferd.service"
    if prefix and for_user:
        return ["nothing here: the files take effect as ~/.config/systemd/user and ~/.config/inferd"]
    if prefix:
        root = f"--root={shlex.quote(str(Path(prefix).absolute()))}"
        return [
            "in an image; a package's scripts do it where it is installed, without --root:",
            f"systemd-sysusers {root}",
            f"systemctl {root} enable {units}",
        ]
    if for_user:
        return [
            "systemctl --user daemon-reload",
            f"systemctl --user enable --now {units}",
            "systemctl --user status inferd",
            "loginctl enable-linger    # when it shall run without you being logged in",
        ]
    return [
        "systemd-sysusers && systemd-tmpfiles --create",
        "systemctl daemon-reload",
        f"systemctl enable --now {units}",
        "systemctl status inferd",
    ]
