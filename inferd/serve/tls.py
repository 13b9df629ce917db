"""TLS 1.3 at the daemon's end, without a socket: the certificates, and one connection's records.

    Channel     bytes of the wire in, bytes of the protocol out, and the other way round

asyncio's own TLS is not used: it says nothing of a connection before its handshake is over, so silent ones could not be
counted, and its write buffer is in front of the records, not behind them. And a certificate that is replaced while the
daemon runs is the next connection's.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

from inferd import log
from inferd.config import Settings
from inferd.errors import ConfigError
from inferd.serve.secret import check_private, located

# What a client goes by, cut off here.
MAX_NAME_CHARS = 128
DAY_S = 86400.0
SOON_DAYS = 14


def context_of(settings: Settings) -> ssl.SSLContext | None:
    """What the listeners of `settings` show; None if none of them speaks TLS. Raises ConfigError."""
    if not any(address.tls for address in settings.listen):
        return None
    return server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _log_end(setting: str, path: str, ends: str) -> None:
    log.event("certificate_ends_soon", 30, setting=setting, path=path, ends=ends)


def server_context(
    cert: str, key: str, client_ca: str = "", ending: Callable[[str, str, str], None] = _log_end
) -> ssl.SSLContext:
    """What a listener shows, and with `client_ca` whom it lets in: PEM files. Raises ConfigError for files that are not
    there, do not belong together, cannot be used now, or, as to the key, can be read by others.

    `ending` is told of each certificate that expires soon: its setting, its path, and when.
    """
    for setting, path in (("tls_cert", cert), ("tls_key", key)):
        if not path:
            raise ConfigError(
                f"inferds:// needs {setting}: the path of a PEM file (--{setting.replace('_', '-')} FILE)"
            )
    cert, key = located(cert), located(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Clients stay connected, so what would let one resume is work and bytes for nothing.
    context.num_tickets = 0
    _load(context, cert, key)
    _check_shown(context, cert, ending)
    if client_ca:
        _trust(context, located(client_ca), ending)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, cert: str, key: str) -> None:
    asked = []

    def passphrase() -> str:
        asked.append(True)
        return ""

    try:
        with open(cert, "rb"):
            pass  # for its own sentence: load_cert_chain does not say which of the two is missing
    except OSError as error:
        raise ConfigError(f"tls_cert {cert}: {error.strerror}") from error
    try:
        with open(key, "rb") as file:
            check_private(file.fileno(), key, "tls_key")
    except OSError as error:
        raise ConfigError(f"tls_key {key}: {error.strerror}") from error
    try:
        context.load_cert_chain(cert, key, passphrase)
    except ssl.SSLError as error:
        if asked:
            raise ConfigError(
                f"tls_key {key}: it is encrypted, and nobody is there to type the passphrase; decrypt it with "
                f"`openssl pkey -in {key} -out PLAIN`, readable by the daemon alone"
            ) from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"tls_key {key} is not the key of the certificate in tls_cert {cert}") from error
        raise ConfigError(
            f"tls_cert {cert} and tls_key {key}: one of them is no PEM of its kind ({_plain(error)}); the first file "
            "begins with `-----BEGIN CERTIFICATE-----`, the second with a line that ends in `PRIVATE KEY-----`"
        ) from error


def _check_shown(context: ssl.SSLContext, cert: str, ending: Callable[[str, str, str], None]) -> None:
    """Shows the certificate to a client that trusts just this one: then its dates are all that can be wrong."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True))
    for end in (*ends, ends[0]):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(f"tls_cert {cert}: {error.verify_message}; put a newer one there") from error
        except ssl.SSLError as error:
            raise ConfigError(f"tls_cert {cert}: it cannot be used for TLS 1.3 ({_plain(error)})") from error
    _tell_of_end(ends[0].getpeercert() or {}, "tls_cert", cert, ending)


def _trust(context: ssl.SSLContext, client_ca: str, ending: Callable[[str, str, str], None]) -> None:
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise ConfigError(f"tls_client_ca {client_ca}: there is no certificate in it, in PEM") from error
    except OSError as error:
        raise ConfigError(f"tls_client_ca {client_ca}: {error.strerror}") from error
    authorities = context.get_ca_certs()
    if not authorities:
        raise ConfigError(
            f"tls_client_ca {client_ca}: no certificate in it is an authority's, so it can vouch for nobody"
        )
    if all(_days_left(authority) < 0 for authority in authorities):
        raise ConfigError(f"tls_client_ca {client_ca}: it has expired; put a newer one there")
    for authority in authorities:
        _tell_of_end(authority, "tls_client_ca", client_ca, ending)


def _days_left(cert: dict[str, Any]) -> float:
    return (ssl.cert_time_to_seconds(cert["notAfter"]) - time.time()) / DAY_S


def _tell_of_end(cert: dict[str, Any], setting: str, path: str, ending: Callable[[str, str, str], None]) -> None:
    if "notAfter" in cert and _days_left(cert) < SOON_DAYS:
        ending(setting, path, cert["notAfter"])


def _plain(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: NO_START_LINE is "no start line"."""
    return (error.reason or str(error)).replace("_", " ").lower()


def name_of(cert: dict[str, Any]) -> str:
    """What a verified certificate says of whose it is: the subject's common name, else its first alternative name."""
    names = [value for part in cert.get("subject", ()) for key, value in part if key == "commonName"]
    names += [value for _, value in cert.get("subjectAltName", ()) if isinstance(value, str)]
    return next((name for name in names if name), "nameless")[:MAX_NAME_CHARS]


class Channel:
    """One connection's TLS. `established` is set when the handshake is over: only then is anything read or written."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False

    def received(self, data: memoryview) -> None:
        """Bytes of the wire have come. Raises ssl.SSLError when the handshake fails: what `outgoing` has then are the
        last words to the peer."""
        self._incoming.write(data)
        if not self.established:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return
            self.established = True

    def read_into(self, memory: memoryview) -> int:
        """Fills `memory` with what has been said, as far as that goes; 0 when more must come first. Raises EOFError
        when the peer has said goodbye, and ssl.SSLError for records that are not what he sent."""
        try:
            return self._tls.read(len(memory), memory)  # type: ignore[return-value]
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLZeroReturnError as error:
            raise EOFError from error

    def write(self, data: bytes | memoryview) -> None:
        """Says something; `outgoing` has it as records then, and `data` is free."""
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]

    def goodbye(self) -> None:
        """Says that nothing will follow."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the peer has not said it yet, and is not waited for

    def outgoing(self) -> bytes:
        """What is to be sent."""
        return self._outgoing.read()

    @property
    def client_name(self) -> str:
        """Whose certificate the client has shown; "" if none was asked for."""
        cert = self._tls.getpeercert()
        return name_of(cert) if cert else ""
