"""Inputs to payloads and back: every dtype, every layout, and a clear word on what cannot be sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from inferd_client import codec
from inferd_client.codec import NUMPY_DTYPES, Request, decode, encode

from inferd.errors import ConfigError, InvalidArgument
from inferd.wire.messages import Infer


def payload(request: Request) -> memoryview:
    joined = b"".join(request.pieces)
    assert len(joined) == request.payload_bytes
    return memoryview(bytearray(joined))


def there_and_back(inputs: dict[str, Any], batch: bool = False) -> dict[str, Any]:
    request = encode("echo", inputs, batch)
    header = Infer.unpack(request.plan.header(1000))
    return decode(header.tensors, header.tensor_end, bool(request.values), payload(request))


@pytest.mark.parametrize("dtype", NUMPY_DTYPES.values(), ids=NUMPY_DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0,), (2, 0, 3), (33, 67)], ids=str)
def test_every_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    for other in (array, array.T, array[..., ::-1] if array.ndim else array):
        back = there_and_back({"x": other, "text": "beside", "again": other})
        assert back["text"] == "beside"
        for name in ("x", "again"):
            assert back[name].dtype == other.dtype and back[name].shape == other.shape
            assert np.array_equal(back[name], other)
            assert back[name].flags.writeable


def test_a_contiguous_array_is_not_copied() -> None:
    array = np.zeros(100_000, np.uint8)
    [piece] = encode("echo", {"x": array}).pieces
    assert np.shares_memory(np.frombuffer(piece, np.uint8), array)


def test_outputs_are_views_of_the_payload() -> None:
    request = encode("echo", {"x": np.zeros(1000, np.float32), "n": 1})
    received = payload(request)
    back = decode(request.plan.table, request.plan.tensor_end, True, received)
    assert np.shares_memory(back["x"], np.frombuffer(received, np.uint8))


def test_other_byte_orders_and_scalars() -> None:
    assert there_and_back({"x": np.array([1.5, -2.0], ">f4")})["x"].tolist() == [1.5, -2.0]
    assert there_and_back({"x": np.array([[1, 2], [3, 4]], ">i8").T})["x"].tolist() == [[1, 3], [2, 4]]
    scalar = there_and_back({"x": np.float64(2.5), "b": np.bool_(True)})
    assert scalar["x"].shape == () and scalar["x"] == 2.5 and scalar["b"].dtype == np.bool_
    assert there_and_back({"x": np.str_("text")}) == {"x": "text"}


def test_torch_tensors() -> None:
    tensor = torch.arange(6, dtype=torch.float32, requires_grad=True).reshape(2, 3)
    assert there_and_back({"x": tensor.T})["x"].tolist() == tensor.T.tolist()
    request = encode("echo", {"x": torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.bfloat16).T})
    [tensor_row] = request.plan.table
    assert tensor_row.dtype == "BF16" and tensor_row.shape == (2, 2)
    back = torch.frombuffer(payload(request), dtype=torch.bfloat16)
    assert back.tolist() == [1.0, 3.0, -2.0, 4.0]


def test_bfloat16_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    request = encode("echo", {"x": torch.ones(4, dtype=torch.bfloat16)})
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match="pip install ml_dtypes"):
        decode(request.plan.table, request.plan.tensor_end, False, payload(request))


def test_bfloat16_comes_out_as_numpy_knows_it() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    back = there_and_back({"x": np.array([1.0, -2.0], ml_dtypes.bfloat16)})
    assert back["x"].dtype == ml_dtypes.bfloat16 and back["x"].tolist() == [1.0, -2.0]


def test_values() -> None:
    values = {"text": "ä", "n": 3, "x": 0.5, "yes": True, "none": None, "list": [1, "a", [2]], "map": {"k": [1]}}
    assert there_and_back(values) == values
    assert there_and_back({"pair": (1, 2)}) == {"pair": [1, 2]}
    assert there_and_back({}) == {}


def test_layout_on_the_wire() -> None:
    """Tensors on 64-byte boundaries with zeros between, values behind them; without values it ends with a tensor."""
    request = encode("echo", {"a": np.full(3, 7, np.uint8), "v": 1, "b": np.full(2, 9, np.uint8)})
    data = bytes(payload(request))
    assert data[:3] == b"\7" * 3 and data[3:64] == bytes(61) and data[64:66] == b"\t" * 2
    assert data[66:128] == bytes(62) and data[128:] == b"\x81\xa1v\x01"
    assert encode("echo", {"a": np.zeros(3, np.uint8)}).payload_bytes == 3
    assert encode("echo", {"e": np.zeros((0, 4)), "v": 1}).payload_bytes == 4


def test_rows_are_counted() -> None:
    request = encode("echo", {"x": np.zeros((3, 2)), "text": ["a", "b", "c"]}, batch=True)
    assert Infer.unpack(request.plan.header(1)).rows == 3
    assert there_and_back({"text": ["a", "b"]}, batch=True) == {"text": ["a", "b"]}
    assert Infer.unpack(encode("echo", {"x": np.zeros((3, 2))}).plan.header(1)).rows == 0


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": np.zeros((3, 2)), "text": ["a", "b"]}, "input 'text' must lead with rows = 3, got 2"),
        ({"text": ["a", "b"], "x": np.zeros((3, 2))}, "input 'x' must lead with rows = 2, got 3"),
        ({"text": "abc"}, "'text' must be a list with one value per row"),
        ({"x": np.float32(1)}, "'x' has no rows: it is a scalar"),
        ({}, "'inputs' must have at least one row"),
        ({"x": np.zeros((0, 2))}, "'inputs' must have at least one row"),
    ],
)
def test_rows_that_disagree(inputs: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        encode("echo", inputs, batch=True)


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        ("echo", {"x": np.array([object()])}, "'x': has the numpy dtype object"),
        ("echo", {"x": np.array([1j])}, "'x': has the numpy dtype complex128"),
        ("echo", {"x": np.array(["text"])}, "'x': has the numpy dtype <U4"),
        ("echo", {"x": memoryview(b"abc")}, "'x' must be an array.*type memoryview"),
        ("echo", {"x": {1, 2}}, "'x' must be an array.*type set"),
        ("echo", {"y": 1, "x": [np.float32(1)]}, "the input 'x'"),
        ("echo", {"x": 1 << 70}, "the input 'x'"),
        ("echo", {1: "x"}, "text"),
        ("", {"x": 1}, "'model' must be 1 to 64 characters"),
        ("m" * 65, {"x": 1}, "'model' must be 1 to 64 characters"),
        ("echo", {"n" * 129: np.zeros(1)}, "name is not 1 to 128 bytes"),
        ("echo", {f"{i}": np.zeros(1) for i in range(65)}, "has 65 tensors"),
        ("echo", {f"{i}": np.zeros(1) for i in range(3000)}, "has 3000 tensors"),
    ],
)
def test_what_cannot_be_sent(model: str, inputs: dict[str, Any], words: str) -> None:
    """It is refused here, naming the input, in the words of the server's own check."""
    with pytest.raises(InvalidArgument, match=words):
        encode(model, inputs)


def test_the_largest_header_fits() -> None:
    """Whatever passes the checks, names of 128 bytes and 16 dimensions included, is under the limit of 16 KiB."""
    inputs = {f"{i:0128}": np.zeros((1,) * 11 + (128,) * 4 + (0,), np.uint16) for i in range(64)}
    assert len(encode("m" * 64, inputs).plan.header(2**60)) <= 12 * 1024


def test_what_is_remembered_stays_small() -> None:
    for length in range(codec.MAX_PLANS + 10):
        encode("echo", {"x": np.zeros(length, np.uint8)})
    assert len(codec._plans) <= codec.MAX_PLANS
    plan = encode("echo", {"x": 1}).plan
    for deadline_ms in range(codec.MAX_HEADERS + 10):
        plan.header(deadline_ms)
    assert len(plan._headers) <= codec.MAX_HEADERS
