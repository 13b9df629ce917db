"""Fair shares: how far each client is ahead of his, and what that makes of the order.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with deadlines: a client's lead is added to when its answers
are due, so an urgent request of a loud client still comes before a lax one of a calm client.
"""

from __future__ import annotations

from collections.abc import Iterable

from inferd.schedule.ticket import Client, Ticket

# How far a client can be ahead of its fair share, in budgets. More is forgiven: who used what nobody else wanted owes
# nothing for it.
LEAD = 8.0


class Shares:
    """What the clients have used. `backlogged` counts those with waiting tickets."""

    def __init__(self) -> None:
        self.backlogged = 0

    @staticmethod
    def key(ticket: Ticket, now: float) -> float:
        """Its place: when it is due, moved by how far its client is ahead of its share, and by its class."""
        budget = ticket.budget
        key = (ticket.due if ticket.due is not None else ticket.arrived + budget) + ticket.priority * budget
        client = ticket.client
        if client is not None and client.tag > now:
            key += client.tag - now
        return key

    def waits(self, client: Client) -> None:
        """One more of its tickets waits."""
        if not client.queued:
            self.backlogged += 1
        client.queued += 1

    def waits_no_more(self, ticket: Ticket, client: Client, has_run: bool) -> None:
        """The ticket has left the queue. For what has not run, nothing is charged."""
        client.queued -= 1
        if not client.queued:
            self.backlogged -= 1
        if not has_run:
            client.tag -= ticket.charge
            ticket.charge = 0.0

    def charge(self, ticket: Ticket, seconds: float, workers: int, now: float) -> float:
        """The ticket costs so many seconds of one of so many devices; returns by how much its client's tag moved."""
        client = ticket.client
        if client is None:
            return 0.0
        # Its fair share is a part of the devices among all who wait: with n of them, a second of work is n seconds.
        start = client.tag if client.tag > now else now
        client.tag = self._bounded(start, seconds * max(1, self.backlogged) / workers, ticket, now)
        return client.tag - start

    def charge_rest(self, tickets: Iterable[Ticket], dearer: float, now: float) -> None:
        """Clients were charged what their rows cost in a full batch; in this one they cost more, by a part `dearer`.

        With tight deadlines batches are small, and by the price of full ones nobody would be ahead of his share: eight
        who wanted 1.5 to 6 times theirs within 25 ms got 34 to 103 rows a second.
        """
        for ticket in tickets:
            client = ticket.client
            if client is not None:
                client.tag = self._bounded(client.tag, dearer * ticket.charge, ticket, now)

    @staticmethod
    def _bounded(start: float, moved: float, ticket: Ticket, now: float) -> float:
        most = now + LEAD * ticket.budget
        return min(start + moved, start if start > most else most)
