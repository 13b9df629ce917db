"""The log: one line per event that matters, with its ids; never one per request.

    event("worker_died", worker=0, pid=4711, status="SIGKILL")

prints `12:00:01.234 warning worker_died worker=0 pid=4711 status=SIGKILL`, or one JSON object when that is asked for.
In the text, what has several lines (a traceback) follows below its event, indented: a line that begins at the margin is
always an event's.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

logger = logging.getLogger("inferd")

INDENT = "    "


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Logs one event with its fields."""
    logger.log(level, name, extra={"fields": fields})


class Throttle:
    """At most one line a second for each key; what is held back is counted into the next one.

    Whoever can make the daemon write a line at will could otherwise fill its disk.
    """

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._last: dict[str, float] = {}
        self._held_back: dict[str, int] = {}

    def event(self, name: str, now: float, level: int = logging.WARNING, key: str = "", **fields: Any) -> None:
        """Logs the event unless one of the same name and key came less than a second ago."""
        key = f"{name} {key}"
        if now - self._last.get(key, float("-inf")) < self._interval_s:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = now
        held_back = self._held_back.pop(key, 0)
        if held_back:
            fields["held_back"] = held_back
        event(name, level, **fields)


class TextFormatter(logging.Formatter):
    """`time level event key=value …`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%H:%M:%S", time.localtime(record.created))
        parts = [f"{now}.{int(record.msecs):03d}", record.levelname.lower()]
        message, *below = record.getMessage().splitlines() or [""]
        parts.append(_harmless(message))
        for key, value in getattr(record, "fields", {}).items():
            if isinstance(value, str) and "\n" in value:
                below += value.splitlines()
            else:
                parts.append(f"{key}={_plain(value)}")
        if record.exc_info:
            below += self.formatException(record.exc_info).splitlines()
        return "\n".join([" ".join(parts), *(INDENT + _harmless(line) for line in below)])


def _plain(value: Any) -> str:
    """The value as it stands when that is unambiguous on a line, quoted as JSON otherwise; a list as its words."""
    if isinstance(value, list | tuple):
        value = ",".join(word if isinstance(word, str) else json.dumps(word, default=str) for word in value)
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text) if not text or not text.isprintable() or any(char in text for char in ' "=') else text


def _harmless(line: str) -> str:
    """The line without what would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": record.created, "level": record.levelname.lower(), "event": record.getMessage()}
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(log_format: str, level: str) -> None:
    """Sends the log to standard error, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
