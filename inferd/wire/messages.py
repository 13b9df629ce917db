"""What a frame means: one class per message, from header bytes and to header bytes.

A header is a msgpack map with text keys. Fields this version does not know are ignored, so that later versions can add
them; known fields of a wrong type are an InvalidArgument that names the field, and the stream stays in step. A header
that is no map at all is a ProtocolError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from inferd.errors import ProtocolError, RequestError, kind_of, make
from inferd.wire import frame
from inferd.wire.tensor import Tensor, aligned, parse_table
from inferd.wire.values import refuse_ext

EMPTY_HEADER = b"\x80"
MAX_MODEL_NAME = 64
# Rows of one request. The worker runs them in pieces; this bounds how long the others wait for it.
MAX_ROWS = 4096
MAX_SUPERSEDE_BYTES = 128
MAX_TOKEN_CHARS = 1024
MAX_CLIENT_CHARS = 128  # of a name that a client or caller goes by; the rest is cut off
# The classes of urgency, the most urgent first.
PRIORITIES = INTERACTIVE, STANDARD, BATCH = ("interactive", "standard", "batch")
# msgpack reserves room for up to 10,000 entries of a list when it is announced: 1,000 nested announcements in 16 KiB
# cost 80 MB and 50 ms. With this cap, which is above every list of the protocol, they cost 1 MB and 0.6 ms.
MAX_ENTRIES = 128


def unpack_header(header: bytes) -> dict[str, Any]:
    """The map in a header; an empty header is an empty map. Raises ProtocolError for anything else."""
    if not header:
        return {}
    try:
        fields = msgpack.unpackb(
            header,
            raw=False,
            strict_map_key=True,
            max_ext_len=0,
            ext_hook=refuse_ext,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError("the header is not valid msgpack") from error
    if not isinstance(fields, dict):
        raise ProtocolError("the header is not a msgpack map")
    first = header[0]
    if len(fields) != (first & 0x0F if first & 0xF0 == 0x80 else _declared_length(header)):
        raise ProtocolError("the header has a key twice")
    try:
        "".join(fields)  # the cheapest way to find a key that is not text: a binary one
    except TypeError as error:
        raise ProtocolError("the header has a key that is not text") from error
    return fields


def _declared_length(header: bytes) -> int:
    """The number of entries that a map of 16 or more opens with."""
    return int.from_bytes(header[1:3] if header[0] == 0xDE else header[1:5], "big")


def pack_header(fields: dict[str, Any]) -> bytes:
    """The header bytes of a map; entries that are None are left out."""
    packed: bytes = msgpack.packb({key: value for key, value in fields.items() if value is not None})
    return packed


def _field(fields: dict[str, Any], name: str, kind: type | tuple[type, ...], expected: str) -> Any:
    """A field of the given type, or None when it is absent or nil."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise make("FIELD_TYPE", field=name, expected=expected)
    return value


def checked_priority(value: object) -> str:
    """The `priority` of an INFER; STANDARD for None. Raises InvalidArgument."""
    if value is None:
        return STANDARD
    if not isinstance(value, str):
        raise make("FIELD_TYPE", field="priority", expected="text")
    if value not in PRIORITIES:
        raise make("FIELD_VALUE", field="priority", problem=f"must be one of {', '.join(PRIORITIES)}")
    return value


