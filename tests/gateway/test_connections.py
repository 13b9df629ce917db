"""Which HTTP connections are cut, with a clock that the test moves."""

from __future__ import annotations

import time
from typing import Any

import pytest

from inferd.gateway import connections as connections_module
from inferd.gateway.connections import REQUEST_TIMEOUT_S, WRITE_TIMEOUT_S, Connections


class Transport:
    """A transport with so much unsent."""

    def __init__(self) -> None:
        self.unsent = 0
        self.aborted = False

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


class Protocol:
    """aiohttp's, as far as it is looked at."""

    def __init__(self) -> None:
        self.transport: Transport | None = Transport()


class Request:
    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol


def opened(limit: int = 10) -> tuple[Connections, Any]:
    connections = Connections(Protocol, limit)  # type: ignore[arg-type]
    return connections, connections.accept()


def test_who_does_not_ask_is_cut() -> None:
    """10 seconds without a whole request, and not before."""
    connections, protocol = opened()
    now = time.monotonic()
    connections.sweep(now + REQUEST_TIMEOUT_S - 1)
    assert not protocol.transport.aborted
    connections.sweep(now + REQUEST_TIMEOUT_S + 1)
    assert protocol.transport.aborted


def test_who_has_asked_and_reads_may_stay() -> None:
    """Idle between requests (aiohttp closes those), or slow but steady."""
    connections, protocol = opened()
    connections.asked(Request(protocol))  # type: ignore[arg-type]
    now = time.monotonic()
    protocol.transport.unsent = 1000
    for second in range(60):
        protocol.transport.unsent -= 1
        connections.sweep(now + second)
    protocol.transport.unsent = 0
    connections.sweep(now + 100)
    connections.sweep(now + 1000)
    assert not protocol.transport.aborted


def test_who_does_not_read_is_cut() -> None:
    """10 seconds in which nothing that is unsent was taken."""
    connections, protocol = opened()
    connections.asked(Request(protocol))  # type: ignore[arg-type]
    now = time.monotonic()
    connections.sweep(now + 100)
    protocol.transport.unsent = 1000
    connections.sweep(now + 101)
    connections.sweep(now + 100 + WRITE_TIMEOUT_S)
    assert not protocol.transport.aborted
    connections.sweep(now + 102 + WRITE_TIMEOUT_S)
    assert protocol.transport.aborted


def test_there_are_only_so_many() -> None:
    """One too many is closed at once; when one has ended there is room again."""
    connections, first = opened(limit=2)
    second = connections.accept()
    assert isinstance(second, Protocol) and not isinstance(connections.accept(), Protocol)
    connections.asked(Request(first))
    first.transport = None
    assert isinstance(connections.accept(), Protocol)


def test_who_has_gone_without_asking_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are opened and closed cost their caller nothing. One that has not begun yet counts."""
    now = time.monotonic()
    monkeypatch.setattr(connections_module, "monotonic", lambda: now)
    connections, first = opened(limit=1)
    first.transport = None
    assert not isinstance(connections.accept(), Protocol)
    now += 0.2
    assert isinstance(connections.accept(), Protocol)


def test_who_asks_is_watched() -> None:
    """Also one that was taken for gone, because it began so late."""
    connections, protocol = opened()
    transport, protocol.transport = protocol.transport, None
    now = time.monotonic()
    connections.sweep(now + 1)
    protocol.transport = transport
    connections.asked(Request(protocol))  # type: ignore[arg-type]
    transport.unsent = 1000
    connections.sweep(now + 2)
    connections.sweep(now + 3 + WRITE_TIMEOUT_S)
    assert transport.aborted
