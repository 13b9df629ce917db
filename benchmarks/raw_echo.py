"""A limit: the least a uvloop server can do with messages of a 4-byte length and a payload, which is send them back.

Nothing is decoded, checked, scheduled or handed to another process. Prints {"small": port, "large": port} and serves
until it is ended. What arrives together on the small port leaves in one write; the large one takes messages of one
size, each into the same memory, and sends it from there.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from typing import cast

import uvloop

LENGTH = struct.Struct("<I")
BUFFER_BYTES = 64 * 1024


class Echo(asyncio.BufferedProtocol):
    """What both have in common."""

    def __init__(self, buffer_bytes: int) -> None:
        self.buffer = bytearray(buffer_bytes)
        self.view = memoryview(self.buffer)
        self.end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view[self.end :]


class SmallEcho(Echo):
    """Many messages in a buffer."""

    def __init__(self) -> None:
        super().__init__(BUFFER_BYTES)

    def buffer_updated(self, nbytes: int) -> None:
        end = self.end + nbytes
        at = 0
        while end - at >= 4:
            size = 4 + LENGTH.unpack_from(self.buffer, at)[0]
            if end - at < size:
                break
            at += size
        if at:
            self.transport.write(bytes(self.view[:at]))
            self.view[: end - at] = self.view[at:end]
        self.end = end - at


class LargeEcho(Echo):
    """One message in a buffer of its size, which is not read into again before it has been sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=0, low=0)

    def buffer_updated(self, nbytes: int) -> None:
        self.end += nbytes
        if self.end == len(self.buffer):
            assert LENGTH.unpack_from(self.buffer)[0] == self.end - 4
            self.end = 0
            self.transport.write(self.view)
            if self.transport.get_write_buffer_size():
                self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def main(large_bytes: int) -> None:
    """Serves for ever."""
    loop = asyncio.get_running_loop()
    small = await loop.create_server(SmallEcho, "127.0.0.1", 0)
    large = await loop.create_server(lambda: LargeEcho(4 + large_bytes), "127.0.0.1", 0)
    ports = {"small": small.sockets[0].getsockname()[1], "large": large.sockets[0].getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
