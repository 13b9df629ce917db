"""The core without a socket: a conversation and a server's Peer, a link that is bytes handed over, `now` a number."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from inferd_client.call import DONE, GRANTED, MOVED, SENT, WAITING, Call
from inferd_client.codec import encode
from inferd_client.core import Conversation

from inferd.errors import (
    Cancelled,
    InvalidArgument,
    NotFound,
    ProtocolError,
    ResourceExhausted,
    Superseded,
    Unavailable,
    make,
)
from inferd.wire import frame as f
from inferd.wire.frame import pack_prefix
from inferd.wire.messages import BARE, Error, GoAway, Infer, Result, Welcome
from inferd.wire.peer import SERVER, Frame, Peer
from inferd.wire.tensor import aligned, layout
from inferd.wire.values import pack_values, unpack_values

MODELS = [{"name": "echo", "inputs": None, "outputs": None, "max_batch_size": 8}]


def make_call(inputs: Any = None, deadline: float = 101.0, **options: Any) -> Call:
    return Call(f.INFER, deadline, 1000, encode("echo", inputs or {"text": "x"}, **options))


class Link:
    """A conversation and the server's end, as frames that came and bytes that go."""

    def __init__(self, credits: int = 4, piece: int = 1 << 30, welcome: bool = True, payload_bytes: int = 1 << 20):
        self.conversation = Conversation("inferd://there:1")
        self.server = Peer(SERVER)
        self.frames: list[Frame] = []
        self.credits = credits
        self.piece = piece
        self.to_server(self.conversation.hello())
        if welcome:
            self.say(f.WELCOME, Welcome("test", {"payload_bytes": payload_bytes}), values={"models": MODELS})
            assert self.woken() == [self.conversation.greeting]
            self.frames.clear()

    def to_server(self, *buffers: Any) -> None:
        data = b"".join(buffers)
        while data:
            view = self.server.get_buffer()
            n = min(len(view), len(data))
            view[:n] = data[:n]
            data = data[n:]
            self.server.buffer_updated(n)
            while (frame := self.server.next_frame()) is not None:
                if not frame.complete:
                    self.server.accept(memoryview(bytearray(frame.payload_bytes)))
                else:
                    frame.payload = memoryview(bytes(frame.payload or b""))
                    self.frames.append(frame)

    def to_client(self, data: bytes) -> None:
        conversation = self.conversation
        while data and not conversation.closed:
            view = conversation.get_buffer()
            n = min(len(view), len(data), self.piece)
            view[:n] = data[:n]
            data = data[n:]
            conversation.received(n)

    def say(self, kind: int, message: Any = BARE, request_id: int = 0, values: Any = None) -> None:
        payload = b"" if values is None else pack_values(values)
        flags = 0 if values is None else f.HAS_VALUES
        head = self.server.send(kind, message, request_id, len(payload), flags, self.credits)
        self.to_client(head + payload)

    def result(self, request_id: int, **values: Any) -> None:
        self.say(f.RESULT, Result(), request_id, values)

    def call(self, inputs: Any = None, deadline: float = 101.0, now: float = 100.0, **options: Any) -> Call:
        call = make_call(inputs, deadline, **options)
        self.conversation.open(call)
        if call.state == GRANTED:
            self.start(call, now)
        return call

    def start(self, call: Call, now: float = 100.0) -> None:
        self.to_server(*self.conversation.start(call, now))

    def flush(self) -> None:
        while self.conversation.outbox:
            self.to_server(self.conversation.outbox.popleft())

    def woken(self) -> list[Call]:
        changed = list(self.conversation.changed)
        self.conversation.changed.clear()
        return changed


@pytest.mark.parametrize("piece", [1 << 30, 1, 7, 4096])
def test_a_call_goes_out_and_its_answer_comes_back(piece: int) -> None:
    """Whole, byte by byte and in odd pieces: header, deadline and payload arrive as they were meant."""
    link = Link(piece=piece)
    call = link.call({"x": np.arange(3, dtype=np.int16), "text": "hello"}, deadline=100.2501)
    [frame] = link.frames
    assert isinstance(frame.message, Infer) and frame.payload is not None
    assert frame.message.model == "echo"
    assert frame.message.deadline_ms == 251  # rounded up
    assert [tensor.row() for tensor in frame.message.tensors] == [["x", "INT16", [3], 0]]
    assert unpack_values(frame.payload[aligned(6) :]) == {"text": "hello"}

    table, end = layout([("y", "FP32", (3000,))])
    head = link.server.send(f.RESULT, Result(table, end), call.id, end, 0, link.credits)
    link.to_client(head + np.arange(3000, dtype=np.float32).tobytes())
    assert link.woken() == [call] and call.state == DONE
    assert call.answer()["y"].tolist() == list(range(3000))
    assert link.conversation.idle


