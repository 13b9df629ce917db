"""Sockets that systemd hands over: whose they are, which of them is whose, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from inferd.config import Settings
from inferd.errors import ConfigError
from inferd.serve.inherited import Inherited, InheritedSockets, are_there
from inferd.wire.address import Address

# Where descriptors can be put in a row without closing one that is used.
FREE = itertools.count(300, 10)


def environ(count: int, names: str = "") -> dict[str, str]:
    return {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": names, "HOME": "/"}


def descriptors(*sockets: socket.socket) -> int:
    """The sockets' descriptors put in a row; the first of them."""
    first = next(FREE)
    for place, sock in enumerate(sockets, first):
        os.dup2(sock.fileno(), place)
        sock.close()
    return first


def tcp(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket()
    sock.bind((host, 0))
    sock.listen(1)
    return sock


def unix(path: str | bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen(1)
    return sock


@pytest.fixture
def closing():
    """Closes what a test has taken over."""
    taken: list[InheritedSockets] = []
    yield taken.append
    for inherited in taken:
        for found in (*inherited.wire, *filter(None, [inherited.web])):
            found.sock.close()


def test_they_come_with_their_addresses_and_names(tmp_path: Path, closing) -> None:
    """`web` is the gateway's, the others are the daemon's; none stays open in a program that is started; no variable
    is left."""
    name = f"inferd-test-{os.getpid()}"
    first = descriptors(unix(str(tmp_path / "s")), tcp(), tcp(), unix(f"\0{name}"))
    given = environ(4, "a:web:b:c")
    inherited = InheritedSockets.from_environment(given, first)
    closing(inherited)
    assert given == {"HOME": "/"}
    path, over_tcp, abstract = (found.address for found in inherited.wire)
    assert path == Address(path=str(tmp_path / "s")) and abstract == Address(path=f"@{name}")
    assert over_tcp.host == "127.0.0.1" and over_tcp.port
    assert inherited.web is not None and inherited.web.address.port not in (0, over_tcp.port)
    assert not any(found.sock.get_inheritable() for found in (*inherited.wire, inherited.web))


@pytest.mark.parametrize("change", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}])
def test_what_was_meant_for_another_program_is_left_alone(change: dict[str, str]) -> None:
    """LISTEN_PID says for whom they are; the variables are removed all the same."""
    given = {**environ(1), **change}
    assert not are_there(given)
    inherited = InheritedSockets.from_environment(given)
    assert given == {"HOME": "/"} and inherited.wire == [] and inherited.web is None


def test_those_that_listen_names_are_taken_and_all_others_served_too(tmp_path: Path, closing) -> None:
    """What is named and not handed over is bound; names of hosts and paths with links count as what they mean."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first = descriptors(tcp(), tcp(), unix(str(tmp_path / "real" / "s")))
    inherited = InheritedSockets.from_environment(environ(3), first)
    closing(inherited)
    one, other, path = inherited.wire
    named = Address(host="localhost", port=other.address.port)
    linked = Address(path=str(tmp_path / "link" / "s"))
    bound = Address(host="127.0.0.1", port=0)
    places = inherited.places((named, bound, linked))
    assert places == [(named, other.sock), (bound, None), (linked, path.sock), (one.address, one.sock)]
    assert inherited.places(()) == [(found.address, found.sock) for found in inherited.wire]


@pytest.fixture
def both_loopbacks(monkeypatch: pytest.MonkeyPatch) -> tuple[Inherited, Inherited]:
    """Two sockets where `localhost` means both of their addresses, as on most machines."""
    addresses = [Address(host="127.0.0.1", port=7433), Address(host="::1", port=7433)]
    meant = [(0, 0, 0, "", (address.host, address.port)) for address in addresses]
    alone = socket.getaddrinfo

    def getaddrinfo(host: str, *words: Any, **more: Any) -> Any:
        return meant if host == "localhost" else alone(host, *words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    one, other = (Inherited(socket.socket(), address) for address in addresses)
    one.sock.close()
    other.sock.close()
    return one, other


def test_all_sockets_that_a_name_means_are_the_listeners(both_loopbacks: tuple[Inherited, Inherited]) -> None:
    """With its TLS: one in the clear beside it would let in who has no certificate. One that `listen` has by its own
    address is what it says there."""
    one, other = both_loopbacks
    inherited = InheritedSockets([one, other], None)
    localhost = Address.parse("inferds://localhost:7433")
    assert inherited.places((localhost,)) == [
        (localhost, one.sock),
        (Address.parse("inferds://[::1]:7433"), other.sock),
    ]
    inherited.check(Settings(listen=(localhost,), tls_cert="c", tls_key="k", tls_client_ca="ca"))
    for plain in (one, other):
        rest = other if plain is one else one
        for listen in ((localhost, plain.address), (plain.address, localhost)):
            found = dict(inherited.places(listen))
            assert found == {localhost: rest.sock, plain.address: plain.sock}


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_where_certificates_are_asked_for_no_socket_is_served_without_unless_listen_names_it(
    tmp_path: Path, closing, host: str
) -> None:
    """Neither on loopback: the sentence has both ways to name it. Tokens guard it as well, and a Unix socket the file
    system; without `client_ca` loopback is open as ever."""
    inherited = InheritedSockets.from_environment(environ(3), descriptors(tcp(), tcp(host), unix(str(tmp_path / "s"))))
    closing(inherited)
    encrypted, left = (found.address for found in inherited.wire[:2])
    encrypted = dataclasses.replace(encrypted, tls=True)
    settings = Settings(listen=(encrypted,), tls_cert="c", tls_key="k", tls_client_ca="ca")
    with pytest.raises(ConfigError) as caught:
        inherited.check(settings)
    assert f"{left}, a socket that has come with the start, would be served without" in str(caught.value)
    assert f"--listen {left}" in str(caught.value) and f"--listen inferds://{host}:{left.port}" in str(caught.value)
    inherited.check(dataclasses.replace(settings, listen=(encrypted, dataclasses.replace(left, tls=True))))
    inherited.check(dataclasses.replace(settings, tokens="file"))
    plain = dataclasses.replace(settings, listen=(encrypted, left))
    if host == "127.0.0.1":
        inherited.check(plain)
        inherited.check(dataclasses.replace(settings, tls_client_ca=""))
    else:
        with pytest.raises(ConfigError, match="can be reached from other machines"):
            inherited.check(plain)


def test_a_socket_without_a_file_is_not_served_beside_certificates(closing) -> None:
    """Every user can open an abstract one: with `client_ca` it needs tokens, or lists of who may come."""
    first = descriptors(unix(f"\0inferd-test-{os.getpid()}"))
    inherited = InheritedSockets.from_environment(environ(1), first)
    closing(inherited)
    listen = (Address.parse("inferds://127.0.0.1:9"),)
    settings = Settings(listen=listen, tls_cert="c", tls_key="k", tls_client_ca="ca")
    with pytest.raises(ConfigError, match=r"@inferd-test-.* has no file, and every user can open it"):
        inherited.check(settings)
    for guarded in ({"tokens": "file"}, {"allow_uids": (1,)}, {"allow_gids": (1,)}, {"tls_client_ca": ""}):
        inherited.check(dataclasses.replace(settings, **guarded))


def test_one_that_other_machines_reach_needs_credentials_like_any_other(tmp_path: Path, closing) -> None:
    """0.0.0.0 is refused without tokens, on the wire and for the gateway, and by the reload that takes tokens away."""
    tokens = tmp_path / "tokens"
    tokens.write_text("me: 0123456789abcdef\n")
    for name in ("", "web"):
        inherited = InheritedSockets.from_environment(environ(1, name), descriptors(tcp("0.0.0.0")))
        closing(inherited)
        with pytest.raises(ConfigError, match="can be reached from other machines"):
            inherited.check(Settings())
        inherited.check(Settings(tokens=str(tokens)))
        inherited.check(Settings(insecure_no_auth=True))


def test_origins_are_for_the_gateway_whoever_holds_its_socket() -> None:
    """systemd's socket named web makes one, and so does --web; without either they would have no effect."""
    settings = Settings(web_origin=("https://a.example",))
    with pytest.raises(ConfigError, match=r"origins in \[web\] .* have no effect without the gateway; set listen"):
        InheritedSockets([], None).check(settings)
    InheritedSockets([], None).check(dataclasses.replace(settings, web=Address(host="127.0.0.1", port=9)))


