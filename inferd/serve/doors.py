"""Listening sockets, from which connections are taken as long as there is a place for another stranger.

Not asyncio's servers: those take whatever waits. These leave it in the kernel's queue when 64 strangers are here
(inferd/serve/strangers.py), or when the process has no descriptor left.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from inferd.serve.engine import Engine

# How many connections one turn of the loop takes at most from a socket without strangers.
MAX_AT_ONCE = 64
# After this long a process that had no descriptor left tries again.
NO_DESCRIPTOR_PAUSE_S = 0.25


class _Door:
    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.BufferedProtocol], strangers: bool) -> None:
        self.sock = sock
        self.factory = factory
        self.strangers = strangers  # those who come here are unknown
        self.open = False


class Doors:
    """The open ones. Also the timer of those who have come in and say nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._strangers = engine.strangers
        self._strangers.when_room = self._let_in
        self._loop = asyncio.get_running_loop()
        self._doors: list[_Door] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, sock: socket.socket, factory: Callable[[], asyncio.BufferedProtocol], strangers: bool = True) -> None:
        """Takes connections from a listening socket, each with a protocol of its own."""
        sock.setblocking(False)
        door = _Door(sock, factory, strangers)
        self._doors.append(door)
        self._open(door)

    def close(self) -> None:
        """Takes no more; those who wait are refused by the kernel, or are the next daemon's if it holds the socket."""
        for door in self._doors:
            self._shut(door)
            door.sock.close()
        self._doors = []

    def _open(self, door: _Door) -> None:
        if not door.open:
            door.open = True
            self._loop.add_reader(door.sock.fileno(), self._ready, door)

    def _shut(self, door: _Door) -> None:
        if door.open:
            door.open = False
            self._loop.remove_reader(door.sock.fileno())

    def _let_in(self) -> None:
        for door in self._doors:
            self._open(door)

    def _ready(self, door: _Door) -> None:
        """Somebody waits at the door."""
        for _ in range(MAX_AT_ONCE):
            if door.strangers and self._strangers.full:
                self._strangers.press(self._engine.clock())
                self._shut(door)
                break
            try:
                sock, _ = door.sock.accept()
            except (BlockingIOError, InterruptedError):
                break
            except ConnectionAbortedError:
                continue  # he has gone again
            except OSError as error:
                self._engine.throttle.event("cannot_accept", self._engine.clock(), logging.ERROR, error=str(error))
                self._engine.count("accept_failed")
                self._shut(door)
                self._loop.call_later(NO_DESCRIPTOR_PAUSE_S, self._let_in)
                break
            self._strangers.coming += door.strangers
            task = self._loop.create_task(self._take(door, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._watch()

    async def _take(self, door: _Door, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            await self._loop.connect_accepted_socket(door.factory, sock)
        except OSError:
            sock.close()  # reset before it began
        finally:
            if door.strangers:
                self._strangers.coming -= 1
                if not self._strangers.full:
                    self._let_in()
                self._watch()

    def _watch(self) -> None:
        """Arms the one timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._engine.clock()
        at = self._strangers.next_due(now)
        if at is not None:
            self._timer = self._loop.call_later(max(0.001, at - now), self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._engine.clock()
        while (stranger := self._strangers.overdue(now)) is not None:
            self._engine.cut(stranger, "no HELLO", now)
            self._strangers.discard(stranger)
        self._watch()