def test_a_result_survives_the_next_read() -> None:
    """What lay in the receive buffer was copied out of it."""
    link = Link()
    first, second = link.call(), link.call()
    link.result(first.id, text="first")
    link.result(second.id, text="other")
    assert first.answer() == {"text": "first"}
    assert second.answer() == {"text": "other"}


def test_equal_calls_have_equal_headers() -> None:
    """The server remembers headers by their bytes, so a little time passing must not change them."""
    link = Link()
    request = encode("echo", {"text": "x"})
    assert request.plan.header(30_000) is encode("echo", {"text": "y"}).plan.header(30_000)
    link.call(deadline=130.0, now=100.0001)
    link.call(deadline=130.0, now=100.0009)
    assert [frame.message.deadline_ms for frame in link.frames if isinstance(frame.message, Infer)] == [30_000] * 2
    assert link.frames[0].message is link.frames[1].message


def test_answers_come_in_any_order() -> None:
    link = Link()
    calls = [link.call() for _ in range(3)]
    for call in reversed(calls):
        link.result(call.id, id=call.id)
    assert link.woken() == calls[::-1]
    assert [call.answer()["id"] for call in calls] == [1, 2, 3]


def test_credits_hold_calls_back_in_order() -> None:
    """Never more than the server's window; an answer, or a larger window, lets the next ones through."""
    link = Link(credits=1)
    first, second, third, fourth = (link.call() for _ in range(4))
    assert [call.state for call in (first, second, third, fourth)] == [SENT, WAITING, WAITING, WAITING]
    link.result(first.id)
    assert link.woken() == [first, second]
    assert second.state == GRANTED
    link.start(second)
    link.credits = 3
    link.say(f.CREDIT)
    assert link.woken() == [third, fourth]


def test_a_smaller_window_counts_at_once() -> None:
    link = Link(credits=3)
    calls = [link.call() for _ in range(3)]
    waiting = link.call()
    link.credits = 1
    link.result(calls[0].id)
    link.result(calls[1].id)
    assert waiting.state == WAITING
    link.result(calls[2].id)
    assert waiting.state == GRANTED


def test_a_smaller_window_takes_back_what_was_not_sent() -> None:
    """Calls let through that could not be written yet wait again, in their order, before those behind them."""
    link = Link(credits=4)
    sent, calls = link.call(), [make_call() for _ in range(3)]
    for call in calls:
        link.conversation.open(call)
    behind = make_call()
    link.conversation.open(behind)
    assert [call.state for call in (*calls, behind)] == [GRANTED] * 3 + [WAITING]
    link.credits = 2
    link.say(f.CREDIT)
    for call in calls:
        link.start(call)
    assert [call.state for call in (*calls, behind)] == [WAITING, WAITING, SENT, WAITING]
    assert link.woken() == []
    link.result(sent.id)
    assert link.woken() == [sent, calls[0]]
    link.start(calls[0])
    link.credits = 9
    link.result(calls[2].id)
    assert link.woken() == [calls[2], calls[1], behind]
    assert len(link.frames) == 3


def test_a_window_that_shrinks_and_grows_loses_nobody() -> None:
    """A window of random size: no call goes out over it, and every one is answered in the end."""
    random = Random(3)
    link = Link(credits=3)
    calls = [make_call() for _ in range(300)]
    for call in calls:
        link.conversation.open(call)
    unanswered: list[int] = []
    while any(call.state != DONE for call in calls):
        for call in calls:
            if call.state == GRANTED and random.random() < 0.7:
                link.start(call)
                if call.state == SENT:
                    unanswered.append(call.id)
                    assert len(unanswered) <= link.credits
        link.credits = random.randint(1, 6)
        if unanswered and random.random() < 0.8:
            link.result(unanswered.pop(random.randrange(len(unanswered))))
        else:
            link.say(f.CREDIT)
    assert link.conversation.idle and link.conversation._unanswered == 0


