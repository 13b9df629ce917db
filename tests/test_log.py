"""The log's two forms: lines for people, objects for machines."""

from __future__ import annotations

import json
import logging
from typing import Any

from inferd.log import JsonFormatter, TextFormatter


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
