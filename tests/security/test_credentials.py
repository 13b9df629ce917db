"""Who may use a Unix socket, in the kernel's word; and files that hold secrets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from inferd_client import Client, Unauthenticated

from inferd.errors import ConfigError
from inferd.serve import credentials
from inferd.serve.listener import Listener
from inferd.serve.tls import server_context
from inferd.serve.tokens import Tokens, read_tokens
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from tests.running import double, running
from tests.security.conftest import Papers

UID, GID, EXTRA = 54321, 54322, 54323
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")

ASK = """
import os, socket, sys
path, uid, gid, *groups = sys.argv[1:]
path = path.replace("@", "\\0", 1)  # an abstract address
os.setgroups([int(group) for group in groups])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
sock.connect(path)
hello = bytes.fromhex(os.environ["HELLO"])
try:
    sock.sendall(hello)
except ConnectionError:
    pass  # it has closed already; what it said is still there
said = sock.recv(4096)
print(said[4] if said else "nothing", b"PEER" in said)
"""


def ask_as(path: str, uid: int, gid: int, *groups: int) -> str:
    """What a process of that user hears: 2 is WELCOME, 5 is ERROR."""
    header = Hello("test").pack()
    environ = {**os.environ, "HELLO": (f.pack_prefix(f.HELLO, 0, len(header)) + header).hex()}
    words = [sys.executable, "-c", ASK, path, *map(str, (uid, gid, *groups))]
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_the_kernel_says_who_it_is() -> None:
    """Both ends of a pair are this process; a TCP socket has no user."""
    one, other = socket.socketpair()
    with one, other:
        assert credentials.peer(one) == (os.getpid(), os.geteuid(), os.getegid())
        assert credentials.groups(one) == set(os.getgroups())
        assert credentials.is_own(credentials.peer(one))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert credentials.peer(sock) is None
        assert not credentials.is_own(None)
        # Whom the kernel does not name is not let in where there is a list.
        assert not credentials.may_connect(sock, (0,), ()) and not credentials.may_connect(sock, (), (0,))


@AS_ROOT
def test_only_those_of_the_lists_get_in(public: Path) -> None:
    """By user, by primary and by supplementary group; root and the daemon's own user always; the others are told, and
    counted."""
    with running(public, double("Double"), executor="inline", allow_uids=(UID,), allow_gids=(EXTRA,)) as daemon:
        where = Address.parse(daemon.unix_url).path
        os.chmod(where, 0o666)  # the file system lets everybody
        assert ask_as(where, UID, GID) == "2 False"
        assert ask_as(where, UID + 7, EXTRA) == "2 False"
        assert ask_as(where, UID + 7, GID, 1, EXTRA) == "2 False"
        assert ask_as(where, 0, GID) == "2 False"
        for uid, gid, groups in ((UID + 1, GID, ()), (GID, UID, ()), (UID + 7, GID, (1, 2, EXTRA + 1))):
            assert ask_as(where, uid, gid, *groups) == "5 True"
        assert daemon.ask(lambda: daemon.engine.counters["refused_peer"]) == 3


@AS_ROOT
@pytest.mark.parametrize("lists", [{}, {"allow_uids": (UID,)}], ids=["tokens", "a list"])
def test_a_socket_without_a_file_asks_for_tokens(public: Path, lists: dict[str, tuple[int, ...]]) -> None:
    """Every user can open an abstract one, so a token is asked for, unless there are lists of who may come; root and
    the daemon's own user need none."""
    tokens = public / "tokens"
    tokens.write_text("ada: ada-0123456789abcdef\n")
    tokens.chmod(0o600)
    name = f"@inferd-test-{os.getpid()}-{len(lists)}"
    held = socket.socket(socket.AF_UNIX)
    held.bind(name.replace("@", "\0"))
    held.setblocking(False)
    with running(public, double("Double"), executor="inline", tokens=str(tokens), **lists) as daemon:
        listener = Listener(daemon.engine)
        place = listener.reserve(Address(path=name), held)
        asyncio.run_coroutine_threadsafe(listener.open(place), daemon._loop).result(10)
        assert ask_as(name, UID, GID) == ("2 False" if lists else "5 False")
        assert ask_as(name, 0, 0) == "2 False"
        assert daemon.ask(lambda: daemon.engine.counters["refused_token"]) == (0 if lists else 1)
        daemon.ask(listener.close)


