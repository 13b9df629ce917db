"""The warm-up: how long batches take, before the first request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inferd.config import ModelConfig, Settings
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.work import warmup
from inferd.work.inline import InlineExecutor
from tests.running import double
from tests.work.in_process import Worker


def test_a_declared_model_is_measured_at_powers_of_two() -> None:
    """`virtual` takes α + β·b, and that is what READY says of it."""
    config = ModelConfig(
        "virtual", "inferd.models.virtual:Virtual", {"alpha_ms": 4, "beta_ms": 1, "max_batch_size": 12}
    )
    latency = Worker(config, warm_up=True).models["virtual"]["latency"]
    assert [rows for rows, _ in latency] == [1, 2, 4, 8, 12]
    for rows, seconds in latency:
        assert 0.004 + 0.001 * rows <= seconds < 0.004 + 0.001 * rows + 0.05


def test_an_example_is_run_through_every_stage() -> None:
    """Text has no zeros to make up, but an example; padded, ragged and sized models are measured as well."""
    names = ["Words", "Letters", "Sums", "Lists", "Pixels", "Sized", "mlp", "Example"]
    models = Worker(*[double(name) for name in names], warm_up=True).models
    for name in ("words", "letters", "sums", "lists", "pixels", "example"):
        assert [rows for rows, _ in models[name]["latency"]] == [1, 2, 4, 8, 16, 32, 64], name
    assert [rows for rows, _ in models["sized"]["latency"]] == [2, 4, 8]
    assert [models[name]["latency_elements"] for name in ("sums", "pixels", "words")] == [17, 16 * 16 * 3, 1]
    assert models["mlp"]["latency"] == []  # it declares nothing, so nobody knows what to run


def test_a_replacement_measures_nothing() -> None:
    """Its predecessor has said it all; only the example is tried."""
    models = Worker(double("Words"), double("Sums")).models
    assert models["words"]["latency"] == models["sums"]["latency"] == []
    assert models["words"]["outputs"] == [["count", "ANY", []], ["even", "ANY", []]]


def test_only_a_first_worker_is_told_to_measure() -> None:
    """The executor knows which of its workers is a replacement."""

    class Heard:
        def __init__(self) -> None:
            self.ready: list[Any] = []

        def on_started(self, worker: int, pid: int) -> None: ...

        def on_packet(self, worker: int, message: list[Any]) -> None:
            self.ready.append([worker, message[2][0]["latency"] != []])

        def on_exit(self, worker: int) -> None: ...

    async def lives() -> list[Any]:
        heard = Heard()
        executor = InlineExecutor()
        settings = Settings(models=(double("Words"),), arena_mib=4)
        await executor.start(heard, Region.create("slab", 4096))
        for worker, warm_up in ((0, True), (0, False), (1, True)):
            executor.spawn(worker, "cpu", settings, warm_up)
            await asyncio.sleep(0)
        await executor.close()
        return heard.ready

    assert asyncio.run(lives()) == [[0, True], [0, False], [1, True]]


def test_a_model_that_cannot_run_large_batches_is_measured_up_to_there() -> None:
    """It is not refused: the scheduler learns its ceiling when it meets it."""
    worker = Worker(double("Hungry", rows=4), warm_up=True)
    assert [rows for rows, _ in worker.models["hungry"]["latency"]] == [1, 2, 4]


def test_a_model_that_cannot_run_zeros_is_served_unmeasured(tmp_path: Path) -> None:
    """What was made up says nothing about what callers send."""
    path = tmp_path / "fussy.py"
    path.write_text(
        "class Fussy:\n    inputs = {'x': ('FP32', (2,))}\n\n    def forward(self, batch):\n"
        "        assert batch['x'].any()\n        return batch\n"
    )
    assert Worker(ModelConfig("fussy", f"{path}:Fussy"), warm_up=True).models["fussy"]["latency"] == []


@pytest.mark.parametrize("stage", ["preprocess", "forward"])
@pytest.mark.parametrize("warm_up", [True, False])
def test_a_model_that_fails_on_its_own_example_is_refused(tmp_path: Path, stage: str, warm_up: bool) -> None:
    """Whether anything is measured or not."""
    path = tmp_path / "broken.py"
    path.write_text(
        f"class Broken:\n    example = {{'text': 'a'}}\n    inputs = {{'text': ('STRING', ())}}\n\n"
        "    def preprocess(self, text):\n        return self.fail('preprocess') or text\n\n"
        "    def forward(self, batch):\n        self.fail('forward')\n        return [{} for _ in batch]\n\n"
        f"    def fail(self, stage):\n        if stage == {stage!r}:\n            raise ValueError('on purpose')\n"
    )
    first = Worker(ModelConfig("broken", f"{path}:Broken"), warm_up=warm_up).first
    assert first[0] == b.REFUSED and "on purpose" in first[3] + first[5]


def test_the_warm_up_ends_when_its_time_is_over() -> None:
    """A slow model is not kept from serving by being measured at every size."""
    now = 0.0

    def trial(rows: int) -> float:
        nonlocal now
        now += 0.3 * rows
        return 0.3 * rows

    assert warmup.measure(64, (), trial, lambda: now) == [(1, 0.3), (2, 0.6), (4, 1.2)]


def test_a_model_may_refuse_the_warm_up() -> None:
    """`warm_up = False`, for one whose calls count."""
    assert Worker(double("Slow"), warm_up=True).models["slow"]["latency"] == []


def test_a_description_says_what_the_scheduler_needs(tmp_path: Path) -> None:
    """Version and objective are passed on as they are declared."""
    path = tmp_path / "told.py"
    path.write_text(
        "class Told:\n    objective_ms = 50\n    version = 3\n    length_buckets = True\n\n"
        "    def forward(self, batch):\n        return batch\n"
    )
    worker = Worker(ModelConfig("told", f"{path}:Told"), double("Sums"), double("Lists"), warm_up=True)
    told = worker.models["told"]
    assert (told["objective_ms"], told["version"], told["length_buckets"]) == (50.0, "3", True)
    assert worker.models["sums"]["padding"] == ["x"] and not worker.models["sums"]["ragged"]
    assert worker.models["lists"]["padding"] == [] and worker.models["lists"]["ragged"]
    assert worker.models["sums"]["objective_ms"] is None and worker.models["sums"]["version"] is None
