"""One model, people who type, every way to reach it: REST, WebSocket, TCP, Unix socket, and the server of a guide.

    python benchmarks/transports.py --guide PYTHON --json transports.json     # under 6 minutes

1, 10 and 100 typists press 8 keys a second; every key sends the text so far and wants its entities (the built-in model
`ner`). Behind inferd with its gateway, and, in an environment with FastAPI and uvicorn in it (`--guide`), behind a
WebSocket server as guides to real-time inference over sockets write it (guide_server.py), with the very same model.
What counts is how long after a text's last key its answer is there; beside it the CPU that all processes of the server
spent, and every byte. README.md says how to read the result.
"""

from __future__ import annotations

import base64
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from load import cpu_s
from openloop import LATE, NONE, OVERLOADED, RESULT, SUPERSEDED
from serving import Cores, Server, arguments, difference, family, introduce, start_inferd, write
from throughput import START_S, Talker, running

HERE = Path(__file__).parent
KEYS_PER_S = 8.0
# Between a text's last key and the next one's first: its answer is looked at.
PAUSE_S = (0.5, 1.0)
# What a page would give each key: later than this nobody looks any more.
DEADLINE_MS = 1000.0
GRACE_S = 3.0
WARM_S = 1.0
AT_REST_S = 2.0
# By how many type: how many rounds, of how many seconds. In a window everyone comes to the end of a text, so few
# typists have many short ones. 300 are beyond what was asked of anybody: it is where one text at a time ends.
PLAN = {1: (5, 2.0), 10: (3, 2.5), 100: (2, 5.0), 300: (1, 4.0)}
OTHER = (2, 5.0)
TEXTS = (
    "Ada Lovelace met Charles Babbage in London on 5 June 1833.",
    "In March 1905 Albert Einstein still lived in Bern with Mileva.",
    "The BBC sent Maria Gonzalez from Madrid to Nairobi on Monday.",
    "Yesterday Siemens opened a new factory near Lisbon, Portugal.",
    "My brother Tom works for Microsoft and lives in Seattle now.",
    "On 12 May 2019 Angela Merkel travelled to Paris by train.",
    "Toyota and Volvo will build cars together in Sweden in 2031.",
    "The flight from Oslo to Toronto leaves on Friday with Emma.",
    "President Nelson Mandela spoke to Unesco in Geneva in 1997.",
    "Please tell Dr. Schmidt that Bayer called from Berlin today.",
    "Kenji Tanaka moved to Brazil in July and joined Petrobras.",
    "Greenpeace and Amnesty met in Vienna on Tuesday, said Julia.",
)


class Row(NamedTuple):
    """One way to reach the model."""

    title: str
    server: str  # INFERD, GUIDE or THREADS
    transport: str  # of typists.py
    supersede: bool = True  # and a deadline


INFERD, GUIDE, THREADS = "inferd", "guide", "guide, threads"
ROWS = (
    Row("REST, a connection for each key", INFERD, "rest, connecting"),
    Row("REST, kept alive", INFERD, "rest"),
    Row("WebSocket", INFERD, "websocket"),
    Row("TCP", INFERD, "tcp"),
    Row("Unix socket", INFERD, "unix"),
    Row("TCP, no supersede or deadline", INFERD, "tcp", supersede=False),
    Row("FastAPI, as in the guide", GUIDE, "guide", supersede=False),
    Row("FastAPI, model in threads", THREADS, "guide", supersede=False),
)
GUIDE_OPTIONS = {GUIDE: [], THREADS: ["--threads"]}
# With `supersede` one key of a typist is computed at a time, and on one connection its answer cannot be overtaken.
IN_ORDER = ("websocket", "tcp", "unix")

Sample = dict[str, Any]
Cell = tuple[int, Row]


# ---- what is typed


def keys(typists: int, seconds: float, seed: int) -> list[list[tuple[float, int, int]]]:
    """When each typist presses which key: (due, text, length). Everyone begins in the middle of a text, at such a place
    that the ends of these texts are spread evenly."""
    found = []
    for typist in range(typists):
        draw = random.Random(seed * 10007 + typist)
        texts = list(range(len(TEXTS)))
        draw.shuffle(texts)
        gaps = [draw.uniform(0.5, 1.5) / KEYS_PER_S for _ in range(len(TEXTS[texts[0]]) - 1)]
        longest = min(seconds, len(gaps) / KEYS_PER_S)
        now = longest * (typist + draw.random()) / typists - sum(gaps)
        pressed: list[tuple[float, int, int]] = []
        while now < seconds:
            text, count = texts[0], len(TEXTS[texts[0]])
            for length in range(1, count + 1):
                if 0 <= now < seconds:
                    pressed.append((now, text, length))
                if length < count:
                    now += gaps.pop() if gaps else draw.uniform(0.5, 1.5) / KEYS_PER_S
            now += draw.uniform(*PAUSE_S)
            texts = [*texts[1:], text]
        found.append(pressed)
    return found


