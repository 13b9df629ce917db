"""What a setting is: its kind, range and unit, where it stands in the TOML file, and whether a reload can change it.

Everything else that is ever said of a setting follows from its definition: the flag, the variable, the sentence about a
wrong value, the row of docs/CONFIGURATION.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from inferd.errors import ConfigError

MIB = 1024 * 1024
_WORDS = {"s": "seconds"}
# What people write behind a number, and how many of the setting's unit it is.
_UNITS = {
    "MiB": {"MiB": 1, "MB": 1, "M": 1, "m": 1, "GiB": 1024, "GB": 1024, "G": 1024, "g": 1024},
    "s": {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600},
}
_QUANTITY = re.compile(r"\s*([0-9]{1,15})\s*([A-Za-z]*)\s*")
# What has more is no float, and with enough of them Python does not print it.
_MAX_BITS = 1023


class Kind(NamedTuple):
    """What a value is. `wanted` completes "must be …", `types` are those of TOML, and `parse` reads text: it raises
    ValueError for what is something else, and ConfigError with a sentence where there is more to say."""

    wanted: str
    types: tuple[type, ...]
    parse: Callable[[str], Any]
    metavar: str


def _switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _path(text: str) -> str:
    # `--tokens "$UNSET"` would otherwise take away the tokens that the file asks for.
    if not text.strip():
        raise ConfigError("this is empty, and names no file; name one, or leave it out")
    if "\0" in text:
        raise ConfigError("there is a NUL byte in this path, and no file has one in its name; take it out")
    return text


WHOLE = Kind("a whole number", (int,), int, "N")
NUMBER = Kind("a number", (int, float), float, "N")
SWITCH = Kind("true or false", (bool,), _switch, "")
# A path. In the TOML file it is seen from the file's folder.
FILE = Kind("the path of a file, in quotes", (str,), _path, "FILE")


def choice(*words: str) -> Kind:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ConfigError(f"{text!r} is not among {', '.join(words)}{nearest(text, words)}")
        return text

    return Kind(f"{', '.join(words[:-1])} or {words[-1]}, in quotes", (str,), parse, f"[{'|'.join(words)}]")


@dataclass(frozen=True, slots=True)
class Setting:
    """The one definition of a setting; `name` is its field in Settings, `place` its table and key in the TOML file.

    One whose default is a tuple is a list in the file, a repeatable flag, and a variable divided by blanks.
    """

    help: str
    kind: Kind
    place: str
    reloads: bool
    unit: str = ""
    least: float | None = None
    most: float | None = None
    name: str = ""
    default: Any = None

    @property
    def table(self) -> str:
        """Its table in the file; "" for the top."""
        return self.place.rpartition(".")[0]

    @property
    def key(self) -> str:
        """Its key in that table."""
        return self.place.rpartition(".")[2]

    @property
    def repeatable(self) -> bool:
        """Whether it has several values."""
        return isinstance(self.default, tuple)

    @property
    def flag(self) -> str:
        """`--device` of `devices`: a flag names one."""
        return "--" + self._one.replace("_", "-")

    @property
    def variable(self) -> str:
        """`INFERD_DEVICE` of `devices`."""
        return "INFERD_" + self._one.upper()

    @property
    def _one(self) -> str:
        return self.name.removesuffix("s") if self.repeatable else self.name

    @property
    def wanted(self) -> str:
        """`a whole number of MiB, at least 4`: completes "must be …"."""
        words = self.kind.wanted + (f" of {_WORDS.get(self.unit, self.unit)}" if self.unit else "")
        if self.least is not None and self.most is not None:
            return f"{words}, {self.least:g} to {self.most:.15g}"
        return words if self.least is None else f"{words}, at least {self.least:g}"

    def of_text(self, said: str, text: str) -> Any:
        """One value, from a flag or a variable; `said` is what to call it. Raises ConfigError."""
        try:
            value = self.kind.parse(text)
        except ConfigError as error:
            raise ConfigError(f"{said}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{said} must be {self.wanted}, not {text!r}") from error
        return self._in_range(said, value)

    def of_toml(self, said: str, value: Any) -> Any:
        """One value, as TOML has it. Raises ConfigError."""
        if type(value) not in self.kind.types:
            raise ConfigError(f"{said} must be {self.wanted}, not {described(value)}{self._unquoted(value)}")
        if isinstance(value, str):
            return self.of_text(said, value)
        value = self._in_range(said, value)
        return float(value) if self.kind is NUMBER else value

    def shown(self, value: Any) -> str:
        """The value as `config show` prints it, with its unit."""
        if self.repeatable:
            return ", ".join(str(one) for one in value) or "none"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return f"{value:.15g} {self.unit}".rstrip()
        return str(value or "none")

    def _in_range(self, said: str, value: Any) -> Any:
        low, high = self.least, self.most
        if low is None or (low <= value and (high is None or value <= high)):
            return value
        hint = ""
        if self.unit == "MiB" and value >= MIB and value % MIB == 0 and not _is_huge(value):
            hint = f"; it is counted in MiB: did you mean {value // MIB}?"
        shown = described(value) if _is_huge(value) else f"{value:.15g}"
        raise ConfigError(f"{said} must be {self.wanted}, not {shown}{hint}")

    def _unquoted(self, value: Any) -> str:
        """A hint for a number in quotes, perhaps with a unit."""
        found = _QUANTITY.fullmatch(value) if isinstance(value, str) and int in self.kind.types else None
        factor = _UNITS.get(self.unit, {}).get(found[2], 1 if not found[2] else None) if found else None
        return f": write {self.key} = {int(found[1]) * factor}" if found and factor is not None else ""


def setting(default: Any, help: str, kind: Kind, place: str, **more: Any) -> Any:
    """The field of Settings that a definition makes."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, kind, place, **more)})


def settings_of(cls: type) -> dict[str, Setting]:
    """The definitions in a dataclass by the names of their fields, in their order."""
    return {
        field.name: dataclasses.replace(field.metadata["setting"], name=field.name, default=field.default)
        for field in dataclasses.fields(cls)
        if "setting" in field.metadata
    }


def nearest(word: str, words: Iterable[str], form: str = "{!r}") -> str:
    """`; did you mean 'slab_mib'?`, or "" where nothing is near."""
    found = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {form.format(found[0])}?" if found else ""


def described(value: Any) -> str:
    """A value of TOML as a sentence names it: not what is in a list or table, and no more than a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {json.dumps(value[:40], ensure_ascii=False)}"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, datetime.date | datetime.time):
        return "a date or time"
    if _is_huge(value):
        return "a number of more than 300 digits"
    return str(value)[:40]


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > _MAX_BITS
