"""The log's two forms: lines for people, objects for machines."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inferd import journal
from inferd.log import (
    MAX_QUEUED_LINES,
    JournalWriter,
    JsonFormatter,
    Lines,
    TextFormatter,
    Throttle,
    Writer,
    encoded,
    writes_to,
)


def record(message: str = "event", **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("inferd", logging.INFO, "", 0, message, (), None)
    made.fields = fields
    return made


def text(**fields: Any) -> str:
    return TextFormatter().format(record(**fields)).split(" event", 1)[1]


def test_fields_stand_on_one_line() -> None:
    """Plain values as they are, what is ambiguous in quotes, a list as its words."""
    assert text(a=1, b="x", c="two words", d="") == ' a=1 b=x c="two words" d=""'
    assert text(models=["echo", "ner"], at=[1, 2], none=[]) == ' models=echo,ner at=1,2 none=""'


def test_a_traceback_is_below_its_event() -> None:
    """What has several lines is indented under the event, so that only events begin at the margin."""
    assert text(model="m", detail="Traceback:\n  File x\nValueError: no\n", z=1) == (
        " model=m z=1\n    Traceback:\n      File x\n    ValueError: no"
    )


def test_nothing_in_a_value_can_forge_a_line_or_move_the_cursor() -> None:
    """Control characters and other ends of lines are written as codes."""
    assert "\x1b" not in text(a="\x1b[2J", detail="a\nb\x1b[2J\u2028c\rd")
    lines = text(detail="a\n12:00:00.000 error forged\r\u2028forged").splitlines()
    assert all(line.startswith("    ") for line in lines[1:])


def test_json_has_everything_as_it_is() -> None:
    """Lists stay lists and tracebacks one text."""
    line = JsonFormatter().format(record(models=["a", "b"], detail="x\ny"))
    assert "\n" not in line
    assert json.loads(line)["models"] == ["a", "b"] and json.loads(line)["detail"] == "x\ny"


def test_lines_are_written_in_order_and_the_rest_is_counted() -> None:
    """A pipe that nobody reads holds up no caller: the queue fills, what does not fit is counted, and once somebody
    reads all that fitted comes, whole and in order, with the count behind it."""
    read, write = os.pipe()
    writer = Writer(writes_to(write))
    writer.setFormatter(JsonFormatter())
    lines = MAX_QUEUED_LINES + 2000
    for number in range(lines):
        writer.emit(record(number=number))
    assert 0 < writer.dropped <= 2000
    said = bytearray()
    while not said.endswith(b"}\n") or b"log_lines_dropped" not in said:
        said += os.read(read, 1 << 16)
    writer.flush()
    *found, last = [json.loads(line) for line in said.splitlines()]
    numbers = [line["number"] for line in found]
    assert numbers == sorted(set(numbers)) and len(numbers) == lines - writer.dropped
    assert last["event"] == "log_lines_dropped" and last["in_all"] == writer.dropped
    os.close(read)  # the thread may go on to have the other end


def test_a_flush_waits_for_the_last_line_and_not_for_ever() -> None:
    """With a reader all is there when it returns; without one it gives up."""
    read, write = os.pipe()
    writer = Writer(writes_to(write))
    writer.setFormatter(TextFormatter())
    writer.emit(record("last words"))
    writer.flush()
    assert os.read(read, 1 << 16).endswith(b"last words\n")
    for _ in range(3):
        writer.emit(record("x" * 65_536))
    writer.flush(timeout_s=0.05)
    os.close(read)


def test_lines_that_are_no_log_come_as_they_are() -> None:
    """In order, with nothing added; to a reader that is gone they are counted, and nothing is raised."""
    read, write = os.pipe()
    lines = Lines(writes_to(write))
    lines.put(encoded("first"))
    lines.put(encoded("second \udcff"))
    lines.flush()
    assert os.read(read, 1 << 16) == b"first\nsecond \\udcff\n"
    os.close(read)
    lines.put(encoded("third"))
    lines.flush()
    assert lines.dropped == 1
    os.close(write)


def test_a_throttle_with_a_burst_lets_the_first_through(caplog: pytest.LogCaptureFixture) -> None:
    """Three at once, then one a second; who was held back is counted in the next."""
    throttle = Throttle(burst=3)
    with caplog.at_level(logging.INFO, "inferd"):
        for now in (0.0, 0.0, 0.0, 0.1, 0.2, 1.0):
            throttle.event("died", now, worker=0)
    assert [getattr(line, "fields", {}) for line in caplog.records] == [
        {"worker": 0},
        {"worker": 0},
        {"worker": 0},
        {"worker": 0, "held_back": 2},
    ]


# ---- systemd's journal


def fields_of(datagram: bytes) -> list[tuple[str, str]]:
    """What the journal reads in an entry."""
    found = []
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
            datagram = rest
        else:
            [nbytes] = struct.unpack_from("<Q", rest)
            value, datagram = rest[8 : 8 + nbytes], rest[9 + nbytes :]
        found.append((name.decode(), value.decode()))
    return found


def test_an_event_keeps_its_fields_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its name, those of a list one by one, what has several lines whole; the message is the text's, without
    the time and the level, which the journal has."""
    path = str(tmp_path / "journal")
    monkeypatch.setattr(journal, "SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taker:
        taker.bind(path)
        writer = JournalWriter()
        writer.setFormatter(TextFormatter(is_stamped=False))
        writer.emit(record("worker_lost", worker=0, models=["a", "b"], detail="one\ntwo", none=None))
        writer.flush()
        assert fields_of(taker.recv(1 << 16)) == [
            ("MESSAGE", "worker_lost worker=0 models=a,b none=null\n    one\n    two"),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "inferd"),
            ("INFERD_EVENT", "worker_lost"),
            ("INFERD_WORKER", "0"),
            ("INFERD_MODELS", "a"),
            ("INFERD_MODELS", "b"),
            ("INFERD_DETAIL", "one\ntwo"),
        ]
        writer.emit(record("large", detail="x" * 1_000_000))
        writer.flush()
        assert len(taker.recv(1 << 20)) < 200_000 and not writer.dropped
    os.unlink(path)
    writer.emit(record("nobody is there"))
    writer.flush()
    assert writer.dropped == 1


@pytest.mark.parametrize(("log_format", "said"), [("text", "journal"), ("json", "stderr")])
def test_the_journal_is_spoken_to_where_standard_error_is_its(tmp_path: Path, log_format: str, said: str) -> None:
    """Only there, and not when JSON is asked for; a daemon's workers do the same."""
    path = str(tmp_path / "journal")
    code = f"""
import os, sys
from inferd import journal, log
journal.SOCKET = {path!r}
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{{status.st_dev}}:{{status.st_ino}}"
log.set_up({log_format!r}, "info")
log.event("hello", n=1)
log.flush()
"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taker:
        taker.bind(path)
        taker.setblocking(False)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        if said == "journal":
            assert ("INFERD_N", "1") in fields_of(taker.recv(1 << 16)) and not done.stderr
        else:
            assert json.loads(done.stderr)["event"] == "hello"
            with pytest.raises(BlockingIOError):
                taker.recv(1)
