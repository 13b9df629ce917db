"""What the daemon tells systemd: sd_notify's protocol, by hand.

A datagram of `VARIABLE=value` lines to the socket that $NOTIFY_SOCKET names. Without one every call does nothing. The
packages for this are stale, and it is a socket and a few words (sd_notify(3)).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

from inferd import log
from inferd.errors import ConfigError

# systemd reads its socket at once; one that does not must not hold up the loop for long.
SEND_TIMEOUT_S = 0.1
# Longer ones are cut: a status is a line that somebody reads.
MAX_STATUS_CHARS = 500


class Notifier:
    """Tells the service manager at `address` ("": there is none) how the service is.

    `watchdog_s` is the time within which it expects `watchdog()`; 0: it does not.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._doing = ""
        self._remark = ""
        self.watchdog_s = watchdog_s if address else 0.0
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(SEND_TIMEOUT_S)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Reads the variables and removes them: workers and the gateway speak for themselves, not for the service.

        Raises ConfigError for what is no address or no time.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", "")
        if address and address[0] not in "/@":
            raise ConfigError(f"NOTIFY_SOCKET={address}: only Unix sockets are known here; give a path or @name")
        if watchdog_us and not watchdog_us.isdecimal():
            raise ConfigError(f"WATCHDOG_USEC={watchdog_us}: this is no number of microseconds; leave it to systemd")
        ours = watchdog_pid in ("", str(os.getpid()))
        return cls(address, int(watchdog_us) / 1e6 if watchdog_us and ours else 0.0)

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def ready(self) -> None:
        """The service serves, at the start or again after `reloading`."""
        self._send("READY=1", self._status())

    def reloading(self) -> None:
        """The configuration is being read again, until `ready`."""
        # Without the time systemd cannot tell an old READY=1 from the one that ends this reload.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service drains and ends."""
        self._send("STOPPING=1", self._status())

    def extend(self, timeout_s: float) -> None:
        """Starting, or stopping, takes at least so much longer, counted from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(timeout_s * 1e6)}")

    def watchdog(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def doing(self, text: str) -> None:
        """What the service is doing now, for `systemctl status`; told when it is something else than before."""
        if text != self._doing:
            self._doing = text
            self._send(self._status())

    def status(self, text: str) -> None:
        """A remark beside what the service is doing: how the last reload ended. It stays until the next; "": none."""
        if text != self._remark:
            self._remark = text
            self._send(self._status())

    def close(self) -> None:
        """Nothing more is told."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _status(self) -> str:
        text = "; ".join(part for part in (self._doing, self._remark) if part)
        return "STATUS=" + " ".join(text.split())[:MAX_STATUS_CHARS]

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            # A path in a status may be no UTF-8.
            self._socket.sendto("\n".join(lines).encode(errors="backslashreplace"), self._address)
        except OSError as error:
            # The manager is being replaced, or is gone. The next word may reach it; serving goes on without.
            log.event("notify_failed", logging.WARNING, what=lines[0], error=str(error))