class Expected:
    """What the model itself says, in this process."""

    # A score is rounded to four digits, and a batch of another size may round the other way.
    TOLERANCE = 2e-4

    def __init__(self) -> None:
        import torch

        from inferd.models.ner import Ner

        torch.set_num_threads(1)
        self._ner = Ner()
        self._ner.load(torch.device("cpu"))
        self._spans: dict[tuple[int, int], Any] = {}

    def of(self, text: int, length: int) -> Any:
        """The spans of the text so far."""
        key = text, length
        if key not in self._spans:
            ner = self._ner
            tokens = ner.preprocess(TEXTS[text][:length])
            self._spans[key] = ner.postprocess(ner.forward([tokens])[0])["spans"]
        return self._spans[key]

    def agrees(self, text: int, length: int, spans: Any) -> bool:
        """Whether an answer is this model's."""
        own = self.of(text, length)
        return len(own) == len(spans) and all(
            {**mine, "score": 0} == {**other, "score": 0} and abs(mine["score"] - other["score"]) <= self.TOLERANCE
            for mine, other in zip(own, spans, strict=True)
        )


# ---- the servers


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def guide_versions(python: str) -> str:
    """What that environment has. Ends the program if it cannot serve."""
    asked = "import sys, fastapi, uvicorn, uvloop, httptools, websockets\n"
    asked += "print(*sys.version_info[:2], fastapi.__version__, uvicorn.__version__, uvloop.__version__)"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(
            f"{python} cannot run the guide's server: {found.stderr.strip().splitlines()[-1]}\n"
            f"{python} -m pip install fastapi 'uvicorn[standard]'"
        )
    major, minor, fastapi, uvicorn, uvloop = found.stdout.split()
    if (int(major), int(minor)) != sys.version_info[:2]:
        raise SystemExit(
            f"{python} is Python {major}.{minor}, and it must load torch of this environment's Python "
            f"{sys.version_info[0]}.{sys.version_info[1]}: make it with {sys.executable} -m venv"
        )
    return f"FastAPI {fastapi}, uvicorn {uvicorn}, uvloop {uvloop}"


def start_guide(stack: ExitStack, cores: Cores, python: str, options: list[str]) -> Server:
    """FastAPI with the model in it, in the environment of that `python`."""
    port = free_port()
    stderr = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "stderr"
    folders = [str(HERE.parent), *(folder for folder in sys.path if folder.endswith("-packages"))]
    with stderr.open("w") as file:
        command = [python, str(HERE / "guide_server.py"), str(port), *folders, *options]
        process = stack.enter_context(running(command, cores.server, file))
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return Server("guide", port, process.pid, stderr)
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the guide's server did not start: {stderr.read_text()}")


