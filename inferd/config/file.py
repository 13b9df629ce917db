"""The TOML file: its values with the lines they stand on, and all that is wrong in it, a sentence each."""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from typing import Any, NamedTuple

from inferd.errors import ConfigError

from .definition import FILE, Setting, described, nearest
from .lines import Lines
from .models import FOLDER_TARGET, SHA256, ModelConfig, check_name, wrong_in
from .settings import SETTINGS

# A configuration has a few KiB; what is larger is some other file.
MAX_FILE_BYTES = 4 * 1024 * 1024
MODEL_KEYS = ("target", "sha256", "options")
_TABLES = ("models", *dict.fromkeys(setting.table for setting in SETTINGS.values() if setting.table))
# Lines that are no TOML, told at once; each costs a reading of the whole file.
_MAX_SLIPS = 20
# More than this many decimal digits Python does not convert.
_MAX_DIGITS = 4300
_LONG_NUMBER = re.compile(rf"(?:[0-9]_?){{{_MAX_DIGITS + 1}}}")
_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Mistake(NamedTuple):
    """What is wrong, in a sentence, and where: `inferd.toml:12`, a variable, a flag; "" where the sentence says it."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}" if self.where else self.sentence


class ConfigFile:
    """What a file says, as far as it is right: `values` of the settings by their names, `models`, and `mistakes`.

    Raises ConfigError when it cannot be read at all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.models: list[ModelConfig] = []
        # Which items of a list are its values: not those that are wrong.
        self._items: dict[str, list[int]] = {}
        # Settings, and models as `models.NAME`, that are there and wrong.
        self.wrong: set[str] = set()
        self.mistakes: list[Mistake] = []
        self.is_toml = True
        self._folder = os.path.dirname(os.path.abspath(path))
        text = _text(path)
        try:
            self._lines = Lines(text)
            self._tables(self._parse(text))
        except RecursionError as error:
            raise ConfigError(f"{path}: this is nested too deep to be a configuration") from error

    def where(self, name: str, item: int | None = None) -> str:
        """`inferd.toml:12` of a setting, of one of the values of a list, or of the target of `models.NAME`."""
        if name not in SETTINGS:
            return self._where(*name.split(".", 1), "target")
        table, _, key = SETTINGS[name].place.partition(".")
        number = () if item is None else (self._items[name][item],)
        return self._where(*((table, key) if key else (table,)), *number)

    # ---- TOML

    def _parse(self, text: str) -> dict[str, Any]:
        """The tables. What is there twice is told and left out, and so is the first line that is no TOML, so that one
        slip does not hide others."""
        for again in self._lines.again:
            name = ".".join(map(str, again.path))
            self._wrong_at(again.line, f"{name} is there twice, first on line {again.first}; take one out")
            text = _without(text, again.start, again.end)
        for _ in range(_MAX_SLIPS):
            try:
                return tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                line, column, problem = _place(str(error), text)
                # What else is no TOML may follow from the first; a header that is not closed does not.
                if not self.is_toml and "declaration" not in problem:
                    return {}
                self.is_toml = False
                self.mistakes.append(Mistake(f"{self.path}:{line}:{column}", f"this is no TOML: {problem}"))
                text = _without_line(text, line)
            except ValueError:  # what Python refuses to convert, by its length
                found = _LONG_NUMBER.search(text)
                line = text.count("\n", 0, found.start()) + 1 if found else 1
                self.is_toml = False
                self._wrong_at(line, f"a number here has more than {_MAX_DIGITS} digits, and no setting is that large")
                return {}
        return {}

    # ---- what it says

    def _tables(self, document: dict[str, Any]) -> None:
        for name, value in document.items():
            if name == "models":
                self._read_models(value)
            elif name in _TABLES:
                if isinstance(value, dict):
                    self._read_table(name, value)
                else:
                    self._wrong(f"{name} must be a table: begin it with a line [{name}]", name)
            else:
                self._read("", name, value)

    def _read_table(self, table: str, entries: dict[str, Any]) -> None:
        for key, value in entries.items():
            self._read(table, key, value)

    def _read(self, table: str, key: str, value: Any) -> None:
        """One setting of a table ("": the top)."""
        found = next((s for s in SETTINGS.values() if (s.table, s.key) == (table, key)), None)
        at = (table, key) if table else (key,)
        if found is None:
            self._wrong(_unknown(table, key, value), *at)
            return
        try:
            if not found.repeatable:
                self.values[found.name] = self._one(found, value)
                return
            if not isinstance(value, list):
                raise ConfigError(f"{key} must be a list, not {described(value)}: write {key} = […]")
        except ConfigError as error:
            self.wrong.add(found.name)
            self._wrong(str(error), *at)
            return
        values = []
        self._items[found.name] = []
        for number, item in enumerate(value):
            try:
                values.append(self._one(found, item))
                self._items[found.name].append(number)
            except ConfigError as error:
                self._wrong(str(error), *at, number)
        self.values[found.name] = tuple(values)
        if value and not values:
            self.wrong.add(found.name)

    def _one(self, setting: Setting, value: Any) -> Any:
        read = setting.of_toml(setting.key, value)
        return self._path(read) if setting.kind is FILE else read

    def _path(self, text: str) -> str:
        """A path as seen from the file's folder. A bare name that is in $CREDENTIALS_DIRECTORY stays what it is: there
        it is looked for first (inferd/serve/secret.py)."""
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        if credentials and "/" not in text and os.path.exists(os.path.join(credentials, text)):
            return text
        return os.path.join(self._folder, os.path.expanduser(text))

    # ---- models

    def _read_models(self, models: Any) -> None:
        if not isinstance(models, dict):
            self._wrong("models must be tables by name: begin each with a line [models.NAME]", "models")
            return
        for name, table in models.items():
            model = self._model(name, table)
            if model is not None:
                self.models.append(model)
            else:
                self.wrong.add(f"models.{name}")

    def _model(self, name: str, table: Any) -> ModelConfig | None:
        at = ("models", name)
        try:
            check_name(name)
        except ConfigError as error:
            self._wrong(str(error), *at)
            return None
        if not isinstance(table, dict):
            self._wrong(f'model {name!r} must be a table: write [models.{name}], and target = "…" below it', *at)
            return None
        for key in table:
            if key not in MODEL_KEYS:
                hint = nearest(key, MODEL_KEYS) or f"; an argument of the model itself is written options.{key}"
                self._wrong(f"{key!r} is no key of [models.{name}]{hint}", *at, key)
        options = table.get("options", {})
        if not isinstance(options, dict):
            self._wrong("options must be a table: write options.KEY = VALUE", *at, "options")
            options = {}
        for key, value in options.items():
            self._check_option(key, value, (*at, "options", key))
        target, sha256 = table.get("target"), table.get("sha256", "")
        if target is None and not self.is_toml:
            return None  # it may be in what could not be read
        if not isinstance(target, str):
            said = "" if target is None else f", not {described(target)}"
            self._wrong(
                f"model {name!r} needs its target in quotes{said}: file.py:Name, package.module:Name, hf:FOLDER, or a "
                "built-in model's name",
                *at,
                "target",
            )
            return None
        try:
            model = ModelConfig.of(name, target, self._folder)
        except ConfigError as error:
            self._wrong(f"[models.{name}]: {error}", *at, "target")
            return None
        if model.target == FOLDER_TARGET and options:
            self._wrong("a Hugging Face folder takes no options", *at, "options")
        if "sha256" in table:
            sha256 = self._pin(model, sha256, *at, "sha256")
        return ModelConfig(name, model.target, {**model.options, **options}, sha256)

    def _pin(self, model: ModelConfig, sha256: Any, *at: str) -> str:
        """The pin; "" for what is none, which is not to be compared with any file."""
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
            said = f"text of {len(sha256)}" if isinstance(sha256, str) else described(sha256)
            self._wrong(f"sha256 must be 64 of the digits 0-9 and a-f, as sha256sum prints them, not {said}", *at)
            return ""
        if not model.pinned:
            self._wrong("sha256 pins the file of file.py:Name or the weights of hf:FOLDER; this target is neither", *at)
        return sha256

    def _check_option(self, key: str, value: Any, at: tuple[str, ...]) -> None:
        if not key.isidentifier():
            self._wrong(f"options.{key} cannot be an argument: use a name of Python", *at)
        for inner, sentence in wrong_in(key, value):
            self._wrong(sentence, *at, *inner)

    # ---- mistakes

    def _wrong(self, sentence: str, *at: str | int) -> None:
        self.mistakes.append(Mistake(self._where(*at), sentence))

    def _wrong_at(self, line: int, sentence: str) -> None:
        self.mistakes.append(Mistake(f"{self.path}:{line}", sentence))

    def _where(self, *at: str | int) -> str:
        return f"{self.path}:{self._lines.of(*at)}"


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: the configuration cannot be read") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: this is larger than {MAX_FILE_BYTES} bytes, and so no configuration")
    try:
        # Some editors begin a file with a byte order mark; TOML knows none.
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: this is no text in UTF-8; save it as such") from error


