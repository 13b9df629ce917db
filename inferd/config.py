"""What an operator can set: each setting named once, here, with its default, its unit and its reason.

The command line has a flag and a variable for each: --slab-mib, INFERD_SLAB_MIB. There are few, because what can be
learned or follows from the machine is no setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from inferd.errors import ConfigError
from inferd.wire.address import Address

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEVICE = re.compile(r"cpu|auto|cuda(:[0-9]{1,3})?")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve: its name on the wire, where its code is, and the arguments of its factory.

    `target` is `package.module:Name`, `file.py:Name`, or the name of a built-in model.
    """

    name: str
    target: str
    options: dict[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelConfig:
        """From `[name=]target`. Raises ConfigError."""
        name, equals, target = text.partition("=")
        if not equals:
            target = text
            name = target.rpartition(":")[2].lower()
        if target not in BUILT_IN and ":" not in target:
            known = ", ".join(BUILT_IN)
            raise ConfigError(
                f"{target!r} is no model: use package.module:Name, file.py:Name, or a built-in one ({known})"
            )
        if not MODEL_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-', at most 64")
        if target.partition(":")[0].endswith(".py"):
            path, _, attribute = target.rpartition(":")
            target = f"{Path(path).absolute()}:{attribute}"
        return cls(name, BUILT_IN.get(target, target))


# The built-in models, by name.
BUILT_IN = {
    "echo": "inferd.models.echo:Echo",
    "ner": "inferd.models.ner:Ner",
    "virtual": "inferd.models.virtual:Virtual",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `inferd serve` can be told."""

    models: tuple[ModelConfig, ...] = ()
    listen: tuple[Address, ...] = ()
    devices: tuple[str, ...] = ("auto",)
    # Input memory, shared by all requests that wait or run; taken from the system as it is first needed.
    slab_mib: int = 256
    # Output memory of each worker; likewise.
    arena_mib: int = 256
    # The largest request, in MiB. A quarter of the slab, so that one request cannot own it.
    payload_mib: int = 64
    max_connections: int = 4096
    # Requests one connection may have unanswered; more than any batch, so that one caller can fill a device.
    max_in_flight: int = 1024
    # How long a daemon that was told to stop finishes what is in flight.
    drain_timeout_s: float = 30.0
    log_format: str = "text"
    log_level: str = "info"

    def check(self) -> None:
        """Raises ConfigError for settings that cannot work together."""
        for address in self.listen:
            if not address.is_loopback:
                raise ConfigError(
                    f"{address} can be reached from other machines, and this version has no authentication: anybody "
                    "could use the models. Listen on 127.0.0.1 or a Unix socket, and forward to it over SSH or a proxy "
                    "that authenticates"
                )
        for device in self.devices:
            if not DEVICE.fullmatch(device):
                raise ConfigError(f"{device!r} is no device: use cpu, cuda, cuda:N or auto")
        if self.payload_mib * 4 > self.slab_mib:
            raise ConfigError(
                f"payload_mib = {self.payload_mib} is over a quarter of slab_mib = {self.slab_mib}, so that a few "
                f"requests would own all input memory; set slab_mib to at least {4 * self.payload_mib}"
            )
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two models are named {name!r}; name one of them: other={name}")
