"""Addresses: `inferd://host[:port]` for TCP, `inferds://host[:port]` for TLS, `inferd+unix:///path` for a Unix one."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from inferd.errors import ConfigError

DEFAULT_PORT = 7433
# The longest path that a Unix socket may have, in bytes.
MAX_SOCKET_PATH = 107
UNIX = "inferd+unix://"
FORMS = "inferd://HOST[:PORT], inferds://HOST[:PORT] or inferd+unix:///PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: a host and port, perhaps with TLS, or a Unix socket's path."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Address:
        """From `inferd://host[:port]`, `inferds://host[:port]` or `inferd+unix:///path`, the path as it stands. Options
        (`?…`) are the client's to take off. Raises ConfigError, which shows no password."""
        is_unix = url.startswith(UNIX)
        if "@" in url and not is_unix:
            raise ConfigError(
                "an address holds no name and no password, because addresses end up in logs; leave out what is before "
                "the '@'"
            )
        where, question_mark, _ = url.partition("?")
        if question_mark:
            raise ConfigError(f"{where!r} takes no options here; leave out what begins with '?'")
        if "\0" in url:
            raise ConfigError(f"{url!r} is no address: there is a NUL byte in it; take it out")
        return cls._unix(url) if is_unix else cls._tcp(url)

    @classmethod
    def _unix(cls, url: str) -> Address:
        path = url.removeprefix(UNIX)
        if not path.startswith("/"):
            raise ConfigError(f"{url!r} is no address: use {FORMS}")
        try:
            nbytes = len(os.fsencode(path))
        except UnicodeEncodeError as error:
            raise ConfigError(f"{url!r} is no address: no file can have that name; choose another") from error
        if nbytes > MAX_SOCKET_PATH:
            raise ConfigError(
                f"{url!r}: the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes; choose a shorter one"
            )
        return cls(path=path)

    @classmethod
    def _tcp(cls, url: str) -> Address:
        if any(map(str.isspace, url)):  # urlsplit() would drop some of it without a word
            raise ConfigError(f"{url!r} is no address: there is white space in it; take it out")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            # A bad port, or brackets that do not match.
            raise ConfigError(f"{url!r} is no address: {error}; use {FORMS}") from error
        if "#" in url:
            raise ConfigError(f"{url!r} is no address: leave out what begins with '#'")
        if parts.scheme not in ("inferd", "inferds") or not host or parts.path not in ("", "/"):
            raise ConfigError(f"{url!r} is no address: use {FORMS}")
        try:
            host.encode("idna")  # as whoever looks it up does
        except UnicodeError as error:
            raise ConfigError(f"{url!r} is no address: no host can have that name; use {FORMS}") from error
        return cls(host=host, port=DEFAULT_PORT if port is None else port, tls=parts.scheme == "inferds")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name can mean any machine

    def __str__(self) -> str:
        if self.path:
            return f"{UNIX}{self.path}"
        scheme = "inferds" if self.tls else "inferd"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"