def _without(text: str, start: int, end: int) -> str:
    """The text with a part of it blank, every line where it was."""
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def _without_line(text: str, line: int) -> str:
    """The text with a line of it blank: with all of its table, if it is a header, as that is nobody's then."""
    start = sum(map(len, text.split("\n")[: line - 1])) + line - 1
    end = text.find("\n", start) % (len(text) + 1)
    if text[start:end].lstrip().startswith("["):
        following = _HEADER.search(text, end)
        end = following.start() if following else len(text)
    return _without(text, start, end)


def _place(message: str, text: str) -> tuple[int, int, str]:
    """Line, column and problem of what tomllib says."""
    found = _AT.search(message)
    problem = message[: found.start()] if found else message
    if found and found[1]:
        if problem.startswith("Cannot declare") and "]" not in text.split("\n")[int(found[1]) - 1]:
            problem = "Expected ']' at the end of a table declaration"  # which it looks for last
        return int(found[1]), int(found[2]), problem
    last = text.rstrip("\n").rpartition("\n")[2]
    return text.rstrip("\n").count("\n") + 1, len(last) + 1, f"{problem} at the end of the file"


def _unknown(table: str, key: str, value: Any) -> str:
    """What to do about a key that no setting has there."""
    if not table and isinstance(value, dict):
        return f"there is no table [{key}]{nearest(key, _TABLES, '[{}]')}"
    place = f"[{table}]" if table else "the top of the file"
    keys = [setting.key for setting in SETTINGS.values() if setting.table == table]
    # The same key in another table, or a setting by the name of its flag.
    found = next((setting for setting in SETTINGS.values() if key in (setting.key, setting.name)), None)
    if found is not None and found.table != table:
        goes = f"in [{found.table}]" if found.table else "at the top, before the first table"
        hint = f"; it is written {goes}" if found.key == key else f"; write {found.key} {goes}"
    elif found is not None:
        hint = f"; write {found.key}"
    else:
        hint = nearest(key, keys) or nearest(key, [s.key for s in SETTINGS.values()])
        hint = hint or f"; there are: {', '.join(sorted(keys))}"
    return f"{key!r} is no key of {place}{hint}"
