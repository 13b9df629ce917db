"""Preprocess ahead of the device: while a batch runs, a thread prepares requests that are likely to be in the next one.

What it makes is kept until the next batch begins, and what that does not take is forgotten. So nothing is promised: who
comes late still joins the batch, and whoever is withdrawn was prepared for nothing, but never run.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import torch

from inferd.wire import batch as b

if TYPE_CHECKING:
    from inferd.work.runner import Runner


class Ahead:
    """What is prepared: for the number of a request, its rows, each as preprocess has made it."""

    def __init__(self) -> None:
        self._running = 0  # the batch that has begun last
        # For the batch behind which they may run: a batch may not have begun when the first of these come.
        self._kept: dict[int, dict[int, list[Any]]] = {}

    def begin(self, batch_id: int, prepared: list[int]) -> dict[int, list[Any]]:
        """A batch begins, whose requests have these numbers (-1: none). Returns, for the index of a request, its rows:
        of those that are ready."""
        kept = self._kept.pop(self._running, None)
        self._running = batch_id
        if not kept:
            return {}
        return {index: kept[number] for index, number in enumerate(prepared) if number in kept}

    def prepare(
        self, runner: Runner, running: int, first: int, model_index: int, tables: list[Any], numbers: list[int]
    ) -> None:
        """Prepares requests, until the batch behind which they may run is over."""
        run = runner.trial_run(model_index, tables, numbers)
        kept = self._kept.setdefault(running, {})
        for index in range(len(numbers) // b.NUMBERS_PER_REQUEST):
            if self._running > running:
                break
            try:
                kept[first + index] = run.prepare(index)
            except BaseException:  # the panic of an extension in Rust, too: it must not end this thread
                pass  # it will raise again in its batch, where it is told; or nobody wants it any more
        if self._running > running:
            self._kept.pop(running, None)


def start(runner: Runner, channel: socket.socket) -> None:
    """A thread that prepares what PREPARE packets on `channel` name, for as long as the process lives."""

    def serve() -> None:
        buffer = bytearray(b.MAX_PACKET_BYTES)
        view = memoryview(buffer)
        with torch.inference_mode():
            while (nbytes := channel.recv_into(buffer)) > 0:
                runner.ahead.prepare(runner, *b.unpack(view[:nbytes])[1:])

    threading.Thread(target=serve, name="ahead", daemon=True).start()
