"""Sockets: where connections come from, and the shell around each of them that moves its bytes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import stat
import struct
from pathlib import Path
from typing import NamedTuple, cast

from inferd import log
from inferd.errors import ConfigError, ProtocolError, RequestError, make
from inferd.serve import credentials
from inferd.serve.doors import Doors
from inferd.serve.engine import Engine
from inferd.serve.origin import LOOPBACK, origin
from inferd.serve.outbox import COPY_BYTES
from inferd.serve.session import MAX_IGNORED_BYTES, Session
from inferd.serve.tls import Channel
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Error
from inferd.wire.peer import START, protocol_error_frame

BACKLOG = 1024
# Beyond `max_connections`, for root and the daemon's own user over a Unix socket: whoever has taken all the places must
# not keep the operator from asking what goes on, or from a reload that changes the limit.
OPERATOR_PLACES = 4
# A peer that is gone without a word is found within a minute when nothing is on its way to it: by itself Linux takes
# two hours.
TCP_OPTIONS = (
    (socket.TCP_NODELAY, 1),
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)
# And in 20 s when something is. Not on the loopback interface: nobody goes without a word there, and it resets who
# reads slowly with a buffer smaller than a segment (4 KiB, 16 KiB a second: after 33 s).
FAR_TCP_OPTIONS = ((socket.TCP_USER_TIMEOUT, 20_000),)
# What is read at once of a connection with TLS: two records.
TLS_READ_BYTES = 32 * 1024


class Connection(asyncio.BufferedProtocol):
    """The asyncio side of one session."""

    name = "?"
    behind = False
    copies = False
    can_be_told = True  # from its first moment on, that it is refused

    def __init__(self, engine: Engine, trusted: bool = False) -> None:
        self._engine = engine
        self._trusted = trusted
        self._session: Session | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        transport = self._transport
        sock = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        is_unix = sock is not None and sock.family == socket.AF_UNIX
        if isinstance(peer, tuple):
            self.name = f"{peer[0]}:{peer[1]}"
        else:
            self.name = "unix" if is_unix else "unknown"  # one that was reset before it was accepted
        engine = self._engine
        whose = credentials.peer(sock) if sock is not None else None
        # Not over the gateway's socket: what comes there is a browser's.
        admin = not self._trusted and credentials.is_own(whose)
        limit = engine.settings.max_connections
        if self.can_be_told and len(engine.sessions) >= limit + (OPERATOR_PLACES if admin else 0):
            self._refuse(make("TOO_MANY_CONNECTIONS", limit=limit))
            return
        if self._trusted:
            if not credentials.is_own(whose):
                self._refuse(make("PEER", user=_user(whose)))  # the folder it is in should have kept him out
                return
        elif is_unix:
            settings = engine.settings
            if not credentials.may_connect(sock, settings.allow_uids, settings.allow_gids):
                self._refuse(make("PEER", user=_user(whose)))
                return
        whom = _owner(whose, peer)
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            for option, value in TCP_OPTIONS + (FAR_TCP_OPTIONS if whom != LOOPBACK else ()):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # `resume_writing` comes when all is sent: that is when views of an arena are no longer needed. Writes of
        # less than this are copies, and nobody needs to hear of them.
        transport.set_write_buffer_limits(high=COPY_BYTES, low=0)
        owner = engine.holdings.client(whom)
        # Who may open an ordinary Unix socket is the file system's to say, or the lists'. It is not known by its peer's
        # name: a TCP connection that was reset before it was accepted has none either, and what it sent can still be
        # read. An abstract one, whose name is bytes, has no file, and every user may open it.
        has_file = isinstance(transport.get_extra_info("sockname"), str)
        listed = engine.settings.allow_uids or engine.settings.allow_gids
        shows_token = self._trusted or not (is_unix and (has_file or listed or admin))
        now = engine.clock()
        self._session = Session(engine, self, owner, now, self._trusted, shows_token, admin)
        engine.sessions.add(self._session)
        if not self._trusted:
            engine.strangers.add(self._session, now)
        engine.count("connections")

    def _refuse(self, error: RequestError) -> None:
        """Says why this connection is not taken, and ends it."""
        self._engine.count("refused_" + error.reason.lower())
        header = Error.of(error).pack()
        self.write(f.pack_prefix(f.ERROR, 0, len(header)) + header)
        self.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        assert self._session is not None
        return self._session.peer.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._session is not None and self._session.received(nbytes, self._engine.clock()):
            self._give_way()

    def _give_way(self) -> None:
        """It is the others' turn. The loop would read this one again at once, 32 times if there is always more: half a
        second of refusals, during which nobody else was heard."""
        if not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        session = self._session
        if session is None or self._transport.is_closing():
            return
        if session.go_on(self._engine.clock()):
            asyncio.get_running_loop().call_soon(self._go_on)
        elif not self._transport.is_closing():
            self._transport.resume_reading()
            self._read_on(session)

    def _read_on(self, session: Session) -> None:
        """Takes in what has been received and is not in the session's buffer."""

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
            self._engine.strangers.discard(session)
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
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            # What the kernel holds for a peer that does not take it goes at once, too: megabytes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class TlsConnection(Connection):
    """One whose bytes are records of TLS. The session hears of nothing before the handshake is over."""

    # All bytes of the wire come through here: what is received is taken out before the next connection is read.
    _received = memoryview(bytearray(TLS_READ_BYTES))
    # Only after the handshake. Until then it is one of the strangers, of whom there are few.
    can_be_told = False
    copies = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        assert engine.tls is not None
        self._context = engine.tls
        self._channel = Channel(engine.tls)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        if self._session is not None:
            self._take_in(self._session, nbytes)

    def _read_on(self, session: Session) -> None:
        self._take_in(session, 0)

    def _take_in(self, session: Session, nbytes: int) -> None:
        """`nbytes` have been received; what was before may not be decrypted yet."""
        channel = self._channel
        greeting = not channel.established
        gives_way = False
        try:
            channel.received(self._received[:nbytes])
            if not channel.established:
                self._send()
                return
            if greeting:
                self._greet(session)
            if session.peer.state == START and self._is_outdated():
                self._engine.count("connections_closed_tls")
                why = "a reload has replaced the certificates since it began"
                self._engine.throttle.event("tls_failed", self._engine.clock(), peer=self.name, error=why)
                self.close()
                return
            now = self._engine.clock()
            while not gives_way and not self._transport.is_closing():
                nbytes = channel.read_into(session.peer.get_buffer())
                if not nbytes:
                    break
                gives_way = session.received(nbytes, now)
        except EOFError:
            self.close()
        except ssl.SSLError as error:
            self._engine.count("connections_closed_tls")
            self._engine.throttle.event("tls_failed", self._engine.clock(), peer=self.name, error=error.reason)
            if greeting and self._received[: len(f.MAGIC)] == f.MAGIC:
                # An inferd client without TLS: that it understands.
                self._transport.write(protocol_error_frame(ProtocolError("TLS is spoken here: use inferds://")))
            else:
                self._send()  # the alert
            self._transport.close()
        else:
            self._send()
            if self.unsent() > MAX_IGNORED_BYTES and not session.outbox.congested:
                self.abort()  # whoever asks for new keys without end and does not read them
            if gives_way:
                self._give_way()

    def _greet(self, session: Session) -> None:
        """The handshake is over. A verified certificate says who it is, and stands for a token."""
        limit = self._engine.settings.max_connections
        if len(self._engine.sessions) > limit:
            self._refuse(make("TOO_MANY_CONNECTIONS", limit=limit))
            return
        name = self._channel.client_name
        if name:
            session.owner = self._engine.holdings.client(f"cert:{name}")
            session.shows_token = False

    def _is_outdated(self) -> bool:
        """Whether its handshake asked for less than certificates do now. Who has not been let in yet connects again."""
        engine = self._engine
        return bool(engine.settings.tls_client_ca) and engine.tls is not self._context

    def _send(self) -> None:
        data = self._channel.outgoing()
        if data:
            self._transport.write(data)

    # ---- Link

    def write(self, data: bytes) -> None:
        # Who is refused before the handshake hears nothing: it could not be said in a way that he understands.
        if self._channel.established:
            self._say(data)

    def writelines(self, buffers: list[bytes | memoryview]) -> None:
        for buffer in buffers:
            self._say(buffer)

    def _say(self, data: bytes | memoryview) -> None:
        if self._transport.is_closing():
            return  # nothing follows goodbye: OpenSSL would raise
        try:
            self._channel.write(data)
        except ssl.SSLError as error:
            self._engine.count("connections_closed_tls")
            self._engine.throttle.event("tls_failed", self._engine.clock(), peer=self.name, error=str(error))
            self.abort()
        else:
            self._send()

    def close(self) -> None:
        if self._channel.established and not self._transport.is_closing():
            self._channel.goodbye()
            self._send()
        self._transport.close()


