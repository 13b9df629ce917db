"""The virtual device behind mosec, for overload.py: python mosec_virtual.py ALPHA BETA BATCH WAIT_MS [mosec's options].

Runs in an environment of its own, with mosec and without inferd; the device's file is loaded from where it lies.
Bodies are four bytes, in and out as they are, so that no codec is measured.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from mosec import Server, Worker  # type: ignore[import-not-found,unused-ignore]

if __name__ == "__main__":
    os.environ["VIRTUAL_DEVICE"] = " ".join(sys.argv[1:5])  # the workers, which are spawned, see mosec's options only
    del sys.argv[1:5]
ALPHA, BETA, BATCH, WAIT_MS = (float(word) for word in os.environ["VIRTUAL_DEVICE"].split())
_SPEC = importlib.util.spec_from_file_location("virtual", Path(__file__).parents[1] / "inferd/models/virtual.py")
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


class Virtual(Worker):  # type: ignore[misc,unused-ignore]
    """α + β·b ms."""

    def __init__(self) -> None:
        super().__init__()
        self.device = _MODULE.Virtual(ALPHA, BETA)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        return self.device.forward({"x": data})["y"]  # type: ignore[no-any-return]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Virtual, num=1, max_batch_size=int(BATCH), max_wait_time=int(WAIT_MS))
    server.run()
