"""What clients hold of the daemon, all of them together: payloads on their way, answers unread, and their debts.

Each has its own bounds in its session; here is what keeps many of them, or one with many connections, from having all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

from inferd.config import MIB
from inferd.memory import give_back_freed
from inferd.schedule.ticket import Client
from inferd.serve.session import Session

# Clients without a connection that are remembered because they are ahead of their share, those first that are furthest.
MAX_DEBTORS = 4096
# What connections may have unsent in the daemon's own memory, all of them together.
MAX_UNSENT_BYTES = 256 * MIB
# Who has taken nothing for so long is cut before others when that is too much.
STALLED_S = 1.0
# After more than this was unsent, or so many connections have gone, what the allocator keeps goes back to the system.
KEPT_BYTES = 64 * MIB
CROWD = 256
# Payloads on their way from one client may take so many times the room that they leave to all others. So it has three
# quarters of it at most, and a client that comes later still has the rest.
GREED = 3


class Holdings:
    """Of one daemon, whose slab has `slab_bytes`."""

    def __init__(self, slab_bytes: int) -> None:
        self.arriving_bytes = 0
        self.unsent_bytes = 0
        self.clients: dict[str, Client] = {}
        self._slab_bytes = slab_bytes
        # The most there has been of both since memory was given back to the system.
        self._most_unsent_bytes = self._most_sessions = 0

    # ---- whose it is

    def client(self, name: str) -> Client:
        """Whoever shares fairly under that name."""
        return self.clients.setdefault(name, Client(name))

    def forget(self, connected: Collection[str], now: float) -> None:
        """Forgets the clients that are not `connected`, unless they are ahead of their share: leaving and coming back
        does not clear that."""
        debtors = [client for client in self.clients.values() if client.tag > now and client.name not in connected]
        debtors = heapq.nlargest(MAX_DEBTORS, debtors, key=lambda client: client.tag)
        kept = {*connected, *(client.name for client in debtors)}
        self.clients = {name: client for name, client in self.clients.items() if name in kept}

    # ---- payloads on their way

    def may_arrive(self, nbytes: int, client: Client) -> bool:
        """Whether another payload may be on its way: half of the slab is for those that are there, and nobody has all
        of the other half."""
        room = self._slab_bytes // 2 - self.arriving_bytes
        return nbytes <= room and (not client.arriving_bytes or client.arriving_bytes + nbytes <= GREED * room)

    def arriving(self, nbytes: int, client: Client) -> None:
        """A payload is on its way into the slab."""
        self.arriving_bytes += nbytes
        client.arriving_bytes += nbytes

    def arrived(self, nbytes: int, client: Client) -> None:
        """It is there, or will never be."""
        self.arriving_bytes -= nbytes
        client.arriving_bytes -= nbytes

    # ---- answers unread

    def bound_unsent(self, sessions: Collection[Session], cut: Callable[[Session], None], now: float) -> None:
        """When all that is unsent is too much, the connections that hold most of it are cut, those first that take
        nothing any more."""
        self._most_unsent_bytes = max(self._most_unsent_bytes, self.unsent_bytes)
        if self.unsent_bytes <= MAX_UNSENT_BYTES:
            return
        for session in sessions:
            session.count_unsent()  # what they have taken since they were looked at last
        unsent = self.unsent_bytes
        for session in sorted(
            sessions,
            key=lambda one: (now - one.patience.taken_at > STALLED_S, one.unsent_bytes),
            reverse=True,
        ):
            if unsent <= MAX_UNSENT_BYTES:
                return
            unsent -= session.unsent_bytes
            cut(session)

    def give_back(self, sessions: int) -> None:
        """With so many sessions: after a crowd, or very much that was unsent, what the allocator keeps of their memory
        is the system's again. It had kept 25 MiB of either."""
        self._most_sessions = max(self._most_sessions, sessions)
        crowd_gone = self._most_sessions - sessions > CROWD
        if crowd_gone or (self._most_unsent_bytes > KEPT_BYTES and not self.unsent_bytes):
            give_back_freed()
            self._most_unsent_bytes, self._most_sessions = 0, sessions