def test_the_gateways_socket_and_its_setting_are_one_address(closing) -> None:
    """Both may be there if they name the same; another one would be dropped without a word."""
    inherited = InheritedSockets.from_environment(environ(1, "web"), descriptors(tcp()))
    closing(inherited)
    assert inherited.web is not None
    port = inherited.web.address.port
    for host in ("127.0.0.1", "localhost"):
        inherited.check(Settings(web=Address(host=host, port=port)))
    for other in (Address(host="127.0.0.1", port=port - 1), Address(host="127.0.0.2", port=port)):
        with pytest.raises(ConfigError, match=f"--web. is {other.host}:{other.port}, .* listens on 127.0.0.1:{port}"):
            inherited.check(Settings(web=other))


def test_where_certificates_are_asked_for_the_gateways_socket_is_named_too(closing) -> None:
    """It has no TLS: with `client_ca` and no tokens it is there only if the settings name it."""
    inherited = InheritedSockets.from_environment(environ(1, "web"), descriptors(tcp()))
    closing(inherited)
    assert inherited.web is not None
    listen = (Address.parse("inferds://127.0.0.1:9"),)
    settings = Settings(listen=listen, tls_cert="c", tls_key="k", tls_client_ca="ca")
    with pytest.raises(ConfigError, match=f"the socket named 'web'.*--web 127.0.0.1:{inherited.web.address.port}"):
        inherited.check(settings)
    inherited.check(dataclasses.replace(settings, web=inherited.web.address))
    inherited.check(dataclasses.replace(settings, tokens="file"))
    inherited.check(dataclasses.replace(settings, tls_client_ca=""))


def test_what_is_no_listening_stream_socket_is_refused(tmp_path: Path) -> None:
    """A file, a datagram socket, a socket that does not listen (Accept=yes), two for one gateway, a gateway on Unix."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    silent = socket.socket()
    cases = [
        ([datagrams], "", "is no listening stream socket"),
        ([silent], "", "Accept=yes"),
        ([tcp(), tcp()], "web:web", "two sockets are named 'web'"),
        ([unix(str(tmp_path / "s"))], "web", "the gateway listens on TCP"),
    ]
    for sockets, names, sentence in cases:
        first = descriptors(*sockets)
        with pytest.raises(ConfigError, match=sentence):
            InheritedSockets.from_environment(environ(len(sockets), names), first)
        for fd in range(first, first + len(sockets)):
            try:
                os.close(fd)
            except OSError:
                pass  # the refused one is closed already
    file = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ConfigError, match="is no socket"):
        InheritedSockets.from_environment(environ(1), file)
    os.close(file)
    with pytest.raises(ConfigError, match="LISTEN_FDS=two"):
        InheritedSockets.from_environment({**environ(1), "LISTEN_FDS": "two"})
