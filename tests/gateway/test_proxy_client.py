"""The gateway's own client: its caller's name, its caller's token, and trying again is its caller's business."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from inferd_client.testing import FakeServer

from inferd.errors import ResourceExhausted, Unauthenticated, make
from inferd.gateway.daemon import ProxyClient


def test_a_caller_without_a_token_does_not_get_the_operators(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever started the daemon may have a token file in the environment: it is not for others to use."""
    (tmp_path / "token").write_text("operators")
    monkeypatch.setenv("INFERD_TOKEN_FILE", str(tmp_path / "token"))

    async def ask(url: str) -> None:
        async with ProxyClient(url, "ip:192.0.2.1", "") as client:
            await client.infer("echo", {})

    with FakeServer({"echo": lambda inputs: inputs}, token="operators") as server:
        with pytest.raises(Unauthenticated):
            asyncio.run(ask(server.url))
        assert server.requests == []


def test_the_caller_is_told_and_tries_again_itself() -> None:
    """One try for each request over HTTP: two layers that both try again would try nine times."""

    def full(inputs: dict[str, object]) -> dict[str, object]:
        raise make("SLAB_FULL")

    async def ask(url: str) -> None:
        async with ProxyClient(url, "ip:192.0.2.1", "") as client:
            await client.infer("full", {})

    with FakeServer({"full": full}) as server:
        with pytest.raises(ResourceExhausted):
            asyncio.run(ask(server.url))
        assert len(server.requests) == 1
