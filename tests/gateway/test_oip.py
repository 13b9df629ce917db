"""Bodies of the Open Inference Protocol, to inputs and back, without a server."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inferd.errors import RequestError
from inferd.gateway.oip import Asked, Signature
from inferd.gateway.oip_answer import AT_ONCE, answer
from inferd.gateway.oip_request import parse

MODEL = {
    "name": "m",
    "inputs": [["x", "FP32", [2]], ["t", "STRING", []], ["v", "MAP", []]],
    "outputs": [["y", "FP32", [2]], ["t", "STRING", []], ["v", "ANY", []]],
    "max_batch_size": 8,
}
OPEN = {"name": "open", "inputs": None, "outputs": None, "max_batch_size": 8}


def signature(dtype: str, shape: list[int], name: str = "x") -> Signature:
    """A model with one input."""
    return Signature({"name": "m", "inputs": [[name, dtype, shape]], "outputs": None, "max_batch_size": 8})


def asked(model: Signature, *inputs: dict[str, Any], binary: bytes | None = None, **more: Any) -> Asked:
    text = json.dumps({"inputs": list(inputs), **more}).encode()
    if binary is None:
        return parse(memoryview(text), None, model)
    return parse(memoryview(text + binary), len(text), model)


def refusal(model: Signature, *inputs: Any, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        asked(model, *inputs, **more)
    assert caught.value.code == "INVALID_ARGUMENT"
    return caught.value


def tensor(dtype: str, shape: list[int], data: Any = None, **more: Any) -> dict[str, Any]:
    row = {"name": "x", "datatype": dtype, "shape": shape, **more}
    return row if data is None else {**row, "data": data}


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "data"),
    [
        ("BOOL", np.bool_, [True, False]),
        ("UINT8", np.uint8, [0, 255]),
        ("UINT16", np.uint16, [0, 65535]),
        ("UINT32", np.uint32, [0, 2**32 - 1]),
        ("UINT64", np.uint64, [1, 2**64 - 1]),
        ("INT8", np.int8, [-128, 127]),
        ("INT16", np.int16, [-(2**15), 2**15 - 1]),
        ("INT32", np.int32, [-(2**31), 2**31 - 1]),
        ("INT64", np.int64, [-(2**63), 2**63 - 1]),
        ("FP16", np.float16, [0.5, -2]),
        ("BF16", ml_dtypes.bfloat16, [0.5, -2]),
        ("FP32", np.float32, [0.1, 7]),
        ("FP64", np.float64, [0.1, 1e300]),
    ],
)
def test_numbers_come_as_json_and_as_bytes(dtype: str, numpy_dtype: Any, data: list[Any]) -> None:
    """Both give the same array of the dtype; JSON may be nested or flat; and both go back as they came."""
    expected = np.array(data, numpy_dtype).reshape(1, 2)
    model = signature(dtype, [2])
    for given in (data, [data]):
        array = asked(model, tensor(dtype, [1, 2], given)).inputs["x"]
        assert array.dtype == expected.dtype and array.tobytes() == expected.tobytes()
    raw = tensor(dtype, [1, 2], parameters={"binary_data_size": expected.nbytes})
    request = asked(model, raw, binary=expected.tobytes(), parameters={"binary_data_output": True})
    assert request.batch and request.inputs["x"].tobytes() == expected.tobytes()
    buffers, json_bytes = answer({"y": expected}, None, request, model)
    assert json_bytes == len(buffers[0]) and bytes(buffers[1]) == expected.tobytes()
    (row,) = json.loads(bytes(buffers[0]))["outputs"]
    size = {"binary_data_size": expected.nbytes}
    assert row == {"name": "y", "datatype": dtype, "shape": [1, 2], "parameters": size}
    buffers, json_bytes = answer({"y": expected}, None, Asked({}, True), model)
    (row,) = json.loads(b"".join(buffers))["outputs"]
    assert json_bytes is None and row["data"] == expected.astype(object if "INT" in dtype else float).ravel().tolist()


def test_binary_tensors_are_not_copied() -> None:
    """The array is a view of the body."""
    data = np.arange(2, dtype=np.float32).tobytes()
    text = json.dumps({"inputs": [tensor("FP32", [1, 2], parameters={"binary_data_size": 8})]}).encode()
    body = bytearray(text + data)
    array = parse(memoryview(body), len(text), signature("FP32", [2])).inputs["x"]
    body[len(text) :] = np.float32([5, 6]).tobytes()
    assert array.tolist() == [[5, 6]]


def test_values_travel_as_bytes() -> None:
    """A STRING as its text and a MAP as JSON text, in JSON and in binary, and back: text as text unless it is ANY."""
    model = Signature(MODEL)
    x = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    texts, maps = ["Ada", "ü"], [{"a": 1}, {"ü": [None]}]
    elements = [text.encode() for text in texts], [json.dumps(value).encode() for value in maps]
    packed = [b"".join(struct.pack("<I", len(e)) + e for e in column) for column in elements]
    rows = [{"name": name, "datatype": "BYTES", "shape": [2]} for name in ("t", "v")]
    as_json = [{**rows[0], "data": texts}, {**rows[1], "data": [json.dumps(value) for value in maps]}]
    as_bytes = [{**row, "parameters": {"binary_data_size": len(data)}} for row, data in zip(rows, packed, strict=True)]
    for request in (asked(model, x, *as_json), asked(model, x, *as_bytes, binary=b"".join(packed))):
        assert request.batch and request.inputs["t"] == texts and request.inputs["v"] == maps
    result = {"t": texts, "v": ["text", {"ü": 1}]}
    (body,), _ = answer(result, None, request, model)
    assert [row["data"] for row in json.loads(bytes(body))["outputs"]] == [texts, ['"text"', '{"ü": 1}']]
    request.binary_rest = True
    (_, t, _), _ = answer(result, None, request, model)
    assert bytes(t) == packed[0]


def test_the_batch_dimension_is_told_from_the_shape() -> None:
    """With it a request is of n rows, without it one item; text may also come as [n, 1]."""
    model = signature("FP32", [2])
    assert asked(model, tensor("FP32", [3, 2], [0] * 6)).batch
    assert not asked(model, tensor("FP32", [2], [0, 0])).batch
    text = signature("STRING", [])
    assert asked(text, tensor("BYTES", [2, 1], ["a", "b"])).inputs == {"x": ["a", "b"]}
    single = asked(text, tensor("BYTES", [], ["a"]))
    assert single.inputs == {"x": "a"} and not single.batch
    (body,), _ = answer({"y": 1}, None, single, text)
    assert json.loads(bytes(body))["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [], "data": ["1"]}]


def test_a_model_that_declares_nothing_takes_rows() -> None:
    """There only the protocol's own rule is left: the batch dimension leads. Text is text."""
    model = Signature(OPEN)
    assert asked(model, tensor("FP32", [1, 1, 1], [[[5]]])).batch
    assert asked(model, tensor("BYTES", [2], ["a", "b"])).inputs == {"x": ["a", "b"]}
    assert refusal(model, tensor("FP32", [], [1])).reason == "INPUT_SHAPE"
    assert model.metadata()["inputs"] == []


