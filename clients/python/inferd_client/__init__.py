"""The client of inferd.

    from inferd_client import Client

    with Client("inferd://127.0.0.1:7433") as client:
        result = client.infer("ner", {"text": "Ada Lovelace met Charles Babbage in London in 1833."}, timeout_ms=500)

`Client` is for threads and scripts, `AsyncClient` for asyncio; both have the same methods. Every error is an
`InferdError`. `inferd_client.testing` has a FakeServer for your own tests. How it is made:

    codec.py            inputs → payload buffers, payload → outputs
    call.py             one thing a caller waits for, and its states
    core.py             ids, credits, cancelling: the logic of a connection, without the connection
    connection.py       the core on a socket shared by threads
    aio_connection.py   the core on an asyncio transport
    endpoints.py        which of the connections takes a call, and which address is dialled when
    retry.py            what is sent again, after which pause, and how often in all
    link.py, aio_link.py    dialling, and waiting for a connection
    sync.py             Client
    aio.py              AsyncClient
    base.py             what both share: options, timeouts, repr
    url.py              addresses and options, from the URL and the environment
    testing.py          FakeServer; pytest_plugin.py has it as a fixture

Importing this needs neither numpy nor asyncio: both are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd._version import __version__
from inferd.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    DeviceUnavailable,
    InferdError,
    Internal,
    InvalidArgument,
    ModelLoadError,
    NotFound,
    ProtocolError,
    RequestError,
    ResourceExhausted,
    Superseded,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from inferd_client.call import Result
from inferd_client.sync import Client

if TYPE_CHECKING:
    from inferd_client.aio import AsyncClient

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Client",
    "ConfigError",
    "DeadlineExceeded",
    "DeviceUnavailable",
    "InferdError",
    "Internal",
    "InvalidArgument",
    "ModelLoadError",
    "NotFound",
    "ProtocolError",
    "RequestError",
    "ResourceExhausted",
    "Result",
    "Superseded",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        from inferd_client.aio import AsyncClient

        globals()["AsyncClient"] = AsyncClient  # found without this function from now on
        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
