"""What is prepared while a batch runs is what the next one takes, and nothing else."""

from __future__ import annotations

import torch

from tests.running import double
from tests.work.in_process import Ask, Worker, same


def test_what_was_prepared_is_not_prepared_again() -> None:
    """Of three requests two were; the third, which came late, is in the batch all the same."""
    worker = Worker(double("Ahead", seconds=0.02))
    answers = worker.ask("ahead", Ask(word="a"), Ask(word="b"), Ask(word="c"), ahead=(2, 0))
    assert [(answer["word"], answer["times"]) for answer in answers] == [("a", 1), ("b", 1), ("c", 1)]
    assert worker.preprocess_us > 0
    [again] = worker.ask("ahead", Ask(word="d"), ahead=(0,))
    assert again["times"] == 1 and worker.preprocess_us == 0


def test_rows_of_one_request_are_prepared_together() -> None:
    """Two rows of one request, and a single one."""
    worker = Worker(double("Ahead"))
    pair, single = worker.ask("ahead", Ask(rows=2, word=["a", "b"]), Ask(word="c"), ahead=(0, 1))
    assert pair["word"] == ["a", "b"] and single["word"] == "c"
    assert worker.preprocess_us == 0


def test_what_cannot_be_prepared_fails_in_its_batch_alone() -> None:
    """Its preprocess raises ahead and again in its turn, where it is told."""
    worker = Worker(double("Ahead"))
    wrong, right = worker.ask("ahead", Ask(word="wrong"), Ask(word="right"), ahead=(0, 1))
    assert wrong == "INPUT_REJECTED" and right["word"] == "right"


def test_what_no_batch_took_is_forgotten() -> None:
    """Prepared behind one batch, it is not there for the one after the next, whatever its number."""
    worker = Worker(double("Ahead"))
    worker.ask("ahead", Ask(word="a"), ahead=(0,))
    ahead = worker.runner.ahead
    ahead.prepare(worker.runner, 0, 0, 0, [[]], [0, 0, 0, 0, 0])  # behind a batch that is over
    assert not ahead._kept
    worker.ask("ahead", Ask(word="b"))
    assert ahead.begin(9, [0]) == {}


def test_preparing_changes_nothing_of_an_answer() -> None:
    """A model whose preprocess works in place on tensors: its requests are computed from what was sent."""
    worker = Worker(double("InPlacePrepared"))
    asks = [Ask(x=torch.tensor([float(n)])) for n in range(1, 5)]
    plain = worker.ask("inplaceprepared", *asks)
    ahead = worker.ask("inplaceprepared", *asks, ahead=(0, 2, 3))
    assert all(same(one, other) for one, other in zip(plain, ahead, strict=True))
