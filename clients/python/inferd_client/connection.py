"""One connection shared by threads, without a thread of its own: leader and followers.

Whoever waits for an answer receives for everybody. The first to wait takes the role of the receiver (the leader); the
others sleep (followers). The leader wakes each follower whose answer came, and when its own is there it hands the role
to a follower that still waits. So a lone caller polls and receives by itself and no thread is ever woken for it.

Locks, and what they guard; whoever holds the send lock may take the mutex, never the other way round:

    send lock    writing to the socket: one frame at a time
    mutex        the conversation, the role and the followers; held for moments only, never while waiting

A sender whose socket is full must not keep everybody from reading, or two sides that both write wait for ever. It takes
the role if that is free, and reads while it waits to write. One whose time is up in the middle of a frame leaves the
rest to the leader, who writes it as the socket takes it: a server ends a connection on which half a frame stands still.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import TIMEOUT_MAX, Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING

from inferd.errors import InferdError, make
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd_client.call import DONE, GRANTED, MOVED, SENT, WAITING, Call
from inferd_client.codec import Buffer
from inferd_client.core import Conversation
from inferd_client.endpoints import FULL_QUEUE_S, set_tcp_options

if TYPE_CHECKING:
    from ssl import SSLContext

    from inferd_client.tls import TlsSocket

# How long a thread that has the role, and a call that is not sent yet, waits for bytes before it looks whether another
# thread has changed its call: superseded it, or given a credit back.
CHECK_CALL_S = 0.01
# The same for a call that is sent: another thread may have taken it back, and a server that hangs says nothing to that;
# or it has left the rest of a frame to be written.
CHECK_SENT_S = 0.5
# How long a blocked sender leaves the reading to another thread before it looks whether that thread still does it.
# Only answers that nobody waits for any more can be left lying that long.
CHECK_ROLE_S = 0.1
# What one sendmsg() takes: IOV_MAX.
MAX_BUFFERS = 1024
# How long is waited at once: poll() takes 24 days at most. Whoever has more time waits again.
MAX_WAIT_S = 3600.0


def dial(address: Address, timeout_s: float, tls: SSLContext | None = None) -> socket.socket | TlsSocket:
    """A connected socket, with `tls` if the address asks for it. Raises OSError."""
    deadline = monotonic() + timeout_s
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect_unix(sock, address.path, deadline)
        except BaseException:
            sock.close()
            raise
    else:
        sock = _connect_tcp(address, deadline)
    if address.tls:
        from inferd_client.tls import TlsSocket  # only here, because few need it

        assert tls is not None
        try:
            sock.settimeout(_share_s(deadline))
            return TlsSocket(sock, tls, address.host)
        except BaseException:
            sock.close()
            raise
    sock.setblocking(False)
    return sock


def _connect_unix(sock: socket.socket, path: str, deadline: float) -> None:
    """Unlike with TCP, the system does not wait while the server's queue of connections is full."""
    while True:
        sock.settimeout(_share_s(deadline))
        try:
            sock.connect(path)
            return
        except BlockingIOError as error:
            if monotonic() >= deadline:
                raise TimeoutError from error
            sleep(FULL_QUEUE_S)


