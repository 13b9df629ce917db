"""Which connection takes a call, and who is dialled when: no sockets, `now` is a number, jitter is one."""

from __future__ import annotations

from typing import Any

import pytest
from inferd_client.call import Call
from inferd_client.codec import encode
from inferd_client.core import NOT_ADMITTED, Conversation
from inferd_client.endpoints import ALWAYS, NEVER, ONCE_KNOWN, Endpoints, Waiter

from inferd.errors import Unauthenticated, Unavailable, make
from inferd.wire import frame as f
from inferd.wire.address import Address

A, B, C = (Address(host=host, port=1) for host in "abc")
REFUSED = make("CONNECT_FAILED", address="there", problem="Connection refused")
TOKEN = make("TOKEN", problem="none was shown")


class Connection:
    """A connection as far as it is asked here."""

    def __init__(self) -> None:
        self.conversation = Conversation("there")

    def take(self, calls: int = 1) -> None:
        for _ in range(calls):
            call = a_call()
            self.conversation.open(call)
            self.conversation.start(call, 0.0)


def a_call(**options: Any) -> Call:
    return Call(f.INFER, 100.0, 1000, encode("echo", {}, **options))


def endpoints(*addresses: Address, jitter: float = 1.0) -> Endpoints[Connection]:
    return Endpoints(addresses, lambda: jitter)


def connected(*addresses: Address, now: float = 0.0) -> tuple[Endpoints[Connection], list[Connection]]:
    """All of them connected."""
    found = endpoints(*addresses)
    for endpoint in found.due(now, Waiter(found, ALWAYS)):
        found.connected(endpoint, Connection(), now)
    return found, [endpoint.connection for endpoint in found.all if endpoint.connection is not None]


def dialled(found: Endpoints[Connection], now: float, waiter: Waiter) -> list[Address]:
    return [endpoint.address for endpoint in found.due(now, waiter)]


# ---- who takes a call


def test_the_one_with_less_to_do_takes_it() -> None:
    found, (a, b) = connected(A, B)
    a.take(3)
    b.take(1)
    assert all(found.choose(a_call()) is b for _ in range(20))


def test_of_many_two_are_looked_at() -> None:
    """The busiest gets nothing, the others share."""
    found, (a, b, c) = connected(A, B, C)
    a.take(5)
    chosen = {id(found.choose(a_call())) for _ in range(200)}
    assert chosen == {id(b), id(c)}


def test_not_the_one_that_has_just_refused_it_unless_it_is_the_only_one() -> None:
    found, (a, b) = connected(A, B)
    b.take(5)
    assert all(found.choose(a_call(), avoid=a) is b for _ in range(20))
    b.conversation.lost()
    assert found.choose(a_call(), avoid=a) is a


def test_calls_with_one_key_stay_together() -> None:
    """Also when another connection has less to do; when theirs is gone they move together."""
    found, _ = connected(A, B, C)
    first = found.choose(a_call(supersede="k"))
    assert first is not None
    first.take(9)
    assert all(found.choose(a_call(supersede="k")) is first for _ in range(20))
    first.conversation.lost()
    assert len({id(found.choose(a_call(supersede="k"))) for _ in range(20)}) == 1
    many = {id(found.choose(a_call(supersede=str(n)))) for n in range(100)}
    assert len(many) == 2 and id(first) not in many


def test_none_is_left() -> None:
    found, (a, b) = connected(A, B)
    a.conversation.lost()
    b.conversation.draining = True
    assert found.choose(a_call()) is None


# ---- who is dialled


def test_each_address_once_at_a_time() -> None:
    found = endpoints(A, B)
    assert dialled(found, 0.0, Waiter(found, ALWAYS)) == [A, B]
    assert dialled(found, 9.0, Waiter(found, ALWAYS)) == []


