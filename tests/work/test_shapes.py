"""Shapes in the worker: padding, ragged input, allowed batch sizes, requests of many rows."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.config import ModelConfig
from tests.running import double
from tests.work.in_process import Ask, Failed, Worker, same


@pytest.fixture(scope="module")
def worker() -> Worker:
    names = ["Sums", "Pixels", "Letters", "Lists", "Sized", "Picky", "Hash", "Words", "Double", "mlp", "Hungry"]
    return Worker(*[double(name) for name in names])


def sequence(seed: int, length: int, rows: int = 0) -> Ask:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows,) if rows else ()
    return Ask(rows, x=torch.rand((*shape, length), generator=generator), scale=torch.rand(shape, generator=generator))


def picture(seed: int, height: int, width: int) -> Ask:
    generator = torch.Generator().manual_seed(seed)
    return Ask(image=torch.randint(0, 255, (height, width, 3), dtype=torch.uint8, generator=generator))


# ---- padding


def test_sequences_of_different_lengths_share_a_batch(worker: Worker) -> None:
    """Each is padded to the longest, forward gets the lengths, and the answers are those of each one alone."""
    asks = [sequence(seed, length) for seed, length in enumerate([3, 17, 1, 9, 0, 17])]
    together = worker.ask("sums", *asks)
    padded = worker.padded
    assert [answer["length"].item() for answer in together] == [3, 17, 1, 9, 0, 17]
    for ask, answer in zip(asks, together, strict=True):
        assert same(answer, worker.ask("sums", ask)[0])
        assert answer["total"].item() == pytest.approx(float(ask.tensors["x"].sum() * ask.tensors["scale"]), abs=1e-5)
    assert padded == round(1 - (3 + 17 + 1 + 9 + 0 + 17) / (6 * 17), 3)
    assert worker.padded == 0.0


def test_an_output_declared_with_the_padded_size_is_cut_back(worker: Worker) -> None:
    """−1 in the place where the input has it: every row has its own length again. Others are sent as they are."""
    short, long = worker.ask("sums", sequence(0, 2), sequence(1, 5))
    assert short["running"].shape == (2,) and long["running"].shape == (5,)
    assert short["total"].shape == ()


def test_rows_of_one_request_share_a_batch_with_items_of_other_lengths(worker: Worker) -> None:
    """A request of n rows has one length, is padded with its neighbours, and is cut back as one."""
    many, one = sequence(0, 4, rows=3), sequence(1, 9)
    answers = worker.ask("sums", many, one)
    assert answers[0]["running"].shape == (3, 4) and answers[1]["running"].shape == (9,)
    assert same(answers[0], worker.ask("sums", many)[0]) and same(answers[1], worker.ask("sums", one)[0])


def test_two_sizes_vary_at_once(worker: Worker) -> None:
    """Height and width are padded each to its largest; the lengths have a column for each; both are cut back."""
    asks = [picture(0, 4, 7), picture(1, 6, 2), picture(2, 6, 7), picture(3, 1, 1)]
    answers = worker.ask("pixels", *asks)
    for ask, answer in zip(asks, answers, strict=True):
        image = ask.tensors["image"]
        assert torch.equal(answer["brighter"], image + 1)
        assert answer["size"].tolist() == list(image.shape[:2])


def test_what_preprocess_returns_is_padded_by_name(worker: Worker) -> None:
    """Texts become tensors of their lengths, share one batch, and postprocess gets each cut back."""
    texts = ["a", "", "a longer text", "αβγ"]
    answers = worker.ask("letters", *[Ask(text=text) for text in texts])
    assert answers == [{"text": text, "length": len(text)} for text in texts]
    assert worker.padded == round(1 - (1 + 0 + 13 + 3) / (4 * 13), 3)


def test_what_preprocess_returns_beside_its_tensors_is_listed(tmp_path: object) -> None:
    """Text and objects in the dict go with the row: in pieces, filled up, and back to its postprocess."""
    from pathlib import Path

    from inferd.config import ModelConfig

    path = Path(str(tmp_path)) / "beside.py"
    path.write_text(
        "import torch\n\n\nclass Beside:\n    inputs = {'text': ('STRING', ())}\n    padding = {'codes': -1}\n"
        "    batch_sizes = (2, 4)\n\n    def preprocess(self, text):\n"
        "        return {'codes': torch.tensor([ord(c) for c in text]), 'text': text, 'words': text.split()}\n\n"
        "    def forward(self, batch):\n"
        "        assert len(batch['codes']) == len(batch['text']) == len(batch['words'])\n"
        "        return {'length': batch['codes.lengths'], 'text': batch['text'], 'words': batch['words']}\n\n"
        "    def postprocess(self, outputs):\n"
        "        return {**outputs, 'length': int(outputs['length'])}\n"
    )
    worker = Worker(ModelConfig("beside", f"{path}:Beside"))
    texts = ["a", "b c", "d e f", "gh", "i  j", "k", "lm n"]
    wanted = [{"text": text, "words": text.split(), "length": len(text)} for text in texts]
    for count in (1, 3, 7):
        assert worker.ask("beside", *[Ask(text=text) for text in texts[:count]]) == wanted[:count]
    assert worker.ask("beside", Ask(7, text=texts)) == [{key: [row[key] for row in wanted] for key in wanted[0]}]


def test_texts_of_a_request_of_rows_may_differ_in_length(worker: Worker) -> None:
    """Values in rows go the same way."""
    [answer] = worker.ask("letters", Ask(2, text=["a", "abc"]))
    assert answer == {"text": ["a", "abc"], "length": [1, 3]}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 1 << 30))
def test_the_content_of_neighbours_never_changes_an_answer(worker: Worker, lengths: list[int], seed: int) -> None:
    """Whatever lies before, behind or between: an answer is the one that the request gets alone."""
    asks = [sequence(seed + index, length) for index, length in enumerate(lengths)]
    order = list(range(len(asks)))
    random.Random(seed).shuffle(order)
    answers = worker.ask("sums", *asks, order=order, gap=64 * (seed % 3))
    for ask, answer in zip(asks, answers, strict=True):
        assert same(answer, worker.ask("sums", ask)[0])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bfloat16", "float64", "bool", "uint32"])
def test_every_dtype_is_gathered_and_padded(dtype: str, tmp_path: object) -> None:
    """Rows are copied as bytes, so the dtype does not matter."""
    from pathlib import Path

    from inferd.config import ModelConfig
    from inferd.work.device import NAMES

    kind = getattr(torch, dtype)
    path = Path(str(tmp_path)) / f"back_{dtype}.py"
    path.write_text(
        f"class Back:\n    inputs = {{'x': ('{NAMES[kind]}', (-1, 2))}}\n    outputs = inputs\n"
        "    padding = {'x': 1}\n\n    def forward(self, batch):\n        return {'x': batch['x']}\n"
    )
    worker = Worker(ModelConfig("back", f"{path}:Back"))
    tensors = [torch.tensor([[1, 0]] * length).reshape(length, 2).to(kind) for length in (3, 1, 0, 8)]
    for chosen in (tensors, [tensors[0]] * 3):
        answers = worker.ask("back", *[Ask(x=tensor) for tensor in chosen], gap=64)
        assert all(torch.equal(answer["x"], x) for answer, x in zip(answers, chosen, strict=True))


def test_a_module_may_take_lengths_or_not(tmp_path: object) -> None:
    """An nn.Module gets `x_lengths` when its forward has such a parameter, and the padded tensor alone when not."""
    from pathlib import Path

    from inferd.config import ModelConfig

    path = Path(str(tmp_path)) / "modules.py"
    path.write_text(
        "from torch import nn\n\n\nclass Plain(nn.Module):\n    inputs = {'x': ('FP32', (-1,))}\n"
        "    padding = {'x': 0}\n\n    def forward(self, x):\n        return x.sum(1)\n\n\n"
        "class Long(Plain):\n    def forward(self, x, x_lengths):\n        return x.sum(1) / x_lengths\n"
    )
    worker = Worker(ModelConfig("plain", f"{path}:Plain"), ModelConfig("long", f"{path}:Long"))
    asks = [Ask(x=torch.ones(length)) for length in (2, 5)]
    assert [answer["output"].item() for answer in worker.ask("plain", *asks)] == [2, 5]
    assert [answer["output"].item() for answer in worker.ask("long", *asks)] == [1, 1]


def test_an_output_of_another_length_is_sent_as_it_is(tmp_path: object) -> None:
    """Declared with −1 where the input has it, but not as long as the padded input: whose it is, nobody can tell."""
    from pathlib import Path

    from inferd.config import ModelConfig

    path = Path(str(tmp_path)) / "halves.py"
    path.write_text(
        "class Halves:\n    inputs = {'x': ('FP32', (-1,))}\n    outputs = {'y': ('FP32', (-1,))}\n"
        "    padding = {'x': 0}\n\n    def forward(self, batch):\n        return {'y': batch['x'][:, ::2]}\n"
    )
    worker = Worker(ModelConfig("halves", f"{path}:Halves"))
    answers = worker.ask("halves", *[Ask(x=torch.ones(length)) for length in (2, 8)])
    assert [answer["y"].tolist() for answer in answers] == [[1, 0, 0, 0], [1, 1, 1, 1]]


TWO = """
import torch

