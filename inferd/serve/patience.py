"""How long a connection may make no progress: what its client must have sent, taken or answered, and by when.

Synchronous, with `now` as an argument. Housekeeping asks every second, so each time here is kept to within that
and, where it counts from something that was not seen to begin, within two of them.
"""

from __future__ import annotations

from inferd.wire.peer import START, Peer

HELLO_TIMEOUT_S = 5.0
# From the first byte of a frame to the end of its header: 16 KiB at most.
HEADER_TIMEOUT_S = 5.0
# A payload may take its time at first, and then comes at this rate on average: a megabit line brings twice that.
PAYLOAD_GRACE_S = 5.0
LEAST_BYTES_PER_S = 64 * 1024
# One that has come fast may still not stop for longer than this.
READ_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
# Who has said nothing for so long is asked with a PING; who has not answered the second one is gone without a word.
# With the two seconds until that is seen, it is within a minute.
PING_EVERY_S = 29.0
SILENT_TIMEOUT_S = 2 * PING_EVERY_S

NOT_READ = "it does not read its answers"


class Patience:
    """One connection's. `heard_at` is when it was read last, `taken_at` when its client last took something; `slow`
    says that it takes what is sent to it at less than LEAST_BYTES_PER_S, after PAYLOAD_GRACE_S."""

    __slots__ = (
        "_behind_from",
        "_behind_since",
        "_opened_at",
        "_pinged_at",
        "_since",
        "_taken",
        "_unfinished",
        "heard_at",
        "slow",
        "taken_at",
    )

    def __init__(self, now: float) -> None:
        self._opened_at = self._pinged_at = self._since = now
        self.heard_at = self.taken_at = now
        self._unfinished: tuple[int, bool] | None = None  # the frame that was half here at the last look
        self._taken = 0  # bytes, at the last look
        self._behind_since: float | None = None  # has had something to take since then, and had taken so many bytes
        self._behind_from = 0
        self.slow = False

    def over(self, peer: Peer, unsent: int, taken: int, congested: bool, now: float) -> str:
        """Why it is over, or "". `unsent` is how many bytes its client has not taken, `taken` how many it has."""
        if taken > self._taken and self._behind_since is not None:
            # Slow, but it reads. What goes at once may only lie in the kernel, for somebody who is gone.
            self.taken_at = now
        self._taken = taken
        if not unsent:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since, self._behind_from = now, taken
        self.slow = self._behind_since is not None and (
            taken - self._behind_from < LEAST_BYTES_PER_S * (now - self._behind_since - PAYLOAD_GRACE_S)
        )
        if peer.state == START:
            return "no HELLO" if now - self._opened_at > HELLO_TIMEOUT_S else ""
        # Also one that leaves little unread, and goes on talking: that lies in memory that a worker may need.
        if self._behind_since is not None:
            patience_s = WRITE_TIMEOUT_S if congested else SILENT_TIMEOUT_S
            if now - max(self.taken_at, self._behind_since) > patience_s:
                return NOT_READ
        unfinished = peer.unfinished
        if unfinished is None:
            self._unfinished = None
            return ""
        number, here = unfinished
        if self._unfinished != (number, here is not None):
            self._unfinished = (number, here is not None)
            self._since = now
            return ""
        waited_s = now - self._since
        if here is None:
            return "the rest of a header does not come" if waited_s > HEADER_TIMEOUT_S else ""
        if here < LEAST_BYTES_PER_S * (waited_s - PAYLOAD_GRACE_S) or now - self.heard_at > READ_TIMEOUT_S:
            return "the rest of a payload does not come, or too slowly"
        return ""

    def silent(self, now: float) -> bool:
        """Whether its client has left two PINGs unanswered, and taken nothing meanwhile."""
        return now - max(self.heard_at, self.taken_at) > SILENT_TIMEOUT_S

    def ping_due(self, now: float) -> bool:
        """Whether to ask it for a sign of life; True once for each PING."""
        if now - max(self.heard_at, self.taken_at, self._pinged_at) <= PING_EVERY_S:
            return False
        self._pinged_at = now
        return True
