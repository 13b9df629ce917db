"""TLS: what is not TLS 1.3 with the right certificate gets nowhere, and what is gets its bytes back as they went."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from inferd_client import AsyncClient, Client, ConfigError, InferdError, InvalidArgument, Unauthenticated, Unavailable

from inferd.config import Settings
from inferd.serve import session, tls
from inferd.serve.listener import TlsConnection
from inferd.serve.strangers import MAX_STRANGERS
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd.wire.peer import CLIENT, Peer
from tests.running import Daemon, double, running
from tests.security.conftest import Papers
from tests.serve.test_reload import Operator

X = np.arange(16, dtype=np.float32)


@pytest.fixture(scope="module")
def plain_tls(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that shows a certificate and asks for none."""
    folder = tmp_path_factory.mktemp("tls")
    with running(folder, double("Double"), executor="inline", tls_cert=papers.cert, tls_key=papers.key) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def mutual(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that asks for a certificate, and for a token from whoever comes without TLS."""
    folder = tmp_path_factory.mktemp("mutual")
    tokens = folder / "tokens"
    tokens.write_text("bob: bob-0123456789abcdef\n")
    tokens.chmod(0o600)
    files = {"tls_cert": papers.cert, "tls_key": papers.key, "tls_client_ca": papers.ca, "tokens": str(tokens)}
    with running(folder, double("Double"), executor="inline", **files) as daemon:
        yield daemon


def names(daemon: Daemon) -> set[str]:
    return daemon.ask(lambda: {session.owner.name for session in daemon.engine.sessions})


# ---- what goes right


@pytest.mark.parametrize("size", [1, 4096, 5_000_000])
def test_payloads_come_back_over_tls(plain_tls: Daemon, papers: Papers, size: int) -> None:
    """One byte or twenty megabytes, from threads and from asyncio, on its own loop and on uvloop's."""
    x = np.arange(size, dtype=np.float32)
    with Client(plain_tls.url, ca=papers.ca) as client:
        for _ in range(3):
            assert np.array_equal(client.infer("double", {"x": x})["y"], x * 2)

    async def ask() -> None:
        async with AsyncClient(plain_tls.url, ca=papers.ca) as client:
            for result in await asyncio.gather(*(client.infer("double", {"x": x}) for _ in range(3))):
                assert np.array_equal(result["y"], x * 2)

    asyncio.run(ask())
    uvloop.run(ask())


def test_many_threads_share_a_connection_over_tls(plain_tls: Daemon, papers: Papers) -> None:
    """Reading and writing at the same time, in answers of all sizes: each gets its own."""
    wrong: list[int] = []

    def ask(number: int) -> None:
        for size in (1, 100, 5_000, 40_000, 7):
            x = np.full(size, number, np.float32)
            if not np.array_equal(client.infer("double", {"x": x})["y"], x * 2):
                wrong.append(number)

    with Client(plain_tls.url, ca=papers.ca) as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_asyncio_daemon_speaks_tls_too(papers: Papers, tmp_path: Path) -> None:
    """Without uvloop the same bytes come back."""
    files = {"tls_cert": papers.cert, "tls_key": papers.key}
    with (
        running(tmp_path, double("Double"), executor="inline", use_uvloop=False, **files) as daemon,
        Client(daemon.url, ca=papers.ca) as client,
    ):
        x = np.arange(300_000, dtype=np.float32)
        assert np.array_equal(client.infer("double", {"x": x})["y"], x * 2)


def test_a_certificate_stands_for_a_token_and_names_the_client(mutual: Daemon, papers: Papers) -> None:
    """Its common name is the client's in the fair shares, or else its first alternative name."""
    with Client(mutual.url, ca=papers.ca, cert=papers.ada[0], key=papers.ada[1]) as client:
        assert np.array_equal(client.infer("double", {"x": X})["y"], X * 2)
        assert "cert:ada" in names(mutual)
    with Client(mutual.url, ca=papers.ca, cert=papers.nameless[0], key=papers.nameless[1]) as client:
        client.models()
        assert "cert:robot.example" in names(mutual)


@pytest.mark.parametrize("how", ["tls", "tcp", "unix"])
def test_a_connection_that_gives_way_after_each_frame_loses_nothing(
    papers: Papers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Many small requests at once, and payloads larger than any buffer: what was stopped in the middle goes on."""
    monkeypatch.setattr(session, "LONG_READ_S", -1.0)
    files = {"tls_cert": papers.cert, "tls_key": papers.key} if how == "tls" else {}

    async def ask(url: str) -> None:
        async with AsyncClient(url, ca=papers.ca if how == "tls" else None) as client:
            sizes = [1 + number % 7 for number in range(200)] + [100_000] * 5
            inputs = [np.full(size, number, np.float32) for number, size in enumerate(sizes)]
            answers = await asyncio.gather(*[client.infer("double", {"x": x}, timeout_ms=60_000) for x in inputs])
            assert all(np.array_equal(answer["y"], x * 2) for answer, x in zip(answers, inputs, strict=True))

    with running(tmp_path, double("Double"), executor="inline", **files) as daemon:
        uvloop.run(ask(daemon.unix_url if how == "unix" else daemon.url))


def test_a_new_certificate_is_the_next_connections(papers: Papers, tmp_path: Path) -> None:
    """What a reload puts in place is shown to who comes then; who is there stays."""
    with (
        running(tmp_path, double("Double"), executor="inline", tls_cert=papers.cert, tls_key=papers.key) as daemon,
        Client(daemon.url, ca=papers.ca) as early,
    ):
        early.ping()
        shown = ssl.get_server_certificate(("127.0.0.1", Address.parse(daemon.url).port))
        other = tls.server_context(papers.other_cert, papers.other_key)
        daemon.ask(lambda: setattr(daemon.engine, "tls", other))
        assert ssl.get_server_certificate(("127.0.0.1", Address.parse(daemon.url).port)) != shown
        early.ping()


def test_bench_runs_over_tls_in_all_its_processes(mutual: Daemon, papers: Papers) -> None:
    """With INFERD_CA, INFERD_CERT and INFERD_KEY, as the client reads them; without, it says what is wrong."""
    command = [sys.executable, "-m", "inferd", "bench", "double", "--shape", "x=FP32[20000]", "--url", mutual.url]
    command += ["--callers", "4", "--processes", "2", "--seconds", "0.2", "--warmup-seconds", "0", "--json"]
    papers_of_ada = {"INFERD_CA": papers.ca, "INFERD_CERT": papers.ada[0], "INFERD_KEY": papers.ada[1]}
    done = subprocess.run(command, env=os.environ | papers_of_ada, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] > 0
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "INFERD_CA" in done.stderr


# ---- who does not get in


@pytest.mark.parametrize("shown", ["none", "foreign"])
def test_without_a_certificate_that_counts_nobody_gets_in(mutual: Daemon, papers: Papers, shown: str) -> None:
    """TLS 1.3 tells a client only at its first read; it hears Unauthenticated, not that the connection was lost."""
    cert, key = (None, None) if shown == "none" else papers.eve
    before = mutual.ask(lambda: mutual.engine.counters["connections_closed_tls"])
    with Client(mutual.url, ca=papers.ca, cert=cert, key=key) as client, pytest.raises(Unauthenticated) as caught:
        client.infer("double", {"x": X})
    assert caught.value.reason == "TLS" and not caught.value.retryable

    async def ask() -> None:
        async with AsyncClient(mutual.url, ca=papers.ca, cert=cert, key=key) as client:
            with pytest.raises(Unauthenticated):
                await client.infer("double", {"x": X})

    asyncio.run(ask())
    uvloop.run(ask())
    assert mutual.ask(lambda: mutual.engine.counters["connections_closed_tls"]) == before + 3
    assert not any(name.startswith("cert:") for name in names(mutual))


def test_a_handshake_from_before_a_reload_lets_nobody_in(papers: Papers, tmp_path: Path) -> None:
    """Tokens are replaced by client certificates: who shook hands before, and says HELLO after it, has shown neither. A
    reload that leaves TLS alone, and one that asks for no certificates, cut nobody."""
    tokens = tmp_path / "tokens"
    tokens.write_text("ada: ada-0123456789abcdef\n")
    tokens.chmod(0o600)
    files = {"tls_cert": papers.cert, "tls_key": papers.key}
    with running(tmp_path, double("Double"), executor="inline", **files, tokens=str(tokens)) as daemon:
        operator = Operator(daemon)
        address = Address.parse(daemon.url)
        context = ssl.create_default_context(cafile=papers.ca)

        def shaken_hands() -> tuple[ssl.SSLSocket, Peer]:
            sock = context.wrap_socket(
                socket.create_connection((address.host, address.port)), server_hostname=address.host
            )
            sock.settimeout(10)
            return sock, Peer(CLIENT)

        def says(sock: ssl.SSLSocket, peer: Peer, token: str = "") -> bytes:
            with sock:
                sock.sendall(peer.send(f.HELLO, Hello("test", token=token)))
                return sock.recv(1)

        one, other, third = shaken_hands(), shaken_hands(), shaken_hands()
        daemon.until(lambda: len(daemon.engine.sessions) == 3)
        operator.edit(max_in_flight=7)
        assert operator.reload()
        assert says(*one, "ada-0123456789abcdef")
        operator.edit(tls_cert=papers.other_cert, tls_key=papers.other_key)
        assert operator.reload()
        assert says(*other, "ada-0123456789abcdef")
        operator.edit(tokens="", tls_client_ca=papers.ca)
        assert operator.reload()
        assert says(*third) == b""
        with Client(daemon.url, ca=papers.ca, cert=papers.ada[0], key=papers.ada[1]) as client:
            client.ping()


def test_the_client_trusts_only_whom_it_is_told_to(plain_tls: Daemon, papers: Papers) -> None:
    """A server whose certificate another has signed, or which is for another name, is not told anything."""
    port = Address.parse(plain_tls.url).port
    for url, ca in (
        (plain_tls.url, papers.foreign_ca),
        (plain_tls.url, None),
        (f"inferds://127.0.0.2:{port}", papers.ca),
    ):
        with Client(url, ca=ca, connect_timeout_ms=2000) as client, pytest.raises(InferdError) as caught:
            client.models()
        # 127.0.0.2 is not listened on by everybody's loopback: then there is nobody to distrust.
        assert isinstance(caught.value, Unauthenticated) or (url != plain_tls.url), caught.value

    async def ask() -> None:
        async with AsyncClient(plain_tls.url, ca=papers.foreign_ca) as client:
            with pytest.raises(Unauthenticated, match=r"not trusted .*ca=… or in INFERD_CA"):
                await client.models()

    asyncio.run(ask())


def test_a_certificate_for_another_name_is_no_matter_of_trust(papers: Papers, tmp_path: Path) -> None:
    """The sentence says so, and what helps."""
    cert, key = papers.issue("elsewhere", papers.authority, "elsewhere.example")
    with (
        running(tmp_path, double("Double"), executor="inline", tls_cert=cert, tls_key=key) as daemon,
        Client(daemon.url, ca=papers.ca) as client,
        pytest.raises(Unauthenticated, match=r"is not for 127\.0\.0\.1 .*use a name that is in the certificate"),
    ):
        client.models()


def test_a_key_of_another_certificate_is_said(papers: Papers) -> None:
    """Both files are fine, each for itself."""
    with pytest.raises(ConfigError, match="do not belong together"):
        Client("inferds://a", ca=papers.ca, cert=papers.ada[0], key=papers.eve[1])


def test_older_tls_is_refused(plain_tls: Daemon, papers: Papers) -> None:
    """A client that speaks 1.2 at best ends in the handshake."""
    context = ssl.create_default_context(cafile=papers.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    address = Address.parse(plain_tls.url)
    with socket.create_connection((address.host, address.port)) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock, server_hostname=address.host)


def test_either_side_says_when_the_other_does_not_speak_tls(plain_tls: Daemon, papers: Papers) -> None:
    """inferd:// to an inferds:// address, and the other way round: a sentence, not a riddle."""
    port = Address.parse(plain_tls.url).port
    with Client(f"inferd://127.0.0.1:{port}") as client, pytest.raises(InvalidArgument, match="inferds://"):
        client.models()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            sock, _ = server.accept()
            sock.recv(4096)
            sock.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"inferds://127.0.0.1:{server.getsockname()[1]}"
        with Client(url, ca=papers.ca, max_retries=0) as client, pytest.raises(Unavailable, match="inferds://"):
            client.models()
        thread.join()


def test_silent_handshakes_are_strangers(plain_tls: Daemon) -> None:
    """Those who connect and do not shake hands count, and the daemon still serves; none has a place for ever."""
    address = Address.parse(plain_tls.url)
    silent = [socket.create_connection((address.host, address.port)) for _ in range(MAX_STRANGERS)]
    try:
        plain_tls.until(lambda: plain_tls.engine.strangers.full)
        for sock in silent:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")  # a record begins, and nothing follows
        plain_tls.until(lambda: not plain_tls.engine.strangers.full, timeout_s=10.0)
    finally:
        for sock in silent:
            sock.close()
    plain_tls.until(lambda: len(plain_tls.engine.strangers) == 0)


def test_what_comes_after_goodbye_is_dropped(
    plain_tls: Daemon, papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result for a connection that has ended, or whose TLS fails, is lost with it and raises nothing: the worker that
    made it is not to blame."""

    def fails(data: object) -> None:
        raise ssl.SSLError("defect")

    with Client(plain_tls.url, ca=papers.ca) as client:

        def after_goodbye() -> int:
            (session,) = plain_tls.engine.sessions
            link = session.link
            assert isinstance(link, TlsConnection)
            link.close()
            unsent = link.unsent()
            link.write(b"result")
            link.writelines([b"result", memoryview(b"result")])
            link.close()
            return link.unsent() - unsent

        assert client.models()
        assert plain_tls.ask(after_goodbye) == 0
    plain_tls.until(lambda: not plain_tls.engine.sessions)
    with Client(plain_tls.url, ca=papers.ca) as client:

        def with_broken_tls() -> bool:
            (session,) = plain_tls.engine.sessions
            link = session.link
            assert isinstance(link, TlsConnection)
            monkeypatch.setattr(link._channel, "write", fails)
            link.write(b"result")
            link.writelines([b"result"])
            return link._transport.is_closing()

        assert client.models()
        assert plain_tls.ask(with_broken_tls)
    plain_tls.until(lambda: not plain_tls.engine.sessions)


def test_a_connection_too_many_is_told_so_over_tls(papers: Papers, tmp_path: Path) -> None:
    """After its handshake, when it can understand it."""
    files = {"tls_cert": papers.cert, "tls_key": papers.key}
    with (
        running(tmp_path, double("Double"), executor="inline", max_connections=1, **files) as daemon,
        Client(daemon.url, ca=papers.ca) as first,
        Client(daemon.url, ca=papers.ca, max_retries=0) as second,
    ):
        assert first.models()
        with pytest.raises(InferdError) as told:
            second.models()
        assert told.value.reason == "TOO_MANY_CONNECTIONS"
        assert first.models()


def test_bytes_that_are_no_tls_end_one_connection(plain_tls: Daemon, papers: Papers) -> None:
    """HTTP, a broken record, and a record whose content was changed on the way."""
    address = Address.parse(plain_tls.url)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 64, b"\x17\x03\x03\xff\xff"):
        with socket.create_connection((address.host, address.port), timeout=10) as sock:
            sock.sendall(data)
            if data[0] == 0x17:
                sock.shutdown(socket.SHUT_WR)
            said = b""
            try:
                while piece := sock.recv(4096):
                    said += piece
            except ConnectionResetError:
                pass
            assert b"\xf1nf" not in said and len(said) < 32
    with Client(plain_tls.url, ca=papers.ca) as client:
        assert client.ping() < 10


# ---- settings


def test_files_that_cannot_be_used_are_said_at_the_start(papers: Papers, tmp_path: Path) -> None:
    """Missing, swapped, mismatching, expired, encrypted, readable by others: each in a sentence of its own."""
    readable = tmp_path / "readable.key"
    readable.write_bytes(Path(papers.key).read_bytes())
    readable.chmod(0o640)
    old = datetime.datetime(2020, 1, 1)
    papers._folder = tmp_path
    expired = papers.issue("expired", papers.authority, "127.0.0.1", not_before=old, not_after=old)
    text = tmp_path / "text"
    text.write_text("nothing\n")
    text.chmod(0o600)
    for cert, key, client_ca, words in (
        ("", papers.key, "", "tls_cert"),
        (papers.cert, "", "", "tls_key"),
        (str(tmp_path / "none"), papers.key, "", "No such file"),
        (papers.cert, str(tmp_path / "none"), "", "No such file"),
        (papers.cert, str(readable), "", "chmod 600"),
        (papers.cert, papers.other_key, "", "is not the key of the certificate"),
        (papers.cert, str(text), "", "no PEM"),
        (str(text), papers.key, "", "no PEM"),
        (*expired, "", "expired"),
        (papers.cert, papers.key, str(text), "no certificate in it"),
        (papers.cert, papers.key, str(tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(ConfigError) as caught:
            tls.server_context(cert, key, client_ca)
        assert words in str(caught.value), (words, str(caught.value))


def test_an_encrypted_key_is_not_asked_for(papers: Papers, tmp_path: Path) -> None:
    """Nobody is there to type a passphrase, and a prompt would hold the start up for ever."""
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_private_key(Path(papers.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    lock = forms.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, lock))
    locked.chmod(0o600)
    with pytest.raises(ConfigError, match="encrypted"):
        tls.server_context(papers.cert, str(locked))


def test_a_client_certificate_is_an_authentication(papers: Papers) -> None:
    """Beyond this machine inferds:// needs tokens or an authority for its clients; encryption alone is neither."""
    everywhere = Address(host="0.0.0.0", port=7499, tls=True)
    files = {"tls_cert": papers.cert, "tls_key": papers.key}
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        Settings(listen=(everywhere,), **files).check()
    Settings(listen=(everywhere,), tls_client_ca=papers.ca, **files).check()
    # It does not speak for a listener without TLS.
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        Settings(listen=(everywhere, Address(host="0.0.0.0", port=7498)), tls_client_ca=papers.ca, **files).check()


def test_options_of_tls_are_for_tls(papers: Papers, tmp_path: Path) -> None:
    """ca=… with inferd:// would look encrypted and not be; files are looked at when the client is made."""
    with pytest.raises(ConfigError, match="inferds://"):
        Client("inferd://127.0.0.1:1", ca=papers.ca)
    for more in ({"ca": str(tmp_path / "none")}, {"ca": papers.ca, "cert": papers.ada[0], "key": papers.eve[1]}):
        with pytest.raises(ConfigError):
            Client("inferds://127.0.0.1:1", **more)


def test_the_environment_names_the_files(mutual: Daemon, papers: Papers, monkeypatch: pytest.MonkeyPatch) -> None:
    """$INFERD_CA, $INFERD_CERT and $INFERD_KEY, for programs that have no arguments for them."""
    for name, path in (("CA", papers.ca), ("CERT", papers.ada[0]), ("KEY", papers.ada[1])):
        monkeypatch.setenv(f"INFERD_{name}", path)
    with Client(mutual.url) as client:
        assert client.models()
