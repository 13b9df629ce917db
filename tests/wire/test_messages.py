"""Headers: what is ignored, what is refused by name, and what ends the connection."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.errors import (
    BY_CODE,
    CATALOGUE,
    Cancelled,
    InvalidArgument,
    ProtocolError,
    RequestError,
    Superseded,
    Unavailable,
    make,
)
from inferd.wire import frame as f
from inferd.wire import messages as m
from inferd.wire.peer import CLIENT, GREETING, OPEN, SERVER, START, Frame
from inferd.wire.tensor import layout
from tests.wire.wire_link import end_in, infer, open_server, raw

ROW = ["x", "FP32", [1], 0]
BROKEN = {
    "a list": b"\x92\x01\x02",
    "a number": b"\x07",
    "nil": b"\xc0",
    "cut short": b"\x82\xa5model\xa1m",
    "a length and nothing else": b"\xdf\xff\xff\xff\xff",
    "trailing bytes": b"\x81\xa5model\xa1m\xc0",
    "a key twice": b"\x82\xa5model\xa1a\xa5model\xa1b",
    "a key twice in a long map": b"\xde\x00\x02\xa1a\x01\xa1a\x02",
    "a key twice in a longer map": b"\xdf\x00\x00\x00\x02\xa1a\x01\xa1a\x02",
    "an int key": b"\x81\x01\x02",
    "a nil key": b"\x81\xc0\x02",
    "a binary key": b"\x81\xc4\x05model\xa1m",
    "an int key further in": b"\x81\xa1a\x81\x01\x02",
    "bad UTF-8": b"\x81\xa5model\xa1\xff",
    "a surrogate": b"\x81\xa5model\xa3\xed\xa0\x80",
    "bad UTF-8 in a key": b"\x81\xa1\xff\x01",
    "an ext type": b"\x81\xa1t\xd4\x05\x00",
    "an ext type of no bytes": b"\x81\xa1t\xc7\x00\x05",
    "a timestamp": b"\x81\xa1t\xd6\xff\x00\x00\x00\x01",
    "a timestamp of no bytes": b"\x81\xa1t\xc7\x00\xff",
    "the byte that msgpack never uses": b"\xc1",
    "a list of 129": b"\x81\xa1t" + msgpack.packb([0] * 129),
    "a map of 129": msgpack.packb({str(n): n for n in range(129)}),
    "nesting 1025": b"\x81\xa1t" + b"\x91" * 1025 + b"\xc0",
}


@pytest.mark.parametrize("header", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", [f.INFER, f.CANCEL, f.STATUS])
def test_broken_headers_end_the_connection(header: bytes, kind: int) -> None:
    """A header that is not one msgpack map with text keys is a ProtocolError, whatever the message."""
    server = open_server()
    with pytest.raises(ProtocolError, match="the header"):
        server.feed(raw(kind, header), 1)
    assert server.peer.state == "CLOSED"


def test_no_header_is_an_empty_map() -> None:
    """No header bytes and an empty map mean the same."""
    for header in (b"", b"\x80", b"\xde\x00\x00"):
        (got,) = open_server().feed(raw(f.CANCEL, header))
        assert got.message is m.BARE
        (got,) = end_in(CLIENT, OPEN).feed(raw(f.RESULT, header))
        assert isinstance(got.message, m.Result) and got.message.tensors == ()


LATER = {"later": [1, {"deep": None}], "account": 3, "trace": {}, "call_id": b"id"}


def test_unknown_fields_are_ignored() -> None:
    """Fields of later versions change nothing, on either side."""
    table, end = layout([("x", "FP32", (1,))])
    pairs = [
        (SERVER, START, f.HELLO, m.Hello("x").pack(), 0),
        (CLIENT, GREETING, f.WELCOME, m.Welcome("x", {"in_flight": 1, "tomorrow": 2}).pack(), 0),
        (SERVER, OPEN, f.INFER, m.Infer("m", table, end, 1, 5.0).pack(), end),
        (CLIENT, OPEN, f.RESULT, m.Result(table, end).pack(), end),
        (CLIENT, OPEN, f.ERROR, m.Error("CANCELLED", "R", "s").pack(), 0),
        (CLIENT, OPEN, f.GOAWAY, m.GoAway().pack(), 0),
        (SERVER, OPEN, f.PING, b"\x80", 0),
    ]
    for role, state, kind, header, nbytes in pairs:
        fields = msgpack.unpackb(header)
        (plain,) = end_in(role, state).feed(raw(kind, header, bytes(nbytes)))
        (more,) = end_in(role, state).feed(raw(kind, msgpack.packb({**LATER, **fields}), bytes(nbytes)))
        assert more.error is None
        assert more.message.pack() == plain.message.pack()


WRONG: list[tuple[str, str, int, str, Any, str]] = [
    (SERVER, START, f.HELLO, "versions", 1, "FIELD_TYPE"),
    (SERVER, START, f.HELLO, "versions", [1], "FIELD_TYPE"),
    (SERVER, START, f.HELLO, "versions", [1, "2"], "FIELD_TYPE"),
    (SERVER, START, f.HELLO, "versions", [True, 2], "FIELD_TYPE"),
    (SERVER, START, f.HELLO, "client", 7, "FIELD_TYPE"),
    (SERVER, START, f.HELLO, "features", "all", "FIELD_TYPE"),
    (CLIENT, GREETING, f.WELCOME, "version", "1", "FIELD_TYPE"),
    (CLIENT, GREETING, f.WELCOME, "limits", [1], "FIELD_TYPE"),
    (CLIENT, GREETING, f.WELCOME, "limits", {"in_flight": "many"}, "FIELD_TYPE"),
    (CLIENT, GREETING, f.WELCOME, "limits", {"in_flight": -1}, "FIELD_TYPE"),
    (CLIENT, GREETING, f.WELCOME, "server", 1, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "model", b"m", "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "model", "", "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "model", "m" * 65, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "inputs", {}, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "inputs", 0, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "inputs", "", "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "inputs", [["x", "FP32", [1]]], "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "inputs", [[f"x{n}", "FP32", [0], 0] for n in range(65)], "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "rows", 1.0, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "rows", True, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "rows", 0, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "rows", -1, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "rows", 4097, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "deadline_ms", "soon", "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "deadline_ms", False, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "deadline_ms", math.nan, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "deadline_ms", math.inf, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "deadline_ms", -math.inf, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "deadline_ms", -0.5, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "priority", 1, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "priority", False, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "priority", b"batch", "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "priority", "", "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "priority", "Batch", "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "supersede", 7, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "supersede", b"key", "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "supersede", "", "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "supersede", "k" * 129, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "supersede", "é" * 65, "FIELD_VALUE"),
    (SERVER, OPEN, f.INFER, "timing", 1, "FIELD_TYPE"),
    (SERVER, OPEN, f.INFER, "timing", "yes", "FIELD_TYPE"),
    (CLIENT, OPEN, f.RESULT, "outputs", {}, "FIELD_TYPE"),
    (CLIENT, OPEN, f.RESULT, "timing", [1.0], "FIELD_TYPE"),
    (CLIENT, OPEN, f.RESULT, "timing", True, "FIELD_TYPE"),
    (CLIENT, OPEN, f.ERROR, "code", 3, "FIELD_TYPE"),
    (CLIENT, OPEN, f.ERROR, "reason", [], "FIELD_TYPE"),
    (CLIENT, OPEN, f.ERROR, "message", b"x", "FIELD_TYPE"),
    (CLIENT, OPEN, f.ERROR, "retryable", 1, "FIELD_TYPE"),
    (CLIENT, OPEN, f.ERROR, "retry_after_ms", "1", "FIELD_TYPE"),
    (CLIENT, OPEN, f.ERROR, "retry_after_ms", math.nan, "FIELD_VALUE"),
    (CLIENT, OPEN, f.ERROR, "retry_after_ms", -1, "FIELD_VALUE"),
    (CLIENT, OPEN, f.GOAWAY, "reason", 1, "FIELD_TYPE"),
]
GOOD = {
    f.HELLO: {"versions": [1, 1]},
    f.WELCOME: {"version": 1, "limits": {}},
    f.INFER: {"model": "m"},
    f.RESULT: {},
    f.ERROR: {"code": "CANCELLED"},
    f.GOAWAY: {},
}


@pytest.mark.parametrize(("role", "state", "kind", "name", "value", "reason"), WRONG)
def test_wrong_fields_are_named(role: str, state: str, kind: int, name: str, value: Any, reason: str) -> None:
    """A known field of a wrong type or value is an InvalidArgument that names it, and the next frame still parses."""
    end = end_in(role, state)
    bad = raw(kind, msgpack.packb({**GOOD[kind], name: value}))
    good = raw(kind, msgpack.packb(GOOD[kind]), request_id=2)
    got = end.feed(bad + good, 7)
    assert isinstance(got[0].error, InvalidArgument)
    assert got[0].error.reason == reason and repr(name) in got[0].error.message
    assert (got[1].request_id, got[1].error) == (2, None)


@pytest.mark.parametrize("rows", [0, 4097, 2**32])
def test_how_many_rows_there_may_be_is_said(rows: int) -> None:
    """With the limit that holds, whichever end of it was passed."""
    m.Infer.unpack(msgpack.packb({"model": "m", "rows": 4096}))
    with pytest.raises(InvalidArgument, match=f"'rows' is {rows}; a request has from 1 to 4096 rows"):
        m.Infer.unpack(msgpack.packb({"model": "m", "rows": rows}))


@pytest.mark.parametrize(("kind", "name"), [(f.HELLO, "versions"), (f.INFER, "model")])
def test_missing_fields_are_named(kind: int, name: str) -> None:
    """A field that must be there and is not, or is nil, is named."""
    for header in (b"", msgpack.packb({name: None})):
        end = end_in(SERVER, START if kind == f.HELLO else OPEN)
        (got,) = end.feed(raw(kind, header))
        assert got.error is not None and got.error.reason == "FIELD_MISSING" and repr(name) in got.error.message


def test_welcome_without_version_ends_the_connection() -> None:
    """A server that names no version speaks no protocol."""
    with pytest.raises(ProtocolError, match="version"):
        end_in(CLIENT, GREETING).feed(raw(f.WELCOME, b"\x80"))


def test_nil_is_absent() -> None:
    """A field that is nil is as one that is not there."""
    absent = ("inputs", "rows", "deadline_ms", "priority", "supersede", "timing")
    message = m.Infer.unpack(msgpack.packb({"model": "m", **dict.fromkeys(absent)}))
    assert (message.tensors, message.rows, message.deadline_ms) == ((), 0, None)
    assert (message.priority, message.supersede, message.timing) == (m.STANDARD, None, False)
    assert m.Result.unpack(msgpack.packb({"outputs": None, "timing": None})).timing is None


@given(st.sampled_from(m.PRIORITIES), st.none() | st.text(min_size=1, max_size=32), st.booleans())
def test_options_survive(priority: str, supersede: str | None, timing: bool) -> None:
    """Class, key and the wish for a timeline arrive as they were sent; what is the default is left out."""
    header = m.Infer("m", priority=priority, supersede=supersede, timing=timing).pack()
    back = m.Infer.unpack(header)
    assert (back.priority, back.supersede, back.timing) == (priority, supersede, timing)
    options = {"priority": priority != m.STANDARD, "supersede": supersede is not None, "timing": timing}
    assert msgpack.unpackb(header).keys() == {"model", *(name for name, sent in options.items() if sent)}


def test_the_longest_key() -> None:
    """128 bytes, however many characters that is; text that is no UTF-8 is refused before it is sent."""
    for key in ("k" * 128, "é" * 64, "😀" * 32):
        assert m.Infer.unpack(m.Infer("m", supersede=key).pack()).supersede == key
    with pytest.raises(InvalidArgument, match="'supersede' must be 1 to 128 bytes"):
        m.checked_supersede("\ud800")


TIMING = {"queued_ms": 1.5, "compute_ms": 2.0, "total_ms": 4.25, "batch_id": 2**40, "batch_rows": 3, "padded": 0.0}


@pytest.mark.parametrize("outputs", [0, 1, 64])
def test_the_timeline_is_spliced_in(outputs: int) -> None:
    """A ready-made header gets its timeline without being decoded, and means both afterwards."""
    table, end = layout([(f"y{n}", "FP32", (3, n)) for n in range(outputs)])
    header = m.with_timing(m.Result(table, end).pack(), TIMING)
    assert header == m.Result(table, end, TIMING).pack()
    (got,) = end_in(CLIENT, OPEN).feed(raw(f.RESULT, header, bytes(end)), 7)
    assert isinstance(got.message, m.Result) and got.error is None
    assert (got.message.tensors, got.message.tensor_end, got.message.timing) == (table, end, TIMING)


def test_no_timeline_where_there_is_no_room() -> None:
    """A header just under its limit is sent as it is: the client would have to close over a longer one."""
    table, end = layout([(f"{n:0128}", "FP32", (1,) * 10 + (2**32,) * 5 + (0,)) for n in range(64)])
    header = m.Result(table, end).pack()
    most = header + bytes(f.Limits().header_bytes - len(header) - 100)
    assert len(header) < len(most) and m.with_timing(most, TIMING) is most
    assert len(m.with_timing(header, TIMING)) > len(header)


def test_results_with_a_timeline_are_not_remembered() -> None:
    """No two timelines are the same: they would push out the headers that do come again."""
    plain = m.Result(*layout([("y", "FP32", (1,))])).pack()
    remembered = m.Remembered(m.Result.unpack, entries=4)
    first = remembered[plain]
    for n in range(100):
        timed = remembered[m.with_timing(plain, {"batch_id": n})]
        assert isinstance(timed, m.Result) and timed.timing == {"batch_id": n}
    assert remembered[plain] is first and len(remembered) == 1


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=0) | st.integers(0, 2**64 - 1),
    st.integers(1, m.MAX_ROWS),
)
def test_numbers_survive(deadline_ms: float, rows: int) -> None:
    """Any finite deadline and any number of rows that there may be arrive as they were sent."""
    back = m.Infer.unpack(m.Infer("m", rows=rows, deadline_ms=deadline_ms).pack())
    assert (back.deadline_ms, back.rows) == (deadline_ms, rows)


def test_client_name_is_cut() -> None:
    """A client may call itself anything; 128 characters of it are kept."""
    assert m.Hello.unpack(m.Hello("é" * 3000).pack()).client == "é" * 128


def test_hello_features_that_are_no_text_are_dropped() -> None:
    """Features nobody can know are not passed on."""
    assert m.Hello.unpack(msgpack.packb({"versions": [1, 1], "features": ["a", 1, None]})).features == ("a",)


@pytest.mark.parametrize("reason", CATALOGUE)
def test_errors_cross_the_wire(reason: str) -> None:
    """Every error of the catalogue arrives as the class, reason and sentence it left with."""

    class Anything(dict[str, object]):
        def __missing__(self, key: str) -> object:
            return f"<{key}>"

    cls, text = CATALOGUE[reason]
    error = cls(text.format_map(Anything()), reason=reason, retry_after_ms=3.5)
    back = m.Error.unpack(m.Error.of(error).pack()).exception(9)
    assert type(back) is cls and issubclass(cls, BY_CODE[back.code])
    assert (back.reason, back.message, back.retryable, back.retry_after_ms, back.request_id) == (
        reason, error.message, error.retryable, 3.5, 9,
    )  # fmt: skip


def test_codes_of_later_versions() -> None:
    """An error with a code this version does not know is still an error, and says whether to retry."""
    error = m.Error.unpack(m.Error("ABORTED", "NEW", "sentence", True).pack()).exception(1)
    assert type(error) is RequestError and error.retryable and error.message == "sentence"


def test_a_reason_does_not_change_the_code() -> None:
    """The code counts: a known reason under another code is that code's error."""
    assert type(m.Error("CANCELLED", "SUPERSEDED", "s").exception(1)) is Superseded
    assert type(m.Error("CANCELLED", "NEW", "s").exception(1)) is Cancelled
    assert type(m.Error("UNAVAILABLE", "SUPERSEDED", "s").exception(1)) is Unavailable


