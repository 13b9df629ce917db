"""`inferd infer`: what goes out, and what a reader and a program get to see."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inferd.cli.infer import human_lines, json_text


def test_text_in_text_out(inferd, fake) -> None:
    """Values are shown by name as JSON."""
    said = inferd("infer", "greet", "text=Ada", "--url", fake.url)
    assert said == (0, 'greeting  "Hello, Ada!"\n', "")


def test_json_is_one_object_a_program_can_read(inferd, fake) -> None:
    """--json prints the answer as one line, tensors as nested lists."""
    said = inferd("infer", "echo", "x=[[1,2],[3,4.5]]", "k=hello", "--json", "--url", fake.url)
    assert json.loads(said.out) == {"x": [[1, 2], [3, 4.5]], "k": "hello"}
    assert said.out.count("\n") == 1


def test_a_tensor_is_shown_by_its_type_and_its_beginning(inferd, fake) -> None:
    """A reader sees dtype, shape and the first elements."""
    said = inferd("infer", "echo", f"x={list(range(20))}", "--url", fake.url)
    assert said.out == "x  FP32[20]  [0, 1, 2, 3, 4, 5, 6, 7, …]\n"


def test_spans_are_a_table() -> None:
    """Entities stand in aligned columns, and control characters in them do nothing to a terminal."""
    spans = [
        {"entity": "PER", "start": 0, "end": 12, "text": "Ada\nLovelace", "score": 0.998},
        {"entity": "LOC", "start": 36, "end": 42, "text": "\x1b[2J", "score": 1.0},
    ]
    assert human_lines({"spans": spans}) == [
        "entity  text          start-end  score",
        "PER     Ada Lovelace       0-12   1.00",
        "LOC     \\x1b[2J           36-42   1.00",
    ]


def test_bytes_and_text_beyond_ascii_survive_json() -> None:
    """Bytes are base64, letters stay letters."""
    assert json_text({"b": b"\x00\xff", "t": "Zoë"}) == '{"b": "AP8=", "t": "Zoë"}'


def test_nan_is_null_for_a_program_and_nan_for_a_reader() -> None:
    """JSON has no NaN: not in a tensor, and not within a value."""
    outputs = {"x": np.float32([1, math.nan]), "score": math.nan, "map": {"a": [math.inf, b"\xff"], "b": True}}
    text = '{"x": [1.0, null], "score": null, "map": {"a": [null, "/w=="], "b": true}}'
    assert json_text(outputs) == text
    assert human_lines({"score": math.nan}) == ["score  NaN"]


def test_output_saves_the_only_tensor(inferd, fake, tmp_path: Path) -> None:
    """--output writes an .npy file that comes back as it was."""
    path = str(tmp_path / "x.npy")
    said = inferd("infer", "echo", "x=[1,2,3]", "--output", path, "--url", fake.url)
    assert said == (0, f"{path}: x FP32[3]\n", "")
    assert np.load(path, allow_pickle=False).tolist() == [1, 2, 3]


@pytest.mark.parametrize("words", [("k=hello",), ("x=[1]", "y=[2]")])
def test_output_needs_exactly_one_tensor(inferd, fake, tmp_path: Path, words: tuple[str, ...]) -> None:
    """None or several tensors: a sentence with their number, and no file."""
    said = inferd("infer", "echo", *words, "--output", str(tmp_path / "x.npy"), "--url", fake.url)
    assert said.code == 1 and "one tensor" in said.err
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written_is_named(inferd, fake) -> None:
    """A folder that is not there is a sentence, not a traceback."""
    said = inferd("infer", "echo", "x=[1]", "--output", "/nowhere/x.npy", "--url", fake.url)
    assert said == (1, "", "inferd: cannot write /nowhere/x.npy: No such file or directory\n")


def test_the_models_error_is_the_callers_sentence(inferd, fake) -> None:
    """An error of the daemon comes with its code, its reason and its sentence."""
    said = inferd("infer", "greet", "txt=Ada", "--url", fake.url)
    assert said.code == 1
    assert said.err.startswith("inferd: INTERNAL/MODEL_FAILED: ")


def test_the_timeout_travels_as_the_deadline(inferd, fake) -> None:
    """--timeout-ms is what the server learns of the caller's time."""
    inferd("infer", "echo", "x=1", "--timeout-ms", "5000", "--url", fake.url)
    assert 0 < fake.requests[-1].deadline_ms <= 5000


