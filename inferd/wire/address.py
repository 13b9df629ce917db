"""Addresses: `inferd://host[:port]` for TCP, `inferds://host[:port]` for TLS, `inferd+unix:///path` for a Unix one."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from inferd.errors import ConfigError

DEFAULT_PORT = 7433
# The longest path that a Unix socket may have, in bytes.
MAX_SOCKET_PATH = 107
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
        """From `inferd://host[:port]`, `inferds://host[:port]` or `inferd+unix:///path`. Raises ConfigError."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            # A bad port, or brackets that do not match.
            raise ConfigError(f"{url!r} is no address: {error}; use {FORMS}") from error
        if "\0" in url:
            raise ConfigError(f"{url!r} is no address: there is a NUL byte in it; take it out")
        if parts.scheme == "inferd+unix" and parts.path and not parts.netloc:
            if len(parts.path.encode()) > MAX_SOCKET_PATH:
                raise ConfigError(
                    f"{url!r}: the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes; choose a shorter one"
                )
            return cls(path=parts.path)
        if parts.scheme in ("inferd", "inferds") and parts.hostname and parts.path in ("", "/"):
            port = DEFAULT_PORT if port is None else port
            return cls(host=parts.hostname, port=port, tls=parts.scheme == "inferds")
        raise ConfigError(f"{url!r} is no address: use {FORMS}")

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
            return f"inferd+unix://{self.path}"
        scheme = "inferds" if self.tls else "inferd"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"
