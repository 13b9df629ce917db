"""The HTTP connections: how many there may be, and which of them make no progress.

aiohttp bounds the sizes of what it reads (request line, headers) and closes what has been idle between two requests; it
waits for ever for a first request and for a client that does not read. Those are cut here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any

from aiohttp import web

from inferd.gateway.answers import problem

# From the connection to its beginning. One that is forgotten too early is known again when it asks; one that is kept
# too long counts, and thousands a second are easily opened and closed.
BEGIN_TIMEOUT_S = 0.1
# From the connection to its first request, headers included.
REQUEST_TIMEOUT_S = 10.0
# A client that is sent something takes some of it within this time.
WRITE_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 75.0
# How often it is looked whether the last answers are sent.
LOOK_S = 0.01

# Sent with whatever is answered.
MARKS = {"Server": "inferd", "X-Content-Type-Options": "nosniff"}


class Protocol(web.RequestHandler):
    """One connection. What cannot be read as HTTP gets the errors of all the others, and not aiohttp's plain text."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        super().handle_error(request, status, exc, message)  # logs it, and raises if the answer has begun
        sentence = "the gateway failed on this request; the server's log has it"
        if status == 400:
            # What follows is what was received.
            why = (message or "").split("\n")[0].partition(": b")[0].rstrip(":")
            sentence = f"the request cannot be read as HTTP: {why}"
        response = problem(status, sentence, MARKS)
        response.force_close()
        return response


class _Watched:
    def __init__(self, now: float) -> None:
        self.asked = False
        self.under_way = False  # a request is being answered, or was for the last time and the connection ends
        self.since = now  # it was opened, or took something
        self.unsent = 0


class Connections:
    """What a server's connections are doing. `factory` makes the protocol for a new one."""

    def __init__(self, factory: Callable[[], Protocol], limit: int) -> None:
        self._factory = factory
        self.limit = limit
        self._watched: dict[web.RequestHandler, _Watched] = {}

    def accept(self) -> asyncio.Protocol:
        """A protocol for a connection that has just come; one that closes it if there are too many."""
        now = monotonic()
        if len(self._watched) >= self.limit:
            self.sweep(now)
            if len(self._watched) >= self.limit:
                return _Refusal()
        protocol = self._factory()
        self._watched[protocol] = _Watched(now)
        return protocol

    def asked(self, request: web.Request) -> None:
        """A request has come."""
        watched = self._watched.setdefault(request.protocol, _Watched(monotonic()))
        watched.asked = watched.under_way = True

    def answered(self, request: web.Request, last: bool) -> None:
        """It has its answer, or will not have one; what is unsent of that is the transport's. After the `last` one the
        connection ends by itself, when the rest of the body has been read: else its caller would be reset."""
        if request.protocol in self._watched:
            self._watched[request.protocol].under_way = last

    async def ended(self) -> None:
        """Returns when nothing is under way, and nothing unsent. Needs `sweep` for those that make no progress."""
        while any(map(_is_busy, self._watched, self._watched.values())):  # noqa: ASYNC110 (they end by themselves)
            await asyncio.sleep(LOOK_S)

    def sweep(self, now: float) -> None:
        """Forgets those that have ended, and cuts those that make no progress. Called every second."""
        for protocol, watched in list(self._watched.items()):
            transport = protocol.transport
            if transport is None:
                # It has ended, or has not begun, which takes the loop's next turn.
                if watched.asked or now - watched.since > BEGIN_TIMEOUT_S:
                    del self._watched[protocol]
                continue
            unsent = transport.get_write_buffer_size()
            if unsent < watched.unsent or (not unsent and watched.asked):
                watched.since = now
            watched.unsent = unsent
            if now - watched.since > (WRITE_TIMEOUT_S if watched.asked else REQUEST_TIMEOUT_S):
                _cut(transport)


def _is_busy(protocol: web.RequestHandler, watched: _Watched) -> bool:
    transport = protocol.transport
    return transport is not None and (watched.under_way or transport.get_write_buffer_size() > 0)


def _cut(transport: Any) -> None:
    """Ends a connection now, and throws away what the kernel holds for a client that does not take it."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