def _connect_tcp(address: Address, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one. Each has a fair share of the time that is left,
    so that a silent one (IPv6 that leads nowhere) does not keep the next from being tried."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    problem = OSError(f"{address.host} has no address")
    for untried, (family, kind, protocol, _, where) in zip(range(len(found), 0, -1), found, strict=True):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # this system may not have the family
            problem = error
            continue
        try:
            sock.settimeout(_share_s(deadline, untried))
            sock.connect(where)
            set_tcp_options(sock)
            return sock
        except OSError as error:
            problem = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise problem


def _share_s(deadline: float, shares: int = 1) -> float:
    """An equal share of the time until `deadline`, as a socket's timeout: 0 would mean not to wait at all."""
    return min(max((deadline - monotonic()) / shares, 0.001), MAX_WAIT_S)


class Connection:
    """A conversation on a socket, for any number of threads."""

    def __init__(self, sock: socket.socket | TlsSocket, address: Address, hello: Hello) -> None:
        self.conversation = Conversation(str(address), hello)
        self._sock = sock
        self._pid = os.getpid()
        # How many bytes are decrypted already, so that poll() says nothing of them.
        self._pending: Callable[[], int] = getattr(sock, "pending", lambda: 0)
        self._mutex = Lock()
        self._send_lock = Lock()
        self._receiving = False  # whether somebody has the role
        self._followers: dict[Call, None] = {}
        self._users = 0  # threads inside run(); the last one out of a connection that has ended closes the socket
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._ready = select.poll()  # to be read or to be written
        self._ready.register(sock, select.POLLIN | select.POLLOUT)

    def greet(self, deadline: float) -> bool:
        """Says HELLO and waits for WELCOME; False if it did not come until `deadline`. Raises what came instead."""
        greeting = self.conversation.greeting
        greeting.deadline = deadline
        try:
            self._write([self.conversation.hello()], deadline)
            self._wait(greeting, SENT)
            if greeting.error is not None:
                raise greeting.error
        except BaseException:
            self._end()
            raise
        if greeting.state != DONE:
            self._end()
            return False
        return True

    def look(self) -> None:
        """Takes in what came while nobody waited: GOAWAY, say, or the end."""
        with self._mutex:
            if self._users or self._receiving:
                return  # somebody is reading
            self._receiving = True
            self._users += 1
        try:
            self._look()
        finally:
            self._leave()

    def run(self, call: Call) -> None:
        """Sees a call through: it is DONE afterwards, or MOVED.

        Raises DeadlineExceeded when its time is up; then, and when the waiting is interrupted, it is cancelled.
        """
        with self._mutex:
            look = self._users == 0 and not self._receiving
            self._receiving |= look
            self._users += 1
        try:
            if look:
                self._look()
            with self._mutex:
                self.conversation.open(call)
                self._wake()
            while True:
                if call.state == WAITING:
                    self._wait(call, WAITING)
                if call.state == GRANTED:
                    self._send(call)
                if call.state == SENT:
                    self._wait(call, SENT)
                if call.state == DONE or call.state == MOVED:
                    return
                if monotonic() >= call.deadline:
                    raise call.time_up()
        except BaseException:
            with self._mutex:
                self.conversation.abandon(call)
                self._wake()
            self._push()
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._mutex:
            self._users -= 1
            if not self._users and not self.conversation.usable:
                self._end()

    def cancel(self, call: Call) -> None:
        """Takes back a call that another thread waits for here; it raises Cancelled."""
        with self._mutex:
            self.conversation.cancel(call)
            self._wake()
        self._push()

    def close(self, error: Callable[[], InferdError] = lambda: make("CLIENT_CANCELLED")) -> None:
        """Ends the connection; calls still waiting raise Cancelled."""
        with self._mutex:
            self.conversation.fail(error)
            self._wake()
            if self._users:
                # This wakes the thread in poll(); closing would not, and its number could be reused under it.
                self._hang_up()
            else:
                self._end()

    def forget(self) -> None:
        """Drops the copy of a socket that belongs to the process this one was forked from."""
        self._sock.close()

    # ---- writing

    def _send(self, call: Call) -> None:
        """Sends a GRANTED call; if its time is up before that, it stays GRANTED. It may be anything else by then."""
        if not self._send_lock.acquire(timeout=lock_timeout_s(call.deadline)):
            return
        try:
            if self._write_outbox(call.deadline):
                now = monotonic()
                if now >= call.deadline:
                    return
                with self._mutex:
                    buffers = self.conversation.start(call, now)
                if buffers:
                    self._write(buffers, call.deadline)
        finally:
            self._send_lock.release()
        if self.conversation.outbox:
            self._push()

    def _push(self) -> None:
        """Writes what is in the outbox as far as the socket takes it now.

        Whoever has the send lock looks here again after giving it back, so nothing is left behind.
        """
        while self.conversation.outbox and self._send_lock.acquire(blocking=False):
            try:
                if not self._write_outbox(0):
                    return
            finally:
                self._send_lock.release()

    def _write_outbox(self, deadline: float) -> bool:
        outbox = self.conversation.outbox
        if not outbox:
            return True
        buffers: list[Buffer] = []
        with self._mutex:
            while outbox:
                buffers.append(outbox.popleft())
        return self._write(buffers, deadline)

    def _write(self, buffers: list[Buffer], deadline: float) -> bool:
        """Writes all of it, or returns False at `deadline`: the rest is then first in the outbox."""
        sock = self._sock
        try:
            while True:
                try:
                    buffers = unsent(buffers, sock.sendmsg(buffers[:MAX_BUFFERS]))
                except BlockingIOError:
                    pass
                except OSError:
                    raise
                except BaseException:
                    buffers = []
                    self._break_off()
                    raise
                if not buffers or self.conversation.closed:
                    buffers = []
                    return True
                remaining = deadline - monotonic()
                if remaining <= 0:
                    return False
                self._wait_writable(remaining)
        except OSError:
            # The reader finds out why: the server's last words may still be in the socket.
            buffers = []
            self._hang_up()
            return True
        finally:
            if buffers:
                # Half a frame is on the wire, so its rest goes out before anything else does.
                self.conversation.outbox.extendleft(reversed(buffers))

    def _wait_writable(self, timeout_s: float) -> None:
        with self._mutex:
            leading = not self._receiving
            self._receiving = True
        writable = select.poll()
        writable.register(self._sock, select.POLLOUT | (select.POLLIN if leading else 0))
        try:
            events = writable.poll(min(timeout_s, MAX_WAIT_S if leading else CHECK_ROLE_S) * 1000)
            if leading and events and events[0][1] != select.POLLOUT:
                self._receive()
        finally:
            if leading:
                with self._mutex:
                    self._hand_over()

    def _hang_up(self) -> None:
        """Ends the connection for all who have the socket. A forked child leaves its parent's alone."""
        if self._pid == os.getpid():
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        """Closing alone would not end the connection while a forked child has a copy of the socket."""
        self._hang_up()
        self._sock.close()

    def _break_off(self) -> None:
        """Something was raised (by a signal's handler, say) between the socket and the books. How many bytes have gone
        or come is not known, so nobody may go on with this connection."""
        with self._mutex:
            self.conversation.broken()
            self._wake()
        self._hang_up()

    # ---- reading

    def _look(self) -> None:
        """Reads what came while nobody waited (GOAWAY, end of file) and hands the role over."""
        try:
            if self._readable.poll(0):
                self._receive()
        finally:
            with self._mutex:
                self._hand_over()

    def _wait(self, call: Call, state: int) -> None:
        """Returns when `call` is not in `state` any more, or its time is up."""
        try:
            with self._mutex:
                if call.state != state:
                    return
                if self._receiving:
                    call.waiter = Lock()
                    call.waiter.acquire()
                    self._followers[call] = None
                else:
                    self._receiving = call.promoted = True
            if not call.promoted and not self._follow(call):
                return
            patience_s = CHECK_SENT_S if state == SENT else CHECK_CALL_S
            while call.state == state:
                remaining = call.deadline - monotonic()
                if remaining <= 0:
                    return
                # What is left of a frame whose sender gave up in the middle. While somebody writes, it is theirs.
                rest = self.conversation.outbox and not self._send_lock.locked()
                poll = self._ready if rest else self._readable
                for _, events in poll.poll(min(remaining, patience_s) * 1000):
                    if events != select.POLLOUT:
                        self._receive()
                    if events & select.POLLOUT:
                        self._push()
        finally:
            # Whatever was raised, and wherever: nobody waits for a receiver that has gone.
            with self._mutex:
                self._followers.pop(call, None)
                if call.promoted:
                    call.promoted = False
                    self._hand_over()

    def _follow(self, call: Call) -> bool:
        """Sleeps until woken; True if the role was handed to this thread."""
        call.waiter.acquire(timeout=lock_timeout_s(call.deadline))
        with self._mutex:
            self._followers.pop(call, None)
            return call.promoted

    def _hand_over(self) -> None:
        """Gives the role to a follower, if there is one. Under the mutex."""
        if self._followers:
            # The youngest waits longest, so the role changes hands least.
            call, _ = self._followers.popitem()
            call.promoted = True
            call.waiter.release()
        else:
            self._receiving = False

    def _receive(self) -> None:
        """Takes in what the socket has and wakes whom it concerns. Only with the role."""
        self._receive_once()
        while self._pending():
            self._receive_once()

    def _receive_once(self) -> None:
        conversation = self.conversation
        try:
            view = conversation.get_buffer()
            try:
                nbytes = self._sock.recv_into(view)
            except BlockingIOError:
                return
            except OSError:
                nbytes = 0
            with self._mutex:
                if nbytes:
                    conversation.received(nbytes)
                else:
                    conversation.lost()
                self._wake()
        except BaseException:
            self._break_off()
            raise
        if conversation.outbox:
            self._push()

    def _wake(self) -> None:
        """Wakes the callers whose calls have changed. Under the mutex."""
        changed = self.conversation.changed
        for call in changed:
            if call in self._followers:
                del self._followers[call]
                call.waiter.release()
        changed.clear()


def lock_timeout_s(deadline: float) -> float:
    """How long to wait for a lock, as far as one can be told to wait."""
    return min(max(deadline - monotonic(), 0), TIMEOUT_MAX)


def unsent(buffers: list[Buffer], nbytes: int) -> list[Buffer]:
    """What remains of `buffers` after `nbytes` of them have been written."""
    for index, buffer in enumerate(buffers):
        if nbytes < len(buffer):
            return [memoryview(buffer)[nbytes:], *buffers[index + 1 :]]
        nbytes -= len(buffer)
    return []
