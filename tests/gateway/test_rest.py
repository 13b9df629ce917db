"""REST as curl meets it: addresses, statuses, options, limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.gateway.serving import Served

X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}


def test_the_server_says_what_it_is(served: Served) -> None:
    """Its metadata, its models, and theirs; `/versions/1` is the same."""
    assert served.ask("GET", "/v2").json["name"] == "inferd"
    names = [model["name"] for model in served.ask("POST", "/v2/repository/index").json]
    assert {"echo", "ner", "virtual"} <= set(names)
    metadata = served.ask("GET", "/v2/models/virtual").json
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    assert served.ask("GET", "/v2/models/virtual/versions/1").json == metadata
    for path in ("/v2/models/virtual/ready", "/v2/models/virtual/versions/1/ready", "/v2/health/ready", "/readyz"):
        assert served.ask("GET", path).status == 200


def test_a_model_is_asked(served: Served) -> None:
    """Text in, JSON text out; the id comes back, and with `timing` the timeline."""
    text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Ada Lovelace was in London."]}
    answer = served.infer("ner", text, id="a", parameters={"timing": True, "priority": "interactive"})
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/json"
    assert answer.json["id"] == "a" and answer.json["parameters"]["batch_rows"] == 1
    assert "Ada Lovelace" in answer.json["outputs"][0]["data"][0]
    assert "parameters" not in served.infer("ner", text).json


def test_every_kind_of_value_comes_back(served: Served) -> None:
    """JSON text for all but STRING, both ways, and rows are rows."""
    values = {"text": "ü", "number": "1.5", "flag": "true", "list": '[1, "a"]', "map": '{"k": null}', "any": '"text"'}
    inputs = [{"name": name, "datatype": "BYTES", "shape": [2], "data": [text] * 2} for name, text in values.items()]
    inputs.append({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]})
    outputs = {row["name"]: row["data"] for row in served.infer("kinds", *inputs).json["outputs"]}
    assert outputs.pop("x") == [2, 4, 6, 8]
    assert outputs == {name: [text] * 2 for name, text in values.items()}


def test_bf16_goes_both_ways(served: Served) -> None:
    """As numbers in JSON, as the upper halves of FP32 in binary."""
    x = {"name": "x", "datatype": "BF16", "shape": [1, 2], "data": [1.5, -2]}
    assert served.infer("half", x).json["outputs"][0]["data"] == [3.0, -4.0]
    answer = served.infer("half", x, parameters={"binary_data_output": True})
    size = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.body[size:] == struct.pack("<HH", 0x4040, 0xC080)


def test_large_tensors_come_back_as_they_went(served: Served) -> None:
    """4 MiB, binary and as JSON, which is done in a thread."""
    array = np.arange(1024 * 1024, dtype=np.float32)
    row = {"name": "x", "datatype": "FP32", "shape": [1, array.size], "parameters": {"binary_data_size": array.nbytes}}
    head = json.dumps({"inputs": [row], "parameters": {"binary_data_output": True}}).encode()
    answer = served.ask(
        "POST",
        "/v2/models/echo/infer",
        head + array.tobytes(),
        Inference_Header_Content_Length=str(len(head)),
    )
    size = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.status == 200 and answer.body[size:] == array.tobytes()
    small = np.arange(200_000)
    answer = served.infer("echo", {"name": "x", "datatype": "INT32", "shape": [1, small.size], "data": small.tolist()})
    assert answer.json["outputs"][0]["data"] == small.tolist()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/v2/models/nope", None, 404, "no model 'nope'"),
        ("GET", "/v2/models/ner/versions/9", None, 404, "no model 'ner/9'"),
        ("GET", "/v2/nope", None, 404, "no such address"),
        ("GET", "/page/nope.js", None, 404, "nope.js"),
        ("GET", "/page/..%2fapp.py", None, 404, ""),
        ("GET", "/v2/models/ner/infer", None, 405, "it takes POST"),
        ("POST", "/v2/models/ner/infer", b"{", 400, "no JSON"),
        ("POST", "/v2/models/ner/infer", {"inputs": []}, 400, "needs the input 'text'"),
        ("POST", "/v2/models/virtual/infer", {"inputs": [{**X, "datatype": "FP64"}]}, 400, "takes FP32, got FP64"),
        ("POST", "/v2/models/virtual/infer", {"inputs": [{**X, "shape": [2], "data": [1, 1]}]}, 400, "takes shape"),
        ("POST", "/v2/models/virtual/infer", {"inputs": [X], "parameters": {"priority": "urgent"}}, 400, "one of"),
        ("POST", "/v2/models/virtual/infer", {"inputs": [X], "outputs": [{"name": "z"}]}, 400, "no output 'z'"),
        ("POST", "/v2/models/virtual/infer", {"inputs": [X], "parameters": {"timeout": 0}}, 504, "no answer within"),
    ],
)
def test_what_goes_wrong_has_a_status_and_a_sentence(
    served: Served, method: str, path: str, body: object, status: int, words: str
) -> None:
    """Every error is a JSON object with `error`."""
    answer = served.ask(method, path, body)
    assert answer.status == status and words in answer.json["error"]


def test_headers_bound_the_time_and_set_the_class(served: Served) -> None:
    """Inferd-Timeout-Ms and Inferd-Priority, for clients that cannot change the body."""
    body = {"inputs": [X]}
    path = "/v2/models/virtual/infer"
    assert served.ask("POST", path, body, Inferd_Timeout_Ms="0").status == 504
    assert served.ask("POST", path, body, Inferd_Timeout_Ms="5000", Inferd_Priority="batch").status == 200
    assert served.ask("POST", path, body, Inferd_Timeout_Ms="soon").status == 400
    assert served.ask("POST", path, body, Inferd_Priority="soon").status == 400


def test_a_body_over_the_limit_is_not_read(served: Served) -> None:
    """413 from its length alone, and from what has come where no length was said."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v2/models/echo/infer")
        connection.putheader("Content-Length", str(8 * 1024 * 1024 + 1))
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 413 and b"limit of 8388608 bytes" in response.read()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        chunks = (b"x" * 1024 * 1024 for _ in range(9))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/v2/models/echo/infer", chunks, encode_chunked=True)
        assert connection.getresponse().status == 413


