"""What the verbs that talk to a daemon share: where it is, how failures are told, and tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from inferd.errors import ConfigError, InferdError, RequestError, make
from inferd.wire.address import DEFAULT_PORT

if TYPE_CHECKING:
    from inferd_client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

MAX_CONNECT_MS = 5_000.0
# Of what a command line may wait for: more is a mistake, and much more is no time.
DAY_S = 86_400
# Where a context keeps the token.
TOKEN = "inferd.token"

# Also 12-34, 1,234.5 and 56 %.
_NUMBER = re.compile(r"[\d.,+-]+( %)?")


class Finite(click.FloatRange):
    """A range of numbers; nan, which click lets into any, and infinity are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def _checked_url(context: click.Context, parameter: click.Parameter, url: str) -> str:
    from inferd_client.url import Target

    try:
        Target(url)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    return url


def _read_token(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Keeps the token in the context, for `daemon`: it is nothing for a command line to show."""
    if path is None:
        return
    from inferd_client.url import read_token

    try:
        context.meta[TOKEN] = read_token(path)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def daemon_options(command: Command) -> Command:
    """--url, --token-file and --timeout-ms."""
    command = click.option(
        "--timeout-ms",
        type=click.FloatRange(min=0, min_open=True),
        help="How long one answer may take, connecting included.  [default: the URL's timeout_ms, INFERD_TIMEOUT_MS or "
        "30000]",
    )(command)
    command = click.option(
        "--token-file",
        metavar="FILE",
        callback=_read_token,
        expose_value=False,
        help="Holds the token to show to a daemon that asks for one.  [default: the URL's token_file or "
        "INFERD_TOKEN_FILE]",
    )(command)
    return click.option(
        "--url",
        envvar="INFERD_URL",
        show_envvar=True,
        default=f"inferd://127.0.0.1:{DEFAULT_PORT}",
        show_default=True,
        metavar="URL",
        callback=_checked_url,
        help="The daemon, or several with commas between: inferd://HOST[:PORT], inferds://HOST[:PORT] or inferd+unix:///PATH.",
    )(command)


def client_options(timeout_ms: float | None) -> dict[str, Any]:
    """What a client is given: what --token-file holds, and --timeout-ms. What was not said is the client's to find."""
    connect_timeout_ms = None if timeout_ms is None else min(timeout_ms, MAX_CONNECT_MS)
    token = click.get_current_context().meta.get(TOKEN)
    return {"token": token, "timeout_ms": timeout_ms, "connect_timeout_ms": connect_timeout_ms}


@contextmanager
def failures_told() -> Iterator[None]:
    """Turns what a client can meet into the sentence for a terminal; `inferd` exits 1 with it."""
    try:
        yield
    except ConfigError as error:
        # 78 is for the daemon's own configuration: systemd does not restart it then.
        raise InferdError(str(error)) from error
    except RequestError as error:
        if error.reason == "CONNECT_FAILED":
            raise InferdError(f"{error.message}; {_connect_hint(error)}") from error
        raise


def _connect_hint(error: RequestError) -> str:
    """What to do about a connection that could not be made: a name that is not known is nobody's daemon."""
    from socket import gaierror

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, gaierror):
        cause = cause.__cause__
    if cause is not None:
        return "check the name in --url or INFERD_URL: this machine knows no address for it"
    return "is a daemon running there? `inferd serve` starts one"


@contextmanager
def daemon(url: str, timeout_ms: float | None) -> Iterator[Client]:
    """A client of the daemon at `url`."""
    from inferd_client import Client

    with failures_told(), Client(url, **client_options(timeout_ms)) as client:
        yield client


def find_model(models: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The description of the model `name`. Raises NotFound."""
    for model in models:
        if model.get("name") == name:
            return model
    known = ", ".join(sorted(str(model.get("name")) for model in models))
    raise make("MODEL_NOT_FOUND", model=name, known=known)


def type_text(dtype: str, shape: Sequence[int]) -> str:
    """`FP32[*,16]`: a dtype and a shape in which * is any size; a value has no shape."""
    from inferd.wire.tensor import ITEM_BYTES

    if dtype not in ITEM_BYTES:
        return dtype
    return f"{dtype}[{','.join('*' if size < 0 else str(size) for size in shape)}]"


def signature_text(rows: Sequence[Sequence[Any]] | None) -> str:
    """`text STRING, x FP32[16]`: the inputs or outputs of a model."""
    if rows is None:
        return "not declared"
    return ", ".join(f"{name} {type_text(dtype, shape)}" for name, dtype, shape in rows) or "none"


def printable(text: str) -> str:
    """`text` on one line, and harmless to a terminal: white space as blanks, control characters by their codes."""
    return "".join(
        character if character.isprintable() else " " if character.isspace() else f"\\x{ord(character):02x}"
        for character in text
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns; a column of numbers stands to the right."""
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    columns = []
    for column in zip(*cells, strict=True):
        width = max(map(len, column))
        numbers = rows and all(_NUMBER.fullmatch(cell) for cell in column[1:])
        columns.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in column])
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