# ---- latest wins


def test_the_latest_takes_the_place_of_one_that_waits() -> None:
    """The older call ends at once without having been sent; the newer one is where it was in the queue."""
    link = Link(credits=1)
    first, older, other = link.call(), link.call(supersede="k"), link.call()
    newer = link.call({"text": "new"}, supersede="k")
    assert link.woken() == [older]
    with pytest.raises(Superseded) as caught:
        older.answer()
    assert isinstance(caught.value, Cancelled) and caught.value.reason == "SUPERSEDED" and not caught.value.request_id
    link.result(first.id)
    assert link.woken() == [first, newer]
    link.start(newer)
    link.result(newer.id)
    assert link.woken() == [newer, other]
    assert len(link.frames) == 2 and not link.conversation.outbox and not link.conversation._newest


def test_the_latest_takes_the_credit_of_one_that_is_not_written() -> None:
    link = Link(credits=1)
    older, newer = make_call(supersede="k"), make_call(supersede="k")
    link.conversation.open(older)
    link.conversation.open(newer)
    assert (older.state, newer.state) == (DONE, GRANTED) and isinstance(older.error, Superseded)
    assert link.conversation.start(older, 100.0) == [] and older.state == DONE
    link.conversation.abandon(older)
    link.start(newer)
    assert link.call().state == WAITING
    assert [frame.message.supersede for frame in link.frames] == ["k"]  # type: ignore[union-attr]


def test_one_that_was_sent_is_the_servers_to_replace() -> None:
    link = Link()
    older, newer = link.call(supersede="k"), link.call(supersede="k")
    assert (older.state, newer.state) == (SENT, SENT)
    link.say(f.ERROR, Error.of(make("SUPERSEDED")), older.id)
    with pytest.raises(Superseded) as caught:
        older.answer()
    assert caught.value.request_id == older.id
    link.result(newer.id, text="new")
    assert newer.answer() == {"text": "new"}
    assert not link.conversation._newest


def test_other_keys_and_no_key_are_left_alone() -> None:
    link = Link(credits=1)
    calls = [link.call(supersede=key) for key in (None, "a", "b", None, "c")]
    link.call(supersede="b")
    assert [call.state for call in calls] == [SENT, WAITING, DONE, WAITING, WAITING]


def test_a_key_is_forgotten_with_its_call() -> None:
    link = Link(credits=1)
    sent, waiting, granted = link.call(supersede="a"), link.call(supersede="b"), make_call(supersede="c")
    link.conversation.abandon(waiting)
    link.conversation.abandon(sent)
    link.result(sent.id)
    link.conversation.open(granted)
    assert granted.state == GRANTED
    link.conversation.abandon(granted)
    assert not link.conversation._newest
    link.call(supersede="a")
    link.call(supersede="b")
    link.conversation.lost()
    assert not link.conversation._newest


def test_a_call_from_a_connection_that_ended_is_not_the_latest() -> None:
    """It was made before the one that holds the key here, so it is the one to go; a newer one is served."""
    old, new = Link(credits=1), Link(credits=1)
    old.call()
    moved = old.call(supersede="k")
    old.conversation.lost()
    assert moved.state == MOVED
    newest = new.call(supersede="k")
    new.conversation.open(moved)
    assert moved.state == DONE and isinstance(moved.error, Superseded) and new.woken() == [moved]
    assert newest.state == SENT and len(new.frames) == 1


def test_typing_against_a_window_of_one() -> None:
    """One caller types, another floods: every keystroke has one outcome, and the last is answered."""
    link = Link(credits=1)
    running = link.call()
    keystrokes = []
    for n in range(50):
        keystrokes.append(link.call({"n": n}, supersede="field"))
        if n % 10 == 9:
            link.result(running.id)
            running = next(call for call in link.woken() if call.state == GRANTED)
            link.start(running)
    link.result(running.id, n=49)
    assert all(call.state == DONE for call in keystrokes)
    answered = [n for n, call in enumerate(keystrokes) if call.error is None]
    assert answered == [9, 19, 29, 39, 49] and keystrokes[-1].answer() == {"n": 49}


