"""Every behaviour is asked of every kind of client, over TCP and over a Unix socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inferd_client.testing import FakeServer

from inferd.errors import make
from tests.client.client_kinds import KINDS, Held, open_client


def refuse(inputs: dict[str, Any]) -> dict[str, Any]:
    raise make(inputs["reason"], **inputs["fields"])


def crash(inputs: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def held() -> Iterator[Held]:
    model = Held()
    yield model
    model.release.set()


@pytest.fixture
def models(held: Held) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    return {
        "echo": lambda inputs: inputs,
        "double": lambda inputs: {"y": 2 * inputs["x"]},
        "shout": lambda inputs: {"text": inputs["text"].upper()},
        "flood": lambda inputs: {"y": np.zeros(inputs["nbytes"], np.uint8)},
        "held": held,
        "refuse": refuse,
        "crash": crash,
    }


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "inferd://127.0.0.1:0" if request.param == "tcp" else f"inferd+unix://{tmp_path}/s"


@pytest.fixture
def server(models: Any, url: str) -> Iterator[FakeServer]:
    with FakeServer(models, url, status={"queued": 3}) as server:
        yield server


@pytest.fixture
def client(kind: str, server: FakeServer) -> Iterator[Any]:
    with open_client(kind, server.url) as client:
        yield client


@pytest.fixture
def another(kind: str, models: Any) -> Iterator[Callable[..., tuple[FakeServer, Any]]]:
    """A server with settings of its own, and a client of it."""
    with ExitStack() as stack:

        def make_pair(client_options: dict[str, Any] | None = None, **options: Any) -> tuple[FakeServer, Any]:
            server = stack.enter_context(FakeServer(models, **options))
            return server, stack.enter_context(open_client(kind, server.url, **(client_options or {})))

        yield make_pair
