"""The package as its users meet it: a light door, the same face on both clients, processes, loops and interruptions."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import inferd_client
import pytest
from inferd_client import AsyncClient, Client, DeadlineExceeded, Unavailable
from inferd_client.testing import FakeServer

import inferd.errors
from tests.client.client_kinds import Held


def run_python(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_light_door() -> None:
    """Importing the client brings in nothing heavy; AsyncClient brings in asyncio when it is asked for."""
    loaded = run_python("import inferd_client, sys; print(*sys.modules)").split()
    assert not {"torch", "numpy", "asyncio", "inferd_client.aio", "uvloop", "ssl"} & set(loaded)
    assert "asyncio" in run_python("from inferd_client import AsyncClient; import sys; print(*sys.modules)").split()


def test_text_needs_no_numpy() -> None:
    """Where numpy cannot be imported, models of text work and a tensor says what is missing."""
    program = """
import sys
sys.modules["numpy"] = None
from inferd_client import Client, ConfigError
with Client(sys.argv[1]) as client:
    print(client.infer("shout", {"text": "ada"}), client.infer_batch("echo", {"text": ["a", "b"]}))
    try:
        client.infer("flood", {"nbytes": 3})
    except ConfigError as error:
        print(error)
"""
    models = {
        "shout": lambda inputs: {"text": inputs["text"].upper()},
        "echo": lambda inputs: inputs,
        "flood": lambda inputs: {"y": __import__("numpy").zeros(inputs["nbytes"])},
    }
    with FakeServer(models) as server:
        printed = run_python(program, server.url)
    assert "{'text': 'ADA'} {'text': ['a', 'b']}" in printed and "pip install numpy" in printed


def public(cls: type) -> dict[str, inspect.Signature]:
    names = [name for name in dir(cls) if not name.startswith("_")] + ["__init__"]
    return {name: inspect.signature(getattr(cls, name)) for name in names}


def test_both_clients_have_the_same_face() -> None:
    sync, asynchronous = public(Client), public(AsyncClient)
    streams = sync.pop("stream"), asynchronous.pop("stream")
    assert sync == asynchronous
    # What a stream takes and returns may be asynchronous, which is another type.
    faces = [[(p.name, p.kind, p.default) for p in stream.parameters.values()] for stream in streams]
    assert faces[0] == faces[1]
    assert inspect.isgeneratorfunction(Client.stream) and inspect.isasyncgenfunction(AsyncClient.stream)
    waiting = {name for name in sync if inspect.iscoroutinefunction(getattr(AsyncClient, name))}
    assert sync.keys() - waiting == {"__init__", "with_options"}
    for cls in (Client, AsyncClient):
        assert all(getattr(cls, name).__doc__ for name in public(cls) if name != "__init__")


def test_every_error_is_exported() -> None:
    errors = [e for e in vars(inferd.errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    for error in errors:
        assert getattr(inferd_client, error.__name__) is error
    for name in inferd_client.__all__:
        assert hasattr(inferd_client, name)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = inferd_client.nonsense


def test_where_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFERD_URL", raising=False)
    assert repr(Client()) == "Client('inferd://127.0.0.1:7433')"
    monkeypatch.setenv("INFERD_URL", "inferd+unix:///run/inferd.sock")
    assert repr(AsyncClient()) == "AsyncClient('inferd+unix:///run/inferd.sock')"
    assert repr(Client("inferd://[::1]")) == "Client('inferd://[::1]:7433')"
    assert repr(Client("inferd://host", token="secret").with_options(timeout_ms=1)) == "Client('inferd://host:7433')"
    assert repr(Client("inferd://a,b:1,inferd+unix:///x,y,inferd://c")) == (
        "Client('inferd://a:7433,inferd://b:1,inferd+unix:///x,y,inferd://c:7433')"
    )


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_a_forked_child_connects_by_itself(cls: type) -> None:
    """The child never touches the parent's socket, not even to close it."""
    program = """
import asyncio, os, sys, inferd_client
def both(result):
    return asyncio.run(result) if asyncio.iscoroutine(result) else result
async def later(client):
    parent = await client.infer("echo", {"who": "parent"})
    if (child := os.fork()) == 0:
        os._exit(0 if child_call() == {"who": "child"} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert await client.infer("echo", {"who": "parent"}) == parent
    await client.close()
def child_call():
    # The parent's loop is running in this thread as far as asyncio knows; a thread has none.
    from concurrent.futures import ThreadPoolExecutor
    async def call():
        async with client.with_options(timeout_ms=20_000) as mine:
            return await mine.infer("echo", {"who": "child"})
    with ThreadPoolExecutor() as pool:
        return pool.submit(asyncio.run, call()).result()
client = getattr(inferd_client, sys.argv[2])(sys.argv[1])
if sys.argv[2] == "AsyncClient":
    asyncio.run(later(client))
else:
    client.infer("echo", {"who": "parent"})
    if (child := os.fork()) == 0:
        with client:
            answer = client.infer("echo", {"who": "child"})
        os._exit(0 if answer == {"who": "child"} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.infer("echo", {"who": "parent"})
    client.close()
"""
    with FakeServer({"echo": lambda inputs: inputs}) as server:
        run_python(program, server.url, cls.__name__)
        assert server.connections == 2
        assert [request.inputs["who"] for request in server.requests] == ["parent", "child", "parent"]


