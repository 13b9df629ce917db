"""T4g: the GPU's memory runs out."""

from __future__ import annotations

import subprocess

import pytest

from tests.faults import models
from tests.faults.world import World, told
from tests.running import DEVICE

pytestmark = pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="T4g needs a GPU: TEST_DEVICE=cuda")


def used_mib(pid: int) -> int:
    """What the driver says a process has of its GPU's memory."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(int(used) for row, used in (line.split(",") for line in rows) if int(row) == pid)


def test_a_batch_that_does_not_fit_the_gpu_is_halved(world: World) -> None:
    """Eight rows that fit by two are answered, all of them; one that does not fit alone gets RESOURCE_EXHAUSTED; the
    same worker serves on, and what torch had reserved goes back."""
    served = world.serve(told(pause_s=0.02, memory_fraction=0.1, warm_up=False), workers=1)
    served.expects.add("request_failed")
    [worker] = served.workers()
    with world.caller(served) as caller:
        caller.call()
        before = used_mib(worker)
        calls = [caller.send(models.GROW) for _ in range(8)]
        caller.finish()
        assert [call.outcome for call in calls] == ["RESULT"] * 8
        assert caller.call(models.ALLOCATE).outcome == "DEVICE_MEMORY"
        assert caller.call().outcome == "RESULT"
    assert served.workers() == [worker]
    after = used_mib(worker)
    assert after <= before * 1.02
    world.report("GPU memory before and after", after / before, "ratio")
