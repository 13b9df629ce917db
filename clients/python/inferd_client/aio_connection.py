"""One connection shared by the tasks of an event loop (asyncio's or uvloop's): no locks, no tasks of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from time import monotonic
from typing import cast

from inferd.errors import make
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.call import DONE, GRANTED, MOVED, SENT, Call
from inferd_client.codec import Buffer
from inferd_client.core import Conversation
from inferd_client.endpoints import set_tcp_options

# A gathered write joins its buffers on some loops (asyncio before 3.12); from here on that copy costs more than a
# system call for each.
GATHER_BYTES = 64 * 1024


class Connection(asyncio.BufferedProtocol):
    """A conversation on a transport over `sock`, for any number of tasks. `ended` is done when the transport is."""

    def __init__(self, sock: socket.socket, address: Address, hello: Hello, loop: asyncio.AbstractEventLoop) -> None:
        self.conversation = Conversation(str(address), hello)
        self._sock = sock
        self._pid = os.getpid()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._blocked: dict[Call, None] = {}  # GRANTED calls that wait until the transport takes more
        self._pong: Buffer | None = None  # and the answer to the last PING that came meanwhile
        self.ended: asyncio.Future[None] = loop.create_future()

    # ---- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        set_tcp_options(self._sock)
        self._transport.write(self.conversation.hello())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.conversation.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.conversation.received(nbytes)
        self._settle()

    def eof_received(self) -> None:
        self.conversation.lost()
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._hear_last_words()
        self.conversation.lost()
        self._settle()
        self.resume_writing()
        if not self.ended.done():
            self.ended.set_result(None)

    def _hear_last_words(self) -> None:
        """A write that fails ends a transport at once, although what the server said before it closed (GOAWAY, why it
        ends) may still lie in the socket, which is open until this is over."""
        transport = self._transport
        if transport is None or transport.get_extra_info("ssl_object") is not None:
            return
        descriptor = transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            while nbytes := os.readv(descriptor, [self.conversation.get_buffer()]):
                self.conversation.received(nbytes)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._write([pong])
        blocked, self._blocked = self._blocked, {}
        for call in blocked:
            _wake(call)

    # ---- what callers do

    async def greet(self) -> None:
        """Waits for WELCOME; raises what came instead."""
        greeting = self.conversation.greeting
        try:
            if greeting.state == SENT:
                greeting.waiter = self._loop.create_future()
                await greeting.waiter
            if greeting.error is not None:
                raise greeting.error
        except BaseException:
            self.abort()
            raise

    async def run(self, call: Call) -> None:
        """Sees a call through: it is DONE afterwards, or MOVED.

        Raises DeadlineExceeded when its time is up; then, and when its task is cancelled, it is cancelled.
        """
        conversation = self.conversation
        timer = self._loop.call_later(call.deadline - monotonic(), _time_up, call)
        try:
            conversation.open(call)
            if conversation.changed:
                self._settle()
            while True:
                if call.state == GRANTED and not self._paused:
                    now = monotonic()
                    if now >= call.deadline:
                        raise call.time_up()
                    self._write(conversation.start(call, now))
                if call.state == DONE or call.state == MOVED:
                    return
                if call.expired:
                    raise call.time_up()
                if call.state == GRANTED:
                    self._blocked[call] = None
                call.waiter = self._loop.create_future()
                await call.waiter
        except BaseException:
            conversation.abandon(call)
            self._settle()
            raise
        finally:
            timer.cancel()
            self._blocked.pop(call, None)  # with its payload, of which a server that does not read may hold up many

    def close(self) -> None:
        """Ends the connection; calls still waiting raise Cancelled."""
        self.conversation.fail(lambda: make("CLIENT_CANCELLED"))
        self._settle()
        self.abort()

    def abort(self) -> None:
        """Drops the connection, with what is not written yet."""
        if self._transport is None or self._pid != os.getpid():
            return  # a forked child leaves its parent's alone
        # Closing alone would not end it while a forked child has a copy of the socket.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._transport.abort()

    def _settle(self) -> None:
        """Wakes the callers whose calls have changed and writes what the conversation wants said."""
        conversation = self.conversation
        for call in conversation.changed:
            _wake(call)
        conversation.changed.clear()
        while conversation.outbox:
            frame = conversation.outbox.popleft()
            if self._paused and f.PREFIX.unpack_from(frame)[2] == f.PONG:
                # Of a server that asks and does not read, one question is kept: else they would fill the memory.
                self._pong = frame
            else:
                self._write([frame])
        if not conversation.usable and conversation.idle and self._transport is not None:
            if conversation.silent:
                self.abort()  # nobody may be there to take what is not written yet
            else:
                self._transport.close()

    def _write(self, buffers: list[Buffer]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or not buffers:
            return  # what was to be sent fails with the connection
        if len(buffers) == 1:
            transport.write(buffers[0])
        elif sum(map(len, buffers)) <= GATHER_BYTES:
            transport.writelines(buffers)
        else:
            for buffer in buffers:
                if transport.is_closing():
                    return
                transport.write(buffer)


def _wake(call: Call) -> None:
    if call.waiter is not None and not call.waiter.done():
        call.waiter.set_result(None)


def _time_up(call: Call) -> None:
    call.expired = True
    _wake(call)
