"""What an operator can set: each setting named once, here, with its default, its unit and its reason.

The command line has a flag and a variable for each: --slab-mib, INFERD_SLAB_MIB. There are few, because what can be
learned or follows from the machine is no setting.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from inferd.errors import ConfigError
from inferd.wire.address import Address

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HUGGING_FACE = "hf:"
DEVICE = re.compile(r"cpu|auto|cuda(:[0-9]{1,3})?")
# As browsers send it: small letters, no path, no slash at the end.
ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
WEB_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
MIB = 1024 * 1024
DEFAULT_WEB = "127.0.0.1:7480"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve: its name on the wire, where its code is, and the arguments of its factory.

    `target` is `package.module:Name`, `file.py:Name`, or the name of a built-in model. A Hugging Face folder
    (`hf:FOLDER`) is an option of the built-in model that opens it.
    """

    name: str
    target: str
    options: dict[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelConfig:
        """From `[name=]target`, where the target may be `hf:FOLDER`. Raises ConfigError."""
        if text.startswith(HUGGING_FACE):
            return cls._of_folder("", text)  # a path may have a "=" in it
        name, equals, target = text.partition("=")
        if target.startswith(HUGGING_FACE):
            return cls._of_folder(name, target)
        if not equals:
            target = text
            name = target.rpartition(":")[2].lower()
        if target not in BUILT_IN and ":" not in target:
            known = ", ".join(BUILT_IN)
            raise ConfigError(
                f"{target!r} is no model: use package.module:Name, file.py:Name, hf:FOLDER, or a built-in one ({known})"
            )
        _check_name(name)
        if target.partition(":")[0].endswith(".py"):
            path, _, attribute = target.rpartition(":")
            target = f"{Path(path).absolute()}:{attribute}"
        return cls(name, BUILT_IN.get(target, target))

    @classmethod
    def _of_folder(cls, name: str, target: str) -> ModelConfig:
        """A Hugging Face folder; without a name it is the folder's own, as far as that can name a model."""
        folder = os.path.abspath(os.path.expanduser(target.removeprefix(HUGGING_FACE)))
        if not name:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(folder)).lstrip("._-")[:64]
            if not name:
                raise ConfigError(f"{folder} has nothing in its name that can name a model: write NAME={target}")
        _check_name(name)
        return cls(name, "inferd.models.hf:open_folder", {"folder": folder})


def _check_name(name: str) -> None:
    if not MODEL_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a model: use letters, digits, '.', '_' and '-', at most 64")


def web_address(text: str) -> Address:
    """From `HOST:PORT`, an IPv6 address in brackets. Raises ConfigError."""
    try:
        address = Address.parse(f"inferd://{text}")
    except ConfigError:
        address = Address()
    if not WEB_HOST.fullmatch(address.host) or not text.endswith(f":{address.port}"):
        raise ConfigError(f"{text!r} is no address for --web: write HOST:PORT, as in {DEFAULT_WEB}")
    return address


def web_url(address: Address) -> str:
    """Where a browser finds the gateway."""
    return str(address).replace("inferd://", "http://", 1)


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
    # Where the gateway (HTTP, WebSocket, metrics, the page) listens; None: there is no gateway.
    web: Address | None = None
    # Other origins (`https://demo.example`) whose pages may use the gateway.
    web_origin: tuple[str, ...] = ()
    # A file of named tokens; with it nobody gets in over TCP or the gateway without one. "": none are asked for.
    tokens: str = ""
    # Lets everybody who can reach a non-loopback address use the models.
    insecure_no_auth: bool = False
    log_format: str = "text"
    log_level: str = "info"

    def check(self) -> None:
        """Raises ConfigError for settings that cannot work together."""
        named = [(address, str(address)) for address in self.listen]
        if self.web is not None:
            named.append((self.web, web_url(self.web)))
        for address, name in named:
            if not (address.is_loopback or self.tokens or self.insecure_no_auth):
                raise ConfigError(
                    f"{name} can be reached from other machines, and no tokens are asked for: anybody could use the "
                    "models. Give --tokens FILE, or listen on 127.0.0.1 or a Unix socket and forward to it over SSH or "
                    "a proxy that authenticates; --insecure-no-auth if it shall be open to all who can reach it"
                )
        for origin in self.web_origin:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(f"{origin!r} is no origin: write SCHEME://HOST[:PORT], as in https://demo.example")
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
