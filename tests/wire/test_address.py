"""Addresses: what is one, what is none, and that what is said of it shows no secret."""

from __future__ import annotations

import os

import pytest

from inferd.errors import ConfigError
from inferd.wire.address import MAX_SOCKET_PATH, Address


@pytest.mark.parametrize(
    "path",
    ["/tmp/a#b.sock", "/tmp/a\tb", "/tmp/a b ", "/tmp/user:secret@x", "/tmp/a%20b", "//tmp/a", "/tmp/ü", "/tmp/\udcff"],
)
def test_a_sockets_path_stands_as_it_is(path: str) -> None:
    """Also where it is not UTF-8."""
    address = Address.parse(f"inferd+unix://{path}")
    assert address == Address(path=path) and str(address) == f"inferd+unix://{path}"


def test_the_length_of_a_sockets_path_counts_its_bytes() -> None:
    """As the file system has them."""
    longest = "/" + os.fsdecode(b"\xff" * (MAX_SOCKET_PATH - 1))
    assert Address.parse(f"inferd+unix://{longest}").path == longest
    for too_long in (longest + "a", "/" + "ü" * (MAX_SOCKET_PATH // 2 + 1)):
        with pytest.raises(ConfigError, match="at most 107 bytes"):
            Address.parse(f"inferd+unix://{too_long}")


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("inferd://127.0.0.1", "127.0.0.1", 7433, False),
        ("INFERDS://Example.org:1/", "example.org", 1, True),
        ("inferd://[::1]:0", "::1", 0, False),
        ("inferd://[fe80::1%eth0]", "fe80::1%eth0", 7433, False),
        ("inferd://bücher.example.", "bücher.example.", 7433, False),
    ],
)
def test_hosts(url: str, host: str, port: int, tls: bool) -> None:
    assert Address.parse(url) == Address(host, port, "", tls)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("inferd://user:secret@127.0.0.1", "leave out what is before the '@'"),
        ("inferd://user:sec/ret@127.0.0.1:x?secret", "leave out what is before the '@'"),
        ("inferd://127.0.0.1?token=secret", "takes no options here; leave out what begins with '?'"),
        ("inferd://127.0.0.1?", "takes no options here"),
        ("inferd+unix:///tmp/s?mode=1", "'inferd+unix:///tmp/s' takes no options here"),
        ("inferd://127.0.0.1#frag", "leave out what begins with '#'"),
        ("inferd://127.0.0.1/path", "use inferd://HOST"),
        ("inferd://0.0.0..0", "no host can have that name"),
        ("inferd://a..b:1", "no host can have that name"),
        ("inferds://" + "a" * 64, "no host can have that name"),
        ("inferd://\udc80", "no host can have that name"),
        ("inferd://a\tb", "white space"),
        (" inferd://a", "white space"),
        ("inferd+unix:///tmp/a\0b", "NUL"),
        ("inferd+unix:///tmp/\ud800", "no file can have that name"),
        ("inferd+unix://tmp/s", "use inferd://HOST"),
        ("inferd+unix:/tmp/s", "use inferd://HOST"),
        ("", "use inferd://HOST"),
        ("inferd://", "use inferd://HOST"),
        ("inferd://a:70000", "use inferd://HOST"),
        ("inferd://[::1", "use inferd://HOST"),
        ("http://a", "use inferd://HOST"),
    ],
)
def test_what_is_no_address(url: str, words: str) -> None:
    """One sentence says why, what to do, and no password."""
    with pytest.raises(ConfigError) as caught:
        Address.parse(url)
    assert words in str(caught.value) and "secret" not in str(caught.value)
