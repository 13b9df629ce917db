"""tritonclient[http], which nobody here wrote, gets right answers and errors that it understands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gateway.serving import Served

triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def numeric(data: Any, dtype: str = "FP32", binary: bool = True, name: str = "x") -> Any:
    tensor = triton.InferInput(name, list(data.shape), dtype)
    tensor.set_data_from_numpy(data, binary_data=binary)
    return tensor


def text(*texts: str, binary: bool = True) -> Any:
    return numeric(np.array(texts, dtype=object), "BYTES", binary, "text")


def test_health_and_metadata(client: Any) -> None:
    """Live, ready, each model ready, and what they take."""
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("ner")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "inferd"
    metadata = client.get_model_metadata("virtual")
    assert metadata["platform"] == "inferd" and metadata["outputs"][0]["datatype"] == "FP32"
    config = client.get_model_config("virtual")
    assert config["max_batch_size"] > 0 and config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [1]}
    assert "ner" in [model["name"] for model in client.get_model_repository_index()]


@pytest.mark.parametrize("sent", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("got", [True, False], ids=["binary out", "JSON out"])
def test_numbers(client: Any, sent: bool, got: bool) -> None:
    """The same array comes back, whichever way it travels."""
    data = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    outputs = [triton.InferRequestedOutput("x", binary_data=got)]
    result = client.infer("echo", [numeric(data, binary=sent)], outputs=outputs, request_id="9")
    assert (result.as_numpy("x") == data).all() and result.get_response()["id"] == "9"


@pytest.mark.parametrize("dtype", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"])
def test_whole_numbers(client: Any, dtype: str) -> None:
    """Every whole dtype, with its largest value."""
    numpy_dtype = np.dtype({"BOOL": "bool"}.get(dtype, dtype.lower()))
    largest = True if dtype == "BOOL" else np.iinfo(numpy_dtype).max
    data = np.array([[0, largest]], numpy_dtype)
    for binary in (True, False):
        result = client.infer("echo", [numeric(data, dtype, binary)])
        assert result.as_numpy("x").dtype == numpy_dtype and (result.as_numpy("x") == data).all()


def test_floats(client: Any) -> None:
    """FP16 and FP64 in binary."""
    for dtype, numpy_dtype in (("FP16", np.float16), ("FP64", np.float64)):
        data = np.array([[0.1, -3]], numpy_dtype)
        assert (client.infer("echo", [numeric(data, dtype)]).as_numpy("x") == data).all()


@pytest.mark.parametrize("binary", [True, False])
def test_text(client: Any, binary: bool) -> None:
    """Two texts are two rows; their spans are JSON text."""
    result = client.infer("ner", [text("Ada Lovelace was in London.", "Zürich", binary=binary)])
    spans = result.as_numpy("spans")
    assert spans.shape == (2,) and b"Ada Lovelace" in spans[0]


def test_compressed(client: Any) -> None:
    """A body that is compressed is unpacked."""
    data = np.ones((2, 1), np.float32)
    result = client.infer("virtual", [numeric(data)], request_compression_algorithm="gzip")
    assert (result.as_numpy("y") == data).all()


@pytest.mark.parametrize(
    ("model", "dtype", "status", "words"),
    [
        ("virtual", "FP64", "400", "takes FP32, got FP64"),
        ("virtual", "INT64", "400", "takes FP32, got INT64"),
        ("nope", "FP64", "404", "no model 'nope'"),
    ],
)
def test_errors_are_understood(client: Any, model: str, dtype: str, status: str, words: str) -> None:
    """The exception has the status and the sentence."""
    data = np.zeros((1, 1), dtype.replace("FP", "float").replace("INT", "int").lower())
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        client.infer(model, [numeric(data, dtype)])
    assert caught.value.status() == status


def test_a_timeout_is_in_microseconds(client: Any) -> None:
    """One that is up already is a 504."""
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("virtual", [numeric(np.zeros((1, 1), np.float32))], timeout=0)
    assert caught.value.status() == "504"
