"""Every answer its own, for as long as one likes: 64 callers, two models, mixed shapes, slow readers, and faults.

    make soak MIN=10     half of it with faults, a sixth without, a third for tests/storm.py
    python -m tests.soak --seconds 400 --fault-every 10 --json bench-out/soak.json

Each input carries a nonce, and each answer of up to 1 MiB is generated from it. A quarter of the callers have receive
buffers of 4 KiB and dawdle. The faults: a worker is killed; one is stopped for a second, or for good, so that the
daemon has to end it; 200 connections send half a frame and are reset; SIGHUP. Once a second memory, descriptors and
processes are looked at from outside.

Fails if an answer was wrong, an error came (but for a request whose workers were killed twice), a caller hung or lost
its connection, the daemon grows by more than 1 MiB a minute in the second half of a run of four minutes or more, or
anything is not back at its baseline in the end. (In a shorter one that is warming up: 2.2 MiB a minute in the second
half of 100 s, 0.04 in that of 300 s.) Workers live too short for a slope of their own; theirs is reported.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import statistics
import struct
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
from inferd.wire.address import Address
from inferd.wire.messages import Hello, Infer
from inferd.wire.peer import CLIENT, Frame, Peer
from inferd.wire.values import pack_values
from tests.faults import procfs
from tests.rawpeer import RawPeer

DOUBLES = Path(__file__).with_name("doubles.py")
CALLERS = 64
SHAPES = [(1,), (16,), (3, 5), (100,), (64, 64), (5000,), (100_000,)]
DTYPES = [np.float32, np.int64, np.uint8]
MAX_REPLY_BYTES = 1024 * 1024
SLOW_BUFFER_BYTES = 4096
WARM_UP_S = 10.0
GROWTH_LIMIT_MIB = 16
SLOPE_LIMIT_MIB_PER_MIN = 1.0
TELLING_S = 240.0
FAULTS = ("kill", "kill", "pause", "freeze", "storm", "reload")
STORM_CONNECTIONS = 200
REST_TIMEOUT_S = 20.0


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

    @staticmethod
    def answer(peer: RawPeer) -> Frame:
        """The next frame that answers a request."""
        while (frame := peer.next()).type == f.PING:
            peer.sock.sendall(peer.peer.send(f.PONG))
        return frame

    def slow_caller(self, number: int) -> None:
        """A caller with a small receive buffer that takes its time."""
        rng = random.Random(f"{self.seed} {number}")
        with RawPeer(self.url, receive_buffer_bytes=SLOW_BUFFER_BYTES) as peer:
            peer.sock.settimeout(60)
            count = 0
            while not self.stop.is_set():
                count += 1
                nonce, size = f"{self.seed}-{number}-{count}", self.size(rng)
                segment = pack_values({"nonce": nonce, "size": size})
                head = peer.peer.send(f.INFER, Infer("nonce"), count, len(segment), f.HAS_VALUES)
                peer.sock.sendall(head + segment)
                self.stop.wait(rng.random() * 0.2)
                try:
                    frame = self.answer(peer)
                except (OSError, EOFError) as error:
                    self.note(number, f"error {type(error).__name__}")
                    return
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


def children(pid: int) -> list[int]:
    """The daemon's fork server, workers and whatever else is below it."""
    return sorted(procfs.descendants(pid))


def storm(url: str, connections: int) -> None:
    """Connections that send half a frame and are reset."""
    address = Address.parse(url)
    half = Peer(CLIENT).send(f.HELLO, Hello("storm")) + f.pack_prefix(f.INFER, 1, 16 * 1024)
    for _ in range(connections):
        with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), timeout=5) as sock:
            sock.sendall(half)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Faults:
    """Does something to the daemon every now and then: `done` counts what."""

    def __init__(self, soak: Soak, admin: Client, pid: int, every_s: float) -> None:
        self.done: Counter[str] = Counter()
        self.log: list[tuple[float, str]] = []
        self._soak = soak
        self._admin = admin
        self._pid = pid
        self._every_s = every_s
        self._rng = random.Random(f"{soak.seed} faults")
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._started = time.monotonic()
        self._thread.start()

    def join(self) -> bool:
        """Whether it has come to its end."""
        self._thread.join(30)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._soak.stop.wait(self._every_s):
            what = self._rng.choice(FAULTS)
            self.done[what] += 1
            self.log.append((round(time.monotonic() - self._started, 1), what))
            if what == "storm":
                storm(self._soak.url, STORM_CONNECTIONS)
            elif what == "reload":
                os.kill(self._pid, signal.SIGHUP)
            else:
                self._strike(what)

    def _strike(self, what: str) -> None:
        workers = [worker["pid"] for worker in self._admin.status()["workers"] if worker["pid"]]
        if not workers:
            return
        pid = self._rng.choice(workers)
        with contextlib.suppress(ProcessLookupError):
            if what == "kill":
                os.kill(pid, signal.SIGKILL)
                return
            os.kill(pid, signal.SIGSTOP)
            if what == "pause":  # if not, the daemon has to end it
                self._soak.stop.wait(1.0)
                os.kill(pid, signal.SIGCONT)


