"""A worker's runner inside the test's process: payloads into a slab, packets in, answers out of an arena."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from inferd.config import ModelConfig
from inferd.memory import Region
from inferd.wire import batch as b
from inferd.wire.frame import HAS_VALUES
from inferd.wire.messages import Result
from inferd.wire.tensor import aligned, layout
from inferd.wire.values import pack_values, unpack_values
from inferd.work.device import DTYPES, NAMES
from inferd.work.runner import Runner

MIB = 1024 * 1024


class Ask:
    """One request: tensors and values; with `rows`, every tensor leads with that many."""

    def __init__(self, rows: int = 0, **inputs: Any) -> None:
        self.rows = rows
        self.tensors = {k: torch.as_tensor(v) for k, v in inputs.items() if isinstance(v, torch.Tensor | np.ndarray)}
        self.values = {k: v for k, v in inputs.items() if k not in self.tensors}

    def payload(self) -> tuple[list[list[Any]], bytes]:
        """Its tensor table and its bytes."""
        table, end = layout((k, NAMES[t.dtype], tuple(t.shape)) for k, t in self.tensors.items())
        payload = bytearray(end)
        for row, tensor in zip(table, self.tensors.values(), strict=True):
            raw = tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)
            payload[row.offset : row.offset + row.nbytes] = raw.numpy().tobytes()
        if self.values:
            payload += bytes(aligned(end) - end) + pack_values(self.values)
        return [row.row() for row in table], bytes(payload)


class Failed(str):
    """The reason a request failed alone."""


class Worker:
    """A runner with the models of `configs`. `models` is what its READY says, and what came before that."""

    def __init__(self, *configs: ModelConfig, warm_up: bool = False, slab_mib: int = 64, arena_mib: int = 64) -> None:
        self.slab = Region.create("slab", slab_mib * MIB)
        self.arena = Region.create("arena", arena_mib * MIB)
        self.runner = Runner("cpu", self.slab, self.arena, self._full)
        self.loaded = self.runner.load(list(configs), warm_up=warm_up)
        self.first = b.unpack(self.loaded[-1])
        self.models: dict[str, dict[str, Any]] = {}
        if self.first[0] == b.READY:
            parts = [b.unpack(packet)[-1] for packet in self.loaded]
            self.models = {model["name"]: model for part in parts for model in part}
        self.batches = 0
        self.padded = self.preprocess_us = 0.0
        self.raised = ""
        self.details: list[str] = []  # what the log is told of each request of the last batch that failed alone

    def _full(self, finished: list[bytes]) -> None:
        raise AssertionError("the arena of a test is large enough")

    def ask(
        self, model: str, *asks: Ask, order: list[int] | None = None, gap: int = 0, ahead: tuple[int, ...] = ()
    ) -> list[Any]:
        """The answers of one batch: a dict each, or a Failed. `order` is in which the payloads lie in the slab, `gap`
        how many bytes apart; `ahead` are prepared before the batch begins. When the batch raised the list is empty and
        `raised` has the reason."""
        tables: list[Any] = []
        offsets = [0] * len(asks)
        at = 0
        payloads = [ask.payload() for ask in asks]
        for index in order or range(len(asks)):
            table, payload = payloads[index]
            self.slab.view[at : at + len(payload)] = payload
            offsets[index] = at
            at += (aligned(len(payload)) or 64) + gap
        numbers: list[int] = []
        for ask, offset, (table, payload) in zip(asks, offsets, payloads, strict=True):
            if table not in tables:
                tables.append(table)
            numbers += (tables.index(table), ask.rows, offset, len(payload), bool(ask.values))
        position = list(self.models).index(model)
        if ahead:
            chosen = [number for index in ahead for number in numbers[5 * index : 5 * index + 5]]
            self.runner.ahead.prepare(self.runner, self.batches, 0, position, tables, chosen)
        prepared = [ahead.index(index) if index in ahead else -1 for index in range(len(asks))] if ahead else []
        self.batches += 1
        packet = b.unpack(b.pack(b.RUN, self.batches, position, tables, numbers, [], prepared))
        packets = self.runner.run(*packet[1:])
        assert max(map(len, packets)) <= b.MAX_PACKET_BYTES
        return self._answers([b.unpack(answer) for answer in packets], len(asks))

    def _answers(self, packets: list[list[Any]], count: int) -> list[Any]:
        answers: list[Any] = [None] * count
        freed: list[int] = []
        self.raised = ""
        self.details = []
        for packet in packets:
            if packet[0] == b.RAISED:
                self.raised = packet[2]
                return []
            _, _, heads, outcomes, failures, _, self.preprocess_us, self.padded, _, _ = packet
            for at in range(0, len(outcomes), b.NUMBERS_PER_OUTCOME):
                index, head, offset, nbytes, flags = outcomes[at : at + b.NUMBERS_PER_OUTCOME]
                assert answers[index] is None
                answers[index] = self._read(heads[head], offset, nbytes, flags)
                if nbytes:
                    freed += (offset, aligned(nbytes))
            for index, reason, detail in failures:
                assert answers[index] is None
                self.details.append(detail)
                answers[index] = Failed(reason)
        assert None not in answers
        self.runner.give_back(freed)
        assert self.runner.arena_used == 0
        return answers

    def _read(self, head: bytes, offset: int, nbytes: int, flags: int) -> dict[str, Any]:
        result = Result.unpack(head)
        payload = bytes(self.arena.view[offset : offset + nbytes])
        found: dict[str, Any] = {}
        for row in result.tensors:
            raw = bytearray(payload[row.offset : row.offset + row.nbytes])
            dtype = DTYPES[row.dtype]
            tensor = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            found[row.name] = tensor.reshape(row.shape)
        if flags & HAS_VALUES:
            start = aligned(result.tensors[-1].offset + result.tensors[-1].nbytes) if result.tensors else 0
            found.update(unpack_values(payload[start:]))
        return found


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two answers are equal within the dtype's tolerance."""
    return one.keys() == other.keys() and all(
        (value.shape == other[name].shape and value.dtype == other[name].dtype and torch.allclose(value, other[name]))
        if isinstance(value, torch.Tensor)
        else value == other[name]
        for name, value in one.items()
    )
