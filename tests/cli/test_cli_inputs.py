"""From the words of a command line to inputs, by the model's signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from inferd.cli.inputs import Inputs
from inferd.errors import InferdError, NotFound

TEXT = [["text", "STRING", []]]
PAIR = [["x", "FP32", [3]], ["ids", "INT64", [-1]]]


def parse(declared: Any, *words: str, lines: bool = False, stdin: str = "") -> dict[str, Any]:
    return Inputs([{"name": "m", "inputs": declared}], "m", lambda: stdin).parse(words, lines)[0]


@pytest.mark.parametrize("text", ["hello", "[1, 2]", "17", "true", '{"a": 1}', "", "a b=c", "1=2"])
def test_a_text_input_is_never_read_as_json(text: str) -> None:
    """Where the model declares STRING, whatever is written is the text."""
    assert parse(TEXT, text) == {"text": text}
    assert parse(TEXT, f"text={text}") == {"text": text}


@pytest.mark.parametrize("dtype", ["FP32", "FP64", "FP16", "INT64", "INT8", "UINT8"])
def test_a_list_becomes_a_tensor_of_the_declared_dtype(dtype: str) -> None:
    """JSON numbers become an array of the dtype in the signature."""
    from inferd_client.codec import NUMPY_DTYPES

    array = parse([["x", dtype, [2, 2]]], "[[1, 2], [3, 4]]")["x"]
    assert array.dtype == np.dtype(NUMPY_DTYPES[dtype])
    assert array.tolist() == [[1, 2], [3, 4]]


def test_one_number_fills_a_tensor_of_one_element() -> None:
    """`inferd infer net 3` works where the model takes FP32[1]."""
    assert parse([["x", "FP32", [1]]], "3")["x"].tolist() == [3.0]
    assert parse([["x", "FP32", []]], "3")["x"].shape == ()


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("INT64", "[1.5]"),
        ("INT8", "[300]"),
        ("UINT8", "[-1]"),
        ("UINT8", "[256]"),
        ("FP32", '["a"]'),
        ("FP32", "[1, [2]]"),
        ("FP32", "one"),
        ("FP32", "null"),
        ("INT64", "99999999999999999999999"),
        ("BF16", "[1]"),
        ("NUMBER", "true"),
        ("NUMBER", "[1]"),
        ("MAP", "[1]"),
        ("LIST", "three"),
    ],
)
def test_what_does_not_fit_the_signature_is_refused_here(dtype: str, text: str) -> None:
    """A value that would be changed or that no tensor can hold is a mistake of usage that names the input."""
    with pytest.raises(click.UsageError, match="input 'x'"):
        parse([["x", dtype, [1] if dtype in ("INT64", "INT8", "UINT8", "FP32", "BF16") else []]], f"x={text}")


def test_without_a_signature_numbers_become_tensors_and_the_rest_values() -> None:
    """Lists of numbers are FP32 tensors, whole numbers too; everything else stays what it is."""
    inputs = parse(None, "a=[1,2.5]", "b=[[1],[2]]", 'c=["x"]', "d=5", "e=hello", "f=[[1],[2,3]]", "g=[true]")
    assert inputs["a"].dtype == np.float32 and inputs["a"].tolist() == [1, 2.5]
    assert inputs["b"].dtype == np.float32 and inputs["b"].shape == (2, 1)
    assert {name: inputs[name] for name in "cdefg"} == {
        "c": ["x"],
        "d": 5,
        "e": "hello",
        "f": [[1], [2, 3]],
        "g": [True],
    }


def test_without_a_signature_a_dtype_can_be_named() -> None:
    """name:DTYPE= makes that tensor, from JSON and from a file alike; a name with another colon is text as before."""
    inputs = parse(None, "a:INT64=[1,2]", "b:UINT8=7", "c:FP16=[[0.5]]")
    assert [(name, inputs[name].dtype.name, inputs[name].shape) for name in "abc"] == [
        ("a", "int64", (2,)),
        ("b", "uint8", ()),
        ("c", "float16", (1, 1)),
    ]
    assert parse(TEXT, "note:high=1") == {"text": "note:high=1"}


@pytest.mark.parametrize(
    ("declared", "word", "problem"),
    [
        (None, "a:INT8=[300]", "input 'a': INT8, got int64 numbers that do not fit"),
        (None, "a:INT64=[1.5]", "do not fit"),
        (None, "a:INT64=hello", "is not JSON"),
        (None, "a=[16777217]", "write a:INT64="),
        (PAIR, "x:INT64=[1,2,3]", "takes FP32.3., not INT64"),
    ],
)
def test_a_dtype_that_does_not_fit_is_refused_here(declared: Any, word: str, problem: str) -> None:
    """Numbers that the dtype cannot hold, and a dtype that is not the model's, are mistakes of usage."""
    with pytest.raises(click.UsageError, match=problem):
        parse(declared, word)


def test_a_bare_value_goes_to_the_only_open_input() -> None:
    """With all inputs but one named, the one without a name is clear."""
    inputs = parse(PAIR, "ids=[7]", "[1,2,3]")
    assert inputs["x"].tolist() == [1, 2, 3] and inputs["ids"].tolist() == [7]