def test_metadata_leads_with_the_batch() -> None:
    """Values are BYTES, shapes lead with −1, and there is a version."""
    metadata = Signature(MODEL).metadata()
    assert metadata["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "t", "datatype": "BYTES", "shape": [-1]},
        {"name": "v", "datatype": "BYTES", "shape": [-1]},
    ]
    assert metadata["versions"] == ["1"] and Signature({**OPEN, "version": "7a"}).metadata()["versions"] == ["7a"]


def test_options_are_read() -> None:
    """Triton's timeout is in microseconds; the rest are inferd's own."""
    parameters = {"timeout": 2500, "priority": "batch", "supersede": "k", "timing": True, "of_later": 1}
    outputs = [{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]
    request = asked(signature("FP32", [1]), tensor("FP32", [1, 1], [0]), id="7", parameters=parameters, outputs=outputs)
    assert (request.id, request.timeout_ms, request.priority) == ("7", 2.5, "batch")
    assert (request.supersede, request.timing) == ("k", True)
    assert request.wanted == ["a", "b"] and request.binary == {"a": True}


def test_what_json_cannot_hold_is_null() -> None:
    """NaN and infinity are null in JSON, themselves in binary."""
    array = np.float32([[1, math.nan, math.inf]])
    (body,), _ = answer({"y": array}, None, Asked({}, True), Signature(OPEN))
    assert json.loads(bytes(body))["outputs"][0]["data"] == [1, None, None]
    (_, data), _ = answer({"y": array}, None, Asked({}, True, binary_rest=True), Signature(OPEN))
    assert bytes(data) == array.tobytes()
    with pytest.raises(RequestError, match="no form for"):
        answer({"y": [{"k": b"\xff"}]}, None, Asked({}, True), Signature(OPEN))


def test_nan_within_a_value_is_null() -> None:
    """Wherever it stands, declared or not, in JSON and in a binary element, which is JSON text too."""
    model = Signature({**OPEN, "outputs": [["score", "NUMBER", []], ["v", "ANY", []]]})
    result = {"score": [math.nan, 0.5], "v": [{"a": [1, -math.inf, (math.inf,)], "ü": True}, None], "w": [math.inf, 1]}
    (body,), _ = answer(result, None, Asked({}, True), model)
    data = {row["name"]: row["data"] for row in json.loads(bytes(body))["outputs"]}
    assert data == {"score": ["null", "0.5"], "v": ['{"a": [1, null, [null]], "ü": true}', "null"], "w": ["null", "1"]}
    (_, binary, *_), _ = answer(result, None, Asked({}, True, binary_rest=True), model)
    assert b"null" in bytes(binary)


def test_what_nests_too_deep_is_told_from_bytes() -> None:
    """Either has no JSON here, and each its own sentence."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, [math.nan, deep]):
        with pytest.raises(RequestError, match="output 'y' is nested too deep") as caught:
            answer({"y": [value]}, None, Asked({}, True), Signature(OPEN))
        assert caught.value.reason == "NOT_IN_JSON"


def test_many_numbers_are_all_there() -> None:
    """They are written in pieces, in which others are served; a null is no matter for the pieces."""
    model = signature("FP32", [-1])
    numbers = np.arange(3 * AT_ONCE + 5, dtype=np.float32)
    numbers[AT_ONCE] = math.nan
    [body], binary = answer({"x": numbers}, None, asked(model, tensor("FP32", [1], [1])), model)
    [output] = json.loads(bytes(body))["outputs"]
    assert binary is None and output["shape"] == [3 * AT_ONCE + 5]
    assert output["data"] == [None if math.isnan(number) else number for number in numbers.tolist()]
    [body], _ = answer({"x": np.empty((0, 4), np.int8)}, None, asked(model, tensor("FP32", [1], [1])), model)
    assert json.loads(bytes(body))["outputs"] == [{"name": "x", "datatype": "INT8", "shape": [0, 4], "data": []}]


def test_json_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is served while it is read. The binary form has none but the body's."""
    monkeypatch.setattr("inferd.gateway.oip_request.MAX_JSON_BYTES", 300)
    model = signature("FP32", [-1])
    told = refusal(model, tensor("FP32", [1, 100], [0.5] * 100)).message
    assert "bytes of JSON, and at most 300 are read; send tensors in the binary form" in told
    numbers = np.zeros(100, np.float32)
    row = {"name": "x", "datatype": "FP32", "shape": [1, 100], "parameters": {"binary_data_size": 400}}
    assert asked(model, row, binary=numbers.tobytes()).inputs["x"].size == 100


def test_only_what_was_asked_for_goes_back() -> None:
    """In the order asked; what is not there is an error that says what is."""
    (body,), _ = answer({"a": ["1"], "b": ["2"]}, None, Asked({}, True, wanted=["b"]), Signature(OPEN))
    assert [row["name"] for row in json.loads(bytes(body))["outputs"]] == ["b"]
    with pytest.raises(RequestError, match="no output 'c'; it returned a, b"):
        answer({"a": ["1"], "b": ["2"]}, None, Asked({}, True, wanted=["c"]), Signature(OPEN))


X = signature("FP32", [2])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (tensor("FLOAT", [1, 2], [0, 0]), "TENSOR"),
        (tensor("FP32", [1, 2]), "TENSOR"),
        (tensor("FP32", [1, 2], {}), "TENSOR"),
        (tensor("FP32", [1, 2], [0]), "TENSOR"),
        (tensor("FP32", [1, 2], [[0], 0]), "TENSOR"),
        (tensor("FP32", [1, 2], [0, "1"]), "TENSOR"),
        (tensor("FP32", [1, 2], [0, True]), "TENSOR"),
        (tensor("FP32", [1, 2], [0, None]), "TENSOR"),
        (tensor("FP32", [1, 2], [0, 10**400]), "TENSOR"),
        (tensor("INT32", [1, 2], [0, 1.5]), "TENSOR"),
        (tensor("INT8", [1, 2], [0, 128]), "TENSOR"),
        (tensor("UINT64", [1, 2], [0, -1]), "TENSOR"),
        (tensor("BYTES", [1, 2], [0, 1]), "TENSOR"),
        (tensor("FP32", [-1, 2], [0, 0]), "TENSOR"),
        (tensor("FP32", [1] * 17, [0]), "TENSOR"),
        (tensor("FP32", "2", [0]), "TENSOR"),  # type: ignore[arg-type]
        (tensor("FP32", [0, 1 << 40, 2], []), "TENSOR"),
        (tensor(["FP32"], [1, 2], [0, 0]), "TENSOR"),  # type: ignore[arg-type]
        (tensor({}, [1, 2], [0, 0]), "TENSOR"),  # type: ignore[arg-type]
        (tensor("FP32", [1, 2], parameters={"binary_data_size": 8}), "TENSOR"),
        (tensor("FP32", [1, 2], parameters={"binary_data_size": -1}), "TENSOR"),
        (tensor("FP32", [1, 2], [0, 0], parameters={"shared_memory_region": "r"}), "FIELD_VALUE"),
        (tensor("FP32", [1, 2], [0, 0], parameters=[]), "FIELD_TYPE"),
        (tensor("BYTES", [1], ["a"]), "INPUT_DTYPE"),
        (tensor("FP32", [1, 1, 2], [0, 0]), "INPUT_SHAPE"),
        ({**tensor("FP32", [1, 2], [0, 0]), "name": "z"}, "INPUT_UNKNOWN"),
        ({**tensor("FP32", [1, 2], [0, 0]), "name": 7}, "FIELD_TYPE"),
        ({**tensor("FP32", [1, 2], [0, 0]), "name": "\ud800"}, "FIELD_TYPE"),
        ("x", "FIELD_TYPE"),
    ],
)
def test_what_cannot_be_is_refused(row: Any, reason: str) -> None:
    """Each is an INVALID_ARGUMENT with the reason that fits."""
    assert refusal(X, row).reason == reason


