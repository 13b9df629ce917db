"""`make bench`: rates, latencies and CPU per request of the daemon, beside what limits them, measured in the same run.

The machine's speed changes by a factor of two within seconds, so everything that is compared is measured in short
windows in turn, round after round. README.md beside this file says how to read the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
MIB = 1024 * 1024
START_S = 120.0
STOP_S = 20.0

Sample = dict[str, float]


class Load(NamedTuple):
    """What is asked for: a model and the shape of its one float32 input."""

    title: str
    model: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        count = 4
        for size in self.shape:
            count *= size
        return count

    @property
    def is_large(self) -> bool:
        return self.nbytes > MIB


ECHO = Load("echo float32[16]", "echo", (16,))
MLP = Load("MLP 128-512-512-10", "mlp", (128,))
LARGE = Load("echo float32[786432], 3 MiB there and back", "echo", (3 * MIB // 4,))

INFERD, RAW, IN_PROCESS = "inferd", "raw echo", "in process, batches of 64"


class Case(NamedTuple):
    """One row of the table."""

    load: Load
    server: str
    callers: int = 64
    connections: int = 8


def cases() -> list[Case]:
    """In the order of the table, what is compared side by side."""
    rows = []
    for callers, connections in ((1, 1), (16, 8), (64, 8), (64, 64)):
        rows += [Case(ECHO, INFERD, callers, connections), Case(ECHO, RAW, callers, connections)]
    rows += [Case(MLP, INFERD, 1, 1), Case(MLP, INFERD, 16, 8), Case(MLP, INFERD), Case(MLP, IN_PROCESS)]
    for callers, connections in ((1, 1), (16, 16), (64, 16)):
        rows += [Case(LARGE, INFERD, callers, connections), Case(LARGE, RAW, callers, connections)]
    return rows


# ---- the processes


class Cores(NamedTuple):
    """Who runs where."""

    client: set[int]
    server: set[int]

    @classmethod
    def divide(cls, server_cores: int) -> Cores:
        """The first core generates load, the last ones serve; on a machine with one core they share it."""
        every = sorted(os.sched_getaffinity(0))
        return cls({every[0]}, set(every[-server_cores:]))


class Talker:
    """A process that answers a JSON line with a JSON line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def hear(self) -> dict[str, Any]:
        """The next line."""
        line = self._stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One question, one answer."""
        self._stdin.write(json.dumps(question) + "\n")
        self._stdin.flush()
        return self.hear()


@contextmanager
def running(command: list[str], cores: set[int], stderr: Any = None) -> Iterator[subprocess.Popen[str]]:
    """A process on `cores`, and all that it starts: affinity is inherited. Ended at the end."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=_environment()
        )
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """Without settings of the caller's that would make torch or the daemon differ from run to run."""
    dropped = ("INFERD_", "OMP_", "MKL_", "TORCH_", "PYTHON")
    return {key: value for key, value in os.environ.items() if not key.startswith(dropped)}


def start_daemon(stack: ExitStack, device: str, cores: set[int]) -> tuple[int, int]:
    """Its pid and its port."""
    errors = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stderr"
    command = [sys.executable, "-m", "inferd", "serve", "echo", f"{HERE / 'models.py'}:Mlp"]
    command += ["--listen", "inferd://127.0.0.1:0", "--device", device]
    with errors.open("w") as file:
        daemon = stack.enter_context(running(command, cores, file))
    assert daemon.stdout is not None
    ready = daemon.stdout.readline()
    found = re.search(r"inferd is ready: .*inferd://127\.0\.0\.1:(\d+)", ready)
    if found is None:
        daemon.wait(START_S)
        raise SystemExit(f"the daemon did not start: {ready}{errors.read_text()}")
    return daemon.pid, int(found[1])