class Watch:
    """What the daemon holds, once a second, from outside."""

    def __init__(self, pid: int, admin: Client) -> None:
        self.samples: list[dict[str, float]] = []
        self._pid = pid
        self._admin = admin
        self._started = time.monotonic()

    def look(self) -> dict[str, float]:
        below = children(self._pid)
        rss = []
        for pid in below:
            with contextlib.suppress(OSError, ValueError):  # it ends just now
                rss.append(rss_anon_kib(pid))
        status = self._admin.status()
        sample = {
            "at_s": round(time.monotonic() - self._started, 1),
            "daemon_mib": round(rss_anon_kib(self._pid) / 1024, 2),
            "children_mib": round(sum(rss) / 1024, 2),
            "descriptors": descriptors(self._pid),
            "children": len(below),
            "slab_mib": round(status["slab"]["used_bytes"] / 2**20, 2),
            "arena_mib": round(sum(worker["arena_used_bytes"] for worker in status["workers"]) / 2**20, 2),
            "connections": status["connections"],
        }
        self.samples.append(sample)
        return sample

    def slope_mib_per_min(self, name: str, after_s: float) -> float:
        """Of the straight line through what was seen after the warm-up (least squares)."""
        seen = [(sample["at_s"] / 60, sample[name]) for sample in self.samples if sample["at_s"] >= after_s]
        if len(seen) < 3:
            return 0.0
        slope, _ = statistics.linear_regression(*zip(*seen, strict=True))
        return round(slope, 3)


def run(seconds: float, fault_every_s: float, seed: int) -> dict[str, Any]:
    """One soak; what it saw."""
    with tempfile.TemporaryDirectory() as folder:
        socket_url = f"inferd+unix://{folder}/soak.sock"
        command = [sys.executable, "-m", "inferd", "serve", f"{DOUBLES}:Nonce", f"{DOUBLES}:Hash"]
        command += ["--device", "cpu", "--device", "cpu"]
        command += ["--listen", "inferd://127.0.0.1:0", "--listen", socket_url, "--log-level", "warning"]
        log = Path(folder) / "log"
        with log.open("w") as sink:
            daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True)
        assert daemon.stdout is not None
        ready = daemon.stdout.readline()
        url = next(word for word in ready.split() if word.startswith("inferd://"))
        try:
            return _run(Soak(url, seed), daemon.pid, socket_url, seconds, fault_every_s)
        finally:
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(30)
            lines = log.read_text()
            assert status == 0, f"the daemon ended with {status}: {lines[-2000:]}"
            assert "Traceback" not in lines, lines[-4000:]


def _run(soak: Soak, pid: int, admin_url: str, seconds: float, fault_every_s: float) -> dict[str, Any]:
    with Client(admin_url) as admin:
        watch = Watch(pid, admin)
        before = watch.look()
        threads = [
            threading.Thread(target=soak.slow_caller if number % 4 == 0 else soak.caller, args=(number,), daemon=True)
            for number in range(CALLERS)
        ]
        faults = Faults(soak, admin, pid, fault_every_s)
        for thread in threads:
            thread.start()
        if fault_every_s:
            faults.start()
        while watch.look()["at_s"] < seconds:
            time.sleep(1.0)
        soak.stop.set()
        for thread in threads:
            thread.join(60)
        hung = sum(thread.is_alive() for thread in threads)
        hung += bool(fault_every_s) and not faults.join()
        deadline = time.monotonic() + REST_TIMEOUT_S
        while True:
            after = watch.look()
            at_rest = after["slab_mib"] == after["arena_mib"] == 0 and after["connections"] == 1
            if (at_rest and after["children"] == before["children"]) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        warm_s = max(WARM_UP_S, seconds / 2)
        return {
            "seconds": seconds,
            "faults": dict(faults.done),
            "answers": sum(count for name, count in soak.seen.items() if not name.startswith("error")),
            "seen": dict(soak.seen),
            "wrong": soak.wrong[:10],
            "hung": hung,
            "before": before,
            "after": after,
            "slope_mib_per_min": {
                name: watch.slope_mib_per_min(f"{name}_mib", warm_s) for name in ("daemon", "children")
            },
            "counters": admin.status()["counters"],
            "faults_at": faults.log,
            "samples": watch.samples,
        }


def mistakes(found: dict[str, Any]) -> list[str]:
    """What was not as it must be."""
    before, after = found["before"], found["after"]
    errors = {name for name in found["seen"] if name.startswith("error")}
    # A request that was killed with two workers has been tried twice.
    allowed = {"error WORKER_LOST", "error POISONED"} if found["faults"] else set()
    wrong = [f"wrong answers: {found['wrong']}"] if found["wrong"] else []
    wrong += [f"{found['hung']} callers hung"] if found["hung"] else []
    wrong += [f"errors: {errors - allowed}"] if errors - allowed else []
    wrong += [f"{name}: {after[name]}" for name in ("slab_mib", "arena_mib") if after[name]]
    wrong += [f"children: {before['children']} → {after['children']}"] * (after["children"] != before["children"])
    # It may close a socket a little after it has forgotten the connection.
    wrong += [f"descriptors: {before['descriptors']} → {after['descriptors']}"] * (
        after["descriptors"] > before["descriptors"] + 1
    )
    grown_mib = after["daemon_mib"] - before["daemon_mib"]
    wrong += [f"the daemon has grown by {grown_mib:.1f} MiB"] * (grown_mib > GROWTH_LIMIT_MIB)
    slope = found["slope_mib_per_min"]["daemon"]
    if found["seconds"] >= TELLING_S:
        wrong += [f"the daemon grows by {slope} MiB/min"] * (slope > SLOPE_LIMIT_MIB_PER_MIN)
    return wrong


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--fault-every", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, for benchmarks/plot_soak.py")
    args = parser.parse_args()
    found = {"seed": args.seed, **run(args.seconds, args.fault_every, args.seed)}
    wrong = mistakes(found)
    found["failed"] = wrong
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found), encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name not in ("samples", "faults_at")}, indent=1))
    print("failed: " + "; ".join(wrong) if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
