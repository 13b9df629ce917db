"""A proxy that makes a bad network of a good one, for tests: TCP or a Unix socket on either side.

    with Proxy(daemon.url) as proxy:
        client = Client(proxy.url)
        proxy.up.delay_s = 0.05           # what the client sends comes 50 ms later
        proxy.down.piece_bytes = 1        # what the server sends comes byte by byte
        proxy.down.stalled = True         # …and not at all, until this is False again
        proxy.up.vanishes = True          # taken and thrown away: a link that is dead without a word
        proxy.up.corrupt = lambda data, position: …
        proxy.half_close(proxy.up)        # the server sees the end of the client's stream, the client sees nothing
        proxy.reset()                     # every connection ends with RST, at both ends

`up` is the way from client to server, `down` the way back. Everything can be changed while connections are open, and
holds from the next piece that is read. Where it says delay, the rate stays: pieces are late, not fewer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable

from inferd.wire.address import Address

READ_BYTES = 64 * 1024
# What one direction of a connection holds while it is delayed or stalled; then it reads no more, and the sender's own
# socket fills, as it would with a slow network.
HELD_PIECES = 64
CHECK_S = 0.005
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close() sends RST
HALF_CLOSED = "half-closed"

Held = asyncio.Queue[tuple[float, bytes]]


class Way:
    """One direction of all connections. `passed` counts the bytes that went on."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.piece_bytes = 0  # how many bytes go on at once; 0: as many as came
        self.pause_s = 0.0  # between two pieces
        self.stalled = False
        self.vanishes = False
        self.corrupt: Callable[[bytes, int], bytes] | None = None  # (data, its position in the stream) → data
        self.passed = 0
        self._reading: set[asyncio.Task[None]] = set()


class Proxy:
    """Listens at `url` and hands on to `target`, until the block ends."""

    def __init__(self, target: str, unix: bool = False, buffer_bytes: int = 0) -> None:
        """`unix`: listen at a Unix socket. `buffer_bytes`: SO_SNDBUF and SO_RCVBUF of all its sockets."""
        self.up = Way()
        self.down = Way()
        self.connections = 0  # that are open
        self._target = Address.parse(target)
        self._buffer_bytes = buffer_bytes
        self._folder = tempfile.TemporaryDirectory() if unix else None
        if self._folder is not None:
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(os.path.join(self._folder.name, "proxy.sock"))
            self.url = f"inferd+unix://{self._folder.name}/proxy.sock"
        else:
            self._listening = socket.socket()
            self._shrink(self._listening)  # an accepted socket has its listener's buffers
            self._listening.bind(("127.0.0.1", 0))
            self.url = f"inferd://127.0.0.1:{self._listening.getsockname()[1]}"
        self._listening.listen(1024)
        self._listening.setblocking(False)
        self._ends: set[tuple[socket.socket, socket.socket]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if self._folder is not None:
            self._folder.cleanup()

    def reset(self) -> None:
        """Every connection ends now with RST at both ends; new ones are taken."""
        asyncio.run_coroutine_threadsafe(self._reset(), self._loop).result(10)

    def half_close(self, way: Way) -> None:
        """Ends this direction of every connection; the other one goes on."""

        async def end() -> None:
            for read in list(way._reading):
                read.cancel(HALF_CLOSED)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)

    # ---- in the proxy's thread

    def _run(self) -> None:
        accepting = self._loop.create_task(self._accept())
        try:
            self._loop.run_forever()
        finally:
            for task in (accepting, *self._tasks):
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(accepting, *self._tasks, return_exceptions=True))
            self._listening.close()
            self._loop.close()

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listening)
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        address = self._target
        server = socket.socket(socket.AF_UNIX if address.path else socket.AF_INET)
        ends = (client, server)
        try:
            for sock in ends:
                sock.setblocking(False)
                self._shrink(sock)
                if sock.family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(server, address.path or (address.host, address.port))
            self._ends.add(ends)
            self.connections += 1
            try:
                ways = (self._carry(client, server, self.up), self._carry(server, client, self.down))
                await asyncio.gather(*ways)
            finally:
                self._ends.discard(ends)
                self.connections -= 1
        except OSError:
            pass  # an end is gone; so is the other one, now
        finally:
            client.close()
            server.close()

    async def _carry(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """One direction of one connection, until its source ends or the way is half-closed."""
        held: Held = asyncio.Queue(HELD_PIECES)
        read = self._loop.create_task(self._read(source, way, held))
        way._reading.add(read)
        try:
            while True:
                due, data = await held.get()
                await self._until(way, due)
                if not data:
                    break
                await self._write(sink, way, data)
            sink.shutdown(socket.SHUT_WR)
        finally:
            way._reading.discard(read)
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)

    async def _until(self, way: Way, due: float) -> None:
        while (late_s := due - self._loop.time()) > 0 or way.stalled:  # noqa: ASYNC110 (a test's thread changes it)
            await asyncio.sleep(max(late_s, CHECK_S))

    async def _read(self, source: socket.socket, way: Way, held: Held) -> None:
        position = 0
        data = b""
        try:
            while data := await self._loop.sock_recv(source, READ_BYTES):
                if way.vanishes:
                    continue
                if way.corrupt is not None:
                    data = way.corrupt(data, position)
                position += len(data)
                await held.put((self._loop.time() + way.delay_s, data))
        except OSError:
            self._will_reset(source)  # as it was itself: what is closed next is the other end
        except asyncio.CancelledError as error:
            if error.args != (HALF_CLOSED,):
                raise
        while way.vanishes:  # noqa: ASYNC110 (a test's thread changes it)
            await asyncio.sleep(CHECK_S)
        await held.put((self._loop.time() + way.delay_s, b""))

    async def _write(self, sink: socket.socket, way: Way, data: bytes) -> None:
        while data:
            piece = data[: way.piece_bytes] if way.piece_bytes else data
            await self._loop.sock_sendall(sink, piece)
            way.passed += len(piece)
            data = data[len(piece) :]
            if way.pause_s:
                await asyncio.sleep(way.pause_s)
            while way.stalled:  # noqa: ASYNC110 (a test's thread sets it)
                await asyncio.sleep(CHECK_S)

    async def _reset(self) -> None:
        for ends in list(self._ends):
            for sock in ends:
                reset_on_close(sock)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _will_reset(self, sock: socket.socket) -> None:
        for ends in list(self._ends):
            if sock in ends:
                for end in ends:
                    reset_on_close(end)

    def _shrink(self, sock: socket.socket) -> None:
        if self._buffer_bytes:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, self._buffer_bytes)


def reset_on_close(sock: socket.socket) -> None:
    """When this socket is closed its peer gets RST instead of an end of file."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
