"""Both sides write and read exactly the bytes of frames.json, and the document shows them as they are."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import msgpack
import pytest

from inferd.errors import CATALOGUE, FINAL_REASONS, ProtocolError
from inferd.wire import frame as f
from inferd.wire import messages as m
from inferd.wire.peer import CLIENT, GREETING, OPEN, SERVER, START, Peer
from inferd.wire.tensor import ITEM_BYTES, VALUE_KINDS, Tensor, aligned, layout
from inferd.wire.values import pack_values, unpack_values
from tests.wire.wire_link import PIECES, end_in, raw

HERE = Path(__file__).parent
BOOK = json.loads((HERE / "frames.json").read_text(encoding="utf-8"))
NUMBERS = {name: number for number, name in f.TYPE_NAMES.items()}
PROTOCOL = (HERE.parents[1] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")

each_frame = pytest.mark.parametrize("vector", BOOK["frames"], ids=lambda one: one["name"])
each_refusal = pytest.mark.parametrize("vector", BOOK["refused"], ids=lambda one: one["name"])


def receiver(vector: dict[str, Any]) -> tuple[str, str]:
    """Who receives the vector, and in which state."""
    role = SERVER if vector["direction"] == "client->server" else CLIENT
    if "state" in vector:
        return role, vector["state"]
    return role, {"HELLO": START, "WELCOME": GREETING}.get(vector["meaning"]["type"], OPEN)


# What is taken and not written: fields of later versions, gaps between tensors, no bytes for an empty map.
RECEIVED_ONLY = {"infer_fields_of_later_versions", "infer_gap", "result_empty"}


def table_of(rows: list[Any]) -> tuple[tuple[Tensor, ...], int]:
    """The tensors of a table as they are placed there, and where they end."""
    placed, end = layout([(name, dtype, tuple(shape)) for name, dtype, shape, _ in rows])
    if [tensor.offset for tensor in placed] != [row[3] for row in rows]:
        placed = tuple(Tensor(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in rows)
        end = placed[-1].offset + placed[-1].nbytes
    return placed, end


def message_of(kind: str, header: dict[str, Any]) -> m.Message:
    """The message an application would make for this meaning."""
    if kind == "HELLO":
        return m.Hello(header["client"], tuple(header["versions"]))
    if kind == "WELCOME":
        return m.Welcome(header["server"], header["limits"], header["version"])
    if kind == "INFER":
        table, end = table_of(header.get("inputs", []))
        options = {name: header[name] for name in ("priority", "supersede", "timing") if name in header}
        return m.Infer(header["model"], table, end, header.get("rows", 0), header.get("deadline_ms"), **options)
    if kind == "RESULT":
        table, end = table_of(header.get("outputs", []))
        return m.Result(table, end, header.get("timing"))
    if kind == "ERROR":
        return m.Error(**header)
    return m.GoAway(header["reason"]) if kind == "GOAWAY" else m.BARE


def test_the_script_reproduces_the_file() -> None:
    """frames.json is what generate.py writes, to the byte."""
    script = runpy.run_path(str(HERE / "generate.py"))
    assert script["document"]() == (HERE / "frames.json").read_text(encoding="utf-8")


def test_every_message_has_a_vector() -> None:
    """No message type is without its bytes."""
    assert {vector["meaning"]["type"] for vector in BOOK["frames"]} == set(NUMBERS)
    names = [vector["name"] for vector in BOOK["frames"] + BOOK["refused"]]
    assert len(names) == len(set(names))


@each_frame
def test_encoding(vector: dict[str, Any]) -> None:
    """What this side writes for the meaning is the vector."""
    meaning = vector["meaning"]
    if vector["name"] in RECEIVED_ONLY:
        return
    role, state = receiver(vector)
    sender = end_in(CLIENT if role == SERVER else SERVER, state).peer
    message = message_of(meaning["type"], meaning["header"])
    payload = bytes.fromhex(meaning["payload"])
    head = sender.send(
        NUMBERS[meaning["type"]], message, meaning["request_id"], len(payload), meaning["flags"], meaning["credits"]
    )
    assert (head + payload).hex() == vector["hex"]
    if meaning["values"] is not None:
        start = aligned(message.tensor_end) if isinstance(message, (m.Infer, m.Result)) else 0
        assert payload[start:] == pack_values(meaning["values"])


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("tail", [0, 1, 24, 30])
@each_frame
def test_decoding(vector: dict[str, Any], piece: int, tail: int) -> None:
    """The vector means what it says: whole, byte by byte, and with a tail of the next frame behind it."""
    meaning = vector["meaning"]
    end = end_in(*receiver(vector))
    behind = raw(f.PING, b"\x81\xa1x\xa5later", request_id=99)
    first = end.feed(bytes.fromhex(vector["hex"]), piece)
    if meaning["type"] == "HELLO":
        end.peer.send(f.WELCOME, m.Welcome("x", {}))
    end.feed(behind[:tail], piece)
    (got,) = first
    kind = meaning["type"]
    assert got.error is None
    assert (got.type, got.flags, got.credits, got.request_id) == (
        NUMBERS[kind],
        meaning["flags"],
        meaning["credits"],
        meaning["request_id"],
    )
    assert got.payload == bytes.fromhex(meaning["payload"])
    assert got.message.pack() == message_of(kind, meaning["header"]).pack()
    if meaning["values"] is not None:
        start = aligned(got.message.tensor_end) if isinstance(got.message, (m.Infer, m.Result)) else 0
        assert unpack_values(got.payload[start:]) == meaning["values"]
    if kind in ("INFER", "RESULT"):
        assert got.message.timing == meaning["header"].get("timing", False if kind == "INFER" else None)  # type: ignore[union-attr]
        rows = meaning["header"].get("inputs") or meaning["header"].get("outputs") or []
        assert [tensor.row() for tensor in got.message.tensors] == rows  # type: ignore[union-attr]
    (ping,) = end.feed(behind[tail:], piece)
    assert (ping.type, ping.request_id) == (f.PING, 99)


@each_frame
def test_vectors_read_by_hand(vector: dict[str, Any]) -> None:
    """The offsets of the document lead to the meaning, without a line of inferd."""
    data, meaning = bytes.fromhex(vector["hex"]), vector["meaning"]
    header_bytes, payload_bytes = (int.from_bytes(data[at : at + 4], "little") for at in (8, 12))
    assert data[:4].hex() == "f16e6601"
    assert (data[4], data[5]) == (NUMBERS[meaning["type"]], meaning["flags"])
    assert int.from_bytes(data[6:8], "little") == meaning["credits"]
    assert int.from_bytes(data[16:24], "little") == meaning["request_id"]
    assert header_bytes == meaning["header_bytes"] and len(data) == 24 + header_bytes + payload_bytes
    assert (msgpack.unpackb(data[24 : 24 + header_bytes]) if header_bytes else {}) == meaning["header"]
    assert data[24 + header_bytes :].hex() == meaning["payload"]


@pytest.mark.parametrize("piece", PIECES)
@each_refusal
def test_refusals(vector: dict[str, Any], piece: int) -> None:
    """What the peer refuses by itself: the connection closes, or the frame gets its code and reason and the next one
    parses. (tests/e2e/test_vectors_live.py has what the daemon makes of all of them.)"""
    role, state = receiver(vector)
    end, data = end_in(role, state), bytes.fromhex(vector["hex"])
    reason = vector.get("reason")
    if vector["outcome"].startswith("closes") and reason in (None, "PROTOCOL"):
        with pytest.raises(ProtocolError) as caught:
            end.feed(data, piece)
        assert end.peer.state == "CLOSED"
        assert role == CLIENT or bool(caught.value.looks_like) == (reason is None)
        return
    got = end.feed(data + (raw(f.PING, request_id=2) if state == OPEN else b""), piece)
    if vector["outcome"] == "answered" or reason in ("FIELD_MISSING", "FIELD_TYPE"):
        assert got[0].error is not None
        assert (got[0].error.code, got[0].error.reason) == (vector["code"], reason)
    if state == OPEN:
        assert (got[1].type, got[1].request_id, got[1].error) == (f.PING, 2, None)


# ---- the document


def test_the_document_names_everything() -> None:
    """Every reason, code, dtype, value kind, message type and limit of the code stands in docs/PROTOCOL.md."""
    for reason, (cls, _) in CATALOGUE.items():
        row = next((line for line in PROTOCOL.splitlines() if line.startswith(f"| `{reason}` ")), "")
        assert f"`{cls.code}`" in row, reason
        assert ("| yes" in row) == (cls.retryable and reason not in FINAL_REASONS), reason
    for name, size in ITEM_BYTES.items():
        assert re.search(rf"\| `{name}` +\| {size} ", PROTOCOL), name
    for name, number in NUMBERS.items():
        assert re.search(rf"\| +{number} \| `{name}`", PROTOCOL), name
    for kind in VALUE_KINDS:
        assert f"`{kind}`" in PROTOCOL
    for priority in m.PRIORITIES:
        assert f'"{priority}"' in PROTOCOL
    limits = f.Limits()
    for number in (limits.header_bytes, limits.payload_bytes, limits.hello_bytes, m.MAX_ENTRIES, m.MAX_MODEL_NAME):
        assert f"{number:,}" in PROTOCOL, number


def shown() -> list[tuple[str, str]]:
    """The frames that the document shows: name and hex, from blocks that open with ```hex name."""
    blocks = re.findall(r"^```hex (\w+)\n(.*?)^```", PROTOCOL, re.M | re.S)
    column = re.compile(r"^((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", re.M)  # what stands before two spaces
    return [(name, "".join(column.findall(text))) for name, text in blocks]


@pytest.mark.parametrize(("name", "text"), shown())
def test_the_document_shows_the_vectors(name: str, text: str) -> None:
    """The hex in docs/PROTOCOL.md is the hex of the vector of that name."""
    (vector,) = (vector for vector in BOOK["frames"] if vector["name"] == name)
    assert text.replace(" ", "") == vector["hex"]


def test_the_document_shows_a_dialogue() -> None:
    """There are at least a greeting, a request and its result to follow byte by byte."""
    assert {"hello", "welcome", "infer_one_tensor", "result_tensor"} <= {name for name, _ in shown()}


def test_the_whole_conversation_in_order() -> None:
    """The vectors are one conversation: two peers that speak them to each other stay in step to the goodbye."""
    peers = {SERVER: Peer(SERVER), CLIENT: Peer(CLIENT)}
    peers[CLIENT].send(f.HELLO, m.Hello("x"))
    for vector in BOOK["frames"]:
        if vector["name"] == "error_ends_the_connection":
            continue
        role, _ = receiver(vector)
        peer, data = peers[role], bytes.fromhex(vector["hex"])
        peer.get_buffer()[: len(data)] = data
        peer.buffer_updated(len(data))
        frame = peer.next_frame()
        assert frame is not None and frame.complete and peer.at_boundary, vector["name"]
        if vector["name"] == "hello":
            peers[SERVER].send(f.WELCOME, m.Welcome("x", {}))
    assert peers[CLIENT].state == "DRAINING"
