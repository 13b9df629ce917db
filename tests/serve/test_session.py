"""A session without a socket: the clock is a number, and the link is a list."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from inferd.config import ModelConfig, Settings
from inferd.errors import RequestError
from inferd.memory import Region
from inferd.serve.engine import Engine
from inferd.serve.patience import (
    HEADER_TIMEOUT_S,
    HELLO_TIMEOUT_S,
    LEAST_BYTES_PER_S,
    PAYLOAD_GRACE_S,
    PING_EVERY_S,
    SILENT_TIMEOUT_S,
    WRITE_TIMEOUT_S,
)
from inferd.serve.pool import Arena
from inferd.serve.refusal import header_of, overloaded, too_late
from inferd.serve.request import Request
from inferd.serve.session import LONG_READ_S, MAX_IGNORED_BYTES, Session
from inferd.wire import frame as f
from inferd.wire.messages import Error, Hello, Infer
from inferd.wire.peer import CLIENT, Peer
from inferd.wire.tensor import layout


class Link:
    """A socket that takes what it is told to take."""

    name = "test"
    behind = False
    copies = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.queued = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, buffers: list[bytes | memoryview]) -> None:
        self.written += [bytes(buffer) for buffer in buffers]

    def unsent(self) -> int:
        return self.queued

    def close(self) -> None:
        self.closed = True

    abort = close


class NoExecutor:
    """Nothing ever runs."""

    async def start(self, events: object, slab: Region) -> None: ...

    def spawn(self, worker: int, device: str, settings: Settings, warm_up: bool) -> Region:
        raise AssertionError

    def send(self, worker: int, packet: bytes) -> None: ...

    def poll(self, worker: int) -> None: ...

    def kill(self, worker: int) -> None: ...

    async def close(self) -> None: ...


class NoLoop:
    """Nothing is ever due."""

    def call_soon(self, *what: object) -> None: ...


@pytest.fixture
def engine() -> Iterator[Engine]:
    settings = Settings(models=(ModelConfig("m", "m:M"),), slab_mib=4, payload_mib=1)
    engine = Engine(settings, NoExecutor(), clock=lambda: 0.0)
    engine._loop = NoLoop()  # type: ignore[assignment]
    engine.door.open([{"name": "m", "inputs": None, "outputs": None, "max_batch_size": 8, "latency": []}])
    yield engine
    engine.slab.region.close()


class Talk:
    """A session and the client's peer that talks to it."""

    def __init__(self, engine: Engine, greet: bool = True) -> None:
        self.link = Link()
        self.session = Session(engine, self.link, engine.holdings.client("somebody"), 0.0)
        self.peer = Peer(CLIENT)
        if greet:
            self.say(self.peer.send(f.HELLO, Hello("test")))
            self.peer._become("OPEN")

    def say(self, data: bytes, now: float = 0.0) -> None:
        while data:
            buffer = self.session.peer.get_buffer()
            nbytes = min(len(buffer), len(data))
            buffer[:nbytes] = data[:nbytes]
            data = data[nbytes:]
            self.session.received(nbytes, now)

    def infer(self, request_id: int, nbytes: int, now: float = 0.0, send: int | None = None) -> None:
        table, end = layout([("x", "UINT8", (nbytes,))])
        payload = bytes(nbytes)[:send] if send is not None else bytes(nbytes)
        self.say(self.peer.send(f.INFER, Infer("m", table, end), request_id, nbytes) + payload, now)


def test_who_says_nothing_is_cut(engine: Engine) -> None:
    """A connection that does not say HELLO within five seconds ends."""
    talk = Talk(engine, greet=False)
    assert talk.session.overdue(HELLO_TIMEOUT_S - 0.1) == ""
    assert talk.session.overdue(HELLO_TIMEOUT_S + 0.1) == "no HELLO"


