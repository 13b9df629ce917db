"""How the daemon is, told to systemd from the loop itself: what it is doing, and that it is alive.

A sign of life is sent only by a loop that is prompt, and only while the pool makes progress or has nothing to do. So a
loop that is wedged and a scheduler that has lost track are both ended by systemd, and started anew.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from enum import Enum

from inferd.serve.engine import Engine
from inferd.serve.notify import Notifier
from inferd.serve.pool import Condition
from inferd.serve.workers import LONGEST_LOADING_S

# Looks in the time within which systemd expects a sign of life: one that fails is made up for by the next.
LOOKS = 4
# Between looks when nobody waits for signs of life; the status in `systemctl status` is as old as that.
LOOK_S = 5.0
# A look that is later than this means that nobody was answered for as long.
PROMPT_S = 2.0
# After a late look the next one comes soon: a loop that was held up once is prompt again by then.
SOON_S = 0.25
# Asked for at each look while models load, but for no longer than that may take.
MORE_TIME_S = 60.0
# A batch or a loading that hangs is ended by housekeeping, which looks once a second.
HANGING_S = 5.0


class Phase(Enum):
    """Where the daemon is between its start and its end."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Progress:
    """Whether the engine's workers do what there is to do, judged from one look to the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: object = None

    def is_made(self, now: float) -> bool:
        """False when, since the last look, there was work, and nothing has been done that ought to have been."""
        engine = self._engine
        workers = engine.pool.workers
        before, self._seen = self._seen, self._look()
        if before != self._seen:
            return True
        conditions = [worker.condition for worker in workers]
        if Condition.ENDING in conditions:
            return False  # killed a whole look ago, and not gone
        if engine.pool.idle is not None and engine.scheduler.queued:
            return False  # work and a worker, and nobody has brought them together
        return not any(
            worker.condition in (Condition.BUSY, Condition.LOADING)
            and now > worker.hangs_at + HANGING_S
            and not (worker.arena is not None and worker.arena.starved)
            for worker in workers
        )

    def _look(self) -> object:
        engine = self._engine
        return bool(engine.scheduler.queued), [
            (worker.condition, worker.pid, worker.batches, worker.hangs_at) for worker in engine.pool.workers
        ]


class Heartbeat:
    """Looks at `engine` now and then, and tells `notifier`. Does nothing where nobody hears it."""

    def __init__(self, engine: Engine, notifier: Notifier, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._notifier = notifier
        self._clock = clock
        self._progress = Progress(engine)
        self._interval_s = min(LOOK_S, notifier.watchdog_s / LOOKS or math.inf)
        self._timer: asyncio.TimerHandle | None = None
        self._phase = Phase.LOADING
        self._began = self._due = clock()

    def start(self) -> None:
        """The models are being loaded."""
        if self._notifier.is_heard:
            self._loop = asyncio.get_running_loop()
            self._look()

    def ready(self) -> None:
        """Every model has answered."""
        self._phase = Phase.READY
        self._notifier.doing(self.text())
        self._notifier.ready()

    def draining(self) -> None:
        """No new work is taken."""
        self._phase = Phase.DRAINING
        self._notifier.doing(self.text())
        self._notifier.stopping()

    def stop(self) -> None:
        """Tells nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._clock()
        prompt = now - self._due <= PROMPT_S
        try:
            if self.beats(now):
                self._notifier.watchdog()
            if self._phase is Phase.LOADING and now - self._began < LONGEST_LOADING_S:
                self._notifier.extend(MORE_TIME_S)
            self._notifier.doing(self.text())
        finally:
            # Whatever fails above is in the log, and no reason to be killed for want of signs of life.
            pause_s = self._interval_s if prompt else min(SOON_S, self._interval_s)
            self._due = now + pause_s
            self._timer = self._loop.call_later(pause_s, self._look)

    def beats(self, now: float) -> bool:
        """Whether a look at `now` finds the daemon alive."""
        made = self._progress.is_made(now)
        return made and now - self._due <= PROMPT_S and self._notifier.watchdog_s > 0

    def text(self) -> str:
        """What the daemon is doing, in a line."""
        engine = self._engine
        wanted = len(engine.settings.devices)  # a reload has twice as many for a while
        serving = f"{engine.pool.serving} of {wanted} workers"
        in_flight = sum(len(session.in_flight) for session in engine.sessions)
        if self._phase is Phase.DRAINING:
            return f"draining: {in_flight} in flight"
        if self._phase is Phase.LOADING:
            return f"loading {', '.join(model.name for model in engine.settings.models)}: {serving} are ready"
        counts = f"{len(engine.sessions)} connections, {in_flight} in flight"
        if engine.pool.serving < wanted:
            why = next((worker.last_exit for worker in engine.pool.workers if worker.last_exit), "")
            return f"degraded: {serving}{f' (the last one lost: {why})' if why else ''}, {counts}"
        return f"ready: {len(engine.door.models)} models, {serving}, {counts}"
