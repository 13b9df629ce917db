"""Conversations of two real peers, and what ends them."""

from __future__ import annotations

import random

import pytest

from inferd.errors import ProtocolError
from inferd.wire import frame as f
from inferd.wire import messages as m
from inferd.wire.peer import (
    CLIENT,
    CLOSED,
    DRAINING,
    GREETING,
    MAX_BUFFER_BYTES,
    OPEN,
    RECEIVABLE,
    SERVER,
    START,
    Peer,
    protocol_error_frame,
)
from inferd.wire.tensor import layout
from inferd.wire.values import pack_values, unpack_values
from tests.wire.wire_link import PIECES, End, Link, counting, end_in, infer, open_server, raw

EVERY_PIECE = pytest.mark.parametrize("piece", PIECES, ids=lambda n: "whole" if n > 1 << 20 else f"by {n}")


def buffer_bytes(end: End) -> int:
    return len(end.peer._buffer)


# ---- a conversation


@EVERY_PIECE
def test_conversation(piece: int) -> None:
    """HELLO, WELCOME, a request, its result, and a goodbye arrive as they were said, however the link cuts them."""
    link = Link(piece)
    (hello,) = link.say(CLIENT, f.HELLO, m.Hello("me", (1, 3)))
    assert isinstance(hello.message, m.Hello)
    assert (hello.message.client, hello.message.versions) == ("me", (1, 3))
    models = pack_values({"models": []})
    (welcome,) = link.say(SERVER, f.WELCOME, m.Welcome("you", {"in_flight": 8}), models, flags=f.HAS_VALUES, credits=8)
    assert isinstance(welcome.message, m.Welcome)
    assert (welcome.credits, welcome.message.limits) == (8, {"in_flight": 8})
    assert unpack_values(welcome.payload or b"") == {"models": []}

    table, end = layout([("x", "FP32", (3,)), ("y", "INT64", (2,))])
    (asked,) = link.say(CLIENT, f.INFER, m.Infer("m", table, end, 0, 12.5), counting(end), request_id=7)
    assert isinstance(asked.message, m.Infer)
    assert (asked.message.model, asked.message.tensors, asked.message.deadline_ms) == ("m", table, 12.5)
    assert (asked.request_id, asked.payload, asked.error) == (7, counting(end), None)

    (answer,) = link.say(SERVER, f.RESULT, m.Result(table, end), counting(end), request_id=7, credits=9)
    assert isinstance(answer.message, m.Result)
    assert (answer.message.tensors, answer.credits, answer.payload) == (table, 9, counting(end))
    link.say(SERVER, f.GOAWAY, m.GoAway())
    assert (link.client.peer.state, link.server.peer.state) == (DRAINING, DRAINING)
    assert link.client.peer.at_boundary and link.server.peer.at_boundary


@EVERY_PIECE
@pytest.mark.parametrize("nbytes", [0, 1, 4000, 65536, 100_000])
def test_the_tail_of_the_next_frame(piece: int, nbytes: int) -> None:
    """Bytes of the next frame that come with a frame stay for the next frame, whatever the first one's size."""
    server = open_server()
    first, second = infer(nbytes, 1), infer(33, 2)
    for cut in (1, 24, 40, len(second)):
        got = server.feed(first + second[:cut], piece) + server.feed(second[cut:], piece)
        assert [(one.request_id, one.payload) for one in got] == [(1, counting(nbytes)), (2, counting(33))]
        assert server.peer.at_boundary


def test_many_cuts_of_one_stream() -> None:
    """The frames of a stream do not depend on where the network cut it."""
    chance = random.Random(7)
    stream = b"".join(infer(chance.choice((0, 5, 64, 3000, 9000, 70_000)), n) for n in range(1, 40))
    whole = [(one.request_id, one.payload) for one in open_server().feed(stream)]
    assert len(whole) == 39
    for _ in range(20):
        server, at, got = open_server(), 0, []
        while at < len(stream):
            step = chance.choice((1, 23, 24, 25, 1000, 4096, 65536, 100_000))
            got += server.feed(stream[at : at + step])
            at += step
        assert [(one.request_id, one.payload) for one in got] == whole


# ---- where payloads go


