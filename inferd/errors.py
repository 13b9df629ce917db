"""Everything that can go wrong, once: the class, its wire code, whether a retry can help, and the sentence.

    InferdError
    ├── ProtocolError           the other side does not speak the protocol; the connection ends
    ├── ConfigError             the operator's settings or model files; `inferd` exits 78
    │   └── ModelLoadError      a model that cannot be imported or loaded, with the line of the user's file
    ├── DeviceUnavailable       the device that was asked for is not there; `inferd` exits 69
    └── RequestError            one request's outcome, as a code on the wire
        ├── InvalidArgument     INVALID_ARGUMENT     the caller's, never retryable
        ├── NotFound            NOT_FOUND            the caller's, never retryable
        ├── Unimplemented       UNIMPLEMENTED        the server does not know this message
        ├── Unauthenticated     UNAUTHENTICATED      the credentials are missing or wrong
        ├── Cancelled           CANCELLED            somebody took the request back
        │   └── Superseded      CANCELLED            a newer request of the same caller did
        ├── DeadlineExceeded    DEADLINE_EXCEEDED    also a builtin TimeoutError
        ├── ResourceExhausted   RESOURCE_EXHAUSTED   retryable: full now, not later
        ├── Unavailable         UNAVAILABLE          retryable: draining, lost worker, lost connection
        └── Internal            INTERNAL             the model raised

The codes are those of gRPC; a `reason` below the code says which of its cases this is. What a caller reads comes
from the catalogue here and never from an exception's text: details belong in the daemon's log.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_NO_DEVICE = 69
EXIT_CONFIG = 78


class InferdError(Exception):
    """The root of every error of inferd.

    Whoever catches it can ask each of them for `code`, `reason`, `retryable`, `retry_after_ms` and `request_id`; what
    these say of an error that is no request's is here.
    """

    code: ClassVar[str] = "UNKNOWN"
    reason: str = ""
    retryable: bool = False
    retry_after_ms: float | None = None
    request_id: int = 0


class ProtocolError(InferdError):
    """Bytes that are not this protocol. The stream is out of step, so the connection ends.

    `looks_like` names what the bytes seem to be ("HTTP", "TLS", …) when that can be told.
    """

    def __init__(self, message: str, looks_like: str = "") -> None:
        super().__init__(message)
        self.looks_like = looks_like


class ConfigError(InferdError):
    """A setting that cannot be used. Says what, why, and what to do."""


class ModelLoadError(ConfigError):
    """A model that cannot be imported or loaded. `location` is `file.py:12` where that is not the cause's own."""

    location = ""


class DeviceUnavailable(InferdError):
    """The device that was asked for is not on this machine."""