# ---- options


def test_options_go_out_with_the_request() -> None:
    link = Link()
    link.call(priority="batch", supersede="k", timing=True)
    link.call(priority="batch", supersede="other", timing=True)
    link.call(priority="batch", supersede="k", timing=True)
    link.call()
    sent = [frame.message for frame in link.frames if isinstance(frame.message, Infer)]
    assert [(m.priority, m.supersede, m.timing) for m in sent] == [
        ("batch", "k", True),
        ("batch", "other", True),
        ("batch", "k", True),
        ("standard", None, False),
    ]
    assert sent[0] is sent[2]


def test_the_timeline_is_beside_the_outputs() -> None:
    link = Link()
    timed, plain = link.call(timing=True), link.call()
    link.say(f.RESULT, Result(timing={"queued_ms": 1.5}), timed.id, {"timing": "an output"})
    link.result(plain.id)
    assert timed.answer() == {"timing": "an output"} and timed.answer().timing == {"queued_ms": 1.5}
    assert plain.answer().timing is None


@pytest.mark.parametrize("sent", [True, False])
def test_a_timeout_says_how_far_it_came(sent: bool) -> None:
    link = Link(credits=1)
    calls = [link.call(), link.call()]
    stage = "on its way" if sent else "waiting to be sent"
    assert calls[not sent].time_up().message == f"no answer within 1000 ms; the request was {stage}"


def test_a_ping_needs_no_credit() -> None:
    link = Link(credits=1)
    link.call()
    ping = Call(f.PING, 101.0, 1000)
    link.conversation.open(ping)
    link.start(ping)
    link.say(f.PONG, request_id=ping.id)
    assert ping.state == DONE and ping.answer() == {}


def test_giving_up_cancels_and_forgets_the_late_answer() -> None:
    """The credit comes back with the answer, not before: only the server knows when it is rid of the request."""
    link = Link(credits=1)
    call, waiting = link.call(), link.call()
    link.conversation.abandon(call)
    link.flush()
    assert [(frame.type, frame.request_id) for frame in link.frames[1:]] == [(f.CANCEL, call.id)]
    assert waiting.state == WAITING and link.woken() == []
    link.result(call.id)
    assert link.woken() == [waiting]


@pytest.mark.parametrize("piece", [1 << 30, 1000])
def test_a_late_large_answer_is_read_and_dropped(piece: int) -> None:
    link = Link(piece=piece)
    call = link.call()
    link.conversation.abandon(call)
    table, end = layout([("y", "UINT8", (100_000,))])
    link.to_client(link.server.send(f.RESULT, Result(table, end), call.id, end) + bytes(end))
    other = link.call()
    link.result(other.id, text="here")
    assert other.answer() == {"text": "here"}


def test_giving_up_in_the_middle_of_an_answer() -> None:
    link = Link(credits=1)
    call, waiting = link.call(), link.call()
    table, end = layout([("y", "UINT8", (100_000,))])
    data = link.server.send(f.RESULT, Result(table, end), call.id, end) + bytes(end)
    link.to_client(data[:50_000])
    link.conversation.abandon(call)
    link.to_client(data[50_000:])
    assert link.woken() == [waiting]
    assert link.conversation._expected is None  # nothing is kept of it


def test_giving_up_before_it_was_sent_tells_nobody() -> None:
    link = Link(credits=1)
    first, waiting, granted = link.call(), link.call(), link.call()
    link.conversation.abandon(waiting)
    link.result(first.id)
    assert granted.state == GRANTED
    later = link.call()
    assert later.state == WAITING
    link.conversation.abandon(granted)
    assert later.state == GRANTED
    assert not link.conversation.outbox


def test_an_error_is_the_callers_exception() -> None:
    link = Link()
    call = link.call()
    link.say(f.ERROR, Error.of(make("MODEL_NOT_FOUND", model="echo", known="ner")), call.id)
    with pytest.raises(NotFound, match="no model 'echo'") as caught:
        call.answer()
    assert caught.value.reason == "MODEL_NOT_FOUND" and caught.value.request_id == call.id
    assert link.conversation.usable


