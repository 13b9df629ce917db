"""What goes wrong in a model is told, in so many words as a packet takes, and costs nobody else anything."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import torch

from inferd.wire import batch as b
from tests.running import double
from tests.work.in_process import Ask, Worker
from tests.work.misbehaving import misbehaving

KINDS = ["surrogate", "wordless", "panic", "exit"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("stage", "reason"), [("preprocess", "INPUT_REJECTED"), ("postprocess", "MODEL_FAILED")])
def test_whatever_one_row_raises_it_fails_alone(kind: str, stage: str, reason: str) -> None:
    """Text that UTF-8 cannot hold, an exception without words, a panic of Rust's, an exit: the worker goes on, and the
    others of the batch are answered."""
    worker = Worker(misbehaving("Raises", stage=stage))
    asks = [Ask(what=what) for what in ("fine", kind, kind, kind, "fine")]
    assert worker.ask("raises", *asks) == [{"what": "fine"}, reason, reason, reason, {"what": "fine"}]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_forward_raises_fails_its_batch(kind: str) -> None:
    """RAISED can be packed and sent, and the next batch runs."""
    worker = Worker(misbehaving("Raises", stage="forward"))
    worker.ask("raises", Ask(what="fine"), Ask(what=kind))
    assert worker.raised == "MODEL_FAILED"
    assert worker.ask("raises", Ask(what="fine")) == [{"what": "fine"}]


def test_an_interrupt_is_not_the_models() -> None:
    """Ctrl-C in a debugger ends the program, not a request."""
    worker = Worker(double("Double"))
    with pytest.raises(KeyboardInterrupt):
        worker.runner.reason(KeyboardInterrupt())


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_raised_ahead_is_raised_again_in_its_turn(kind: str) -> None:
    """The thread that prepares goes on, also after what is no Exception."""
    worker = Worker(misbehaving("Raises", stage="preprocess"))
    answers = worker.ask("raises", Ask(what=kind), Ask(what="fine"), ahead=(0, 1))
    assert answers == ["INPUT_REJECTED", {"what": "fine"}]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_load_raises_is_a_refusal(kind: str) -> None:
    """And names the model."""
    refused = Worker(misbehaving("Raises", stage=f"load {kind}"))
    assert refused.first[0] == b.REFUSED
    assert "cannot load model 'raises'" in b.LoadFailure(*refused.first[1:]).message


def test_a_refusal_with_too_much_to_say_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """load_state_dict names a thousand missing keys: the head is told, with a word that there is more; the log has
    all of it."""
    with caplog.at_level(logging.ERROR):
        [packet] = Worker(misbehaving("Endless")).loaded
    assert len(packet) <= b.MAX_PACKET_BYTES
    failure = b.LoadFailure(*b.unpack(packet)[1:])
    assert "misbehaving.py" in failure.location
    assert "the first missing key" in failure.message and "characters more: load_error in the log" in failure.message
    assert len(failure.message) < b.MAX_DETAIL_CHARS + 100
    [record] = [record for record in caplog.records if record.getMessage() == "load_error"]
    assert record.__dict__["fields"]["error"].endswith("the last missing key")


def test_many_models_are_announced_in_several_packets() -> None:
    """Each of them under the limit, READY last, and no model is left out."""
    config = misbehaving("Declares", inputs=20)
    configs = [dataclasses.replace(config, name=f"model-{number}") for number in range(60)]
    worker = Worker(*configs)
    kinds = [b.unpack(packet)[0] for packet in worker.loaded]
    assert len(kinds) > 1 and kinds == [b.MODELS] * (len(kinds) - 1) + [b.READY]
    assert max(map(len, worker.loaded)) <= b.MAX_PACKET_BYTES
    assert list(worker.models) == [config.name for config in configs]


@pytest.mark.parametrize(
    ("options", "says"),
    [({"inputs": 2000}, "fewer inputs"), ({"inputs": 1, "version": "\ud800"}, "UnicodeEncodeError")],
)
def test_a_model_that_cannot_be_announced_is_refused(options: dict[str, object], says: str) -> None:
    """It declares more than a packet takes, or text that UTF-8 cannot hold."""
    [packet] = Worker(misbehaving("Declares", **options)).loaded
    failure = b.LoadFailure(*b.unpack(packet)[1:])
    assert failure.model == "declares" and says in failure.message


@pytest.mark.parametrize("by_row", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_an_output_that_cannot_be_written_takes_no_room(kind: str, by_row: bool) -> None:
    """However often it is tried: the arena is empty afterwards, and the next batch has it all."""
    worker = Worker(misbehaving("Unwritable", kind=kind, by_row=by_row), double("Double"), arena_mib=1)
    for _ in range(3):
        answers = worker.ask("unwritable", *[Ask(x=torch.rand(8)) for _ in range(3)])
        assert worker.raised in ("MODEL_FAILED", "OUTPUT_INVALID") or answers == ["OUTPUT_INVALID"] * 3
        assert worker.runner.arena_used == 0
    [answer] = worker.ask("double", Ask(x=torch.zeros(100_000)))
    assert answer["y"].shape == (100_000,)


def test_an_output_that_no_client_reads_fails_alone() -> None:
    """Its neighbours in the batch are answered, and the log is told which output it was, and why."""
    worker = Worker(misbehaving("Unreadable"))
    fine = {"echo": "fine", "found": {"1": "a"}}
    answers = worker.ask("unreadable", *[Ask(what=what) for what in ("fine", "number", "fine")])
    assert answers == [fine, "OUTPUT_INVALID", fine]
    sentence = "output 'found' cannot be sent: the keys of a map must be text, and one is of type int"
    assert worker.details == [sentence]
    [joined] = worker.ask("unreadable", Ask(rows=2, what=["fine", "number"]))
    assert joined == "OUTPUT_INVALID" and worker.details == [sentence]


def test_a_model_whose_example_yields_what_no_client_reads_is_refused() -> None:
    """At the start, with the output's name and the line of the model."""
    refused = b.LoadFailure(*Worker(misbehaving("Unreadable", example="number")).first[1:])
    assert "output 'found' cannot be sent" in refused.message and "misbehaving.py" in refused.message


def test_the_packets_text_is_what_was_said() -> None:
    """Only what has no bytes in UTF-8 is written otherwise."""
    assert b.escaped("α \n \\ 🙂") == "α \n \\ 🙂"
    assert b.escaped(json.loads('"\\ud800"')) == "\\ud800"