class Two:
    inputs = {"a": ("FP32", (-1,)), "b": ("FP32", (-1,))}
    outputs = {"y": ("FP32", (-1,))}
    padding = {"a": 0, "b": 0}

    def forward(self, batch):
        return {"y": batch["b"] * 2}


class Texts(Two):
    inputs = {"first": ("STRING", ()), "second": ("STRING", ())}

    def preprocess(self, first, second):
        return {"a": torch.ones(len(first)), "b": torch.ones(len(second))}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    path = tmp_path_factory.mktemp("two") / "two.py"
    path.write_text(TWO)
    return Worker(*[ModelConfig(name.lower(), f"{path}:{name}") for name in ("Two", "Texts")])


def pair(a: int, b: int) -> Ask:
    return Ask(a=torch.ones(a), b=torch.ones(b))


@pytest.mark.parametrize("lengths", [[(3, 5), (4, 2)], [(5, 3), (1, 3), (5, 1)], [(4, 4), (2, 2)], [(7, 2), (7, 5)]])
def test_an_output_is_cut_by_the_input_whose_length_it_has(two: Worker, lengths: list[tuple[int, int]]) -> None:
    """Two inputs are padded, each to its own longest, and the output is as long as the second."""
    answers = two.ask("two", *[pair(a, b) for a, b in lengths])
    assert [answer["y"].tolist() for answer in answers] == [[2] * b for _, b in lengths]
    answers = two.ask("texts", *[Ask(first="x" * a, second="x" * b) for a, b in lengths])
    assert [answer["y"].tolist() for answer in answers] == [[2] * b for _, b in lengths]


