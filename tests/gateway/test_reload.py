"""The gateway while the daemon's settings change: it goes on, and whoever is connected stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inferd.cli.reload import ask
from inferd.wire import frame as f
from inferd.wire.messages import Error, GoAway
from tests.gateway.serving import Served, page, serving
from tests.gateway.test_supervision import asking, gateway_pid
from tests.running import DOUBLES

TOKEN = "ada-0123456789abcdef"
ONE = b"\0\0\x80\x3f"
X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
MODEL = f"""
[models.double]
target = "{DOUBLES}:Double"
"""


def with_file(tmp_path: Path, test: Callable[[Served, Callable[[str], list[str]]], Any]) -> None:
    """Serves a file that has a model in it; `test` gets the daemon, and what writes more into the file and reloads."""
    path = tmp_path / "inferd.toml"
    path.write_text(MODEL)

    with serving(tmp_path, "--config", str(path)) as served:

        def edit(more: str) -> list[str]:
            path.write_text(MODEL + more)
            return ask(str(tmp_path / "inferd.sock"))

        asyncio.run(test(served, edit))


def test_origins_change_without_a_new_gateway(tmp_path: Path) -> None:
    """Pages of a site that is let in now may ask at once; a WebSocket that is open stays."""

    async def test(served: Served, edit: Callable[[str], list[str]]) -> None:
        pid = gateway_pid(served)
        async with page(served) as there:
            await there.greet()
            assert served.ask("GET", "/v2", Origin="https://demo.example").status == 403
            assert edit('[web]\norigins = ["https://demo.example"]\n') == ["web_origin: none -> https://demo.example"]
            assert served.ask("GET", "/v2", Origin="https://demo.example").status == 200
            assert edit("") == ["web_origin: https://demo.example -> none"]
            assert served.ask("GET", "/v2", Origin="https://demo.example").status == 403
            await there.send(1, "double", ONE)
            assert (await there.next()).type == f.RESULT
        assert gateway_pid(served) == pid

    with_file(tmp_path, test)


def test_tokens_change_for_the_next_request(tmp_path: Path) -> None:
    """Over HTTP that is each one, also on connections that the gateway had made before; a page that is open stays."""

    async def test(served: Served, edit: Callable[[str], list[str]]) -> None:
        tokens = tmp_path / "tokens"
        tokens.write_text(f"ada: {TOKEN}\n")
        tokens.chmod(0o600)
        async with page(served) as there:
            await there.greet()
            assert served.infer("double", X).status == 200
            assert edit(f'[auth]\ntokens = "{tokens}"\n') == [f"tokens: none -> {tokens}"]
            assert served.infer("double", X).status == 401
            body = {"inputs": [X]}
            path = "/v2/models/double/infer"
            assert served.ask("POST", path, body, Authorization=f"Bearer {TOKEN}").status == 200
            assert served.ask("GET", "/readyz").status == 200
            await there.send(1, "double", ONE)
            assert (await there.next()).type == f.RESULT
            async with page(served) as late:
                frame = await late.greet()
                assert isinstance(frame.message, Error) and frame.message.reason == "TOKEN"
            assert edit("") == [f"tokens: {tokens} -> none"]
            assert served.infer("double", X).status == 200

    with_file(tmp_path, test)


def test_who_shows_a_token_early_is_served_when_it_is_asked_for(tmp_path: Path) -> None:
    """A reload asks for tokens, and has other models, while a body comes: who has shown the right one all along gets an
    answer, and who has shown none does not."""

    async def test(served: Served, edit: Callable[[str], list[str]]) -> None:
        tokens = tmp_path / "tokens"
        tokens.write_text(f"ada: {TOKEN}\n")
        tokens.chmod(0o600)
        body = json.dumps({"inputs": [X]}).encode()
        head = f"double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nExpect: 100-continue"
        with (
            asking(served, f"{head}\r\nAuthorization: Bearer {TOKEN}", b"") as ada,
            asking(served, head, b"") as nobody,
        ):
            for sock in (ada, nobody):
                assert b"100" in sock.recv(1000)  # its handler reads the body now
            edit(f'[models.more]\ntarget = "{DOUBLES}:Double"\n[auth]\ntokens = "{tokens}"\n')
            assert served.infer("double", X).status == 401  # the gateway has heard of it
            for sock, status in ((ada, b" 200 "), (nobody, b" 401 ")):
                sock.sendall(body)
                assert status in sock.recv(1000).split(b"\r\n")[0]

    with_file(tmp_path, test)


def test_models_follow(tmp_path: Path) -> None:
    """A model that was added has its metadata and answers at once; a page that is open is told to connect again."""

    async def test(served: Served, edit: Callable[[str], list[str]]) -> None:
        async with page(served) as there:
            await there.greet()
            assert served.ask("GET", "/v2/models/more").status == 404
            assert edit(f'[models.more]\ntarget = "{DOUBLES}:Double"\n') == ["model more: added"]
            assert served.ask("GET", "/v2/models/more").status == 200
            assert served.infer("more", X).status == 200
            frame = await there.next()
            assert isinstance(frame.message, GoAway) and frame.message.reason == "MODELS_CHANGED"
            await there.send(1, "more", ONE)
            assert (await there.next()).type == f.RESULT

    with_file(tmp_path, test)


def test_no_page_asks_for_a_reload(tmp_path: Path) -> None:
    """What comes through the gateway's socket is a browser's, although it is the daemon's own user who connects."""

    async def test(served: Served, edit: Callable[[str], list[str]]) -> None:
        async with page(served) as there:
            await there.greet()
            await there.ws.send_bytes(there.peer.send(f.RELOAD, request_id=1))
            frame = await there.next()
            assert isinstance(frame.message, Error) and frame.message.reason == "ADMIN_ONLY"
            assert served.status()["reload"] is None

    with_file(tmp_path, test)
