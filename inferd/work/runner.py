"""One packet in, one packet out: everything a worker does but the waiting.

The worker process and the inline executor run this same class, so what a test sees in one process is what happens in
two.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from inferd import log
from inferd.config import ModelConfig
from inferd.errors import DeviceUnavailable, ModelLoadError, RequestError, make
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.wire.tensor import Spec, aligned
from inferd.work import device as devices
from inferd.work import inputs, outputs
from inferd.work.inputs import Request
from inferd.work.loader import Served, load_model, location
from inferd.work.outputs import Arena, OutputError


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

    def load(self, configs: list[ModelConfig]) -> bytes:
        """Loads everything; the READY packet, or the REFUSED packet that says why not."""
        name = ""
        try:
            self.device = devices.pick(self._wanted)
            self._slab = devices.Memory(self._slab_region, self.device)
            self._arena = Arena(devices.Memory(self._arena_region, self.device))
            for config in configs:
                name = config.name
                served = load_model(config.name, config.target, config.options)
                served.load(self.device)
                self._try_example(served)
                self._models.append(served)
        except DeviceUnavailable as error:
            return self._refused("device", name, str(error), error)
        except ModelLoadError as error:
            return self._refused("model", name, str(error), error)
        except Exception as error:
            return self._refused("model", name, f"cannot load model {name!r}: {type(error).__name__}: {error}", error)
        return b.pack(b.READY, str(self.device), [served.describe() for served in self._models])

    def _refused(self, kind: str, name: str, message: str, error: BaseException) -> bytes:
        detail = "".join(traceback.format_exception(error))[-b.MAX_DETAIL_CHARS :]
        return b.pack(b.REFUSED, *b.LoadFailure(kind, name, message, location(error), detail))

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
        self._arena.give_back(freed)
        served = self._models[model_index]
        run = Run(self, served, inputs.parse_tables(tables), inputs.parse_requests(numbers))
        self._arena.wait = lambda: self._wait_for_room(run.take_finished(batch_id, more=True))
        try:
            with torch.inference_mode():
                run.compute()
        except (Exception, SystemExit) as error:
            run.give_up()
            reason = self._reason(error)
            if not run.wrote_inputs:
                return [b.pack(b.RAISED, batch_id, reason, _detail(error))]
            # The inputs are no longer what the callers sent, so nothing of this batch can be tried again.
            run.fail_all(reason, _detail(error))
        return run.take_finished(batch_id, round((time.perf_counter() - started) * 1e6))

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, OutputError):
            return "OUTPUT_INVALID"
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return "DEVICE_MEMORY"
        if isinstance(error, getattr(torch, "AcceleratorError", ())):
            raise DeviceBroken(str(error)) from error
        if isinstance(error, RequestError):
            return error.reason
        return "MODEL_FAILED"

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
        run = Run(self, served, [], [])
        with torch.inference_mode():
            batch: dict[str, Any] = {name: tensor.unsqueeze(0) for name, tensor in given.items()}
            batch.update({name: [value] for name, value in kept.items()})
            [result] = run.results(batch, 1)
        if served.outputs is None:
            found, plain = outputs.sort_out(result)
            served.outputs = tuple(
                [Spec(k, devices.NAMES[t.dtype], tuple(t.shape)) for k, t in found.items()]
                + [Spec(k, "ANY", ()) for k in plain]
            )


class Run:
    """One batch on its way through the model."""

    def __init__(self, runner: Runner, served: Served, tables: list[inputs.Table], requests: list[Request]) -> None:
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

    def compute(self) -> None:
        """Groups what can run together, and runs each group. Mostly there is one group: the whole batch."""
        whole = range(len(self._requests))
        declared = self._served.inputs
        only_tensors = declared is None or all(spec.is_tensor for spec in declared)
        if only_tensors and not any(request.has_values for request in self._requests):
            self._compute_group(list(whole), {})
            return
        values: dict[int, dict[str, Any]] = {}
        groups: dict[tuple[str, ...], list[int]] = {}
        for index in whole:
            try:
                values[index] = found = self._values(self._requests[index])
            except RequestError as error:
                self._fail(index, error.reason, error.message)
            else:
                groups.setdefault(tuple(sorted(found)), []).append(index)
        for names, members in groups.items():
            columns = {name: self._column(name, members, values) for name in names}
            self._compute_group(members, columns)

    def _values(self, request: Request) -> dict[str, Any]:
        found = inputs.values(self._slab, self._tables, request) if request.has_values else {}
        served = self._served
        if served.inputs is not None:
            table = {tensor.name for tensor in self._tables[request.table]}
            problem = inputs.check_values(served.name, served.inputs, found, request.rows)
            if problem is not None:
                raise problem
            for name in found:
                if name in table:
                    raise make("TENSOR", field=name, problem="is both a tensor and a value")
        return found

    def _column(self, name: str, members: list[int], values: dict[int, dict[str, Any]]) -> list[Any]:
        column: list[Any] = []
        for index in members:
            value = values[index][name]
            if self._requests[index].rows:
                column.extend(value)
            else:
                column.append(value)
        return column

    def _compute_group(self, members: list[int], columns: dict[str, list[Any]]) -> None:
        requests = [self._requests[index] for index in members]
        batch: dict[str, Any] = dict(inputs.tensors(self._slab, self._tables, requests))
        batch.update(columns)
        rows = sum(request.items for request in requests)
        if self._served.preprocess is not None or self._served.postprocess is not None:
            self._write_results(members, requests, self.results(batch, rows))
            return
        found = outputs.as_columns(self._forward(batch), rows)
        if isinstance(found, list):
            self._write_results(members, requests, found)
        elif not self._write_rows(members, requests, found, rows):
            self._write_slices(members, requests, found)

    # ---- the model

    def _forward(self, batch: Any) -> Any:
        served = self._served
        device = self._runner.device
        if isinstance(batch, dict):
            on_cpu = device.type == "cpu"
            if served.writes_inputs and on_cpu:
                batch = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            elif not on_cpu:
                batch = {
                    k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()
                }
        version = self._slab.version
        try:
            return served.forward(batch)
        finally:
            if self._slab.version != version:
                self.wrote_inputs = True
                if not served.writes_inputs:
                    served.writes_inputs = True
                    log.event("model_writes_inputs", model=served.name, effect="its batches are copied from now on")

    def results(self, batch: dict[str, Any], rows: int) -> list[Any]:
        """A result for each row: an exception where that row alone failed."""
        served = self._served
        results: list[Any] = [None] * rows
        if served.preprocess is None:
            self._spread(results, list(range(rows)), outputs.as_columns(self._forward(batch), rows))
        else:
            prepared: dict[Any, list[int]] = {}
            items: list[Any] = [None] * rows
            for row in range(rows):
                one = {name: column[row] for name, column in batch.items()}
                try:
                    items[row] = served.preprocess(**one)
                except Exception as error:
                    results[row] = Failure("INPUT_REJECTED", _detail(error))
                else:
                    prepared.setdefault(_kind(items[row]), []).append(row)
            for kind, members in prepared.items():
                chosen = [items[row] for row in members]
                collated = _collate(chosen) if kind is not None else chosen
                self._spread(results, members, outputs.as_columns(self._forward(collated), len(members)))
        if served.postprocess is not None:
            for row, result in enumerate(results):
                if not isinstance(result, Failure):
                    try:
                        results[row] = served.postprocess(result)
                    except Exception as error:
                        results[row] = Failure("MODEL_FAILED", _detail(error))
        return results

    def _spread(self, results: list[Any], members: list[int], found: dict[str, Any] | list[Any]) -> None:
        if isinstance(found, list):
            for row, result in zip(members, found, strict=True):
                results[row] = result
            return
        host = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in found.items()}
        for at, row in enumerate(members):
            results[row] = {name: column[at] for name, column in host.items()}

    # ---- the results

    def _write_rows(self, members: list[int], requests: list[Request], found: dict[str, Any], rows: int) -> bool:
        """The short way, for single items of nothing but tensors; False when it cannot be gone."""
        if not found or not all(isinstance(column, torch.Tensor) for column in found.values()):
            return False
        if any(request.rows for request in requests):
            return False
        written = self._arena.write_rows(found, rows)
        if written is None:
            return False
        head, offset, nbytes, stride = written
        self._written += (offset, rows * stride)
        kind = self._head(head)
        at = offset
        for index in members:
            self.outcomes += (index, kind, at, nbytes, 0)
            at += stride
        return True

    def _write_slices(self, members: list[int], requests: list[Request], found: dict[str, Any]) -> None:
        start = 0
        for index, request in zip(members, requests, strict=True):
            end = start + request.items
            if request.rows:
                self._write(index, {name: column[start:end] for name, column in found.items()})
            else:
                self._write(index, {name: column[start] for name, column in found.items()})
            start = end

    def _write_results(self, members: list[int], requests: list[Request], results: list[Any]) -> None:
        start = 0
        for index, request in zip(members, requests, strict=True):
            own = results[start : start + request.items]
            start += request.items
            failure = next((result for result in own if isinstance(result, Failure)), None)
            if failure is not None:
                self._fail(index, failure.reason, failure.detail)
                continue
            try:
                joined = _join(own) if request.rows else own[0]
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
        packets = b.pack_done(
            batch_id, self.heads, self.outcomes, self.failures, compute_us, self._arena.extents.used, more
        )
        self.heads, self.outcomes, self.failures, self._written = [], [], [], []
        return packets


class Failure:
    """One row that failed alone, in the place of its result."""

    __slots__ = ("detail", "reason")

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def _kind(item: Any) -> Any:
    """What preprocess results must have in common to be stacked; None for what is not stacked but listed."""
    if not isinstance(item, dict) or not item:
        return None
    key = []
    for name, value in item.items():
        if isinstance(value, torch.Tensor) or hasattr(value, "__array__"):
            key.append((name, str(value.dtype), tuple(value.shape)))
        elif isinstance(value, bool | int | float):
            key.append((name, type(value).__name__, ()))
        else:
            return None
    return tuple(key)


def _collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Dicts of equal tensors, arrays or numbers, stacked to [rows, …]."""
    return {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}


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
