"""Before authentication: one small frame, five seconds, 64 at once, and nothing kept."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from inferd_client import Client, ResourceExhausted, Unauthenticated

from inferd.serve.listener import OPERATOR_PLACES
from inferd.serve.origin import LOOPBACK, origin
from inferd.serve.patience import HELLO_TIMEOUT_S
from inferd.serve.strangers import GRACE_S, LEAST_GRACE_S, MAX_STRANGERS, Strangers
from inferd.serve.tokens import FREE_GUESSES, GUESS_EVERY_S, MAX_GUESSERS, Guesses
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from tests.rawpeer import RawPeer
from tests.running import Daemon, double, running

ADA = "ada-0123456789abcdef"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that asks for a token over TCP."""
    folder = tmp_path_factory.mktemp("strangers")
    tokens = folder / "tokens"
    tokens.write_text(f"ada: {ADA}\n")
    tokens.chmod(0o600)
    with running(folder, double("Double"), executor="inline", tokens=str(tokens)) as served:
        yield served


def connect(daemon: Daemon) -> socket.socket:
    address = Address.parse(daemon.url)
    return socket.create_connection((address.host, address.port), timeout=20)


def ended(sock: socket.socket) -> bool:
    """Whether the other end has closed; waits for it."""
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


# ---- the rule, without a socket


def full(now: float) -> Strangers[int]:
    strangers: Strangers[int] = Strangers()
    for number in range(MAX_STRANGERS):
        assert not strangers.full
        strangers.add(number, now)
    assert strangers.full
    return strangers


def test_the_oldest_loses_its_place_only_when_somebody_waits_for_it() -> None:
    """After GRACE_S then, after HELLO_TIMEOUT_S in any case."""
    strangers = full(0.0)
    assert strangers.next_due(0.0) == HELLO_TIMEOUT_S
    assert strangers.overdue(HELLO_TIMEOUT_S - 0.01) is None
    strangers.press(0.1)
    assert strangers.next_due(0.1) == GRACE_S
    assert strangers.overdue(GRACE_S - 0.01) is None
    assert strangers.overdue(GRACE_S) == 0
    later = full(0.0)
    assert later.overdue(HELLO_TIMEOUT_S) == 0


def test_who_comes_to_say_nothing_loses_its_place_ever_faster() -> None:
    """Down to LEAST_GRACE_S; those who say HELLO, and five seconds in which nobody waits, make up for it."""
    strangers = full(0.0)
    strangers.press(0.0)
    for number in range(MAX_STRANGERS):
        assert strangers.overdue(GRACE_S) == number
        strangers.discard(number)
    strangers.add(100, 2.0)
    due = strangers.next_due(2.0)
    assert due is not None and 2.0 + LEAST_GRACE_S < due < 2.0 + GRACE_S / 3
    for _ in range(200):
        strangers.overdue(3.0)
    assert strangers.next_due(3.0) == 2.0 + LEAST_GRACE_S
    for number in range(40):
        strangers.add(number, 3.0)
        strangers.greeted(number)
    assert strangers.next_due(3.0) == 2.0 + GRACE_S
    assert strangers.next_due(HELLO_TIMEOUT_S) == 2.0 + HELLO_TIMEOUT_S


def test_a_place_that_becomes_free_is_said_once() -> None:
    """And only where all had been taken."""
    strangers: Strangers[int] = Strangers()
    heard: list[bool] = []
    strangers.when_room = lambda: heard.append(True)
    for number in range(MAX_STRANGERS):
        strangers.add(number, 0.0)
    strangers.discard(3)
    strangers.discard(3)
    strangers.discard(4)
    assert heard == [True] and len(strangers) == MAX_STRANGERS - 2


# ---- the daemon


def test_there_are_never_more_than_64(daemon: Daemon) -> None:
    """200 who say nothing: 64 are inside, the others wait in the kernel's queue, and each of them is closed in time."""
    with contextlib.ExitStack() as stack:
        most = 0
        silent = [stack.enter_context(connect(daemon)) for _ in range(200)]
        began = time.monotonic()
        daemon.until(lambda: daemon.engine.strangers.full)

        def seen() -> bool:
            nonlocal most
            inside = [session for session in daemon.engine.sessions if session.peer.state == "START"]
            most = max(most, len(inside))
            return len(daemon.engine.strangers) == 0

        daemon.until(seen, timeout_s=30)
        assert most == MAX_STRANGERS
        assert all(ended(sock) for sock in silent)
        assert time.monotonic() - began < 30


def test_silent_ones_do_not_shut_out_who_speaks(daemon: Daemon) -> None:
    """All places are taken by some who say nothing, and clients that say HELLO get in long before those are closed."""
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_STRANGERS + 20):
            stack.enter_context(connect(daemon))
        daemon.until(lambda: daemon.engine.strangers.full)
        began = time.monotonic()
        with Client(daemon.url, token=ADA) as client:
            client.ping()
        assert time.monotonic() - began < HELLO_TIMEOUT_S - 1
    daemon.until(lambda: len(daemon.engine.strangers) == 0)


