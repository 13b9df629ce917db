"""Which of a client's connections takes a call, and which address is dialled when. `now` is an argument.

With several addresses a call goes to the one of two with fewer calls on it ("power of two choices": Mitzenmacher,
2001), and away from the one that has just refused it. Calls with one `supersede` key stay together as long as they can,
because only calls of one connection replace each other.

An address is dialled when a call comes and its connection is gone; after failures, and after connections that were over
at once, not before a pause that grows. A connection that takes no more calls, but has some in flight, is kept beside
its successor until they are done.
"""

from __future__ import annotations

import copy
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from inferd.errors import RequestError, make
from inferd.wire.address import Address
from inferd_client.call import Call
from inferd_client.core import NOT_ADMITTED, Conversation
from inferd_client.retry import asked_pause_s, backoff_s

# A connection that lived this long was a good one: it is dialled again without a pause.
GOOD_CONNECTION_S = 2.0

# The system does not wait for room in a Unix socket's queue of connections, as it does with TCP: so long until it is
# tried again. A listener takes far less for each.
FULL_QUEUE_S = 0.01

# Whether a caller waits for a connection as long as it has time: never (one attempt at each address, then it is told),
# once a server has answered (before, the address is wrong or nobody has started the server), always.
NEVER, ONCE_KNOWN, ALWAYS = range(3)

# The server's own (inferd/serve/listener.py): a peer that is gone without a word, because its network or its machine
# is, is found within a minute when nothing is on its way to it, and in 20 s when something is. By themselves systems
# take two hours, and a quarter of one. By name, because not every system has each.
FAR_TCP_OPTIONS = (
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 20_000),
)


def set_tcp_options(sock: socket.socket) -> None:
    """What a connected socket needs: small frames leave at once, and a peer that went without a word is found.

    Nobody goes without a word on the loopback interface; and a Unix socket has no such options.
    """
    if sock.family == socket.AF_UNIX:
        return
    # One that has ended by now tells whoever reads it.
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if Address(host=sock.getpeername()[0]).is_loopback:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in FAR_TCP_OPTIONS:
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


class HasConversation(Protocol):
    """A connection of either shell."""

    conversation: Conversation


C = TypeVar("C", bound=HasConversation)


class Endpoint(Generic[C]):
    """An address and its connection. `failures` counts the attempts to connect that failed, `problem` is the last
    one's, until an attempt succeeds; `greeted` says whether one ever has."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.connection: C | None = None
        self.leaving: list[C] = []  # they take no more calls and have some in flight
        self.dialing = False
        self.greeted = False
        self.failures = 0
        self.problem: Exception | None = None
        self.not_before = 0.0  # when it may be dialled again
        self._attempts = 0  # since the last good connection
        self._opened_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether its connection takes calls."""
        connection = self.connection
        return connection is not None and connection.conversation.usable

    def connected(self, connection: C, now: float) -> None:
        """Dialling has led to `connection`."""
        self.dialing = False
        self.problem = None
        self.greeted = True
        self.connection = connection
        self._opened_at = now

    def failed(self, problem: Exception, now: float, jitter: float) -> None:
        """Dialling has failed."""
        self.dialing = False
        self.failures += 1
        self.problem = problem
        self.not_before = now + asked_pause_s(problem) + self._backoff_s(jitter)

    def retire(self, now: float, jitter: float) -> None:
        """Takes note that the connection has ended, if it has."""
        connection = self.connection
        if connection is None or connection.conversation.usable:
            return
        self.connection = None
        self.leaving = [one for one in self.leaving if not one.conversation.idle]
        if not connection.conversation.idle:
            self.leaving.append(connection)
        if now - self._opened_at >= GOOD_CONNECTION_S:
            self._attempts = 0
            self.not_before = now
        else:
            self.not_before = now + self._backoff_s(jitter)

    def _backoff_s(self, jitter: float) -> float:
        self._attempts += 1
        return backoff_s(self._attempts - 1, jitter)


class Waiter:
    """A caller's wait for a connection: its patience, and what had failed when it began."""

    def __init__(self, endpoints: Endpoints[C], patience: int) -> None:
        self.patience = patience
        self.failures = [endpoint.failures for endpoint in endpoints.all]


