"""One batch on its way through the model: preprocess each, forward all, postprocess each, write each."""

from __future__ import annotations

import bisect
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from inferd import log
from inferd.errors import RequestError, make
from inferd.wire import batch as b
from inferd.wire.tensor import aligned
from inferd.work import inputs, outputs
from inferd.work import rows as rows_of
from inferd.work.inputs import Padding, Requests
from inferd.work.loader import Served
from inferd.work.outputs import OutputError

# A cut: the dimension of an item, and each row's own size in it.
Cut = tuple[int, list[int]]

if TYPE_CHECKING:
    from inferd.work.runner import Runner


def text_of(error: BaseException) -> str:
    """What an exception says of itself. One of a model's can fail in that, too."""
    try:
        return str(error)
    except Exception:
        return "<no text: its __str__ fails>"


def detail_of(error: BaseException) -> str:
    """The end of its traceback, for the log."""
    return b.escaped("".join(traceback.format_exception(error)))[-b.MAX_DETAIL_CHARS :]


class Ambiguous(OutputError):
    """An output that is to be cut has the padded length of several inputs whose rows have different lengths. With fewer
    rows it can be told whose it is; of one row nothing is cut."""


class Failure:
    """One row that failed alone, in the place of its result."""

    __slots__ = ("detail", "reason")

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail


class Run:
    """One batch on its way through the model."""

    def __init__(
        self,
        runner: Runner,
        served: Served,
        tables: list[inputs.Table],
        requests: Requests,
        prepared: dict[int, list[Any]] | None = None,
    ) -> None:
        self._runner = runner
        self._prepared = prepared or {}
        self._slab = runner._slab
        self._arena = runner._arena
        self._served = served
        self._tables = tables
        self._requests = requests
        self._written: list[int] = []  # (offset, bytes) in the arena, in case it has to be given up
        self.heads: list[bytes] = []
        self.outcomes: list[int] = []
        self.failures: list[tuple[int, str, str]] = []
        self.wrote_inputs = False
        self.padding = Padding()
        # Elements that requests brought, and elements that were computed, of what was padded.
        self._real = self._computed = 0.0
        self._preprocess_s = 0.0
        self._preprocessed = 0  # rows
        self.overlaps = True  # whether preprocess beside it would have cost it nothing

    def compute(self) -> None:
        """Runs the batch, and notices when the model writes into what it was given: its inputs lie where the loop
        process put them, and would be wrong if they had to run again."""
        memory, served = self._slab.bytes, self._served
        version = memory._version
        try:
            self._compute()
        finally:
            if memory._version != version:
                self.wrote_inputs = True
                if not served.writes_inputs:
                    served.writes_inputs = True
                    log.event("model_writes_inputs", model=served.name, effect="its inputs are copied from now on")

    def _compute(self) -> None:
        """Groups what can run together, and runs each group. Mostly there is one group: the whole batch."""
        requests = self._requests
        if not self._served.takes_values and not any(requests.has_values):
            offsets = requests.offset
            members: Sequence[int] = range(len(requests))
            if len(offsets) > 1 and (ordered := sorted(offsets)) != offsets:
                # In the order of their places they may be one view; the order of a batch is nobody's.
                members = sorted(members, key=offsets.__getitem__)
                requests = requests.chosen(members)
                requests.offset = ordered
            self._compute_group(members, requests, {})
            return
        values: dict[int, dict[str, Any]] = {}
        groups: dict[tuple[str, ...], list[int]] = {}
        for index in range(len(requests)):
            try:
                values[index] = found = self._values(index)
            except RequestError as error:
                self._fail(index, error.reason, error.message)
            else:
                groups.setdefault(tuple(sorted(found)), []).append(index)
        for names, chosen in groups.items():
            columns = {name: self._column(name, chosen, values) for name in names}
            self._compute_group(chosen, requests.chosen(chosen), columns)

    def _values(self, index: int) -> dict[str, Any]:
        requests, served = self._requests, self._served
        table, rows = self._tables[requests.table[index]], requests.rows[index]
        found: dict[str, Any] = {}
        if requests.has_values[index]:
            found = inputs.values(self._slab, table, rows, requests.offset[index], requests.nbytes[index])
        names = {tensor.name for tensor in table}
        for name in found:
            if name in names:
                raise make("TENSOR", field=name, problem="is both a tensor and a value")
        if served.inputs is not None:
            problem = inputs.check_values(served.name, served.inputs, found, rows)
            if problem is not None:
                raise problem
        return found

    def _column(self, name: str, members: list[int], values: dict[int, dict[str, Any]]) -> list[Any]:
        column: list[Any] = []
        for index in members:
            value = values[index][name]
            if self._requests.rows[index]:
                column.extend(value)
            else:
                column.append(value)
        return column

    def _compute_group(self, members: Sequence[int], requests: Requests, columns: dict[str, list[Any]]) -> None:
        served = self._served
        self.padding = padding = Padding()
        if served.variable:
            pad_with = None if served.as_items else served.padding
            batch = inputs.batch_of(self._slab, self._tables, requests, served.variable, pad_with, padding)
        else:
            batch = inputs.tensors(self._slab, self._tables, requests)
        batch.update(columns)
        alone = not any(requests.rows)
        rows = len(requests) if alone else sum(requests.items())
        if served.by_row:
            self._write_results(members, requests, self.results(batch, rows, self._ready(members, requests)))
            return
        found = self.columns(batch, rows)
        if isinstance(found, list):
            self._write_results(members, requests, found)
            return
        cuts = self._cuts(found)
        if alone and (self._write_cut(members, found, cuts) if cuts else self._write_rows(members, found, rows)):
            return
        self._write_slices(members, requests, rows_of.cut_back(found, cuts) if cuts else found)

    # ---- the model

    def columns(self, batch: Any, rows: int) -> dict[str, Any] | list[Any]:
        """The batch through the model's forward, however many calls that takes: a dict of [rows, …] tensors and lists,
        or a list of `rows` results."""
        served = self._served
        if rows <= served.max_batch_size:
            found, computed = self._call(batch, rows)
        else:
            computed = 0
            pieces = []
            for start in range(0, rows, served.max_batch_size):
                end = min(start + served.max_batch_size, rows)
                piece, more = self._call(rows_of.part(batch, start, end), end - start)
                pieces.append(piece)
                computed += more
            found = rows_of.concatenate(pieces)
        padding = self.padding
        if padding.lengths:
            self._real += padding.real
            self._computed += padding.padded * computed / rows
        elif computed != rows:
            self._real += rows
            self._computed += computed
        return found

    def _call(self, batch: Any, rows: int) -> tuple[dict[str, Any] | list[Any], int]:
        """One call of forward, at a batch size that the model allows; and that size."""
        sizes = self._served.batch_sizes
        if not sizes:
            return outputs.as_columns(self._forward(batch), rows), rows
        allowed = sizes[bisect.bisect_left(sizes, rows)]
        found = outputs.as_columns(self._forward(rows_of.fill_up(batch, allowed - rows)), allowed)
        if allowed == rows:
            return found, rows
        if isinstance(found, list):
            return found[:rows], allowed
        return {name: column[:rows] for name, column in found.items()}, allowed

    def _cuts(self, found: dict[str, Any]) -> dict[str, list[Cut]]:
        """Which outputs are to be cut back to each row's own length: those declared with −1 where a padded input has
        it, if they have its length. Raises Ambiguous."""
        padding = self.padding
        cuts: dict[str, list[Cut]] = {}
        if padding.even:
            return cuts
        for spec in self._served.outputs or ():
            column = found.get(spec.name)
            if not isinstance(column, torch.Tensor) or column.ndim != len(spec.shape) + 1:
                continue
            for dim, size in enumerate(spec.shape):
                if size == -1 and dim in padding.lengths:
                    fitting = [own for own, longest in padding.lengths[dim] if column.shape[dim + 1] == longest]
                    if len(fitting) > 1:
                        raise Ambiguous(f"output {spec.name!r} has the padded length of several inputs")
                    if fitting:
                        cuts.setdefault(spec.name, []).append((dim, fitting[0]))
        return cuts

    def _forward(self, batch: Any) -> Any:
        served = self._served
        device = self._runner.device
        if isinstance(batch, dict):
            if device.type != "cpu":
                batch = {
                    name: rows_of.each(column, lambda t: t.to(device, non_blocking=True))
                    for name, column in batch.items()
                }
            elif served.writes_inputs:
                batch = {name: rows_of.each(column, torch.Tensor.clone) for name, column in batch.items()}
        return served.forward(batch)

    def results(self, batch: dict[str, Any], rows: int, ready: dict[int, Any]) -> list[Any]:
        """A result for each row: an exception where that row alone failed. `ready`: rows whose preprocess has run."""
        served = self._served
        results: list[Any] = [None] * rows
        if served.preprocess is None:
            self._spread(results, range(rows), self.columns(batch, rows))
        else:
            items: list[Any] = [None] * rows
            kinds: dict[Any, list[int]] = {}
            with served.preprocessing:
                started = time.perf_counter()
                for row in range(rows):
                    if row in ready:
                        items[row] = ready[row]
                    else:
                        self._preprocessed += 1
                        try:
                            items[row] = served.preprocess(**self._row(batch, row, served.writes_inputs))
                        except BaseException as error:
                            results[row] = Failure(self._runner.reason(error, "INPUT_REJECTED"), detail_of(error))
                            continue
                    kinds.setdefault(rows_of.kind(items[row], served), []).append(row)
                self._preprocess_s += time.perf_counter() - started
            for kind, members in kinds.items():
                self._results_of_kind(results, members, items, kind is not None)
        if served.postprocess is not None:
            for row, result in enumerate(results):
                if not isinstance(result, Failure):
                    try:
                        results[row] = served.postprocess(result)
                    except BaseException as error:
                        results[row] = Failure(self._runner.reason(error), detail_of(error))
        return results

    def _results_of_kind(self, results: list[Any], members: list[int], items: list[Any], stacks: bool) -> None:
        """The results of those rows, whose items were preprocessed to one kind."""
        self.padding = Padding()
        chosen = [items[row] for row in members]
        try:
            collated = rows_of.collate(chosen, self._served, self.padding) if stacks else chosen
            self._spread(results, members, self.columns(collated, len(members)))
        except Ambiguous:
            if len(self._requests) > 1:
                raise  # the daemon runs the halves of the batch
            middle = len(members) // 2
            for half in (members[:middle], members[middle:]):
                self._results_of_kind(results, half, items, stacks)

    @staticmethod
    def _row(batch: dict[str, Any], row: int, own: bool) -> dict[str, Any]:
        """One row's inputs; `own`: copies, which preprocess may write into."""
        one = {name: column[row] for name, column in batch.items()}
        if own:
            return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in one.items()}
        return one

    def _ready(self, members: Sequence[int], requests: Requests) -> dict[int, Any]:
        """The rows of these requests that were prepared ahead."""
        ready: dict[int, Any] = {}
        if self._prepared:
            start = 0
            for index, items in zip(members, requests.items(), strict=True):
                ready.update(enumerate(self._prepared.get(index, ()), start))
                start += items
        return ready

    def prepare(self, index: int) -> list[Any]:
        """What preprocess makes of each row of one request. Raises what it raises."""
        served = self._served
        assert served.preprocess is not None
        values = {} if not (served.takes_values or self._requests.has_values[index]) else self._values(index)
        batch = inputs.batch_of(
            self._slab, self._tables, self._requests.chosen([index]), served.variable, None, self.padding
        )
        batch.update((name, self._column(name, [index], {index: values})) for name in values)
        # Copies: what this writes into the slab would be taken for the doing of the batch that runs.
        rows = range(self._requests.rows[index] or 1)
        with served.preprocessing:
            return [served.preprocess(**self._row(batch, row, own=True)) for row in rows]

    def _spread(self, results: list[Any], members: Sequence[int], found: dict[str, Any] | list[Any]) -> None:
        if isinstance(found, list):
            for row, result in zip(members, found, strict=True):
                results[row] = result
            return
        host = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in found.items()}
        if cuts := self._cuts(found):
            host = rows_of.cut_back(host, cuts)
        for at, row in enumerate(members):
            results[row] = {name: column[at] for name, column in host.items()}

    # ---- the results

    def _write_rows(self, members: Sequence[int], found: dict[str, Any], rows: int) -> bool:
        """The short way, for single items of nothing but tensors; False when it cannot be gone."""
        if not found:
            return False
        for column in found.values():
            if not isinstance(column, torch.Tensor):
                return False
        written = self._arena.write_rows(found, rows)
        if written is None:
            return False
        head, offset, nbytes, stride = written
        self._written += (offset, rows * stride)
        # Five numbers for each request, written column by column.
        numbers = [0] * (rows * b.NUMBERS_PER_OUTCOME)
        numbers[0::5] = members
        numbers[1::5] = [self._head(head)] * rows
        numbers[2::5] = range(offset, offset + rows * stride, stride) if stride else [offset] * rows
        numbers[3::5] = [nbytes] * rows
        self.outcomes += numbers
        return True

    def _write_cut(self, members: Sequence[int], found: dict[str, Any], cuts: dict[str, list[Cut]]) -> bool:
        """The short way for sequences that were padded; False when it cannot be gone."""
        lengths: list[int] | None = None
        for name, column in found.items():
            if not isinstance(column, torch.Tensor):
                return False
            if name in cuts:
                [(dim, own), *others] = cuts[name]
                if dim or others or (lengths is not None and own is not lengths):
                    return False
                lengths = own
        assert lengths is not None
        written = self._arena.write_cut(found, set(cuts), lengths)
        if written is None:
            return False
        for index, (head, offset, nbytes) in zip(members, written, strict=True):
            self._written += (offset, aligned(nbytes))
            self.outcomes += (index, self._head(head), offset, nbytes, 0)
        return True

    def _write_slices(self, members: Sequence[int], requests: Requests, found: dict[str, Any]) -> None:
        found = {name: column.cpu() if isinstance(column, torch.Tensor) else column for name, column in found.items()}
        start = 0
        for index, rows in zip(members, requests.rows, strict=True):
            if rows:
                own = {name: column[start : start + rows] for name, column in found.items()}
                try:
                    result = {name: rows_of.stacked(name, column) for name, column in own.items()}
                except OutputError as error:
                    self._fail(index, "OUTPUT_INVALID", str(error))
                else:
                    self._write(index, result)
            else:
                self._write(index, {name: column[start] for name, column in found.items()})
            start += rows or 1

    def _write_results(self, members: Sequence[int], requests: Requests, results: list[Any]) -> None:
        start = 0
        for index, rows in zip(members, requests.rows, strict=True):
            own = results[start : start + (rows or 1)]
            start += rows or 1
            failure = next((result for result in own if isinstance(result, Failure)), None)
            if failure is not None:
                self._fail(index, failure.reason, failure.detail)
                continue
            try:
                joined = rows_of.join(own) if rows else own[0]
            except OutputError as error:
                self._fail(index, "OUTPUT_INVALID", str(error))
            else:
                self._write(index, joined)

    def _write(self, index: int, result: Any) -> None:
        try:
            head, offset, nbytes, flags = self._arena.write(result)
        except OutputError as error:
            self._fail(index, "OUTPUT_INVALID", str(error))
        except RequestError as error:
            self._fail(index, error.reason, error.message)
        else:
            self._written += (offset, aligned(nbytes))
            self.outcomes += (index, self._head(head), offset, nbytes, flags)

    def _head(self, head: bytes) -> int:
        try:
            return self.heads.index(head)
        except ValueError:
            self.heads.append(head)
            return len(self.heads) - 1

    def _fail(self, index: int, reason: str, detail: str) -> None:
        self.failures.append((index, reason, b.escaped(detail)[: b.MAX_DETAIL_CHARS]))

    def give_up(self) -> None:
        """Nothing that was written will be sent."""
        for at in range(0, len(self._written), 2):
            if self._written[at + 1]:
                self._arena.extents.give(self._written[at], self._written[at + 1])
        self._written = []

    def fail_all(self, reason: str, detail: str) -> None:
        """Every request of the batch fails."""
        self.outcomes = []
        self.failures = [(index, reason, detail) for index in range(len(self._requests))]

    def take_finished(self, batch_id: int, compute_us: int = 0, more: bool = False) -> list[bytes]:
        """The packets that say what is finished and has not been said yet."""
        padded = round(1 - self._real / self._computed, 3) if self._computed else 0.0
        preprocess_us = 0.0
        if self._preprocessed and self.overlaps:
            preprocess_us = self._preprocess_s / self._preprocessed * 1e6
        packets = b.pack_done(
            batch_id,
            self.heads,
            self.outcomes,
            self.failures,
            compute_us,
            preprocess_us,
            padded,
            self._arena.extents.used,
            more,
        )
        self.heads, self.outcomes, self.failures, self._written = [], [], [], []
        return packets