def test_accept_receives_in_place() -> None:
    """A payload larger than the buffer lands in the caller's memory, and nowhere else."""
    memory = bytearray(b"\xee" * 100_100)
    server = open_server()
    server.place = lambda frame: memoryview(memory)[50 : 50 + frame.payload_bytes]
    (got,) = server.feed(infer(100_000), 4096)
    assert memory == b"\xee" * 50 + counting(100_000) + b"\xee" * 50
    assert got.payload == counting(100_000)


def test_accept_takes_what_it_needs_of_larger_memory() -> None:
    """Memory that is too large is used from its start; memory that is too small is a mistake that can be mended."""
    server = open_server()
    data = infer(10_000)
    server.peer.get_buffer()[:100] = data[:100]
    server.peer.buffer_updated(100)
    frame = server.peer.next_frame()
    assert frame is not None and not frame.complete and frame.payload_bytes == 10_000
    with pytest.raises(ValueError, match="needs 10000 bytes, got 9999"):
        server.peer.accept(memoryview(bytearray(9_999)))
    server.peer.accept(memoryview(bytearray(20_000)))
    (got,) = server.feed(data[100:])
    assert got.payload == counting(10_000)


@EVERY_PIECE
def test_accept_none_forgets(piece: int) -> None:
    """A payload accepted with None is read and gone, the frame does not come again, and the next one is in step."""
    server = open_server()
    server.place = lambda frame: None
    got = server.feed(infer(100_000, 1) + infer(0, 2), piece)
    assert [(one.request_id, one.payload) for one in got] == [(1, None), (2, b"")]
    assert buffer_bytes(server) <= MAX_BUFFER_BYTES


def test_reading_before_accepting() -> None:
    """Bytes may be read before anybody said where the payload goes; those behind the payload are not lost."""
    server = open_server()
    data = infer(5_000, 1) + infer(3, 2)
    server.peer.get_buffer()[:100] = data[:100]
    server.peer.buffer_updated(100)
    assert server.peer.next_frame() is not None
    at = 100
    while at < len(data):
        room = server.peer.get_buffer()
        taken = min(len(room), len(data) - at)
        room[:taken] = data[at : at + taken]
        server.peer.buffer_updated(taken)
        at += taken
    memory = bytearray(5_000)
    server.peer.accept(memoryview(memory))
    server._drain()
    assert [(one.request_id, one.payload) for one in server.got] == [(1, counting(5_000)), (2, counting(3))]


def test_order_of_calls() -> None:
    """Calls out of order are mistakes in the program and say so."""
    server = open_server()
    with pytest.raises(RuntimeError, match="no frame waits"):
        server.peer.accept(None)
    data = infer(5_000)[:100]
    server.peer.get_buffer()[:100] = data
    server.peer.buffer_updated(100)
    server.peer.next_frame()
    with pytest.raises(RuntimeError, match="accept"):
        server.peer.next_frame()


def test_full_buffer_is_said_not_spun() -> None:
    """Reading on without taking a frame out is an error, not a read of no bytes, which would look like an end."""
    server = open_server()
    with pytest.raises(RuntimeError, match="take the frames out"):
        for _ in range(100):
            server.peer.buffer_updated(len(server.peer.get_buffer()))


# ---- the receive buffer


@EVERY_PIECE
def test_buffer_stays_small(piece: int) -> None:
    """The buffer starts at 4 KiB and never grows past 64 KiB, whatever comes."""
    server = open_server()
    assert buffer_bytes(server) == 4096
    big_header = m.pack_header({"model": "m", "later": "x" * 16_000})
    stream = b"".join([raw(f.INFER, big_header), infer(200_000, 2), infer(1, 3)] + [infer(9_000, n) for n in range(30)])
    assert len(server.feed(stream, piece)) == 33
    assert buffer_bytes(server) <= MAX_BUFFER_BYTES


def test_idle_connection_keeps_a_small_buffer() -> None:
    """Small frames one by one do not make the buffer grow."""
    server = open_server()
    for n in range(100):
        server.feed(infer(1000, n + 1))
    assert buffer_bytes(server) == 4096


def test_header_at_the_cap() -> None:
    """A header of exactly 16 KiB is taken."""
    header = m.pack_header({"model": "m", "later": "x" * (16_384 - 17)})
    header = m.pack_header({"model": "m", "later": "x" * (16_384 - 17 + 16_384 - len(header))})
    assert len(header) == 16_384
    for piece in PIECES:
        (got,) = open_server().feed(raw(f.INFER, header), piece)
        assert got.error is None


