"""From a target such as `file.py:Name` to a model that can be served.

What people have works as it is: a class with `forward` and any of load, preprocess, postprocess; an `nn.Module`, or a
function that makes one; a Hugging Face folder (`inferd/models/hf/`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import io
import linecache
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch

from inferd.config import ModelConfig
from inferd.config.models import FOLDER_WEIGHTS
from inferd.errors import ModelLoadError
from inferd.wire.tensor import Spec, specs
from inferd.work.device import DTYPES

DEFAULT_MAX_BATCH_SIZE = 64


class Served:
    """A model behind one face.

    `inputs` and `outputs` are its declared signature (None: not declared), `preprocess` and `postprocess` its own or
    None, `by_row` whether it has either, `takes_values` whether it declares inputs that are no tensors, `writes_inputs`
    whether its forward has been seen to change its batch in place.

    `variable` has the positions of the −1 sizes of each declared input whose requests share batches whatever those
    sizes are: they are padded with the value in `padding`, or listed when the model is `ragged` or has a preprocess.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.model = model
        self.preprocess: Callable[..., Any] | None = getattr(model, "preprocess", None)
        # Held while it runs: it may run beside forward, but never twice at once.
        self.preprocessing = threading.Lock()
        self.postprocess: Callable[[Any], Any] | None = getattr(model, "postprocess", None)
        self.max_batch_size: int = getattr(model, "max_batch_size", DEFAULT_MAX_BATCH_SIZE)
        self.example: Mapping[str, Any] | None = getattr(model, "example", None)
        self.inputs: tuple[Spec, ...] | None = _signature(model, "inputs")
        self.outputs: tuple[Spec, ...] | None = _signature(model, "outputs")
        self.padding = self._padding()
        self.ragged: bool = getattr(model, "ragged", False) is True
        self.length_buckets: bool = getattr(model, "length_buckets", False) is True
        self.batch_sizes = self._batch_sizes()
        self.version: str | None = _text(getattr(model, "version", None))
        self.objective_ms = self._objective()
        self.warms_up: bool = getattr(model, "warm_up", True) is not False
        self.variable = self._variable()
        self.takes_values = any(not spec.is_tensor for spec in self.inputs or ())
        self.by_row = self.preprocess is not None or self.postprocess is not None
        # (rows, seconds) of the batches of the warm-up, and the elements of one of their items.
        self.latency: list[tuple[int, float]] = []
        self.latency_elements = 1
        self.writes_inputs = False
        if not isinstance(self.max_batch_size, int) or self.max_batch_size < 1:
            raise ModelLoadError(f"max_batch_size of model {name!r} must be a whole number of at least 1")
        if self.batch_sizes:
            self.max_batch_size = self.batch_sizes[-1]

    @property
    def as_items(self) -> bool:
        """Whether inputs of variable size are given on as a list of items, as they came."""
        return self.ragged or self.preprocess is not None

    def _padding(self) -> dict[str, float]:
        padding = getattr(self.model, "padding", None)
        if padding is None or (isinstance(self.model, torch.nn.Module) and not isinstance(padding, Mapping)):
            return {}  # some modules of torch have a `padding` of another meaning
        if not isinstance(padding, Mapping) or not all(
            isinstance(key, str) and isinstance(value, bool | int | float) for key, value in padding.items()
        ):
            raise ModelLoadError(f"padding of model {self.name!r} must be {{name: the number to pad with}}")
        return dict(padding)

    def _batch_sizes(self) -> tuple[int, ...]:
        sizes = getattr(self.model, "batch_sizes", None)
        if sizes is None:
            return ()
        if (
            not isinstance(sizes, list | tuple)
            or not sizes
            or not all(type(size) is int and size >= 1 for size in sizes)
        ):
            raise ModelLoadError(f"batch_sizes of model {self.name!r} must be whole numbers of at least 1")
        return tuple(sorted(set(sizes)))

    def _objective(self) -> float | None:
        objective_ms = getattr(self.model, "objective_ms", None)
        if objective_ms is None:
            return None
        if not isinstance(objective_ms, int | float) or not 0 < objective_ms < math.inf:
            raise ModelLoadError(f"objective_ms of model {self.name!r} must be a number of milliseconds above 0")
        return float(objective_ms)

    def _variable(self) -> dict[str, tuple[int, ...]]:
        if not self.padding and not self.ragged:
            return {}
        if self.padding and self.ragged:
            raise ModelLoadError(f"model {self.name!r} has both padding and ragged: what is ragged is not padded")
        sizes = {
            spec.name: tuple(at for at, size in enumerate(spec.shape) if size == -1)
            for spec in self.inputs or ()
            if spec.is_tensor and -1 in spec.shape
        }
        if self.as_items:
            if self.preprocess is None and not sizes:
                raise ModelLoadError(f"model {self.name!r} is ragged: declare inputs, with −1 for the sizes that vary")
            return sizes
        for name in self.padding:
            if name not in sizes:
                raise ModelLoadError(f"padding of model {self.name!r}: {name!r} is no declared input with a size of −1")
        for spec in self.inputs or ():
            if spec.name in self.padding:
                try:
                    torch.full((1,), self.padding[spec.name], dtype=DTYPES[spec.dtype])
                except (RuntimeError, OverflowError, ValueError) as error:
                    raise ModelLoadError(f"padding of model {self.name!r}: {spec.name!r}: {error}") from error
        return {name: sizes[name] for name in self.padding}

    def load(self, device: torch.device) -> None:
        """Once per worker: weights onto the device."""
        load = getattr(self.model, "load", None)
        if load is not None:
            load(device)

    def forward(self, batch: Any) -> Any:
        """The batch through the model."""
        return self.model.forward(batch)

    def describe(self) -> dict[str, Any]:
        """As it is announced in WELCOME, and as the door and the scheduler know it."""
        return {
            "name": self.name,
            "inputs": None if self.inputs is None else [spec.row() for spec in self.inputs],
            "outputs": None if self.outputs is None else [spec.row() for spec in self.outputs],
            "max_batch_size": self.max_batch_size,
            "batch_sizes": list(self.batch_sizes) or None,
            "version": self.version,
            "objective_ms": self.objective_ms,
            "padding": [] if self.ragged else sorted(self.variable),
            "ragged": self.ragged,
            "length_buckets": self.length_buckets,
            "latency": [[rows, round(seconds, 7)] for rows, seconds in self.latency],
            "latency_elements": self.latency_elements,
        }


