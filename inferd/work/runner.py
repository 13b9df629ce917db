"""One packet in, one packet out: everything a worker does but the waiting.

The worker process and the inline executor run this same class, so what a test sees in one process is what happens in
two.
"""

from __future__ import annotations

import bisect
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from inferd import log
from inferd.config import ModelConfig
from inferd.errors import DeviceUnavailable, ModelLoadError, RequestError, make
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.wire.tensor import Spec, aligned
from inferd.work import device as devices
from inferd.work import inputs, outputs, warmup
from inferd.work.inputs import Padding, Requests
from inferd.work.loader import Served, definition, load_model, location, location_in
from inferd.work.outputs import Arena, OutputError

# A dimension of an output, and how much of it each row keeps.
Cut = tuple[int, list[int]]


class DeviceBroken(Exception):
    """The device answers with errors whatever is asked of it; only a new process can use it again."""


class Runner:
    """A device with every model loaded on it.

    `slab` holds the requests' payloads, `arena` takes the results; `wait_for_room` blocks until the loop process has
    given parts of the arena back (through `give_back`). It is handed packets to send first: what is finished of the
    batch, since those who wait for it may be the ones to make room.
    """

    def __init__(self, device: str, slab: Region, arena: Region, wait_for_room: Callable[[list[bytes]], None]) -> None:
        self._wanted = device
        self._slab_region = slab
        self._arena_region = arena
        self._wait_for_room = wait_for_room
        self._models: list[Served] = []

    def load(self, configs: list[ModelConfig], warm_up: bool = True) -> bytes:
        """Loads everything; the READY packet, or the REFUSED packet that says why not.

        Without `warm_up` a model's example is run once and nothing is measured: enough for a replacement, whose
        predecessor has said how long batches take.
        """
        name = target = ""
        try:
            self.device = devices.pick(self._wanted)
            self._slab = devices.Memory(self._slab_region, self.device)
            self._arena = Arena(devices.Memory(self._arena_region, self.device))
            for config in configs:
                name, target = config.name, config.target
                served = load_model(config.name, config.target, config.options)
                served.load(self.device)
                self._try_example(served)
                if warm_up and served.warms_up:
                    served.latency = warmup.measure(served.max_batch_size, served.batch_sizes, self._trial(served))
                self._models.append(served)
        except DeviceUnavailable as error:
            return self._refused("device", name, str(error), error)
        except ModelLoadError as error:
            return self._refused("model", name, str(error), error, target)
        except Exception as error:
            message = f"cannot load model {name!r}: {type(error).__name__}: {error}"
            return self._refused("model", name, message, error, target)
        return b.pack(b.READY, str(self.device), [served.describe() for served in self._models])

    def _refused(self, kind: str, name: str, message: str, error: BaseException, target: str = "") -> bytes:
        cause, known = error, ""
        if isinstance(error, ModelLoadError):
            cause, known = error.__cause__ or error, error.location
        where = known or location(cause, target.rpartition(":")[0]) or definition(target)
        if where and where not in message:
            message = f"{where}: {message}"
        detail = "".join(traceback.format_exception(error))[-b.MAX_DETAIL_CHARS :]
        return b.pack(b.REFUSED, *b.LoadFailure(kind, name, message, where, detail))

    def give_back(self, freed: list[int]) -> None:
        """Parts of the arena whose replies have left."""
        self._arena.give_back(freed)

    @property
    def arena_used(self) -> int:
        """Bytes of the arena that hold results which have not left."""
        return self._arena.extents.used

    # ---- one batch

    def run(
        self, batch_id: int, model_index: int, tables: list[Any], numbers: list[int], freed: list[int]
    ) -> list[bytes]:
        """The DONE or RAISED packets for a batch, mostly one. Raises DeviceBroken."""
        started = time.perf_counter()
        if freed:
            self._arena.give_back(freed)
        served = self._models[model_index]
        run = Run(self, served, inputs.parse_tables(tables), Requests.parse(numbers))
        self._arena.wait = lambda: self._wait_for_room(run.take_finished(batch_id, more=True))
        try:
            if (
                torch.is_inference_mode_enabled()
            ):  # a worker enters it once, because that takes a tenth of a small batch
                run.compute()
            else:
                with torch.inference_mode():
                    run.compute()
        except DeviceBroken:
            raise
        except (Exception, SystemExit) as error:
            run.give_up()
            reason = self.reason(error)
            if not run.wrote_inputs:
                return [b.pack(b.RAISED, batch_id, reason, _detail(error))]
            # The inputs are no longer what the callers sent, so nothing of this batch can be tried again.
            run.fail_all(reason, _detail(error))
        return run.take_finished(batch_id, round((time.perf_counter() - started) * 1e6))

    def reason(self, error: BaseException, otherwise: str = "MODEL_FAILED") -> str:
        """What the log and the caller are told of an exception of the model's. Raises DeviceBroken."""
        if isinstance(error, OutputError):
            return "OUTPUT_INVALID"
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return "DEVICE_MEMORY"
        if isinstance(error, getattr(torch, "AcceleratorError", ())):
            raise DeviceBroken(str(error)) from error
        if isinstance(error, RequestError):
            return error.reason
        return otherwise

    # ---- before the first batch

    def _try_example(self, served: Served) -> None:
        """Runs the model's example once: it teaches what is not declared, and a fault shows before READY."""
        if served.example is None:
            return
        given, kept = outputs.sort_out(served.example)
        if served.inputs is None:
            served.inputs = tuple(
                [Spec(k, devices.NAMES[t.dtype], tuple(t.shape)) for k, t in given.items()]
                + [Spec(k, "ANY", ()) for k in kept]
            )
            served.takes_values = bool(kept)
        run = Run(self, served, [], Requests.parse([]))
        with torch.inference_mode():
            [result] = run.results(warmup.batch_of(served, served.example, 1), 1)
        if isinstance(result, Failure):
            said = result.detail.strip().rpartition("\n")[2]
            failure = ModelLoadError(f"model {served.name!r} fails on its own example: {said}")
            failure.location = location_in(result.detail)
            raise failure
        if served.outputs is None:
            found, plain = outputs.sort_out(result)
            served.outputs = tuple(
                [Spec(k, devices.NAMES[t.dtype], tuple(t.shape)) for k, t in found.items()]
                + [Spec(k, "ANY", ()) for k in plain]
            )

    def _trial(self, served: Served) -> Callable[[int], float] | None:
        """What runs a batch of so many rows and says how many seconds it took; None when nothing is known to run."""
        item = served.example if served.example is not None else warmup.made_up(served)
        if item is None:
            return None
        served.latency_elements = max(1, sum(tensor.numel() for tensor in outputs.sort_out(item)[0].values()))

        def trial(rows: int) -> float:
            run = Run(self, served, [], Requests.parse([]))
            batch = warmup.batch_of(served, item, rows)
            started = time.perf_counter()
            try:
                with torch.inference_mode():
                    if served.by_row:
                        failed = next((r for r in run.results(batch, rows) if isinstance(r, Failure)), None)
                        if failed is not None:
                            raise RuntimeError(failed.detail)
                    else:
                        run.columns(batch, rows)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
            except DeviceBroken:
                raise
            except (Exception, SystemExit) as error:
                self.reason(error)
                log.event(
                    "warm_up_stopped", model=served.name, rows=rows, error=f"{type(error).__name__}: {error}"[:500]
                )
                raise warmup.Stop from error
            return time.perf_counter() - started

        return trial


