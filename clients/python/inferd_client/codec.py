"""Inputs to payload buffers, payloads to outputs. numpy is used when the caller's data or the answer needs it.

Tensors are numpy arrays, numpy scalars and torch tensors; str, int, float, bool, None, list, tuple and dict are values.
A contiguous little-endian array is sent from where it lies, and a result's arrays are views of the received bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from inferd.errors import ConfigError, ProtocolError, RequestError, make
from inferd.wire.messages import STANDARD, Infer, checked_supersede
from inferd.wire.tensor import ITEM_BYTES, Tensor, aligned, layout, parse_table
from inferd.wire.values import pack_values, unpack_values

if TYPE_CHECKING:
    import numpy

Buffer = bytes | memoryview
Row = tuple[str, str, tuple[int, ...]]  # name, dtype, shape: what a tensor is before it has an offset

PLAIN = frozenset({str, int, float, bool, type(None), list, dict, tuple})

# numpy's `dtype.str` ↔ the wire's name. bfloat16 has no letter of its own in numpy.
WIRE_DTYPES = {
    "|b1": "BOOL",
    "|u1": "UINT8",
    "<u2": "UINT16",
    "<u4": "UINT32",
    "<u8": "UINT64",
    "|i1": "INT8",
    "<i2": "INT16",
    "<i4": "INT32",
    "<i8": "INT64",
    "<f2": "FP16",
    "<f4": "FP32",
    "<f8": "FP64",
}
NUMPY_DTYPES = {name: dtype for dtype, name in WIRE_DTYPES.items()}

# Below this, one copy is cheaper than one more entry in a gathered write.
JOIN_BYTES = 4096
# Callers use few shapes and few timeouts; a caller with more than this pays for packing, not with memory.
MAX_PLANS = 256
MAX_HEADERS = 64

_ZEROS = bytes(64)


class Plan:
    """What all requests of one model, tensor table, number of rows, priority and wish for a timeline have in common."""

    __slots__ = ("_headers", "_message", "model", "table", "tensor_end")

    def __init__(
        self, model: str, rows: int, signature: Iterable[Row], priority: str = STANDARD, timing: bool = False
    ) -> None:
        self.table, self.tensor_end = layout(signature)
        self._message = Infer(model, self.table, self.tensor_end, rows, None, priority, None, timing)
        self._headers: dict[tuple[int, str | None], bytes] = {}
        self.model = model
        # The server's own check, before anything is sent. What passes makes a header of 12 KiB at most; the table goes
        # first, because a header with too long a one cannot even be read.
        parse_table([tensor.row() for tensor in self.table], "inputs")
        try:
            header = self._message.pack()
        except UnicodeEncodeError as error:
            raise make("FIELD_VALUE", field="model", problem="must be UTF-8; there is a surrogate in it") from error
        Infer.unpack(header)

    def header(self, deadline_ms: int, supersede: str | None = None) -> bytes:
        """The packed header; the same bytes for the same deadline and key, because the server remembers those."""
        header = self._headers.get((deadline_ms, supersede))
        if header is None:
            m = self._message
            header = Infer(
                m.model, m.tensors, m.tensor_end, m.rows, deadline_ms, m.priority, supersede, m.timing
            ).pack()
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            self._headers[deadline_ms, supersede] = header
        return header


class Request:
    """One INFER without its id: the plan for its header, and its payload as buffers to be written in order.

    `values` are those inputs that are sent as values, for the sake of error messages.
    """

    __slots__ = ("payload_bytes", "pieces", "plan", "supersede", "values")

    def __init__(
        self, plan: Plan, pieces: list[Buffer], payload_bytes: int, values: dict[str, Any], supersede: str | None
    ) -> None:
        self.plan = plan
        self.pieces = pieces
        self.payload_bytes = payload_bytes
        self.values = values
        self.supersede = supersede

    @property
    def model(self) -> str:
        """Which model is asked."""
        return self.plan.model

    def not_a_tensor(self, models: Iterable[Mapping[str, Any]]) -> RequestError | None:
        """When the server misses an input: whether that is one that was given, as a value where the model takes a
        tensor. By the model's signature in `models`."""
        rows = next((model.get("inputs") for model in models if model.get("name") == self.model), None)
        try:
            for name, dtype, shape in rows or ():
                if name in self.values and dtype in ITEM_BYTES:
                    kind = type(self.values[name]).__name__
                    problem = f"is {dtype} {list(shape)}; pass a numpy array or a torch tensor, not a Python {kind}"
                    return make("TENSOR", field=name, problem=problem)
        except (TypeError, ValueError):
            pass  # a signature of another form
        return None


_plans: dict[tuple[str, int, tuple[Row, ...], str, bool], Plan] = {}


def encode(
    model: str,
    inputs: Mapping[str, Any],
    batch: bool = False,
    priority: str = STANDARD,
    supersede: str | None = None,
    timing: bool = False,
) -> Request:
    """The request for `inputs`: one item, or with `batch` as many rows as every input leads with.

    Raises InvalidArgument naming the input or option that cannot be sent.
    """
    if not isinstance(model, str):
        raise make("FIELD_TYPE", field="model", expected="text")
    if supersede is not None:
        checked_supersede(supersede)
    signature, data, values = split(inputs)
    rows = _count_rows(inputs, signature, values) if batch else 0
    key = (model, rows, tuple(signature), priority, bool(timing))
    plan = _plans.get(key)
    if plan is None:
        plan = Plan(model, rows, signature, priority, bool(timing))
        if len(_plans) >= MAX_PLANS:
            _plans.clear()
        _plans[key] = plan
    pieces, payload_bytes = assemble(plan.table, plan.tensor_end, data, values)
    return Request(plan, pieces, payload_bytes, values, supersede)