def test_views_survive_a_header_that_outgrows_the_buffer() -> None:
    """A payload that came out complete is good until the next get_buffer, even if the frame behind it needs room."""
    server = open_server()
    header = m.pack_header({"model": "m", "later": "x" * 9_000})
    data = (infer(900, 1) + raw(f.INFER, header, request_id=2))[:4096]
    server.peer.get_buffer()[: len(data)] = data
    server.peer.buffer_updated(len(data))
    first = server.peer.next_frame()
    assert first is not None and first.complete and first.payload is not None
    assert server.peer.next_frame() is None  # the head of the second is longer than the buffer
    assert bytes(first.payload) == counting(900)


def test_headers_must_fit_the_buffer() -> None:
    """Limits that would let a header outgrow the buffer for ever are refused when the peer is made."""
    with pytest.raises(ValueError, match="must fit the buffer"):
        Peer(SERVER, f.Limits(header_bytes=MAX_BUFFER_BYTES))


def test_boundary() -> None:
    """An end of file is clean between frames, and only there."""
    data = infer(10_000)
    for place in (lambda frame: None, lambda frame: memoryview(bytearray(frame.payload_bytes))):
        server = open_server()
        server.place = place
        for byte in range(0, len(data), 500):
            server.feed(data[byte : byte + 500])
            assert server.peer.at_boundary == (byte + 500 >= len(data))


# ---- what may be said when

ROLES_AND_STATES = [(role, state) for role in (CLIENT, SERVER) for state in (START, GREETING, OPEN, DRAINING, CLOSED)]
HEADERS = {f.HELLO: m.Hello("x").pack(), f.WELCOME: m.Welcome("x", {}).pack(), f.INFER: m.Infer("m").pack()}


@pytest.mark.parametrize(("role", "state"), ROLES_AND_STATES)
@pytest.mark.parametrize("kind", f.TYPE_NAMES, ids=f.TYPE_NAMES.get)
def test_state_table(role: str, state: str, kind: int) -> None:
    """In each state each role takes the messages of the table, and any other ends the connection by its name."""
    end = end_in(role, state)
    data = raw(kind, HEADERS.get(kind, b""))
    if kind in RECEIVABLE[role][state]:
        (got,) = end.feed(data)
        assert got.type == kind and got.error is None
    else:
        with pytest.raises(ProtocolError, match=f"{f.TYPE_NAMES[kind]} cannot come in state {state} at the {role}"):
            end.feed(data)
        assert end.peer.state == CLOSED


def test_the_table_itself() -> None:
    """The law, written out a second time."""
    from_client, from_server = {"INFER", "CANCEL", "PING", "PONG", "STATUS", "RELOAD"}, {
        "RESULT", "ERROR", "PING", "PONG", "GOAWAY", "CREDIT", "STATUS", "RELOAD",
    }  # fmt: skip
    law = {
        (SERVER, START): {"HELLO"},
        (SERVER, GREETING): set(),
        (SERVER, OPEN): from_client,
        (SERVER, DRAINING): from_client,
        (CLIENT, START): set(),
        (CLIENT, GREETING): {"WELCOME", "ERROR"},
        (CLIENT, OPEN): from_server,
        (CLIENT, DRAINING): from_server,
        (CLIENT, CLOSED): set(),
        (SERVER, CLOSED): set(),
    }
    for (role, state), names in law.items():
        assert {f.TYPE_NAMES[kind] for kind in RECEIVABLE[role][state]} == names


@pytest.mark.parametrize(("role", "state"), ROLES_AND_STATES)
@pytest.mark.parametrize("kind", f.TYPE_NAMES, ids=f.TYPE_NAMES.get)
def test_sending_out_of_turn_is_a_mistake(role: str, state: str, kind: int) -> None:
    """What the other side could not take is not sent: that is a mistake in this program, found here."""
    end, listener = end_in(role, state), SERVER if role == CLIENT else CLIENT
    message = {f.HELLO: m.Hello("x"), f.WELCOME: m.Welcome("x", {}), f.INFER: m.Infer("m")}.get(kind, m.BARE)
    if role == CLIENT and state == START:
        legal = kind == f.HELLO
    else:
        legal = kind in RECEIVABLE[listener][state] or (role == SERVER and kind == f.ERROR)
    if legal:
        assert end.peer.send(kind, message).startswith(f.MAGIC)
    else:
        with pytest.raises(RuntimeError, match="cannot send"):
            end.peer.send(kind, message)


