"""What overload.py, fairness.py and keystrokes.py share: servers that are started and asked, windows of open load."""

from __future__ import annotations

import argparse
import base64
import json
import re
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from openloop import LATE, NONE, OVERLOADED, RESULT
from throughput import START_S, Cores, Talker, family, machine, running

from inferd.wire import frame as f
from inferd.wire.messages import Hello, Infer
from inferd.wire.tensor import aligned, layout
from inferd.wire.values import pack_values, unpack_values

HERE = Path(__file__).parent
CONNECTIONS = 16
WARM_S = 0.75


class Profile(NamedTuple):
    """A device, a batch of b takes α + β·b ms, and an objective in ms."""

    title: str
    alpha: float
    beta: float
    deadline: float
    largest: int

    @property
    def rate(self) -> float:
        """λ*: the highest rate at which every batch can be within the objective: (1/β)(1 − 2α/D), a second."""
        return 1000 / self.beta * (1 - 2 * self.alpha / self.deadline)

    def options(self, noise: float = 0.0) -> list[str]:
        """For `inferd serve virtual`."""
        given = {"alpha_ms": self.alpha, "beta_ms": self.beta, "max_batch_size": self.largest, "noise": noise}
        return [word for key, value in given.items() for word in ("--set", f"virtual.{key}={value:g}")]


PROFILES = {
    1: Profile("profile 1: α 5, β 1, D 25 ms, max 64", 5, 1, 25, 64),
    2: Profile("profile 2: α 2, β 0.05, D 15 ms, max 128", 2, 0.05, 15, 128),
    3: Profile("profile 3: α 1, β 4, D 60 ms, max 16", 1, 4, 60, 16),
}


# ---- servers


@dataclass
class Server:
    """A server that runs: what it speaks, where, and its pid."""

    kind: str  # "inferd" or "http"
    port: int
    pid: int
    stderr: Path | None = None

    def status(self) -> dict[str, Any]:
        """The daemon's STATUS."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock, sock.makefile("rb") as stream:
            hello = Hello("benchmark").pack()
            sock.sendall(f.pack_prefix(f.HELLO, 0, len(hello)) + hello + f.pack_prefix(f.STATUS, 1, 0))
            while True:
                prefix = stream.read(f.PREFIX_BYTES)
                if not prefix:
                    raise SystemExit(f"no STATUS: {self.stderr.read_text() if self.stderr else ''}")
                _, _, kind, _, _, header_bytes, payload_bytes, _ = f.PREFIX.unpack(prefix)
                body = stream.read(header_bytes + payload_bytes)
                if kind == f.STATUS:
                    return unpack_values(body[header_bytes:])


def start_inferd(stack: ExitStack, cores: Cores, arguments: list[str], policy: str = "") -> Server:
    """`inferd serve ARGUMENTS`, with another policy in the scheduler's place if one is named."""
    stderr = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stderr"
    program = [str(HERE / "policies.py"), policy] if policy else ["-m", "inferd"]
    command = [sys.executable, *program, "serve", *arguments, "--listen", "inferd://127.0.0.1:0", "--device", "cpu"]
    with stderr.open("w") as file:
        process = stack.enter_context(running(command, cores.server, file))
    assert process.stdout is not None
    ready = process.stdout.readline()
    found = re.search(r"inferd is ready: .*inferd://127\.0\.0\.1:(\d+)", ready)
    if found is None:
        process.wait(START_S)
        raise SystemExit(f"the daemon did not start: {ready}{stderr.read_text()}")
    return Server("inferd", int(found[1]), process.pid, stderr)


