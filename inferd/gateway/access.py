"""Who may ask at all: a page of another site must not use a visitor's browser to reach this machine.

A browser says which page asks (Origin) and which address it believes to talk to (Host). A foreign page has another
Origin. A page that lets its own name point at 127.0.0.1 (DNS rebinding) has the right Origin for it, and the wrong
Host.
Programs that are no browsers send no Origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class Access:
    """`origins` may ask besides the gateway's own page. With `loopback_only` a Host must be this machine's."""

    def __init__(self, origins: Iterable[str], loopback_only: bool) -> None:
        self._origins = frozenset(origins)
        self._hosts: frozenset[str] | None = None
        if loopback_only:
            self._hosts = THIS_MACHINE | {_name(urlsplit(origin).netloc) for origin in self._origins}

    def problem(self, host: str, origin: str | None) -> str:
        """Why a request with this Host and Origin is refused; "" if it is not."""
        if self._hosts is not None and _name(host) not in self._hosts:
            return (
                "this gateway answers to localhost, 127.0.0.1 and [::1] only, and the request was for another host; "
                "behind a proxy, name the site with --web-origin"
            )
        if origin is None or origin in self._origins:
            return ""
        if origin.partition("://")[2] == host.lower():
            return ""
        return f"pages of {origin[:200]!r} may not use this gateway; --web-origin lets them"


def _name(host: str) -> str:
    """The host without its port, "" for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