def test_make_says_when_to_try_again() -> None:
    """The server's estimate goes with the error, and over the wire."""
    error = make("OVERLOADED", retry_after_ms=95.5, wait=180)
    assert error.retryable and error.retry_after_ms == 95.5 and "about 180 ms of work" in error.message
    assert m.Error.unpack(m.Error.of(error).pack()).exception(1).retry_after_ms == 95.5
    late = make("TIMEOUT", limit=50, stage="queued")
    assert late.message == "no answer within 50 ms; the request was queued" and late.retry_after_ms is None


def test_make_fills_only_the_catalogue() -> None:
    """A field of the request cannot smuggle format syntax into the sentence."""
    assert "{limit}" in make("FIELD_MISSING", field="{limit}").message


def test_remembered_headers_are_bounded() -> None:
    """The memory of headers is emptied when it is full, long headers are not kept, and refused ones are not either."""
    calls: list[bytes] = []

    def decode(header: bytes) -> m.Message:
        calls.append(header)
        if header == b"bad":
            raise make("FIELD_MISSING", field="x")
        return m.Bare()

    remembered = m.Remembered(decode, entries=4, header_bytes=8)
    for _ in range(2):
        assert remembered[b"a"] is remembered[b"a"]
        remembered[b"long header"]
        with pytest.raises(InvalidArgument):
            remembered[b"bad"]
    assert calls == [b"a", b"long header", b"bad", b"long header", b"bad"]
    for n in range(100):
        remembered[str(n).encode()]
        assert len(remembered) <= 4