class RequestError(InferdError):
    """How one request ended, when not with a result.

    `code` is the gRPC name, `reason` the case below it, `retryable` whether the same request can succeed later or
    elsewhere, `retry_after_ms` the server's estimate of when (None: it has none), `request_id` the connection's id.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        retryable: bool | None = None,
        retry_after_ms: float | None = None,
        request_id: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retry_after_ms = retry_after_ms
        self.request_id = request_id
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.code}{'/' + self.reason if self.reason else ''}: {self.message}"


class InvalidArgument(RequestError):
    """The request cannot be right, on this server or any other."""

    code = "INVALID_ARGUMENT"


class NotFound(RequestError):
    """No model of that name is served."""

    code = "NOT_FOUND"


class Unimplemented(RequestError):
    """The server does not know this message or this protocol version."""

    code = "UNIMPLEMENTED"


class Unauthenticated(RequestError):
    """The server did not accept the credentials."""

    code = "UNAUTHENTICATED"


class Cancelled(RequestError):
    """The request was taken back before its answer left."""

    code = "CANCELLED"


class Superseded(Cancelled):
    """A newer request with the same `supersede` key took its place."""


class DeadlineExceeded(RequestError, TimeoutError):
    """The answer did not come in time."""

    code = "DEADLINE_EXCEEDED"


class ResourceExhausted(RequestError):
    """There is no room for the request now."""

    code = "RESOURCE_EXHAUSTED"
    retryable = True


class Unavailable(RequestError):
    """The server, a worker or the connection went away before the answer came."""

    code = "UNAVAILABLE"
    retryable = True


class Internal(RequestError):
    """The model failed on this request."""

    code = "INTERNAL"


BY_CODE: dict[str, type[RequestError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        Unimplemented,
        Unauthenticated,
        Cancelled,
        DeadlineExceeded,
        ResourceExhausted,
        Unavailable,
        Internal,
    )
}

# reason → (class, sentence). The sentence may name fields of the request itself, nothing else.
CATALOGUE: dict[str, tuple[type[RequestError], str]] = {
    "FIELD_TYPE": (InvalidArgument, "field {field!r} must be {expected}"),
    "FIELD_VALUE": (InvalidArgument, "field {field!r} {problem}"),
    "FIELD_MISSING": (InvalidArgument, "field {field!r} is missing"),
    "TENSOR": (InvalidArgument, "tensor {field!r}: {problem}"),
    "INPUT_MISSING": (InvalidArgument, "model {model!r} needs the input {field!r}, {expected}"),
    "INPUT_UNKNOWN": (InvalidArgument, "model {model!r} has no input {field!r}; it takes {expected}"),
    "INPUT_DTYPE": (InvalidArgument, "input {field!r}: model {model!r} takes {expected}, got {actual}"),
    "INPUT_SHAPE": (InvalidArgument, "input {field!r}: model {model!r} takes shape {expected}, got {actual}"),
    "INPUT_REJECTED": (InvalidArgument, "model {model!r} does not accept these inputs; the server's log says why"),
    "VALUES": (InvalidArgument, "the values segment {problem}"),
    "ROWS": (InvalidArgument, "input {field!r} must lead with rows = {expected}, got {actual}"),
    "PAYLOAD_TOO_LARGE": (
        InvalidArgument,
        "the payload of {actual} bytes is over this server's limit of {limit} bytes; send fewer rows",
    ),
    # The one sentence about the operator's own files, for the operator: whoever may ask for a RELOAD.
    "RELOAD_FAILED": (InvalidArgument, "nothing was changed: {problem}"),
    # These three come from the gateway only, in answers over HTTP.
    "BODY": (InvalidArgument, "the body {problem}"),
    "OUTPUT_UNKNOWN": (InvalidArgument, "model {model!r} has no output {field!r}; it returned {known}"),
    "NOT_IN_JSON": (Unimplemented, "output {field!r} {problem}"),
    "MODEL_NOT_FOUND": (NotFound, "no model {model!r} is served here; there are: {known}"),
    "UNKNOWN_MESSAGE": (Unimplemented, "message type {actual} is not known to this server"),
    "UNSUPPORTED_VERSION": (Unimplemented, "this server speaks protocol versions {expected}, you offered {actual}"),
    "TOKEN": (
        Unauthenticated,
        "this server asks for a token, and {problem}; ask whoever runs it for one, and show it with token=… "
        "or --token-file",
    ),
    "GUESSING": (
        ResourceExhausted,
        "too many wrong tokens have come from this address, so none is looked at for now; try again in {wait} s",
    ),
    # A client's own word, never on the wire.
    "TLS": (Unauthenticated, "no TLS connection with {address}: {problem}"),
    "PEER": (
        Unauthenticated,
        "{user} may not use this socket; ask whoever runs the server to let you in (allow_uids, allow_gids)",
    ),
    "ADMIN_ONLY": (
        Unauthenticated,
        "only root and the user that the daemon runs as may do this, and over its Unix socket only",
    ),
    "CLIENT_CANCELLED": (Cancelled, "the caller cancelled the request"),
    "SUPERSEDED": (Superseded, "a newer request with the same supersede key took its place"),
    # stage: "waiting to be sent", "queued", "computed" or "on its way".
    "TIMEOUT": (DeadlineExceeded, "no answer within {limit} ms; the request was {stage}"),
    "OVERLOADED": (
        ResourceExhausted,
        "the answer could not be ready within the deadline: about {wait} ms of work are ahead; "
        "try again after retry_after_ms",
    ),
    "TOO_MANY_IN_FLIGHT": (
        ResourceExhausted,
        "{limit} requests are in flight on this connection already; wait for answers, or for credits",
    ),
    "TOO_MANY_CONNECTIONS": (ResourceExhausted, "the server has {limit} connections already; try again later"),
    "SLAB_FULL": (ResourceExhausted, "the server's input memory is full; try again later"),
    "OUTPUT_TOO_LARGE": (
        ResourceExhausted,
        "the result does not fit the server's output memory of {limit} bytes; send fewer rows",
    ),
    "DEVICE_MEMORY": (ResourceExhausted, "the device ran out of memory on this request; send fewer rows"),
    "DRAINING": (Unavailable, "the server is shutting down; connect elsewhere"),
    "WORKER_LOST": (
        Unavailable,
        "the workers that were to compute this request died; they are being replaced, so try again later",
    ),
    "MODEL_REPLACED": (Unavailable, "while the request waited, model {model!r} was removed or replaced; ask again"),
    "CONNECTION_LOST": (Unavailable, "the connection to {address} was lost before the answer came"),
    "CONNECT_FAILED": (Unavailable, "cannot connect to {address}: {problem}"),
    "POISONED": (
        Internal,
        "two workers died while they computed this request, the second with no other; it is not tried again",
    ),
    "MODEL_FAILED": (Internal, "model {model!r} raised an error on this request; the server's log has it"),
    "OUTPUT_INVALID": (Internal, "model {model!r} returned something that cannot be sent; the server's log has it"),
}


def kind_of(code: str, reason: str) -> type[RequestError]:
    """The class for what came over the wire. A code this side does not know makes a plain RequestError."""
    cls, _ = CATALOGUE.get(reason, (RequestError, ""))
    return cls if cls.code == code else BY_CODE.get(code, RequestError)


# Cases in which the same request can never succeed, although their code mostly passes.
FINAL_REASONS = frozenset({"OUTPUT_TOO_LARGE"})


def make(reason: str, retry_after_ms: float | None = None, **fields: object) -> RequestError:
    """The error of the catalogue for `reason`, its sentence filled with `fields`."""
    cls, text = CATALOGUE[reason]
    retryable = False if reason in FINAL_REASONS else None
    return cls(text.format_map(fields), reason=reason, retryable=retryable, retry_after_ms=retry_after_ms)
