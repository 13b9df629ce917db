"""Who may import whom: the rooms of docs/ARCHITECTURE.md, held by reading every import in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unpickling import MODULES, findings

ROOT = Path(__file__).parent.parent

# Room → what it may import of inferd (by prefix), and of the outside beyond the standard library.
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "memory": (set(), set()),
    "log": ({"journal"}, set()),
    "journal": (set(), set()),
    "failpoints": (set(), set()),
    "strict_json": (set(), set()),
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
        {"errors", "config", "log", "_version", "strict_json", "wire", "gateway"},
        {"aiohttp", "prometheus_client", "numpy", "ml_dtypes", "uvloop", "inferd_client"},
    ),
    "cli": ({""}, {"click", "uvloop", "numpy", "matplotlib", "inferd_client"}),
    "__init__": ({"_version"}, {"inferd_client"}),
    "__main__": ({"cli"}, set()),
    "inferd_client": ({"wire", "errors", "_version"}, {"numpy", "ml_dtypes", "inferd_client", "torch", "pytest"}),
}
# The mind reads no clock and waits for nothing.
FORBIDDEN_STDLIB = {"schedule": {"asyncio", "time", "threading", "socket"}, "wire": {"asyncio", "time", "socket"}}
# File, function, name: all that imports what is named by a text. A model is the user's own code, named by who starts
# the daemon; no text of the wire gets there.
THE_USERS_MODEL = {
    ("inferd/work/loader.py", "load_model", "importlib.import_module"),  # package.module:Name
    ("inferd/work/loader.py", "_import_file", "importlib.util.spec_from_file_location"),  # file.py:Name
    ("inferd/work/loader.py", "_import_file", "exec_module"),
}


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
        assert top not in MODULES, where
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
    """Nothing anywhere runs code that came as data; what imports the user's model is in one place, and still there."""
    found = {
        (str(path.relative_to(ROOT)), finding.function, finding.name): finding.line
        for _, path in sources()
        for finding in findings(path.read_text())
    }
    assert set(found) == THE_USERS_MODEL, found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import _pickle as json",
        "from multiprocessing.reduction import ForkingPickler",
        "import joblib, dill",
        "import torch\ntorch.load(path)",
        "from torch import load\nload(path, weights_only=False)",
        "from torch import load as read",
        "import torch as t\nt.load(path)",
        "import torch.jit as j\nj.load(path)",
        "import torch\nx = torch\ny = x.jit\ny.load(path)",
        "import torch\nopen_it = torch.load",
        "import torch\nlist(map(torch.load, paths))",
        "import torch\ngetattr(torch, 'load')(path)",
        "import torch\ntorch.serialization.pickle.loads(data)",
        "from torch import serialization",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=not_said)",
        "from numpy import load\nload(path, **{'allow_pickle': True})",
        "import numpy as np\nread = np.load\nread(path)",
        "import pandas as pd\npd.read_pickle(path)",
        "import importlib\nimportlib.import_module('pickle').loads(b'')",
        "from importlib import import_module as get\nget('torch')",
        "__import__('pickle')",
        "import builtins\nbuiltins.exec(text)",
        "def f(text):\n    return eval(text)",
        "run = exec\nrun(text)",
        "spec.loader.exec_module(module)",
        "from torch import *",
    ],
)
def test_no_other_name_hides_it(source: str) -> None:
    """The test above would find it under another name, called or handed on."""
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nmodel.to(device).eval()",
        "import json, tomllib\njson.load(file)\ntomllib.load(file)",
        "from safetensors.torch import load_file, load\nload_file(path)\nload(data)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "from numpy import load\nload(path, allow_pickle=False)",
        "def load(path): ...\nload(path)",
        "import torch\nserved.load(torch.device('cpu'))",
        "import re\nre.compile(text)",
        "import importlib.util\nimportlib.util.find_spec('torch')",
        "import torch\ngetattr(torch, 'float32')",
    ],
)
def test_what_is_harmless_is_no_finding(source: str) -> None:
    """What is only called alike, or reads data as data."""
    assert findings(source) == []
