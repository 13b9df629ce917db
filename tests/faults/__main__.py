"""Every row of the fault catalogue in its long form, one line each.

    python -m tests.faults [T7 T15 …]

A row is passed, with its figures; or skipped, and why; or FAILED. A row that has no test is FAILED. The exit status is
1 when one is. What pytest said of those that failed follows below the lines.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROWS = [*(f"T{number}" for number in range(1, 5)), "T4g", *(f"T{number}" for number in range(5, 25)), "T27"]
# No row takes half of that.
TIMEOUT_S = 300
# The figures of one test that is run with several parameters are joined with these words.
MOST_FIGURES = 12


def files_of(row: str) -> list[Path]:
    """The files that test a row: test_t04g_device_memory.py for T4g."""
    number, letter = re.fullmatch(r"T(\d+)(g?)", row).groups()  # type: ignore[union-attr]
    return sorted(HERE.glob(f"test_t{int(number):02d}{letter}_*.py"))


def figures_of(path: Path) -> list[str]:
    """What `report` has written, in words; of a figure that was told more than once, the least and the most."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        figure = json.loads(line)
        found.setdefault((figure["name"], figure["unit"]), []).append(figure["value"])
    words = []
    for (name, unit), values in found.items():
        least, most = min(values), max(values)
        span = f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
        words.append(f"{name} {span} {unit}")
    return words


class Outcome:
    """What became of one row: its word, what is said beside it, and what pytest printed if it failed."""

    def __init__(self, word: str, remark: str, output: str = "") -> None:
        self.word = word
        self.remark = remark
        self.output = output


def run(row: str) -> Outcome:
    """Runs a row's tests in a process of their own."""
    files = files_of(row)
    if not files:
        return Outcome("FAILED", "there is no test for it")
    with tempfile.TemporaryDirectory() as folder:
        figures, results = Path(folder, "figures"), Path(folder, "results.xml")
        environment = {**os.environ, "INFERD_FAULTS": "long", "INFERD_FAULTS_REPORT": str(figures)}
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={results}", *map(str, files)]
        try:
            found = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
            return Outcome("FAILED", f"it was not done after {TIMEOUT_S} s", output)
        if not results.exists():
            return Outcome("FAILED", "pytest did not run", found.stdout + found.stderr)
        cases = list(ET.parse(results).getroot().iter("testcase"))
        failed = [
            case.get("name", "?")
            for case in cases
            if case.find("failure") is not None or case.find("error") is not None
        ]
        reasons = [skip.get("message", "") for case in cases if (skip := case.find("skipped")) is not None]
        told = figures_of(figures)
    if failed or found.returncode not in (0, 5):
        return Outcome("FAILED", ", ".join(dict.fromkeys(failed)) or f"pytest: {found.returncode}", found.stdout)
    skipped = "; ".join(dict.fromkeys(reasons))
    if len(reasons) == len(cases):
        return Outcome("skipped", skipped)
    remarks = told[:MOST_FIGURES] + ([f"skipped: {skipped}"] if skipped else [])
    return Outcome("passed", "; ".join(remarks))


def main(rows: list[str]) -> int:
    """The program."""
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    outcomes = {}
    for row in rows or ROWS:
        since = time.monotonic()
        outcome = outcomes[row] = run(row)
        print(f"{row:4} {outcome.word:8} {time.monotonic() - since:5.0f} s  {outcome.remark}", flush=True)
    words = [outcome.word for outcome in outcomes.values()]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("passed", "skipped", "FAILED") if word in words)
    print(f"\n{counts}, in {(time.monotonic() - began) / 60:.1f} minutes")
    for row, outcome in outcomes.items():
        if outcome.output:
            print(f"\n---- {row}\n{outcome.output[-6000:]}")
    return int("FAILED" in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