def test_an_error_without_an_id_ends_the_conversation() -> None:
    """Every call that was sent fails with an exception of its own; one that was not goes elsewhere."""
    link = Link(credits=2)
    first, second, waiting = link.call(), link.call(), link.call()
    link.say(f.ERROR, Error.of(make("SLAB_FULL")))
    assert isinstance(first.error, ResourceExhausted) and isinstance(second.error, ResourceExhausted)
    assert first.error is not second.error
    assert waiting.state == MOVED
    assert link.conversation.closed


def test_a_lost_connection() -> None:
    link = Link(credits=1)
    sent, waiting = link.call(), link.call()
    link.conversation.lost()
    with pytest.raises(Unavailable, match="inferd://there:1 was lost") as caught:
        sent.answer()
    assert caught.value.reason == "CONNECTION_LOST" and caught.value.retryable
    assert waiting.state == MOVED
    late = link.call()
    assert late.state == MOVED


def test_end_of_file_before_welcome() -> None:
    link = Link(welcome=False)
    link.conversation.lost()
    with pytest.raises(Unavailable, match="closed before WELCOME"):
        link.conversation.greeting.answer()


def test_goaway_moves_what_was_not_sent() -> None:
    link = Link(credits=2)
    sent, granted, waiting = link.call(), Call(f.INFER, 101.0, 1000, encode("echo", {"n": 1})), None
    link.conversation.open(granted)
    waiting = link.call()
    link.say(f.GOAWAY, GoAway())
    assert waiting.state == MOVED and link.woken() == [waiting]
    assert link.conversation.start(granted, 100.0) == [] and granted.state == MOVED
    assert not link.conversation.usable and not link.conversation.idle
    link.result(sent.id, text="finished")
    assert sent.answer() == {"text": "finished"}
    assert link.conversation.idle


def test_what_crossed_goaway_is_moved() -> None:
    """The connection ends after GOAWAY: what is unanswered was not read, or given up. It is moved, with the error for
    those who do not send it elsewhere."""
    link = Link()
    calls = [link.call() for _ in range(3)]
    ping = Call(f.PING, 101.0, 1000)
    link.conversation.open(ping)
    link.start(ping)
    link.say(f.GOAWAY, GoAway())
    link.result(calls[0].id, text="finished")
    assert link.woken() == [calls[0]]
    link.conversation.lost()
    assert [call.state for call in (*calls, ping)] == [DONE, MOVED, MOVED, MOVED]
    assert link.woken() == [*calls[1:], ping] and link.conversation.idle
    with pytest.raises(Unavailable, match="was lost before the answer") as caught:
        calls[1].answer()
    assert caught.value.request_id == calls[1].id


def test_draining_is_as_good_as_goaway() -> None:
    """The call that is refused with it is moved, with those that wait; what is in flight is finished here."""
    link = Link(credits=2)
    first, second, waiting = link.call(), link.call(), link.call()
    link.say(f.ERROR, Error.of(make("DRAINING")), second.id)
    assert (first.state, second.state, waiting.state) == (SENT, MOVED, MOVED)
    assert link.woken() == [second, waiting] and not link.conversation.usable
    assert isinstance(second.error, Unavailable) and second.error.reason == "DRAINING" and waiting.error is None
    link.result(first.id, text="finished")
    assert first.answer() == {"text": "finished"}


def test_a_call_that_moved_is_as_good_as_new() -> None:
    """It keeps its deadline; on the new connection it has an id of its own."""
    old, new = Link(), Link()
    new.call()
    call = old.call(deadline=101.0)
    old.say(f.ERROR, Error.of(make("DRAINING")), call.id)
    call.again()
    new.conversation.open(call)
    new.start(call, now=100.75)
    message = new.frames[-1].message
    assert (call.state, call.id, call.error) == (SENT, 2, None) and isinstance(message, Infer)
    assert message.deadline_ms == 250
    new.result(call.id, text="x")
    assert call.answer() == {"text": "x"}