def test_a_slow_reader_is_not_cut_while_it_reads(engine: Engine) -> None:
    """Any byte that the kernel took since the last look is progress."""
    talk = Talk(engine)
    talk.session.outbox.congested = True
    for second in range(60):
        talk.link.queued = 100_000_000 - second * 1000
        assert talk.session.overdue(float(second)) == ""
    for second in range(60, 60 + int(WRITE_TIMEOUT_S)):
        assert talk.session.overdue(float(second)) == ""
    assert talk.session.overdue(60 + WRITE_TIMEOUT_S + 1) == "it does not read its answers"


def test_who_has_much_to_say_gives_way_to_others(engine: Engine) -> None:
    """What is asked at once is answered a little in each turn, in its order, and all of it: here a frame a turn."""
    talk = Talk(engine)
    ids = range(1, 11)
    data = b"".join(f.pack_prefix(f.PING, number, 0) for number in ids)
    talk.session.peer.get_buffer()[: len(data)] = data
    engine.clock = lambda: LONG_READ_S * 1.5
    assert talk.session.received(len(data), 0.0)
    turns = 1
    while talk.session.go_on(0.0):
        turns += 1
    pongs = [written for written in talk.link.written if written.startswith(f.pack_prefix(f.PONG, 0, 0)[:5])]
    assert turns == len(pongs) == len(ids)
    assert [int.from_bytes(pong[16:24], "little") for pong in pongs] == list(ids)


def test_a_payload_that_stops_is_cut(engine: Engine) -> None:
    """Half a payload and then nothing: its row of the slab is given back when the connection goes."""
    talk = Talk(engine)
    talk.infer(1, 200_000, now=1.0, send=100_000)
    assert engine.slab.used_bytes > 0
    assert talk.session.overdue(1.5) == ""
    assert talk.session.overdue(1.5 + PAYLOAD_GRACE_S) == ""
    assert talk.session.overdue(1.5 + PAYLOAD_GRACE_S + 2) == "the rest of a payload does not come, or too slowly"
    talk.session.lost()
    assert engine.slab.used_bytes == 0 and engine.holdings.may_arrive(2_000_000, engine.holdings.client("another"))


