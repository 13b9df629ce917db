"""The gateway's life beside the daemon's: start, death, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from inferd.config import Settings
from inferd.errors import ConfigError, InferdError
from inferd.serve import gateway as gateway_module
from inferd.serve.gateway import SILENT_BEATS, Gateway
from inferd.wire import frame as f
from inferd.wire.address import Address
from tests.cli.test_cli_serve import refusal
from tests.gateway.serving import MODELS, Served, page, serving

X = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Served]:
    """A daemon of this test's own that serves `gate`."""
    with serving(tmp_path, f"gate={MODELS}:Gate", "--set", f"folder={tmp_path}", "--drain-timeout-s", "10") as served:
        yield served


def gateway_pid(served: Served) -> int:
    """The process below the daemon whose program is the gateway."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == served.process.pid and b"inferd.gateway" in path.with_name("cmdline").read_bytes():
                return int(path.parent.name)
    raise AssertionError("there is no gateway")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_gateway_comes_back_where_it_was(gate: Served) -> None:
    """The daemon keeps the socket: nobody is refused, a request that comes meanwhile is answered by the next one. The
    daemon itself and those on its own socket notice nothing."""
    refused: list[Exception] = []
    answers = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal answers
        while not stop.is_set():
            try:
                answers += gate.ask("GET", "/livez").status == 200
            except ConnectionRefusedError as error:
                refused.append(error)
            except (ConnectionError, http.client.HTTPException):
                pass  # it was being served when the gateway was killed

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(2):
            pid = gateway_pid(gate)
            os.kill(pid, signal.SIGKILL)
            until(lambda dead=pid: gone(dead))
            assert gate.infer("gate", X).status == 200
            assert gateway_pid(gate) != pid
    finally:
        stop.set()
        thread.join()
    assert answers and not refused
    assert gate.status()["state"] == "ready"
    assert gate.stop() == 0


def test_what_is_said_while_it_starts_is_heard() -> None:
    """One that replaces another while the daemon drains, or reloads, is told so before it has read its first line."""

    async def go() -> str:
        gateway = Gateway(Settings(), Address(host="127.0.0.1", port=0))
        gateway.bind()
        gateway.drain()
        await gateway.start()
        try:
            url = f"http://{gateway.address.host}:{gateway.address.port}/readyz"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return await answer.text()
        finally:
            await gateway.close()

    assert "shutting down" in asyncio.run(go())


def test_a_stopped_gateway_does_not_hold_the_daemon_up(tmp_path: Path) -> None:
    """One that does not answer (SIGSTOP) is killed when the time for the drain is over."""
    with serving(tmp_path, "virtual", "--drain-timeout-s", "1") as served:
        pid = gateway_pid(served)
        os.kill(pid, signal.SIGSTOP)
        assert served.stop() == 0
        assert gone(pid)


def test_a_second_signal_ends_a_gateway_that_still_answers(tmp_path: Path) -> None:
    """However much of the drain's time is left: nobody waits for one that is stopped (SIGSTOP)."""
    with serving(tmp_path, "virtual", "--drain-timeout-s", "600") as served:
        pid = gateway_pid(served)
        os.kill(pid, signal.SIGSTOP)
        served.process.terminate()
        with contextlib.suppress(OSError, InferdError):
            while True:  # until the drain has begun, and nobody is let in any more
                served.status()
        assert served.stop() == 0
        assert gone(pid)


def asking(served: Served, head: str, body: bytes) -> socket.socket:
    """A connection on which this has been asked of a model."""
    sock = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    sock.sendall(f"POST /v2/models/{head}\r\n\r\n".encode() + body)
    return sock


