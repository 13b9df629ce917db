"""From a target such as `file.py:Name` to a model that can be served.

What people have works as it is: a class with `forward` and any of load, preprocess, postprocess; an `nn.Module`, or a
function that makes one.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from inferd.errors import ModelLoadError
from inferd.wire.tensor import Spec, specs

DEFAULT_MAX_BATCH_SIZE = 64


class Served:
    """A model behind one face.

    `inputs` and `outputs` are its declared signature (None: not declared), `preprocess` and `postprocess` its own or
    None, `writes_inputs` whether its forward has been seen to change its batch in place.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.model = model
        self.preprocess: Callable[..., Any] | None = getattr(model, "preprocess", None)
        self.postprocess: Callable[[Any], Any] | None = getattr(model, "postprocess", None)
        self.max_batch_size: int = getattr(model, "max_batch_size", DEFAULT_MAX_BATCH_SIZE)
        self.example: Mapping[str, Any] | None = getattr(model, "example", None)
        self.inputs: tuple[Spec, ...] | None = _signature(model, "inputs")
        self.outputs: tuple[Spec, ...] | None = _signature(model, "outputs")
        self.writes_inputs = False
        if not isinstance(self.max_batch_size, int) or self.max_batch_size < 1:
            raise ModelLoadError(f"max_batch_size of model {name!r} must be a whole number of at least 1")

    def load(self, device: torch.device) -> None:
        """Once per worker: weights onto the device."""
        load = getattr(self.model, "load", None)
        if load is not None:
            load(device)

    def forward(self, batch: Any) -> Any:
        """The batch through the model."""
        return self.model.forward(batch)

    def describe(self) -> dict[str, Any]:
        """As it is announced in WELCOME."""
        return {
            "name": self.name,
            "inputs": None if self.inputs is None else [spec.row() for spec in self.inputs],
            "outputs": None if self.outputs is None else [spec.row() for spec in self.outputs],
            "max_batch_size": self.max_batch_size,
        }


class ServedModule(Served):
    """An `nn.Module`: one tensor is passed as it is, several by name."""

    def load(self, device: torch.device) -> None:
        self.model.to(device).eval()

    def forward(self, batch: Any) -> Any:
        if isinstance(batch, dict):
            return self.model(next(iter(batch.values()))) if len(batch) == 1 else self.model(**batch)
        return self.model(batch)


def _signature(model: Any, attribute: str) -> tuple[Spec, ...] | None:
    declared = getattr(model, attribute, None)
    if declared is None:
        return None
    try:
        return specs(declared)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelLoadError(f"{attribute} must be {{name: (dtype, shape)}}: {error}") from error


def load_model(name: str, target: str, options: Mapping[str, Any]) -> Served:
    """The model of `target`, made with `options`. Raises ModelLoadError naming the line of the user's file."""
    module_name, _, attribute = target.rpartition(":")
    try:
        module = _import_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    except BaseException as error:
        raise ModelLoadError(_cannot(f"import {module_name}", error, module_name)) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        public = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise ModelLoadError(f"{module_name} has no {attribute!r}; it has: {public or 'nothing that can be called'}")
    if not callable(factory) or isinstance(factory, torch.nn.Module):
        raise ModelLoadError(f"{target} must be a class or a function that makes the model, not the model itself")
    try:
        model = factory(**options)
    except BaseException as error:
        raise ModelLoadError(_cannot(f"make {target}", error, module_name)) from error
    if not callable(getattr(model, "forward", None)):
        raise ModelLoadError(f"{target} has no forward(batch); a model needs that one method")
    if isinstance(model, torch.nn.Module):
        return ServedModule(name, model)
    return Served(name, model)


def _import_file(path: str) -> ModuleType:
    name = Path(path).stem
    # The file's neighbours can be imported, as if it were run as a script.
    folder = str(Path(path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _cannot(what: str, error: BaseException, module_name: str) -> str:
    where = location(error, module_name)
    return f"cannot {what}: {where + ': ' if where else ''}{type(error).__name__}: {error}"


def location(error: BaseException, module_name: str = "") -> str:
    """`file.py:12` of the line of the user's code that led to `error`: the deepest in the model's own file, else the
    deepest outside inferd and the import machinery; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    origin = module_name if module_name.endswith(".py") else inspect_origin(module_name)
    own_folder = str(Path(__file__).parent)
    users = [f for f in frames if not f.filename.startswith(("<", own_folder)) and "/importlib/" not in f.filename]
    for frame in reversed(users):
        if frame.filename == origin:
            return f"{frame.filename}:{frame.lineno}"
    return f"{users[-1].filename}:{users[-1].lineno}" if users else ""


def inspect_origin(module_name: str) -> str:
    """The file a loaded module came from, or ""."""
    module = sys.modules.get(module_name)
    try:
        return inspect.getsourcefile(module) or "" if module else ""
    except TypeError:
        return ""
