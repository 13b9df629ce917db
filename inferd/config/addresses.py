"""The kinds of setting that name a place: listeners, the gateway's address, other sites, devices. And where the system
keeps what is temporary."""

from __future__ import annotations

import ipaddress
import re
import socket
import tempfile

from inferd.errors import ConfigError
from inferd.wire.address import Address

from .definition import Kind, nearest

DEFAULT_WEB = "127.0.0.1:7480"
_DEVICE = re.compile(r"cpu|auto|cuda(:[0-9]{1,3})?")
# As browsers send it: small letters, no path, no slash at the end.
_ORIGIN = re.compile(r"((https?)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\]))(?::([0-9]{1,5}))?")
# Nor the scheme's own port.
_OWN_PORTS = {"http": 80, "https": 443}
_WEB_HOST = re.compile(r"[A-Za-z0-9._:%-]+")


def web_address(text: str) -> Address:
    """From `HOST:PORT`, an IPv6 address in brackets. Raises ConfigError."""
    try:
        address = Address.parse(f"inferd://{text}")
    except ConfigError:
        address = Address()
    if not _WEB_HOST.fullmatch(address.host) or not text.endswith(f":{address.port}"):
        raise ConfigError(f"{text!r} is no address for the gateway: write HOST:PORT, as in {DEFAULT_WEB}")
    return address


def web_url(address: Address) -> str:
    """Where a browser finds the gateway."""
    return str(address).replace("inferd://", "http://", 1)


def unresolved(host: str) -> str:
    """Why a host is none that this machine knows, in a sentence; "" for a number, and for a name that it does know."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            socket.getaddrinfo(host, None)
        except (OSError, ValueError):  # ValueError: what no name can be
            return f"this machine knows no host {host!r}; check how it is written"
    return ""


def temporary_folder() -> str:
    """The system's folder for temporary files. Raises ConfigError where none can be written to."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no folder for temporary files that can be written to, and a Unix socket is to be in one; set "
            "TMPDIR to one (a tmpfs will do), or, without --web, say where to listen: --listen"
        ) from error


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        hint = "; did you mean 'cuda'?" if text.startswith("gpu") else nearest(text, ("cpu", "cuda", "auto"))
        raise ConfigError(f"{text!r} is no device: use cpu, cuda, cuda:N or auto{hint}")
    return text


def _origin(text: str) -> str:
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found[3] or 1) not in range(1, 65536):
        raise ConfigError(f"{text!r} is no origin: write SCHEME://HOST[:PORT], as in https://demo.example")
    port = int(found[3] or _OWN_PORTS[found[2]])
    return found[1] if port == _OWN_PORTS[found[2]] else f"{found[1]}:{port}"


LISTEN = Kind("an address in quotes, as in inferd://127.0.0.1", (str,), Address.parse, "URL")
WEB = Kind(f"HOST:PORT in quotes, as in {DEFAULT_WEB}", (str,), lambda text: web_address(text) if text else None, "")
DEVICE = Kind("a device in quotes", (str,), _device, "DEVICE")
ORIGIN = Kind("an origin in quotes, as in https://demo.example", (str,), _origin, "ORIGIN")