def split(inputs: Mapping[str, Any]) -> tuple[list[Row], list[memoryview | None], dict[str, Any]]:
    """The tensors' rows, their bytes (None: there are none), and the values of `inputs`."""
    try:
        items = inputs.items()
    except AttributeError:
        raise make("FIELD_TYPE", field="inputs", expected="a map from names to tensors and values") from None
    signature: list[Row] = []
    data: list[memoryview | None] = []
    values: dict[str, Any] = {}
    for name, value in items:
        if not isinstance(name, str):
            raise make("FIELD_TYPE", field=name, expected="a name, which is text")
        if type(value) in PLAIN:
            values[name] = value
            continue
        array = _as_array(name, value)
        if array is None:
            values[name] = value
            continue
        dtype, shape, view = array
        signature.append((name, dtype, shape))
        data.append(view)
    return signature, data, values


def assemble(
    table: tuple[Tensor, ...], tensor_end: int, data: list[memoryview | None], values: dict[str, Any]
) -> tuple[list[Buffer], int]:
    """A payload as buffers to be written one after the other, and its length in bytes."""
    pieces: list[Buffer] = []
    end = 0
    for tensor, view in zip(table, data, strict=True):
        if tensor.offset != end:
            pieces.append(_ZEROS[: tensor.offset - end])
        if view is not None:
            pieces.append(view)
        end = tensor.offset + tensor.nbytes
    if values:
        segment = _pack_values(values)
        start = aligned(tensor_end)
        if start != end:
            pieces.append(_ZEROS[: start - end])
        pieces.append(segment)
        end = start + len(segment)
    if end <= JOIN_BYTES and len(pieces) > 1:
        pieces = [b"".join(pieces)]
    return pieces, end


def _pack_values(values: dict[str, Any]) -> bytes:
    try:
        return pack_values(values)
    except RequestError:
        for name, value in values.items():
            try:
                pack_values({name: value})
            except RequestError as error:
                problem = f"cannot hold the input {name!r}: {error.__cause__}"
                raise make("VALUES", problem=problem) from error.__cause__
        raise


def _count_rows(inputs: Mapping[str, Any], signature: list[Row], values: dict[str, Any]) -> int:
    """The number of rows that all of a batch's inputs share."""
    counts = {name: shape[0] if shape else None for name, _, shape in signature}
    for name, value in values.items():
        if not isinstance(value, (list, tuple)):
            raise make("FIELD_TYPE", field=name, expected="a list with one value per row")
        counts[name] = len(value)
    rows: int | None = None
    for name in inputs:
        count = counts[name]
        if count is None:
            raise make("FIELD_VALUE", field=name, problem="has no rows: it is a scalar")
        if rows is None:
            rows = count
        elif count != rows:
            raise make("ROWS", field=name, expected=rows, actual=count)
    if not rows:
        raise make("FIELD_VALUE", field="inputs", problem="must have at least one row")
    return rows


def _as_array(name: str, value: Any) -> tuple[str, tuple[int, ...], memoryview | None] | None:
    """The dtype, shape and bytes of a tensor; None for a value."""
    np = sys.modules.get("numpy")
    if np is not None and isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, str):
        return _numpy_bytes(np, name, np.asarray(value))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        if tensor.dtype is torch.bfloat16:
            _, shape, view = _numpy_bytes(_numpy(), name, tensor.contiguous().view(torch.int16).numpy())
            return "BF16", shape, view
        return _numpy_bytes(_numpy(), name, tensor.numpy())
    if isinstance(value, (str, int, float, list, tuple, dict)):
        return None
    raise make(
        "FIELD_TYPE",
        field=name,
        expected=f"an array, a tensor, or text, a number, a list or a map; it is of type {type(value).__name__}",
    )


def _numpy_bytes(np: Any, name: str, array: numpy.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], memoryview | None]:
    dtype = array.dtype
    wire_dtype = WIRE_DTYPES.get(dtype.str)
    if wire_dtype is None:
        if dtype.byteorder == ">" and (wire_dtype := WIRE_DTYPES.get(dtype.newbyteorder("<").str)):
            array = array.astype(dtype.newbyteorder("<"))
        elif dtype.name == "bfloat16":
            wire_dtype, array = "BF16", array.view(np.uint16)
        else:
            known = ", ".join(NUMPY_DTYPES)
            raise make("TENSOR", field=name, problem=f"has the numpy dtype {dtype}, which is none of {known}, BF16")
    shape: tuple[int, ...] = array.shape
    if not array.size:
        return wire_dtype, shape, None
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return wire_dtype, shape, array.data.cast("B")


def decode(table: tuple[Tensor, ...], tensor_end: int, has_values: bool, payload: memoryview) -> dict[str, Any]:
    """The outputs in a payload: arrays that are views of it, and values. The Peer has checked that the table fits.

    Raises ProtocolError if the values cannot be read, and ConfigError if a library for the tensors is missing.
    """
    outputs: dict[str, Any] = {}
    if table:
        np = _numpy()
        for tensor in table:
            dtype = NUMPY_DTYPES.get(tensor.dtype) or _bfloat16(tensor.name)
            outputs[tensor.name] = np.ndarray(tensor.shape, dtype, payload, tensor.offset)
    if has_values:
        try:
            outputs.update(unpack_values(payload[aligned(tensor_end) :] if table else payload))
        except RequestError as error:
            raise ProtocolError(error.message) from error
    return outputs


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise ConfigError("tensors need numpy, which cannot be imported here; pip install numpy") from error
    return numpy


def _bfloat16(name: str) -> Any:
    try:
        import ml_dtypes  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ConfigError(
            f"the output {name!r} is BF16, which numpy does not have by itself; pip install ml_dtypes"
        ) from error
    return ml_dtypes.bfloat16