def test_where_nobody_can_tell_whose_length_it_is_fewer_rows_run(two: Worker) -> None:
    """Two inputs are padded to the same length and their own lengths differ: the batch raises, so that its halves run,
    and alone each request is answered right."""
    lengths = [(3, 5), (5, 2)]
    for model, asks in (
        ("two", [pair(a, b) for a, b in lengths]),
        ("two", [Ask(2, a=torch.ones(2, a), b=torch.ones(2, b)) for a, b in lengths]),
        ("texts", [Ask(first="x" * a, second="x" * b) for a, b in lengths]),
    ):
        assert two.ask(model, *asks) == [] and two.raised == "OUTPUT_INVALID"
        answers = [two.ask(model, ask)[0]["y"] for ask in asks]
        assert [answer.shape[-1] for answer in answers] == [5, 2] and all((answer == 2).all() for answer in answers)


def test_a_request_of_rows_is_told_apart_in_its_worker(two: Worker) -> None:
    """There is nothing to halve in the daemon: the worker runs fewer of its rows at once. (What is not of one length
    cannot be the answer of one request, and that is what is said then.)"""
    both = {"first": ["xxx", "xxxxx", "x"], "second": ["xxxxx", "xx", "xxxxx"]}
    assert two.ask("texts", Ask(3, **both)) == [Failed("OUTPUT_INVALID")]
    assert "different shape in each row" in two.details[0]
    alike = {"first": ["xxxxx", "xx", "x"], "second": ["xxxxx", "xxxxx", "xxxxx"]}
    assert two.ask("texts", Ask(3, **alike))[0]["y"].tolist() == [[2] * 5] * 3


# ---- ragged