@pytest.mark.parametrize(
    ("declared", "words", "problem"),
    [
        (PAIR, ("[1]",), "write name=VALUE"),
        (None, ("hello",), "does not declare its inputs"),
        (TEXT, ("a", "b"), "2 inputs have no name"),
        (TEXT, ("txt=a",), "has no input 'txt'; it takes text STRING.*write text='txt="),
        (TEXT, ("text=a", "text=b"), "given twice"),
        (TEXT, (), "needs an input"),
        (PAIR, ("x=-", "ids=-"), "standard input"),
    ],
)
def test_words_that_cannot_be_placed_are_explained(declared: Any, words: tuple[str, ...], problem: str) -> None:
    """Too many, unknown, doubled or missing inputs: the sentence says what the model takes or how to write it."""
    with pytest.raises(click.UsageError, match=problem):
        parse(declared, *words, stdin="[1,2,3]")


def test_a_model_that_takes_nothing_needs_nothing() -> None:
    """A signature without inputs is satisfied by no words."""
    assert parse([]) == {}


def test_standard_input_is_text_or_json_as_the_signature_says() -> None:
    """- and @- read standard input."""
    assert parse(TEXT, "-", stdin="[1]") == {"text": "[1]"}
    assert parse([["x", "FP32", [1]]], "x=@-", stdin="[1]")["x"].tolist() == [1]


def test_files_are_read_by_their_ending(tmp_path: Path) -> None:
    """.npy gives an array, .json a value, anything else text."""
    np.save(tmp_path / "a.npy", np.arange(3.0))
    (tmp_path / "b.json").write_text("[4, 5]")
    (tmp_path / "c.txt").write_text("[6]")
    inputs = parse(PAIR, f"x=@{tmp_path}/a.npy", f"ids=@{tmp_path}/b.json")
    assert inputs["x"].dtype == np.float32 and inputs["ids"].tolist() == [4, 5]
    assert parse(None, f"c=@{tmp_path}/c.txt") == {"c": "[6]"}
    assert parse(TEXT, f"@{tmp_path}/b.json") == {"text": "[4, 5]"}
    assert parse(TEXT, "@@ada") == {"text": "@ada"}


def test_an_array_file_is_never_unpickled(tmp_path: Path) -> None:
    """An .npy file of objects is refused; loading it would run what it contains."""
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InferdError, match="plain numbers"):
        parse(PAIR, f"x=@{tmp_path}/evil.npy")


@pytest.mark.parametrize(
    ("name", "content"), [("gone.npy", None), ("bad.npy", b"no"), ("bad.json", b"{"), ("b", b"\xff")]
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A missing or broken file is an error with its path in it."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InferdError, match=name):
        parse(None, f"x=@{tmp_path / name}")


def test_a_line_never_reads_a_file() -> None:
    """With --lines, @ and - in the data are data: who writes the lines need not be who typed the command."""
    inputs = Inputs([{"name": "m", "inputs": TEXT}], "m", str)
    assert inputs.parse([], lines=True) == ({}, "text")
    assert [inputs.line("text", line) for line in ("@/etc/passwd", "-", "text=a")] == ["@/etc/passwd", "-", "text=a"]


def test_lines_go_to_the_input_marked_with_a_dash() -> None:
    """name=- says which input the lines are for, where the signature does not."""
    inputs = Inputs([{"name": "m", "inputs": None}], "m", str)
    assert inputs.parse(["k=1", "x=-"], lines=True) == ({"k": 1}, "x")
    with pytest.raises(click.UsageError, match="name=-"):
        inputs.parse(["k=1"], lines=True)


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    """The sentence is the daemon's own, before anything is sent."""
    with pytest.raises(NotFound, match="there are: a, b"):
        Inputs(json.loads('[{"name": "b"}, {"name": "a"}]'), "c", str)


@pytest.mark.parametrize("declared", [None, [["x", "ANY", []]], [["x", "FP32", [-1]]]])
def test_json_nested_too_deep_is_a_sentence(tmp_path: Path, declared: Any) -> None:
    """As a word, in a file, and as a line; never taken for a text."""
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "deep.json").write_text(deep)
    for words in ([f"x={deep}"], [f"x=@{tmp_path}/deep.json"]):
        with pytest.raises(InferdError, match="nested too deep"):
            parse(declared, *words)
    with pytest.raises(InferdError, match="nested too deep"):
        Inputs([{"name": "m", "inputs": declared}], "m", lambda: "").line("x", deep)


@pytest.mark.parametrize("whole", [True, False])
def test_an_archive_of_arrays_is_no_array(tmp_path: Path, whole: bool) -> None:
    """numpy opens an .npz under any name: whole or broken, it is said to be none."""
    np.savez(tmp_path / "a.npz", x=np.arange(3.0))
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npy").write_bytes(content if whole else content[:40])
    with pytest.raises(InferdError, match=r"a\.npy is not an array file that holds plain numbers"):
        parse(PAIR, f"x=@{tmp_path}/a.npy", "ids=[1]")
