"""`inferd bench`: the generator's parts with a clock of the test's own, then the whole against servers.

Runs against a server assert only what holds on any machine: sums, reasons, names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from inferd_client.testing import FakeServer

from inferd.cli.bench import facts
from inferd.cli.bench_frames import SENTENCES, make_frames
from inferd.cli.bench_order import Order, Tally
from inferd.cli.bench_run import server_cpu, tree_cpu
from inferd.cli.bench_wire import Scanner
from inferd.cli.bench_worker import Generator, connect
from inferd.errors import InferdError, ProtocolError, make
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.frame import pack_prefix
from inferd.wire.messages import Error, Infer
from inferd.wire.peer import SERVER, Peer
from inferd.wire.values import unpack_values

ECHO = {"name": "echo", "inputs": None, "outputs": None, "max_batch_size": 4}


def order(url: str = "inferd://127.0.0.1:1", **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "url": url,
        "token": None,
        "frames": make_frames([ECHO], ECHO, [], ["x=FP32[4]"], 10_000)[1],
        "connections": 2,
        "callers": 4,
        "rate": 0.0,
        "timeout_s": 10.0,
        "warmup_s": 0.0,
        "seconds": 0.2,
        "slice_s": 0.1,
        "seed": 0,
    }
    return Order(**{**fields, **changes})


def generate(given: Order) -> Tally:
    start = time.monotonic()
    generator = Generator(given, connect(given), start)
    generator.run(start)
    return generator.tally


# ---- what is sent


def first_request(frames: list[bytes]) -> tuple[Infer, bytes]:
    """The first frame as a daemon's Peer reads it."""
    peer = Peer(SERVER)
    hello = pack_prefix(f.HELLO, 0, 13) + b"\x81\xa8versions\x92\x01\x01"
    data = hello + frames[0][:16] + (7).to_bytes(8, "little") + frames[0][24:]
    seen = []
    while data:
        view = peer.get_buffer()
        taken = min(len(view), len(data))
        view[:taken], data = data[:taken], data[taken:]
        peer.buffer_updated(taken)
        while (frame := peer.next_frame()) is not None:
            seen.append(frame)
            if frame.type == f.HELLO:
                peer.send(f.WELCOME, _welcome())
    frame = seen[-1]
    assert frame.request_id == 7 and frame.error is None and frame.complete
    assert isinstance(frame.message, Infer)
    return frame.message, bytes(frame.payload or b"")


def _welcome() -> Any:
    from inferd.wire.messages import Welcome

    return Welcome("test", {})


def test_inputs_are_made_up_from_the_signature() -> None:
    """Tensors get random numbers of the declared dtype and shape, open sizes 16, texts a list of sentences."""
    model = {"name": "m", "inputs": [["t", "STRING", []], ["x", "FP16", [2, -1]], ["n", "NUMBER", []]]}
    what, frames = make_frames([model], model, [], [], 250)
    assert what == "m x=FP16[2,16], t=STRING, n"
    assert len(frames) == len(SENTENCES)
    header, payload = first_request(frames)
    assert (header.model, header.deadline_ms, header.rows) == ("m", 250, 0)
    assert [(t.name, t.dtype, t.shape) for t in header.tensors] == [("x", "FP16", (2, 16))]
    assert unpack_values(payload[64:]) == {"t": SENTENCES[0], "n": 1}


@pytest.mark.parametrize("dtype", ["BOOL", "UINT8", "INT64", "FP16", "BF16", "FP64"])
def test_a_random_tensor_of_any_dtype(dtype: str) -> None:
    """--shape names it, for a model without a signature too."""
    _, frames = make_frames([ECHO], ECHO, [], [f"x={dtype}[3,2]"], 1000)
    header, payload = first_request(frames)
    assert (header.tensors[0].dtype, header.tensors[0].shape) == (dtype, (3, 2))
    assert len(payload) == header.tensors[0].nbytes


