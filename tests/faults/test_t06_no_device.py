"""T6: the GPU that was asked for is not there."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

from inferd.errors import EXIT_NO_DEVICE
from tests.faults.world import World, told
from tests.running import DEVICE

# No GPU is to be seen, whatever the machine has.
HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}


def test_a_gpu_that_is_not_there_ends_the_start(world: World, tmp_path: Path) -> None:
    """Exit status 69 and a sentence that says what to do, in the log and in the service's status: never a silent fall
    back to the CPU."""
    began = time.monotonic()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    environment = {**HIDDEN, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    served = world.serve(told(), device="cuda", environment=environment, settle=False)
    served.ends_by_itself = True
    assert served.process.wait(30) == EXIT_NO_DEVICE
    world.report("ended after", time.monotonic() - began, "s")
    said = served.log_path.read_text()
    why = "cuda was asked for and no CUDA device can be used"
    assert why in said and "--device cpu" in said
    words = []
    with manager:
        manager.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                words.append(manager.recv(4096).decode())
    assert not any("READY=1" in word for word in words)
    assert any(word.startswith("STATUS=failed") and why in word for word in words), words


def test_auto_takes_the_cpu_when_there_is_no_gpu(world: World) -> None:
    """What was not asked for by name is not missed."""
    served = world.serve(told(), device="auto", environment=HIDDEN)
    assert [worker["device"] for worker in served.status()["workers"]] == ["cpu"]
    assert DEVICE != "cpu" or served.log("worker_ready")[0]["device"] == "cpu"
    with world.caller(served) as caller:
        assert caller.call().outcome == "RESULT"
