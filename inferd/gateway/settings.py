"""What the daemon tells its gateway, at the start and when it changes: a line of JSON on standard input
(inferd/serve/gateway.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """`fd` is the listening socket, `daemon` the URL of the daemon's private socket, `token` what the gateway shows
    there when it asks in nobody's name; `asks_for_tokens` says that callers must show one of their own, `loopback_only`
    that nobody else can reach the socket, `held` that somebody keeps it for the next gateway, `beat_s` how
    often to say that it is alive. Only the limits, `asks_for_tokens`, the origins and the log change later."""

    fd: int
    daemon: str
    token: str
    asks_for_tokens: bool
    loopback_only: bool
    origins: tuple[str, ...]
    payload_bytes: int
    max_connections: int
    log_format: str
    log_level: str
    beat_s: float
    held: bool = False

    @classmethod
    def parse(cls, line: bytes) -> GatewaySettings:
        fields = json.loads(line)
        return cls(**{**fields, "origins": tuple(fields["origins"])})