class Endpoints(Generic[C]):
    """The addresses of a client."""

    def __init__(self, addresses: Sequence[Address], jitter: Callable[[], float] = random.random) -> None:
        self.all: list[Endpoint[C]] = [Endpoint(address) for address in addresses]
        self.known = False  # whether a server has ever answered at one of them
        self._jitter = jitter

    def choose(self, call: Call, avoid: C | None = None) -> C | None:
        """The connection for a call; not `avoid`, if there is another. None: there is none now."""
        usable = [endpoint for endpoint in self.all if endpoint.usable]
        if len(usable) > 1 and avoid is not None:
            usable = [endpoint for endpoint in usable if endpoint.connection is not avoid]
        if not usable:
            return None
        if call.request is not None and call.request.supersede is not None:
            first = hash(call.request.supersede) % len(self.all)
            order = self.all[first:] + self.all[:first]
            return next(endpoint for endpoint in order if endpoint in usable).connection
        if len(usable) > 1:
            usable = random.sample(usable, 2)
        return min(usable, key=_load).connection

    def due(self, now: float, waiter: Waiter) -> list[Endpoint[C]]:
        """The endpoints to be dialled now; they count as being dialled from here on."""
        found = []
        for endpoint in self.all:
            endpoint.retire(now, self._jitter())
        served = any(endpoint.usable for endpoint in self.all)
        for endpoint, failures in zip(self.all, waiter.failures, strict=True):
            if endpoint.dialing or endpoint.connection is not None:
                continue
            # Who will not wait gets an attempt of its own, unless it has another connection: what failed a moment ago
            # may be there now.
            unheard = endpoint.problem is not None and endpoint.failures == failures
            eager = unheard and not served and not self._is_patient(waiter)
            if eager or now >= endpoint.not_before:
                endpoint.dialing = True
                found.append(endpoint)
        return found

    def next_due(self) -> float:
        """When the next endpoint may be dialled; infinity if all are, or are connected."""
        times = [endpoint.not_before for endpoint in self.all if not endpoint.dialing and endpoint.connection is None]
        return min(times, default=float("inf"))

    def connected(self, endpoint: Endpoint[C], connection: C, now: float) -> None:
        """An attempt has succeeded."""
        self.known = True
        endpoint.connected(connection, now)

    def failed(self, endpoint: Endpoint[C], problem: Exception, now: float) -> None:
        """An attempt has failed."""
        if isinstance(problem, RequestError) and problem.retryable and problem.reason != "CONNECT_FAILED":
            self.known = True  # it was a server that said so, with TOO_MANY_CONNECTIONS for example
        if endpoint.greeted and isinstance(problem, RequestError) and NOT_ADMITTED in problem.message:
            # The certificate was good enough before, so this is a server, or a proxy of one, that goes or comes.
            lost = "the connection was closed before WELCOME"
            problem = make("CONNECT_FAILED", address=endpoint.address, problem=lost)
        endpoint.failed(problem, now, self._jitter())

    def hopeless(self, waiter: Waiter) -> Exception | None:
        """What to tell a caller that need not wait any longer; None: it waits.

        It has seen an attempt at every address fail, and it is not patient, or the problem is one for good, such as a
        token that is not known.
        """
        for endpoint, failures in zip(self.all, waiter.failures, strict=True):
            if endpoint.failures == failures or endpoint.problem is None:
                return None
            if self._is_patient(waiter) and getattr(endpoint.problem, "retryable", False):
                return None
        return self.problem

    def _is_patient(self, waiter: Waiter) -> bool:
        return waiter.patience == ALWAYS or (waiter.patience == ONCE_KNOWN and self.known)

    @property
    def problem(self) -> Exception | None:
        """Why the last attempts failed: one of them that a wait can help, if there is one. If no connection was to be
        had at several addresses, its message names each."""
        problems = [endpoint.problem for endpoint in self.all if endpoint.problem is not None]
        first = min(problems, key=lambda problem: not getattr(problem, "retryable", False), default=None)
        unreachable = [each for each in problems if isinstance(each, RequestError) and each.reason == "CONNECT_FAILED"]
        if len(unreachable) < 2 or not isinstance(first, RequestError) or first not in unreachable:
            return first
        whole = copy.copy(first)
        whole.message = "; ".join(each.message for each in unreachable)
        whole.__cause__ = first
        return whole

    def connections(self) -> list[C]:
        """All of them, those that are leaving too."""
        found = []
        for endpoint in self.all:
            found += [endpoint.connection] if endpoint.connection is not None else []
            found += endpoint.leaving
        return found


def _load(endpoint: Endpoint[C]) -> int:
    assert endpoint.connection is not None
    return endpoint.connection.conversation.load