def test_bodies_that_are_none() -> None:
    """No JSON, no object, a wrong number of JSON bytes, bytes left over, nesting without end."""
    for text, json_bytes in (
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b"{}", 3),
        (b"{}x", 2),
        (b'{"inputs":' + b"[" * 100_000, None),
        (b'{"id": ' + b"9" * 5000 + b"}", None),
    ):
        with pytest.raises(RequestError) as caught:
            parse(memoryview(text), json_bytes, X)
        assert caught.value.reason == "BODY"


def test_elements_of_bytes_are_checked() -> None:
    """Cut short, too many, no UTF-8, no JSON where a MAP travels."""
    text, a_map = signature("STRING", []), signature("MAP", [])
    for data in (b"\x01", b"\x05\0\0\0ab", b"\x01\0\0\0a\x01\0\0\0b"):
        row = tensor("BYTES", [1], parameters={"binary_data_size": len(data)})
        assert refusal(text, row, binary=data).reason == "TENSOR"
    row = tensor("BYTES", [1], parameters={"binary_data_size": 5})
    assert refusal(text, row, binary=b"\x01\0\0\0\xff").reason == "FIELD_VALUE"
    assert refusal(a_map, tensor("BYTES", [1], ["{"])).reason == "FIELD_VALUE"


def test_a_number_is_no_text() -> None:
    """A value's input given as a tensor says what is taken: BYTES."""
    error = refusal(signature("STRING", []), tensor("FP32", [1], [0]))
    assert error.message == "input 'x': model 'm' takes BYTES, got FP32"