class ServedModule(Served):
    """An `nn.Module`: one tensor is passed as it is, several by name.

    The lengths of a padded `x` are passed as `x_lengths` to a forward that has such a parameter.
    """

    def __init__(self, name: str, model: Any) -> None:
        super().__init__(name, model)
        self._takes = _parameters(model.forward)

    def load(self, device: torch.device) -> None:
        self.model.to(device).eval()

    def forward(self, batch: Any) -> Any:
        if not isinstance(batch, dict):
            return self.model(batch)
        if self.padding:
            named = {name.replace(".", "_"): value for name, value in batch.items()}
            batch = {k: v for k, v in named.items() if k in self._takes or not k.endswith("_lengths")}
        return self.model(next(iter(batch.values()))) if len(batch) == 1 else self.model(**batch)


class ServedFolder(Served):
    """A Hugging Face folder whose weights are pinned. A library opens them, by their name: what it has opened has to be
    what was compared before."""

    def __init__(self, config: ModelConfig, model: Any) -> None:
        super().__init__(config.name, model)
        self._config = config

    def load(self, device: torch.device) -> None:
        super().load(device)
        _check_digest(self._config, os.path.join(self.model.folder.path, FOLDER_WEIGHTS))


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a compiled one
        return set()


def _text(value: Any) -> str | None:
    return None if value is None or callable(value) else str(value)


def _signature(model: Any, attribute: str) -> tuple[Spec, ...] | None:
    declared = getattr(model, attribute, None)
    if declared is None:
        return None
    try:
        return specs(declared)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelLoadError(f"{attribute} must be {{name: (dtype, shape)}}: {error}") from error


