"""The executors' conformance suite, the faults and the policy, with the workers on a CUDA device: `make gpu-test`."""

from __future__ import annotations

import os
import subprocess
import sys

import torch


def main() -> int:
    """pytest's exit status; 0 with a plain word when there is no device."""
    if not torch.cuda.is_available():
        print(f"no CUDA device can be used here (torch {torch.__version__}): nothing was tested")
        return 0
    print(f"testing on {torch.cuda.get_device_name()} with torch {torch.__version__}", flush=True)
    command = [sys.executable, "-m", "pytest", "tests/serve", *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, "TEST_DEVICE": "cuda"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
