"""The gateway's connections to the daemon for REST: one for each caller, because fair shares, latest-wins keys and
credits belong to a connection and to whoever is behind it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from inferd_client import AsyncClient

from inferd.errors import Unauthenticated, make
from inferd.wire.messages import Hello

# Callers come and go; a connection costs the daemon a descriptor and some memory.
MAX_CALLERS = 256
IDLE_S = 60.0


class ProxyClient(AsyncClient):
    """A client that asks in somebody else's name."""

    def __init__(self, url: str, caller: str, token: str) -> None:
        self._caller = caller
        # The caller's token and no other: not one from the environment. And it is the caller's to try again.
        super().__init__(url, token=token, max_retries=0)

    def _hello(self, token: str | None) -> Callable[[], Hello]:
        own, caller = super()._hello(token), self._caller

        def hello() -> Hello:
            said = own()
            said.caller = caller
            return said

        return hello


class _Entry:
    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.users = 0
        self.idle_since = 0.0


class Callers:
    """The connections by caller, the longest idle first to go. `own` is the gateway's, for asking in nobody's name with
    its own token; `asks_for_tokens` says that callers need one of theirs."""

    def __init__(self, url: str, token: str, asks_for_tokens: bool) -> None:
        self._url = url
        self._asks_for_tokens = asks_for_tokens
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._leaving: list[_Entry] = []  # of settings that are past; closed when nobody uses them
        self.own = ProxyClient(url, "", token)

    def reloaded(self, asks_for_tokens: bool) -> None:
        """Whoever asks from now on shows his token anew: the connections were made for those that held before."""
        self._asks_for_tokens = asks_for_tokens
        self._leaving += self._entries.values()
        self._entries.clear()

    @asynccontextmanager
    async def client(self, caller: str, token: str) -> AsyncIterator[AsyncClient]:
        """The client of a caller with this token ("": none). Raises ResourceExhausted if there are too many callers,
        Unauthenticated for what cannot be a token."""
        if not self._asks_for_tokens:
            token = ""  # or one caller could be as many as it can make up
        elif not token.isascii():
            raise make("TOKEN", problem="this one is not known")
        key = (caller, token)
        if key not in self._entries:
            await self._make_room()
        entry = self._entries.get(key)  # made meanwhile, perhaps
        if entry is None:
            entry = self._entries[key] = _Entry(ProxyClient(self._url, caller, token))
        self._entries.move_to_end(key)
        entry.users += 1
        try:
            yield entry.client
        except Unauthenticated:
            if self._entries.get(key) is entry:
                del self._entries[key]  # not to be kept for the next guess
            raise
        finally:
            entry.users -= 1
            entry.idle_since = monotonic()

    async def _make_room(self) -> None:
        if len(self._entries) < MAX_CALLERS:
            return
        idle = next((key for key, entry in self._entries.items() if not entry.users), None)
        if idle is None:
            raise make("TOO_MANY_CONNECTIONS", limit=MAX_CALLERS)
        await self._entries.pop(idle).client.close()

    async def sweep(self, now: float) -> None:
        """Closes what nobody has used for a while, and what nobody uses any more."""
        left = [entry for entry in self._leaving if not entry.users]
        self._leaving = [entry for entry in self._leaving if entry.users]
        for entry in left:
            await entry.client.close()
        for key, entry in list(self._entries.items()):
            # While one is closed, others come and go: it may have been closed, or made anew.
            if self._entries.get(key) is entry and not entry.users and now - entry.idle_since > IDLE_S:
                del self._entries[key]
                await entry.client.close()

    async def close(self) -> None:
        """Closes all of them."""
        clients = [self.own, *(entry.client for entry in (*self._entries.values(), *self._leaving))]
        await asyncio.gather(*(client.close() for client in clients))
