"""Where a client's server is: the URL, what it may say besides, and the environment.

    inferd://HOST[:PORT]                    TCP
    inferds://HOST[:PORT]                   TCP with TLS
    inferd+unix:///PATH                     a Unix socket
    inferd://HOST,HOST:PORT                 several servers; a scheme holds until the next one
    inferd://HOST?timeout_ms=500            options, behind the last address

An argument goes before the URL, the URL before the environment, that before the default.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from inferd.errors import ConfigError
from inferd.wire.address import DEFAULT_PORT, Address

if TYPE_CHECKING:
    from ssl import SSLContext

DEFAULT_URL = f"inferd://127.0.0.1:{DEFAULT_PORT}"
TIMEOUT_MS = 30_000.0
CONNECT_TIMEOUT_MS = 5_000.0

OPTIONS = ("timeout_ms", "connect_timeout_ms", "token_file")

# A comma parts two addresses, unless it is one in the path of a Unix socket.
_PARTS = re.compile(r",(?=[a-z+]+://)")


class Target:
    """The servers' addresses, and the options that came with them (`OPTIONS`, as text)."""

    def __init__(self, url: str | None) -> None:
        """From `url`, or else $INFERD_URL. Raises ConfigError."""
        text = url or os.environ.get("INFERD_URL") or DEFAULT_URL
        where, _, query = text.partition("?")
        self.addresses = parse_addresses(where)
        self._options = _parse_options(query)
        self._token_file = self._options.get("token_file") or os.environ.get("INFERD_TOKEN_FILE")

    def timeout_ms(self, name: str, argument: float | None, default: float) -> float:
        """The option `name` in milliseconds: the argument, or what the URL or $INFERD_… say. Raises ConfigError."""
        if argument is not None:
            return argument
        variable = f"INFERD_{name.upper()}"
        where, text = f"{name} in the URL", self._options.get(name)
        if text is None:
            where, text = f"${variable}", os.environ.get(variable)
        if not text:
            return default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"{where} is {text!r}: it must be a finite number of milliseconds")
        return number

    def token(self, argument: str | None) -> str | None:
        """The token to show: the argument ("": none at all), or what the token file holds now. Raises ConfigError."""
        if argument is not None:
            return argument
        return read_token(self._token_file) if self._token_file else None

    def tls(self, ca: str | None, cert: str | None, key: str | None) -> SSLContext | None:
        """Whom to trust and what to show, from the arguments or $INFERD_CA, $INFERD_CERT and $INFERD_KEY; None when no
        address is `inferds://`. Raises ConfigError."""
        if not any(address.tls for address in self.addresses):
            if ca is not None or cert is not None or key is not None:
                raise ConfigError(f"ca, cert and key are for TLS, and {self} has none: write inferds://")
            return None
        from inferd_client.tls import client_context  # only here, because few need it

        environ = os.environ
        return client_context(
            ca or environ.get("INFERD_CA") or None,
            cert or environ.get("INFERD_CERT") or None,
            key or environ.get("INFERD_KEY") or None,
        )

    def __str__(self) -> str:
        return ",".join(map(str, self.addresses))


def parse_addresses(text: str) -> tuple[Address, ...]:
    """The addresses in `inferd://a,b:7000,inferd+unix:///path`, each once. Raises ConfigError."""
    found: dict[Address, None] = {}
    for part in _PARTS.split(text):
        scheme, separator, rest = part.partition("://")
        hosts = rest.split(",") if separator and rest[:1] != "/" else [rest]
        for host in hosts:
            if "@" in host.partition("/")[0]:
                raise ConfigError(
                    "a URL holds no token, because URLs end up in logs; use token=…, or a file: "
                    "?token_file=PATH or $INFERD_TOKEN_FILE"
                )
            found[Address.parse(scheme + separator + host)] = None
    return tuple(found)


def _parse_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ConfigError(f"the URL has an option {name!r}; there are: {', '.join(OPTIONS)}")
        options[name] = value
    return options


def read_token(path: str) -> str:
    """The one token in the file at `path`. Raises ConfigError."""
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the token file {path}: {problem}") from error
    if not token or len(token.split()) > 1:
        raise ConfigError(f"{path} must hold one token and nothing else")
    return token
