"""Listening sockets that somebody else holds and hands to the daemon: systemd's socket activation (sd_listen_fds(3)).

Whoever holds them keeps them when the daemon ends, so that a restart refuses nobody: connections queue for the
successor. A socket named `web` ($LISTEN_FDNAMES, `FileDescriptorName=` of the .socket unit) is the gateway's, all
others speak the daemon's own wire.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from inferd.config import Settings, web_url
from inferd.errors import ConfigError
from inferd.wire.address import Address

# The first descriptor after standard input, output and error.
FIRST_FD = 3
WEB = "web"


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket, and the address that it listens on (an abstract one as `@name`)."""

    sock: socket.socket
    address: Address


class InheritedSockets:
    """The sockets that have come with the start: `web` is the gateway's, if there is one, `wire` all others."""

    def __init__(self, wire: list[Inherited], web: Inherited | None) -> None:
        self.wire = wire
        self.web = web

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], first_fd: int = FIRST_FD) -> InheritedSockets:
        """Reads the variables and removes them, and closes the sockets to programs that are started from here.

        Raises ConfigError for a descriptor that is no listening stream socket.
        """
        ours = are_there(environ)  # else they were meant for a program that has started this one
        count = environ.pop("LISTEN_FDS", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        for name in ("LISTEN_PID", "LISTEN_PIDFDID"):
            environ.pop(name, None)
        if not ours:
            return cls([], None)
        if not count.isdecimal():
            raise ConfigError(f"LISTEN_FDS={count}: this is no number of sockets; leave it to systemd")
        wire: list[Inherited] = []
        web: Inherited | None = None
        for index in range(int(count)):
            name = names[index] if index < len(names) else ""
            found = _listening(first_fd + index, name)
            if name != WEB:
                wire.append(found)
            elif web is not None:
                raise ConfigError(
                    f"two sockets are named {WEB!r}: {web.address} and {found.address}, and the gateway has one; "
                    "leave one ListenStream= in the socket unit that has FileDescriptorName=web"
                )
            elif found.address.path:
                raise ConfigError(f"the gateway listens on TCP, and the socket named {WEB!r} is {found.address}")
            else:
                web = found
        return cls(wire, web)

    def places(self, listen: tuple[Address, ...]) -> list[tuple[Address, socket.socket | None]]:
        """Where to listen, each with its socket or None where it is to be bound: what `listen` names, and then the
        sockets that nothing names."""
        places, left = self._divided(listen)
        return places + [(found.address, found.sock) for found in left]

    def _divided(
        self, listen: tuple[Address, ...]
    ) -> tuple[list[tuple[Address, socket.socket | None]], list[Inherited]]:
        """What `listen` names, each with its socket or None, and the sockets that it does not name.

        A name can mean several addresses, `localhost` both of the loopback interface: each socket at one of them is the
        listener's, with its TLS, except where `listen` has that address itself."""
        left = list(self.wire)
        itself = {_without_tls(address) for address in listen}
        places: list[tuple[Address, socket.socket | None]] = []
        for address in listen:
            found = [
                each
                for each in left
                if _same(address, each.address)
                and (each.address == _without_tls(address) or each.address not in itself)
            ]
            left = [each for each in left if each not in found]
            places.append((address, found[0].sock if found else None))
            places += [(dataclasses.replace(each.address, tls=address.tls), each.sock) for each in found[1:]]
        return places, left

    def check(self, settings: Settings) -> None:
        """Raises ConfigError for settings that cannot work together with each other and these sockets: one that other
        machines can reach asks for credentials, whoever has bound it."""
        places, left = self._divided(settings.listen)
        listen = tuple(address for address, _ in places) + tuple(found.address for found in left)
        for found in left:
            if not settings.tls_client_ca or settings.tokens:
                continue
            if found.address.path.startswith("@") and not (settings.allow_uids or settings.allow_gids):
                raise ConfigError(
                    f"client_ca in [tls] (--tls-client-ca) asks for certificates, and {found.address.path}, a socket "
                    "that has come with the start, would be served without: it has no file, and every user can open "
                    "it. Say who may (--allow-uid, --allow-gid), ask for tokens (--tokens), or take it out of the "
                    "socket unit"
                )
            if not found.address.path:
                raise ConfigError(
                    f"client_ca in [tls] (--tls-client-ca) asks for certificates, and {found.address}, a socket that "
                    "has come with the start, would be served without: listen does not name it. Name it there "
                    f"(--listen {dataclasses.replace(found.address, tls=True)}), or without TLS if it is meant "
                    f"(--listen {found.address}), or take it out of the socket unit"
                )
        if self.web is not None:
            _check_web(settings, self.web.address)
        web = self.web.address if self.web is not None else settings.web
        dataclasses.replace(settings, listen=listen, web=web).check()
        if settings.web_origin and web is None:
            raise ConfigError(
                "origins in [web] (--web-origin) have no effect without the gateway; set listen in [web] (--web), or "
                "take them out"
            )


def are_there(environ: Mapping[str, str]) -> bool:
    """Whether sockets have come with the start of this process."""
    return bool(environ.get("LISTEN_FDS")) and environ.get("LISTEN_PID") == str(os.getpid())


def _listening(fd: int, name: str) -> Inherited:
    what = f"descriptor {fd}{f' ({name})' if name else ''} of LISTEN_FDS"
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(f"{what} is no socket: {error.strerror}") from error
    sock.set_inheritable(False)
    sock.setblocking(False)
    listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        raise ConfigError(
            f"{what} is no listening stream socket of TCP or Unix: use ListenStream=, and leave out Accept=yes"
        )
    place = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return Inherited(sock, Address(host=place[0], port=place[1]))
    path = os.fsdecode(place)
    return Inherited(sock, Address(path="@" + path[1:] if path.startswith("\0") else path))


def _check_web(settings: Settings, found: Address) -> None:
    """Raises ConfigError for settings that do not go with the gateway's socket, which listens at `found`."""
    where = web_url(found).removeprefix("http://")
    if settings.web is not None and not _same(settings.web, found):
        raise ConfigError(
            f"listen in [web] (--web) is {web_url(settings.web).removeprefix('http://')}, and a socket named {WEB!r} "
            f"has come with the start that listens on {where}: the gateway has one address. Leave one of them out, or "
            "let both be the same (ListenStream= in inferd-web.socket)"
        )
    if settings.web is None and settings.tls_client_ca and not settings.tokens:
        raise ConfigError(
            f"client_ca in [tls] (--tls-client-ca) asks for certificates, and {where}, the socket named {WEB!r} that "
            f"has come with the start, would be served without. Name it if that is meant (--web {where}), ask for "
            "tokens (--tokens), or disable inferd-web.socket"
        )


def _without_tls(address: Address) -> Address:
    return dataclasses.replace(address, tls=False)


def _same(wanted: Address, found: Address) -> bool:
    if wanted.path or found.path:
        return bool(wanted.path and found.path) and os.path.realpath(wanted.path) == os.path.realpath(found.path)
    if wanted.port != found.port:
        return False
    try:
        places = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False  # opening it says why
    return any(place[4][0] == found.host for place in places)
