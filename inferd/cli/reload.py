"""`inferd reload`: a daemon reads its settings anew, and says what has changed or what is wrong."""

from __future__ import annotations

import os
import socket

import click

from inferd._version import __version__
from inferd.cli.common import printable
from inferd.cli.serve import default_socket
from inferd.errors import ConfigError, InferdError
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Error, Hello
from inferd.wire.peer import CLIENT, Frame, Peer
from inferd.wire.values import unpack_values

CONNECT_TIMEOUT_S = 5.0
REQUEST_ID = 1


@click.command(short_help="Make a daemon read its settings anew.")
@click.argument("url", required=False, metavar="[URL]")
def reload(url: str | None) -> None:
    """Make a daemon read its configuration, tokens, certificates and models anew, and say what has changed.

    Nobody is cut off and no request is lost. When anything is wrong nothing is changed, and this says what, and exits
    with 1. URL is the daemon's Unix socket, inferd+unix:///PATH; by default that of $INFERD_URL, if it is one, or
    the one that `inferd serve` opens. Only root and the user that the daemon runs as may do this. SIGHUP does the same,
    also for a daemon without a Unix socket, and the log has the outcome.
    """
    for change in ask(_socket_path(url)) or ["nothing has changed"]:
        click.echo(printable(change))


def _socket_path(url: str | None) -> str:
    if url is None:
        return _usual_socket()
    try:
        address = Address.parse(url)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    if not address.path:
        raise click.BadParameter(f"{url!r}: a reload is asked for over a Unix socket, inferd+unix:///PATH")
    return address.path


def _usual_socket() -> str:
    """The Unix socket in $INFERD_URL, where that is one; otherwise the one that `inferd serve` opens."""
    try:
        path = Address.parse(os.environ.get("INFERD_URL", "").partition("?")[0]).path
    except ConfigError:
        path = ""  # there is none, or there are several addresses in it: for the other verbs
    return path or default_socket()


def ask(path: str) -> list[str]:
    """What has changed. Raises InferdError with what is wrong. It takes as long as the new models take to load."""
    peer = Peer(CLIENT)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_TIMEOUT_S)
        try:
            sock.connect(path)
            sock.sendall(peer.send(f.HELLO, Hello(f"inferd-reload/{__version__}")))
            _next(sock, peer, f.WELCOME)
        except OSError as error:
            raise InferdError(
                f"cannot reach a daemon at {path}: {error.strerror or error}; is one running there? "
                "Name its Unix socket: `inferd reload inferd+unix:///PATH`; a daemon that has none reloads on SIGHUP: "
                "`kill -HUP PID`"
            ) from error
        sock.settimeout(None)
        try:
            sock.sendall(peer.send(f.RELOAD, request_id=REQUEST_ID))
            answer = _next(sock, peer, f.RELOAD)
        except OSError as error:
            raise InferdError(f"the daemon has ended before it answered: {error.strerror}; its log says why") from error
    assert answer.payload is not None
    changed: list[str] = unpack_values(answer.payload).get("changed", [])
    return changed


def _next(sock: socket.socket, peer: Peer, kind: int) -> Frame:
    """The next frame of this kind; an ERROR is raised, and whatever else comes is passed over."""
    while True:
        frame = peer.next_frame()
        if frame is None:
            nbytes = sock.recv_into(peer.get_buffer())
            if not nbytes:
                raise ConnectionResetError(0, "the connection was closed")
            peer.buffer_updated(nbytes)
        elif not frame.complete:
            peer.accept(memoryview(bytearray(frame.payload_bytes)))
        elif isinstance(frame.message, Error):
            raise InferdError(frame.message.message)
        elif frame.type == f.PING:
            sock.sendall(peer.send(f.PONG, request_id=frame.request_id))
        elif frame.type == kind:
            return frame