class Bench:
    """Everything that runs, and one window of any row."""

    def __init__(self, stack: ExitStack, cores: Cores, python: str | None) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self._path = f"{folder}/inferd.sock"
        self._web_port = free_port()
        options = ["--web", f"127.0.0.1:{self._web_port}", "--listen", f"inferd+unix://{self._path}"]
        self.servers = {INFERD: start_inferd(stack, cores, ["ner", *options])}
        if python:
            for name, guide_options in GUIDE_OPTIONS.items():
                self.servers[name] = start_guide(stack, cores, python, guide_options)
        self._pids = {name: family(server.pid) for name, server in self.servers.items()}
        self._typists = Talker(stack.enter_context(running([sys.executable, str(HERE / "typists.py")], cores.client)))
        self.expected = Expected()

    def rows(self) -> list[Row]:
        """Those whose server is there."""
        return [row for row in ROWS if row.server in self.servers]

    def at_rest(self, seconds: float) -> dict[str, float]:
        """What each server spends on nothing, in ms of CPU a second."""
        before = {name: cpu_s(pids) for name, pids in self._pids.items()}
        time.sleep(seconds)
        return {name: (cpu_s(pids) - before[name]) * 1000 / seconds for name, pids in self._pids.items()}

    def window(self, row: Row, typists: int, seconds: float, seed: int) -> Sample:
        """One measurement."""
        server = self.servers[row.server]
        self._calm(self._pids[row.server])
        is_inferd = row.server == INFERD
        before = server.status() if is_inferd else {}
        found = self._typists.ask(
            {
                "transport": row.transport,
                "port": self._web_port if row.transport in ("rest, connecting", "rest", "websocket") else server.port,
                "path": self._path,
                "texts": TEXTS,
                "keys": keys(typists, seconds, seed),
                "supersede": row.supersede,
                "deadline_ms": DEADLINE_MS if row.supersede else None,
                "pids": self._pids[row.server],
                "grace_s": GRACE_S,
            }
        )
        if "failed" in found or found["failures"]:
            raise SystemExit(f"{row.title}, {typists} typists: {found.get('failed') or found['failures']}")
        outcome = column(found["outcome"], "u1")
        latency = numpy.where(outcome == RESULT, column(found["latency"], "f4") * 1000.0, numpy.inf)
        last = column(found["last"], "u1").astype(bool)
        wrong = [answer for answer in found["answers"] if not self.expected.agrees(*answer)]
        sample = {
            "keys": len(outcome),
            "last ms": latency[last].tolist(),
            # What was superseded on purpose is neither an answer nor a miss; every other key without one is endless.
            "every ms": latency[outcome != SUPERSEDED].tolist(),
            "superseded": int((outcome == SUPERSEDED).sum()),
            "refused": int(numpy.isin(outcome, (OVERLOADED, LATE)).sum()),
            "silent": int((outcome == NONE).sum()),
            # By keys that came to an end: what was never answered was cheap.
            "cpu_us": found["server_cpu_s"] * 1e6 / max(1, int((outcome != NONE).sum())),
            "cpu_share": found["server_cpu_s"] / seconds,
            "sent": found["sent"],
            "received": found["received"],
            "out_of_order": found["out_of_order"],
            "answers": int((outcome == RESULT).sum()),
            "wrong": wrong[:3],
            "lag ms": float(numpy.percentile(column(found["lag"], "f4"), 99)) * 1000,
            "generator": found["cpu_share"],
        }
        if is_inferd:
            delta = difference(before, server.status())
            sample["rows"], sample["batches"] = delta["rows"], delta["batches"]
        return sample

    @staticmethod
    def _calm(pids: list[int]) -> None:
        """Waits until a server does next to nothing: the keys of those who left are done with."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            before = cpu_s(pids)
            time.sleep(0.05)
            if cpu_s(pids) - before < 0.01:
                return
        raise SystemExit("a server did not come to rest within 20 s")


def column(encoded: str, dtype: str) -> Any:
    """A column of the generator's result."""
    return numpy.frombuffer(base64.b64decode(encoded), dtype)


# ---- the tables


