"""The daemon's core in made-up lives full of faults: sessions, engine, scheduler, pool, slab and arenas as they are, on
a virtual clock, with fake workers, clients and connections. `make chaos SEEDS=2000`, or

    python -m tests.sim.chaos --seeds 2000              seeds 0 to 1999, on all cores
    python -m tests.sim.chaos --seed 1234               one seed, and its story
    python -m tests.sim.chaos --seed 1234 --minimise    the shortest story that still fails
    python -m tests.sim.chaos --seed 1234 --keep NAME   that story, in tests/sim/stories/NAME.json
    python -m tests.sim.chaos --story tests/sim/stories/NAME.json

In every life: each request that was accepted ends once (I1); an answer is the one that its own input leads to (I2);
whatever has a deadline has ended a quarter of a second after it (I3); no request is blamed for another, and nobody is
cut who has done nothing; and when all is quiet nothing is left in slab, arenas, queues and books. A story that has
failed is kept in the folder stories, and tests/sim/test_chaos.py plays it from then on: its seed may make another one
some day.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from inferd import log
from inferd.config import ModelConfig, Settings
from inferd.serve.engine import Engine
from inferd.serve.reload import Reloader
from tests.sim.callers import Call, Client, Line
from tests.sim.machine import ARENA_BYTES, MODELS, Machine
from tests.sim.story import FAILS, FINE, HANGS, KILLS, KILLS_PREPARING, MIB, RAISES, Step, Story, story_of
from tests.sim.virtual import STARTS_AT_S, VirtualLoop

STORIES = Path(__file__).with_name("stories")  # those that have found something

GRACE_S = 0.25
STEPS_FOR_CLIENTS = {
    "infer", "cancel", "ping", "status", "reload", "repeat", "garbage", "stranger", "stall", "vanish", "silent", "slow",
}  # fmt: skip
# The longest that anything may take when nothing goes wrong any more: a first batch that hangs, one after the other.
PATIENCE_S = 2000.0
REST_S = 30.0
# What any request may be told that meets its daemon in trouble.
TROUBLE = {"TIMEOUT", "OVERLOADED", "TOO_MANY_IN_FLIGHT", "SLAB_FULL", "DRAINING", "WORKER_LOST", "gone"}


class Sessions(dict[Any, None]):
    """A set that is walked in the order of arrival: a real one's order is that of addresses in memory."""

    def add(self, session: Any) -> None:
        self[session] = None

    def discard(self, session: Any) -> None:
        self.pop(session, None)


class Log(logging.Handler):
    """What the daemon has logged: the tracebacks, and all of it if it is to be `told`."""

    def __init__(self, loop: VirtualLoop, told: bool) -> None:
        super().__init__(logging.DEBUG if told else logging.ERROR)
        self.found: list[str] = []
        self._loop = loop
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        if self._told:
            fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
            print(f"{self._loop.time() - STARTS_AT_S:9.4f}  {record.getMessage()} {fields}")
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append("".join(traceback.format_exception(record.exc_info[1])))


