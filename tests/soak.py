"""Every answer its own, for as long as one likes: 64 callers, two models, mixed shapes, slow readers, killed workers.

    python -m tests.soak --seconds 60 [--kill-every 2]

Each input carries a nonce, and each answer of up to 1 MiB is generated from it. A quarter of the callers have receive
buffers of 4 KiB and dawdle. Prints what it saw; fails if an answer was wrong, an error came (but for a request whose
worker was killed twice), a caller hung, or anything did not come back to its baseline.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from inferd_client import Client, InferdError

from inferd.wire import frame as f
from inferd.wire.messages import Infer
from inferd.wire.values import pack_values
from tests.rawpeer import RawPeer

DOUBLES = Path(__file__).with_name("doubles.py")
CALLERS = 64
SHAPES = [(1,), (16,), (3, 5), (100,), (64, 64), (5000,), (100_000,)]
DTYPES = [np.float32, np.int64, np.uint8]
MAX_REPLY_BYTES = 1024 * 1024
WARM_UP_S = 10.0
GROWTH_LIMIT_MIB = 16


def expected(nonce: str, size: int) -> bytes:
    """The answer of the model Nonce."""
    seed = hashlib.sha256(nonce.encode()).digest()
    return (seed * -(-size // len(seed)))[:size]


class Soak:
    """One run against one daemon."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.seed = seed
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.last: dict[int, float] = {}

    def note(self, caller: int, outcome: str, right: bool = True) -> None:
        """One answer."""
        with self.lock:
            self.seen[outcome] += 1
            self.last[caller] = time.monotonic()
            if not right:
                self.wrong.append(f"caller {caller}: {outcome}")

    def size(self, rng: random.Random) -> int:
        """Mostly small, sometimes the largest."""
        return rng.choice([0, 10, 1000, 20_000, rng.randrange(MAX_REPLY_BYTES), MAX_REPLY_BYTES])

    def caller(self, number: int) -> None:
        """A caller of the shipped client: both models in turn, shapes at random."""
        rng = random.Random(f"{self.seed} {number}")
        with Client(self.url) as client:
            count = 0
            while not self.stop.is_set():
                count += 1
                nonce = f"{self.seed}-{number}-{count}"
                try:
                    if rng.random() < 0.5:
                        x = np.frombuffer(expected(nonce, 8 * 100_000), np.uint8)
                        dtype, shape = rng.choice(DTYPES), rng.choice(SHAPES)
                        items = int(np.prod(shape))
                        x = x[: items * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
                        digest = client.infer("hash", {"x": x})["digest"].tobytes()
                        self.note(number, "hash", digest == hashlib.blake2b(x.tobytes(), digest_size=8).digest())
                    else:
                        size = self.size(rng)
                        answer = client.infer("nonce", {"nonce": nonce, "size": size})
                        right = answer["nonce"] == nonce and answer["data"].tobytes() == expected(nonce, size)
                        self.note(number, "nonce", right)
                except InferdError as error:
                    self.note(number, f"error {getattr(error, 'reason', '')}")

    def slow_caller(self, number: int) -> None:
        """A caller with a receive buffer of 4 KiB that takes its time."""
        rng = random.Random(f"{self.seed} {number}")
        with RawPeer(self.url, receive_buffer_bytes=4096) as peer:
            peer.sock.settimeout(60)
            count = 0
            while not self.stop.is_set():
                count += 1
                nonce, size = f"{self.seed}-{number}-{count}", self.size(rng)
                segment = pack_values({"nonce": nonce, "size": size})
                head = peer.peer.send(f.INFER, Infer("nonce"), count, len(segment), f.HAS_VALUES)
                peer.sock.sendall(head + segment)
                self.stop.wait(rng.random() * 0.2)
                frame = peer.next()
                if frame.type == f.ERROR:
                    self.note(number, f"error {frame.message.reason}")  # type: ignore[union-attr]
                else:
                    assert frame.payload is not None
                    right = frame.request_id == count and bytes(frame.payload[:size]) == expected(nonce, size)
                    self.note(number, "slow nonce", right)


def rss_anon_kib(pid: int) -> int:
    """Anonymous memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    raise ValueError(pid)


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def run(seconds: float, kill_every_s: float, seed: int) -> dict[str, Any]:
    """One soak; what it saw."""
    with tempfile.TemporaryDirectory() as folder:
        socket_url = f"inferd+unix://{folder}/soak.sock"
        command = [sys.executable, "-m", "inferd", "serve", f"{DOUBLES}:Nonce", f"{DOUBLES}:Hash"]
        command += ["--listen", "inferd://127.0.0.1:0", "--listen", socket_url, "--log-level", "error"]
        log = Path(folder) / "log"
        with log.open("w") as sink:
            daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True)
        assert daemon.stdout is not None
        ready = daemon.stdout.readline()
        url = next(word for word in ready.split() if word.startswith("inferd://"))
        try:
            return _run(Soak(url, seed), daemon.pid, socket_url, seconds, kill_every_s)
        finally:
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(30)
            lines = log.read_text()
            assert status == 0, f"the daemon ended with {status}: {lines[-2000:]}"
            assert "Traceback" not in lines, lines[-4000:]


def _run(soak: Soak, pid: int, admin_url: str, seconds: float, kill_every_s: float) -> dict[str, Any]:
    with Client(admin_url) as admin:
        before = (descriptors(pid), rss_anon_kib(pid))
        threads = [
            threading.Thread(target=soak.slow_caller if number % 4 == 0 else soak.caller, args=(number,), daemon=True)
            for number in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        warm, kills = 0, 0
        while (passed := time.monotonic() - started) < seconds + WARM_UP_S:
            time.sleep(min(kill_every_s or 1.0, 1.0))
            if not warm and passed > WARM_UP_S:
                warm = rss_anon_kib(pid)
            if kill_every_s and passed // kill_every_s > kills:
                [worker] = admin.status()["workers"]
                if worker["pid"]:
                    os.kill(worker["pid"], signal.SIGKILL)
                kills = int(passed // kill_every_s)
        hot = rss_anon_kib(pid)
        soak.stop.set()
        for thread in threads:
            thread.join(60)
        hung = sum(thread.is_alive() for thread in threads)
        deadline = time.monotonic() + 10
        while True:
            status = admin.status()
            used = status["slab"]["used_bytes"] + sum(worker["arena_used_bytes"] for worker in status["workers"])
            if (used == 0 and status["connections"] == 1) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return {
            "seconds": seconds,
            "kills": kills,
            "answers": sum(count for name, count in soak.seen.items() if not name.startswith("error")),
            "seen": dict(soak.seen),
            "wrong": soak.wrong[:10],
            "hung": hung,
            "rss_anon_growth_mib": round((hot - warm) / 1024, 1),
            "rss_anon_rest_mib": round((rss_anon_kib(pid) - before[1]) / 1024, 1),
            "descriptors": [before[0], descriptors(pid)],
            "slab_and_arena_bytes": used,
            "counters": status["counters"],
        }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kill-every", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    found = run(args.seconds, args.kill_every, args.seed)
    print(json.dumps({"seed": args.seed, **found}, indent=1))
    errors = {name for name in found["seen"] if name.startswith("error")}
    allowed = {"error WORKER_LOST"} if args.kill_every else set()
    assert not found["wrong"] and not found["hung"]
    assert errors <= allowed, errors
    assert found["slab_and_arena_bytes"] == 0
    assert found["rss_anon_growth_mib"] < GROWTH_LIMIT_MIB
    assert found["descriptors"][1] <= found["descriptors"][0] + 1  # the admin's connection


if __name__ == "__main__":
    main()
