"""Sockets: where connections come from, and the shell around each of them that moves its bytes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from pathlib import Path
from typing import cast

from inferd import log
from inferd.errors import ConfigError, make
from inferd.serve.engine import Engine
from inferd.serve.outbox import COPY_BYTES
from inferd.serve.session import Session
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Error

BACKLOG = 1024


class Connection(asyncio.BufferedProtocol):
    """The asyncio side of one session."""

    name = "?"
    behind = False

    def __init__(self, engine: Engine, trusted: bool = False) -> None:
        self._engine = engine
        self._trusted = trusted
        self._session: Session | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        transport = self._transport
        sock = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        self.name = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        engine = self._engine
        if len(engine.sessions) >= engine.settings.max_connections:
            engine.count("refused_too_many_connections")
            header = Error.of(make("TOO_MANY_CONNECTIONS", limit=engine.settings.max_connections)).pack()
            transport.write(f.pack_prefix(f.ERROR, 0, len(header)) + header)
            transport.close()
            return
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # `resume_writing` comes when all is sent: that is when views of an arena are no longer needed. Writes of
        # less than this are copies, and nobody needs to hear of them.
        transport.set_write_buffer_limits(high=COPY_BYTES, low=0)
        owner = engine.client(_owner(sock, peer))
        # Who may open an ordinary Unix socket is the file system's to say. It is not known by its peer's name: a TCP
        # connection that was reset before it was accepted has none either, and what it sent can still be read.
        shows_token = self._trusted or sock is None or sock.family != socket.AF_UNIX
        self._session = Session(engine, self, owner, engine.clock(), self._trusted, shows_token)
        engine.sessions.add(self._session)
        engine.count("connections")

    def get_buffer(self, sizehint: int) -> memoryview:
        assert self._session is not None
        return self._session.peer.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._session is not None:
            self._session.received(nbytes, self._engine.clock())

    def eof_received(self) -> bool:
        return False  # a client that sends no more cannot hear of its answers either: close

    def pause_writing(self) -> None:
        self.behind = True

    def resume_writing(self) -> None:
        self.behind = False
        if self._session is not None:
            self._session.drained(self._engine.clock())

    def connection_lost(self, error: Exception | None) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._engine.sessions.discard(session)
            session.lost()

    # ---- Link

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def writelines(self, buffers: list[bytes | memoryview]) -> None:
        self._transport.writelines(buffers)

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


def _owner(sock: socket.socket | None, peer: object) -> str:
    """In whose name a connection asks: the user's at the other end of a Unix socket, else the address's. Not the
    connection's: anybody can open 64 of them."""
    if isinstance(peer, tuple):
        return f"ip:{peer[0]}"
    if sock is not None and sock.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"uid:{uid}"
    return "unknown"


class Listener:
    """The open addresses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._servers: list[asyncio.Server] = []
        self._paths: list[tuple[Path, int]] = []

    async def open(self, address: Address, trusted: bool = False) -> Address:
        """Listens; returns the address with the port it got. Raises ConfigError when it is taken.

        At a `trusted` address the gateway comes in, who says for whom it asks.
        """
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self._engine, trusted)

        try:
            if address.path:
                sock = self._bind(Path(address.path))
                server = await loop.create_unix_server(connection, sock=sock, backlog=BACKLOG)
            else:
                server = await loop.create_server(
                    connection, address.host, address.port, backlog=BACKLOG, reuse_address=True
                )
                port = server.sockets[0].getsockname()[1]
                address = Address(host=address.host, port=port)
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            hint = "choose another address with --listen"
            if error.errno == errno.EADDRINUSE:
                hint = f"is another inferd running there? Stop it, or {hint}"
            raise ConfigError(f"cannot listen on {address}: {problem}; {hint}") from error
        self._servers.append(server)
        log.event("listening", address=str(address))
        return address

    def _bind(self, path: Path) -> socket.socket:
        _clear_stale(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        path.chmod(0o660)
        self._paths.append((path, path.stat().st_ino))
        return sock

    def close(self) -> None:
        """Accepts no more; connections that are open stay."""
        for server in self._servers:
            server.close()
        self._servers = []
        for path, inode in self._paths:
            try:
                if path.stat().st_ino == inode:  # not another daemon's that came after us
                    path.unlink()
            except OSError:
                pass
        self._paths = []


def _clear_stale(path: Path) -> None:
    """Removes the socket of a daemon that is gone; leaves one that answers, and anything that is no socket."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"{path} exists and is no socket; choose another path with --listen")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            log.event("stale_socket_unknown", logging.WARNING, path=str(path))
