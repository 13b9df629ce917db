"""Settings from all that was said: a flag goes before a variable, that before the file, and that before the default."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inferd.errors import ConfigError

from .definition import Setting
from .file import ConfigFile, Mistake
from .models import BUILT_IN, ModelConfig, with_option
from .settings import SETTINGS, Contradiction, Settings

DEFAULT = "default"
_LINE = re.compile(r":(\d+)(:\d+)?$")
# What `inferd serve` reads beside the settings.
_OTHERS = ("INFERD_CONFIG", "INFERD_EXECUTOR")
# How near a name that nobody knows must be to a known one to be taken for it. There are others that are meant for
# somebody else: the client's, and INFERD_PORT and the like, which Kubernetes makes for a service called inferd.
_NEAR = 0.75
# Those of Kubernetes, as for a service called inferd-web: INFERD_WEB_SERVICE_HOST, INFERD_WEB_PORT=tcp://10.0.0.7:7480.
_SERVICE = re.compile(r"(.+_)?(SERVICE_HOST|SERVICE_PORT.*|PORT_[0-9]+_(TCP|UDP|SCTP).*)")
_SERVICE_VALUE = re.compile(r"(tcp|udp|sctp)://.*")
# What looks into the files that settings name.
Look = Callable[[Settings], Iterable[Contradiction]]


@dataclass(frozen=True, slots=True)
class Sources:
    """All that was said: the texts of flags by their settings' names (a tuple for one that was repeated), the
    variables, the TOML file ("": there is none), and the MODELs and --set options of the command line."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    models: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, and where each comes from: `default`, `inferd.toml:12`, `INFERD_SLAB_MIB` or `--slab-mib`. Models
    are there as `models.NAME`."""

    settings: Settings
    origins: Mapping[str, str]


class Mistaken(ConfigError):
    """A configuration that cannot be used: `mistakes` has them all, and so has the text, a line for each."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


def read(sources: Sources, look: Look = lambda settings: ()) -> Configuration:
    """Reads and checks everything. Raises Mistaken with all that is wrong."""
    return _Reading(sources).finish(look)


class _Reading:
    """The values found so far, where each is from, and what is wrong."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = dict.fromkeys(SETTINGS, DEFAULT)
        self._mistakes: list[Mistake] = []
        self._wrong: set[str] = set()
        self._file: ConfigFile | None = None
        if sources.path:
            try:
                self._file = ConfigFile(sources.path)
            except ConfigError as error:
                raise Mistaken([Mistake("", str(error))]) from error
            self._mistakes += self._file.mistakes
            self._wrong |= self._file.wrong
        for setting in SETTINGS.values():
            self._read(setting)
        self._misspelt()
        self._models()

    def finish(self, look: Look) -> Configuration:
        settings = Settings(**self._values)
        found: list[Contradiction] = []
        if self._file is None or self._file.is_toml:  # what would be missed may be in the part that cannot be read
            found = [*settings.contradictions(), *self._missing(settings.models), *look(settings)]
        for contradiction in found:
            if not self._wrong.intersection(contradiction.names):
                self._mistakes.append(Mistake(self._where(contradiction), contradiction.sentence))
        if self._mistakes:
            raise Mistaken(sorted(self._mistakes, key=_order))
        return Configuration(settings, self._origins)

    def _read(self, setting: Setting) -> None:
        name = setting.name
        if self._file is not None and name in self._file.values:
            self._values[name] = self._file.values[name]
            self._origins[name] = self._file.where(name)
        for said, given in (
            (setting.variable, self._sources.environment.get(setting.variable)),
            (setting.flag, self._sources.flags.get(name)),
        ):
            if given in (None, (), False) or (said == setting.variable and not given.strip()):
                continue
            try:
                self._values[name] = _value(setting, said, given)
                self._origins[name] = said
                self._wrong.discard(name)
            except ConfigError as error:
                self._mistakes.append(Mistake("", str(error)))
                self._wrong.add(name)

    def _misspelt(self) -> None:
        """Variables that were meant for settings, and would be ignored: perhaps one that was to keep others out."""
        # By its place in the file too: INFERD_AUTH_TOKENS.
        known = {setting.place.replace(".", "_").upper(): setting.variable for setting in SETTINGS.values()}
        right = {*(setting.variable for setting in SETTINGS.values()), *_OTHERS}
        known |= {name.removeprefix("INFERD_"): name for name in right}
        for name, value in sorted(self._sources.environment.items()):
            word = name.removeprefix("INFERD_")
            if word == name or name in right or not value:
                continue
            if _SERVICE.fullmatch(word) or _SERVICE_VALUE.fullmatch(value):
                continue
            near = difflib.get_close_matches(word, known, n=1, cutoff=_NEAR)
            # Or with more said, as in INFERD_TOKENS_FILE.
            near = near or sorted((part for part in known if f"_{part}_" in f"_{word}_"), key=len)[-1:]
            if near:
                sentence = f"no setting has the variable {name}; did you mean {known[near[0]]}?"
                self._mistakes.append(Mistake("", sentence))

    def _models(self) -> None:
        """The command line's, or else the file's, or else the built-in ones."""
        models: list[ModelConfig] = []
        if self._sources.models or self._file is None or not (self._file.models or self._wrong_models()):
            for text in self._sources.models or BUILT_IN:
                try:
                    models.append(ModelConfig.parse(text))
                except ConfigError as error:
                    self._mistakes.append(Mistake("", str(error)))
                    self._wrong.add("models")
                else:
                    self._origins[f"models.{models[-1].name}"] = "command line" if self._sources.models else DEFAULT
        else:
            models = list(self._file.models)
            self._origins.update({f"models.{model.name}": self._file.where(f"models.{model.name}") for model in models})
        for option in self._sources.options if models else ():
            try:
                models = list(with_option(models, option))
            except ConfigError as error:
                if not self._wrong_models():  # or the model it is for may be the one that is wrong
                    self._mistakes.append(Mistake("", str(error)))
        self._values["models"] = tuple(models)

    def _wrong_models(self) -> bool:
        unread = self._file is not None and not self._file.is_toml
        return unread or any(name.partition(".")[0] == "models" for name in self._wrong)

    def _missing(self, models: Iterable[ModelConfig]) -> Iterable[Contradiction]:
        for item, model in enumerate(models):
            if missing := model.missing():
                yield Contradiction(("models",), f"model {model.name!r}: {missing}", item)

    def _where(self, contradiction: Contradiction) -> str:
        """The line, variable or flag of the first of the names that has been said at all; "" for none, and for a model
        of the command line, which its sentence names."""
        for name in contradiction.names:
            item = contradiction.item if name == contradiction.names[0] else None
            if name == "models" and item is not None:
                name, item = f"models.{self._values['models'][item].name}", None
            origin = self._origins.get(name, DEFAULT)
            if self._file is not None and origin.startswith(self._file.path + ":"):
                return self._file.where(name, item)
            if origin != DEFAULT:
                return origin if name in SETTINGS else ""
        return ""


def _value(setting: Setting, said: str, given: Any) -> Any:
    if setting.repeatable:
        words = given.split() if isinstance(given, str) else given
        return tuple(setting.of_text(said, word) for word in words)
    return setting.of_text(said, given) if isinstance(given, str) else given


def _order(mistake: Mistake) -> tuple[bool, int]:
    """By line; what comes from the environment and the command line last."""
    found = _LINE.search(mistake.where)
    return (False, int(found[1])) if found else (True, 0)
