"""The command line. One small file for each verb; nothing else imports click, and `inferd --help` needs no torch."""

from __future__ import annotations

import io
import signal
import sys

if sys.argv[1:2] == ["serve"]:
    # SIGHUP asks for a reload, and before the settings are read there is nothing that it could replace. Said before the
    # imports below, which take some 150 ms; the daemon takes it from here (inferd/serve/daemon.py).
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

import click

from inferd._version import __version__
from inferd.cli.bench import bench
from inferd.cli.common import printable
from inferd.cli.config import config
from inferd.cli.doctor import doctor
from inferd.cli.infer import infer
from inferd.cli.models import models
from inferd.cli.profile import profile
from inferd.cli.reload import reload
from inferd.cli.serve import serve
from inferd.cli.status import status
from inferd.cli.systemd import systemd
from inferd.errors import EXIT_CONFIG, EXIT_NO_DEVICE, ConfigError, DeviceUnavailable, InferdError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="inferd")
def cli() -> None:
    """Serve PyTorch models over a raw socket, and talk to a daemon that does.

    \b
    inferd serve                          the built-in models on 127.0.0.1:7433 and a Unix socket
    inferd serve model.py:Name            your own
    inferd serve --config inferd.toml     as a file says; `inferd config` checks and shows it
    inferd infer ner "Ada met Charles."   ask one
    inferd status                         what the daemon is doing
    inferd bench ner                      how much it can do
    """


for command in (serve, config, infer, models, status, reload, bench, profile, doctor, systemd):
    cli.add_command(command)


def main() -> None:
    """The entry point: errors a user can meet are one sentence and an exit code, not a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)  # what the model takes, say, is the server's word
        click.echo("\n".join(map(printable, said.getvalue().split("\n"))), err=True, nl=False)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except InferdError as error:
        # A configuration can have many mistakes, a line for each. A sentence can be a server's, which may be anybody's.
        click.echo("\n".join(f"inferd: {printable(line)}" for line in str(error).split("\n")), err=True)
        sys.exit(
            EXIT_CONFIG
            if isinstance(error, ConfigError)
            else EXIT_NO_DEVICE
            if isinstance(error, DeviceUnavailable)
            else 1
        )
    except BrokenPipeError:
        sys.exit(0)
