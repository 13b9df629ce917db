"""The journal's own protocol, in which an event keeps its fields: `journalctl -u inferd INFERD_EVENT=worker_died`.

A datagram for each entry, of lines `FIELD=value`; a value of several lines has its length before it (systemd's "Native
Journal Protocol").
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping

SOCKET = "/run/systemd/journal/socket"
# A datagram may have some 200 kB, and the longest of an event (a traceback) is in it twice.
MAX_VALUE_BYTES = 64 * 1024
PREFIX = "INFERD_"


def takes(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether what is written to `fd` goes to the journal, and it can be spoken to."""
    status = os.fstat(fd)
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}" and os.path.exists(SOCKET)


def connect() -> Callable[[bytes], None]:
    """What sends an entry to the journal. It raises OSError when the journal does not take it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    return lambda datagram: _send(sock, datagram)


def _send(sock: socket.socket, datagram: bytes) -> None:
    sock.sendto(datagram, SOCKET)  # by its name each time: a journal that was started anew has another socket


def entry(message: str, priority: int, event: str, fields: Mapping[str, object]) -> bytes:
    """The datagram for an event; `priority` is syslog's."""
    lines = [
        _line("MESSAGE", message),
        _line("PRIORITY", str(priority)),
        _line("SYSLOG_IDENTIFIER", "inferd"),
        _line(f"{PREFIX}EVENT", event),
    ]
    lines += [_line(PREFIX + name.upper(), value) for name, value in fields.items() for value in _values(value)]
    return b"".join(lines)


def _values(value: object) -> Iterator[str]:
    """A field of the journal may be there several times: so is each of a list."""
    if isinstance(value, list | tuple):
        for each in value:
            yield str(each)
    elif value is not None:
        yield str(value)


def _line(name: str, text: str) -> bytes:
    value = text.encode(errors="backslashreplace")[:MAX_VALUE_BYTES]
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