@pytest.mark.parametrize("state", [WAITING, GRANTED, SENT])
def test_a_call_that_another_takes_back(state: int) -> None:
    """It is over at once, in whatever state; where it was sent the server is told. Others' calls are left alone."""
    link, elsewhere = Link(credits=1), Link(credits=1)
    before = link.call() if state == WAITING else None
    call = make_call()
    link.conversation.open(call)
    if state == SENT:
        link.start(call)
    assert call.state == state
    elsewhere.conversation.cancel(call)
    assert call.state == state
    link.conversation.cancel(call)
    assert link.woken() == [call] and call.state == DONE and isinstance(call.error, Cancelled)
    link.flush()
    assert (f.CANCEL in [frame.type for frame in link.frames]) == (state == SENT)
    link.conversation.cancel(call)
    assert link.woken() == [] and (before is None or before.state == SENT)


def test_ping_is_answered_with_its_id() -> None:
    link = Link()
    link.say(f.PING, request_id=77)
    link.flush()
    assert [(frame.type, frame.request_id) for frame in link.frames] == [(f.PONG, 77)]


def test_bytes_that_are_not_the_protocol() -> None:
    link = Link(welcome=False)
    link.to_client(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ProtocolError, match="inferd://there:1: not an inferd frame"):
        link.conversation.greeting.answer()


def test_a_message_of_a_later_version_is_skipped() -> None:
    link = Link()
    call = link.call()
    link.to_client(pack_prefix(99, 5, 0, 10_000) + bytes(10_000))
    link.result(call.id)
    assert call.answer() == {}


def test_an_answer_of_the_wrong_kind() -> None:
    link = Link()
    call = link.call()
    link.say(f.PONG, request_id=call.id)
    with pytest.raises(ProtocolError, match="answered INFER with PONG"):
        call.answer()


def test_an_answer_that_cannot_be_read_fails_its_call_only() -> None:
    link = Link()
    call, other = link.call(), link.call()
    table, end = layout([("y", "UINT8", (10,))])
    link.to_client(link.server.send(f.RESULT, Result(table, end), call.id, 5000) + bytes(5000))
    with pytest.raises(ProtocolError):
        call.answer()
    link.result(other.id)
    assert other.answer() == {}


def test_an_answer_to_nothing_is_ignored() -> None:
    link = Link()
    call = link.call()
    link.result(1234)
    link.say(f.ERROR, Error.of(make("SLAB_FULL")), 1234)
    link.result(call.id)
    assert call.answer() == {}
    assert link.call().state == SENT


def test_a_payload_over_the_servers_limit_is_not_sent() -> None:
    link = Link(payload_bytes=1000)
    with pytest.raises(InvalidArgument, match="over this server's limit of 1000 bytes") as caught:
        link.call({"x": np.zeros(1001, np.uint8)})
    assert caught.value.reason == "PAYLOAD_TOO_LARGE"
    assert link.call({"x": np.zeros(1000, np.uint8)}).state == SENT


def test_what_was_failed_by_its_owner_is_cancelled() -> None:
    link = Link()
    call = link.call()
    link.conversation.fail(lambda: make("CLIENT_CANCELLED"))
    with pytest.raises(Cancelled):
        call.answer()
    link.conversation.received(0)


def test_models_come_with_the_greeting() -> None:
    assert Link(piece=3).conversation.models == MODELS


@pytest.mark.parametrize("values", [{"models": "echo"}, {"models": ["echo"]}])
def test_a_welcome_that_makes_no_sense(values: Any) -> None:
    link = Link(welcome=False)
    link.say(f.WELCOME, Welcome("test", {}), values=values)
    with pytest.raises(ProtocolError, match="no list of models"):
        link.conversation.greeting.answer()


def test_a_list_for_a_tensor_is_told_what_to_pass() -> None:
    """When the server misses an input that was given as a list, the error says that a tensor is wanted; another input
    that is missing is the server's own sentence."""
    link = Link()
    link.conversation.models = [{"name": "echo", "inputs": [["x", "FP32", [4]], ["y", "FP32", [4]]]}]
    for given, reason, says in (([1.0], "TENSOR", "numpy array"), (np.ones(4, np.float32), "INPUT_MISSING", "'y'")):
        call = make_call({"x": given})
        link.conversation.open(call)
        link.to_server(*link.conversation.start(call, 100.0))
        error = make("INPUT_MISSING", model="echo", field="y", expected="a tensor of FP32 [4]")
        link.say(f.ERROR, Error.of(error), call.id)
        assert isinstance(call.error, InvalidArgument) and call.error.reason == reason
        assert says in call.error.message and call.error.request_id == call.id


