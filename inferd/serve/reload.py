"""A reload: the settings are read anew, compared with those in force, and put in force whole or not at all.

    SIGHUP ─┐
            ├─▶ read ──▶ compare ──▶ prepare ──▶ apply
    RELOAD ─┘    │          │           │
                 └──────────┴───────────┴─▶ whatever is wrong is said, and nothing is changed

What can fail is done in `prepare`: tokens, certificates, workers with the new models. Applying it is one turn of the
loop. What a file holds counts as a part of the setting that names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from inferd import log
from inferd.config import MIB, SETTINGS, ModelConfig, Settings
from inferd.config.definition import FILE
from inferd.config.models import with_sources
from inferd.errors import ConfigError, InferdError, make
from inferd.serve.notify import Notifier
from inferd.serve.secret import located
from inferd.serve.tls import context_of
from inferd.serve.tokens import GATEWAY, Tokens, read_tokens
from inferd.wire import frame as f
from inferd.wire.batch import escaped
from inferd.wire.peer import CLOSED
from inferd.wire.values import pack_values

if TYPE_CHECKING:
    from ssl import SSLContext

    from inferd.serve.engine import Engine
    from inferd.serve.gateway import Gateway
    from inferd.serve.session import Session

# Sockets are bound, memory is shared and devices are taken once.
NEEDS_RESTART = frozenset(setting.name for setting in SETTINGS.values() if not setting.reloads)
# Settings that name a file, which can change under the same name.
FILES = tuple(setting.name for setting in SETTINGS.values() if setting.kind is FILE)
# What the context of TLS is made of. It is replaced with these alone: whoever has shaken hands by an older one and not
# said HELLO may have to connect again.
OF_TLS = frozenset({"tls_cert", "tls_key", "tls_client_ca"})
# Of the sentence in an ERROR, whose header has to stay under 16 KiB.
MAX_PROBLEM_CHARS = 4000


class Difference(NamedTuple):
    """What is different: names of settings, and names of models. `kept` are models that stay as they are."""

    settings: list[str]
    added: list[str]
    removed: list[str]
    replaced: list[str]
    kept: frozenset[str]

    @property
    def of_models(self) -> bool:
        """Whether other models are to be served."""
        return bool(self.added or self.removed or self.replaced)

    def __bool__(self) -> bool:
        return bool(self.settings) or self.of_models


class Wanted(NamedTuple):
    """What was read for a reload: the settings, the files' fingerprints, what is different, and what is to be in
    force."""

    settings: Settings
    fingerprints: dict[str, str]
    different: Difference
    tokens: Tokens | None
    tls: SSLContext | None


def difference(old: Settings, new: Settings, had: dict[str, str], have: dict[str, str]) -> Difference:
    """Between two settings, whose files have the `fingerprints` `had` and `have`."""
    settings = [
        field.name
        for field in dataclasses.fields(Settings)
        if field.name != "models"
        and (getattr(old, field.name) != getattr(new, field.name) or had.get(field.name) != have.get(field.name))
    ]
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    kept = frozenset(
        name
        for name, model in after.items()
        if before.get(name) == model and had.get(f"model {name}") == have.get(f"model {name}")
    )
    return Difference(
        settings,
        added=[name for name in after if name not in before],
        removed=[name for name in before if name not in after],
        replaced=[name for name in after if name in before and name not in kept],
        kept=kept,
    )


def fingerprints(settings: Settings) -> dict[str, str]:
    """What the files hold that the settings name, by setting and by model."""
    found = {name: _hash(located(getattr(settings, name))) for name in FILES if getattr(settings, name)}
    return found | {f"model {model.name}": _of_model(model) for model in settings.models}


def _of_model(model: ModelConfig) -> str:
    """Its own file's hash; sizes and times of the files and folders that its options name, and of the folders that one
    of Hugging Face's reads from below: these can be gigabytes."""
    parts = []
    if model.source is not None:
        parts.append(hashlib.sha256(model.source).hexdigest())
    elif model.file:
        parts.append(_hash(model.file))
    for path in dict.fromkeys([*model.texts, *model.folders]):
        if os.path.exists(path):
            parts += _sizes_and_times(path)
    return " ".join(parts)


def _hash(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error.strerror or "unreadable"


def _sizes_and_times(path: str) -> list[str]:
    try:
        paths = sorted(entry.path for entry in os.scandir(path)) if os.path.isdir(path) else [path]
    except OSError as error:
        return [error.strerror or "unreadable"]
    found = []
    for each in paths:
        try:
            state = os.stat(each)
        except OSError:
            continue  # it goes just now, or is a link to nothing
        found.append(f"{each}:{state.st_size}:{state.st_mtime_ns}")
    return found


def words(what: Difference, old: Settings, new: Settings) -> list[str]:
    """The difference for a reader, one entry for each setting and model."""
    found = []
    for name in what.settings:
        before, after = _shown(getattr(old, name)), _shown(getattr(new, name))
        found.append(f"{name}: {before} -> {after}" if before != after else f"{name}: what is in {after} has changed")
    for done in ("added", "removed", "replaced"):
        found += [f"model {name}: {done}" for name in getattr(what, done)]
    return found


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(each) for each in value) or "none"
    return "none" if value == "" else str(value)


