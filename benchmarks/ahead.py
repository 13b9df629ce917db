"""Tokenization ahead of the device: what a batch costs when texts are tokenized beside the one before it.

    python benchmarks/ahead.py          # about half a minute

One model, twice in one daemon: its tokenizer runs in `preprocess`, and so beside the batch before, or in `forward`,
where the device waits for it. The device sleeps 3 ms a batch of at most 16; three times as many callers keep it busy,
in a closed loop. Windows in turn; what is compared is what a batch takes in the worker, the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from contextlib import ExitStack

from inferd_client import AsyncClient
from models import TEXT
from serving import HERE, Cores, Server, difference, introduce, start_inferd

CALLERS, BATCH = 48, 16


async def callers(url: str, model: str, seconds: float) -> float:
    """Answers a second."""
    async with AsyncClient(url) as client:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        answered = 0

        async def call() -> None:
            nonlocal answered
            while loop.time() < until:
                await client.infer(model, {"text": TEXT})
                answered += 1

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        return answered / seconds


def window(server: Server, model: str, seconds: float) -> tuple[float, float, float]:
    """Answers a second, ms a batch while the worker was busy, and the mean batch."""
    before = server.status()
    rate = asyncio.run(callers(f"inferd://127.0.0.1:{server.port}", model, seconds))
    spent = difference(before, server.status())
    return rate, spent["busy_s"] / spent["batches"] * 1e3, spent["rows"] / spent["batches"]


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one window")
    given = parser.parse_args()
    cores = Cores.divide(1)
    introduce(cores, "texts of 400 characters")
    with ExitStack() as stack:
        target = f"{HERE / 'models.py'}:Tagger"
        server = start_inferd(stack, cores, [f"ahead={target}", f"within={target}", "--set", "within.within=true"])
        rounds = [{m: window(server, m, given.seconds) for m in ("ahead", "within")} for _ in range(given.rounds)]
    for model in ("ahead", "within"):
        rate, batch_ms, rows = (statistics.median(one[model][n] for one in rounds) for n in range(3))
        print(f"{model:8}{rate:8,.0f} answers/s{batch_ms:8.2f} ms a batch of {rows:.1f}")
    ratio = statistics.median(one["within"][1] / one["ahead"][1] for one in rounds)
    print(f"a batch takes {ratio:.2f} times as long when its texts are tokenized in forward")


if __name__ == "__main__":
    main()