def _owner(whose: credentials.Peer | None, peer: object) -> str:
    """In whose name a connection asks: the user's at the other end of a Unix socket, else the address's. Not the
    connection's: anybody can open 64 of them."""
    if isinstance(peer, tuple):
        return origin(f"ip:{peer[0]}")
    return f"uid:{whose.uid}" if whose is not None else "unknown"


def _user(whose: credentials.Peer | None) -> str:
    return f"user {whose.uid}" if whose is not None else "whoever the system does not name"


class Place(NamedTuple):
    """An address that is ours, and its sockets; none yet for a path."""

    address: Address
    sockets: list[socket.socket]


class Listener:
    """The open addresses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._doors: Doors | None = None
        self._sockets: list[socket.socket] = []
        self._paths: list[tuple[Path, int]] = []

    def reserve(self, address: Address, sock: socket.socket | None = None) -> Place:
        """Takes the address, on `sock` if somebody holds it for us. Raises ConfigError when it cannot be had.

        Whoever connects is refused until `open`. A path is only tried: a socket there that refuses is a dead daemon's
        to another one.
        """
        try:
            if sock is not None:
                sockets = [sock]
            elif address.path:
                path = Path(address.path)
                _bound_path(path).close()
                path.unlink()
                sockets = []
            else:
                sockets = _bound(address)
        except OSError as error:
            raise _cannot_listen(address, error) from error
        self._sockets += sockets
        return Place(address, sockets)

    async def open(self, place: Address | Place, trusted: bool = False) -> Address:
        """Listens; returns the address with the port it got. Raises ConfigError when it is taken.

        At a `trusted` address the gateway comes in, who says for whom it asks.
        """
        address, sockets = place if isinstance(place, Place) else self.reserve(place)
        engine = self._engine
        if self._doors is None:
            self._doors = Doors(engine)

        def connection() -> Connection:
            return TlsConnection(engine) if address.tls else Connection(engine, trusted)

        try:
            if not sockets:
                sockets = [self._bind(Path(address.path))]
            for each in sockets:
                each.listen(BACKLOG)
        except OSError as error:
            raise _cannot_listen(address, error) from error
        for each in sockets:
            self._doors.add(each, connection, strangers=not trusted)
        if not address.path:
            address = Address(host=address.host, port=sockets[0].getsockname()[1], tls=address.tls)
        log.event("listening", address=str(address))
        return address

    def _bind(self, path: Path) -> socket.socket:
        sock = _bound_path(path)
        self._paths.append((path, path.stat().st_ino))
        return sock

    def close(self) -> None:
        """Accepts no more; connections that are open stay."""
        if self._doors is not None:
            self._doors.close()
        for sock in self._sockets:
            sock.close()  # also of a daemon that ends before it was ready
        for path, inode in self._paths:
            try:
                if path.stat().st_ino == inode:  # not another daemon's that came after us
                    path.unlink()
            except OSError:
                pass
        self._paths = []


def _cannot_listen(address: Address, error: OSError) -> ConfigError:
    problem = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    hint = "choose another address with --listen"
    if error.errno == errno.EADDRINUSE:
        hint = f"is another inferd running there? Stop it, or {hint}"
    elif error.errno == errno.EADDRNOTAVAIL:
        hint = f"no interface of this machine has it, or not yet; {hint}"
    return ConfigError(f"cannot listen on {address}: {problem}; {hint}")


def _bound_path(path: Path) -> socket.socket:
    """A socket at the path, in place of a dead daemon's. Raises OSError."""
    _clear_stale(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o660)
    except OSError:
        sock.close()
        raise
    return sock


def _bound(address: Address) -> list[socket.socket]:
    """A socket for each address that the host's name stands for. Raises OSError."""
    places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, number, _, place in dict.fromkeys(places):
        sock = None
        try:
            sock = socket.socket(family, kind, number)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(place)
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for each in sockets:
                    each.close()
                raise
            problem = error  # `localhost` also means ::1, on machines without IPv6 too
        else:
            sockets.append(sock)
    if not sockets and problem is not None:
        raise problem
    return sockets


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
