"""What is served: a name on the wire, where the code is, and the pin of its file."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from inferd.errors import ConfigError

from .definition import described, nearest

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
HUGGING_FACE = "hf:"
# What opens a Hugging Face folder, and the file in it that a pin is about.
FOLDER_TARGET = "inferd.models.hf:open_folder"
FOLDER_WEIGHTS = "model.safetensors"
# The built-in models, by name.
BUILT_IN = {
    "echo": "inferd.models.echo:Echo",
    "ner": "inferd.models.ner:Ner",
    "virtual": "inferd.models.virtual:Virtual",
}
# Opening these runs code that is in them, or has let code in them run although it should not: nothing here opens them.
CODE_FORMATS = (".pt2", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".torchscript")
# Lists and tables of an argument, one in another. What writes them down for workers has its limits, far above this.
MAX_OPTION_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve: its name on the wire, where its code is, and the arguments of its factory.

    `target` is `package.module:Name`, `file.py:Name`, or the name of a built-in model. A Hugging Face folder
    (`hf:FOLDER`) is an option of the built-in model that opens it.
    """

    name: str
    target: str
    options: dict[str, object] = field(default_factory=dict)
    # The SHA-256 of `pinned`, in hex; a model whose file does not have it is not run. "": it is not asked for.
    sha256: str = ""
    # What `file.py` held when the settings were put in force, which is what all workers run until the next reload.
    # None: it is no such file, or could not be read. Not a part of what the operator has set.
    source: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> ModelConfig:
        """From `[name=]target`, as on the command line, where the target may be `hf:FOLDER`. Raises ConfigError."""
        if text.startswith(HUGGING_FACE):
            return cls.of("", text)  # a path may have a "=" in it
        name, equals, target = text.partition("=")
        if equals:
            check_name(name)
        return cls.of(name, target) if equals else cls.of("", text)

    @classmethod
    def of(cls, name: str, target: str, folder: str = "") -> ModelConfig:
        """From a target whose paths are seen from `folder`; without a name the target gives one. Raises ConfigError."""
        if "\0" in target:
            raise ConfigError(f"{target!r} is no model: there is a NUL byte in it; take it out")
        if target.startswith(HUGGING_FACE):
            return cls._of_folder(name, target, folder)
        module, _, attribute = target.rpartition(":")
        _check_format(target, module)
        _check_module(target, module, attribute)
        if target not in BUILT_IN and not (module and attribute):
            known = ", ".join(BUILT_IN)
            raise ConfigError(
                f"{target!r} is no model: use package.module:Name, file.py:Name, hf:FOLDER, or a built-in one ({known})"
                f"{nearest(target, BUILT_IN)}"
            )
        name = name or attribute.lower()
        check_name(name)
        if module.endswith(".py"):
            target = f"{Path(folder, os.path.expanduser(module)).absolute()}:{attribute}"
        return cls(name, BUILT_IN.get(target, target))

    @classmethod
    def _of_folder(cls, name: str, target: str, base: str) -> ModelConfig:
        """A Hugging Face folder; without a name it is the folder's own, as far as that can name a model."""
        folder = os.path.abspath(os.path.join(base, os.path.expanduser(target.removeprefix(HUGGING_FACE))))
        if not name:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(folder)).lstrip("._-")[:64]
            if not name:
                raise ConfigError(f"{folder} has nothing in its name that can name a model: write NAME={target}")
        check_name(name)
        return cls(name, FOLDER_TARGET, {"folder": folder})

    @property
    def pinned(self) -> str:
        """The file that `sha256` is about: the Python file of `file.py:Name`, the weights of `hf:FOLDER`; else ""."""
        folders = self.folders
        return os.path.join(folders[0], FOLDER_WEIGHTS) if folders else self.file

    @property
    def file(self) -> str:
        """The file of `file.py:Name`; "" for other targets."""
        path = self.target.rpartition(":")[0]
        return path if path.endswith(".py") else ""

    @property
    def folders(self) -> list[str]:
        """The folders that `hf:FOLDER` reads from; the first has the weights. None for other targets.

        sentence-transformers can have the parts of a model in folders of their own: modules.json names them.
        """
        if self.target != FOLDER_TARGET:
            return []
        top = str(self.options.get("folder"))
        try:
            with open(os.path.join(top, "modules.json"), "rb") as file:
                inner = [os.path.join(top, module["path"]) for module in json.load(file)]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return [top]  # there is none, or whoever opens the folder says what is wrong with it
        return [*inner, top] if inner else [top]

    def astray(self) -> str:
        """Why the weights of `hf:FOLDER` cannot be pinned where they lie; else "". The file itself may be a link, as in
        the hub's cache: what it leads to is compared, and served."""
        folders = self.folders
        try:
            inner, top = [os.path.realpath(folder) for folder in (folders[0], folders[-1])] if folders else ("/", "/")
        except ValueError:
            return ""  # it cannot be a path, so nothing is opened there
        if os.path.commonpath([inner, top]) == top:
            return ""
        return (
            f"it is pinned, and its modules.json takes the weights from {inner}, which is outside of {folders[-1]}; "
            "copy them into the folder"
        )

    @property
    def said(self) -> str:
        """The target as one would write it."""
        if self.target == FOLDER_TARGET:
            return f"{HUGGING_FACE}{self.options.get('folder')}"
        return next((name for name, target in BUILT_IN.items() if target == self.target), self.target)

    @property
    def texts(self) -> list[str]:
        """All texts in its options, however deep: some may name files."""
        return list(_texts(self.options))

    @property
    def unsayable(self) -> str:
        """What of the target or the options workers cannot be told, as it is no text in UTF-8; else ""."""
        said = {"target": self.target} | {f"option {key}": value for key, value in self.options.items()}
        for name, value in said.items():
            if not _in_utf_8(value):
                return f"{name} = {value!r} is no text in UTF-8; give the file or folder another name"
        return ""

    def missing(self) -> str:
        """What of the target is not there, as far as that can be seen without running any of it; else ""."""
        if self.target == FOLDER_TARGET:
            folder = str(self.options.get("folder"))
            return "" if os.path.isdir(folder) else f"there is no folder {folder}"
        if self.file:
            return "" if os.path.isfile(self.file) else f"there is no file {self.file}"
        package = self.target.rpartition(":")[0].partition(".")[0]
        # A package's own name is looked for without importing it; the worker sees the working folder as well.
        if package in sys.modules or find_spec(package) or PathFinder.find_spec(package, [os.getcwd()]):
            return ""
        return f"there is no module {package!r} here; install it, or name a file: {package}.py:Name"


