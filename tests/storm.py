"""A thousand clients that change their minds: cancelled calls and dropped connections at twice the capacity.

    python -m tests.storm --seconds 60

The model counts the rows it computes. Afterwards everything is back at rest, and what the model computed is exactly
what was answered or was running when somebody lost interest: no request whose CANCEL or whose connection's end was
handled while it waited was ever computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from inferd_client import AsyncClient, InferdError

from tests.soak import descriptors, rss_anon_kib

DOUBLES = Path(__file__).with_name("doubles.py")
CLIENTS = 1000
# α = 5 ms, β = 1 ms, batches of up to 64: 927 rows/s at most.
OFFERED_PER_S = 1850
DEADLINE_MS = 500.0


async def storm(url: str, seconds: float, seed: int) -> Counter[str]:
    """What became of the calls, as their callers see it."""
    rng = random.Random(seed)
    seen: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def one_call(client: AsyncClient) -> None:
        call = asyncio.ensure_future(client.infer("counted", {"x": np.zeros(1, np.float32)}, timeout_ms=DEADLINE_MS))
        if rng.random() < 0.4:
            await asyncio.wait({call}, timeout=rng.random() * 0.2)
            call.cancel()
        try:
            await call
            seen["answered"] += 1
        except asyncio.CancelledError:
            seen["cancelled"] += 1
        except (InferdError, RuntimeError) as error:  # RuntimeError: the client was closed before it could ask
            seen[getattr(error, "reason", type(error).__name__)] += 1

    async def caller() -> None:
        client = AsyncClient(url)
        await asyncio.sleep(rng.random() * CLIENTS / OFFERED_PER_S)
        while loop.time() < end:
            started = loop.time()
            if rng.random() < 0.05:
                # Gone in the middle of a call.
                call = asyncio.ensure_future(one_call(client))
                await asyncio.sleep(rng.random() * 0.05)
                await client.close()
                await call
                client = AsyncClient(url)
                seen["dropped"] += 1
            else:
                await one_call(client)
            pause = rng.expovariate(OFFERED_PER_S / CLIENTS) - (loop.time() - started)
            await asyncio.sleep(max(0.0, pause))
        await client.close()

    await asyncio.gather(*[caller() for _ in range(CLIENTS)])
    return seen


async def at_rest(url: str, pid: int) -> dict[str, Any]:
    """The daemon's state when nothing is left to do, with what the model says it has computed."""
    async with AsyncClient(url) as client:
        deadline = time.monotonic() + 10
        while True:
            status = await client.status()
            idle = all(worker["state"] == "idle" for worker in status["workers"])
            busy = status["queued"] or status["in_flight"] or status["slab"]["used_bytes"] or not idle
            if (not busy and status["connections"] == 1) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)  # a socket is closed a little after its connection is forgotten
        computed = int((await client.infer("counted", {"x": np.zeros(1, np.float32)}))["computed"][0])
        # Counted while this connection is open: behind the `async with` it may be closed already or not yet.
        return {**status, "computed": computed - 1, "descriptors": descriptors(pid), "rss_anon_kib": rss_anon_kib(pid)}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"inferd+unix://{folder}/storm.sock"
        command = [sys.executable, "-m", "inferd", "serve", f"{DOUBLES}:Counted", "--listen", url]
        daemon = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True)
        try:
            assert daemon.stdout is not None and "ready" in daemon.stdout.readline()
            before = uvloop.run(at_rest(url, daemon.pid))
            seen = uvloop.run(storm(url, args.seconds, args.seed))
            after = uvloop.run(at_rest(url, daemon.pid))
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(40) == 0
    counters = after["counters"]
    unwanted = sum(counters.get(f"{why}_while_running", 0) for why in ("cancelled", "disconnected"))
    spared = sum(counters.get(f"{why}_while_queued", 0) for why in ("cancelled", "disconnected"))
    found = {
        "seed": args.seed,
        "seconds": args.seconds,
        "seen": dict(seen),
        "computed": after["computed"],
        "of these unwanted when they were done": unwanted,
        "withdrawn while they waited": spared,
        "descriptors": [before["descriptors"], after["descriptors"]],
        "rss_anon_growth_mib": round((after["rss_anon_kib"] - before["rss_anon_kib"]) / 1024, 1),
        "counters": counters,
    }
    print(json.dumps(found, indent=1))
    [model] = after["models"]
    assert after["queued"] == after["in_flight"] == after["slab"]["used_bytes"] == 0
    assert spared > 0 and unwanted > 0
    # `before` asked once, and once more after that status was taken.
    # Each row that the model has counted was answered, or was being computed when its caller lost interest. `before`
    # asked once, and once more after that status was taken.
    answered = model["meters"]["codes"]["OK"]
    assert after["computed"] == answered + unwanted, (after["computed"], answered, unwanted)
    assert seen["answered"] <= answered - 1 <= seen["answered"] + seen["cancelled"] + seen["dropped"]
    assert found["descriptors"][1] == found["descriptors"][0]


if __name__ == "__main__":
    main()