class Life:
    """One story, played."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.loop = VirtualLoop()
        self.machine = Machine(self.loop, story.seed)
        settings = Settings(
            models=tuple(ModelConfig(name, name) for name in MODELS),
            devices=("cpu",) * story.workers,
            slab_mib=4,
            arena_mib=ARENA_BYTES // MIB,
            payload_mib=1,
            max_in_flight=story.max_in_flight,
        )
        self.settings = settings
        self.engine = Engine(settings, self.machine, clock=self.loop.time)
        self.engine.sessions = Sessions()  # type: ignore[assignment]
        self.clients: dict[int, Client] = {}
        self.wrong: list[str] = []
        self.drained = False

    def play(self, told: bool = False) -> list[str]:
        """Everything that was wrong. If it is to be `told`, what the daemon logs is printed."""
        complaints = Log(self.loop, told)
        log.logger.addHandler(complaints)
        log.logger.propagate, propagated = False, log.logger.propagate
        level = log.logger.level
        log.logger.setLevel(complaints.level)
        try:
            self.loop.run_until_complete(self._play())
        except Exception:
            self.wrong.append(traceback.format_exc())
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            self.loop.close()
            log.logger.removeHandler(complaints)
            log.logger.propagate = propagated
            log.logger.setLevel(level)
        for client in self.clients.values():
            self.wrong += client.wrong
        self.wrong += complaints.found + self.loop.complaints
        for task in self.machine.tasks:
            if not task.cancelled() and task.done() and task.exception() is not None:
                self.wrong.append(f"a worker met what it cannot understand: {task.exception()!r}")
        return self.wrong

    async def _play(self) -> None:
        engine, loop = self.engine, self.loop
        self.reloader = engine.reloader = Reloader(engine, lambda: self.settings)
        await engine.start()
        self.reloader.start()
        began = loop.time()
        for step in self.story.steps:
            loop.call_at(began + step.at, self._do, step)
        last = self.story.steps[-1].at if self.story.steps else 0.0
        await asyncio.sleep(last + 0.001)
        while self._open() and loop.time() < began + PATIENCE_S and not self.drained:  # noqa: ASYNC110 (it is virtual)
            await asyncio.sleep(0.1)
        if self.drained:
            await asyncio.sleep(0.1)
        else:
            await self._rest()
            if not await engine.drain(5.0):
                self.wrong.append("a daemon at rest is not drained within 5 s")
        self.reloader.close()
        await engine.close()
        self._hang_up()  # the process is gone
        await asyncio.sleep(0.1)
        self._judge()

    def _do(self, step: Step) -> None:
        if step.what in STEPS_FOR_CLIENTS:
            client = self.clients.get(step.who)
            if client is None:
                client = self.clients[step.who] = Client(step.who, self.engine, self.loop, self.story.turn_cost_s)
                client.may_connect = lambda: not self.engine.draining
            client.do(step)
        elif step.what == "stall_loop":
            self.loop.stall(step.args["for_s"])
        elif step.what == "limits":
            self.settings = replace(self.settings, **step.args)
            self.reloader.hung_up()
        elif step.what == "models":
            self.settings = replace(self.settings, models=self._other_models(**step.args))
            self.reloader.hung_up()
        elif step.what == "drain":
            if not self.engine.draining:
                self.drain = self.loop.create_task(self._drain(step.args["timeout_s"]))
        else:
            self.machine.strike(step.what, step.who, step.args)

    def _other_models(self, replaced: str, removed: str) -> tuple[ModelConfig, ...]:
        version = sum(model.options.get("version", 0) for model in self.settings.models) + 1
        names = [name for name in MODELS if name != removed]
        had = {model.name: model for model in self.settings.models}
        return tuple(
            ModelConfig(name, name, {"version": version}) if name == replaced or name not in had else had[name]
            for name in names
        )

    async def _drain(self, timeout_s: float) -> None:
        started = self.loop.time()
        done = await self.engine.drain(timeout_s)
        took_s = self.loop.time() - started
        if took_s > timeout_s + 0.02 + self.loop.stalled_s(started, self.loop.time()) + 10 * self.story.turn_cost_s:
            self.wrong.append(f"a drain of {timeout_s} s took {took_s:.3f} s")
        if done and any(session.in_flight for session in self.engine.sessions):
            self.wrong.append("drained, and requests are in flight")
        self.drained = True

    def _open(self) -> list[tuple[Line, Call]]:
        """The requests that have not ended, of those that the daemon has got."""
        return [
            (line, call)
            for client in self.clients.values()
            for line, call in client.calls
            if not call.outcomes and not (call.dubious or call.whole_at == float("inf"))
        ]

    # ---- what must be true

    async def _rest(self) -> None:
        """All is quiet: whoever is not served any more is cut, and nothing is left of anybody."""
        for client in self.clients.values():
            client.hurry()
        await asyncio.sleep(REST_S)
        engine = self.engine
        now = self.loop.time()
        for client in self.clients.values():
            for line in client.lines:
                if not line.gone and line.closed_at < now - REST_S / 2:
                    self.wrong.append(f"{line.name}: closed at {line.closed_at:.3f}, and still there at {now:.3f}")
        pool = engine.pool
        end = now + PATIENCE_S
        while self.loop.time() < end and (  # noqa: ASYNC110 (it is virtual)
            any(worker.batch is not None for worker in pool.workers)
            or not pool.serving == len(pool.workers) == self.story.workers
        ):
            await asyncio.sleep(1.0)
        while any(each.frozen_until > self.loop.time() for each in self.machine.processes.values()):  # noqa: ASYNC110
            await asyncio.sleep(10.0)
        await asyncio.sleep(2.5)
        self._baseline("while the clients are there")
        self._hang_up()
        await asyncio.sleep(2.5)
        self._baseline("when the clients are gone")
        left = {
            "sessions": len(engine.sessions),
            "strangers": len(engine.strangers),
            "unsent bytes": engine.holdings.unsent_bytes,
            "clients": sum(client.tag <= engine.clock() for client in engine.holdings.clients.values()),
        }
        self.wrong += [f"{count} {what} are left when the clients are gone" for what, count in left.items() if count]

    def _hang_up(self) -> None:
        for client in self.clients.values():
            for line in client.lines:
                if not line.gone:
                    line.vanish()

    def _baseline(self, when: str) -> None:
        engine, scheduler, pool = self.engine, self.engine.scheduler, self.engine.pool
        left: dict[str, Any] = {
            "bytes of the slab": engine.slab.used_bytes,
            "open chunks": len(engine.slab._open),
            "bytes on their way into the slab": engine.holdings.arriving_bytes,
            "queued": scheduler.queued,
            "lanes": len(scheduler._queue.lanes),
            "batches to run again": len(scheduler._again),
            "batches running": len(scheduler._devices.running),
            "backlogged clients": scheduler._queue.shares.backlogged,
            "seconds of backlog": scheduler._queue.backlog,
            "sessions with answers to write": len(engine.answers.dirty),
            "workers not idle": sum(worker not in pool._idle for worker in pool.workers),
            "idle workers twice": len(pool._idle) - len(set(map(id, pool._idle))),
        }
        for process in self.machine.processes.values():
            place = pool.get(process.worker)
            if place is None:
                left[f"process of worker {process.worker}, whom nobody knows,"] = 1
                continue
            arena = place.arena
            left[f"bytes of arena {process.worker}"] = process.extents.used
            if arena is not None:
                left[f"bytes held in arena {process.worker}"] = arena.held
                left[f"bytes to give back to arena {process.worker}"] = len(arena.freed)
                left[f"starved arena {process.worker}"] = arena.starved
        for client in engine.holdings.clients.values():
            left[f"queued of {client.name}"] = client.queued
        for session in engine.sessions:
            name = session.link.name
            left[f"in flight of {name}"] = len(session.in_flight)
            left[f"keys of {name}"] = len(session.keys)
            left[f"parked of {name}"] = len(session.parked)
            left[f"held parts of {name}"] = len(session.outbox._held)
            left[f"congested {name}"] = session.outbox.congested
            left[f"too few credits of {name}"] = max(0, 1 - session.window.credits)
            if not 1 <= session.window.credits <= session.window.largest:
                self.wrong.append(f"{session.window.credits} credits {when}")
        self.wrong += [f"{count} {what} {when}" for what, count in left.items() if count]

    def _judge(self) -> None:
        steps = {step.what for step in self.story.steps}
        for client in self.clients.values():
            for line, call in client.calls:
                if not call.outcomes:
                    if not (call.dubious or (line.dubious and call.whole_at == float("inf"))):
                        self.wrong.append(f"I1: {call} of {line.name} never ended")
                    continue
                ended_at, what = call.outcomes[0]
                self._judge_time(line, call, ended_at)
                if not call.dubious and what not in self._allowed(call, steps):
                    self.wrong.append(f"{call} of {line.name} was told {what}")
                if what == "gone" and not (self.drained or line.dubious or line.was_slow or line.vanished):
                    self.wrong.append(f"{call}: its connection was cut, and it had done nothing")

    def _judge_time(self, line: Line, call: Call, ended_at: float) -> None:
        if call.deadline_s is None or line.was_slow or call.dubious or call.whole_at == float("inf"):
            return
        due = max(call.sent_at + call.deadline_s, call.whole_at) + GRACE_S
        late_s = ended_at - due - self.loop.stalled_s(call.sent_at, ended_at)
        if late_s > 1e-6 + 300 * self.story.turn_cost_s:
            self.wrong.append(f"I3: {call} with {call.deadline_s} s ended at {ended_at:.4f}: {call.outcomes}")

    def _allowed(self, call: Call, steps: set[str]) -> set[str]:
        allowed = set(TROUBLE)
        if call.kind in (FINE, HANGS):
            allowed.add("RESULT")
        if call.kind in (RAISES, FAILS):
            allowed.add("MODEL_FAILED")
        if call.kind in (KILLS, KILLS_PREPARING, HANGS) or "freeze" in steps:
            allowed.add("POISONED")
        if call.reply_bytes > ARENA_BYTES:
            allowed.add("OUTPUT_TOO_LARGE")
        if call.cancelled:
            allowed.add("CLIENT_CANCELLED")
        if call.superseding:
            allowed.add("SUPERSEDED")
        if "models" in steps:
            allowed |= {"MODEL_REPLACED", "MODEL_NOT_FOUND"}
        if "device_memory" in steps:
            allowed.add("DEVICE_MEMORY")
        return allowed


def play(story: Story) -> list[str]:
    """What was wrong in one life."""
    return Life(story).play()


def kinds(wrong: list[str]) -> set[str]:
    """What is wrong, without names and numbers: a story that becomes shorter shall still fail for the same reason."""
    return {re.sub(r"[^a-zA-Z ]", "", line.strip().splitlines()[-1])[:60] for line in wrong}


def minimise(story: Story) -> Story:
    """The story with as few steps as it needs to fail: halves, quarters, … are left out as long as it still does."""
    wanted = kinds(play(story))
    size = max(1, len(story.steps) // 2)
    while True:
        at, shorter = 0, False
        while at < len(story.steps):
            candidate = story.without(set(range(at, at + size)))
            if wanted & kinds(play(candidate)):
                story, shorter = candidate, True
            else:
                at += size
        if size == 1 and not shorter:
            return story
        size = max(1, size // 2)


def try_seed(seed: int) -> tuple[int, list[str], dict[str, int]]:
    """The seed, what was wrong, and how its requests ended."""
    life = Life(story_of(seed))
    wrong = life.play()
    ends = Counter(call.outcomes[0][1] for client in life.clients.values() for _, call in client.calls if call.outcomes)
    ends["workers died"] = life.machine.deaths
    return seed, wrong, ends


def try_seeds(seeds: Iterable[int], jobs: int) -> tuple[dict[int, list[str]], Counter[str]]:
    """The seeds that fail, with what was wrong; and how the requests of all have ended."""
    failed: dict[int, list[str]] = {}
    ends: Counter[str] = Counter()
    if jobs == 1:
        results = map(try_seed, seeds)
        for seed, wrong, seen in results:
            ends.update(seen)
            if wrong:
                failed[seed] = wrong
        return failed, ends
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for seed, wrong, seen in pool.imap_unordered(try_seed, seeds, chunksize=20):
            ends.update(seen)
            if wrong:
                failed[seed] = wrong
                print(f"seed {seed}: {wrong[0].strip().splitlines()[-1]}", flush=True)
    return failed, ends


def main() -> int:
    parser = argparse.ArgumentParser(description="The daemon's core in made-up lives full of faults.")
    parser.add_argument("--seeds", type=int, default=2000, help="so many lives")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one, and its story")
    parser.add_argument("--minimise", action="store_true", help="the shortest story of --seed that still fails")
    parser.add_argument("--keep", metavar="NAME", help="keep that story, for the tests")
    parser.add_argument("--story", type=Path, metavar="FILE", help="one that was kept, in place of --seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.seed is not None or arguments.story is not None:
        story = story_of(arguments.seed) if arguments.story is None else Story.load(arguments.story)
        if (arguments.minimise or arguments.keep) and play(story):
            story = minimise(story)
        print(story)
        if arguments.keep:
            story.save(STORIES / f"{arguments.keep}.json", "; ".join(play(story)))
        wrong = Life(story).play(told=True)
        print("\n".join(wrong) or "nothing is wrong")
        return 1 if wrong else 0
    started = time.monotonic()
    failed, ends = try_seeds(range(arguments.first, arguments.first + arguments.seeds), arguments.jobs)
    took = time.monotonic() - started
    requests = sum(ends.values()) - ends["workers died"]
    print(f"{arguments.seeds} lives, {requests:,} requests, {ends['workers died']:,} workers died, in {took:.1f} s")
    print("  " + ", ".join(f"{what} {count:,}" for what, count in ends.most_common() if what != "workers died"))
    for seed in sorted(failed)[:5]:
        print(f"\nseed {seed} failed; python -m tests.sim.chaos --seed {seed}\n" + "\n".join(failed[seed][:3]))
    if failed:
        shortest = minimise(story_of(min(failed)))
        print(f"\nthe shortest story of seed {min(failed)} that fails:\n{shortest}\n" + "\n".join(play(shortest)[:3]))
    print(f"\n{len(failed)} of {arguments.seeds} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