# ---- bombs


def nest(size: int, announced: int, levels: int, fill: bytes = b"\x80") -> bytes:
    start = b"\x81\xa1t" + (b"\xdd" + struct.pack(">I", announced)) * levels
    return start + fill * (size - len(start))


CHAIN = b"\x81\xa0" * 1000 + b"\x80"
BOMBS = {
    "empty maps": b"\x81\xa1t\xdc\x00\x7e" + (b"\xdc\x00\x7e" + b"\x80" * 126) * 126,
    "chains of maps": b"\x81\xa1t\x98" + CHAIN * 8,
    "lists that announce 128": nest(16_384, 128, 1000),
    "lists that announce 10,000": nest(16_384, 10_000, 1000),
    "lists that announce 4e9": nest(16_384, 2**32 - 1, 1000),
    "small, lists that announce 128": nest(3_000, 128, 500),
    "maps that announce 128": b"\x81\xa1t" + b"\xde\x00\x80\xa0" * 1000 + b"\x80" * 12_000,
    "a map of 4e9": b"\xdf\xff\xff\xff\xff" + b"\xa0\x80" * 8_000,
    "binary of 4 GiB": b"\x81\xa1t\xc6\xff\xff\xff\xff",
    "one long text": msgpack.packb({"t": "x" * 16_000 + "😀"}),
    "many tensors": msgpack.packb({"model": "m", "inputs": [[f"{n}", "BOOL", [1] * 16, n * 64] for n in range(64)]}),
    "huge sizes": msgpack.packb({"model": "m", "inputs": [["a", "FP64", [2**40] * 16, 0]] * 64}),
}