def family(pid: int) -> list[int]:
    """A process and all its descendants: the daemon, the fork server, the workers."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


class Bench:
    """Everything that runs, and one window of any case."""

    def __init__(self, stack: ExitStack, device: str, cores: Cores, seconds: float, warm_s: float) -> None:
        self._seconds = seconds
        self._warm_s = warm_s
        self._daemon, self._port = start_daemon(stack, device, cores.server)

        def start(file: str, where: set[int], *arguments: str) -> Talker:
            return Talker(stack.enter_context(running([sys.executable, str(HERE / file), *arguments], where)))

        raw = start("raw_echo.py", cores.server, str(LARGE.nbytes))
        self._raw, self._raw_ports = raw.process.pid, raw.hear()
        self._in_process = start("in_process.py", {max(cores.server)}, device)
        self._in_process.hear()
        self._load = start("load.py", cores.client)

    def window(self, case: Case) -> Sample:
        """One measurement; CPU in µs per request or row."""
        if case.server == IN_PROCESS:
            found = self._in_process.ask({"seconds": self._seconds})
            return {"rate": found["rows"] / found["seconds"], "cpu_us": found["cpu_s"] / found["rows"] * 1e6}
        is_inferd = case.server == INFERD
        found = self._load.ask(
            {
                "kind": "inferd" if is_inferd else "raw",
                "port": self._port if is_inferd else self._raw_ports["large" if case.load.is_large else "small"],
                "callers": case.callers,
                "connections": case.connections,
                "shape": case.load.shape,
                "seconds": self._seconds,
                "warm_s": self._warm_s,
                "pids": family(self._daemon if is_inferd else self._raw),
                "model": case.load.model,
                "echo": case.load.model == "echo",
            }
        )
        if "failed" in found:
            raise SystemExit(f"{case.server}, {case.load.title}, {case.callers} callers: {found['failed']}")
        return {
            "rate": found["replies"] / found["seconds"],
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
            "cpu_us": found["server_cpu_s"] / found["replies"] * 1e6,
            "server_pct": 100 * found["server_cpu_s"] / found["seconds"],
            "client_pct": 100 * found["client_cpu_s"] / found["seconds"],
            "replies": found["replies"],
            "checked": found["checked"],
        }


# ---- the results


Results = dict[Case, list[Sample]]


class Figures(NamedTuple):
    """A case over all rounds. CPU is the least; the others are medians, with the best beside them."""

    rate: float
    best_rate: float
    p50_ms: float
    least_p50_ms: float
    p99_ms: float
    cpu_us: float
    server_pct: float
    client_pct: float

    @classmethod
    def of(cls, samples: list[Sample]) -> Figures:
        def over(pick: Callable[[list[float]], float], key: str) -> float:
            return pick([sample[key] for sample in samples if key in sample] or [0.0])

        return cls(
            over(statistics.median, "rate"),
            over(max, "rate"),
            over(statistics.median, "p50_ms"),
            over(min, "p50_ms"),
            over(statistics.median, "p99_ms"),
            over(min, "cpu_us"),
            over(statistics.median, "server_pct"),
            over(statistics.median, "client_pct"),
        )


def print_table(results: Results) -> None:
    """A row for each case."""
    columns = ("req/s", "best", "p50 ms", "p99 ms", "CPU µs/req", "server %", "client %")
    title = ""
    for case, samples in results.items():
        if case.load.title != title:
            title = case.load.title
            print(f"\n{title}\n  {'':26}{'callers':>8}{'conns':>6}" + "".join(f"{name:>12}" for name in columns))
        figures = Figures.of(samples)
        if case.server == IN_PROCESS:
            print(f"  {case.server:26}{'':14}{figures.rate:12,.0f}{figures.best_rate:12,.0f}", end="")
            print(f"{'':24}{figures.cpu_us:12,.1f}   (rows)")
            continue
        print(f"  {case.server:26}{case.callers:8}{case.connections:6}", end="")
        print(f"{figures.rate:12,.0f}{figures.best_rate:12,.0f}{figures.p50_ms:12.3f}{figures.p99_ms:12.3f}", end="")
        print(f"{figures.cpu_us:12,.1f}{figures.server_pct:12.0f}{figures.client_pct:12.0f}")


class Aim(NamedTuple):
    """One comparison. `paired` is the median of the rounds' own ratios; `at_most`: the aim is an upper bound."""

    what: str
    measured: float
    paired: float
    aim: float
    at_most: bool
    unit: str

    @property
    def is_met(self) -> bool:
        return self.measured <= self.aim if self.at_most else self.measured >= self.aim

    def line(self) -> str:
        sign = "≤" if self.at_most else "≥"
        digits = 0 if self.unit == "%" else 2
        measured, paired = (f"{value:.{digits}f} {self.unit}" for value in (self.measured, self.paired))
        aim = f"{sign} {self.aim:g} {self.unit}"
        return f"  {self.what:64}{measured:>9}{paired:>12}   {aim:10}{'met' if self.is_met else 'MISSED'}"