class Reloader:
    """Puts new settings in force while the daemon serves. `reread` makes them; it raises ConfigError.

    `last` says how the last reload ended, for STATUS: every client can ask for that, so no sentence is in it.
    """

    def __init__(
        self,
        engine: Engine,
        reread: Callable[[], Settings],
        gateway: Gateway | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self._engine = engine
        self._reread = reread
        self._gateway = gateway
        self._notifier = notifier or Notifier()
        self._fingerprints = fingerprints(engine.settings)
        self._one_at_a_time = asyncio.Lock()
        self._newest = 0  # the number of the last reload that somebody asked for
        self._hung_up = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last: dict[str, Any] | None = None

    def start(self) -> None:
        """The daemon is ready: SIGHUP counts from here on, also one that has come before, and clients may ask. Not
        earlier, because systemd hears of the end of a reload by the same word as of the end of the start."""
        self._engine.reloader = self
        self._run(self._reload_on_hangup())

    def hung_up(self) -> None:
        """SIGHUP has come. However often it comes while a reload runs, there is one more after it."""
        self._hung_up.set()

    def asked(self, session: Session, request_id: int) -> None:
        """A client that may has sent RELOAD; it is answered when the reload has ended."""
        self._run(self._answer(session, request_id))

    def close(self) -> None:
        """Gives up what is under way: the daemon ends."""
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.logger.error("task_failed", exc_info=error)

    async def _reload_on_hangup(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            try:
                await self._one_reload(self._newest)
            except InferdError:
                pass  # the log has it

    async def _answer(self, session: Session, request_id: int) -> None:
        try:
            changed = [escaped(change) for change in await self.reload()]
        except InferdError as error:
            changed, problem = [], escaped(str(error))[:MAX_PROBLEM_CHARS]
        else:
            problem = ""
        if session not in self._engine.sessions or session.peer.state == CLOSED:
            return  # it has not waited for the answer, or what it said meanwhile has ended the conversation
        if problem:
            session.send_error(request_id, make("RELOAD_FAILED", problem=problem))
        else:
            session.send(f.RELOAD, request_id=request_id, segment=pack_values({"changed": changed}))
        session.flush(self._engine.clock())

    async def reload(self) -> list[str]:
        """Reads and applies; returns what has changed, in words. Raises InferdError when something is wrong: nothing
        has changed then.

        A reload before this one that still loads models ends with that: they may never load. Not for settings that
        cannot be used.
        """
        with _told():
            if self._one_at_a_time.locked():
                self._wanted()
            self._newest += 1
            self._engine.workers.give_up(_superseded())
        return await self._one_reload(self._newest)

    async def _one_reload(self, number: int) -> list[str]:
        async with self._one_at_a_time:
            self.last = {"at": time.time(), "state": "running"}
            self._notifier.reloading()
            try:
                with _told():
                    changed = await self._reload(number)
            except InferdError as error:
                self.last = {"at": time.time(), "state": "failed"}
                self._notifier.status(f"the last reload changed nothing: {error}")
                self._notifier.ready()
                raise
            self.last = {"at": time.time(), "state": "changed" if changed else "nothing changed"}
            log.event("reloaded", changed=changed or ["nothing"])
            self._notifier.status("")
            self._notifier.ready()
            return changed

    def _wanted(self) -> Wanted:
        """Reads what is wanted now. Raises ConfigError for what cannot be had."""
        new = self._reread()
        new.check()
        new = dataclasses.replace(new, models=with_sources(new.models))
        have = fingerprints(new)
        what = difference(self._engine.settings, new, self._fingerprints, have)
        stuck = [name for name in what.settings if name in NEEDS_RESTART]
        if stuck:
            raise ConfigError(f"needs a restart: {', '.join(stuck)}")
        tokens = read_tokens(new.tokens) if new.tokens else None
        if tokens is not None and self._gateway is not None:
            tokens.add(GATEWAY, self._gateway.token)
        return Wanted(new, have, what, tokens, context_of(new))

    async def _reload(self, number: int) -> list[str]:
        engine = self._engine
        old, (new, have, what, tokens, tls) = engine.settings, self._wanted()
        if not what:
            return []
        models = None
        if what.of_models:
            if number < self._newest:
                raise _superseded()  # it has waited behind another one, and somebody waits behind it
            log.event("reload_loading", models=[model.name for model in new.models])
            models = await engine.workers.bring_up(new)
        self._fingerprints = have
        engine.settings = engine.workers.settings = new
        engine.limits = dataclasses.replace(engine.limits, payload_bytes=new.payload_mib * MIB)
        engine.tokens = tokens
        if not OF_TLS.isdisjoint(what.settings):
            engine.tls = tls
        if (old.log_format, old.log_level) != (new.log_format, new.log_level):
            log.set_up(new.log_format, new.log_level)
        if self._gateway is not None:
            self._gateway.reloaded(new)
        if models is not None:
            engine.take_over(models, what.kept)
        return words(what, old, new)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A reload that fails is in the log; and whatever it fails with, its caller hears a sentence."""
    try:
        yield
    except InferdError as error:
        log.event("reload_failed", level=40, error=str(error), effect="nothing was changed")
        raise
    except Exception as error:
        log.logger.exception("reload_failed")
        raise ConfigError("the reload has met a defect of inferd's, and nothing was changed; the log has it") from error


def _superseded() -> ConfigError:
    return ConfigError("a newer reload took its place")