def start_mosec(
    stack: ExitStack, cores: Cores, python: str, profile: Profile, batch: int, wait_ms: int, options: list[str]
) -> Server:
    """mosec with the same virtual device behind it, in the environment of that `python`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    stderr = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stderr"
    device = [str(profile.alpha), str(profile.beta), str(batch), str(wait_ms)]
    command = [python, str(HERE / "mosec_virtual.py"), *device, "--address", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", "error", *options]
    with stderr.open("w") as file:
        process = stack.enter_context(running(command, cores.server, file))
    server = Server("http", port, process.pid, stderr)
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        if _http_seconds(port) is not None:
            return server
        time.sleep(0.05)
    raise SystemExit(f"mosec did not start: {stderr.read_text()}")


def rest(server: Server, seconds: float) -> None:
    """Waits until a lone request takes no longer than that: what an overload has left behind is gone."""
    if server.kind == "inferd":
        while server.status()["queued"] or server.status()["in_flight"]:
            time.sleep(0.02)
        return
    until = time.monotonic() + 20
    while time.monotonic() < until:
        took = _http_seconds(server.port)
        if took is not None and took < seconds:
            return
        time.sleep(0.02)
    raise SystemExit("mosec did not come to rest within 20 s")


HTTP_REQUEST = b"POST /inference HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n\0\0\x80?"


def _http_seconds(port: int) -> float | None:
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(HTTP_REQUEST)
            return time.monotonic() - began if sock.recv(65536).startswith(b"HTTP/1.1 200") else None
    except OSError:
        return None


# ---- requests


def virtual_options(alpha_ms: float, beta_ms: float, largest: int) -> tuple[str, ...]:
    """How `inferd serve` is told of that device: a batch of b takes alpha + beta · b."""
    settings = {"alpha_ms": alpha_ms, "beta_ms": beta_ms, "max_batch_size": largest}
    return tuple(word for key, value in settings.items() for word in ("--set", f"virtual.{key}={value:g}"))


def virtual_frame(deadline_ms: float | None, supersede: str | None = None) -> bytes:
    """An INFER of one float32."""
    table, end = layout([("x", "FP32", (1,))])
    header = Infer("virtual", table, end, 0, deadline_ms, supersede=supersede).pack()
    return f.pack_prefix(f.INFER, 0, len(header), end) + header + b"\0\0\x80?"


def text_frame(model: str, text: str, deadline_ms: float | None, supersede: str | None) -> bytes:
    """An INFER of one text."""
    header = Infer(model, (), 0, 0, deadline_ms, supersede=supersede).pack()
    values = pack_values({"text": text})
    assert aligned(0) == 0
    return f.pack_prefix(f.INFER, 0, len(header), len(values), f.HAS_VALUES) + header + values


def stream(frames: list[bytes], connections: int, **given: Any) -> dict[str, Any]:
    """One stream of a job; openloop.py has its fields."""
    return {"frames": [base64.b64encode(frame).decode() for frame in frames], "connections": connections, **given}


# ---- windows


@dataclass
class Window:
    """What became of the requests that were due within the window; columns of equal length, seconds."""

    due: Any
    latency: Any
    outcome: Any
    stream: Any
    lag: Any
    cpu_share: float
    seconds: float
    failures: list[str]
    delta: dict[str, float] = field(default_factory=dict)  # what the daemon counted meanwhile

    def of(self, number: int, begin: float = 0.0, end: float = float("inf")) -> Window:
        """One stream's part, and of that what was due in [begin, end)."""
        keep = (self.due >= begin) & (self.due < end)
        if number >= 0:
            keep &= self.stream == number
        seconds = min(end, self.seconds) - begin
        columns = (self.due[keep], self.latency[keep], self.outcome[keep], self.stream[keep], self.lag[keep])
        return Window(*columns, self.cpu_share, seconds, self.failures, self.delta)

    def good(self, deadline_s: float) -> Any:
        """Which were answered within the deadline."""
        return (self.outcome == RESULT) & (self.latency <= deadline_s)

    def goodput(self, deadline_s: float) -> float:
        """Answers within the deadline, a second."""
        return float(self.good(deadline_s).sum()) / self.seconds

    def latencies_of(self, *outcomes: int) -> Any:
        """In ms."""
        return self.latency[numpy.isin(self.outcome, outcomes)] * 1000

    def quantile(self, q: float) -> float:
        """Latency in ms of all requests, those without a result counting as endless."""
        if not len(self.latency):
            return float("nan")
        latencies = numpy.where(self.outcome == RESULT, self.latency, numpy.inf)
        return float(numpy.sort(latencies)[min(len(latencies) - 1, int(q * len(latencies)))]) * 1000

    def shares(self, deadline_s: float) -> dict[str, float]:
        """Of all requests: good, too late, refused, without an answer."""
        count = max(1, len(self.outcome))
        good = float(self.good(deadline_s).sum())
        results = float((self.outcome == RESULT).sum())
        refused = float(numpy.isin(self.outcome, (OVERLOADED, LATE)).sum())
        silent = float((self.outcome == NONE).sum())
        found = {"good": good, "late": results - good, "refused": refused, "silent": silent}
        found["failed"] = count - sum(found.values()) if len(self.outcome) else 0.0
        return {key: value / count for key, value in found.items()}


