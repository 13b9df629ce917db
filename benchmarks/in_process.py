"""A limit: the same MLP called in this process, 64 rows at a time, one torch thread, nothing around it.

A JSON line {"seconds": s} on stdin is answered with {"rows", "seconds", "cpu_s"} on stdout. On a GPU the rows come
from pinned host memory and go back to it, as a server's must.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from models import INPUTS, Mlp

ROWS = 64
# More than one, so that the next batch is not the one that lies in the cache.
BATCHES = 16


def measure(model: Mlp, batches: list[torch.Tensor], device: torch.device, seconds: float) -> dict[str, float]:
    """Calls the model for `seconds`."""
    rows = 0
    started, cpu = time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - started) < seconds:
        for batch in batches:
            model(batch.to(device, non_blocking=True)).cpu()
        rows += ROWS * len(batches)
    return {"rows": rows, "seconds": wall, "cpu_s": time.process_time() - cpu}


def main(device_name: str) -> None:
    """Answers until stdin ends."""
    torch.set_num_threads(1)
    device = torch.device(device_name)
    model = Mlp().to(device).eval()
    batches = list(torch.randn(BATCHES, ROWS, INPUTS))
    if device.type == "cuda":
        batches = [batch.pin_memory() for batch in batches]
    with torch.inference_mode():
        measure(model, batches, device, 0.2)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            print(json.dumps(measure(model, batches, device, json.loads(line)["seconds"])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