def test_many_good_clients_at_once_all_get_in(daemon: Daemon) -> None:
    """Three times as many as there are places, as after a restart: nobody is refused and nobody is cut."""
    cut = daemon.ask(lambda: daemon.engine.counters["connections_cut"])
    hello = Hello("test", token=ADA)

    def greet(_: int) -> int:
        with RawPeer(daemon.url, greet=False) as peer:
            peer.sock.sendall(peer.peer.send(f.HELLO, hello))
            return peer.next().type

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(greet, range(3 * MAX_STRANGERS))) == {f.WELCOME}
    assert daemon.ask(lambda: daemon.engine.counters["connections_cut"]) == cut


def test_who_trickles_is_closed_after_five_seconds(daemon: Daemon) -> None:
    """A byte now and then is no HELLO."""
    # The tests before have filled all places, and then there is less time for a while.
    daemon.ask(lambda: setattr(daemon.engine.strangers, "_pressed_until", 0.0))
    with connect(daemon) as sock:
        began = time.monotonic()
        sock.sendall(f.MAGIC)
        assert ended(sock)
        assert HELLO_TIMEOUT_S - 0.5 < time.monotonic() - began < HELLO_TIMEOUT_S + 3


@pytest.mark.parametrize(("header", "payload"), [(4097, 0), (0, 4097), (2000, 3000), (2**32 - 1, 2**32 - 1)])
def test_one_frame_of_4_kib_is_all_that_is_taken(daemon: Daemon, header: int, payload: int) -> None:
    """More is refused by its first 24 bytes, and nothing is set aside for it."""
    used = daemon.ask(lambda: daemon.engine.slab.used_bytes)
    with connect(daemon) as sock:
        sock.sendall(f.pack_prefix(f.HELLO, 0, header, payload))
        assert ended(sock)
    assert daemon.ask(lambda: daemon.engine.slab.used_bytes) == used


@pytest.mark.parametrize("kind", [f.INFER, f.STATUS, f.PING, f.RELOAD, f.CANCEL])
def test_nothing_but_hello_is_heard_first(daemon: Daemon, kind: int) -> None:
    """No message has an effect before HELLO, and none that comes behind a HELLO that is refused."""
    before = daemon.ask(lambda: dict(daemon.engine.counters))
    with connect(daemon) as sock:
        sock.sendall(f.pack_prefix(kind, 1, 0))
        assert ended(sock)
    with RawPeer(daemon.url, greet=False) as peer:
        peer.sock.sendall(peer.peer.send(f.HELLO, Hello("test")) + f.pack_prefix(kind, 1, 0) * 20)
        with contextlib.suppress(ConnectionResetError):
            assert peer.next().type == f.ERROR
            with pytest.raises(EOFError):
                peer.next()
    after = daemon.ask(lambda: dict(daemon.engine.counters))
    changed = {name for name in after if after[name] != before.get(name, 0)}
    assert changed <= {"connections", "refused_token", "connections_closed_protocol_error", "connections_cut"}


def test_the_place_is_free_when_the_stranger_has_gone(daemon: Daemon) -> None:
    """Connections that are opened and closed at once, also with a reset, leave nothing."""
    for _ in range(3 * MAX_STRANGERS):
        sock = connect(daemon)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    daemon.until(lambda: len(daemon.engine.strangers) == 0)
    with Client(daemon.url, token=ADA) as client:
        assert client.models()


# ---- guessing


def test_guesses_are_few_and_then_slow() -> None:
    """Ten at once, then one a second; who has guessed nothing never waits."""
    guesses = Guesses()
    tried = 0
    for _ in range(1000):
        if not guesses.wait_s("ip:10.0.0.1", 5.0):
            guesses.wrong("ip:10.0.0.1", 5.0)
            tried += 1
    assert tried == FREE_GUESSES
    assert guesses.wait_s("ip:10.0.0.2", 5.0) == 0.0
    assert 0.0 < guesses.wait_s("ip:10.0.0.1", 5.0) <= GUESS_EVERY_S
    assert guesses.wait_s("ip:10.0.0.1", 5.0 + GUESS_EVERY_S) == 0.0
    # A household of IPv6 has 2^64 addresses, and is one.
    for number in range(FREE_GUESSES):
        guesses.wrong(origin(f"ip:2001:db8::{number:x}"), 5.0)
    assert guesses.wait_s(origin("ip:2001:db8::ffff"), 5.0) > 0.0
    assert guesses.wait_s(origin("ip:2001:db8:0:1::1"), 5.0) == 0.0


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("ip:192.0.2.7", "ip:192.0.2.7"),
        ("ip:::ffff:192.0.2.7", "ip:192.0.2.7"),
        ("ip:127.0.0.1", LOOPBACK),
        ("ip:127.9.8.7", LOOPBACK),
        ("ip:::1", LOOPBACK),
        ("ip:::ffff:127.0.0.2", LOOPBACK),
        ("ip:2001:db8::5:6", "ip:2001:db8::/64"),
        ("ip:fe80::1%eth0", "ip:fe80::/64"),
        (LOOPBACK, LOOPBACK),
        ("ip:2001:db8::/64", "ip:2001:db8::/64"),
        ("token:ada", "token:ada"),
        ("ip:None", "ip:None"),
        ("", ""),
    ],
)
def test_one_machine_has_one_name(name: str, whose: str) -> None:
    """Addresses that one machine can take at will share, and guess, as one."""
    assert origin(name) == whose