@AS_ROOT
def test_who_comes_through_the_gateways_door_must_be_the_daemon(public: Path) -> None:
    """Its word for whom it asks is believed, so nobody else is listened to there, whatever the folder's mode is."""
    with running(public, double("Double"), executor="inline") as daemon:
        listener = Listener(daemon.engine)
        back = Address(path=str(public / "back.sock"))
        asyncio.run_coroutine_threadsafe(listener.open(back, trusted=True), daemon._loop).result(10)
        os.chmod(back.path, 0o666)
        assert ask_as(back.path, UID, GID) == "5 True"
        assert ask_as(back.path, 0, 0) == "2 False"
        daemon.ask(listener.close)


def test_the_client_hears_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unauthenticated, with what to ask for."""
    with running(tmp_path, double("Double"), executor="inline", allow_uids=(UID,)) as daemon:
        monkeypatch.setattr(credentials, "is_own", lambda found: False)
        with Client(daemon.unix_url) as client, pytest.raises(Unauthenticated, match="allow_uids"):
            client.models()


# ---- files


def test_tokens_are_found_where_systemd_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is a file of $CREDENTIALS_DIRECTORY, if it is there; a path is a path."""
    given, here = tmp_path / "credentials", tmp_path / "here"
    for folder, name in ((given, "given"), (here, "here")):
        folder.mkdir()
        (folder / "tokens").write_text(f"{name}: {name}-0123456789abcdef\n")
        (folder / "tokens").chmod(0o600)
    monkeypatch.chdir(here)
    assert read_tokens("tokens").name_of("here-0123456789abcdef") == "here"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    assert read_tokens("tokens").name_of("given-0123456789abcdef") == "given"
    assert read_tokens("./tokens").name_of("here-0123456789abcdef") == "here"
    with pytest.raises(ConfigError, match="No such file"):
        read_tokens("others")


def test_a_token_is_compared_with_each_known_one_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right or wrong, the first or the last: as many comparisons of hashes, of one length, and nothing else decides."""
    known = {name: f"{name}-0123456789abcdef" for name in ("ada", "bob", "eve")}
    tokens = Tokens(known)
    hashes = [hashlib.sha256(token.encode()).digest() for token in known.values()]
    compared = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    wrong = dict.fromkeys(("", "a", known["ada"][:-1], known["eve"] + "x", "x" * 5000))
    for given, name in {**{token: name for name, token in known.items()}, **wrong}.items():
        compared.clear()
        assert tokens.name_of(given) == name
        assert compared == [{known_one, hashlib.sha256(given.encode()).digest()} for known_one in hashes]
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: False)
    assert tokens.name_of(known["ada"]) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601])
def test_secrets_that_others_can_reach_are_refused(
    tmp_path: Path, papers: Papers, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Tokens and keys alike. In $CREDENTIALS_DIRECTORY the group may read: that is how systemd's access list shows."""
    tokens, key = tmp_path / "tokens", tmp_path / "key"
    tokens.write_text("ada: ada-0123456789abcdef\n")
    key.write_bytes(Path(papers.key).read_bytes())
    tokens.chmod(mode)
    key.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_tokens(str(tokens))
    with pytest.raises(ConfigError, match="chmod 600"):
        server_context(papers.cert, str(key))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    if mode == 0o640:
        read_tokens("tokens")
        server_context(papers.cert, "key")
    else:
        with pytest.raises(ConfigError, match="chmod 600"):
            read_tokens("tokens")
        with pytest.raises(ConfigError, match="chmod 600"):
            server_context(papers.cert, "key")


def test_no_secret_is_an_argument_or_in_the_environment() -> None:
    """Every option and variable with a secret's name takes a file, and none of the daemon's takes the secret itself."""
    from inferd.cli.serve import serve

    for parameter in serve.params:
        name = parameter.name or ""
        if any(word in name for word in ("token", "key", "secret", "password")):
            assert (parameter.metavar or "").endswith("FILE"), name  # type: ignore[attr-defined]