def test_hanging_up_takes_the_request_back(served: Served, gate_folder: Path) -> None:
    """A caller who closes the connection while its request waits in the queue: it is never computed."""
    (gate_folder / "shut").touch()
    try:
        before = served.status()["counters"].get("cancelled_while_queued", 0)
        body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 1], "data": [1, 1, 1]}]}'
        head = b"POST /v2/models/gate/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        with contextlib.ExitStack() as callers:
            for count in (1, 2):
                sock = callers.enter_context(socket.create_connection(("127.0.0.1", served.port)))
                sock.sendall(head + body)
                served.until(lambda status, n=count: status["in_flight"] == n)
        served.until(lambda status: status["counters"].get("cancelled_while_queued", 0) == before + 1)
    finally:
        (gate_folder / "shut").unlink()
    served.until(lambda status: status["in_flight"] == 0)


def test_the_page_has_a_strict_policy(served: Served) -> None:
    """What the page may load is its own, and nobody may frame it."""
    answer = served.ask("GET", "/")
    if answer.status == 404:
        pytest.skip("there is no page yet")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "accept", ["text/plain;version=x", "text/plain;version=1..", "application/openmetrics-text;version=x"]
)
def test_any_form_of_metrics_may_be_asked_for(served: Served, accept: str) -> None:
    """One that nobody knows is answered with the oldest."""
    answer = served.ask("GET", "/metrics", Accept=accept)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("request_line", "headers", "words"),
    [
        ("GET /livez", ["Host: localhost", "Content-Length: many"], "Content-Length"),
        ("GET /livez", ["Accept: */*"], "'Host'"),
        ("GET /livez", ["Host: localhost", "A: b\x01c"], "header value"),
        ("GET /" + "a" * 9000, ["Host: localhost"], "8190 bytes"),
        ("GET /livez", ["Host: localhost", *[f"A{n}: b" for n in range(200)]], "Too many headers"),
        ("GARBAGE", [], "method"),
    ],
)
def test_what_is_no_http_gets_json_too(served: Served, request_line: str, headers: list[str], words: str) -> None:
    """The error has the form of all the others, and nothing of what was received."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall("\r\n".join([f"{request_line} HTTP/1.1", *headers, "", ""]).encode())
        response = http.client.HTTPResponse(sock)
        response.begin()
        told = json.loads(response.read())
    assert response.status == 400 and response.headers["Server"] == "inferd"
    assert words in told["error"] and "aaa" not in told["error"] and "\x01" not in told["error"]


def test_a_body_that_does_not_unpack_is_the_callers(served: Served) -> None:
    """400, as for a body that is no JSON."""
    answer = served.ask("POST", "/v2/models/virtual/infer", b"no gzip", Content_Encoding="gzip")
    assert answer.status == 400 and "encoding" in answer.json["error"]


def test_no_name_is_too_long_for_a_404(served: Served) -> None:
    """Not even one that no file system takes."""
    assert served.ask("GET", f"/page/{'a' * 4000}").status == 404


def test_what_is_no_http_is_not_logged_as_it_came(served: Served) -> None:
    """A header that cannot be read may hold a token: the log has a line a second, without what was received."""
    log = Path(served.url.removeprefix("inferd+unix://")).parent / "log"
    before = len(log.read_text().splitlines())
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer broken-\x01secret\r\n\r\n")
            assert sock.recv(100).split()[1] == b"400"
    lines = log.read_text().splitlines()
    assert len(lines) < before + 10 and not any("secret" in line for line in lines)