def test_a_refused_hello_opens_nothing() -> None:
    """A HELLO whose fields cannot be used leaves the server where it was, with the field's name to answer with."""
    server = end_in(SERVER, START)
    (got,) = server.feed(raw(f.HELLO, m.pack_header({"client": "x"})))
    assert got.error is not None and "versions" in got.error.message
    assert server.peer.state == START


def test_nothing_comes_after_the_end() -> None:
    """A peer that has closed takes nothing more and says so each time."""
    server = open_server()
    with pytest.raises(ProtocolError):
        server.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert server.peer.state == CLOSED
    with pytest.raises(ProtocolError):
        server.feed(infer())


# ---- refusals


@EVERY_PIECE
@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes"),
    [(2**32 - 1, 0), (2**31, 0), (16_385, 0), (0, 2**32 - 1), (0, 2**31), (10, 64 * 2**20 + 1), (2**32 - 1, 2**32 - 1)],
)
def test_oversize_is_refused_from_the_prefix(piece: int, header_bytes: int, payload_bytes: int) -> None:
    """The prefix is enough to refuse a frame over the limits; its figures are in the sentence, no memory is taken."""
    server = open_server()
    prefix = f.pack_prefix(f.INFER, 1, header_bytes, payload_bytes)
    with pytest.raises(ProtocolError, match=f"{header_bytes}.*{payload_bytes}.*16384 and 67108864"):
        server.feed(prefix, piece)
    assert server.peer.state == CLOSED
    assert buffer_bytes(server) == 4096


def test_largest_payload_is_announced_not_allocated() -> None:
    """A payload at the limit is handed out by its size; who has no room says None."""
    server = open_server()
    sizes: list[int] = []
    server.place = lambda frame: sizes.append(frame.payload_bytes)
    table, end = layout([("x", "UINT8", (64 * 2**20,))])
    header = m.Infer("m", table, end).pack()
    server.feed(f.pack_prefix(f.INFER, 1, len(header), end) + header + b"some")
    assert sizes == [64 * 2**20]
    assert buffer_bytes(server) == 4096


def test_little_is_taken_before_hello() -> None:
    """Until HELLO there is one frame of at most 4 KiB."""
    server = end_in(SERVER, START)
    hello = m.pack_header({"versions": [1, 1], "later": "x" * 4000})
    (got,) = server.feed(raw(f.HELLO, hello + b""), 7)
    assert got.error is None
    with pytest.raises(ProtocolError, match="4096 bytes before HELLO"):
        end_in(SERVER, START).feed(f.pack_prefix(f.HELLO, 0, 4000, 97))