def test_an_input_can_be_given() -> None:
    """--input is read as `inferd infer` reads it, and takes the place of what would be made up."""
    header, payload = first_request(make_frames([ECHO], ECHO, ["k=hello", "x=[1]"], [], 1000)[1])
    assert [t.name for t in header.tensors] == ["x"]
    assert unpack_values(payload[64:]) == {"k": "hello"}


@pytest.mark.parametrize("shape", ["x", "x=FP32", "x=FP31[2]", "=FP32[2]", "x=FP32[a]", "x=STRING[1]"])
def test_a_shape_that_is_none_is_a_mistake_of_usage(inferd, fake, shape: str) -> None:
    """The sentence shows how to write one."""
    said = inferd("bench", "echo", "--shape", shape, "--url", fake.url)
    assert said.code == 2 and "x=FP32[16]" in said.err


# ---- the parts


@pytest.mark.parametrize("piece", [1, 7, 24, 1000, 1 << 20])
def test_the_scanner_sees_the_same_however_bytes_arrive(piece: int) -> None:
    """Whole or in any pieces: the ids of results, the headers of everything else, and no payload."""
    error = Error.of(make("SLAB_FULL")).pack()
    nbytes = 300_000 if piece >= 24 else 300  # more than the receive buffer, where that does not take seconds
    stream = b"".join(
        [
            pack_prefix(f.RESULT, 1, 3, nbytes) + b"abc" + bytes(nbytes),
            pack_prefix(f.ERROR, 2, len(error)) + error,
            pack_prefix(f.RESULT, 3, 0),
            pack_prefix(f.STATUS, 4, 1, 5) + b"h" + b"fives",
            pack_prefix(f.PING, 5, 0),
        ]
    )
    scanner = Scanner()
    while stream:
        view = scanner.get_buffer()
        taken = min(piece, len(view), len(stream))
        view[:taken], stream = stream[:taken], stream[taken:]
        scanner.buffer_updated(taken)
    assert scanner.results == [1, 3]
    assert scanner.others == [(f.ERROR, 2, error), (f.STATUS, 4, b"h"), (f.PING, 5, b"")]


def test_the_scanner_counts_a_result_when_all_of_it_is_there() -> None:
    """A payload that is still on the way is no answer yet."""
    stream = pack_prefix(f.RESULT, 1, 0, 10) + bytes(10)
    scanner = Scanner()
    for part, seen in ((stream[:-1], []), (stream[-1:], [1])):
        scanner.get_buffer()[: len(part)] = part
        scanner.buffer_updated(len(part))
        assert scanner.results == seen


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", pack_prefix(f.RESULT, 1, 1 << 20)])
def test_the_scanner_refuses_what_is_no_frame(answer: bytes) -> None:
    """Other bytes, and headers over the limit, end in a ProtocolError."""
    scanner = Scanner()
    scanner.get_buffer()[: len(answer)] = answer
    with pytest.raises(ProtocolError):
        scanner.buffer_updated(len(answer))


def test_a_request_belongs_to_the_window_in_which_it_was_due() -> None:
    """Warm-up does not count; what was due in the window counts whenever it is answered; the rate counts what arrived
    in the window."""
    tally = Tally(order(warmup_s=1.0, seconds=2.0, slice_s=1.0), start=100.0)  # the window is 101 to 103
    for due, answered in ((100.5, 101.5), (101.0, 101.2), (102.9, 104.0), (103.0, 103.1)):
        tally.sent(due)
        tally.result(due, answered)
    assert (tally.started, tally.arrived) == (2, 2)
    assert [part.total for part in tally.slices] == [1, 1]
    assert tally.slices[1].max_s == pytest.approx(1.1)


def test_a_late_result_is_a_miss() -> None:
    """A result after the timeout is what a client would have given up."""
    tally = Tally(order(timeout_s=0.1), start=100.0)
    tally.result(100.0, 100.11)
    tally.miss(100.1, "INTERNAL", "first")
    tally.miss(100.1, "INTERNAL", "second")
    assert tally.errors == {"LATE": [1, "the result came after the timeout"], "INTERNAL": [2, "first"]}
    assert sum(part.total for part in tally.slices) == 0