def load_model(config: ModelConfig) -> Served:
    """The model that is configured; with a pin, only if its file has that digest. Raises ModelLoadError naming the line
    of the user's file."""
    name, target, source = config.name, config.target, config.source
    module_name, _, attribute = target.rpartition(":")
    if config.sha256:
        source = pinned_source(config)
    _see_working_folder(module_name)
    try:
        if module_name.endswith(".py"):
            module = _import_file(module_name, source)
        else:
            module = importlib.import_module(module_name)
    except BaseException as error:
        raise ModelLoadError(_cannot(f"import {module_name}", error, module_name)) from error
    factory = getattr(module, attribute, None)
    if factory is None:
        public = ", ".join(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise ModelLoadError(f"{module_name} has no {attribute!r}; it has: {public or 'nothing that can be called'}")
    if not callable(factory) or isinstance(factory, torch.nn.Module):
        raise ModelLoadError(f"{target} must be a class or a function that makes the model, not the model itself")
    try:
        model = factory(**config.options)
    except ModelLoadError:
        raise  # of inferd's own models, and a whole sentence
    except BaseException as error:
        raise ModelLoadError(_cannot(f"make {target}", error, module_name)) from error
    if not callable(getattr(model, "forward", None)):
        raise ModelLoadError(f"{target} has no forward(batch); a model needs that one method")
    if isinstance(model, torch.nn.Module):
        return ServedModule(name, model)
    if config.sha256 and config.folders:
        return ServedFolder(config, model)
    return Served(name, model)


def _see_working_folder(module_name: str) -> None:
    """The user's models can import from the folder the daemon was started in, as from a script's. Not before: what
    torch imports is looked for elsewhere; and not for inferd's own models."""
    if module_name.startswith("inferd."):
        return
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        return
    if folder not in sys.path:
        sys.path.insert(0, folder)


def pinned_source(model: ModelConfig) -> bytes | None:
    """Checks the pin of a model before any of it is run; the source of a Python file, None for a folder's weights.

    Raises ModelLoadError when the file is another one, cannot be read, or there is none to pin.
    """
    path = model.pinned
    if not path:
        raise ModelLoadError(f"model {model.name!r}: sha256 pins file.py:Name and hf:FOLDER, and this is neither")
    if astray := model.astray():
        raise _refused(path, f"model {model.name!r}: {astray}")
    return _check_digest(model, path)


def _check_digest(model: ModelConfig, path: str) -> bytes | None:
    """As `pinned_source`, of the file at `path`."""
    try:
        if model.file:
            source = Path(path).read_bytes() if model.source is None else model.source
            state = hashlib.sha256(source)
        else:
            source = None
            with open(path, "rb") as file:
                state = hashlib.file_digest(file, "sha256")
    except (OSError, ValueError) as error:  # a ValueError for what cannot be a path
        why = error.strerror if isinstance(error, OSError) else error
        raise ModelLoadError(
            f"model {model.name!r} is pinned to the sha256 of {path}, and that cannot be read: {why}"
        ) from error
    found = state.hexdigest()
    if found != model.sha256:
        raise _refused(
            path,
            f"model {model.name!r}: {path} is not the file that was pinned, and nothing of it was run. Its sha256 is "
            f"{found}, the configuration says {model.sha256}; put the right file there, or pin this one if it is right",
        )
    return source


def _refused(where: str, sentence: str) -> ModelLoadError:
    error = ModelLoadError(sentence)
    error.location = where
    return error


class _Source(SourceFileLoader):
    """Runs the source that was read and, if it is pinned, checked: not what has come into the file since. Never byte
    code from beside it, which Python takes for the file's while size and second are the same: a reload can come
    sooner."""

    def __init__(self, name: str, path: str, source: bytes | None) -> None:
        super().__init__(name, path)
        self._source = super().get_data(path) if source is None else source

    def get_data(self, path: str) -> bytes:
        return self._source if path == self.path else super().get_data(path)

    def get_code(self, fullname: str) -> CodeType:
        code = self.source_to_code(self._source, self.path)
        # Tracebacks and inspect show the lines that are run; an entry without a time is not compared with the file.
        lines = list(io.StringIO(importlib.util.decode_source(self._source)))
        linecache.cache[self.path] = (len(self._source), None, lines, self.path)
        return code


def _import_file(path: str, source: bytes | None = None) -> ModuleType:
    name = Path(path).stem
    # The file's neighbours can be imported, as if it were run as a script.
    folder = str(Path(path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, path, source))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    if name not in sys.modules or getattr(sys.modules[name], "__file__", None) == path:
        sys.modules[name] = module  # a model's file may be called as something that others import
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
    own_folder = str(Path(__file__).parents[1])
    users = [f for f in frames if not f.filename.startswith(("<", own_folder)) and "/importlib/" not in f.filename]
    for frame in reversed(users):
        if frame.filename == origin:
            return f"{frame.filename}:{frame.lineno}"
    return f"{users[-1].filename}:{users[-1].lineno}" if users else ""


def location_in(detail: str) -> str:
    """The same from the text of a traceback: the deepest line outside inferd and its libraries."""
    frames = re.findall(r'File "(.+?)", line (\d+)', detail)
    own_folder = str(Path(__file__).parents[1])
    users = [f for f in frames if not f[0].startswith(("<", own_folder)) and "/site-packages/" not in f[0]]
    return ":".join((users or frames or [("?", "0")])[-1])


def inspect_origin(module_name: str) -> str:
    """The file a loaded module came from, or ""."""
    module = sys.modules.get(module_name)
    try:
        return inspect.getsourcefile(module) or "" if module else ""
    except TypeError:
        return ""


def definition(target: str) -> str:
    """`file.py:12` of the class or function that `target` names; "" if it cannot be found."""
    module_name, _, attribute = target.rpartition(":")
    name = Path(module_name).stem if module_name.endswith(".py") else module_name
    try:
        named = getattr(sys.modules.get(name), attribute, None)
        return f"{inspect.getsourcefile(named)}:{inspect.getsourcelines(named)[1]}" if named is not None else ""
    except (OSError, TypeError):
        return ""