def test_one_async_client_in_two_loops() -> None:
    """A connection belongs to a loop; another loop gets its own."""
    with FakeServer({"echo": lambda inputs: inputs}) as server:
        client = AsyncClient(server.url)

        async def call(last: bool) -> None:
            assert await client.infer("echo", {"n": 1}) == {"n": 1}
            if last:
                await client.close()

        asyncio.run(call(last=False))
        asyncio.run(call(last=True))
        assert server.connections == 2


def test_trying_again_without_a_pause() -> None:
    """A failed connection is tried anew by the next call, also in the moment in which it failed."""

    async def insist(client: AsyncClient, server: FakeServer, attempts: list[int], lazy: bool) -> None:
        while True:
            attempts.append(1)
            assert len(attempts) < 100_000
            if len(attempts) == 50:
                server.start()
            try:
                await client.infer("echo", {})
                return
            except Unavailable:
                if lazy:
                    await asyncio.sleep(0)

    async def conversation(server: FakeServer) -> None:
        attempts: list[int] = []
        async with AsyncClient(server.url) as client:
            await asyncio.gather(*(insist(client, server, attempts, lazy=bool(n % 2)) for n in range(9)))

    with FakeServer({"echo": lambda inputs: inputs}) as server:
        server.stop()
        asyncio.run(conversation(server))


@pytest.mark.parametrize("waiting_for", ["answer", "credit", "connection"])
def test_a_cancelled_task_cancels_the_request(held: Held, waiting_for: str) -> None:
    async def conversation(server: FakeServer) -> None:
        async with AsyncClient(server.url) as client:
            if waiting_for != "connection":
                await client.ping()
            tasks = [asyncio.create_task(client.infer("held", {"n": n})) for n in range(2)]
            if waiting_for != "connection":
                await asyncio.to_thread(server.wait_for, lambda s: len(s.requests) == 1)
            else:
                await asyncio.sleep(0)
            victim = tasks[0] if waiting_for == "answer" else tasks[1]
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            if waiting_for == "answer":
                await asyncio.to_thread(server.wait_for, lambda s: s.cancelled == [2])
            held.release.set()
            tasks.remove(victim)
            assert await tasks[0] in ({"n": 0}, {"n": 1})
            assert len(server.cancelled) == (waiting_for == "answer")

    with FakeServer({"held": held}, credits=1) as server:
        asyncio.run(conversation(server))
        assert server.connections == 1