class Run:
    """One batch on its way through the model."""

    def __init__(self, runner: Runner, served: Served, tables: list[inputs.Table], requests: Requests) -> None:
        self._runner = runner
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

    def compute(self) -> None:
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
            self._write_results(members, requests, self.results(batch, rows))
            return
        found = self.columns(batch, rows)
        if isinstance(found, list):
            self._write_results(members, requests, found)
            return
        cuts = self._cuts(found)
        if alone and (self._write_cut(members, found, cuts) if cuts else self._write_rows(members, found, rows)):
            return
        self._write_slices(members, requests, _cut_back(found, cuts) if cuts else found)

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
                piece, more = self._call(_slice(batch, start, end), end - start)
                pieces.append(piece)
                computed += more
            found = _concatenate(pieces)
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
        found = outputs.as_columns(self._forward(_fill_up(batch, allowed - rows)), allowed)
        if allowed == rows:
            return found, rows
        if isinstance(found, list):
            return found[:rows], allowed
        return {name: column[:rows] for name, column in found.items()}, allowed

    def _cuts(self, found: dict[str, Any]) -> dict[str, list[Cut]]:
        """Which outputs are to be cut back to each row's own length: those declared with −1 where a padded input has
        it, if they have its length."""
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
                    own, longest = padding.lengths[dim]
                    if column.shape[dim + 1] == longest:
                        cuts.setdefault(spec.name, []).append((dim, own))
        return cuts

    def _forward(self, batch: Any) -> Any:
        served = self._served
        device = self._runner.device
        if isinstance(batch, dict):
            if device.type != "cpu":
                batch = {
                    name: _each(column, lambda t: t.to(device, non_blocking=True)) for name, column in batch.items()
                }
            elif served.writes_inputs:
                batch = {name: _each(column, torch.Tensor.clone) for name, column in batch.items()}
        memory = self._slab.bytes
        version = memory._version
        try:
            return served.forward(batch)
        finally:
            if memory._version != version:
                self.wrote_inputs = True
                if not served.writes_inputs:
                    served.writes_inputs = True
                    log.event("model_writes_inputs", model=served.name, effect="its batches are copied from now on")

    def results(self, batch: dict[str, Any], rows: int) -> list[Any]:
        """A result for each row: an exception where that row alone failed."""
        served = self._served
        results: list[Any] = [None] * rows
        if served.preprocess is None:
            self._spread(results, range(rows), self.columns(batch, rows))
        else:
            prepared: dict[Any, list[int]] = {}
            items: list[Any] = [None] * rows
            for row in range(rows):
                one = {name: column[row] for name, column in batch.items()}
                try:
                    items[row] = served.preprocess(**one)
                except Exception as error:
                    results[row] = Failure(self._runner.reason(error, "INPUT_REJECTED"), _detail(error))
                else:
                    prepared.setdefault(_kind(items[row], served), []).append(row)
            for kind, members in prepared.items():
                self.padding = Padding()
                chosen = [items[row] for row in members]
                collated = chosen if kind is None else _collate(chosen, served, self.padding)
                self._spread(results, members, self.columns(collated, len(members)))
        if served.postprocess is not None:
            for row, result in enumerate(results):
                if not isinstance(result, Failure):
                    try:
                        results[row] = served.postprocess(result)
                    except Exception as error:
                        results[row] = Failure(self._runner.reason(error), _detail(error))
        return results

    def _spread(self, results: list[Any], members: Sequence[int], found: dict[str, Any] | list[Any]) -> None:
        if isinstance(found, list):
            for row, result in zip(members, found, strict=True):
                results[row] = result
            return
        host = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in found.items()}
        if cuts := self._cuts(found):
            host = _cut_back(host, cuts)
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
                    result = {name: _stacked(name, column) for name, column in own.items()}
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
                joined = _join(own) if rows else own[0]
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
        self.failures.append((index, reason, detail))

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
        packets = b.pack_done(
            batch_id, self.heads, self.outcomes, self.failures, compute_us, padded, self._arena.extents.used, more
        )
        self.heads, self.outcomes, self.failures, self._written = [], [], [], []
        return packets


