"""Mutated frames at a live daemon, while a good client measures: `make fuzz-live FRAMES=1000000`, or

    python -m tests.fuzz.live --frames 1000000 [--rate 3000] [--window 10]

Three kinds of windows in turn: quiet; a flood of good frames; a flood with damage in them: as many frames a second, in
as many connections. The good client sends one request after the other over the Unix socket, and checks each answer.
Printed: its p50 and p99 in each kind of window, the ratios of those, the daemon's anonymous memory, what the flood saw.
Fails if the daemon crashes, does not close a connection in time, answers wrongly, fails the good client, or keeps more
than GROWTH_MIB.

What the figures mean. The flood needs a core for itself, and here there may be two: it is pinned to the last core, the
daemon and its worker to the first, the good client to both. So the ratio to the quiet window holds what any busy
neighbour costs; what hostile frames cost beyond good ones is the ratio of the two floods, as long as both went at the
same rate (`frames_per_s`: if not, ask for less).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
from inferd_client import Client, InferdError

from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Hello
from inferd.wire.peer import CLIENT, SERVER, Peer
from tests.fuzz.fuzz_wire import BOOK, PREFIX, Mutator
from tests.soak import DOUBLES, rss_anon_kib

FRAMES_IN_A_ROW = 16
POOL = 4000
LONGEST_BYTES = 4096
# One connection of so many stays, with whatever it has announced and not sent; at most so many do.
STAYS = 8
MOST_OPEN = 40
CLOSED_WITHIN_S = 5.0
GROWTH_MIB = 64
KINDS = ("quiet", "good", "mutated")
HELLO = Peer(CLIENT).send(f.HELLO, Hello("flood"))


# ---- the flood, in a process of its own


def frames_of(kind: str, seed: int) -> list[bytes]:
    """Frames as clients send them, or the same with damage."""
    good = [bytes.fromhex(entry["hex"]) for entry in BOOK["frames"] if entry["direction"].endswith(SERVER)]
    good = [frame for frame in good if len(frame) <= LONGEST_BYTES and frame[4] != f.HELLO]
    if kind == "good":
        return good
    mutator, pool = Mutator(seed), []
    while len(pool) < POOL:
        frame = mutator._frame(SERVER)
        for _ in range(mutator.chance.choice((0, 1, 2))):
            frame = mutator._bytes(frame)
        if len(frame) <= LONGEST_BYTES:
            pool.append(frame)
    return pool


def numbered(frame: bytes, number: int) -> bytes:
    """The frame with a request id of its own, if it has one: good frames shall stay good in a row."""
    if len(frame) < PREFIX.size or frame[:3] != f.MAGIC:
        return frame
    return frame[:16] + number.to_bytes(8, "little") + frame[24:]


def flood(url: str, kind: str, rate: float, frames: int, seed: int) -> dict[str, Any]:
    """Sends so many frames at that rate; what it saw."""
    address = Address.parse(url)
    pool, chance = frames_of(kind, seed), random.Random(seed)
    seen: Counter[str] = Counter()
    staying: deque[socket.socket] = deque()
    started = time.monotonic()
    sent = 0
    while sent < frames:
        due = started + sent / rate
        if (early := due - time.monotonic()) > 0:
            time.sleep(early)
        row = [
            numbered(frame, at + 1) if kind == "good" else frame
            for at, frame in enumerate(chance.choices(pool, k=FRAMES_IN_A_ROW))
        ]
        sent += len(row)
        stays = chance.randrange(STAYS) == 0
        try:
            sock = socket.create_connection((address.host, address.port), timeout=CLOSED_WITHIN_S)
            seen["connections"] += 1
            sock.sendall(HELLO + b"".join(row))
            if stays:
                staying.append(sock)
                if len(staying) > MOST_OPEN:
                    staying.popleft().close()
            else:
                sock.shutdown(socket.SHUT_WR)
                with sock:
                    while sock.recv(65536):
                        pass
                seen["closed by the daemon"] += 1
        except TimeoutError:
            seen["not closed in time"] += 1
        except OSError:
            seen["reset by the daemon"] += 1
        readable, _, _ = select.select(staying, [], [], 0) if staying else ([], [], [])
        for sock in readable:
            with contextlib.suppress(OSError):
                if sock.recv(65536):
                    continue
            sock.close()
            staying.remove(sock)
    for sock in staying:
        sock.close()
    return {"frames": sent, "seconds": time.monotonic() - started, **seen}


# ---- the good client


class Good:
    """One request after the other; what each took, by the kind of the window it was sent in."""

    def __init__(self, url: str) -> None:
        self.kind = ""
        self.took_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url,), daemon=True)
        self._thread.start()

    def _run(self, url: str) -> None:
        count = 0
        with Client(url) as client:
            while not self._stop.wait(0.002):
                count += 1
                x = np.arange(count, count + 16, dtype=np.float32)
                kind, began = self.kind, time.perf_counter()
                try:
                    digest = client.infer("hash", {"x": x}, timeout_ms=5000)["digest"].tobytes()
                except InferdError as error:
                    self.wrong.append(f"request {count}: {error}")
                    continue
                if kind and kind == self.kind:
                    self.took_s[kind].append(time.perf_counter() - began)
                if digest != hashlib.blake2b(x.tobytes(), digest_size=8).digest():
                    self.wrong.append(f"request {count}: an answer that is not its own")

    def stop(self) -> bool:
        """Whether it has come to its end."""
        self._stop.set()
        self._thread.join(10)
        return not self._thread.is_alive()


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def measure(url: str, unix_url: str, pid: int, frames: int, rate: float, window_s: float, seed: int) -> dict[str, Any]:
    """All windows; what was seen."""
    cores = sorted(os.sched_getaffinity(0))
    floods: dict[str, list[dict[str, Any]]] = {"good": [], "mutated": []}
    p99: dict[str, list[float]] = {kind: [] for kind in KINDS}
    memory_kib: list[int] = []
    good = Good(unix_url)
    time.sleep(2.0)
    per_window = int(rate * window_s)
    sent = turn = 0
    while sent < frames:
        for kind in KINDS:
            process = None
            if kind != "quiet":
                command = [sys.executable, "-m", "tests.fuzz.live", "--flood", kind, "--url", url]
                command += ["--rate", str(rate), "--frames", str(per_window), "--seed", str(seed + turn)]
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:])
                )
                time.sleep(1.5)  # it makes its frames first
            before = len(good.took_s[kind])
            good.kind = kind
            if process is None:
                time.sleep(window_s)
            else:
                out, _ = process.communicate(timeout=20 * window_s + 60)
                floods[kind].append(json.loads(out))
            good.kind = ""
            p99[kind].append(percentile(good.took_s[kind][before:], 0.99))
            memory_kib.append(rss_anon_kib(pid))
            turn += 1
            if kind == "mutated":
                sent += per_window
                print(f"{sent:,} frames, {memory_kib[-1] / 1024:.0f} MiB", file=sys.stderr, flush=True)
    ended = good.stop()
    total: Counter[str] = Counter()
    for one in floods["mutated"]:
        total.update({name: value for name, value in one.items() if name != "seconds"})
    return {
        "mutated": dict(total),
        "frames_per_s": {
            kind: round(sum(each["frames"] for each in many) / sum(each["seconds"] for each in many))
            for kind, many in floods.items()
        },
        "good_client": {
            kind: {
                "requests": len(good.took_s[kind]),
                "p50_ms": round(1000 * percentile(good.took_s[kind], 0.5), 3),
                "p99_ms": round(1000 * percentile(good.took_s[kind], 0.99), 3),
            }
            for kind in KINDS
        },
        "p99_mutated_to_good_flood": round(_ratio(p99["mutated"], p99["good"]), 2),
        "p99_mutated_to_quiet": round(_ratio(p99["mutated"], p99["quiet"]), 2),
        "rss_anon_mib": [round(memory_kib[0] / 1024, 1), round(max(memory_kib) / 1024, 1)],
        "not_closed_in_time": sum(one.get("not closed in time", 0) for one in floods["mutated"] + floods["good"]),
        "good_client_hung": not ended,
        "wrong": good.wrong[:10],
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over pairs of windows that followed each other."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def run(frames: int, rate: float, window_s: float, seed: int) -> dict[str, Any]:
    """Starts a daemon, floods it, ends it."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        unix_url = f"inferd+unix://{folder}/fuzz.sock"
        command = [sys.executable, "-m", "inferd", "serve", f"{DOUBLES}:Hash", "--log-level", "error"]
        command += ["--listen", "inferd://127.0.0.1:0", "--listen", unix_url]
        log = Path(folder) / "log"
        with log.open("w") as sink:
            daemon = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]),
            )
        try:
            assert daemon.stdout is not None
            url = next(word for word in daemon.stdout.readline().split() if word.startswith("inferd://"))
            found = measure(url, unix_url, daemon.pid, frames, rate, window_s, seed)
            found["crashed"] = daemon.poll() is not None
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                found_status = daemon.wait(40)
            except subprocess.TimeoutExpired:
                daemon.kill()
                found_status = daemon.wait()
            lines = log.read_text()
        found |= {"exit_status": found_status, "log_lines": lines.count("\n"), "tracebacks": lines.count("Traceback")}
        if found["tracebacks"]:
            print(lines[-4000:], file=sys.stderr)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutated frames at a live daemon.")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=3000.0, help="frames a second, of both floods")
    parser.add_argument("--window", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flood", choices=("good", "mutated"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.flood:
        print(json.dumps(flood(arguments.url, arguments.flood, arguments.rate, arguments.frames, arguments.seed)))
        return 0
    found = run(arguments.frames, arguments.rate, arguments.window, arguments.seed)
    print(json.dumps(found, indent=1))
    grown_mib = found["rss_anon_mib"][1] - found["rss_anon_mib"][0]
    wrong = [name for name in ("crashed", "exit_status", "tracebacks", "wrong", "good_client_hung") if found[name]]
    wrong += ["not_closed_in_time"] * bool(found["not_closed_in_time"])
    wrong += ["rss_anon_mib"] * (grown_mib > GROWTH_MIB)
    print("failed: " + ", ".join(wrong) if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
