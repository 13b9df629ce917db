"""Writes frames.json: the protocol's bytes, one frame after the other. Run it again and nothing changes.

It shares no code with inferd, only struct and msgpack, so that the package is checked against the document and not
against itself. Every number in here comes from docs/PROTOCOL.md.

    python tests/vectors/generate.py
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgpack

FRAMES = Path(__file__).with_name("frames.json")

TYPES = {
    "HELLO": 1,
    "WELCOME": 2,
    "INFER": 3,
    "RESULT": 4,
    "ERROR": 5,
    "CANCEL": 6,
    "PING": 7,
    "PONG": 8,
    "GOAWAY": 9,
    "CREDIT": 10,
    "STATUS": 11,
    "RELOAD": 12,
}
HAS_VALUES = 1
TO_SERVER, TO_CLIENT = "client->server", "server->client"

frames: list[dict[str, Any]] = []
refused: list[dict[str, Any]] = []


def prefix(kind: int, flags: int, credits: int, header_bytes: int, payload_bytes: int, request_id: int) -> bytes:
    return struct.pack("<3sBBBHIIQ", b"\xf1\x6e\x66", 1, kind, flags, credits, header_bytes, payload_bytes, request_id)


def pack(kind: int, header: dict[str, Any] | bytes | None, payload: bytes, request_id: int, flags: int = 0) -> bytes:
    packed = header if isinstance(header, bytes) else b"" if header is None else msgpack.packb(header)
    return prefix(kind, flags, 0, len(packed), len(payload), request_id) + packed + payload


def frame(
    name: str,
    direction: str,
    kind: str,
    request_id: int,
    header: dict[str, Any] | None,
    tensors: bytes = b"",
    values: dict[str, Any] | None = None,
    credits: int = 0,
) -> None:
    """One frame. `header` None stands for no header bytes at all, which mean an empty map."""
    payload = tensors
    if values is not None:
        payload = padded(tensors) + msgpack.packb(values)
    flags = 0 if values is None else HAS_VALUES
    packed = b"" if header is None else msgpack.packb(header)
    opening = prefix(TYPES[kind], flags, credits, len(packed), len(payload), request_id)
    frames.append(
        {
            "name": name,
            "direction": direction,
            "hex": (opening + packed + payload).hex(),
            "meaning": {
                "type": kind,
                "flags": flags,
                "credits": credits,
                "request_id": request_id,
                "header_bytes": len(packed),
                "header": header or {},
                "payload": payload.hex(),
                "values": values,
            },
        }
    )


def closes(
    name: str, direction: str, state: str, data: bytes, why: str, silently: bool = False, reason: str = "PROTOCOL"
) -> None:
    """Bytes after which the connection ends. A server says one ERROR before, if it was spoken to in this protocol."""
    entry = {"name": name, "direction": direction, "state": state, "hex": data.hex(), "outcome": "closes"}
    if silently or direction == TO_CLIENT:
        entry["outcome"] = "closes silently"
    else:
        entry["code"] = "UNIMPLEMENTED" if reason == "UNSUPPORTED_VERSION" else "INVALID_ARGUMENT"
        entry["reason"] = reason
    refused.append({**entry, "why": why})


def skipped(name: str, direction: str, data: bytes, why: str) -> None:
    """A frame that is read and forgotten, without an answer."""
    refused.append(
        {"name": name, "direction": direction, "state": "OPEN", "hex": data.hex(), "outcome": "skipped", "why": why}
    )


def answered(name: str, data: bytes, reason: str, why: str) -> None:
    """A frame from a client that is answered with an error; the connection stays in step."""
    refused.append(
        {
            "name": name,
            "direction": TO_SERVER,
            "state": "OPEN",
            "hex": data.hex(),
            "outcome": "answered",
            "code": "UNIMPLEMENTED" if reason == "UNKNOWN_MESSAGE" else "INVALID_ARGUMENT",
            "reason": reason,
            "why": why,
        }
    )


def padded(data: bytes) -> bytes:
    """`data` with zero bytes up to the next multiple of 64."""
    return data + bytes(-len(data) % 64)


def fp32(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def conversation() -> None:
    frame("hello", TO_SERVER, "HELLO", 0, {"versions": [1, 1], "client": "vectors/1"})
    frame(
        "welcome",
        TO_CLIENT,
        "WELCOME",
        0,
        {
            "version": 1,
            "server": "inferd/0.1",
            "limits": {"header_bytes": 16384, "payload_bytes": 67108864, "values_bytes": 1048576, "in_flight": 64},
        },
        values={
            "models": [
                {
                    "name": "digits",
                    "inputs": [["image", "FP32", [1, 28, 28]]],
                    "outputs": [["scores", "FP32", [10]]],
                    "max_batch_size": 32,
                },
                {
                    "name": "ner",
                    "inputs": [["text", "STRING", []]],
                    "outputs": [["spans", "LIST", []]],
                    "max_batch_size": 16,
                },
                {"name": "anything", "inputs": None, "outputs": None, "max_batch_size": 1},
            ]
        },
        credits=64,
    )
    frame(
        "infer_one_tensor",
        TO_SERVER,
        "INFER",
        1,
        {"model": "double", "inputs": [["x", "FP32", [3], 0]], "deadline_ms": 250.0},
        fp32(1.0, 2.5, -3.0),
    )
    frame("result_tensor", TO_CLIENT, "RESULT", 1, {"outputs": [["y", "FP32", [3], 0]]}, fp32(2.0, 5.0, -6.0), None, 64)
    frame(
        "infer_two_tensors_padded",
        TO_SERVER,
        "INFER",
        2,
        {"model": "masked", "inputs": [["mask", "BOOL", [3], 0], ["x", "BF16", [2, 2], 64]]},
        padded(b"\x01\x00\x01") + struct.pack("<4H", 0x3F80, 0x4000, 0xBF80, 0x7F80),  # 1, 2, −1, +infinity
    )
    frame("infer_values_only", TO_SERVER, "INFER", 3, {"model": "ner"}, values={"text": "Ada Lovelace, Zürich"})
    frame(
        "result_values",
        TO_CLIENT,
        "RESULT",
        3,
        {},
        values={"spans": [{"entity": "PER", "start": 0, "end": 12, "text": "Ada Lovelace", "score": 0.75}]},
        credits=63,
    )
    frame(
        "infer_tensor_and_values",
        TO_SERVER,
        "INFER",
        4,
        {"model": "crop", "inputs": [["image", "UINT8", [2, 5], 0]]},
        bytes(range(10)),
        values={"top": 1, "left": -2, "scale": 0.5, "flip": False, "note": None, "raw": "ok"},
    )
    frame(
        "result_tensor_and_values",
        TO_CLIENT,
        "RESULT",
        4,
        {"outputs": [["image", "UINT8", [2], 0]]},
        b"\x05\x06",
        values={"label": "cat"},
        credits=64,
    )
    frame(
        "infer_rows_3",
        TO_SERVER,
        "INFER",
        5,
        {"model": "double", "inputs": [["x", "FP32", [3, 2], 0]], "rows": 3, "deadline_ms": 1000},
        fp32(0, 1, 2, 3, 4, 5),
        values={"tag": ["a", "b", "c"]},
    )
    frame(
        "result_rows_3",
        TO_CLIENT,
        "RESULT",
        5,
        {"outputs": [["y", "FP32", [3, 2], 0]]},
        fp32(0, 2, 4, 6, 8, 10),
        values={"tag": ["A", "B", "C"]},
        credits=64,
    )
    frame(
        "infer_scalar_and_empty",
        TO_SERVER,
        "INFER",
        2**64 - 1,
        {"model": "odd", "inputs": [["scalar", "INT64", [], 0], ["nothing", "FP64", [0, 4], 64]]},
        padded(struct.pack("<q", -7)),
    )
    frame(
        "infer_nan_is_data",
        TO_SERVER,
        "INFER",
        6,
        {"model": "double", "inputs": [["x", "FP32", [2], 0]]},
        fp32(math.nan, math.inf),
    )
    frame(
        "infer_fields_of_later_versions",
        TO_SERVER,
        "INFER",
        7,
        {"model": "double", "inputs": [["x", "FP32", [1], 0]], "trace": {"id": "00-ab"}, "call_id": "c1", "later": 3},
        fp32(1),
    )
    frame(
        "infer_options",
        TO_SERVER,
        "INFER",
        8,
        {"model": "ner", "deadline_ms": 100, "priority": "interactive", "supersede": "field-1", "timing": True},
        values={"text": "Ada L"},
    )
    frame(
        "infer_options_again",
        TO_SERVER,
        "INFER",
        10,
        {"model": "ner", "deadline_ms": 100, "priority": "interactive", "supersede": "field-1", "timing": True},
        values={"text": "Ada Lo"},
    )
    frame(
        "error_superseded",
        TO_CLIENT,
        "ERROR",
        8,
        {
            "code": "CANCELLED",
            "reason": "SUPERSEDED",
            "message": "a newer request with the same supersede key took its place",
            "retryable": False,
        },
        credits=64,
    )
    frame(
        "result_timing",
        TO_CLIENT,
        "RESULT",
        10,
        {
            "timing": {
                "queued_ms": 3.5,
                "compute_ms": 8.25,
                "total_ms": 12.0,
                "batch_id": 4711,
                "batch_rows": 6,
                "padded": 0.25,
                "released": "freed",
            }
        },
        values={"spans": []},
        credits=64,
    )
    frame(
        "result_tensor_and_timing",
        TO_CLIENT,
        "RESULT",
        1,
        {
            "outputs": [["y", "FP32", [3], 0]],
            "timing": {
                "queued_ms": 0.0,
                "compute_ms": 1.5,
                "total_ms": 2.0,
                "batch_id": 1,
                "batch_rows": 1,
                "padded": 0.0,
                "released": "idle",
            },
        },
        fp32(2.0, 5.0, -6.0),
        credits=64,
    )
    frame("infer_batch_class", TO_SERVER, "INFER", 11, {"model": "ner", "priority": "batch"}, values={"text": "Ada"})
    frame(
        "error_overloaded",
        TO_CLIENT,
        "ERROR",
        11,
        {
            "code": "RESOURCE_EXHAUSTED",
            "reason": "OVERLOADED",
            "message": "the answer could not be ready within the deadline: about 180 ms of work are ahead; "
            "try again after retry_after_ms",
            "retryable": True,
            "retry_after_ms": 95.5,
        },
        credits=16,
    )
    frame(
        "error_retryable",
        TO_CLIENT,
        "ERROR",
        6,
        {
            "code": "RESOURCE_EXHAUSTED",
            "reason": "SLAB_FULL",
            "message": "the server's input memory is full; try again later",
            "retryable": True,
            "retry_after_ms": 12.5,
        },
        credits=32,
    )
    frame(
        "error_final",
        TO_CLIENT,
        "ERROR",
        7,
        {
            "code": "NOT_FOUND",
            "reason": "MODEL_NOT_FOUND",
            "message": "no model 'double' is served here; there are: ner",
            "retryable": False,
        },
        credits=64,
    )
    frame(
        "error_ends_the_connection",
        TO_CLIENT,
        "ERROR",
        0,
        {
            "code": "INVALID_ARGUMENT",
            "reason": "PROTOCOL",
            "message": "the header is not a msgpack map",
            "retryable": False,
        },
    )
    frame(
        "infer_gap",
        TO_SERVER,
        "INFER",
        12,
        {"model": "pair", "inputs": [["a", "UINT8", [1], 64], ["b", "UINT8", [1], 256]]},
        bytes(64) + b"\x01" + bytes(191) + b"\x02",
    )
    frame(
        "infer_empty_at_the_end",
        TO_SERVER,
        "INFER",
        13,
        {"model": "odd", "inputs": [["x", "UINT8", [3], 0], ["nothing", "FP32", [0], 64]]},
        padded(b"\x01\x02\x03"),
    )
    frame("infer_rows_without_inputs", TO_SERVER, "INFER", 14, {"model": "odd", "rows": 2})
    frame("result_empty", TO_CLIENT, "RESULT", 14, None, credits=64)
    frame("cancel", TO_SERVER, "CANCEL", 5, None)
    frame(
        "error_cancelled",
        TO_CLIENT,
        "ERROR",
        5,
        {
            "code": "CANCELLED",
            "reason": "CLIENT_CANCELLED",
            "message": "the caller cancelled the request",
            "retryable": False,
        },
        credits=64,
    )
    frame("ping_from_client", TO_SERVER, "PING", 77, None)
    frame("pong_from_server", TO_CLIENT, "PONG", 77, None, credits=64)
    frame("ping_from_server", TO_CLIENT, "PING", 0, None, credits=64)
    frame("pong_from_client", TO_SERVER, "PONG", 0, None)
    frame("credit", TO_CLIENT, "CREDIT", 0, None, credits=8)
    frame("status_request", TO_SERVER, "STATUS", 9, None)
    frame(
        "status_reply",
        TO_CLIENT,
        "STATUS",
        9,
        None,
        values={"uptime_s": 12.0, "models": {"ner": {"queued": 0, "done": 41}}},
        credits=64,
    )
    frame("reload_request", TO_SERVER, "RELOAD", 10, None)
    frame("reload_reply", TO_CLIENT, "RELOAD", 10, None, values={"changed": ["tokens", "model ner"]}, credits=64)
    frame("goaway", TO_CLIENT, "GOAWAY", 0, {"reason": "DRAINING"}, credits=64)


def refusals() -> None:
    hello = {"versions": [1, 1], "client": "vectors/1"}
    one = msgpack.packb({"model": "double", "inputs": [["x", "FP32", [1], 0]]})
    start = (TO_SERVER, "START")
    opened = (TO_SERVER, "OPEN")
    closes("http", *start, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "another protocol", True)
    closes("tls", *start, bytes.fromhex("160301020001000001fc0303"), "another protocol", True)
    closes("ssh", *start, b"SSH-2.0-OpenSSH_9.6\r\n", "another protocol", True)
    closes("zero_bytes", *start, bytes(8), "another protocol", True)
    closes("bad_magic", *start, b"\xf1\x6e\x67" + pack(1, hello, b"", 0)[3:], "the third byte is not 66", True)
    closes("bad_magic_later", *opened, b"\xf1\x6e\x67" + pack(7, None, b"", 1)[3:], "the third byte is not 66", True)
    closes("http_later", *opened, b"POST /v2/infer HTTP/1.1\r\n\r\n", "another protocol", True)
    closes("bad_version", *start, b"\xf1\x6e\x66\x02" + pack(1, hello, b"", 0)[4:], "frame version 2")
    for name, fields, reason, why in (
        ("hello_without_versions", {"client": "vectors/1"}, "FIELD_MISSING", "no versions"),
        ("hello_versions_text", {"versions": "1"}, "FIELD_TYPE", "versions is no list"),
        ("hello_token_number", {"versions": [1, 1], "token": 7}, "FIELD_TYPE", "the token is no text"),
        ("hello_versions_backwards", {"versions": [3, 1]}, "UNSUPPORTED_VERSION", "no version is between these"),
        ("hello_of_the_future", {"versions": [2, 3]}, "UNSUPPORTED_VERSION", "none that this server speaks"),
    ):
        closes(name, *start, pack(1, fields, b"", 0), why, reason=reason)
    closes("infer_before_hello", *start, pack(3, one, fp32(1), 1), "only HELLO opens a conversation")
    closes("unknown_type_before_hello", *start, pack(99, None, b"", 1), "only HELLO opens a conversation")
    closes("hello_too_large", *start, prefix(1, 0, 0, 64, 4096, 0), "more than 4 KiB before HELLO")
    closes("hello_twice", *opened, pack(1, hello, b"", 0), "HELLO in an open conversation")
    closes("result_from_client", *opened, pack(4, {}, b"", 1), "a client sends no RESULT")
    closes("welcome_twice", TO_CLIENT, "OPEN", pack(2, {"version": 1}, b"", 0), "WELCOME in an open conversation")
    closes("infer_from_server", TO_CLIENT, "OPEN", pack(3, one, fp32(1), 1), "a server sends no INFER")
    closes("header_over_limit", *opened, prefix(3, 0, 0, 16385, 0, 1), "refused from the prefix: 16,385 header bytes")
    closes("header_4_gib", *opened, prefix(3, 0, 0, 2**32 - 1, 0, 1), "refused from the prefix")
    closes("payload_over_limit", *opened, prefix(3, 0, 0, 10, 64 * 2**20 + 1, 1), "refused from the prefix: 64 MiB + 1")
    closes("payload_4_gib", *opened, prefix(3, 0, 0, 10, 2**32 - 1, 1), "refused from the prefix")
    for name, header, why in (
        ("header_list", msgpack.packb([1, 2]), "the header is no map"),
        ("header_cut", b"\x82\xa5model\xa1m", "the header is cut short"),
        ("header_trailing", msgpack.packb({"model": "m"}) + b"\xc0", "a byte behind the map"),
        ("header_key_twice", b"\x82\xa5model\xa1a\xa5model\xa1b", "a key twice"),
        ("header_int_key", b"\x81\x01\xa1a", "a key that is a number"),
        ("header_binary_key", b"\x81\xc4\x05model\xa1a", "a key that is binary"),
        ("header_bad_utf8", b"\x81\xa5model\xa1\xff", "text that is not UTF-8"),
        ("header_ext", b"\x81\xa1t\xd4\x05\x00", "an extension type"),
        ("header_ext_of_no_bytes", b"\x81\xa1t\xc7\x00\x05", "an extension type of no bytes"),
        ("header_timestamp", b"\x81\xa1t\xd6\xff\x00\x00\x00\x01", "a timestamp, which is an extension type"),
        ("header_list_over_128", msgpack.packb({"later": [0] * 129}), "a list of 129 entries"),
    ):
        closes(name, *opened, pack(3, header, b"", 1), why)

    def table(*rows: list[Any], **more: Any) -> dict[str, Any]:
        return {"model": "m", "inputs": list(rows), **more}

    x = ["x", "FP32", [1], 0]
    answered("unknown_type", pack(99, b"\xc1\xc1", b"abc", 1), "UNKNOWN_MESSAGE", "type 99; its bytes are skipped")
    skipped("unknown_type_without_an_id", TO_SERVER, pack(99, None, b"abc", 0), "an ERROR with id 0 would end it all")
    skipped("unknown_type_from_server", TO_CLIENT, pack(99, b"\xc1\xc1", b"abc", 1), "type 99; its bytes are skipped")
    skipped("cancel_of_nothing", TO_SERVER, pack(6, None, b"", 4711), "no request of this id is unanswered")
    skipped(
        "error_of_nothing", TO_CLIENT, pack(5, {"code": "INTERNAL"}, b"", 4711), "no request of this id is unanswered"
    )
    answered("model_missing", pack(3, {}, b"", 1), "FIELD_MISSING", "no model")
    answered("model_not_text", pack(3, {"model": 7}, b"", 1), "FIELD_TYPE", "the model is a number")
    answered("model_too_long", pack(3, {"model": "m" * 65}, b"", 1), "FIELD_VALUE", "a name of 65 characters")
    answered("inputs_no_list", pack(3, {"model": "m", "inputs": {}}, b"", 1), "FIELD_TYPE", "inputs is a map")
    answered("inputs_row_of_5", pack(3, table([*x, 0]), fp32(1), 1), "FIELD_TYPE", "a row of five entries")
    answered("inputs_name_empty", pack(3, table(["", *x[1:]]), fp32(1), 1), "FIELD_VALUE", "a tensor without a name")
    many = [[f"t{n}", "FP32", [0], 0] for n in range(65)]
    answered(
        "inputs_65_tensors", pack(3, table(*many), b"", 1), "FIELD_VALUE", "65 tensors; 129 would end the connection"
    )
    answered("rows_zero", pack(3, table(x, rows=0), fp32(1), 1), "FIELD_VALUE", "rows = 0")
    answered("rows_mismatch", pack(3, table(x, rows=2), fp32(1), 1), "ROWS", "rows = 2, but the tensor leads with 1")
    for name, value in (("nan", math.nan), ("infinite", math.inf), ("negative", -1)):
        data = pack(3, {"model": "m", "deadline_ms": value}, b"", 1)
        answered(f"deadline_{name}", data, "FIELD_VALUE", f"deadline_ms is {value}")
    for name, field, value, reason, why in (
        ("priority_unknown", "priority", "urgent", "FIELD_VALUE", "no such priority"),
        ("priority_number", "priority", 0, "FIELD_TYPE", "priority is no text"),
        ("supersede_empty", "supersede", "", "FIELD_VALUE", "an empty key"),
        ("supersede_129_bytes", "supersede", "é" * 64 + "x", "FIELD_VALUE", "65 characters, but 129 bytes"),
        ("supersede_binary", "supersede", b"key", "FIELD_TYPE", "the key is no text"),
        ("timing_number", "timing", 1, "FIELD_TYPE", "timing is no boolean"),
    ):
        answered(name, pack(3, {"model": "m", field: value}, b"", 1), reason, why)
    two = padded(fp32(1)) + fp32(2)
    for name, rows, payload, why in (
        ("overlap", [["a", "FP32", [17], 0], ["b", "FP32", [1], 64]], two, "b begins inside a"),
        ("unaligned", [["a", "FP32", [1], 4]], fp32(0, 1), "offset 4 is no multiple of 64"),
        ("descending", [["a", "FP32", [1], 64], ["b", "FP32", [1], 0]], two, "b lies before a"),
        ("same_name", [["a", "FP32", [1], 0], ["a", "FP32", [1], 64]], two, "a twice"),
        ("dtype", [["a", "FLOAT", [1], 0]], fp32(1), "no such dtype"),
        ("big_endian", [["a", ">f4", [1], 0]], fp32(1), "no such dtype"),
        ("negative_dim", [["a", "FP32", [-1], 0]], fp32(1), "a size of −1"),
        ("dims_17", [["a", "FP32", [1] * 17, 0]], fp32(1), "17 dimensions"),
        ("dims_65", [["a", "FP32", [1] * 65, 0]], fp32(1), "65 dimensions"),
        ("huge_beside_zero", [["a", "FP32", [2**40, 2**40, 0], 0]], b"", "no bytes, but strides over 2^63"),
    ):
        answered(f"tensor_{name}", pack(3, {"model": "m", "inputs": rows}, payload, 1), "TENSOR", why)
    answered("payload_short", pack(3, table(x), b"\0\0\0", 1), "FIELD_VALUE", "3 bytes, the tensor has 4")
    answered("payload_long", pack(3, table(x), bytes(8), 1), "FIELD_VALUE", "8 bytes, the tensor has 4")
    huge = table(["x", "FP32", [2**40] * 3, 0])
    answered("payload_far_too_short", pack(3, huge, b"", 1), "FIELD_VALUE", "no bytes, the tensor has 2^122")
    for name, payload in (("absent", fp32(1)), ("end_in_padding", padded(fp32(1)))):
        answered(f"values_{name}", pack(3, table(x), payload, 1, HAS_VALUES), "VALUES", "no byte at offset 64")


def document() -> str:
    """The text of frames.json."""
    frames.clear()
    refused.clear()
    conversation()
    refusals()
    about = (
        "frames: one conversation, each frame with its meaning (null is nil; a payload is in hex; values is the "
        "decoded values segment, null when the frame has none); its models are invented. refused: what is not "
        "taken, the state of the receiver, and what follows (outcome). closes: one ERROR with id 0 and this code "
        "and reason, then the end of the connection. closes silently: its end, without a frame. answered: an "
        "ERROR with the frame's id and this code and reason, and the connection goes on. skipped: the frame is "
        "forgotten without an answer. docs/PROTOCOL.md is the specification."
    )
    return json.dumps({"about": about, "frames": frames, "refused": refused}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FRAMES.write_text(document(), encoding="utf-8")
    print(f"{FRAMES}: {len(frames)} frames, {len(refused)} refusals")