def test_guessers_are_bounded() -> None:
    """A million addresses cost what a thousand cost."""
    guesses = Guesses()
    for number in range(100_000):
        guesses.wrong(f"ip:{number}", 0.0)
    assert len(guesses._full_at) == MAX_GUESSERS


def test_guessing_at_the_daemon_is_slowed_down(tmp_path: Path) -> None:
    """From the eleventh wrong token on none is looked at; the right one neither, which is told when to come again. A
    Unix socket goes on as if nothing were."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ada: {ADA}\n")
    tokens.chmod(0o600)
    with running(tmp_path, double("Double"), executor="inline", tokens=str(tokens)) as daemon:
        # Frozen, so that how fast this machine is does not matter.
        clock = daemon.engine.clock
        now = clock()
        daemon.ask(lambda: setattr(daemon.engine, "clock", lambda: now))
        for _ in range(FREE_GUESSES):
            wrong = Client(daemon.url, token="wrong-0123456789abcdef", max_retries=0)
            with wrong as client, pytest.raises(Unauthenticated):
                client.models()
        for token in ("wrong-0123456789abcdef", ADA):
            with Client(daemon.url, token=token, max_retries=0) as client, pytest.raises(ResourceExhausted) as caught:
                client.models()
            assert caught.value.reason == "GUESSING" and caught.value.retryable
            assert re.search(r"try again in \d+\.\d s$", caught.value.message)
            assert 0 < (caught.value.retry_after_ms or 0) <= 1000 * GUESS_EVERY_S
        with Client(daemon.unix_url) as client:
            assert client.models()
        daemon.ask(lambda: setattr(daemon.engine, "clock", lambda: now + 2 * GUESS_EVERY_S))
        with Client(daemon.url, token=ADA, max_retries=0) as client:
            assert client.models()
        assert daemon.ask(lambda: daemon.engine.counters["refused_guessing"]) == 2
        daemon.ask(lambda: setattr(daemon.engine, "clock", clock))


def test_wrong_tokens_leave_a_line_without_the_token(tmp_path: Path) -> None:
    """The log says where a wrong token came from, and where one is not looked at any more; never which it was."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ada: {ADA}\n")
    tokens.chmod(0o600)
    with running(tmp_path, double("Double"), executor="inline", tokens=str(tokens)) as daemon:
        lines: list[tuple[str, dict[str, str]]] = []
        daemon.engine.throttle.event = lambda name, now, **fields: lines.append((name, fields))  # type: ignore
        for _ in range(FREE_GUESSES + 1):
            with RawPeer(daemon.url, greet=False) as peer:
                peer.sock.sendall(peer.peer.send(f.HELLO, Hello("x", token="wrong-0123456789")))
                assert peer.next().type == f.ERROR
        refused = [fields for name, fields in lines if name == "token_refused"]
        assert len(refused) == FREE_GUESSES + 1
        assert all(fields["peer"].startswith("127.0.0.1:") for fields in refused)
        assert {fields["why"] for fields in refused} == {
            "this one is not known",
            "too many wrong ones have come from there",
        }
        assert "wrong-" not in str(lines)


def test_the_operator_comes_in_when_all_places_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root and the daemon's own user have a few places more over a Unix socket; nobody else has."""
    from inferd.serve import credentials

    with running(tmp_path, double("Double"), max_connections=1) as daemon, contextlib.ExitStack() as held:
        held.enter_context(RawPeer(daemon.url))
        for _ in range(OPERATOR_PLACES):
            held.enter_context(RawPeer(daemon.unix_url))
        for url in (daemon.url, daemon.unix_url):
            with RawPeer(url, greet=False) as peer:
                peer.peer.send(f.HELLO, Hello("x"))  # for its state only: it is told so at once
                assert peer.outcomes(1) == {0: "TOO_MANY_CONNECTIONS"}
        held.pop_all().close()
        daemon.until(lambda: not daemon.engine.sessions)
        monkeypatch.setattr(credentials, "is_own", lambda found: False)
        with RawPeer(daemon.unix_url), RawPeer(daemon.unix_url, greet=False) as peer:
            peer.peer.send(f.HELLO, Hello("x"))
            assert peer.outcomes(1) == {0: "TOO_MANY_CONNECTIONS"}