def test_an_order_survives_its_way_to_the_generator() -> None:
    """It goes as JSON and comes back equal, frames included."""
    given = order(rate=12.5)
    assert Order.from_json(given.to_json()) == given


def test_cpu_is_that_of_a_process_and_its_descendants() -> None:
    """A child is in this process's tree, which has its own CPU time; another machine's pid has none."""
    spent = time.process_time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tree = tree_cpu(os.getpid())
    assert child.pid in tree
    assert tree[os.getpid()] >= spent - 0.1  # ticks of 10 ms
    assert server_cpu(Address(host="192.0.2.1", port=1), os.getpid()) == {}
    assert server_cpu(Address(host="127.0.0.1", port=1), None) == {}


# ---- a generator against a server


def test_every_request_of_a_closed_loop_is_accounted_for(fake: FakeServer) -> None:
    """Each caller has one request in flight; what was sent in the window is a result or a miss."""
    tally = generate(order(fake.url))
    assert tally.started == sum(part.total for part in tally.slices) >= 4
    assert not tally.errors
    # The first one was the question whether these inputs are accepted.
    assert len(fake.requests) == tally.started + 1
    assert fake.connections == 2


def test_large_payloads_pass_both_ways(fake: FakeServer) -> None:
    """A request that no socket buffer takes at once, on one connection for several callers."""
    frames = make_frames([ECHO], ECHO, [], ["x=FP32[262144]"], 10_000)[1]
    tally = generate(order(fake.url, frames=frames, connections=1))
    assert tally.started == sum(part.total for part in tally.slices) >= 4
    assert not tally.errors


def test_an_open_loop_keeps_its_schedule_whatever_the_server_does(fake: FakeServer) -> None:
    """All that was due in the window is sent though nothing is answered, and counts as a miss when the time is up."""
    gate = threading.Event()
    asked = threading.Event()

    def stuck(inputs: dict[str, Any]) -> dict[str, Any]:
        if asked.is_set():
            gate.wait(30)
        asked.set()  # the first is the generator's own question
        return inputs

    fake.models["echo"] = stuck
    tally = generate(order(fake.url, callers=0, rate=200.0, timeout_s=0.3))
    gate.set()
    assert tally.started > 0
    assert tally.errors["NO_ANSWER"][0] == tally.started == tally.lag.total


def test_errors_are_counted_by_reason(fake: FakeServer) -> None:
    """A refusal is a miss with its code and reason, and its caller goes on."""

    def full(inputs: dict[str, Any]) -> dict[str, Any]:
        raise make("SLAB_FULL")

    fake.models["echo"] = full
    tally = generate(order(fake.url))
    assert tally.errors["RESOURCE_EXHAUSTED/SLAB_FULL"][0] == tally.started >= 4
    assert "memory is full" in tally.errors["RESOURCE_EXHAUSTED/SLAB_FULL"][1]


def test_a_server_that_dies_ends_the_run(fake: FakeServer) -> None:
    """What was in flight is lost, nobody waits for the end of the window, and what an open loop still had to send
    counts as missed."""

    def last(inputs: dict[str, Any]) -> dict[str, Any]:
        if len(fake.requests) > 20:
            fake.drop()
        return inputs

    fake.models["echo"] = last
    tally = generate(order(fake.url, seconds=600.0, slice_s=10.0))
    assert tally.errors["UNAVAILABLE/CONNECTION_LOST"][0] > 0
    fake.requests.clear()
    tally = generate(order(fake.url, seconds=600.0, slice_s=10.0, callers=0, rate=500.0))
    assert tally.errors["UNAVAILABLE/CONNECTION_LOST"][0] > 200_000


def test_inputs_that_cannot_be_right_are_found_before_the_run(fake: FakeServer) -> None:
    """An INVALID_ARGUMENT or NOT_FOUND ends it with the server's sentence; a busy server does not."""
    frames = make_frames([ECHO], {**ECHO, "name": "gone"}, [], [], 1000)[1]
    with pytest.raises(InferdError, match="'gone'"):
        connect(order(fake.url, frames=frames))
    with pytest.raises(InferdError, match="cannot connect"):
        connect(order("inferd+unix:///nowhere"))


