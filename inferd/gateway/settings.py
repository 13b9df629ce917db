"""What the daemon tells its gateway at the start, as one line of JSON on standard input (inferd/serve/gateway.py)."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """`fd` is the listening socket, `daemon` the URL of the daemon's private socket, `token` what the gateway shows
    there when it asks in nobody's name; `loopback_only` says that nobody else can reach the socket."""

    fd: int
    daemon: str
    token: str
    loopback_only: bool
    origins: tuple[str, ...]
    payload_bytes: int
    max_connections: int
    log_format: str
    log_level: str

    @classmethod
    def parse(cls, line: bytes) -> GatewaySettings:
        fields = json.loads(line)
        return cls(**{**fields, "origins": tuple(fields["origins"])})