def digest(path: str) -> str:
    """The SHA-256 of a file, in hex, as sha256sum prints it; "" when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # a ValueError for what cannot be a path
        return ""


def with_sources(models: Iterable[ModelConfig]) -> tuple[ModelConfig, ...]:
    """The models with what their Python files hold now. For one that cannot be read, its worker says why."""
    models = tuple(models)
    sources = {path: _content(path) for path in {model.file for model in models} if path}
    return tuple(replace(model, source=sources.get(model.file)) for model in models)


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _in_utf_8(value: object) -> bool:
    """Whether all text in it has a form in UTF-8: the bytes of a path need not, and JSON can name half of a pair."""
    if isinstance(value, dict):
        return all(map(_in_utf_8, [*value, *value.values()]))
    if isinstance(value, list):
        return all(map(_in_utf_8, value))
    return not isinstance(value, str) or not any("\ud800" <= char <= "\udfff" for char in value)


def check_name(name: str) -> None:
    """Raises ConfigError for what cannot name a model."""
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-', at most 64")


def wrong_in(key: str, value: object, *at: str | int) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What of a model's argument workers cannot be told: where in it, and why."""
    if isinstance(value, dict | list):
        if len(at) == MAX_OPTION_DEPTH:
            yield at, f"options.{key} is nested deeper than {MAX_OPTION_DEPTH} lists and tables; make it flatter"
            return
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from wrong_in(name if isinstance(name, str) else key, inner, *at, name)
    elif isinstance(value, float) and math.isnan(value):
        # It differs from itself, so every reload would replace the model.
        yield at, f"options.{key} is nan, which is no number; leave it out, or say with a text what is meant"
    elif not isinstance(value, str | int | float | None) or (type(value) is int and not -(2**63) <= value < 2**64):
        yield (
            at,
            f"options.{key} is {described(value)}: a model's arguments are text, numbers of up to 64 bits, true or "
            "false, lists and tables",
        )


def _check_format(target: str, module: str) -> None:
    for path in (target, module):
        if path.endswith(CODE_FORMATS):
            raise ConfigError(
                f"{target!r} is no model: opening a {Path(path).suffix} file can run code that is in it, so nothing "
                "here does. Save its weights as safetensors (safetensors.torch.save_file), and name the code that "
                "makes the model and loads them: file.py:Name"
            )
    if target.endswith(".safetensors"):
        raise ConfigError(
            f"{target!r} has weights and no code: name the code that makes the model and loads them: file.py:Name"
        )
    if target.endswith(".py"):
        raise ConfigError(f"{target!r} does not say which model of the file: write {target}:Name")


def _check_module(target: str, module: str, attribute: str) -> None:
    """What is no file.py is looked for as a module, and nobody would find the path of a file among those."""
    if attribute and module and not attribute.isidentifier():
        raise ConfigError(f"{target!r} is no model: {attribute!r} is no name of Python's; write file.py:Name")
    if not attribute or module.endswith(".py"):
        return
    if "/" in module:
        raise ConfigError(f"{target!r} is no model: a file of Python ends in .py; write {module}.py:{attribute}")
    if module.startswith("."):
        raise ConfigError(
            f"{target!r} is no model: a module is named with all its packages, and no dot before them: "
            f"package.module:{attribute}"
        )


def with_option(models: Iterable[ModelConfig], option: str) -> tuple[ModelConfig, ...]:
    """The models with `[MODEL.]KEY=VALUE` of --set in them. Raises ConfigError."""
    models = tuple(models)
    path, equals, text = option.partition("=")
    name, dot, key = path.rpartition(".")
    if not equals or not key.isidentifier():
        raise ConfigError(f"--set {option}: write KEY=VALUE, or MODEL.KEY=VALUE when several models are served")
    if not dot and len(models) > 1:
        raise ConfigError(f"--set {option}: several models are served; write MODEL.{option}")
    name = name or models[0].name
    names = [model.name for model in models]
    if name not in names:
        raise ConfigError(f"--set {option}: no model {name!r} is served; there are: {', '.join(names)}")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    except (ValueError, RecursionError) as error:  # more digits, or lists in lists, than Python reads
        why = f"a model's arguments are numbers of up to 64 bits, and lists and tables at most {MAX_OPTION_DEPTH} deep"
        raise ConfigError(f"--set {option:.60}…: {why}") from error
    for _, sentence in wrong_in(key, value):
        raise ConfigError(f"--set {option if len(option) <= 60 else f'{option:.60}…'}: {sentence}")
    return tuple(
        replace(model, options={**model.options, key: value}) if model.name == name else model for model in models
    )
