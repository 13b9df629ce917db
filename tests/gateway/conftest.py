"""One daemon with a gateway for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.serving import MODELS, Served, serving


@pytest.fixture(scope="session")
def gate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the file `shut` holds the model `gate` up."""
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, gate_folder: Path) -> Iterator[Served]:
    """echo, ner, virtual, and those of models.py that harm nobody."""
    models = [f"{name.lower()}={MODELS}:{name}" for name in ("Gate", "Kinds", "Half")]
    words = ["echo", "ner", "virtual", *models, "--set", f"gate.folder={gate_folder}", "--payload-mib", "8"]
    with serving(tmp_path_factory.mktemp("served"), *words) as daemon:
        yield daemon
