"""TLS for `inferds://`: whom the client trusts, what it shows, and a socket's face for the threads' connection.

In TLS 1.3 a client's certificate is looked at after the client's handshake is over. So one that is not accepted shows
only at the first read, as an alert or just as the end of the stream; it is the server's WELCOME that confirms.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from threading import Lock

from inferd.errors import ConfigError, RequestError, make
from inferd.wire.address import Address
from inferd_client.codec import Buffer

# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
NAME_MISMATCH = (62, 64)
# What one record holds.
RECORD_BYTES = 16 * 1024


def client_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """TLS 1.3 with whoever shows a certificate that `ca` has signed, a PEM file; by default those that the system
    trusts. `cert` and `key` are what is shown to a server that asks (`key` may be in `cert`). Raises ConfigError."""
    for name, path in (("ca", ca), ("cert", cert), ("key", key)):
        try:
            if path is not None:
                with open(path, "rb"):
                    pass  # for its own sentence
        except OSError as error:
            raise ConfigError(f"{name} {path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{name} {path!r}: no file can have that name; check how it is written") from error
    if key is not None and cert is None:
        raise ConfigError("key is the private key of cert: give both")
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise ConfigError(f"ca {ca}: there is no certificate in it, in PEM") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, lambda: "")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"cert {cert} and key {key or cert} do not belong together: the key is another certificate's"
                ) from error
            raise ConfigError(
                f"cert {cert} and key {key or cert}: they are no PEM of a certificate and its private key, unencrypted "
                f"({_plain(error)})"
            ) from error
    return context


def handshake_failed(address: Address, error: OSError) -> RequestError | None:
    """What went wrong in a handshake; None if it was not TLS. A certificate that is not trusted is not worth a retry,
    a connection that ended is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in NAME_MISMATCH:
            problem = (
                f"its certificate is not for {address.host} ({error.verify_message}), which ca=… cannot change; use a "
                "name that is in the certificate, or have one made for this name"
            )
        else:
            problem = (
                f"its certificate is not trusted ({error.verify_message}); name who has signed it with ca=… or in "
                "INFERD_CA"
            )
        return make("TLS", address=address, problem=problem)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError | BrokenPipeError):
        problem = "the connection was closed during the TLS handshake; is it inferds:// that is spoken there?"
        return make("CONNECT_FAILED", address=address, problem=problem)
    if isinstance(error, ssl.SSLError):
        return make("TLS", address=address, problem=_plain(error))
    return None


def _plain(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words: WRONG_VERSION_NUMBER is "wrong version number"."""
    return (error.reason or str(error)).replace("_", " ").lower()


class TlsSocket:
    """What connection.py uses of a socket, over TLS.

    The lock is there because reading and writing change the same state, and each is another thread's. As with OpenSSL's
    own SSL_write, bytes that were not taken are to be offered again before any others.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Shakes hands, within the socket's timeout, and does not block afterwards. Raises OSError."""
        self._sock = context.wrap_socket(sock, server_hostname=host)
        self._sock.setblocking(False)
        self._lock = Lock()

    def fileno(self) -> int:
        """For poll()."""
        return self._sock.fileno()

    def pending(self) -> int:
        """Bytes that have been received and decrypted: poll() says nothing of them."""
        with self._lock:
            return self._sock.pending()

    def recv_into(self, view: memoryview) -> int:
        """As a socket's. Raises BlockingIOError and OSError."""
        try:
            with self._lock:
                return self._sock.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def sendmsg(self, buffers: Sequence[Buffer]) -> int:
        """As a socket's, a record at most. Raises BlockingIOError and OSError."""
        data = memoryview(buffers[0])[:RECORD_BYTES]
        if len(data) < RECORD_BYTES and len(buffers) > 1:
            data = memoryview(b"".join(memoryview(buffer)[:RECORD_BYTES] for buffer in buffers[:3]))[:RECORD_BYTES]
        try:
            with self._lock:
                return self._sock.send(data) if data else 0
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def shutdown(self, how: int) -> None:
        """The connection ends; whoever polls wakes up."""
        socket.socket.shutdown(self._sock, how)  # SSLSocket's own would read on without TLS

    def close(self) -> None:
        """The descriptor is given back."""
        self._sock.close()