def test_a_ragged_model_gets_a_list(worker: Worker) -> None:
    """One tensor for each item, nothing padded."""
    asks = [Ask(x=torch.arange(float(length))) for length in (3, 1, 0, 200)]
    answers = worker.ask("lists", *asks)
    assert [answer["total"].item() for answer in answers] == [3, 0, 0, 19900]
    assert [len(answer["twice"]) for answer in answers] == [3, 1, 0, 200]
    assert worker.padded == 0.0
    [answer] = worker.ask("lists", Ask(2, x=torch.ones(2, 3)))
    assert answer["total"].tolist() == [3, 3]


# ---- where rows lie


def test_the_place_of_a_payload_does_not_matter(worker: Worker) -> None:
    """In a row, in another order, or with gaps: every answer is its own."""
    asks = [Ask(x=torch.full((5,), float(n))) for n in range(9)]
    for order in (None, [3, 1, 2, 0, 8, 7, 6, 5, 4]):
        for gap in (0, 64):
            answers = worker.ask("double", *asks, order=order, gap=gap)
            assert [answer["y"][4].item() for answer in answers] == [2 * n for n in range(9)]
    mixed = [Ask(2, x=torch.ones(2, 5)), asks[1], Ask(1, x=torch.ones(1, 5)), asks[3]]
    answers = worker.ask("double", *mixed)
    assert [tuple(answer["y"].shape) for answer in answers] == [(2, 5), (5,), (1, 5), (5,)]


# ---- allowed batch sizes