def test_a_connection_that_was_good_is_made_again_at_once() -> None:
    found, (a,) = connected(A)
    a.conversation.lost()
    assert dialled(found, 10.0, Waiter(found, ALWAYS)) == [A]


def test_one_that_was_over_at_once_is_not() -> None:
    """A server that sends everybody away who comes is not stormed: the pauses grow until a connection lasts."""
    found = endpoints(A)
    waiter = Waiter(found, ALWAYS)
    now, pauses = 0.0, []
    for _ in range(8):
        [endpoint] = found.due(now, waiter)
        connection = Connection()
        found.connected(endpoint, connection, now)
        connection.conversation.draining = True
        assert dialled(found, now, waiter) == []
        pauses.append(found.next_due() - now)
        now = found.next_due()
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    [endpoint] = found.due(now, waiter)
    found.connected(endpoint, connection := Connection(), now)
    connection.conversation.lost()
    assert dialled(found, now + 3, waiter) == [A]


def test_after_a_failure_there_is_a_pause() -> None:
    found = endpoints(A)
    waiter = Waiter(found, ALWAYS)
    [endpoint] = found.due(0.0, waiter)
    found.failed(endpoint, REFUSED, 1.0)
    assert found.next_due() == pytest.approx(1.05)
    assert dialled(found, 1.04, waiter) == []
    assert dialled(found, 1.06, waiter) == [A]
    assert found.next_due() == float("inf")


def test_a_server_says_when_to_come_back() -> None:
    found = endpoints(A)
    waiter = Waiter(found, ALWAYS)
    [endpoint] = found.due(0.0, waiter)
    found.failed(endpoint, make("TOO_MANY_CONNECTIONS", 700, limit=1), 1.0)
    assert found.next_due() == pytest.approx(1.75)


def test_one_address_is_dialled_again_while_another_serves() -> None:
    found, (a, b) = connected(A, B)
    a.conversation.lost()
    assert found.choose(a_call()) is b
    assert dialled(found, 10.0, Waiter(found, ONCE_KNOWN)) == [A]


def test_where_another_serves_nobody_dials_before_the_pause_is_over() -> None:
    """Also for those who will not wait: they have a connection, and each attempt may count as a guess at a token."""
    found, (_, b) = connected(A, B)
    b.conversation.lost()
    [second] = found.due(10.0, Waiter(found, NEVER))
    found.failed(second, REFUSED, 10.0)
    assert dialled(found, 10.01, Waiter(found, NEVER)) == []
    assert dialled(found, 10.06, Waiter(found, NEVER)) == [B]


# ---- who waits


def test_nobody_waits_for_a_server_that_never_was() -> None:
    """One attempt at each address; the next caller gets one of its own, without a pause."""
    found = endpoints(A, B)
    for attempt in range(3):
        waiter = Waiter(found, ONCE_KNOWN)
        due = found.due(attempt * 0.001, waiter)
        assert len(due) == 2
        found.failed(due[0], REFUSED, 0.0)
        assert found.hopeless(waiter) is None  # the other may be there
        found.failed(due[1], REFUSED, 0.0)
        assert isinstance(found.hopeless(waiter), Unavailable)


def test_a_server_that_is_full_has_answered() -> None:
    """So it is waited for, from the first call on."""
    found = endpoints(A)
    waiter = Waiter(found, ONCE_KNOWN)
    [endpoint] = found.due(0.0, waiter)
    found.failed(endpoint, make("TOO_MANY_CONNECTIONS", limit=1), 0.0)
    assert found.hopeless(waiter) is None
    assert dialled(found, 9.0, waiter) == [A]


@pytest.mark.parametrize(("patience", "waits"), [(NEVER, False), (ONCE_KNOWN, True), (ALWAYS, True)])
def test_once_known_a_server_is_waited_for(patience: int, waits: bool) -> None:
    found, (a,) = connected(A)
    a.conversation.lost()
    waiter = Waiter(found, patience)
    [endpoint] = found.due(10.0, waiter)
    found.failed(endpoint, REFUSED, 10.0)
    assert (found.hopeless(waiter) is None) == waits