# ---- the verb


def test_a_run_against_a_real_daemon(inferd, daemon_url: str, tmp_path) -> None:
    """Rate, latency, CPU of the daemon's processes and batch size, from two generators; and the page."""
    words = ("--seconds", "0.3", "--warmup-seconds", "0", "--processes", "2", "--callers", "6", "--url", daemon_url)
    path = tmp_path / "latency.html"
    said = inferd("bench", *words, "--json", "--plot", str(path))
    result = json.loads(said.out)
    assert said.code == 0
    assert (result["model"], result["callers"], result["connections"], result["processes"]) == ("echo", 6, 2, 2)
    assert result["started"] == result["results"] > 0 and result["misses"] == 0
    latency = list(result["latency_ms"].values())
    assert latency[0] > 0 and latency == sorted(latency)
    assert result["server_processes"] == 3  # the loop, the fork server, the worker
    assert result["server_cpu_us_per_request"] > 0
    assert 1 <= result["mean_batch_size"] <= 6
    assert len(result["generator_cpu_cores"]) == 2
    assert "<svg" in path.read_text()


def test_a_run_in_words(inferd, daemon_url: str) -> None:
    """Without --json: a line for each figure, and what is done on stderr."""
    said = inferd("bench", "virtual", "--rate", "100", "--seconds", "0.5", "--warmup-seconds", "0", "--url", daemon_url)
    assert said.code == 0
    assert said.err.startswith("virtual x=FP32[1] at ") and "100 requests/s on 8 connections" in said.err
    heads = ["requests/s", "latency ms", "misses", "sent late ms", "server CPU", "batch size", "generator CPU"]
    assert [line.partition("  ")[0] for line in said.out.splitlines()] == heads


def test_one_daemon_is_measured_at_a_time(inferd, fake) -> None:
    """Several addresses are a mistake of usage, also from $INFERD_URL."""
    said = inferd("bench", "--url", f"{fake.url},inferd://127.0.0.1:1")
    assert said.code == 2 and "one daemon is measured at a time, and --url names 2" in said.err


def test_a_run_without_a_result_exits_1(inferd, fake: FakeServer) -> None:
    """The reason stands in the report."""
    fake.status = {"models": [], "counters": {}}

    def broken(inputs: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError

    fake.models["echo"] = broken
    said = inferd("bench", "--seconds", "0.1", "--warmup-seconds", "0", "--callers", "2", "--url", fake.url)
    assert said.code == 1
    assert "INTERNAL/MODEL_FAILED" in said.out and "(100 %)" in said.out


@pytest.mark.parametrize(
    "words", [("--callers", "4", "--rate", "5"), ("--callers", "1", "--processes", "2"), ("--plot", "a.svg")]
)
def test_a_load_that_makes_no_sense_is_a_mistake_of_usage(inferd, fake: FakeServer, words: tuple[str, ...]) -> None:
    """Exit code 2, before anything is sent."""
    assert inferd("bench", *words, "--url", fake.url).code == 2
    assert not fake.requests


def test_inputs_a_daemon_refuses_are_one_sentence(inferd, daemon_url: str) -> None:
    """The daemon's own words, before the run."""
    said = inferd("bench", "virtual", "--shape", "x=FP32[3]", "--url", daemon_url)
    assert said.code == 1 and "takes shape [1], got [3]" in said.err


def test_a_generator_that_is_the_limit_is_said() -> None:
    """The reader learns when the figure is the client's, not the daemon's."""
    result = {
        "requests_per_s": 1.0,
        "results": 0,
        "misses": 0,
        "started": 0,
        "errors": {},
        "latency_ms": {},
        "send_lag_ms": None,
        "server_cpu_us_per_request": None,
        "mean_batch_size": None,
        "generator_cpu_cores": [0.97, 0.2],
    }
    assert "generator may be the limit" in dict(facts(result))["generator CPU"]
    result["generator_cpu_cores"] = [0.5]
    assert "limit" not in dict(facts(result))["generator CPU"]