def test_lines_are_answered_in_their_order(process, fake) -> None:
    """Each line is a request, many at a time, and the answers stand in the order of the lines, the last without a
    newline too."""
    lines = [str(number) for number in range(500)]
    said = process("infer", "greet", "text=-", "--lines", "--json", "--url", fake.url, stdin="\n".join(lines).encode())
    assert said.code == 0
    assert [json.loads(line)["greeting"] for line in said.out.splitlines()] == [f"Hello, {line}!" for line in lines]


def test_a_failed_line_keeps_its_place(process, fake) -> None:
    """A line that fails is an object with its error in the answers, the others are answered, and the exit code is 1."""

    def picky(inputs):
        if inputs["text"] == "bad":
            raise ValueError
        return inputs

    fake.models["picky"] = picky
    words = ("infer", "picky", "text=-", "--lines", "--url", fake.url)
    said = process(*words, "--json", stdin=b"a\nbad\n\xff\nb\n")
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 1
    assert [answer.get("text") for answer in answers] == ["a", None, None, "b"]
    assert answers[1]["error"]["code"] == "INTERNAL"
    assert "UTF-8" in answers[2]["error"]["message"]
    said = process(*words, stdin=b"a\nbad\nb\n")
    assert said.out == '> a\ntext  "a"\n\n> b\ntext  "b"\n'
    assert said.err.startswith("inferd: line 2: INTERNAL")


def test_no_lines_are_no_answers(process, fake) -> None:
    """An empty standard input is not an error."""
    assert process("infer", "greet", "text=-", "--lines", "--url", fake.url) == (0, "", "")


def test_lines_are_answered_while_more_may_come(fake) -> None:
    """An answer is printed when it is there, not when standard input ends; Ctrl-C ends the waiting at once."""
    command = [sys.executable, "-u", "-m", "inferd", "infer", "greet", "text=-", "--lines", "--json", "--url", fake.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking:
        assert asking.stdin and asking.stdout and asking.stderr
        asking.stdin.write(b"Ada\n")
        asking.stdin.flush()
        assert json.loads(asking.stdout.readline()) == {"greeting": "Hello, Ada!"}
        os.kill(asking.pid, signal.SIGINT)
        assert asking.wait(20) == 130
        assert b"Traceback" not in asking.stderr.read()


def test_how_urgent_and_what_it_replaces_are_sent(inferd, fake) -> None:
    """--priority and --supersede are the request's."""
    assert inferd("infer", "echo", "k=1", "--priority", "batch", "--supersede", "a", "--url", fake.url).code == 0
    assert (fake.requests[-1].priority, fake.requests[-1].supersede) == ("batch", "a")
    assert inferd("infer", "echo", "k=1", "--priority", "urgent", "--url", fake.url).code == 2


def test_timing_says_where_the_time_went(inferd, daemon_url: str) -> None:
    """--timing adds a line for a reader, and for a program makes the answer {outputs, timing}."""
    said = inferd("infer", "virtual", "2.5", "--timing", "--url", daemon_url)
    assert said.code == 0 and said.out.splitlines()[1].startswith("timing  queued ")
    assert "released idle" in said.out
    said = inferd("infer", "virtual", "2.5", "--timing", "--json", "--url", daemon_url)
    assert json.loads(said.out)["outputs"] == {"y": [2.5]} and json.loads(said.out)["timing"]["batch_rows"] == 1


def test_lines_and_output_do_not_go_together(inferd, fake) -> None:
    """There is one file and many answers."""
    assert inferd("infer", "echo", "--lines", "--output", "x.npy", "--url", fake.url).code == 2


def test_a_real_daemon_answers(inferd, daemon_url: str) -> None:
    """The built-in model `virtual` has a signature: a bare number is its x, and a wrong shape its own sentence."""
    assert inferd("infer", "virtual", "2.5", "--url", daemon_url) == (0, "y  FP32[1]  [2.5]\n", "")
    said = inferd("infer", "virtual", "[1, 2]", "--url", daemon_url)
    assert said.code == 1 and "INPUT_SHAPE" in said.err


@pytest.mark.parametrize("words", [("echo", "x=-"), ("greet", "--lines", "text=-")])
@pytest.mark.parametrize("how", ["closed", "not for reading"])
def test_a_standard_input_that_cannot_be_read_is_a_sentence(
    fake, tmp_path: Path, words: tuple[str, ...], how: str
) -> None:
    """Closed, where its number would be a connection's, or open to be written to: it ends, and exits 1."""
    command = [sys.executable, "-m", "inferd", "infer", *words, "--url", fake.url]
    if how == "closed":
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    with (tmp_path / "sink").open("wb") as sink:
        done = subprocess.run(command, stdin=sink, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("inferd: standard input cannot be read: ") and done.stderr.count("\n") == 1