def percentiles(values: Any) -> tuple[float, float]:
    """p50 and p99; not a number when there are none."""
    if not len(values):
        return float("nan"), float("nan")
    return float(numpy.percentile(values, 50)), float(numpy.percentile(values, 99))


class Load:
    """The generator, in a process of its own."""

    def __init__(self, stack: ExitStack, cores: Cores) -> None:
        command = [sys.executable, str(HERE / "openloop.py")]
        self._talker = Talker(stack.enter_context(running(command, cores.client)))
        self._seed = 0

    def window(
        self, server: Server, streams: list[dict[str, Any]], begin: float, end: float, grace_s: float, seed: int = 0
    ) -> Window:
        """Runs the streams; what was due in [begin, end) is kept, with `due` counted from `begin`."""
        self._seed += 1
        before = server.status() if server.kind == "inferd" else {}
        found = self._talker.ask(
            {
                "kind": server.kind,
                "port": server.port,
                "seed": seed or self._seed,
                "grace_s": grace_s,
                "streams": streams,
            }
        )
        if "failed" in found:
            raise SystemExit(f"the generator: {found['failed']}")

        def column(name: str, dtype: str) -> Any:
            return numpy.frombuffer(base64.b64decode(found[name]), dtype)

        whole = Window(
            due=column("due", "f8"),
            latency=column("latency", "f4"),
            outcome=column("outcome", "u1"),
            stream=column("stream", "u2"),
            lag=column("lag", "f4"),
            cpu_share=found["cpu_share"],
            seconds=end,
            failures=found["failures"],
        )
        window = whole.of(-1, begin, end)
        window.due = window.due - begin
        if before:
            window.delta = difference(before, server.status())
        return window


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """What the daemon has counted between two STATUS."""
    found: dict[str, float] = {}
    for name, count in after["counters"].items():
        grown = count - before["counters"].get(name, 0)
        if grown:
            found[name] = grown
    found["rows"] = sum(m["rows"] for m in after["models"]) - sum(m["rows"] for m in before["models"])
    for name in ("batches", "busy_s", "compute_s"):
        found[name] = sum(w[name] for w in after["workers"]) - sum(w[name] for w in before["workers"])
    found["wall_s"] = after["uptime_s"] - before["uptime_s"]
    return found


# ---- the command line


def arguments(text: str | None) -> argparse.ArgumentParser:
    """What all of these programs understand."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short windows, once: a try, not a result")
    parser.add_argument("--server-cores", type=int, default=1, help="for all server processes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser


def introduce(cores: Cores, what: str) -> dict[str, str]:
    """The machine's line."""
    about: dict[str, str] = machine("cpu")
    print(" · ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"server processes on core {sorted(cores.server)}, generator on core {sorted(cores.client)}; {what}", flush=True
    )
    if cores.client & cores.server:
        print("WARNING: generator and server share a core; the figures are worth little")
    return about


def write(path: Path | None, document: dict[str, Any]) -> None:
    """The JSON, if one was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, default=float) + "\n")


__all__ = [
    "CONNECTIONS",
    "HTTP_REQUEST",
    "PROFILES",
    "WARM_S",
    "Cores",
    "Load",
    "Profile",
    "Server",
    "Window",
    "arguments",
    "family",
    "introduce",
    "percentiles",
    "rest",
    "start_inferd",
    "start_mosec",
    "stream",
    "text_frame",
    "virtual_frame",
    "write",
]
