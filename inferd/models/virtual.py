"""`virtual`: a device that is not there. A batch of b sleeps α + β·b milliseconds and burns no CPU.

It makes a GPU's scheduling measurable on two cores, and the same class can be put behind any other server.
"""

from __future__ import annotations

import random
import time
from typing import Any


class Virtual:
    """The accelerator double: l(b) = alpha_ms + beta_ms · b, times log-normal noise of the given σ.

    Takes one FP32 value `x` and gives it back as `y`, so that answers can be told apart.
    """

    inputs = {"x": ("FP32", (1,))}
    outputs = {"y": ("FP32", (1,))}

    def __init__(
        self, alpha_ms: float = 5.0, beta_ms: float = 1.0, max_batch_size: int = 64, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.alpha_ms = alpha_ms
        self.beta_ms = beta_ms
        self.max_batch_size = max_batch_size
        self.noise = noise
        self._random = random.Random(seed)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`x` of shape [rows, 1] after α + β·rows milliseconds, as `y`."""
        x = batch["x"]
        duration_ms = self.alpha_ms + self.beta_ms * len(x)
        if self.noise:
            duration_ms *= self._random.lognormvariate(0.0, self.noise)
        time.sleep(duration_ms / 1000)
        return {"y": x}