def test_an_interrupt_cancels_the_request(held: Held) -> None:
    """Ctrl-C while waiting: the server hears of it, and the client still works."""
    with FakeServer({"held": held, "echo": lambda inputs: inputs}) as server, Client(server.url) as client:
        main = threading.main_thread().ident
        assert main is not None

        def interrupt() -> None:
            server.wait_for(lambda s: len(s.requests) == 1)
            while sys._current_frames()[main].f_code.co_name != "_wait":  # it may still be sending
                pass
            signal.pthread_kill(main, signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                client.infer("held", {})
            thread.join()
        finally:
            signal.signal(signal.SIGINT, before)
        server.wait_for(lambda s: s.cancelled == [1])
        assert client.infer("echo", {"n": 1}) == {"n": 1}
        assert server.connections == 1


def test_the_role_of_the_receiver_is_handed_on(held: Held) -> None:
    """The thread that receives for all gives up first; the others still get their answers."""
    with FakeServer({"held": held}) as server, Client(server.url) as client:
        results: list[object] = []

        def patient(n: int) -> None:
            results.append(client.infer("held", {"n": n})["n"])

        def impatient() -> None:
            with pytest.raises(DeadlineExceeded):
                client.infer("held", {"n": -1}, timeout_ms=200)

        leader = threading.Thread(target=impatient)
        leader.start()
        server.wait_for(lambda s: len(s.requests) == 1)
        threads = [threading.Thread(target=patient, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        server.wait_for(lambda s: len(s.requests) == 9)
        leader.join()
        held.release.set()
        for thread in threads:
            thread.join(20)
        assert sorted(results) == list(range(8))  # type: ignore[type-var]


def test_a_stream_that_nobody_leaves_does_not_keep_a_program_from_ending() -> None:
    program = """
import sys
from inferd_client import Client
results = Client(sys.argv[1], timeout_ms=600_000).stream("m", ({"n": n} for n in range(8)))
assert next(results) == {"n": 0}
"""

    def first_only(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["n"]:
            ended.wait()
        return inputs

    ended = threading.Event()
    with FakeServer({"m": first_only}) as server:
        try:
            run_python(program, server.url)
        finally:
            ended.set()


def test_the_fixture_for_users(tmp_path: Path) -> None:
    """A project's tests ask for `inferd_server`, and a client without a URL finds it."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["inferd_client.pytest_plugin"]')
    (tmp_path / "test_it.py").write_text(
        "from inferd_client import Client\n"
        "def test_it(inferd_server):\n"
        "    inferd_server.models['shout'] = lambda inputs: {'text': inputs['text'].upper()}\n"
        "    with Client() as client:\n"
        "        assert client.infer('shout', {'text': 'ada'}) == {'text': 'ADA'}\n"
        "    assert inferd_server.requests[0].inputs == {'text': 'ada'}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_fork_while_it_connects(held: Held) -> None:
    """The child of a process with a thread in the middle of connecting is not stuck with its locks."""
    program = """
import os, sys, threading
from inferd_client import Client
client = Client(sys.argv[1] + "," + sys.argv[2], connect_timeout_ms=60_000)
threading.Thread(target=lambda: client.infer("held", {}), daemon=True).start()
client.infer("echo", {})
for _ in range(5):
    if (child := os.fork()) == 0:
        os._exit(0 if client.infer("echo", {"n": 2}, timeout_ms=20_000) == {"n": 2} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert client.infer("echo", {"n": 1}) == {"n": 1}
"""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        FakeServer({"echo": lambda inputs: inputs, "held": held}) as server,
    ):
        run_python(program, server.url, f"inferd://127.0.0.1:{silent.getsockname()[1]}")
        held.release.set()


def test_the_fake_servers_socket_file_goes_away(tmp_path: object) -> None:
    path = f"{tmp_path}/s"
    with FakeServer({}, f"inferd+unix://{path}") as server:
        assert os.path.exists(path)
        with Client(server.url) as client:
            assert client.models() == []
    assert not os.path.exists(path)