def test_a_payload_that_trickles_is_cut(engine: Engine) -> None:
    """64 KiB/s is enough, for as long as it takes; half of that is not."""
    for rate, enough in ((LEAST_BYTES_PER_S, True), (LEAST_BYTES_PER_S // 2, False)):
        talk = Talk(engine)
        talk.infer(1, 1_000_000, now=0.0, send=0)
        cut = []
        for second in range(1, 14):
            talk.say(bytes(rate), float(second))
            cut.append(talk.session.overdue(float(second)))
        assert (not any(cut)) is enough
        talk.session.lost()


def test_a_header_that_trickles_is_cut(engine: Engine) -> None:
    """One byte a second is progress that nobody waits for; a new frame has its own five seconds."""
    talk = Talk(engine)
    header = f.pack_prefix(f.PING, 1, 0)
    talk.say(header[:12])
    for second in range(1, 20):
        assert talk.session.overdue(float(second)) == ""
        talk.say(header[12:] + header[:12], float(second))
    seen = []
    for second in range(20, 28):
        talk.say(header[second - 8 : second - 7], float(second))
        seen.append(talk.session.overdue(float(second)))
    assert seen.index("the rest of a header does not come") in (HEADER_TIMEOUT_S, HEADER_TIMEOUT_S + 1)


def test_who_talks_on_and_never_reads_is_cut_all_the_same(engine: Engine) -> None:
    """What it says is no sign that it takes what it is sent."""
    talk = Talk(engine)
    talk.session.outbox.congested = True
    talk.link.queued = 2_000_000
    seen = []
    for second in range(1, int(WRITE_TIMEOUT_S) + 3):
        talk.say(f.pack_prefix(f.CANCEL, 99, 0), float(second))
        seen.append(talk.session.overdue(float(second)))
    assert "it does not read its answers" in seen


def test_who_leaves_even_a_little_unread_is_cut(engine: Engine) -> None:
    """Though he talks on: it lies in memory that a worker may need. Who takes some of it now and then may go on."""
    stops, goes_on = Talk(engine), Talk(engine)
    for talk in (stops, goes_on):
        talk.link.queued = 20_000
    seen = []
    for second in range(1, int(SILENT_TIMEOUT_S) + 3):
        for talk in (stops, goes_on):
            talk.say(f.pack_prefix(f.CANCEL, 99, 0), float(second))
        goes_on.link.queued -= 100
        assert goes_on.session.overdue(float(second)) == ""
        seen.append(stops.session.overdue(float(second)))
    assert "it does not read its answers" in seen


def test_who_takes_his_answers_slowly_is_cut_when_a_worker_waits_for_their_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace that payloads have; who takes them at the rate that is asked of payloads is not."""
    monkeypatch.setattr(NoLoop, "call_later", lambda self, delay_s, call: None, raising=False)
    now = 0.0
    monkeypatch.setattr(engine, "clock", lambda: now)
    slow, brisk, other = (Talk(engine) for _ in range(3))
    region = Region.create("arena", 4 * 1024 * 1024)
    arena = Arena(region, 0)
    for number, talk in enumerate((slow, brisk)):
        engine.sessions.add(talk.session)
        talk.session.outbox.push_result(b"head", arena, number * 1_000_000, 900_000)
        talk.link.queued = 900_000
        talk.session.flush(now)
        talk.session.overdue(now)
    engine.sessions.add(other.session)
    [worker] = engine.pool.workers
    worker.arena, worker.batch_id = arena, 7
    grace = int(PAYLOAD_GRACE_S)
    for second in range(1, grace + 6):
        now += 1.0
        arena.starved = second in (1, grace + 3)
        slow.link.queued -= 1000
        if second % 4 == 0:
            brisk.link.queued -= 4 * LEAST_BYTES_PER_S  # in lumps, as kernels and proxies hand it on
        engine._keep_house()
        assert (slow.link.closed, brisk.link.closed, other.link.closed) == (second >= grace + 3, False, False)
    worker.arena = None
    region.close()


def test_what_waits_for_a_slow_reader_does_not_own_the_slab(engine: Engine) -> None:
    """It counts as what has not arrived, until its client reads, cancels or goes; and its deadline holds."""
    talk = Talk(engine)
    talk.link.behind, talk.link.queued = True, 2_000_000
    talk.say(f.pack_prefix(f.PING, 1, 0))
    assert talk.session.outbox.congested
    half = engine.slab.region.nbytes // 2
    for request_id in range(1, 9):
        talk.infer(request_id, half // 4)
    waiting = sorted(talk.session.parked)
    assert waiting == [1, 2, 3] and sorted(talk.session.in_flight) == waiting
    assert engine.holdings.arriving_bytes == 3 * half // 4 and b"SLAB_FULL" in talk.link.written[-1]
    talk.say(f.pack_prefix(f.CANCEL, 1, 0))
    talk.session.parked[2].due = 5.0
    assert talk.session.late(4.9) == []
    engine.answers.too_late(talk.session.late(5.0), 5.0)
    assert sorted(talk.session.parked) == [3] and engine.holdings.arriving_bytes == half // 4
    talk.link.behind, talk.link.queued = False, 0
    talk.session.drained(6.0)
    assert engine.scheduler.queued == 1 and engine.holdings.arriving_bytes == 0 and not talk.session.parked
    other = Talk(engine)
    for request_id in range(1, 7):
        other.infer(request_id, half // 4)
    assert engine.scheduler.queued == 7
    other.link.behind, other.link.queued = True, 2_000_000
    other.say(f.pack_prefix(f.PING, 1, 0))  # now it is congested, with more in the queue than may be parked
    assert len(other.session.parked) == 3 and engine.scheduler.queued == 4
    assert engine.holdings.may_arrive(half // 8, engine.holdings.client("another"))


def test_what_runs_again_keeps_its_place_when_its_client_does_not_read(engine: Engine) -> None:
    """Its worker died, and it runs alone: parked, it would come back in company."""
    talk = Talk(engine)
    talk.infer(1, 100)
    batch = engine.scheduler.take(0.0).batch
    assert batch is not None and engine.scheduler.lost(batch) == []
    talk.link.behind, talk.link.queued = True, 2_000_000
    talk.say(f.pack_prefix(f.PING, 1, 0))
    assert talk.session.outbox.congested and not talk.session.parked and engine.scheduler.queued == 1


def test_only_a_request_that_is_no_more_work_has_the_place_of_the_one_before(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few more letters are none. Anything else is admitted as if it were new, at a place of its own."""
    asked: list[int] = []
    monkeypatch.setattr(engine.scheduler, "admit", lambda request, now: asked.append(request.id))
    talk = Talk(engine)

    def ask(request_id: int, nbytes: int, rows: int = 1, priority: str = "standard") -> Request:
        table, end = layout([("x", "UINT8", (rows, nbytes))])
        header = Infer("m", table, end, rows=rows, supersede="key", priority=priority)
        talk.say(talk.peer.send(f.INFER, header, request_id, rows * nbytes) + bytes(rows * nbytes))
        return talk.session.in_flight[request_id]

    first = ask(1, 64)
    assert ask(2, 128).place == first.key
    assert ask(3, 512).place is None
    assert ask(4, 64, rows=8).place is None
    assert ask(5, 64, rows=8).place is not None
    assert ask(6, 64, rows=8, priority="interactive").place is None
    assert asked == [1, 3, 4, 6]


def test_over_tls_the_workers_memory_is_free_at_once(engine: Engine) -> None:
    """What is written there is a copy, encrypted; and it counts as the daemon's own memory until it is taken."""
    talk = Talk(engine)
    talk.link.copies = True
    region = Region.create("arena", 4 * 1024 * 1024)
    arena = Arena(region, 0)
    talk.session.outbox.push_result(b"head", arena, 0, 900_000)
    talk.link.queued = 900_000
    talk.session.flush(0.0)
    assert arena.held == 0 and arena.freed == [0, 900_032] and len(talk.link.written[-1]) == 900_000
    assert talk.session.outbox.waiting() == 900_000
    del arena
    region.close()


def test_who_shall_connect_again_is_told_when_nobody_will_be_there(engine: Engine) -> None:
    """GOAWAY for other models, and another one when the daemon stops; for other models only once."""
    talk = Talk(engine)
    goaway = f.pack_prefix(f.GOAWAY, 0, 0)[:5]
    for reason, told in (("MODELS_CHANGED", 1), ("MODELS_CHANGED", 1), ("DRAINING", 2)):
        talk.session.go_away(0.0, reason)
        assert sum(written.startswith(goaway) for written in talk.link.written) == told


def test_who_has_something_in_flight_is_asked_whether_it_is_there(engine: Engine) -> None:
    """Two PINGs without an answer, and it is cut; a PONG is answer enough, and so is taking what is sent."""
    talk = Talk(engine)
    talk.infer(1, 100)
    ping = f.pack_prefix(f.PING, 0, 0)[:5]
    assert talk.session.overdue(PING_EVERY_S - 1) == "" and not any(w.startswith(ping) for w in talk.link.written)
    assert talk.session.overdue(PING_EVERY_S + 1) == "" and talk.link.written[-1].startswith(ping)
    talk.say(f.pack_prefix(f.PONG, 0, 0), 35.0)
    assert talk.session.overdue(SILENT_TIMEOUT_S + 1) == ""
    assert talk.session.overdue(35.0 + SILENT_TIMEOUT_S + 1) == "it does not answer PING"


def test_an_idle_connection_is_asked_only_if_it_wants_that(engine: Engine) -> None:
    """A client without a thread of its own answers when it is used next; one that says `ping` answers at all times."""
    quiet = Talk(engine)
    keen = Talk(engine, greet=False)
    keen.say(keen.peer.send(f.HELLO, Hello("test", features=["ping"])))
    assert quiet.session.overdue(1000.0) == ""
    assert keen.session.overdue(SILENT_TIMEOUT_S + 1) == "it does not answer PING"


def test_one_client_does_not_have_all_the_room_of_what_arrives(engine: Engine) -> None:
    """Three quarters of it at most, and another one finds the rest."""
    one, other = engine.holdings.client("one"), engine.holdings.client("other")
    step = 64 * 1024
    half = engine.slab.region.nbytes // 2
    while engine.holdings.may_arrive(step, one):
        engine.holdings.arriving(step, one)
    assert half * 2 // 3 <= one.arriving_bytes <= half * 3 // 4
    assert engine.holdings.may_arrive(half - one.arriving_bytes, other)


def test_when_all_together_have_too_much_unsent_the_worst_goes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes nothing goes before who reads, and who holds most before who holds less."""
    monkeypatch.setattr("inferd.serve.holdings.MAX_UNSENT_BYTES", 10_000_000)
    reader, small, large = (Talk(engine) for _ in range(3))
    for talk, queued in ((reader, 1_000_000), (small, 2_000_000), (large, 4_000_000)):
        engine.sessions.add(talk.session)
        talk.link.behind, talk.link.queued = True, queued
        talk.session.outbox.congested = True
        talk.session.flush(0.0)
        talk.session.overdue(0.0)
    for second in range(1, 4):
        reader.session.patience.taken_at = float(second)
    reader.link.queued = 8_000_000
    # The link of one that is cut says so in the loop's next turn.
    for talk in (reader, small, large):
        talk.session.flush(3.0)
    assert large.link.closed and small.link.closed is False and reader.link.closed is False
    large.session.lost()
    assert engine.holdings.unsent_bytes == 10_000_000


def test_an_idle_connection_may_stay(engine: Engine) -> None:
    """Nobody has to talk once the conversation is open."""
    assert Talk(engine).session.overdue(1e6) == ""


def test_what_arrives_is_queued_and_withdrawn_with_its_connection(engine: Engine) -> None:
    """Byte by byte or at once, a request is in the queue when its last byte is there, and gone with its sender."""
    talk = Talk(engine)
    talk.infer(1, 70_000)
    talk.infer(2, 100)
    assert engine.scheduler.queued == 2 and set(talk.session.in_flight) == {1, 2}
    talk.session.lost()
    assert engine.scheduler.queued == 0 and engine.slab.used_bytes == 0


def test_a_message_nobody_knows_is_skipped(engine: Engine) -> None:
    """It is answered UNKNOWN_MESSAGE, but not with an id that means the connection or a request."""
    talk = Talk(engine)
    talk.infer(1, 100)
    before = len(talk.link.written)
    for request_id in (0, 1):
        talk.say(f.pack_prefix(77, request_id, 0, 0))
    assert len(talk.link.written) == before
    talk.say(f.pack_prefix(77, 5, 0, 0))
    assert b"UNKNOWN_MESSAGE" in talk.link.written[-1]
    assert not talk.link.closed


def test_a_request_without_time_is_answered_at_its_header(engine: Engine) -> None:
    """Less time than the way back needs: it takes no place in the slab and none in the queue."""
    talk = Talk(engine)
    table, end = layout([("x", "UINT8", (64,))])
    talk.say(talk.peer.send(f.INFER, Infer("m", table, end, deadline_ms=0.1), 1, 64), 1.0)
    assert b"TIMEOUT" in talk.link.written[-1] and b"not yet queued" in talk.link.written[-1]
    assert engine.slab.used_bytes == 0 and engine.scheduler.queued == 0
    talk.say(bytes(64), 1.0)
    talk.infer(2, 64, 1.0)
    assert engine.scheduler.queued == 1


def test_refusals_that_say_the_same_are_packed_once() -> None:
    """Two digits of an estimate are enough, and make thousands of refusals a few different ones."""
    assert overloaded(0.01234) is overloaded(0.0121) and overloaded(0.01234) is not overloaded(0.0139)
    assert overloaded(0.0).retry_after_ms == 1.0 and overloaded(1.234).retry_after_ms == 1200
    assert header_of(overloaded(0.012)) is header_of(overloaded(0.0121))
    assert Error.unpack(header_of(too_late(25))).exception(1).reason == "TIMEOUT"


def test_what_was_wrong_with_a_header_is_not_kept(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors are remembered with their packed headers, and what raised one holds all that was in the header: 2,000
    INFERs of 16 KiB had kept 2 GB."""
    talk = Talk(engine)
    errors: list[RequestError] = []
    monkeypatch.setattr(Session, "send_error", lambda session, request_id, error: errors.append(error))
    header = msgpack.packb({"model": "m", "deadline_ms": "soon", "more": [[]] * 100})
    talk.say(f.pack_prefix(f.INFER, 1, len(header)) + header)
    assert [error.reason for error in errors] == ["FIELD_TYPE"]
    assert errors[0].__traceback__ is None and errors[0].__context__ is None


def test_who_asks_on_and_never_reads_is_cut(engine: Engine) -> None:
    """PING, STATUS and refusals are answered without end; what is kept for who does not read is not."""
    talk = Talk(engine)
    talk.link.behind, talk.link.queued = True, 2_000_000
    talk.say(f.pack_prefix(f.PING, 1, 0))
    assert talk.session.outbox.congested and not talk.link.closed
    asked = 0
    while not talk.link.closed and asked < 1000:
        talk.say(f.pack_prefix(f.STATUS, 1, 0) * 100)
        asked += 1
    written = sum(map(len, talk.link.written))
    assert talk.link.closed and MAX_IGNORED_BYTES < written < 2 * MAX_IGNORED_BYTES
    assert engine.counters["connections_cut"] == 1


def test_who_reads_now_and_then_may_ask_on(engine: Engine) -> None:
    """What has been read does not count."""
    talk = Talk(engine)
    for _ in range(10):
        talk.link.behind, talk.link.queued = True, 2_000_000
        for _ in range(10):
            talk.say(f.pack_prefix(f.PING, 1, 0) * 2000)
        assert talk.session.outbox.congested
        talk.link.behind, talk.link.queued = False, 0
        talk.session.drained(0.0)
    assert not talk.link.closed


def test_a_long_turn_that_is_over_ages_nobody(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a turn is what may have lain unread while it lasted; a minute later nothing has."""
    monkeypatch.setattr(engine, "_arm", lambda at: None)
    talk = Talk(engine)
    table, end = layout([("x", "UINT8", (64,))])

    def ask(request_id: int, now: float) -> bool:
        engine._turn_began = None
        engine.turn_s, engine._turn_ended = 0.5, 60.0
        talk.say(talk.peer.send(f.INFER, Infer("m", table, end, deadline_ms=100), request_id, 64) + bytes(64), now)
        return request_id in talk.session.in_flight

    assert not ask(1, 60.001)
    assert ask(2, 120.0)


def test_one_connection_that_fails_takes_nobodys_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot be written to is cut; who is behind it gets what is prepared."""
    bad, good = Talk(engine), Talk(engine)
    engine.sessions |= {bad.session, good.session}

    flush = Session.flush

    def flushed(session: Session, now: float) -> None:
        if session is bad.session:
            raise RuntimeError("defect")
        flush(session, now)

    monkeypatch.setattr(Session, "flush", flushed)
    for talk in (bad, good):
        talk.link.written.clear()
        talk.session.send(f.PONG, request_id=1)
        engine.answers.dirty.append(talk.session)
    engine.answers.flush(0.0)
    assert bad.link.closed and engine.sessions == {good.session}
    assert not good.link.closed and len(good.link.written) == 1
    assert engine.counters["connections_cut"] == 1


def test_the_house_is_kept_after_a_defect(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round that fails is not the last."""
    due: list[object] = []
    monkeypatch.setattr(NoLoop, "call_later", lambda self, delay_s, call: due.append(call), raising=False)

    def broken(now: float) -> None:
        raise RuntimeError("defect")

    monkeypatch.setattr(engine.workers, "end_hung", broken)
    with pytest.raises(RuntimeError):
        engine._keep_house()
    assert due == [engine._keep_house]