def received(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def test_whoever_reads_an_answer_gets_all_of_it(tmp_path: Path) -> None:
    """A REST answer that the daemon has long given to the gateway is sent to its end while the drain has time."""
    body = json.dumps({"inputs": [X], "parameters": {"binary_data_output": True}}).encode()
    log = tmp_path / "log"
    with serving(tmp_path, f"big={MODELS}:Big", "--drain-timeout-s", "60") as served:
        head = f"big/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        with asking(served, head, body) as sock:
            first = sock.recv(1)
            served.process.terminate()
            until(lambda: "draining" in log.read_text())
            time.sleep(4)  # longer than answers once had from the end of the drain on
            answer = first + received(sock)
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = next(int(line.split()[1]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        assert len(rest) == length > 16 * 1024 * 1024
        assert served.process.wait(20) == 0


def test_an_upload_that_comes_too_late_is_told_so(gate: Served) -> None:
    """At once, and the connection then ends: the rest of the body can be sent, and its caller hears 503."""
    half = b" " * 16_000_000  # more than the sockets hold: once it is sent, the handler reads
    head = f"gate/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 * len(half)}\r\nExpect: 100-continue"
    with asking(gate, head, b"") as sock:
        assert b"100" in sock.recv(1000)
        sock.sendall(half)
        gate.process.terminate()
        answer = sock.recv(1000)
        assert b" 503 " in answer.split(b"\r\n")[0] and b"DRAINING" in answer
        assert b"connection: close" in answer.lower()
        sock.sendall(half)
        assert sock.recv(1000) == b""
    assert gate.process.wait(20) == 0


def test_a_gateway_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One whose loop stands still (SIGSTOP) says nothing: the log has it, and the next one answers who waits."""
    monkeypatch.setattr("inferd.serve.gateway.BEAT_S", 0.1)
    caplog.set_level("INFO", "inferd")

    async def go() -> int:
        gateway = Gateway(Settings(), Address(host="127.0.0.1", port=0))
        gateway.bind()
        await gateway.start()
        try:
            assert gateway._process is not None
            first = gateway._process.pid
            os.kill(first, signal.SIGSTOP)
            url = f"http://{gateway.address.host}:{gateway.address.port}/livez"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                assert answer.status == 200
            return first
        finally:
            await gateway.close()

    first = asyncio.run(asyncio.wait_for(go(), 60))
    events = [(record.getMessage(), record.__dict__.get("fields", {}).get("pid")) for record in caplog.records]
    assert ("gateway_hung", first) in events and ("gateway_lost", first) in events


def test_a_gateway_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, so that it is not taken for one that hangs; also one that is busy draining."""
    monkeypatch.setattr("inferd.serve.gateway.BEAT_S", 0.01)

    async def go() -> list[bytes]:
        gateway = Gateway(Settings(), Address(host="127.0.0.1", port=0))
        gateway.bind()
        assert await gateway._launch()
        assert gateway._process is not None and gateway._process.stdout is not None
        gateway.drain()
        try:
            return [await gateway._process.stdout.readline() for _ in range(5)]
        finally:
            await gateway.close()

    assert asyncio.run(asyncio.wait_for(go(), 60)) == [b"alive\n"] * 5


def test_a_silence_that_the_daemon_slept_through_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are counted: however long one of them took, a word after it and the gateway lives."""
    monkeypatch.setattr("inferd.serve.gateway.BEAT_S", 0.0)

    class Process:
        def __init__(self, words: list[bytes | None]) -> None:
            self.stdout = self
            self.words = words

        async def read(self, nbytes: int) -> bytes:
            word = self.words.pop(0)
            if word is None:
                await asyncio.Event().wait()  # until the wait is given up
            return word or b""

    async def falls_silent(words: list[bytes | None]) -> bool:
        return await Gateway(Settings(), Address())._falls_silent(Process(words))  # type: ignore[arg-type]

    almost = [None] * (SILENT_BEATS - 1)
    assert asyncio.run(falls_silent([*almost, b"alive\n", *almost, b"alive\n", b""])) is False
    assert asyncio.run(falls_silent([b"alive\n", *almost, None])) is True


def test_it_ends_with_a_daemon_that_is_killed(gate: Served) -> None:
    """SIGKILL to the daemon ends the gateway too."""
    pid = gateway_pid(gate)
    gate.process.kill()
    gate.process.wait(10)
    until(lambda: gone(pid))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the private socket is the user's alone, and goes with the daemon."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # for the path of a socket
        monkeypatch.setenv("TMPDIR", short)
        with serving(tmp_path, "virtual") as served:
            (folder,) = Path(short).glob("inferd-*")
            assert folder.stat().st_mode & 0o777 == 0o700
            assert served.stop() == 0
        assert not os.listdir(short)


def test_a_drain_is_said_and_finishes_what_is_there(gate: Served, tmp_path: Path) -> None:
    """While the last request runs: alive, not ready, new work is sent away, a page hears GOAWAY and gets its answer,
    and so does a REST caller. Each answer ends its connection: whoever kept it would ask here again. Then the page's
    WebSocket ends with 1012, and the daemon with 0."""
    shut = tmp_path / "shut"
    statuses: list[int] = []

    async def talk() -> None:
        async with page(gate) as here:
            await here.greet()
            shut.touch()
            await here.send(1, "gate", b"\0\0\0\0")
            rest = threading.Thread(target=lambda: statuses.append(gate.infer("gate", X).status))
            rest.start()
            await asyncio.to_thread(gate.until, lambda status: status["in_flight"] == 2)
            gate.process.send_signal(signal.SIGTERM)
            assert (await here.next()).type == f.GOAWAY
            await asyncio.to_thread(until, lambda: gate.ask("GET", "/readyz").status == 503)
            live = gate.ask("GET", "/livez")
            assert live.status == 200 and live.headers["Connection"] == "close"
            assert gate.ask("GET", "/v2/health/ready").status == 503
            answer = gate.infer("gate", X)
            assert answer.headers["Connection"] == "close"
            assert answer.status == 503 and answer.json["reason"] == "DRAINING" and answer.headers["Retry-After"]
            assert b"inferd_ready 0.0" in gate.ask("GET", "/metrics").body
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with page(gate):
                    pass
            assert caught.value.status == 503
            shut.unlink()
            assert (await here.next()).type == f.RESULT
            await asyncio.to_thread(rest.join)
            end = await here.ws.receive(timeout=10)
            assert end.data == aiohttp.WSCloseCode.SERVICE_RESTART

    asyncio.run(talk())
    assert statuses == [200] and gate.process.wait(10) == 0


def test_without_a_worker_it_is_not_ready(tmp_path: Path) -> None:
    """A worker that died and cannot come back: alive, not ready, and the metrics say so."""
    with serving(tmp_path, f"deadly={MODELS}:Deadly", "--set", f"folder={tmp_path}") as served:
        assert served.ask("GET", "/readyz").status == 200
        (tmp_path / "broken").touch()
        negative = {**X, "data": [-1]}
        served.infer("deadly", negative, parameters={"timeout": 300_000})
        until(lambda: served.ask("GET", "/readyz").status == 503)
        assert served.ask("GET", "/livez").status == 200
        assert b"inferd_ready 0.0" in served.ask("GET", "/metrics").body
        (tmp_path / "broken").unlink()
        until(lambda: served.ask("GET", "/readyz").status == 200)


def test_a_port_that_is_taken_is_known_at_the_start(tmp_path: Path) -> None:
    """One sentence, exit 78, before a model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refusal(tmp_path, "virtual", "--web", f"127.0.0.1:{taken.getsockname()[1]}")
    assert said.count("\n") == 1 and "another address with --web" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--web", "0.0.0.0:7480"), "--tokens FILE"),
        (("--web=nonsense",), "HOST:PORT"),
        (("--web=127.0.0.1",), "HOST:PORT"),
        (("--web-origin", "https://a.example/path"), "is no origin"),
        (("--tokens", "/nowhere"), "No such file"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    """Exit 78 and one sentence that says what to write."""
    said = refusal(tmp_path, "virtual", *words)
    assert said.count("\n") == 1 and sentence in said


def test_one_that_does_not_start_is_no_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be for want of a process or of memory: no ConfigError, with which systemd would not try again."""
    monkeypatch.setattr(gateway_module, "PROGRAM", "inferd.no_such_gateway")

    async def start() -> InferdError:
        gateway = Gateway(Settings(), Address(host="127.0.0.1", port=0))
        gateway.bind()
        try:
            with pytest.raises(InferdError, match="did not start") as caught:
                await gateway.start()
        finally:
            await gateway.close()
        return caught.value

    assert not isinstance(asyncio.run(start()), ConfigError)
