"""A run of `inferd bench`: generators started and heard, the daemon's counters and CPU time before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inferd.cli.bench_order import Order
from inferd.cli.latency import Latencies
from inferd.errors import InferdError, RequestError
from inferd.wire.address import Address

if TYPE_CHECKING:
    from inferd_client import Client

SPAWN_S = 0.1  # from "ready" to the start, so that every generator has read it


class Run:
    """What the generators and the daemon said."""

    def __init__(self, slices: list[Latencies], lag: Latencies) -> None:
        self.slices = slices
        self.lag = lag
        self.arrived = 0
        self.started = 0
        self.errors: dict[str, list[Any]] = {}
        self.generator_cpu: list[float] = []
        self.window_s = 0.0
        self.server_cpu_s: float | None = None
        self.server_processes = 0
        self.batches = 0
        self.rows = 0


def measure(client: Client, orders: Sequence[Order]) -> Run:
    """Carries out the orders at the same time. Raises InferdError when there is nothing to measure."""
    address = Address.parse(orders[0].url)
    with _generators(orders) as generators:
        for generator in generators:
            said = _hear(generator)
            if "error" in said:
                raise InferdError(said["error"])
        start = time.monotonic() + SPAWN_S
        for generator in generators:
            _tell(generator, json.dumps({"start": start}))
        begin = start + orders[0].warmup_s
        time.sleep(max(0.0, begin - time.monotonic()))
        before = _Snapshot(client, address)
        after: _Snapshot | None = None
        time.sleep(max(0.0, begin + orders[0].seconds - time.monotonic()))
        try:
            after = _Snapshot(client, address)
        except RequestError:
            after = None  # it died under the load, or is too busy; the generators have seen how it went
        run = _collect([_hear(generator) for generator in generators], orders[0].slices)
    if after is None:
        return run
    run.window_s = after.taken - before.taken
    if before.cpu and after.cpu:
        # A process that ended in between has taken its figure along.
        run.server_cpu_s = sum(cpu_s - before.cpu.get(pid, 0.0) for pid, cpu_s in after.cpu.items())
        run.server_processes = len(after.cpu)
    run.batches = after.batches - before.batches
    run.rows = after.rows - before.rows
    return run


@contextmanager
def _generators(orders: Sequence[Order]) -> Iterator[list[subprocess.Popen[str]]]:
    """The generator processes, which end with the block."""
    generators: list[subprocess.Popen[str]] = []
    try:
        for order in orders:
            generator = subprocess.Popen(
                [sys.executable, "-m", "inferd.cli.bench_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            generators.append(generator)
            _tell(generator, order.to_json())
        yield generators
    finally:
        for generator in generators:
            generator.kill()
            generator.communicate()


def _tell(generator: subprocess.Popen[str], line: str) -> None:
    assert generator.stdin is not None
    generator.stdin.write(line + "\n")
    generator.stdin.flush()


def _hear(generator: subprocess.Popen[str]) -> dict[str, Any]:
    assert generator.stdout is not None
    line = generator.stdout.readline()
    if not line:
        raise InferdError(f"a generator process ended with status {generator.wait()}")
    said: dict[str, Any] = json.loads(line)
    return said


def _collect(tallies: Sequence[dict[str, Any]], slices: int) -> Run:
    run = Run([Latencies() for _ in range(slices)], Latencies())
    for tally in tallies:
        run.arrived += tally["arrived"]
        run.started += tally["started"]
        run.generator_cpu.append(tally["cpu_share"])
        run.lag.merge(Latencies(*tally["lag"]))
        for whole, part in zip(run.slices, tally["slices"], strict=True):
            whole.merge(Latencies(*part))
        for reason, (count, message) in tally["errors"].items():
            run.errors.setdefault(reason, [0, message])[0] += count
    return run


class _Snapshot:
    """The daemon's counters and its processes' CPU time, at a moment."""

    def __init__(self, client: Client, address: Address) -> None:
        status = client.status()
        self.taken = time.monotonic()
        self.rows = sum(model["rows"] for model in status["models"])
        self.batches = status["counters"].get("batches", 0)
        self.cpu = server_cpu(address, status.get("pid"))


def server_cpu(address: Address, pid: object) -> dict[int, float]:
    """CPU seconds of the daemon and all its descendants, by pid; nothing if it is not on this machine."""
    if not isinstance(pid, int) or not address.is_loopback:
        return {}
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            # A forwarded port leads to another machine, where this number is another process.
            if b"inferd" not in file.read():
                return {}
    except OSError:
        return {}
    return tree_cpu(pid)


def tree_cpu(root: int) -> dict[int, float]:
    """CPU seconds, user and system, of a process and all its descendants, from /proc."""
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                # The name, in parentheses, may hold anything; what follows it are numbers, from the state on.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        children.setdefault(int(fields[1]), []).append(int(entry))
        seconds[int(entry)] = (int(fields[11]) + int(fields[12])) * tick_s
    tree: dict[int, float] = {}
    waiting = [root] if root in seconds else []
    while waiting:
        pid = waiting.pop()
        tree[pid] = seconds[pid]
        waiting += children.get(pid, ())
    return tree
