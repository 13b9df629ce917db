"""The log: one line per event that matters, with its ids; never one per request.

    event("worker_died", worker=0, pid=4711, status="SIGKILL")

prints `12:00:01.234 warning worker_died worker=0 pid=4711 status=SIGKILL`, or one JSON object when that is asked for.
In the text, what has several lines (a traceback) follows below its event, indented: a line that begins at the margin is
always an event's.

Lines are written by a thread of their own, so that a pipe nobody reads, or a disk that stands still, stops the log and
nothing else. What does not fit the queue is counted, and the count is in the log once it moves again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from inferd import journal

logger = logging.getLogger("inferd")

INDENT = "    "
STDERR_FD = 2
# Syslog's numbers of the levels, which journalctl -p knows.
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# What a sink that takes nothing may hold up: some 2 MB.
MAX_QUEUED_LINES = 10_000
# How long an end of the process waits for its last lines to be written.
FLUSH_TIMEOUT_S = 1.0


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Logs one event with its fields."""
    logger.log(level, name, extra={"fields": fields})


class Throttle:
    """At most one line a second for each key, after a `burst` of so many; what is held back is counted into the next.

    Whoever can make the daemon write a line at will could otherwise fill its disk.
    """

    def __init__(self, interval_s: float = 1.0, burst: int = 1) -> None:
        self._interval_s = interval_s
        self._burst_s = (burst - 1) * interval_s
        self._free_at: dict[str, float] = {}  # when a line of the key may come without any burst
        self._held_back: dict[str, int] = {}

    def event(self, name: str, now: float, level: int = logging.WARNING, key: str = "", **fields: Any) -> None:
        """Logs the event unless one of the same name and key came less than a second ago."""
        key = f"{name} {key}"
        free_at = max(self._free_at.get(key, now), now)
        if free_at - now > self._burst_s:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return
        if len(self._free_at) > 1000:
            self._free_at.clear()
        self._free_at[key] = free_at + self._interval_s
        held_back = self._held_back.pop(key, 0)
        if held_back:
            fields["held_back"] = held_back
        event(name, level, **fields)


class Lines:
    """Takes lines at once and has a thread `write` them, in their order.

    `dropped` counts the lines that found the queue full, or that `write` did not take (OSError). `remark` makes the
    line that says so, from the count; without one nothing does.
    """

    def __init__(self, write: Callable[[bytes], None], remark: Callable[[int], bytes] | None = None) -> None:
        self._take = write
        self._remark = remark
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        self._told = 0  # how many of those a remark has told

    def put(self, line: bytes) -> None:
        """Queues the line."""
        with self._changed:
            if len(self._lines) >= MAX_QUEUED_LINES:
                self.dropped += 1
                return
            self._lines.append(line)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="lines", daemon=True)
            self._thread.start()

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Returns when all is written, or after the time: a sink that stands still must not hold up an end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                self._writing = True
                line = self._lines.popleft()
            if self._write(line) and self._remark is not None and self.dropped > self._told and not self._lines:
                self._told = self.dropped
                self._write(self._remark(self._told))

    def _write(self, line: bytes) -> bool:
        try:
            self._take(line)
        except OSError:  # a full disk, a reader that is gone
            self.dropped += 1
            return False
        return True


def writes_to(fd: int) -> Callable[[bytes], None]:
    """What writes all of a line to the descriptor."""

    def write(line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(fd, left) :]

    return write


def encoded(line: str) -> bytes:
    """The line as it is written."""
    return line.encode(errors="backslashreplace") + b"\n"


class Writer(logging.Handler):
    """Has the log written as `Lines`, and behind them how many were dropped."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._lines = Lines(write, self._remark)

    @property
    def dropped(self) -> int:
        """How many lines are lost."""
        return self._lines.dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record's line."""
        try:
            line = self.line(record)
        except Exception:
            self.handleError(record)
        else:
            self._lines.put(line)

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """As that of `Lines`."""
        self._lines.flush(timeout_s)

    def line(self, record: logging.LogRecord) -> bytes:
        """What is written of the record."""
        return encoded(self.format(record))

    def _remark(self, dropped: int) -> bytes:
        record = logging.LogRecord(logger.name, logging.WARNING, "", 0, "log_lines_dropped", (), None)
        record.__dict__["fields"] = {"in_all": dropped}
        return self.line(record)


class JournalWriter(Writer):
    """Has the log written to systemd's journal, where an event keeps its fields."""

    def __init__(self) -> None:
        super().__init__(journal.connect())

    def line(self, record: logging.LogRecord) -> bytes:
        priority = PRIORITIES.get(record.levelno, PRIORITIES[logging.INFO])
        return journal.entry(self.format(record), priority, record.getMessage(), getattr(record, "fields", {}))


_writers: dict[type[Writer], Writer] = {}


def dropped() -> int:
    """How many lines of this process the log has lost, because whoever takes it stood still, was full, or was gone."""
    return sum(writer.dropped for writer in _writers.values())


def flush() -> None:
    """Returns when the log is written, or after a second. For those who end this process by os._exit."""
    for writer in _writers.values():
        writer.flush()


class TextFormatter(logging.Formatter):
    """`time level event key=value …`, for people; where both are known anyhow, without `time level`."""

    def __init__(self, is_stamped: bool = True) -> None:
        super().__init__()
        self._is_stamped = is_stamped

    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%H:%M:%S", time.localtime(record.created))
        parts = [f"{now}.{int(record.msecs):03d}", record.levelname.lower()] if self._is_stamped else []
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
    """Sends the log to standard error, as `text` or `json`; text that would get into systemd's journal there, to the
    journal itself. May be called again, with others."""
    formatter: logging.Formatter
    if log_format == "json":
        writer = _writers.get(Writer) or Writer(writes_to(STDERR_FD))
        formatter = JsonFormatter()
    elif journal.takes(STDERR_FD, os.environ):
        writer = _writers.get(JournalWriter) or JournalWriter()
        formatter = TextFormatter(is_stamped=False)
    else:
        writer = _writers.get(Writer) or Writer(writes_to(STDERR_FD))
        formatter = TextFormatter()
    _writers[type(writer)] = writer
    writer.setFormatter(formatter)
    logging.basicConfig(handlers=[writer], level=level.upper(), force=True)