# ---- silence, and what is raised while bytes are taken in


def expired(link: Link, call: Call) -> None:
    """The call's time is up."""
    call.time_up()
    link.conversation.abandon(call)


def test_after_a_long_silence_a_timeout_ends_the_conversation_for_new_calls() -> None:
    """What has not been sent goes elsewhere; what has may still be answered, by a slow model say."""
    link = Link(credits=2)
    slow, call = link.call(deadline=500.0), link.call(now=105.0, deadline=120.0)
    waiting = link.call(deadline=500.0)
    assert waiting.state == WAITING
    expired(link, call)
    assert not link.conversation.usable and waiting.state == MOVED
    link.result(slow.id, text="late")
    assert slow.answer() == {"text": "late"}


def test_a_silent_connection_that_ends_is_lost_for_those_on_it() -> None:
    """What was sent there may have been taken, so that sending it again is a retry."""
    link = Link(credits=2)
    slow, call = link.call(deadline=500.0), link.call(deadline=120.0)
    expired(link, call)
    link.conversation.lost()
    assert slow.state == DONE and isinstance(slow.error, Unavailable) and slow.error.reason == "CONNECTION_LOST"


def test_silence_counts_for_those_without_a_credit() -> None:
    """Every credit is with a call that was given up before the silence was a long one: no call is ever sent again."""
    link = Link(credits=1)
    expired(link, link.call(now=100.0, deadline=105.0))
    early, late = link.call(now=110.0, deadline=115.0), link.call(now=118.0, deadline=125.0)
    assert early.state == late.state == WAITING
    expired(link, early)
    assert link.conversation.usable
    expired(link, late)
    assert not link.conversation.usable


def test_silence_adds_up_over_short_calls() -> None:
    """Each of them is over long before; together they have heard nothing for too long."""
    link = Link(credits=100)
    for now in (100, 105, 110, 115, 118.5):
        expired(link, link.call(now=now, deadline=now + 1))
        assert link.conversation.usable
    expired(link, link.call(now=119.5, deadline=120.5))
    assert not link.conversation.usable


def test_whoever_says_anything_is_there() -> None:
    """A timeout while other answers come is the model's, and a call that is given up says nothing of the connection."""
    link = Link(credits=100)
    slow, quick = link.call(deadline=130.0), link.call()
    link.result(quick.id)
    expired(link, slow)
    assert link.conversation.usable
    left = link.call(now=100.0, deadline=500.0)
    link.conversation.abandon(left)
    assert link.conversation.usable


def test_an_exception_while_bytes_are_taken_in_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no memory for an answer, say: who receives is told, and everybody else's call is lost, not stuck."""
    from inferd_client import core

    def full(*args: Any) -> bytearray:
        raise MemoryError

    link = Link()
    call, other = link.call(), link.call()
    table, end = layout([("y", "UINT8", (100_000,))])
    monkeypatch.setattr(core, "bytearray", full, raising=False)
    with pytest.raises(MemoryError):
        link.to_client(link.server.send(f.RESULT, Result(table, end), call.id, end) + bytes(end))
    assert link.conversation.closed and set(link.woken()) == {call, other}
    for lost in (call, other):
        assert isinstance(lost.error, Unavailable) and lost.error.reason == "CONNECTION_LOST"


def test_a_call_that_was_taken_back_before_it_came_here() -> None:
    link = Link()
    call = make_call()
    call.cancelled = True
    link.conversation.open(call)
    assert call.state == DONE and isinstance(call.error, Cancelled) and not link.frames


@pytest.mark.parametrize("piece", [1 << 30, 30])
def test_a_pong_may_carry_what_a_later_version_puts_there(piece: int) -> None:
    link = Link(piece=piece)
    ping = Call(f.PING, 101.0, 1000)
    link.conversation.open(ping)
    link.start(ping)
    link.say(f.PONG, request_id=ping.id, values={"load": "x" * 100})
    assert ping.state == DONE and ping.answer() == {}


def test_a_deadline_is_told_as_far_as_numbers_go() -> None:
    link = Link()
    link.call(deadline=1e300)
    message = link.frames[0].message
    assert isinstance(message, Infer) and message.deadline_ms == 1 << 53
