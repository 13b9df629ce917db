"""T5: the device answers with errors from here on (a sticky CUDA error). On a GPU by a real device-side assert,
elsewhere by the exception that torch would raise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inferd.errors import DeviceUnavailable
from inferd.work import device
from tests.faults import models, procfs
from tests.faults.world import World, told


def test_a_worker_whose_device_broke_says_nothing_more(world: World, tmp_path: Path) -> None:
    """It exits within a second and is replaced; its whole batch runs again there, and every answer is right."""
    breaks = tmp_path / "breaks"
    served = world.serve(told(pause_s=0.02, break_once=str(breaks)), workers=1)
    served.repeats.add("device_broken")  # each worker says it once, and each time it is another worker
    exits = []
    with world.caller(served) as caller:
        caller.call()
        for _ in range(world.scale(2, 20)):
            [worker] = served.workers()
            breaks.touch()
            calls = [caller.send() for _ in range(8)]
            world.until(lambda: not breaks.exists(), every_s=0.001)
            world.until(lambda: not procfs.is_alive(worker), timeout_s=1.0, every_s=0.001)  # noqa: B023 (asked here)
            caller.finish()
            assert [call.outcome for call in calls] == ["RESULT"] * 8
            assert served.workers() != [worker]
            exits.append(max(call.took_s for call in calls))
    [*records] = served.log("worker_lost")
    assert {record["status"] for record in records} == {"status 4"}
    assert served.log("device_broken"), "the worker's last word is in the log"
    world.report("batch answered by the next worker, longest", max(exits) * 1000, "ms")


def test_a_request_that_breaks_the_device_is_given_up(world: World) -> None:
    """It costs two workers, and those who were in its batch nothing."""
    served = world.serve(told(pause_s=0.02), workers=1)
    with world.caller(served) as caller:
        calls = [caller.send() for _ in range(4)]
        guilty = caller.send(models.BREAK_DEVICE)
        caller.finish()
        assert guilty.outcome == "POISONED"
        assert [call.outcome for call in calls] == ["RESULT"] * 4
    assert [worker["deaths"] for worker in served.status()["workers"]] == [2]


def test_a_device_that_computes_wrong_gets_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before READY a product whose sum is known is computed; a wrong sum, or an error, is DeviceUnavailable."""
    device.probe(torch.device("cpu"))
    right = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: right(a, b) + 1)
    with pytest.raises(DeviceUnavailable, match="computes wrong"):
        device.probe(torch.device("cpu"))

    def broken(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure (made up by a test)")

    monkeypatch.setattr(torch.Tensor, "__matmul__", broken)
    with pytest.raises(DeviceUnavailable, match="cannot multiply"):
        device.probe(torch.device("cpu"))