def checked_supersede(value: object) -> str | None:
    """The `supersede` key of an INFER. Raises InvalidArgument."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise make("FIELD_TYPE", field="supersede", expected="text")
    try:
        nbytes = len(value.encode())
    except UnicodeEncodeError:
        nbytes = 0  # it holds a surrogate
    if not 0 < nbytes <= MAX_SUPERSEDE_BYTES:
        raise make("FIELD_VALUE", field="supersede", problem=f"must be 1 to {MAX_SUPERSEDE_BYTES} bytes of UTF-8")
    return value


def checked_token(value: object) -> str:
    """The `token` of a HELLO; "" for None. Raises InvalidArgument."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise make("FIELD_TYPE", field="token", expected="text")
    if len(value) > MAX_TOKEN_CHARS:
        raise make("FIELD_VALUE", field="token", problem=f"has over {MAX_TOKEN_CHARS} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        # Without its cause, which holds the token.
        raise make("FIELD_VALUE", field="token", problem="must be UTF-8; there is a surrogate in it") from None
    return value


class Hello:
    """The client's first frame: protocol versions it speaks (lowest, highest), what it is, optional features, and its
    token. `caller` is a gateway's word for whom it asks; the server takes it from its own gateway only.
    """

    __slots__ = ("caller", "client", "features", "token", "versions")

    def __init__(
        self,
        client: str,
        versions: tuple[int, int] = (1, 1),
        features: Iterable[str] = (),
        token: str = "",
        caller: str = "",
    ) -> None:
        self.client = client
        self.versions = versions
        self.features = tuple(features)
        self.token = token
        self.caller = caller

    def pack(self) -> bytes:
        return pack_header(
            {
                "versions": list(self.versions),
                "client": self.client,
                "features": list(self.features) or None,
                "token": self.token or None,
                "caller": self.caller or None,
            }
        )

    @classmethod
    def unpack(cls, header: bytes) -> Hello:
        fields = unpack_header(header)
        versions = _field(fields, "versions", list, "[lowest, highest]")
        if versions is None:
            raise make("FIELD_MISSING", field="versions")
        if len(versions) != 2 or not all(type(version) is int for version in versions):
            raise make("FIELD_TYPE", field="versions", expected="[lowest, highest]")
        client = _field(fields, "client", str, "text") or ""
        features = _field(fields, "features", list, "a list of text") or []
        token = checked_token(fields.get("token"))
        caller = _field(fields, "caller", str, "text") or ""
        names = [name for name in features if isinstance(name, str)]
        return cls(client[:MAX_CLIENT_CHARS], (versions[0], versions[1]), names, token, caller[:MAX_CLIENT_CHARS])


class Welcome:
    """The server's answer to HELLO: the version and features agreed on, and its limits.

    Its payload is a values segment {"models": [...]}; its prefix carries the first credits.
    """

    __slots__ = ("features", "limits", "server", "version")

    def __init__(self, server: str, limits: dict[str, int], version: int = 1, features: Iterable[str] = ()) -> None:
        self.server = server
        self.limits = limits
        self.version = version
        self.features = tuple(features)

    def pack(self) -> bytes:
        return pack_header(
            {
                "version": self.version,
                "server": self.server,
                "features": list(self.features) or None,
                "limits": self.limits,
            }
        )

    @classmethod
    def unpack(cls, header: bytes) -> Welcome:
        fields = unpack_header(header)
        version = _field(fields, "version", int, "a whole number")
        limits = _field(fields, "limits", dict, "a map") or {}
        if not all(type(limit) is int and limit >= 0 for limit in limits.values()):
            raise make("FIELD_TYPE", field="limits", expected="a map of whole numbers")
        features = _field(fields, "features", list, "a list of text") or []
        if version is None:
            raise ProtocolError("WELCOME names no version")
        return cls(_field(fields, "server", str, "text") or "", limits, version, features)


class Infer:
    """A request's header. Equal header bytes give the same object, so it is never changed.

    `tensors` is the checked table, `tensor_end` the offset in the payload behind the last of them, `rows` the number of
    rows every tensor leads with (0: one item, no batch dimension), `deadline_ms` what is left of the caller's time.
    `priority` is one of PRIORITIES; a newer request with the same `supersede` key takes this one's place in the queue;
    `timing` asks for the timeline.
    """

    __slots__ = ("deadline_ms", "model", "priority", "rows", "supersede", "tensor_end", "tensors", "timing")

    def __init__(
        self,
        model: str,
        tensors: tuple[Tensor, ...] = (),
        tensor_end: int = 0,
        rows: int = 0,
        deadline_ms: float | None = None,
        priority: str = STANDARD,
        supersede: str | None = None,
        timing: bool = False,
    ) -> None:
        self.model = model
        self.tensors = tensors
        self.tensor_end = tensor_end
        self.rows = rows
        self.deadline_ms = deadline_ms
        self.priority = priority
        self.supersede = supersede
        self.timing = timing

    def pack(self) -> bytes:
        return pack_header(
            {
                "model": self.model,
                "inputs": [tensor.row() for tensor in self.tensors] or None,
                "rows": self.rows or None,
                "deadline_ms": self.deadline_ms,
                "priority": None if self.priority == STANDARD else self.priority,
                "supersede": self.supersede,
                "timing": self.timing or None,
            }
        )

    @classmethod
    def unpack(cls, header: bytes) -> Infer:
        fields = unpack_header(header)
        model = _field(fields, "model", str, "text")
        if model is None:
            raise make("FIELD_MISSING", field="model")
        if not 0 < len(model) <= MAX_MODEL_NAME:
            raise make("FIELD_VALUE", field="model", problem=f"must be 1 to {MAX_MODEL_NAME} characters")
        table, end = parse_table(fields.get("inputs"), "inputs")
        rows = _field(fields, "rows", int, "a whole number")
        if rows is None:
            rows = 0
        elif not 1 <= rows <= MAX_ROWS:
            problem = f"is {rows}; a request has from 1 to {MAX_ROWS} rows, for more send several"
            raise make("FIELD_VALUE", field="rows", problem=problem)
        else:
            for tensor in table:
                if not tensor.shape or tensor.shape[0] != rows:
                    actual = list(tensor.shape)
                    raise make("ROWS", field=tensor.name, expected=rows, actual=actual)
        deadline_ms = _field(fields, "deadline_ms", (int, float), "a number of milliseconds")
        if deadline_ms is not None and not (math.isfinite(deadline_ms) and deadline_ms >= 0):
            raise make("FIELD_VALUE", field="deadline_ms", problem="must be finite and not negative")
        priority = checked_priority(fields.get("priority"))
        supersede = checked_supersede(fields.get("supersede"))
        timing = _field(fields, "timing", bool, "true or false") or False
        return cls(model, table, end, rows, deadline_ms, priority, supersede, timing)


class Result:
    """A result's header: the table of the output tensors, and the request's timeline if it asked for that.

    Equal header bytes without a timeline give the same object, so it is never changed.
    """

    __slots__ = ("tensor_end", "tensors", "timing")

    def __init__(
        self, tensors: tuple[Tensor, ...] = (), tensor_end: int = 0, timing: dict[str, Any] | None = None
    ) -> None:
        self.tensors = tensors
        self.tensor_end = tensor_end
        self.timing = timing

    def pack(self) -> bytes:
        return pack_header({"outputs": [tensor.row() for tensor in self.tensors] or None, "timing": self.timing})

    @classmethod
    def unpack(cls, header: bytes) -> Result:
        fields = unpack_header(header)
        timing = _field(fields, "timing", dict, "a map")
        return cls(*parse_table(fields.get("outputs"), "outputs"), timing)


_TIMING_KEY: bytes = msgpack.packb("timing")
_MAX_HEADER_BYTES = frame.Limits().header_bytes


def with_timing(header: bytes, timing: dict[str, Any]) -> bytes:
    """A ready-made RESULT header with the timeline added to it; the rest is not decoded.

    `header` is what `Result.pack` makes without a timeline: a map of at most one entry. One that would go over the
    limit of a header stays as it is.
    """
    packed: bytes = msgpack.packb(timing)
    spliced = bytes((header[0] + 1,)) + header[1:] + _TIMING_KEY + packed
    return spliced if len(spliced) <= _MAX_HEADER_BYTES else header


def payload_misfit(tensor_end: int, has_values: int, payload_bytes: int) -> RequestError:
    """The error for a payload of a size that does not fit its header.

    The tensors fill it to its end; or a values segment of at least one byte follows them, on the next 64-byte boundary.
    """
    if has_values:
        start = aligned(tensor_end)
        return make("VALUES", problem=f"would begin at {start}, but the payload has {payload_bytes} bytes")
    problem = f"has {payload_bytes} bytes and its tensors end at {tensor_end}"
    return make("FIELD_VALUE", field="payload", problem=problem)


class Error:
    """How a request ended, when not with a result; with request id 0, why the connection ends."""

    __slots__ = ("code", "message", "reason", "retry_after_ms", "retryable")

    def __init__(
        self, code: str, reason: str, message: str, retryable: bool = False, retry_after_ms: float | None = None
    ) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms

    @classmethod
    def of(cls, error: RequestError) -> Error:
        return cls(error.code, error.reason, error.message, error.retryable, error.retry_after_ms)

    @classmethod
    def of_protocol(cls, error: ProtocolError) -> Error:
        return cls("INVALID_ARGUMENT", "PROTOCOL", str(error))

    def exception(self, request_id: int) -> RequestError:
        """The exception for it. A code this side does not know becomes a plain RequestError."""
        return kind_of(self.code, self.reason)(
            self.message,
            reason=self.reason,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
            request_id=request_id,
        )

    def pack(self) -> bytes:
        return pack_header(
            {
                "code": self.code,
                "reason": self.reason,
                "message": self.message,
                "retryable": self.retryable,
                "retry_after_ms": self.retry_after_ms,
            }
        )

    @classmethod
    def unpack(cls, header: bytes) -> Error:
        fields = unpack_header(header)
        retry_after_ms = _field(fields, "retry_after_ms", (int, float), "a number of milliseconds")
        if retry_after_ms is not None and not (math.isfinite(retry_after_ms) and retry_after_ms >= 0):
            raise make("FIELD_VALUE", field="retry_after_ms", problem="must be finite and not negative")
        return cls(
            _field(fields, "code", str, "text") or "UNKNOWN",
            _field(fields, "reason", str, "text") or "",
            _field(fields, "message", str, "text") or "",
            _field(fields, "retryable", bool, "true or false") or False,
            retry_after_ms,
        )


class GoAway:
    """The server is leaving: what is in flight is finished, new work goes elsewhere."""

    __slots__ = ("reason",)

    def __init__(self, reason: str = "DRAINING") -> None:
        self.reason = reason

    def pack(self) -> bytes:
        return pack_header({"reason": self.reason})

    @classmethod
    def unpack(cls, header: bytes) -> GoAway:
        return cls(_field(unpack_header(header), "reason", str, "text") or "")


class Bare:
    """A message whose prefix says it all (CANCEL, PING, PONG, CREDIT, STATUS, RELOAD); its fields are ignored."""

    __slots__ = ()

    def pack(self) -> bytes:
        return b""

    @classmethod
    def unpack(cls, header: bytes) -> Bare:
        unpack_header(header)
        return BARE


BARE = Bare()

Message = Hello | Welcome | Infer | Result | Error | GoAway | Bare


def _comes_again(message: Message) -> bool:
    """Whether equal header bytes are likely to come again; no two timelines are the same."""
    return not isinstance(message, Result) or message.timing is None


class Remembered(dict[bytes, Message]):
    """A decoder that remembers what it decoded: a caller's headers are the same bytes over and over.

    `remembered[header]` decodes what it does not know; a dictionary, because finding what it knows is then one look-up
    and no call. At most `entries` headers of at most `header_bytes` are kept, and all are forgotten at once when that
    is reached: a hostile client can make it useless, which costs what decoding costs, but cannot make it grow.
    """

    def __init__(self, decode: Callable[[bytes], Message], entries: int = 1024, header_bytes: int = 1024) -> None:
        super().__init__()
        self._decode = decode
        self._entries = entries
        self._header_bytes = header_bytes

    def __missing__(self, header: bytes) -> Message:
        message = self._decode(header)
        if len(header) <= self._header_bytes and _comes_again(message):
            if len(self) >= self._entries:
                self.clear()
            self[header] = message
        return message


DECODERS: dict[int, Callable[[bytes], Message]] = {
    frame.HELLO: Hello.unpack,
    frame.WELCOME: Welcome.unpack,
    frame.INFER: Remembered(Infer.unpack).__getitem__,
    frame.RESULT: Remembered(Result.unpack).__getitem__,
    frame.ERROR: Error.unpack,
    frame.CANCEL: Bare.unpack,
    frame.PING: Bare.unpack,
    frame.PONG: Bare.unpack,
    frame.GOAWAY: GoAway.unpack,
    frame.CREDIT: Bare.unpack,
    frame.STATUS: Bare.unpack,
    frame.RELOAD: Bare.unpack,
}
