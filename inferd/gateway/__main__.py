"""`python -m inferd.gateway PARENT`, as the daemon starts it (inferd/serve/gateway.py)."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys

import uvloop

from inferd import log
from inferd.gateway.app import Gateway
from inferd.gateway.settings import GatewaySettings

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves until the daemon hangs up."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        return  # the daemon ended before that took effect
    # Ctrl-C, and the end of a terminal, go to all who are in it; when to go is the daemon's word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Without a buffer: what follows the first line belongs to the loop.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        settings = GatewaySettings.parse(orders.readline())
    log.set_up(settings.log_format, settings.log_level)
    uvloop.run(_serve(settings))


async def _serve(settings: GatewaySettings) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), os.fdopen(0, "rb", 0, closefd=False))
    gateway = Gateway(settings)
    with socket.socket(fileno=settings.fd) as listening:
        await gateway.open(listening)
        # The collector walking what never goes away is a pause for everybody.
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        beating = loop.create_task(_beat(settings.beat_s))
        while order := await orders.readline():
            if order == b"drain\n":
                gateway.drain()
            else:
                settings = GatewaySettings.parse(order)
                log.set_up(settings.log_format, settings.log_level)
                gateway.reloaded(settings)
        await gateway.close()
        beating.cancel()


async def _beat(every_s: float) -> None:
    """Says, from the loop, that the loop runs. The daemon ends one that does not."""
    while True:
        await asyncio.sleep(every_s)
        os.write(1, b"alive\n")


main()