@pytest.mark.parametrize(("rows", "ran"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_a_batch_is_filled_up_to_an_allowed_size(worker: Worker, rows: int, ran: int) -> None:
    """Copies of the first row fill it up, nobody sees them, and they count as padding."""
    answers = worker.ask("sized", *[Ask(x=torch.tensor([float(n), 1.0])) for n in range(rows)])
    assert [answer["y"].tolist() for answer in answers] == [[2 * n, 2] for n in range(rows)]
    assert {answer["ran"].item() for answer in answers} == {ran}
    assert worker.padded == round(1 - rows / ran, 3)


def test_allowed_sizes_are_announced(worker: Worker) -> None:
    """In ascending order, and the largest is the largest batch."""
    assert worker.models["sized"]["batch_sizes"] == [2, 4, 8]
    assert worker.models["sized"]["max_batch_size"] == 8


# ---- requests of many rows


def test_a_request_of_more_rows_than_a_batch_is_split_and_joined(worker: Worker) -> None:
    """The model sees pieces of its largest batch, the last filled up; the caller sees one answer, in order."""
    [answer] = worker.ask("sized", Ask(21, x=torch.arange(42.0).reshape(21, 2)))
    assert torch.equal(answer["y"], torch.arange(42.0).reshape(21, 2) * 2)
    assert answer["ran"].tolist() == [8] * 21
    assert worker.padded == round(1 - 21 / 24, 3)
    [answer] = worker.ask("picky", Ask(1000, x=torch.arange(1000.0)[:, None]))
    assert torch.equal(answer["y"], torch.arange(1000.0)[:, None] + 1)


def test_texts_and_lists_are_split_and_joined(worker: Worker) -> None:
    """Values too, through preprocess and postprocess; and sequences, cut back."""
    [answer] = worker.ask("words", Ask(150, text=["a b"] * 149 + ["a"]))
    assert answer == {"count": [2] * 149 + [1], "even": [True] * 149 + [False]}
    [answer] = worker.ask("lists", Ask(150, x=torch.ones(150, 3)))
    assert answer["total"].tolist() == [3] * 150
    [answer] = worker.ask("sums", sequence(0, 5, rows=150))
    assert answer["running"].shape == (150, 5)


NUMPY = """
import numpy as np

class Arrays:
    inputs = {"x": ("FP32", (2,))}

    def forward(self, batch):
        return {"y": [np.asarray(row) * 2 for row in batch["x"]]}


class Scalars(Arrays):
    def forward(self, batch):
        return {"y": [row.sum() for row in batch["x"].numpy()]}


class Mixed(Arrays):
    def forward(self, batch):
        return {"y": [np.zeros(2), "text", np.zeros(2)]}


class Texts(Arrays):
    def forward(self, batch):
        return {"y": [np.array(["text"]) for _ in batch["x"]]}


class Single(Arrays):
    def forward(self, batch):
        return [{"y": np.array(row.sum(), dtype=np.float32)} for row in batch["x"].numpy()]
"""


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    path = tmp_path_factory.mktemp("arrays") / "arrays.py"
    path.write_text(NUMPY)
    names = ("Arrays", "Scalars", "Mixed", "Texts", "Single")
    return Worker(*[ModelConfig(name.lower(), f"{path}:{name}") for name in names])


def test_a_list_of_arrays_or_of_numpys_numbers_is_a_column_too(arrays: Worker) -> None:
    """Of single items and of a request of rows: arrays are stacked, and numbers are values."""
    one, rows = Ask(x=torch.ones(2)), Ask(2, x=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert [answer["y"].tolist() for answer in arrays.ask("arrays", one, rows)] == [[2, 2], [[2, 4], [6, 8]]]
    assert arrays.ask("scalars", one, rows) == [{"y": 2.0}, {"y": [3.0, 7.0]}]
    assert arrays.ask("mixed", Ask(3, x=torch.ones(3, 2))) == [Failed("OUTPUT_INVALID")]
    assert arrays.ask("texts", one, rows) == [Failed("OUTPUT_INVALID")] * 2


def test_an_array_without_dimensions_stays_one(arrays: Worker) -> None:
    """Its shape is (), and (n,) for n rows."""
    one, rows = arrays.ask("single", Ask(x=torch.ones(2)), Ask(3, x=torch.ones(3, 2)))
    assert one["y"].shape == () and one["y"].item() == 2
    assert rows["y"].tolist() == [2, 2, 2]


# ---- memory


def test_no_memory_is_said_and_the_worker_goes_on(worker: Worker) -> None:
    """The batch raises DEVICE_MEMORY, nothing of it stays in the arena, and a smaller one succeeds."""
    asks = [Ask(x=torch.ones(1)) for _ in range(5)]
    assert worker.ask("hungry", *asks) == [] and worker.raised == "DEVICE_MEMORY"
    assert worker.runner.arena_used == 0
    assert len(worker.ask("hungry", *asks[:4])) == 4


def test_no_memory_in_preprocess_is_not_the_callers_fault(tmp_path: object) -> None:
    """The row fails with DEVICE_MEMORY instead of INPUT_REJECTED."""
    from pathlib import Path

    from inferd.config import ModelConfig

    path = Path(str(tmp_path)) / "greedy.py"
    path.write_text(
        "class Greedy:\n    inputs = {'n': ('NUMBER', ())}\n\n    def preprocess(self, n):\n"
        "        return bytearray(n) and n\n\n    def forward(self, batch):\n        return [{'n': n} for n in batch]\n"
    )
    worker = Worker(ModelConfig("greedy", f"{path}:Greedy"))
    assert worker.ask("greedy", Ask(n=1 << 62), Ask(n=5)) == [Failed("DEVICE_MEMORY"), {"n": 5}]


# ---- declarations


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("inputs = {'x': ('FP32', (4,))}; padding = {'x': 0}", "'x' is no declared input with a size of −1"),
        ("padding = {'x': 0}", "'x' is no declared input"),
        ("inputs = {'x': ('FP32', (-1,))}; padding = 0", "padding of model 'model' must be"),
        ("inputs = {'x': ('FP32', (-1,))}; padding = {'x': 0}; ragged = True", "both padding and ragged"),
        ("ragged = True", "declare inputs"),
        ("batch_sizes = ()", "batch_sizes"),
        ("batch_sizes = (0, 4)", "batch_sizes"),
        ("objective_ms = -1", "objective_ms"),
        ("inputs = {'x': ('UINT8', (-1,))}; padding = {'x': float('nan')}", "padding of model 'model': 'x'"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(tmp_path: object, body: str, says: str) -> None:
    """With a sentence that names it, before READY."""
    from pathlib import Path

    from inferd.config import ModelConfig
    from inferd.wire import batch as b

    path = Path(str(tmp_path)) / "wrong.py"
    path.write_text(f"class Model:\n    {body}\n\n    def forward(self, batch):\n        return batch\n")
    first = Worker(ModelConfig("model", f"{path}:Model")).first
    assert first[0] == b.REFUSED and says in first[3]
