"""Overload by one caller with the shipped client: one connection, whose calls wait for its credits.

    python benchmarks/one_client.py          # about a minute and a half

The other benchmarks send whatever the credits say. Here an AsyncClient obeys them, as a program with one client does,
at several rates on a `virtual` device of α 20 ms and β 5 ms with batches of 8, which can do 133/s; beside it the same
load over 16 clients. An answer counts if it is there within the deadline of when its call was due. Last, 60/s for ten
seconds behind three seconds of 200/s: what is answered of those. README.md says how to read the result.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import numpy
from inferd_client import AsyncClient, InferdError
from serving import Cores, arguments, introduce, start_inferd, virtual_options, write

RATES = ((60, 150.0), (100, 150.0), (300, 150.0), (200, 500.0), (200, 2000.0))  # calls a second, deadline in ms
CLIENTS = (1, 16)
AFTER_RATE, AFTER_MS, AFTER_S = 60, 500.0, 10.0
X = {"x": numpy.zeros(1, numpy.float32)}


async def offered(clients: list[AsyncClient], rate: float, deadline_ms: float, seconds: float) -> float:
    """Answers in time for each second."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def call(number: int) -> bool:
        due = began + number / rate
        await asyncio.sleep(due - loop.time())
        left_ms = deadline_ms - (loop.time() - due) * 1000
        try:
            await clients[number % len(clients)].infer("virtual", X, timeout_ms=max(left_ms, 1.0))
        except InferdError:
            return False
        return loop.time() - due <= deadline_ms / 1000

    return sum(await asyncio.gather(*(call(number) for number in range(int(rate * seconds))))) / seconds


async def measure(url: str, seconds: float) -> list[dict[str, Any]]:
    """All of it."""
    cells: list[dict[str, Any]] = []
    print(f"\n  {'offered/s':>9} {'due in ms':>9}" + "".join(f"{f'{n} client(s)':>15}" for n in CLIENTS))
    for rate, deadline_ms in RATES:
        found = []
        for count in CLIENTS:
            clients = [AsyncClient(url, max_retries=0) for _ in range(count)]
            found.append(await offered(clients, rate, deadline_ms, seconds))
            for client in clients:
                await client.close()
        print(f"  {rate:9} {deadline_ms:9.0f}" + "".join(f"{one:13.1f}/s" for one in found), flush=True)
        cells.append({"rate": rate, "deadline ms": deadline_ms, "answered/s": dict(zip(CLIENTS, found, strict=True))})
    async with AsyncClient(url, max_retries=0) as client:
        await offered([client], 200, AFTER_MS, 3.0)
        after = await offered([client], AFTER_RATE, AFTER_MS, AFTER_S)
    print(f"  behind three seconds of 200/s, of {AFTER_RATE}/s: {after:.1f}/s")
    cells.append({"rate": AFTER_RATE, "deadline ms": AFTER_MS, "after 200/s": after})
    return cells


def main() -> None:
    """The program."""
    parser = arguments(__doc__)
    given = parser.parse_args()
    seconds = 3.0 if given.quick else 6.0
    cores = Cores.divide(given.server_cores)
    about = introduce(cores, f"windows of {seconds:g} s")
    with ExitStack() as stack:
        server = start_inferd(stack, cores, ["virtual", *virtual_options(20, 5, 8)])
        cells = asyncio.run(measure(f"inferd://127.0.0.1:{server.port}", seconds))
    write(given.json, {"machine": about, "seconds": seconds, "cells": cells})


if __name__ == "__main__":
    main()