STRANGERS = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
    (b"POST /v2/models HTTP/1.1\r\n", "HTTP"),
    (b"OPTIONS * HTTP/1.0\r\n", "HTTP"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    (bytes.fromhex("1603010200010001fc0303"), "TLS"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
    (bytes(24), "zero bytes"),
    (b"\xf1\x6e\x67\x01\x01" + bytes(19), "another protocol"),
    (b"\xf1\x6e", None),
    (b"\xf1GET", "another protocol"),
    (b"\xff", "another protocol"),
    (b"inferd\n", "another protocol"),
]


@pytest.mark.parametrize("role", [CLIENT, SERVER])
@pytest.mark.parametrize(("data", "looks_like"), STRANGERS)
def test_strangers_are_named(role: str, data: bytes, looks_like: str | None) -> None:
    """Bytes of another protocol are told by their first ones, and named if they are known."""
    end = end_in(role, START if role == SERVER else GREETING)
    if looks_like is None:
        assert end.feed(data) == [] and not end.peer.at_boundary  # so far it could be ours
        return
    with pytest.raises(ProtocolError, match="must open with f1 6e 66") as refused:
        end.feed(data)
    assert refused.value.looks_like == looks_like
    assert looks_like in str(refused.value)


@pytest.mark.parametrize(("data", "looks_like"), STRANGERS)
def test_strangers_are_told_by_their_first_wrong_byte(data: bytes, looks_like: str | None) -> None:
    """No more than three bytes are needed to know a stranger, even one byte at a time."""
    server = end_in(SERVER, START)
    agreed = next((n for n in range(len(data)) if data[n : n + 1] != f.MAGIC[n : n + 1]), len(data))
    assert server.feed(data[:agreed], 1) == []
    if looks_like is not None:
        with pytest.raises(ProtocolError):
            server.feed(data[agreed : agreed + 1], 1)
        assert agreed < 3


def test_other_versions_of_the_frame() -> None:
    """The prefix's version is 1; another number ends the connection."""
    data = bytearray(infer())
    data[3] = 2
    with pytest.raises(ProtocolError, match="frame version 2 is not 1"):
        open_server().feed(bytes(data))


def test_last_words() -> None:
    """The frame that ends a conversation has id 0 and the sentence of the error, and the client can read it."""
    client = end_in(CLIENT, OPEN)
    (got,) = client.feed(protocol_error_frame(ProtocolError("too much")))
    assert isinstance(got.message, m.Error)
    assert (got.request_id, got.message.code, got.message.reason) == (0, "INVALID_ARGUMENT", "PROTOCOL")
    assert got.message.message == "too much"


# ---- what is answered and goes on


@EVERY_PIECE
@pytest.mark.parametrize("role", [CLIENT, SERVER])
@pytest.mark.parametrize("kind", [0, 13, 16, 19, 99, 255])
def test_unknown_messages_are_skipped(piece: int, role: str, kind: int) -> None:
    """A type of a later version costs its sender an error with its id, and the stream stays in step."""
    end = end_in(role, OPEN)
    got = end.feed(raw(kind, b"\xc1 no msgpack", counting(9_000), request_id=5) + raw(f.PING, request_id=6), piece)
    assert [(one.type, one.request_id) for one in got] == [(kind, 5), (f.PING, 6)]
    assert got[0].error is not None and (got[0].error.code, got[0].error.reason) == ("UNIMPLEMENTED", "UNKNOWN_MESSAGE")
    assert str(kind) in got[0].error.message
    assert got[1].error is None


@pytest.mark.parametrize("state", [START, GREETING])
def test_unknown_messages_open_nothing(state: str) -> None:
    """Before the conversation is open an unknown type ends it."""
    with pytest.raises(ProtocolError, match="cannot open a conversation"):
        end_in(SERVER, state).feed(raw(99))


@EVERY_PIECE
def test_a_bad_field_costs_one_request(piece: int) -> None:
    """A field that cannot be used is that request's error; its payload is skipped and the next frame parses."""
    header = m.pack_header({"model": 5})
    got = open_server().feed(raw(f.INFER, header, counting(7_000), 1) + infer(8, 2), piece)
    assert got[0].error is not None and "'model'" in got[0].error.message
    assert got[0].message is m.BARE
    assert (got[1].request_id, got[1].error) == (2, None)


def test_payload_must_fit_its_tensors() -> None:
    """The payload ends where its tensors end, or a values segment follows on the next 64-byte boundary."""
    table, end = layout([("x", "UINT8", (70,))])
    ask, answer = m.Infer("m", table, end).pack(), m.Result(table, end).pack()
    verdicts = {
        (70, 0): None, (69, 0): "FIELD_VALUE", (71, 0): "FIELD_VALUE", (0, 0): "FIELD_VALUE", (129, 0): "FIELD_VALUE",
        (70, 1): "VALUES", (127, 1): "VALUES", (128, 1): "VALUES", (129, 1): None, (9_000, 1): None,
        (70, 2): None, (129, 3): None,  # unknown flags are ignored
    }  # fmt: skip
    for (nbytes, flags), reason in verdicts.items():
        for end_, kind, header in ((open_server(), f.INFER, ask), (end_in(CLIENT, OPEN), f.RESULT, answer)):
            (got,) = end_.feed(raw(kind, header, bytes(nbytes), flags=flags))
            assert (got.error.reason if got.error else None) == reason, (nbytes, flags)
    (got,) = open_server().feed(raw(f.INFER, m.Infer("m").pack(), b"\x80", flags=f.HAS_VALUES))
    assert got.error is None  # no tensors: the segment begins at 0


def test_prefix_numbers_survive() -> None:
    """The largest request id, credits and unknown flags come through."""
    (got,) = end_in(CLIENT, OPEN).feed(f.pack_prefix(f.PONG, 2**64 - 1, 0, 0, 0xFE, 0xFFFF))
    assert (got.request_id, got.flags, got.credits) == (2**64 - 1, 0xFE, 0xFFFF)
