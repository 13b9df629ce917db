"""Whether the daemon can serve, in its own words, asked for at most five times a second however often we are asked."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from inferd_client import AsyncClient

from inferd.errors import InferdError

ANSWER_TIMEOUT_S = 1.0
GOOD_FOR_S = 0.2


class Health:
    """`draining` is the daemon's word that it is going away: alive, and not ready."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._asking: asyncio.Task[str] | None = None
        self._asked_at = 0.0
        self.draining = False

    async def problem(self) -> str:
        """Why the daemon is not ready; "" if it is: its models are warm, and a worker is there for them."""
        if self.draining:
            return "the daemon is shutting down"
        if self._asking is None or (self._asking.done() and monotonic() - self._asked_at > GOOD_FOR_S):
            self._asking = asyncio.create_task(self._ask())
        # Shielded: others wait for the same answer.
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                status: dict[str, Any] = await self._client.status()
        except (InferdError, TimeoutError):
            return "the daemon does not answer"
        finally:
            self._asked_at = monotonic()
        state = status.get("state")
        return "" if state == "ready" else f"the daemon has the state {state!r}"
