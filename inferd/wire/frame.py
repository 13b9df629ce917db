"""The frame: a fixed prefix, a header, a payload.

     0        3  4  5  6     8           12          16                      24
     ├────────┼──┼──┼──┼─────┼───────────┼───────────┼───────────────────────┤
     │ F1 6E 66│ver│type│flags│credits│header bytes │payload bytes│ request id    │   little-endian
     └────────┴──┴──┴──┴─────┴───────────┴───────────┴───────────────────────┘

The magic's first byte is no ASCII and no TLS record type, so that HTTP, SSH or TLS on the port is told apart at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from inferd.errors import ProtocolError

MAGIC = b"\xf1nf"
VERSION = 1
PREFIX = struct.Struct("<3sBBBHIIQ")
PREFIX_BYTES = PREFIX.size  # 24

# Message types. 16 to 19 are kept for streams: OPEN, PUSH, OUTPUT, END.
HELLO = 1
WELCOME = 2
INFER = 3
RESULT = 4
ERROR = 5
CANCEL = 6
PING = 7
PONG = 8
GOAWAY = 9
CREDIT = 10
STATUS = 11
RELOAD = 12

TYPE_NAMES = {
    HELLO: "HELLO",
    WELCOME: "WELCOME",
    INFER: "INFER",
    RESULT: "RESULT",
    ERROR: "ERROR",
    CANCEL: "CANCEL",
    PING: "PING",
    PONG: "PONG",
    GOAWAY: "GOAWAY",
    CREDIT: "CREDIT",
    STATUS: "STATUS",
    RELOAD: "RELOAD",
}

# Flags. Unknown bits are ignored.
HAS_VALUES = 0x01  # the payload ends with a msgpack values segment

MAX_CREDITS = 0xFFFF
MAX_REQUEST_ID = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest header and payload a peer takes, in bytes. The refusal comes from the prefix alone."""

    # 64 KiB of hostile msgpack costs 7–11 ms and 72 times its size; a quarter of that is what the loop can bear.
    header_bytes: int = 16 * 1024
    payload_bytes: int = 64 * 1024 * 1024
    # Before a peer has said who it is, it gets one small frame and nothing is kept for it.
    hello_bytes: int = 4 * 1024


def pack_prefix(
    message_type: int,
    request_id: int,
    header_bytes: int,
    payload_bytes: int = 0,
    flags: int = 0,
    credits: int = 0,
) -> bytes:
    """The 24 bytes that open a frame."""
    return PREFIX.pack(MAGIC, VERSION, message_type, flags, credits, header_bytes, payload_bytes, request_id)


_STRANGERS = (
    (b"\x16\x03", "TLS"),
    (b"SSH-", "SSH"),
    (b"GET ", "HTTP"),
    (b"POST", "HTTP"),
    (b"PUT ", "HTTP"),
    (b"HEAD", "HTTP"),
    (b"DELE", "HTTP"),
    (b"OPTI", "HTTP"),
    (b"PATC", "HTTP"),
    (b"CONN", "HTTP"),
    (b"PRI ", "HTTP/2"),
    (b"\x00\x00", "zero bytes"),
)


def stranger(start: bytes) -> ProtocolError:
    """The error for bytes that do not open a frame, naming what they look like."""
    looks_like = next((name for head, name in _STRANGERS if start.startswith(head)), "another protocol")
    return ProtocolError(
        f"not an inferd frame (it must open with {MAGIC.hex(' ')}); it looks like {looks_like}", looks_like
    )
