"""What different lengths cost: mean batch and padding of long-tailed lengths beside a single length, in one run.

    .venv/bin/python benchmarks/shapes.py

A model that pads, on a device that sleeps (so that the batch sizes are the scheduler's doing, not the machine's), kept
saturated by more callers than a few batches hold. Lengths are log-normal: most are near the median, a few are 20 times
as long. Every answer is compared with what it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from inferd_client import AsyncClient

MODELS = Path(__file__).with_name("models.py")
MEDIAN, SIGMA, SHORTEST, LONGEST = 100, 0.8, 1, 2000
CALLERS, CONNECTIONS, LARGEST = 512, 8, 16


async def load(url: str, seconds: float, tail: bool, seed: int) -> dict[str, Any]:
    """Closed loop; what the replies' timelines say."""
    rng = random.Random(seed)
    clients = [AsyncClient(url) for _ in range(CONNECTIONS)]
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    batches: dict[int, tuple[int, float]] = {}
    answers = wrong = 0

    async def caller(client: AsyncClient) -> None:
        nonlocal answers, wrong
        while loop.time() < end:
            length = min(max(round(rng.lognormvariate(np.log(MEDIAN), SIGMA)), SHORTEST), LONGEST) if tail else MEDIAN
            x = np.full(length, rng.random(), np.float32)
            result = await client.infer("tail", {"x": x}, timing=True)
            answers += 1
            wrong += not np.array_equal(result["y"], x * 2)
            timing = result.timing
            assert timing is not None
            batches[timing["batch_id"]] = (timing["batch_rows"], timing["padded"])

    await asyncio.gather(*[caller(clients[number % CONNECTIONS]) for number in range(CALLERS)])
    for client in clients:
        await client.close()
    rows = sum(size for size, _ in batches.values())
    return {
        "lengths": "long-tailed" if tail else "one",
        "answers": answers,
        "wrong": wrong,
        "mean_batch": rows / len(batches),
        "padded": sum(size * padded for size, padded in batches.values()) / rows,
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"inferd+unix://{folder}/shapes.sock"
        command = [sys.executable, "-m", "inferd", "serve", f"tail={MODELS}:Tail", "--listen", url]
        daemon = subprocess.Popen([*command, "--log-level", "error"], stdout=subprocess.PIPE, text=True)
        try:
            assert daemon.stdout is not None and "ready" in daemon.stdout.readline()
            found = [asyncio.run(load(url, args.seconds, tail, seed)) for seed, tail in enumerate((False, True) * 2)]
        finally:
            daemon.terminate()
            daemon.wait(30)
    for line in found:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))
    one, tail = (max(line["mean_batch"] for line in found[start::2]) for start in (0, 1))
    padded = max(line["padded"] for line in found[1::2])
    print(f"mean batch, long-tailed / one length: {tail / one:.0%} (aim ≥ 80 %)")
    print(f"padding: {padded:.1%} of the elements (aim ≤ 12 %)")
    print(f"wrong answers: {sum(line['wrong'] for line in found)}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
