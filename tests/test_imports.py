"""Who may import whom: the rooms of docs/ARCHITECTURE.md, held by reading every import in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Room → what it may import of inferd (by prefix), and of the outside beyond the standard library.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "memory": (set(), set()),
    "log": (set(), set()),
    "failpoints": (set(), set()),
    "_version": (set(), set()),
    "config": ({"config", "errors", "wire.address"}, set()),
    "wire": ({"errors", "wire"}, {"msgpack"}),
    "schedule": ({"errors", "config", "schedule"}, set()),
    "serve": ({"errors", "config", "memory", "log", "failpoints", "_version", "wire", "schedule", "serve"}, {"uvloop"}),
    "work": (
        {"errors", "config", "memory", "log", "failpoints", "wire", "work"},
        {"torch", "numpy", "msgpack", "safetensors"},
    ),
    "models": ({"models", "errors"}, {"torch", "numpy", "safetensors", "transformers", "tokenizers"}),
    "gateway": (
        {"errors", "config", "log", "_version", "wire", "gateway"},
        {"aiohttp", "prometheus_client", "numpy", "ml_dtypes", "uvloop", "inferd_client"},
    ),
    "cli": ({""}, {"click", "uvloop", "numpy", "matplotlib", "inferd_client"}),
    "__init__": ({"_version"}, {"inferd_client"}),
    "__main__": ({"cli"}, set()),
    "inferd_client": ({"wire", "errors", "_version"}, {"numpy", "ml_dtypes", "inferd_client", "torch", "pytest"}),
}
# The mind reads no clock and waits for nothing.
FORBIDDEN_STDLIB = {"schedule": {"asyncio", "time", "threading", "socket"}, "wire": {"asyncio", "time", "socket"}}
# The process wall: the loop process never imports torch; multiprocessing pickles.
NOWHERE = {"pickle", "marshal", "shelve", "cloudpickle", "dill", "multiprocessing", "yaml"}


def sources() -> list[tuple[str, Path]]:
    found = []
    for path in sorted((ROOT / "inferd").rglob("*.py")):
        parts = path.relative_to(ROOT / "inferd").with_suffix("").parts
        found.append((parts[0], path))
    found += [("inferd_client", path) for path in sorted((ROOT / "clients/python/inferd_client").rglob("*.py"))]
    return found


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1:
                continue  # within its own folder
            assert node.module is not None and node.level == 0, f"{path}:{node.lineno}"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "inferd" else [node.module]
            )
            found += [(node.lineno, name) for name in names]
    return found


@pytest.mark.parametrize(("room", "path"), sources(), ids=lambda value: str(value).removeprefix(str(ROOT) + "/"))
def test_a_room_imports_only_what_it_may(room: str, path: Path) -> None:
    """Every import of every file is one that its room is allowed."""
    inside, outside = ALLOWED[room]
    for line, name in imports(path):
        where = f"{path}:{line} imports {name}"
        top = name.partition(".")[0]
        assert top not in NOWHERE, where
        assert name not in FORBIDDEN_STDLIB.get(room, set()), where
        if top == "inferd":
            rest = name.removeprefix("inferd").removeprefix(".")
            assert any(rest == allowed or rest.startswith(allowed + ".") or allowed == "" for allowed in inside), where
        elif top not in sys.stdlib_module_names:
            assert top in outside, where


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_client_is_light() -> None:
    """`import inferd_client` brings in neither torch nor numpy nor asyncio."""
    assert not {"torch", "numpy", "asyncio"} & loaded_by("import inferd_client")


def test_the_loop_process_has_no_torch() -> None:
    """What `inferd serve` imports before it spawns anything leaves torch alone."""
    assert "torch" not in loaded_by("import inferd.cli, inferd.serve.daemon, inferd.serve.process")


def test_the_gateway_is_a_process_of_its_own() -> None:
    """It brings in no torch, and the daemon none of its libraries."""
    assert "torch" not in loaded_by("import inferd.gateway.app")
    loop = loaded_by("import inferd.cli, inferd.cli.serve, inferd.serve.daemon, inferd.serve.process")
    assert not {"aiohttp", "prometheus_client", "inferd_client", "numpy"} & loop


def test_nothing_can_be_unpickled() -> None:
    """No call anywhere runs code that came as data."""
    bad = {"eval", "exec", "torch.load", "torch.jit.load", "torch.export.load", "numpy.load", "np.load"}
    for _, path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if name in ("np.load", "numpy.load") and keywords.get("allow_pickle") == "False":
                    continue
                assert name not in bad, f"{path}:{node.lineno} calls {name}"
