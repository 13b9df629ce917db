"""Everything `inferd serve` can be told, each thing once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from inferd.errors import ConfigError
from inferd.wire.address import Address

from .addresses import DEFAULT_WEB, DEVICE, LISTEN, ORIGIN, WEB, unresolved, web_url
from .definition import FILE, NUMBER, SWITCH, WHOLE, choice, setting, settings_of
from .models import ModelConfig


class Contradiction(NamedTuple):
    """Settings that cannot work as they are, and why. `names` has them, the first being the one to change; `item` says
    which value of a list that is."""

    names: tuple[str, ...]
    sentence: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `inferd serve` can be told. `reloads` says what `inferd reload` changes in a daemon that runs."""

    models: tuple[ModelConfig, ...] = ()
    listen: tuple[Address, ...] = setting(
        (),
        "Where to listen: inferd://HOST[:PORT], inferds://HOST[:PORT] for TLS, or inferd+unix:///PATH. Port 0 takes a "
        "free one. None: 127.0.0.1:7433 and a Unix socket.",
        LISTEN,
        "listen",
        reloads=False,
    )
    devices: tuple[str, ...] = setting(
        ("auto",), "cpu, cuda, cuda:N or auto: a worker for each.", DEVICE, "devices", reloads=False
    )
    # Taken from the system as it is first needed.
    slab_mib: int = setting(
        256,
        "Memory for inputs, shared by all requests that wait or run.",
        WHOLE,
        "limits.slab_mib",
        reloads=False,
        unit="MiB",
        least=4,
        most=16 * 1024 * 1024,  # 16 TiB: more is a number of bytes
    )
    arena_mib: int = setting(
        256,
        "Memory for outputs, for each worker.",
        WHOLE,
        "limits.arena_mib",
        reloads=False,
        unit="MiB",
        least=4,
        most=16 * 1024 * 1024,
    )
    payload_mib: int = setting(
        64,
        "The largest request; at most a quarter of the slab, so that one cannot own it.",
        WHOLE,
        "limits.payload_mib",
        reloads=True,
        unit="MiB",
        least=1,
        most=4095,  # its length in bytes has 32 bits on the wire
    )
    max_connections: int = setting(
        4096,
        "Connections at a time; more are answered TOO_MANY_CONNECTIONS.",
        WHOLE,
        "limits.max_connections",
        reloads=True,
        least=1,
        most=1_000_000,
    )
    # More than any batch, so that one caller can fill a device.
    max_in_flight: int = setting(
        1024,
        "Unanswered requests of one connection, at most; how many it has at a time follows the load.",
        WHOLE,
        "limits.max_in_flight",
        reloads=True,
        least=1,
        most=65535,
    )
    drain_timeout_s: float = setting(
        30.0,
        "How long a stop may take to finish what is in flight.",
        NUMBER,
        "limits.drain_timeout_s",
        reloads=True,
        unit="s",
        least=0,
        most=86400,
    )
    tokens: str = setting(
        "",
        "Lines `name: token`; whoever comes over TCP or the gateway needs one of them.",
        FILE,
        "auth.tokens",
        reloads=True,
    )
    # Beside root and the daemon's own user. Both empty: whoever the file system lets.
    allow_uids: tuple[int, ...] = setting(
        (),
        "Users, by number, who may connect over Unix sockets; without any, whoever may open the socket's file.",
        WHOLE,
        "auth.allow_uids",
        reloads=True,
        least=0,
        most=2**32 - 2,
    )
    allow_gids: tuple[int, ...] = setting(
        (), "Likewise, groups.", WHOLE, "auth.allow_gids", reloads=True, least=0, most=2**32 - 2
    )
    insecure_no_auth: bool = setting(
        False,
        "Listen beyond this machine without tokens: open to all who can reach it.",
        SWITCH,
        "auth.insecure_no_auth",
        reloads=True,
    )
    tls_cert: str = setting(
        "",
        "The certificate that inferds:// listeners show, and those that lead to its root, in PEM.",
        FILE,
        "tls.cert",
        reloads=True,
    )
    tls_key: str = setting("", "The certificate's private key, in PEM.", FILE, "tls.key", reloads=True)
    tls_client_ca: str = setting(
        "",
        "Who connects over TLS must show a certificate that one of these has signed, in PEM.",
        FILE,
        "tls.client_ca",
        reloads=True,
    )
    # None: there is no gateway.
    web: Address | None = setting(  # noqa: RUF009 (it makes a field)
        None,
        f"Serve HTTP, WebSocket, metrics and the page as well, at {DEFAULT_WEB} if nothing else is said.",
        WEB,
        "web.listen",
        reloads=False,
    )
    web_origin: tuple[str, ...] = setting(
        (),
        "SCHEME://HOST[:PORT] of another site whose pages may use the gateway.",
        ORIGIN,
        "web.origins",
        reloads=True,
    )
    log_format: str = setting(
        "text", "text is for people, json is one object a line.", choice("text", "json"), "log.format", reloads=True
    )
    log_level: str = setting(
        "info",
        "What is logged: this and what is graver.",
        choice("debug", "info", "warning", "error"),
        "log.level",
        reloads=True,
    )

    def check(self) -> None:
        """Raises ConfigError with a line for each thing that cannot work together."""
        found = [contradiction.sentence for contradiction in self.contradictions()]
        if found:
            raise ConfigError("\n".join(found))

    def contradictions(self) -> Iterator[Contradiction]:
        """What cannot work together, as far as the settings themselves show it."""
        yield from self._open_to_all()
        yield from self._incomplete_tls()
        for name in ("devices", "web_origin"):
            for item, text in enumerate(getattr(self, name)):
                try:
                    SETTINGS[name].kind.parse(text)
                except ConfigError as error:
                    yield Contradiction((name,), str(error), item)
        if not self.devices:
            yield Contradiction(("devices",), 'devices names none; write devices = ["auto"]')
        if self.payload_mib * 4 > self.slab_mib:
            default = SETTINGS["payload_mib"].default
            note = f"{default} is the default of payload_mib: " if self.payload_mib == default else ""
            yield Contradiction(
                ("payload_mib", "slab_mib"),
                f"payload_mib = {self.payload_mib} is over a quarter of slab_mib = {self.slab_mib}, so that a few "
                f"requests would own all input memory; {note}write payload_mib = {self.slab_mib // 4}, or set slab_mib "
                f"to at least {4 * self.payload_mib}",
            )
        seen: set[object] = set()
        for item, address in enumerate(self.listen):
            if address in seen and (address.path or address.port):
                yield Contradiction(("listen",), f"{address} is there twice; take one out", item)
            seen.add(address)
        if (
            self.web is not None
            and self.web.port
            and (self.web.host, self.web.port) in [(address.host, address.port) for address in self.listen]
        ):
            yield Contradiction(
                ("web", "listen"), f"the gateway and a listener both want {self.web.host}:{self.web.port}; change one"
            )
        names = [model.name for model in self.models]
        for item, name in enumerate(names):
            if name in names[:item]:
                yield Contradiction(("models",), f"two models are named {name!r}; name one of them: other={name}", item)
        for item, model in enumerate(self.models):
            if model.unsayable:
                yield Contradiction(("models",), f"model {model.name!r}: {model.unsayable}", item)

    def _open_to_all(self) -> Iterator[Contradiction]:
        places: list[tuple[str, int | None, Address, str]] = [
            ("listen", item, address, str(address)) for item, address in enumerate(self.listen)
        ]
        if self.web is not None:
            places.append(("web", None, self.web, web_url(self.web)))
        for name, item, address, url in places:
            if address.is_loopback or self.tokens or self.insecure_no_auth or (address.tls and self.tls_client_ca):
                continue
            if problem := unresolved(address.host):
                yield Contradiction((name,), f"{url}: {problem}", item)
                continue
            certificates = ", or --tls-client-ca FILE (client_ca in [tls])" if address.tls else ""
            yield Contradiction(
                (name, "tokens", "insecure_no_auth"),
                f"{url} can be reached from other machines, and no tokens are asked for: anybody could use the "
                f"models. Give --tokens FILE (tokens in [auth]){certificates}, or listen on 127.0.0.1 or a Unix socket "
                "and forward to it over SSH or a proxy that authenticates; --insecure-no-auth if it shall be open to "
                "all who can reach it",
                item,
            )

    def _incomplete_tls(self) -> Iterator[Contradiction]:
        encrypted = [item for item, address in enumerate(self.listen) if address.tls]
        if encrypted and not (self.tls_cert and self.tls_key):
            missing = "cert" if not self.tls_cert else "key"
            if not (self.tls_cert or self.tls_key):
                missing = "cert and key"
            yield Contradiction(
                ("listen", "tls_cert", "tls_key"),
                f"{self.listen[encrypted[0]]} needs a certificate and its private key; set {missing} in [tls] "
                "(--tls-cert, --tls-key)",
                encrypted[0],
            )
        elif bool(self.tls_cert) != bool(self.tls_key):
            has, lacks = ("cert", "key") if self.tls_cert else ("key", "cert")
            yield Contradiction(
                (f"tls_{has}", f"tls_{lacks}"), f"{has} in [tls] is of no use without {lacks}; set both, or neither"
            )
        elif not encrypted and (self.tls_cert or self.tls_client_ca):
            name = "tls_cert" if self.tls_cert else "tls_client_ca"
            yield Contradiction(
                (name, "listen"), "no listener speaks TLS, so nothing is encrypted; listen on inferds://, or drop [tls]"
            )


SETTINGS = settings_of(Settings)
