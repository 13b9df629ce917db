"""One packet in, one packet out: everything a worker does but the waiting.

The worker process and the inline executor run this same class, so what a test sees in one process is what happens in
two.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from inferd import log
from inferd.config import ModelConfig
from inferd.errors import DeviceUnavailable, ModelLoadError, RequestError
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.wire.tensor import Spec
from inferd.work import device as devices
from inferd.work import inputs, outputs, warmup
from inferd.work.ahead import Ahead
from inferd.work.inputs import Requests
from inferd.work.loader import Served, definition, load_model, location, location_in
from inferd.work.outputs import Arena, OutputError
from inferd.work.run import Failure, Run, detail_of, text_of

# A batch that computed for so much of its time had its core to itself, and left nothing for a thread beside it.
BUSY = 0.5

# A dimension of an output, and how much of it each row keeps.
Cut = tuple[int, list[int]]


class Stopped(BaseException):
    """The daemon wants nothing more of this worker, or is gone. No Exception, and no SystemExit: a model can raise
    those."""


class DeviceBroken(Exception):
    """The device answers with errors whatever is asked of it; only a new process can use it again."""


class Runner:
    """A device with every model loaded on it.

    `slab` holds the requests' payloads, `arena` takes the results; `wait_for_room` blocks until the loop process has
    given parts of the arena back (through `give_back`), or raises Stopped. It is handed packets to send first: what is
    finished of the batch, since those who wait for it may be the ones to make room.
    """

    def __init__(self, device: str, slab: Region, arena: Region, wait_for_room: Callable[[list[bytes]], None]) -> None:
        self._wanted = device
        self._slab_region = slab
        self._arena_region = arena
        self._wait_for_room = wait_for_room
        self._models: list[Served] = []
        self.ahead = Ahead()

    def load(self, configs: list[ModelConfig], warm_up: bool = True) -> list[bytes]:
        """Loads everything; the packets that end with READY, or the REFUSED packet that says why not.

        Without `warm_up` one batch of one row is run and nothing is measured: enough for a replacement, whose
        predecessor has said how long batches take.
        """
        name = target = ""
        described: list[dict[str, Any]] = []
        try:
            self.device = devices.pick(self._wanted)
            devices.probe(self.device)
            self._slab = devices.Memory(self._slab_region, self.device)
            self._arena = Arena(devices.Memory(self._arena_region, self.device))
            for config in configs:
                name, target = config.name, config.target
                served = load_model(config)
                served.load(self.device)
                self._try_example(served)
                if warm_up and served.example is None and not (served.warms_up and warmup.made_up(served)):
                    # The daemon will say that it is ready, and this model has not been asked.
                    log.event("not_probed", model=served.name, hint="give it an example, and it is tried at the start")
                if warm_up and served.warms_up:
                    served.latency = warmup.measure(served.max_batch_size, served.batch_sizes, self._trial(served))
                    served.latency_elements = _elements(_item(served))
                elif served.warms_up and served.example is None:
                    self._probe(served)
                self._models.append(served)
                described.append(_described(served))
        except DeviceUnavailable as error:
            return [self._refused("device", name, str(error), error)]
        except ModelLoadError as error:
            return [self._refused("model", name, str(error), error, target)]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as in `reason`
            message = f"cannot load model {name!r}: {type(error).__name__}: {text_of(error)}"
            return [self._refused("model", name, message, error, target)]
        return b.pack_ready(str(self.device), described)

    def _refused(self, kind: str, name: str, message: str, error: BaseException, target: str = "") -> bytes:
        cause, known = error, ""
        if isinstance(error, ModelLoadError):
            cause, known = error.__cause__ or error, error.location
        where = known or location(cause, target.rpartition(":")[0]) or definition(target)
        if where and where not in message:
            message = f"{where}: {message}"
        message = b.escaped(message)
        if len(message) > b.MAX_DETAIL_CHARS:
            # The daemon says it on one line and to whoever asked for a reload; all of it is here.
            log.event("load_error", logging.ERROR, model=name, error=message)
            left = len(message) - b.MAX_DETAIL_CHARS
            message = f"{message[: b.MAX_DETAIL_CHARS]} … (and {left} characters more: load_error in the log has all)"
        return b.pack(b.REFUSED, *b.LoadFailure(kind, name, message, b.escaped(where), detail_of(error)))

    def give_back(self, freed: list[int]) -> None:
        """Parts of the arena whose replies have left."""
        self._arena.give_back(freed)

    @property
    def arena_used(self) -> int:
        """Bytes of the arena that hold results which have not left."""
        return self._arena.extents.used

    # ---- one batch

    @property
    def preprocesses(self) -> bool:
        """Whether any of its models has a preprocess, which can run ahead of the device."""
        return any(served.preprocess is not None for served in self._models)

    def trial_run(self, model_index: int, tables: list[Any], numbers: list[int]) -> Run:
        """A batch that is not run: to prepare its requests."""
        return Run(self, self._models[model_index], inputs.parse_tables(tables), Requests.parse(numbers))

    def run(
        self,
        batch_id: int,
        model_index: int,
        tables: list[Any],
        numbers: list[int],
        freed: list[int],
        prepared: list[int],
    ) -> list[bytes]:
        """The DONE or RAISED packets for a batch, mostly one. Raises DeviceBroken, and Stopped."""
        started = time.perf_counter()
        if freed:
            self._arena.give_back(freed)
        served = self._models[model_index]
        ready = self.ahead.begin(batch_id, prepared)
        cpu_started = time.thread_time() if served.preprocess is not None else 0.0
        run = Run(self, served, inputs.parse_tables(tables), Requests.parse(numbers), ready)
        self._arena.wait = lambda: self._wait_for_room(run.take_finished(batch_id, more=True))
        try:
            if torch.is_inference_mode_enabled():  # a worker enters it once: entering costs a tenth of a small batch
                run.compute()
            else:
                with torch.inference_mode():
                    run.compute()
        except (DeviceBroken, Stopped):
            raise
        except BaseException as error:
            run.give_up()
            reason = self.reason(error)
            if not run.wrote_inputs:
                return [b.pack(b.RAISED, batch_id, reason, detail_of(error))]
            # The inputs are no longer what the callers sent, so nothing of this batch can be tried again.
            run.fail_all(reason, detail_of(error))
        took_s = time.perf_counter() - started
        if served.preprocess is not None and self.device.type == "cpu":
            # Where the model computes on this thread's core, another thread takes what it needs (`ner`, 16 callers: 6 %
            # fewer answers, measured).
            run.overlaps = time.thread_time() - cpu_started < BUSY * took_s
        return run.take_finished(batch_id, round(took_s * 1e6))

    def reason(self, error: BaseException, otherwise: str = "MODEL_FAILED") -> str:
        """What the log and the caller are told of an exception of the model's. Raises DeviceBroken.

        It need not be an Exception: sys.exit is not the model's to call, and a panic in an extension in Rust, such as
        a tokenizer, is no Exception. Only an interrupt is somebody else's, and raised again.
        """
        if isinstance(error, KeyboardInterrupt):
            raise error
        if isinstance(error, OutputError):
            return "OUTPUT_INVALID"
        text = text_of(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            return "DEVICE_MEMORY"
        if isinstance(error, getattr(torch, "AcceleratorError", ())):
            raise DeviceBroken(text) from error
        if isinstance(error, RequestError) and error.reason == "OUTPUT_TOO_LARGE":
            return error.reason  # ours; one that a model raises has words of its own, which are for the log
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
            [result] = run.results(warmup.batch_of(served, served.example, 1), 1, {})
        if isinstance(result, Failure):
            said = result.detail.strip().rpartition("\n")[2]
            failure = ModelLoadError(f"model {served.name!r} fails on its own example: {said}")
            failure.location = location_in(result.detail)
            raise failure
        try:
            found, plain = outputs.sort_out(result)
            outputs.packed(plain)
        except OutputError as error:
            raise ModelLoadError(f"model {served.name!r} fails on its own example: {error}") from error
        if served.outputs is None:
            served.outputs = tuple(
                [Spec(k, devices.NAMES[t.dtype], tuple(t.shape)) for k, t in found.items()]
                + [Spec(k, "ANY", ()) for k in plain]
            )

    def _probe(self, served: Served) -> None:
        """Runs one row that is made up. What the model thinks of it is no matter, but a process that dies of it does so
        before it is given work."""
        trial = self._trial(served)
        if trial is not None:
            try:
                trial(1)
            except warmup.Stop:
                pass

    def _trial(self, served: Served) -> Callable[[int], float] | None:
        """What runs a batch of so many rows and says how many seconds it took; None when nothing is known to run."""
        item = _item(served)
        if item is None:
            return None

        def trial(rows: int) -> float:
            run = Run(self, served, [], Requests.parse([]))
            batch = warmup.batch_of(served, item, rows)
            started = time.perf_counter()
            try:
                with torch.inference_mode():
                    if served.by_row:
                        failed = next((r for r in run.results(batch, rows, {}) if isinstance(r, Failure)), None)
                        if failed is not None:
                            raise RuntimeError(failed.detail)
                    else:
                        run.columns(batch, rows)
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
            except DeviceBroken:
                raise
            except BaseException as error:
                self.reason(error)
                said = f"{type(error).__name__}: {text_of(error)}"
                log.event("warm_up_stopped", model=served.name, rows=rows, error=said[:500])
                raise warmup.Stop from error
            return time.perf_counter() - started

        return trial


def _described(served: Served) -> dict[str, Any]:
    """What the daemon is told of a model. Raises ModelLoadError when that is too much for a packet."""
    description = served.describe()
    nbytes = len(b.pack(description))
    if nbytes > b.MAX_MODEL_BYTES:
        raise ModelLoadError(
            f"what model {served.name!r} declares takes {nbytes} bytes, and a worker can tell {b.MAX_MODEL_BYTES} of "
            "one model: give it fewer inputs and outputs, or shorter names"
        )
    return description


def _item(served: Served) -> Mapping[str, Any] | None:
    """What a model is tried with: its example, or one that is made up; None when nothing is known to run."""
    return served.example if served.example is not None else warmup.made_up(served)


def _elements(item: Mapping[str, Any] | None) -> int:
    """How large an item is."""
    if item is None:
        return 1
    return max(1, sum(tensor.numel() for tensor in outputs.sort_out(item)[0].values()))
