"""Bodies of requests, into memory: within a limit for each, and one for all that are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from aiohttp import web

from inferd.errors import make

# No byte for so long, and the connection is given up.
READ_TIMEOUT_S = 10.0
# As on the wire (serve/patience.py): a body may take its time at first, and then comes at this rate on average. Without
# it a few who send a byte now and then could hold all that may be held, for ever.
GRACE_S = 5.0
LEAST_BYTES_PER_S = 64 * 1024
# How many bodies of the largest size may be held at once.
LARGEST_AT_ONCE = 4


class Bodies:
    """Reads bodies of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held = 0
        self._draining = False
        self._waits: set[asyncio.Timeout] = set()  # of those whose next chunk has not come

    def drain(self) -> None:
        """No body is read to its end any more: the daemon takes nothing new, and whoever sends one can go elsewhere."""
        self._draining = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[memoryview]:
        """The body, for the length of the block. Raises InvalidArgument or ResourceExhausted, mostly before anything
        is read; web.HTTPRequestTimeout; and Unavailable from `drain` on."""
        announced = request.content_length or 0
        # What is compressed unpacks to a size that nobody has announced.
        known = announced if "Content-Encoding" not in request.headers else 0
        body = bytearray()
        held = self._hold(announced)
        try:
            body = bytearray(known)
            end = 0
            began = monotonic()
            while chunk := await self._chunk(request):
                if end + len(chunk) > len(body):
                    held += self._hold(end + len(chunk), held)
                    body[end:] = chunk
                else:
                    body[end : end + len(chunk)] = chunk
                end += len(chunk)
                if end < LEAST_BYTES_PER_S * (monotonic() - began - GRACE_S):
                    raise web.HTTPRequestTimeout(text="the body comes too slowly")
            yield memoryview(body)[:end]
        finally:
            self._held -= held

    def _hold(self, nbytes: int, held: int = 0) -> int:
        """How many bytes more are held from now on. Raises when that is too much."""
        if nbytes > self.limit:
            raise make("PAYLOAD_TOO_LARGE", actual=nbytes, limit=self.limit)
        more = max(0, nbytes - held)
        if self._held + more > LARGEST_AT_ONCE * self.limit:
            raise make("SLAB_FULL")
        self._held += more
        return more

    async def _chunk(self, request: web.Request) -> bytes:
        if self._draining:
            raise make("DRAINING")
        wait = asyncio.timeout(READ_TIMEOUT_S)
        try:
            async with wait:
                self._waits.add(wait)
                return await request.content.readany()
        except TimeoutError as error:
            if self._draining:
                raise make("DRAINING") from error
            raise web.HTTPRequestTimeout(text="the rest of the body did not come") from error
        finally:
            self._waits.discard(wait)
