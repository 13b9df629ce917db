"""The fixtures of the fault tests: `world` (world.py says how to use it) and `report`.

Figures go to the file that INFERD_FAULTS_REPORT names, one JSON object a line: row, test, name, value, unit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.world import World

PASSED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Names the mark of these tests."""
    config.addinivalue_line("markers", "faults: a fault is injected into a real daemon (make faults)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder is a fault test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers whether the test itself has passed, for the fixture that checks the world after it."""
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def row_of(path: Path) -> str:
    """The row of the catalogue that a file tests: "T4g" for test_t04g_cuda_memory.py."""
    found = re.match(r"test_t0*(\d+)(g?)_", path.name)
    return f"T{found[1]}{found[2]}" if found else ""


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, float, str], None]:
    """report(name, value, unit): a figure that is told and never asserted."""

    def tell(name: str, value: float, unit: str) -> None:
        figure = {"row": row_of(request.path), "test": request.node.name, "name": name, "value": value, "unit": unit}
        request.node.user_properties.append((name, f"{value:g} {unit}"))
        print(f"{figure['row']}: {name} {value:g} {unit}")
        if path := os.environ.get("INFERD_FAULTS_REPORT"):
            with open(path, "a") as sink:
                sink.write(json.dumps(figure) + "\n")

    return tell


@pytest.fixture
def world(tmp_path: Path, report: Callable[[str, float, str], None], request: pytest.FixtureRequest) -> Iterator[World]:
    """A place to start daemons in; checks the invariants I1 to I6 when the test has passed."""
    with World(tmp_path, report).lifetime() as made:
        yield made
        if request.node.stash.get(PASSED, False):
            made.check()
