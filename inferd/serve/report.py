"""What the engine says of itself: a request's timeline in its reply, and the daemon's status."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from inferd import log
from inferd._version import __version__
from inferd.schedule.batch import Batch
from inferd.serve import meters
from inferd.serve.request import Request

if TYPE_CHECKING:
    from inferd.serve.engine import Engine


def timeline(
    request: Request, batch: Batch[Request], batch_id: int, compute_us: int, padded: float, now: float
) -> dict[str, Any]:
    """Why a request was slow: the `timing` of its RESULT (docs/PROTOCOL.md)."""
    return {
        "queued_ms": round((batch.started_at - request.arrived) * 1000, 3),
        "compute_ms": compute_us / 1000,
        "total_ms": round((now - request.arrived) * 1000, 3),
        "batch_id": batch_id,
        "batch_rows": batch.rows,
        "padded": padded,
        "released": batch.why,
    }


def _state(engine: Engine) -> str:
    if engine.draining:
        return "draining"
    if engine.pool.serving:
        return "stalled" if engine.workers.stalled(engine.clock()) else "ready"
    return "unhealthy" if engine.pool.unhealthy else "no worker"


def status(engine: Engine) -> dict[str, Any]:
    """What is going on, for `inferd status`."""
    slab, scheduler = engine.slab, engine.scheduler
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": engine.clock() - engine.started_at,
        "state": _state(engine),
        "reload": engine.reloader.last if engine.reloader is not None else None,
        "connections": len(engine.sessions),
        "in_flight": sum(len(session.in_flight) for session in engine.sessions),
        "queued": scheduler.queued,
        "slab": {"used_bytes": slab.used_bytes, "bytes": slab.region.nbytes},
        "workers": [
            {
                "id": worker.id,
                "pid": worker.pid,
                "device": worker.device,
                "state": "leaving" if worker.leaving else "unhealthy" if worker.unhealthy else worker.condition.value,
                "batches": worker.batches,
                "busy_s": worker.busy_s,
                "compute_s": worker.compute_us / 1e6,
                "arena_used_bytes": worker.arena.used if worker.arena is not None else 0,
                "deaths": worker.deaths,
                "last_exit": worker.last_exit,
            }
            for worker in engine.pool.workers
        ],
        "models": [
            {
                "name": model.name,
                "results": model.meters.results,
                "rows": model.meters.rows,
                "latency": scheduler.known.table(model.index, model.max_batch_size),
                "meters": model.meters.status(),
            }
            for model in engine.door.models.values()
        ],
        "buckets": meters.buckets(),
        "counters": dict(sorted({**engine.counters, "dropped_logs": log.dropped()}.items())),
    }
