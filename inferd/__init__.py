"""inferd: an inference daemon for PyTorch models over a raw socket.

    from inferd import Client

    with Client() as client:
        print(client.infer("ner", {"text": "Ada Lovelace met Charles Babbage in London in 1833."})["spans"])

`import inferd` costs nothing: the client is loaded when it is asked for, torch only by a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferd._version import __version__

if TYPE_CHECKING:
    from inferd_client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        import inferd_client

        return getattr(inferd_client, name)
    raise AttributeError(f"module 'inferd' has no attribute {name!r}")
