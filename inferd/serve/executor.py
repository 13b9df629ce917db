"""What runs batches: processes (`process.py`), or the caller's own process (`inferd.work.inline`).

The daemon is given one of them and knows only this face. One conformance suite covers all.
"""

from __future__ import annotations

from typing import Any, Protocol

from inferd.config import Settings
from inferd.memory import Region


class WorkerEvents(Protocol):
    """Who hears of workers: the engine."""

    def on_started(self, worker: int, pid: int) -> None:
        """The worker exists; it is loading its models."""

    def on_not_started(self, worker: int, why: str) -> None:
        """There is no process for the worker that was spawned: the system had none, or no descriptor. Nothing more
        will be heard of it."""

    def on_packet(self, worker: int, message: list[Any]) -> None:
        """The worker said something (inferd.wire.batch)."""

    def on_exit(self, worker: int, status: str = "") -> None:
        """The worker is gone, and nothing more will come from it. `status` is how it ended, if that is known."""


class Executor(Protocol):
    """Starts workers and carries packets to them. No call waits."""

    async def start(self, events: WorkerEvents, slab: Region) -> None:
        """Makes ready to spawn workers that read `slab`. Raises InferdError when the system has no process for that."""

    def spawn(self, worker: int, device: str, settings: Settings, warm_up: bool) -> Region:
        """Begins a worker on `device` with the models of `settings`; returns its arena. With `warm_up` it measures how
        long their batches take. Raises OSError when the system has no memory or no descriptor for one."""

    def send(self, worker: int, packet: bytes) -> None:
        """One packet to a worker. One that is gone says so with `on_exit`, not here."""

    def prepare(self, worker: int, packet: bytes) -> None:
        """A PREPARE packet to a worker. It may be lost: it only saves time."""

    def poll(self, worker: int) -> None:
        """Hands on what the worker has said already, before the loop comes to it."""

    def kill(self, worker: int) -> None:
        """Ends a worker at once."""

    async def close(self) -> None:
        """Ends every worker; returns when they are gone."""