def test_what_no_wait_can_help_is_told() -> None:
    """A token that is not known is told to everybody, after an attempt of their own; unless another server has room."""
    found, (a, b) = connected(A, B)
    a.conversation.lost()
    b.conversation.lost()
    waiter = Waiter(found, ALWAYS)
    first, second = found.due(10.0, waiter)
    found.failed(first, TOKEN, 10.0)
    found.failed(second, REFUSED, 10.0)
    assert found.hopeless(waiter) is None and found.problem is REFUSED
    [second] = found.due(found.all[1].not_before, waiter)[-1:]
    found.failed(second, TOKEN, 11.0)
    assert isinstance(found.hopeless(waiter), Unauthenticated)
    assert found.hopeless(Waiter(found, ALWAYS)) is None


# ---- what is in flight


def test_those_that_leave_are_kept_until_they_are_done() -> None:
    found, (a,) = connected(A)
    a.take()
    a.conversation.draining = True
    [endpoint] = found.due(10.0, Waiter(found, ALWAYS))
    b = Connection()
    found.connected(endpoint, b, 10.0)
    assert found.connections() == [b, a] and found.choose(a_call()) is b
    a.conversation.lost()
    b.conversation.draining = True
    found.due(20.0, Waiter(found, ALWAYS))
    assert found.connections() == []


def test_a_server_that_asks_for_a_long_pause_is_dialled_within_a_minute_and_a_little() -> None:
    """Whatever it says: it may have said it by mistake."""
    found = endpoints(A)
    waiter = Waiter(found, ALWAYS)
    assert dialled(found, 0.0, waiter) == [A]
    found.failed(found.all[0], make("TOO_MANY_CONNECTIONS", 1e15, limit=1), 0.0)
    assert found.next_due() <= 63.0
    assert dialled(found, 63.0, waiter) == [A]


def test_addresses_that_cannot_be_reached_are_all_named() -> None:
    """Each with its own problem."""
    found = endpoints(A, B)
    waiter = Waiter(found, NEVER)
    found.due(0.0, waiter)
    for endpoint, problem in zip(found.all, ("Connection refused", "timed out"), strict=True):
        found.failed(endpoint, make("CONNECT_FAILED", address=endpoint.address, problem=problem), 0.0)
    told = found.hopeless(waiter)
    assert isinstance(told, Unavailable) and told.reason == "CONNECT_FAILED"
    assert told.message == (
        "cannot connect to inferd://a:1: Connection refused; cannot connect to inferd://b:1: timed out"
    )


def test_a_server_that_has_admitted_this_client_before_is_only_away() -> None:
    """With TLS an end before WELCOME mostly means a certificate that is not accepted; not where it was before. What is
    wrong with the server's own certificate stays wrong."""
    ended = make("TLS", address=A, problem=NOT_ADMITTED)
    untrusted = make("TLS", address=A, problem="its certificate is not trusted")
    found = endpoints(A)
    waiter = Waiter(found, ONCE_KNOWN)
    [endpoint] = found.due(0.0, waiter)
    found.failed(endpoint, ended, 0.0)
    assert found.hopeless(waiter) is ended
    [endpoint] = found.due(9.0, waiter)
    found.connected(endpoint, connection := Connection(), 9.0)
    connection.conversation.lost()
    waiter = Waiter(found, ONCE_KNOWN)
    [endpoint] = found.due(20.0, waiter)
    found.failed(endpoint, ended, 20.0)
    assert found.hopeless(waiter) is None
    assert isinstance(found.problem, Unavailable) and found.problem.reason == "CONNECT_FAILED"
    [endpoint] = found.due(30.0, waiter)
    found.failed(endpoint, untrusted, 30.0)
    assert found.hopeless(waiter) is untrusted