class Failure:
    """One row that failed alone, in the place of its result."""

    __slots__ = ("detail", "reason")

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def _kind(item: Any, served: Served) -> Any:
    """What preprocess results must have in common to be stacked; None for what is not stacked but listed."""
    if not isinstance(item, dict) or not item:
        return None
    key = []
    for name, value in item.items():
        if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
            shape = tuple(value.shape)
            if shape and served.ragged:
                shape = (-1,)
            elif shape and name in served.padding:
                shape = (-1, *shape[1:])
            key.append((name, str(value.dtype), shape))
        elif isinstance(value, bool | int | float):
            key.append((name, type(value).__name__, ()))
        else:
            return None
    return tuple(key)


def _collate(items: list[dict[str, Any]], served: Served, padding: Padding) -> dict[str, Any]:
    """Dicts of one kind: tensors, arrays or numbers stacked to [rows, …], those in the model's padding padded to the
    longest, those of a ragged model listed."""
    batch: dict[str, Any] = {}
    for name in items[0]:
        column = [torch.as_tensor(item[name]) for item in items]
        if column[0].ndim and served.ragged:
            batch[name] = column
        elif column[0].ndim and name in served.padding:
            batch[name], batch[name + ".lengths"] = inputs.pad_items(column, served.padding[name], padding)
        else:
            batch[name] = torch.stack(column)
    return batch


