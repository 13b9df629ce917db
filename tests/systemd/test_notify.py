"""What is told to systemd: sd_notify's datagrams, one by one."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from inferd.errors import ConfigError
from inferd.serve.notify import MAX_STATUS_CHARS, Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path):
    """A socket that hears, and its name as systemd writes it."""
    name = f"{tmp_path}/notify"
    if request.param == "abstract":
        name = f"@inferd-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        sock.setblocking(False)
        yield sock, name


def test_every_word_is_a_datagram_of_lines(manager) -> None:
    """The words are those of sd_notify(3), to a path and to an abstract address."""
    sock, name = manager
    notifier = Notifier(name)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.extend(60.0)
    notifier.doing("loading echo")
    notifier.ready()
    notifier.reloading()
    notifier.watchdog()
    notifier.stopping()
    assert sock.recv(999) == b"EXTEND_TIMEOUT_USEC=60000000"
    assert sock.recv(999) == b"STATUS=loading echo"
    assert sock.recv(999) == b"READY=1\nSTATUS=loading echo"
    word, when = sock.recv(999).split(b"\n")
    assert word == b"RELOADING=1" and int(when.removeprefix(b"MONOTONIC_USEC=")) >= before
    assert sock.recv(999) == b"WATCHDOG=1"
    assert sock.recv(999) == b"STOPPING=1\nSTATUS=loading echo"
    notifier.close()


def test_a_status_is_one_line_told_when_it_changes(manager) -> None:
    """A remark stays beside what the service is doing, line breaks are blanks, and nothing is said twice."""
    sock, name = manager
    notifier = Notifier(name)
    notifier.doing("ready")
    notifier.doing("ready")
    notifier.status("the last reload\nchanged nothing")
    notifier.doing("draining")
    notifier.status("")
    notifier.doing("x" * 2 * MAX_STATUS_CHARS)
    assert sock.recv(999) == b"STATUS=ready"
    assert sock.recv(999) == b"STATUS=ready; the last reload changed nothing"
    assert sock.recv(999) == b"STATUS=draining; the last reload changed nothing"
    assert sock.recv(999) == b"STATUS=draining"
    assert len(sock.recv(9999)) == MAX_STATUS_CHARS + len("STATUS=")
    notifier.close()


def test_a_status_that_has_no_form_in_utf_8_is_escaped(manager) -> None:
    """A path may have such a byte in it."""
    sock, name = manager
    notifier = Notifier(name)
    notifier.status("cannot read /srv/\udcff")
    assert sock.recv(999) == b"STATUS=cannot read /srv/\\udcff"
    notifier.close()


def test_the_variables_are_read_once_and_removed(manager) -> None:
    """What is started later cannot speak for the service, and a watchdog is its own process's."""
    _, name = manager
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier.from_environment(environ)
    assert environ == {"HOME": "/"} and notifier.is_heard and notifier.watchdog_s == 30.0
    notifier.close()
    other = Notifier.from_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"})
    assert other.watchdog_s == 0.0
    other.close()


def test_without_a_manager_nothing_is_done() -> None:
    """No variable: every word is dropped."""
    notifier = Notifier.from_environment({"WATCHDOG_USEC": "30000000"})
    notifier.doing("x")
    notifier.ready()
    assert not notifier.is_heard and notifier.watchdog_s == 0.0


def test_a_manager_that_is_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A word that cannot be sent is a line of the log."""
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.ready()
    notifier.close()
    assert "notify_failed" in caplog.text


@pytest.mark.parametrize("environ", [{"NOTIFY_SOCKET": "vsock:2:1"}, {"WATCHDOG_USEC": "soon"}])
def test_variables_that_make_no_sense_are_a_mistake_of_the_configuration(environ: dict[str, str]) -> None:
    """The sentence names the variable."""
    with pytest.raises(ConfigError, match=next(iter(environ))):
        Notifier.from_environment(environ)