def cost(data: bytes) -> int:
    """The most bytes held at once while a server takes `data`."""
    server = open_server()
    server.place = lambda frame: None
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            server.feed(data)
        except ProtocolError:
            pass
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


# What a frame costs beside its header: the peer's larger buffer and the copy of the header, the frame, an exception.
FRAME_COST = 64 * 1024


@pytest.mark.parametrize("header", BOMBS.values(), ids=BOMBS)
def test_header_bombs_cost_little(header: bytes) -> None:
    """A hostile header holds at most 96 times its size, and what 1,024 lists of 128 may reserve: never over 2 MiB."""
    assert len(header) <= 16_384
    spent = cost(raw(f.INFER, header))
    lists = sum(header.count(bytes([byte])) for byte in (*range(0x90, 0xA0), 0xDC, 0xDD))
    assert spent <= 96 * len(header) + 1_100 * min(lists, 1_024) + FRAME_COST
    assert spent <= 2 * 2**20 + FRAME_COST


@given(st.binary(max_size=2_000), st.integers(0, 2_000))
@settings(max_examples=100, deadline=None)
def test_any_header_costs_little(noise: bytes, cut: int) -> None:
    """Noise in place of a header, or behind the beginning of one, is refused or taken at 96 times its size at most."""
    header = (msgpack.packb({"model": "m", "inputs": [ROW] * 3})[:cut] + noise)[:16_384]
    assert cost(raw(f.INFER, header)) <= 96 * len(header) + 1_100 * 1_024 + FRAME_COST


@pytest.mark.parametrize("nbytes", [100, 65_536, 1_000_000])
def test_payloads_cost_once(nbytes: int) -> None:
    """A payload costs the memory its receiver supplied and the receive buffer, nothing that grows with it."""
    server, memory, data = open_server(), bytearray(nbytes), infer(nbytes)
    peer = server.peer

    def place(frame: Frame) -> memoryview:
        return memoryview(memory)[: frame.payload_bytes]

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        at = 0
        while at < len(data):
            room = peer.get_buffer()
            taken = min(len(room), len(data) - at)
            room[:taken] = memoryview(data)[at : at + taken]
            at += taken
            peer.buffer_updated(taken)
            while (frame := peer.next_frame()) is not None:
                if not frame.complete:
                    peer.accept(place(frame))
        assert tracemalloc.get_traced_memory()[1] - before <= 128 * 1024 + 16 * 1024
    finally:
        tracemalloc.stop()