def aims(results: Results) -> list[Aim]:
    """What is aimed at; each from the least of all rounds."""
    figures = {case: Figures.of(samples) for case, samples in results.items()}

    def ratio(key: str, above: Case, below: Case, factor: float = 1) -> tuple[float, float]:
        best = {"cpu_us": "cpu_us", "p50_ms": "least_p50_ms", "rate": "best_rate"}[key]
        pairs = zip(results[above], results[below], strict=True)
        paired = statistics.median(one[key] / other[key] for one, other in pairs)
        return factor * getattr(figures[above], best) / getattr(figures[below], best), factor * paired

    spread, wide = Case(ECHO, INFERD, 64, 8), Case(ECHO, INFERD, 64, 64)
    alone, large = Case(ECHO, INFERD, 1, 1), Case(LARGE, INFERD, 16, 16)

    def raw(case: Case) -> Case:
        return case._replace(server=RAW)

    on = "64 callers on {} connections: CPU per request / raw echo's".format
    return [
        Aim("echo, " + on(64), *ratio("cpu_us", wide, raw(wide)), 2, True, "×"),
        Aim("echo, " + on(8), *ratio("cpu_us", spread, raw(spread)), 2, True, "×"),
        Aim("echo, one caller: p50 / raw echo's", *ratio("p50_ms", alone, raw(alone)), 4, True, "×"),
        Aim("echo, 64 callers: CPU on 64 connections / on 8", *ratio("cpu_us", wide, spread), 1.8, True, "×"),
        Aim("echo, 64 callers: rate on 8 connections / on 64", *ratio("rate", spread, wide), 1.8, True, "×"),
        Aim(
            "MLP, 64 callers: CPU per row / in process", *ratio("cpu_us", Case(MLP, INFERD), _IN_PROCESS), 3, True, "×"
        ),
        Aim(
            "3 MiB, 16 callers: bytes per CPU-second / raw echo's",
            *ratio("cpu_us", raw(large), large, 100),
            50,
            False,
            "%",
        ),
    ]


_IN_PROCESS = Case(MLP, IN_PROCESS)


def machine(device: str) -> dict[str, str]:
    """What it ran on."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    found = {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for package in ("inferd", "torch", "uvloop", "msgpack", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "?"
    if device != "cpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name(device) if torch.cuda.is_available() else "none"
    return found


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="two short rounds, under a minute: a try, not a result")
    parser.add_argument("--rounds", type=int, help="how often each case is measured (default: 12)")
    parser.add_argument("--seconds", type=float, help="of one window (default: 1)")
    parser.add_argument("--server-cores", type=int, default=1, help="for all server processes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every window there")
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else 12)
    seconds = given.seconds or (0.4 if given.quick else 1.0)
    warm_s = min(0.25, seconds / 2)
    cores = Cores.divide(given.server_cores)
    about = machine(given.device)
    print(" · ".join(f"{key} {value}" for key, value in about.items()))
    where = f"server processes on core {sorted(cores.server)}, load generator on core {sorted(cores.client)}"
    print(
        f"{where}; torch threads follow from that; {rounds} rounds of {seconds:g} s a case, in turn; {given.device}",
        flush=True,
    )
    if cores.client & cores.server:
        print("WARNING: generator and server share a core; the figures are worth little")
    started = time.monotonic()
    results: Results = {case: [] for case in cases()}
    with ExitStack() as stack:
        bench = Bench(stack, given.device, cores, seconds, warm_s)
        for number in range(rounds):
            # There and back, so that what is compared does not always come in the same order.
            for case in list(results) if number % 2 == 0 else reversed(results):
                results[case].append(bench.window(case))
            if sys.stderr.isatty():
                print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr)
    print_table(results)
    print("\nreq/s, p50, p99: median of the rounds; best: the fastest; CPU: all server processes, the least")
    print(f"\n  {'ratios':64}{'of least':>9}{'of a round':>12}   {'aim':10}")
    found = aims(results)
    for aim in found:
        print(aim.line())
    checked = sum(int(sample.get("checked", 0)) for samples in results.values() for sample in samples)
    replies = sum(int(sample.get("replies", 0)) for samples in results.values() for sample in samples)
    print(f"\n{replies:,} replies, all of the right kind, id and size; {checked:,} compared byte by byte; ", end="")
    print(f"{time.monotonic() - started:.0f} s")
    if given.json:
        rows = [
            {
                "load": case.load.title,
                "server": case.server,
                "callers": case.callers,
                "connections": case.connections,
                **Figures.of(samples)._asdict(),
                "windows": samples,
            }
            for case, samples in results.items()
        ]
        document = {
            "machine": about,
            "device": given.device,
            "rounds": rounds,
            "seconds": seconds,
            "cases": rows,
            "aims": [{**aim._asdict(), "is_met": aim.is_met} for aim in found],
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
