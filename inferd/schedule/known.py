"""What is known of all lanes: how long their batches take, and how large they may be.

A lane comes and goes with its tickets; what was learned of it stays, up to a bound, because shapes come from callers
and must not fill memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from inferd.schedule.latency import Latency

MAX_LATENCIES = 1024
# So many full batches under a ceiling before a larger one is tried; twice as many after each that failed.
CEILING_PATIENCE = 256


class Ceiling:
    """How many rows a lane's batches may have since the device had no memory for more; raised after `patience` batches
    of so many, of which there were `full`. `proven` is the most that have run."""

    __slots__ = ("full", "patience", "proven", "rows")

    def __init__(self, rows: int, patience: int) -> None:
        self.rows = rows
        self.patience = patience
        self.full = 0
        self.proven = 0


class Known:
    """Of all lanes of all models. A lane's key is a tuple that opens with its model."""

    def __init__(self) -> None:
        self.latencies: dict[Hashable, Latency] = {}
        self._priors: dict[Hashable, Latency] = {}
        self._ceilings: dict[Hashable, Ceiling] = {}

    # ---- how long

    def teach(self, model: Hashable, measured: list[tuple[int, float]], sizes: Sequence[int] = ()) -> None:
        """(rows, seconds) of the warm-up: what batches of a model take until its lanes know better. `sizes`: the only
        ones it computes, ascending."""
        prior = self._priors[model] = Latency(sizes=sizes)
        for _ in range(4):
            for rows, seconds in measured:
                prior.observe(rows, seconds)

    def forget(self, model: Hashable) -> None:
        """The model is served no longer."""
        self._priors.pop(model, None)
        for found in (self.latencies, self._ceilings):
            for key in [key for key in found if isinstance(key, tuple) and key[0] == model]:
                del found[key]

    def latency(self, lane: Hashable, weight: float = 1.0) -> Latency:
        """Of a lane's batches; `weight` is that of its rows."""
        latency = self.latencies.get(lane)
        if latency is None:
            if len(self.latencies) >= MAX_LATENCIES:
                self._forget()
            model = lane[0] if isinstance(lane, tuple) else lane
            prior = self._priors.get(model)
            sizes = prior.sizes if prior is not None else ()
            latency = self.latencies[lane] = Latency(prior, sizes, weight)
        return latency

    def _forget(self) -> None:
        """The lanes that ran longest ago make room."""
        for key in sorted(self.latencies, key=lambda key: self.latencies[key].ran_at)[: MAX_LATENCIES // 2]:
            del self.latencies[key]  # a lane that has work holds its own
        for key in list(self._ceilings)[: max(0, len(self._ceilings) - MAX_LATENCIES // 2)]:
            del self._ceilings[key]

    def table(self, model: Hashable, largest: int) -> list[tuple[int, float, float]]:
        """(rows, mean, planned) seconds of a model's batches: of its most experienced lane, else of the warm-up."""
        lanes = [latency for key, latency in self.latencies.items() if isinstance(key, tuple) and key[0] == model]
        best = max(lanes, key=lambda latency: latency.seen, default=self._priors.get(model))
        return best.table(largest) if best is not None and best.known else []

    # ---- how many

    def largest(self, lane: Hashable, max_rows: int) -> int:
        """How many rows a batch of the lane may have, of at most `max_rows`."""
        ceiling = self._ceilings.get(lane)
        return max_rows if ceiling is None else min(max_rows, ceiling.rows)

    def out_of_memory(self, lane: Hashable, rows: int) -> int:
        """The device had no memory for so many. Returns how many the lane may have from here on."""
        known = self._ceilings.get(lane)
        fewer, patience = max(1, rows // 2), CEILING_PATIENCE
        if known is not None:
            # More has been tried too soon: back to what has run, and the next trial is so much later.
            fewer = known.proven if fewer < known.proven < rows else min(fewer, known.rows)
            patience = 2 * known.patience
        self._ceilings[lane] = Ceiling(fewer, patience)
        return fewer

    def forgive(self, lane: Hashable, rows: int, max_rows: int) -> None:
        """It was not how many they were: the lane may have `rows` again, as before."""
        ceiling = self._ceilings.get(lane)
        if ceiling is not None:
            if rows >= max_rows:
                del self._ceilings[lane]
            else:
                ceiling.rows = rows

    def ran(self, lane: Hashable, rows: int, max_rows: int, seconds: float) -> int | None:
        """A batch has run. Returns how many rows the lane may have from here on, if that has changed: after enough full
        batches under a ceiling an eighth more is tried, since the memory may have been another's and be free again."""
        self.latency(lane).observe(rows, seconds)
        ceiling = self._ceilings.get(lane)
        if ceiling is None or rows < ceiling.rows:
            return None
        ceiling.proven = ceiling.rows
        ceiling.full += 1
        if ceiling.full < ceiling.patience:
            return None
        ceiling.full = 0
        ceiling.rows = min(ceiling.rows + max(1, ceiling.rows // 8), max_rows)
        if ceiling.rows == max_rows:
            del self._ceilings[lane]
        return ceiling.rows
