"""Connections that say very little, in a process of their own: `python -m tests.faults.trickle HOST PORT COUNT OPENING
LIMIT_S`. Beside a good client in the same process they would hold it up themselves, for it waits for the interpreter's
lock 5 ms at a time.

Each sends OPENING (hexadecimal) and then a byte a second. Printed is a JSON list: after how long each was closed, in
seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

BYTE = b"\xf1"
PATIENCE_S = 10.0  # beyond the limit


async def trickle(host: str, port: int, opening: bytes, limit_s: float) -> float:
    """One connection's time."""
    reader, writer = await asyncio.open_connection(host, port)
    since = time.monotonic()
    writer.write(opening)

    async def drip() -> None:
        while True:
            await asyncio.sleep(1.0)
            writer.write(BYTE)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(limit_s + PATIENCE_S):
            while await reader.read(65536):
                pass
    except (ConnectionError, TimeoutError):
        pass
    finally:
        dripping.cancel()
        writer.transport.abort()
    return time.monotonic() - since


async def main() -> None:
    """The program."""
    host, port, count, opening, limit_s = sys.argv[1:]
    tasks = []
    async with asyncio.TaskGroup() as group:
        for _ in range(int(count)):
            tasks.append(group.create_task(trickle(host, int(port), bytes.fromhex(opening), float(limit_s))))
            await asyncio.sleep(0.001)
    print(json.dumps([task.result() for task in tasks]))


if __name__ == "__main__":
    asyncio.run(main())