def test_inputs_agree_about_the_batch() -> None:
    """All inputs have the batch dimension, or none has; and a name is there once."""
    model = Signature(MODEL)
    x = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    assert refusal(model, x, {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["a"]}).reason == "BODY"
    assert refusal(model, x, x).reason == "TENSOR"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"timeout": "1"}, "FIELD_TYPE"),
        ({"timeout": -1}, "FIELD_VALUE"),
        ({"timeout": True}, "FIELD_TYPE"),
        ({"priority": 1}, "FIELD_TYPE"),
        ({"timing": 1}, "FIELD_TYPE"),
        ({"sequence_id": 3}, "FIELD_VALUE"),
    ],
)
def test_options_are_checked(parameters: dict[str, Any], reason: str) -> None:
    """A wrong type or value is named, and what Triton has and inferd has not is refused, not ignored."""
    error = refusal(X, tensor("FP32", [1, 2], [0, 0]), parameters=parameters)
    assert error.reason == reason and next(iter(parameters)) in error.message


@pytest.mark.parametrize(
    "more", [{"id": "\ud800"}, {"parameters": {"timeout": 10**400}}, {"parameters": {"timeout": 1e308}}]
)
def test_options_that_cannot_be_are_refused(more: dict[str, Any]) -> None:
    """Text that has no form in UTF-8, and times that have none as a float or a date."""
    assert refusal(X, tensor("FP32", [1, 2], [0, 0]), **more).reason == "FIELD_VALUE"
