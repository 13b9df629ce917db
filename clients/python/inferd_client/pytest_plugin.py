"""A server as a fixture, for the tests of programs that use inferd. In the topmost conftest.py:

    pytest_plugins = ["inferd_client.pytest_plugin"]

and in a test:

    def test_my_program(inferd_server):
        inferd_server.models["shout"] = lambda inputs: {"text": inputs["text"].upper()}
        assert my_program.run("hello") == "HELLO"  # its Client() finds the server by $INFERD_URL
        assert inferd_server.requests[0].inputs == {"text": "hello"}
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inferd_client.testing import FakeServer


@pytest.fixture
def inferd_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A FakeServer without models, where every Client and AsyncClient made without a URL connects to."""
    with FakeServer({}) as server:
        monkeypatch.setenv("INFERD_URL", server.url)
        monkeypatch.delenv("INFERD_TOKEN_FILE", raising=False)
        yield server
