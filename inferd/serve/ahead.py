"""Which waiting requests a worker prepares while its batch runs: those that are likely to be in the next one.

Tokenization and the like take the device's time if they wait for its turn, and nobody's if they run beside it. Asked as
late as leaves enough time, and again for who has come since, because whoever is prepared and then withdrawn or passed
over was prepared for nothing. It changes nothing of who runs when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from inferd.schedule.batch import Batch
from inferd.serve.executor import Executor
from inferd.serve.pool import Worker
from inferd.serve.request import Request
from inferd.wire import batch as b

# A batch that takes less leaves no time for a packet and a thread.
LEAST_BATCH_S = 0.002
LEAST_PAUSE_S = 0.001
# So many times what preprocess is expected to take before the batch should end, because it shares a core; and a share
# of the batch, because that can end sooner.
LEAD = 2.0
SLACK = 0.1
# How often in that time who has come since is asked for.
TIMES = 4


class Ahead:
    """Of all workers. `likely` says who would be in a batch that began at a time."""

    def __init__(
        self, executor: Executor, likely: Callable[[float], list[Request]], clock: Callable[[], float]
    ) -> None:
        self._executor = executor
        self._likely = likely
        self._clock = clock
        # Of each worker: who is prepared behind its batch, and the number that he has there.
        self._prepared: dict[int, dict[Request, int]] = {}

    def batch_began(self, worker: Worker[Batch[Request]], batch: Batch[Request], now: float) -> None:
        """The worker has got a batch, of a model with a preprocess."""
        length_s = batch.ends_at - now
        if length_s < LEAST_BATCH_S:
            return
        if any(request.losses for request in batch.tickets):
            return  # a worker has died with it: what is prepared beside it could be why the next one does
        preprocess_s = batch.rows * batch.tickets[0].plan.model.preprocess_s  # the next one is taken to be as large
        lead_s = min(LEAD * preprocess_s + SLACK * length_s + LEAST_PAUSE_S, length_s)
        pause_s = max(LEAST_PAUSE_S, lead_s / TIMES)
        asyncio.get_running_loop().call_later(length_s - lead_s, self._ask, worker, worker.batch_id, batch, pause_s)

    def _ask(self, worker: Worker[Batch[Request]], batch_id: int, batch: Batch[Request], pause_s: float) -> None:
        if worker.batch is not batch or worker.batch_id != batch_id or worker.leaving:
            return
        prepared = self._prepared.setdefault(worker.id, {})
        # One with more rows than a batch runs in pieces, and would hold up the thread for as long as a batch.
        requests = [
            request
            for request in self._likely(batch.ends_at)
            if request not in prepared and request.rows <= request.max_rows
        ]
        if requests and requests[0].plan.model.preprocess_s:
            first = len(prepared)
            tables, numbers = pack_requests(requests)
            position = worker.positions[requests[0].plan.model.name]
            packet = b.pack(b.PREPARE, batch_id, first, position, tables, numbers)
            if len(packet) > b.MAX_PACKET_BYTES:
                return
            self._executor.prepare(worker.id, packet)
            prepared.update((request, first + at) for at, request in enumerate(requests))
        if self._clock() + pause_s < batch.ends_at:
            asyncio.get_running_loop().call_later(pause_s, self._ask, worker, batch_id, batch, pause_s)

    def forget(self, worker: int) -> dict[Request, int]:
        """The worker is given its next batch, or is gone. Whom it was preparing, and the number of each."""
        return self._prepared.pop(worker, {})


def pack_requests(requests: list[Request]) -> tuple[list[Any], list[int]]:
    """What packets say of requests: their tables, and five numbers for each (inferd.wire.batch)."""
    tables: list[Any] = []
    positions: dict[int, int] = {}
    numbers: list[int] = []
    last = None
    position = 0
    for request in requests:
        plan = request.plan
        if plan is not last:
            last = plan
            known = positions.get(id(plan))
            if known is None:
                known = positions[id(plan)] = len(tables)
                tables.append(plan.table)
            position = known
        numbers += (position, plan.rows, request.offset, request.nbytes, request.has_values)
    return tables, numbers