def quantile(values: list[float], q: float) -> float:
    """Keys without an answer count as endless."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def summary(samples: list[Sample]) -> Sample:
    """All windows of a cell as one."""
    found: Sample = {
        key: sum(sample[key] for sample in samples)
        for key in ("keys", "superseded", "refused", "silent", "sent", "received", "out_of_order", "answers")
    }
    for name in ("last", "every"):
        values = [value for sample in samples for value in sample[f"{name} ms"]]
        found[f"{name} n"] = len(values)
        found[f"{name} p50 ms"], found[f"{name} p99 ms"] = quantile(values, 0.5), quantile(values, 0.99)
    found["cpu_us"] = min(sample["cpu_us"] for sample in samples)
    found["cpu_share"] = max(sample["cpu_share"] for sample in samples)
    found["sent a key"], found["received a key"] = found["sent"] / found["keys"], found["received"] / found["keys"]
    if "rows" in samples[0]:
        found["batch"] = sum(sample["rows"] for sample in samples) / max(1, sum(s["batches"] for s in samples))
    return found


def print_level(typists: int, cells: dict[Cell, list[Sample]]) -> None:
    """The table of one number of typists."""
    print(f"\n{typists} {'typist' if typists == 1 else 'typists'}, {KEYS_PER_S:g} keys/s while they type")
    print(f"  {'':34}{'last key, ms':>22}{'every key, ms':>24}{'CPU':>9}{'bytes a key':>14}{'super-':>9}", end="")
    print(f"{'re-':>8}{'no':>8}")
    print(f"  {'':34}{'n':>6}{'p50':>8}{'p99':>8}{'n':>8}{'p50':>8}{'p99':>8}{'µs/key':>9}", end="")
    print(f"{'out':>7}{'back':>7}{'seded':>9}{'fused':>8}{'answer':>8}{'batch':>7}")
    for (_, row), samples in cells.items():
        found = summary(samples)
        print(f"  {row.title:34}", end="")
        for name, width in (("last", 6), ("every", 8)):
            p50, p99 = found[f"{name} p50 ms"], found[f"{name} p99 ms"]
            print(f"{found[f'{name} n']:{width}}{p50:8.2f}{p99:8.2f}", end="")
        print(f"{found['cpu_us']:9.0f}{found['sent a key']:7.0f}{found['received a key']:7.0f}", end="")
        print(f"{found['superseded']:9}{found['refused']:8}{found['silent']:8}", end="")
        print(f"{found['batch']:7.2f}" if "batch" in found else f"{'–':>7}", flush=True)


def check(cells: dict[Cell, list[Sample]]) -> list[str]:
    """What must never happen, and did."""
    problems = []
    for (typists, row), samples in cells.items():
        where = f"{row.title}, {typists} typists"
        problems += [f"{where}: not the model's answer: {wrong}" for s in samples for wrong in s["wrong"]]
        late = sum(sample["out_of_order"] for sample in samples)
        if late and row.supersede and row.transport in IN_ORDER:
            problems.append(f"{where}: {late} answers came after the answer to a later key")
    return problems


def main() -> None:
    """The program."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="of every row, in turn (default: more for fewer typists)")
    parser.add_argument("--seconds", type=float, help="of one window (default: 2 to 5)")
    parser.add_argument("--typists", default="1,10,100,300", help="how many type at once (default: 1,10,100,300)")
    parser.add_argument("--guide", metavar="PYTHON", help="the python of an environment with FastAPI and uvicorn")
    given = parser.parse_args()
    plan = {}
    for typists in map(int, given.typists.split(",")):
        rounds, seconds = (1, 2.0) if given.quick else PLAN.get(typists, OTHER)
        plan[typists] = given.rounds or rounds, given.seconds or seconds
    cores = Cores.divide(given.server_cores)
    began = time.monotonic()
    windows = ", ".join(f"{rounds} × {seconds:g} s for {typists}" for typists, (rounds, seconds) in plan.items())
    about = introduce(cores, f"windows, in turn: {windows}")
    if given.guide:
        about["guide"] = guide_versions(given.guide)
        print(about["guide"])
    else:
        print("the guide's server is not measured: give --guide PYTHON, of an environment with FastAPI and uvicorn")
    results: dict[int, dict[Cell, list[Sample]]] = {}
    with ExitStack() as stack:
        bench = Bench(stack, cores, given.guide)
        for row in bench.rows():
            bench.window(row, 10, WARM_S, 0)
        resting = bench.at_rest(AT_REST_S)
        print("at rest: " + ", ".join(f"{name} {ms:.1f} ms of CPU a second" for name, ms in resting.items()))
        for typists, (rounds, seconds) in plan.items():
            cells: dict[Cell, list[Sample]] = {(typists, row): [] for row in bench.rows()}
            for number in range(rounds):
                # There and back, so that what is compared does not always come in the same order.
                for cell in list(cells) if number % 2 == 0 else reversed(list(cells)):
                    cells[cell].append(bench.window(cell[1], typists, seconds, number + 1))
                    if sys.stderr.isatty():
                        print(f"\r{typists} typists, round {number + 1}: {cell[1].title:34}", end="", file=sys.stderr)
            if sys.stderr.isatty():
                print(f"\r{'':60}\r", end="", file=sys.stderr)
            results[typists] = cells
            print_level(typists, cells)
    every = {cell: samples for cells in results.values() for cell, samples in cells.items()}
    problems = check(every)
    samples = [sample for found in every.values() for sample in found]
    overtaken = {row.title: sum(s["out_of_order"] for s in found) for (_, row), found in every.items()}
    print(
        "\nlast key: from when a text's last key was due until its answer; n keys; without an answer counts as endless"
    )
    print(
        f"{sum(sample['answers'] for sample in samples)} answers, each compared with the model's own: "
        f"{sum(bool(sample['wrong']) for sample in samples)} windows with a wrong one; "
        f"overtaken by a later key's: {sum(overtaken.values())} {[t for t, n in overtaken.items() if n] or ''}"
    )
    print(
        f"generator at most {max(s['generator'] for s in samples):.0%} of its core, "
        f"lag p99 at most {max(s['lag ms'] for s in samples):.2f} ms; {time.monotonic() - began:.0f} s"
    )
    write(
        given.json,
        {
            "machine": about,
            "rounds and seconds": plan,
            "keys a second": KEYS_PER_S,
            "at rest, CPU ms a second": resting,
            "cells": [
                {"typists": typists, **row._asdict(), **summary(found)} for (typists, row), found in every.items()
            ],
        },
    )
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