def _cut_back(found: dict[str, Any], cuts: dict[str, list[Cut]]) -> dict[str, Any]:
    """The columns with their cuts made: those that are cut become lists."""
    columns = dict(found)
    for name, made in cuts.items():
        rows = list(found[name].cpu().unbind(0))
        for dim, own in made:
            rows = [
                row if size == row.shape[dim] else row.narrow(dim, 0, size) for row, size in zip(rows, own, strict=True)
            ]
        columns[name] = rows
    return columns


def _each(column: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A column with `change` made to its tensors."""
    if isinstance(column, torch.Tensor):
        return change(column)
    return [change(value) if isinstance(value, torch.Tensor) else value for value in column]


def _slice(batch: Any, start: int, end: int) -> Any:
    """Some rows of a batch."""
    if isinstance(batch, dict):
        return {name: column[start:end] for name, column in batch.items()}
    return batch[start:end]


def _fill_up(batch: Any, rows: int) -> Any:
    """The batch with `rows` more, which are copies of its first."""
    if not rows:
        return batch
    if not isinstance(batch, dict):
        return [*batch, *batch[:1] * rows]
    return {
        name: torch.cat([column, column[:1].expand(rows, *column.shape[1:])])
        if isinstance(column, torch.Tensor)
        else [*column, *column[:1] * rows]
        for name, column in batch.items()
    }


def _concatenate(pieces: list[dict[str, Any] | list[Any]]) -> dict[str, Any] | list[Any]:
    """What the pieces of a batch led to, as if it had been run at once."""
    first = pieces[0]
    if isinstance(first, list):
        joined: list[Any] = []
        for piece in pieces:
            if not isinstance(piece, list):
                raise OutputError("forward must return the same kind of thing for every batch")
            joined += piece
        return joined
    columns: dict[str, Any] = {}
    for name in first:
        parts = [piece[name] for piece in pieces if isinstance(piece, dict) and name in piece]
        if len(parts) != len(pieces) or any(isinstance(piece, dict) and len(piece) != len(first) for piece in pieces):
            raise OutputError("forward must return the same names for every batch")
        alike = all(
            isinstance(part, torch.Tensor) and (part.dtype, part.shape[1:]) == (parts[0].dtype, parts[0].shape[1:])
            for part in parts
        )
        columns[name] = torch.cat(parts) if alike else [row for part in parts for row in part]
    return columns


def _stacked(name: str, column: Any) -> Any:
    """The column of one request: tensors of its rows as one tensor, values in a list."""
    if isinstance(column, torch.Tensor) or not any(isinstance(row, torch.Tensor) for row in column):
        return column
    if any(not isinstance(row, torch.Tensor) or row.shape != column[0].shape for row in column):
        raise OutputError(f"output {name!r} has a different shape in each row; a request of many rows needs one")
    return torch.stack(list(column))


def _join(results: list[Any]) -> dict[str, Any]:
    """The results of a request of many rows: tensors stacked, values in lists."""
    joined: dict[str, Any] = {}
    sorted_out = [outputs.sort_out(result) for result in results]
    for tensors, values in sorted_out:
        if tensors.keys() != sorted_out[0][0].keys() or values.keys() != sorted_out[0][1].keys():
            raise OutputError("the rows of one request must have results of the same names")
    for name in sorted_out[0][0]:
        column = [tensors[name] for tensors, _ in sorted_out]
        if any(tensor.shape != column[0].shape for tensor in column):
            raise OutputError(f"output {name!r} has a different shape in each row; a request of many rows needs one")
        joined[name] = torch.stack(column)
    for name in sorted_out[0][1]:
        joined[name] = [values[name] for _, values in sorted_out]
    return joined


def _detail(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-b.MAX_DETAIL_CHARS :]
