"""Settings that change while the daemon serves: whole or not at all, and nobody is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inferd_client import AsyncClient, Client

from inferd.config import ModelConfig, Settings
from inferd.errors import ConfigError, ModelLoadError
from inferd.serve import workers
from inferd.serve.pool import Condition
from inferd.serve.reload import Reloader, difference, fingerprints
from inferd.wire import frame as f
from inferd.wire.address import Address
from inferd.wire.messages import Error, GoAway
from inferd.wire.values import unpack_values
from tests.rawpeer import RawPeer
from tests.running import Daemon, double, running


class Operator:
    """Whoever edits the settings of a running daemon, and then asks it to reload."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.settings = daemon.engine.settings
        self.problem = ""

        def with_reloader() -> None:
            daemon.engine.reloader = Reloader(daemon.engine, self.reread)

        daemon.ask(with_reloader)

    def reread(self) -> Settings:
        if self.problem:
            raise ConfigError(self.problem)
        return self.settings

    def edit(self, **changes: Any) -> None:
        self.settings = dataclasses.replace(self.settings, **changes)

    def reload(self, timeout_s: float = 60.0) -> list[str]:
        """What has changed. Raises what the reload raises."""
        reloader = self.daemon.engine.reloader
        assert reloader is not None
        return asyncio.run_coroutine_threadsafe(reloader.reload(), self.daemon._loop).result(timeout_s)


def answer(peer: RawPeer, request_id: int = 7) -> list[str] | Error:
    """What RELOAD is answered with."""
    peer.sock.settimeout(60)
    peer.sock.sendall(peer.peer.send(f.RELOAD, request_id=request_id))
    frame = peer.next()
    assert frame.request_id == request_id
    if isinstance(frame.message, Error):
        return frame.message
    assert frame.type == f.RELOAD and frame.payload is not None
    changed: list[str] = unpack_values(frame.payload)["changed"]
    return changed


# ---- whole or not at all


def test_without_a_change_nothing_changes(tmp_path: Path) -> None:
    """The settings in force stay the same object, and so do the workers."""
    with running(tmp_path, double("Double")) as daemon:
        operator = Operator(daemon)
        before = daemon.engine.settings, daemon.ask(lambda: daemon.engine.pool.workers[0].pid)
        assert operator.reload() == []
        assert (daemon.engine.settings, daemon.ask(lambda: daemon.engine.pool.workers[0].pid)) == before
        assert daemon.ask(lambda: daemon.engine.reloader.last["state"]) == "nothing changed"  # type: ignore[union-attr,index]


def test_a_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """The caller hears the reader's sentence, STATUS says that it failed and not why."""
    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.unix_url) as peer:
        operator = Operator(daemon)
        operator.edit(max_connections=7)
        operator.problem = "inferd.toml, line 3: slab_mbi is no setting; did you mean slab_mib?"
        told = answer(peer)
        assert isinstance(told, Error)
        assert (told.code, told.reason, told.retryable) == ("INVALID_ARGUMENT", "RELOAD_FAILED", False)
        assert told.message == f"nothing was changed: {operator.problem}"
        assert daemon.engine.settings.max_connections == 4096
        with Client(daemon.url) as client:
            status = client.status()["reload"]
            assert status["state"] == "failed" and "toml" not in str(status)
        operator.problem = ""
        assert answer(peer) == ["max_connections: 4096 -> 7"]


@pytest.mark.parametrize(
    ("name", "value"), [("slab_mib", 512), ("arena_mib", 512), ("devices", ("cpu", "cpu")), ("listen", ())]
)
def test_what_is_not_live_needs_a_restart(tmp_path: Path, name: str, value: Any) -> None:
    """Its name is told, and what could have changed with it does not."""
    with running(tmp_path, double("Double")) as daemon:
        operator = Operator(daemon)
        operator.edit(max_connections=7, **{name: value})
        with pytest.raises(ConfigError, match=f"needs a restart: {name}$"):
            operator.reload()
        assert daemon.engine.settings.max_connections == 4096


def test_settings_that_cannot_work_together_change_nothing(tmp_path: Path) -> None:
    """They are checked as at the start."""
    with running(tmp_path, double("Double")) as daemon:
        operator = Operator(daemon)
        operator.edit(payload_mib=200)
        with pytest.raises(ConfigError, match="over a quarter of slab_mib"):
            operator.reload()
        assert daemon.engine.limits.payload_bytes == 64 * 1024 * 1024


def test_a_path_that_is_no_utf_8_is_told_all_the_same(tmp_path: Path) -> None:
    """Whoever asked hears of it with the odd byte escaped, in what has changed and in what is wrong."""
    paths = [tmp_path / f"{name}\udcff" for name in ("one", "two")]
    for path in paths:
        path.write_text("ada: 0123456789abcdef\n")
        path.chmod(0o600)
    with running(tmp_path, double("Double"), tokens=str(paths[0])) as daemon, RawPeer(daemon.unix_url) as peer:
        operator = Operator(daemon)
        operator.edit(tokens=str(paths[1]))
        assert answer(peer) == [f"tokens: {tmp_path}/one\\udcff -> {tmp_path}/two\\udcff"]
        paths[1].unlink()
        told = answer(peer)
        assert isinstance(told, Error) and f"{tmp_path}/two\\udcff" in told.message


@pytest.mark.parametrize("place", ["give_up", "bring_up"])
def test_a_defect_of_ours_is_answered_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """The log has its traceback, whoever asked a sentence, and the next reload finds everything in order."""

    def broken(*_: object) -> None:
        raise RuntimeError("as it was asked to")

    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.unix_url) as peer:
        operator = Operator(daemon)
        operator.edit(models=(double("Double", factor=3),))
        with monkeypatch.context() as patch:
            patch.setattr(daemon.engine.workers, place, broken)
            told = answer(peer)
        assert isinstance(told, Error) and "a defect of inferd's" in told.message
        assert "as it was asked to" in caplog.text
        operator.settings = daemon.engine.settings
        assert answer(peer) == []


# ---- who may ask


def test_nobody_asks_over_tcp(tmp_path: Path) -> None:
    """There the kernel says nothing about who it is."""
    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.url) as peer:
        operator = Operator(daemon)
        operator.edit(max_connections=7)
        told = answer(peer)
        assert isinstance(told, Error) and (told.code, told.reason) == ("UNAUTHENTICATED", "ADMIN_ONLY")
        assert daemon.engine.settings.max_connections == 4096
        assert daemon.ask(lambda: daemon.engine.counters["refused_admin_only"]) == 1
        peer.infer(8, "double", b"\0\0\x80\x3f", (1,))
        assert peer.outcomes(1) == {8: "RESULT"}


def test_another_user_may_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whom the file system lets connect may use the models and nothing else."""
    from inferd.serve import credentials

    monkeypatch.setattr(credentials, "peer", lambda sock: credentials.Peer(1, os.geteuid() + 1, 0))
    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.unix_url) as peer:
        Operator(daemon)
        told = answer(peer)
        assert isinstance(told, Error) and told.reason == "ADMIN_ONLY"


def test_the_id_of_a_reload_is_its_own(tmp_path: Path) -> None:
    """Zero would make its ERROR the end of the connection."""
    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.unix_url) as peer:
        peer.sock.sendall(peer.peer.send(f.RELOAD, request_id=0))
        frame = peer.next()
        assert isinstance(frame.message, Error) and frame.message.reason == "PROTOCOL"


def test_who_breaks_the_protocol_while_it_waits_gets_no_answer(tmp_path: Path) -> None:
    """Its conversation is over, though its last words may still be on their way."""
    with running(tmp_path, double("Double")) as daemon, RawPeer(daemon.unix_url):
        Operator(daemon)
        reloader = daemon.engine.reloader
        assert reloader is not None

        async def answered() -> bool:
            (session,) = daemon.engine.sessions
            session.peer.close()
            await reloader._answer(session, 7)
            return bool(session.outbox.parts)

        assert not asyncio.run_coroutine_threadsafe(answered(), daemon._loop).result(60)


# ---- limits and tokens


def test_limits_hold_for_whoever_comes_next(tmp_path: Path) -> None:
    """Connections that are open keep what WELCOME told them."""
    with running(tmp_path, double("Double"), max_in_flight=4) as daemon, RawPeer(daemon.unix_url) as before:
        operator = Operator(daemon)
        operator.edit(max_in_flight=1, payload_mib=1, max_connections=2, drain_timeout_s=5.0)
        assert len(operator.reload()) == 4
        with RawPeer(daemon.url) as after:
            sessions = daemon.ask(
                lambda: {s.window.largest: s.peer.limits.payload_bytes for s in daemon.engine.sessions}
            )
            assert sessions == {4: 64 * 1024 * 1024, 1: 1024 * 1024}
            for peer in (before, after):
                peer.infer(1, "double", b"\0\0\x80\x3f", (1,))
                assert peer.outcomes(1) == {1: "RESULT"}
            with pytest.raises(AssertionError):
                RawPeer(daemon.url)  # the third is told that there are too many


def test_tokens_hold_for_whoever_comes_next(tmp_path: Path) -> None:
    """The file changes under its name: an open connection stays, a new one needs a token of the new file."""
    from inferd.errors import Unauthenticated

    def write(text: str) -> str:
        path = tmp_path / "tokens"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    with running(tmp_path, double("Double"), tokens=write("ada: 0123456789abcdef\n")) as daemon:
        operator = Operator(daemon)
        with Client(daemon.url, token="0123456789abcdef") as ada:
            ada.ping()
            write("bob: fedcba9876543210\n")
            assert operator.reload() == [f"tokens: what is in {tmp_path / 'tokens'} has changed"]
            ada.ping()
            with Client(daemon.url, token="fedcba9876543210") as bob:
                bob.ping()
            with Client(daemon.url, token="0123456789abcdef") as late, pytest.raises(Unauthenticated):
                late.ping()
            write("bob: short\n")
            with pytest.raises(ConfigError, match="line 1"):
                operator.reload()
            with Client(daemon.url, token="fedcba9876543210") as bob:
                bob.ping()


def test_certificates_hold_for_whoever_comes_next(tmp_path: Path) -> None:
    """They are replaced under their names: an open connection stays, and a pair that does not fit changes nothing."""
    import trustme

    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> None:
        made = ca.issue_cert("127.0.0.1")
        cert.write_bytes(made.cert_chain_pems[0].bytes())
        key.write_bytes(made.private_key_pem.bytes())
        key.chmod(0o600)

    def shown(daemon: Daemon) -> bytes | None:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        address = Address.parse(daemon.url)
        with (
            socket.create_connection((address.host, address.port)) as sock,
            context.wrap_socket(sock, server_hostname=address.host) as secure,
        ):
            return secure.getpeercert(binary_form=True)

    issue()
    with running(tmp_path, double("Double"), tls_cert=str(cert), tls_key=str(key)) as daemon:
        operator = Operator(daemon)
        with Client(daemon.url, ca=str(tmp_path / "ca.pem")) as client:
            client.ping()
            before = shown(daemon)
            issue()
            assert len(operator.reload()) == 2
            after = shown(daemon)
            assert after != before
            client.ping()
            assert daemon.ask(lambda: daemon.engine.counters["connections"]) == 3
            key.write_text("")
            with pytest.raises(ConfigError, match="tls_"):
                operator.reload()
            assert shown(daemon) == after


# ---- what is different


def test_a_model_is_another_one_when_its_file_is(tmp_path: Path) -> None:
    """By what its own file holds, and by the size and time of the files and folders that its options name."""
    code, weights = tmp_path / "net.py", tmp_path / "weights"
    code.write_text("a")
    weights.mkdir()
    (weights / "w").write_text("1")
    settings = Settings(models=(ModelConfig("net", f"{code}:Net", {"weights": str(weights)}),))

    def replaced(change: Callable[[], object]) -> bool:
        had = fingerprints(settings)
        change()
        return difference(settings, settings, had, fingerprints(settings)).replaced == ["net"]

    assert not replaced(lambda: os.utime(code))
    assert replaced(lambda: code.write_text("b"))
    assert replaced(lambda: (weights / "w").write_text("12"))
    assert replaced(lambda: (weights / "more").write_text(""))
    assert replaced(lambda: code.unlink())
    assert not replaced(lambda: None)


@pytest.mark.parametrize("deep", [lambda path: [path], lambda path: {"a": [{"b": path}]}])
def test_a_file_that_is_named_deep_in_an_option_counts(tmp_path: Path, deep: Callable[[str], object]) -> None:
    """In a list or a table, as in the option's own text."""
    weights = tmp_path / "w"
    weights.write_text("1")
    settings = Settings(models=(ModelConfig("net", "net:Net", {"weights": deep(str(weights)), "n": 1}),))
    had = fingerprints(settings)
    weights.write_text("12")
    assert difference(settings, settings, had, fingerprints(settings)).replaced == ["net"]


def test_a_folder_that_cannot_be_read_is_no_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model may load all the same, or say what is wrong with it."""

    def denied(path: str) -> list[object]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    settings = Settings(models=(ModelConfig("net", "net:Net", {"weights": str(tmp_path)}),))
    assert fingerprints(settings) == {"model net": "Permission denied"}


@pytest.mark.parametrize("inner", ["0_Transformer", "parts/0_Transformer"])
def test_a_folder_is_another_one_when_a_part_of_it_is(tmp_path: Path, inner: str) -> None:
    """The weights of a sentence-transformers folder can lie below it, and how texts are pooled does."""
    for part in (inner, "1_Pooling"):
        (tmp_path / part).mkdir(parents=True)
    modules = [{"type": "Transformer", "path": inner}, {"type": "Pooling", "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    settings = Settings(models=(ModelConfig.parse(f"net=hf:{tmp_path}"),))
    for part in (f"{inner}/model.safetensors", "1_Pooling/config.json", "config_sentence_transformers.json"):
        (tmp_path / part).write_text("{}")
        had = fingerprints(settings)
        assert not difference(settings, settings, had, fingerprints(settings))
        (tmp_path / part).write_text("{ }")
        assert difference(settings, settings, had, fingerprints(settings)).replaced == ["net"], part


@pytest.mark.parametrize("modules", ["{", "[1]", "5", '[{"path": 5}]', '[{"path": "\\u0000"}]', "[" * 100_000])
def test_a_folder_whose_modules_cannot_be_read_is_no_defect(tmp_path: Path, modules: str) -> None:
    """Whoever opens it says what is wrong with it."""
    (tmp_path / "modules.json").write_text(modules)
    assert "modules.json" in fingerprints(Settings(models=(ModelConfig.parse(f"net=hf:{tmp_path}"),)))["model net"]


# ---- models

NET = """
import os, time, torch

while os.path.exists(f"{__file__}-stuck"):
    time.sleep(0.002)

class Net:
    inputs = {"x": ("FP32", (SIZE,))}
    warm_up = False

    def forward(self, batch):
        x = batch["x"]
        least = int(x.min())
        while least < 0 and not os.path.exists(f"{__file__}{least}"):
            time.sleep(0.002)
        if least < -1:
            raise ValueError("as it was asked to")
        return {"y": x * FACTOR}
"""


class Nets(Operator):
    """Serves files of NET: a request for −n lasts until gate n is open, and −2 fails then. None loads while there is
    FILE-stuck."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        super().__init__(daemon)
        self.folder = folder

    @classmethod
    def file(cls, folder: Path, name: str, factor: float, size: int = 1) -> ModelConfig:
        path = folder / f"{name}.py"
        path.write_text(NET.replace("SIZE", str(size)).replace("FACTOR", str(float(factor))))
        return ModelConfig(name, f"{path}:Net")

    def write(self, name: str, factor: float, size: int = 1) -> ModelConfig:
        return self.file(self.folder, name, factor, size)

    def open_gate(self, number: int) -> None:
        for path in self.folder.glob("*.py"):
            path.with_name(f"{path.name}-{number}").touch()

    def pids(self) -> set[int]:
        return self.daemon.ask(lambda: {worker.pid for worker in self.daemon.engine.pool.workers})


def fp32(value: float) -> bytes:
    return struct.pack("<f", value)


def arenas() -> int:
    """How many memories of workers this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum("inferd-arena" in link for link in links)


class AsyncLoop:
    """A loop for an asynchronous client, in a thread of its own: it reads also while nobody asks."""

    def __enter__(self) -> AsyncLoop:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextlib.contextmanager
def asking(daemon: Daemon, model: str, callers: int = 4) -> Iterator[list[Any]]:
    """Callers that ask without a pause until the block ends; the answers, and the errors among them."""
    answers: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        with Client(daemon.url) as client:
            while not over.is_set():
                try:
                    answers.append(float(client.infer(model, {"x": np.ones(1, np.float32)})["y"][0]))
                except Exception as error:
                    answers.append(error)

    with ThreadPoolExecutor(callers) as pool:
        tasks = [pool.submit(ask) for _ in range(callers)]
        try:
            yield answers
        finally:
            over.set()
    for task in tasks:
        task.result()


def test_a_model_is_replaced_under_load(tmp_path: Path) -> None:
    """Its file has changed: no request fails, what is asked after the reload is answered by the new one, and of the
    old worker nothing is left."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon:
        nets = Nets(daemon, tmp_path)
        before, memory = nets.pids(), arenas()
        descriptors: list[int] = []
        for factor in (3, 4, 5):
            with asking(daemon, "net") as answers:
                daemon.until(lambda seen=answers: len(seen) > 20)
                nets.write("net", factor)
                assert nets.reload() == ["model net: replaced"]
                done = len(answers)
                daemon.until(lambda seen=answers, upto=done + 40: len(seen) > upto)
            assert set(answers) == {float(factor - 1), float(factor)}
            assert set(answers[done + 4 :]) == {float(factor)}
            daemon.until(lambda: len(daemon.engine.pool.workers) == 1 and not daemon.engine.sessions)
            descriptors.append(len(os.listdir("/proc/self/fd")))
        assert not nets.pids() & before
        assert arenas() <= memory  # fewer: another daemon's of this process had still to go
        assert descriptors[2] <= descriptors[0]
        with Client(daemon.url) as client:
            [model] = client.status()["models"]
            assert model["results"] == model["meters"]["codes"]["OK"] > 100


def test_models_are_added_and_removed(tmp_path: Path) -> None:
    """While others are asked without a failure; clients that are connected learn of it, and those that stay are what
    they were: the same, with what was learned of them."""
    a = Nets.file(tmp_path, "a", 2)
    with running(tmp_path, a) as daemon, AsyncLoop() as loop:
        nets = Nets(daemon, tmp_path)
        kept = daemon.engine.door.models["a"]
        client, idle = AsyncClient(daemon.url), Client(daemon.url)
        for models in (loop.run(client.models()), idle.models()):
            assert [model["name"] for model in models] == ["a"]
        with asking(daemon, "a") as answers, RawPeer(daemon.url) as old:
            daemon.until(lambda: len(answers) > 20)
            nets.edit(models=(a, nets.write("b", 7)))
            assert nets.reload() == ["model b: added"]
            frame = old.next()
            assert isinstance(frame.message, GoAway) and frame.message.reason == "MODELS_CHANGED"
            old.infer(1, "b", fp32(1), (1,))  # what does not follow is served all the same
            assert old.outcomes(1) == {1: "RESULT"}
            for models in (loop.run(client.models()), idle.models()):
                assert [model["name"] for model in models] == ["a", "b"]
            assert loop.run(client.infer("b", {"x": np.ones(1, np.float32)}))["y"][0] == 7
            nets.edit(models=(a,))
            assert nets.reload() == ["model b: removed"]
            assert [model["name"] for model in loop.run(client.models())] == ["a"]
            old.infer(2, "b", fp32(1), (1,))
            assert old.outcomes(1) == {2: "MODEL_NOT_FOUND"}
        assert set(answers) == {2.0}
        assert daemon.engine.door.models["a"] is kept
        assert daemon.ask(lambda: daemon.engine.scheduler.known.table(kept.index, 64)) != []
        loop.run(client.close())
        idle.close()


def test_a_model_that_does_not_load_changes_nothing(tmp_path: Path) -> None:
    """The old one goes on, the loader's sentence is told, and the next reload tries again."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon:
        nets = Nets(daemon, tmp_path)
        before, memory = nets.pids(), arenas()
        with asking(daemon, "net") as answers, RawPeer(daemon.unix_url) as operator:
            daemon.until(lambda: len(answers) > 20)
            (tmp_path / "net.py").write_text("class Net:\n    forward = nothing\n")
            nets.edit(max_connections=1)
            told = answer(operator)
            assert isinstance(told, Error)
            assert "net.py:2" in told.message and "nothing" in told.message
            (tmp_path / "net.py").write_text("import os\nos._exit(9)\n")
            told = answer(operator)
            assert isinstance(told, Error) and "ended while it loaded" in told.message
            daemon.until(lambda: len(daemon.engine.pool.workers) == 1)
            assert nets.pids() == before and daemon.engine.settings.max_connections == 4096
            nets.edit(max_connections=4096)
            nets.write("net", 3)
            assert answer(operator) == ["model net: replaced"]
            daemon.until(lambda: 3.0 in answers)
        assert set(answers) == {2.0, 3.0}
        daemon.until(lambda: len(daemon.engine.pool.workers) == 1)
        assert arenas() <= memory  # fewer: another daemon's of this process had still to go


def test_who_waits_moves_to_the_new_model(tmp_path: Path) -> None:
    """The old worker finishes its batch however long that takes; what waits behind it, and what is still arriving, is
    answered by the new one, and what it does not take, or is not served any more, fails so that it can be tried
    elsewhere."""
    configs = [Nets.file(tmp_path, name, 2) for name in ("same", "other", "gone")]
    with running(tmp_path, *configs) as daemon, RawPeer(daemon.url) as peer, RawPeer(daemon.url) as slow:
        nets = Nets(daemon, tmp_path)
        peer.infer(1, "same", fp32(-1), (1,))
        daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
        for request_id, model in ((2, "same"), (3, "other"), (4, "gone")):
            peer.infer(request_id, model, fp32(1), (1,))
        late = slow.packed(9, "same", fp32(1), (1,))
        slow.sock.sendall(late[:-2])
        daemon.until(lambda: daemon.engine.scheduler.queued == 3 and any(s.arriving for s in daemon.engine.sessions))
        nets.edit(models=(nets.write("same", 5), nets.write("other", 5, size=3)))
        assert nets.reload() == ["model gone: removed", "model same: replaced", "model other: replaced"]
        found = {}
        while len(found) < 3:
            frame = peer.next()
            if isinstance(frame.message, Error):
                assert frame.message.retryable
                found[frame.request_id] = frame.message.reason
            elif frame.type == f.RESULT:
                found[frame.request_id] = bytes(frame.payload or b"")
        assert found == {2: fp32(5), 3: "MODEL_REPLACED", 4: "MODEL_REPLACED"}
        slow.sock.sendall(late[-2:])
        frames = [slow.next() for _ in range(2)]
        assert sorted(frame.type for frame in frames) == [f.RESULT, f.GOAWAY]
        assert {bytes(frame.payload or b"") for frame in frames if frame.type == f.RESULT} == {fp32(5)}
        nets.open_gate(1)
        frame = peer.next()
        assert (frame.request_id, bytes(frame.payload or b"")) == (1, fp32(-2))
        daemon.until(lambda: len(daemon.engine.pool.workers) == 1)
        assert daemon.ask(lambda: daemon.engine.slab.used_bytes) == 0


def test_an_old_worker_that_dies_in_its_last_batch(tmp_path: Path) -> None:
    """What it had runs again with the new model."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon, RawPeer(daemon.url) as peer:
        nets = Nets(daemon, tmp_path)
        peer.infer(1, "net", fp32(-1), (1,))
        daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)
        (old,) = nets.pids()
        nets.write("net", 3)
        nets.reload()
        os.kill(old, signal.SIGKILL)
        nets.open_gate(1)
        frame = peer.next()
        assert (frame.request_id, bytes(frame.payload or b"")) == (1, fp32(-3))
        assert daemon.ask(lambda: [worker.pid for worker in daemon.engine.pool.workers]) != [old]


def test_an_old_worker_whose_last_batch_fails(tmp_path: Path) -> None:
    """It is split as ever, and its parts run with the new model: one has failed, and the other has its answer."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon, RawPeer(daemon.url) as peer:
        nets = Nets(daemon, tmp_path)
        engine = daemon.engine
        peer.infer(1, "net", fp32(-1), (1,))
        daemon.until(lambda: engine.pool.workers[0].batch is not None)
        peer.infer(2, "net", fp32(-2), (1,))
        peer.infer(3, "net", fp32(-1), (1,))
        daemon.until(lambda: engine.scheduler.queued == 2)
        nets.open_gate(1)
        assert peer.outcomes(1) == {1: "RESULT"}
        daemon.until(lambda: (batch := engine.pool.workers[0].batch) is not None and batch.rows == 2)
        nets.write("net", 3)
        nets.reload()
        nets.open_gate(2)
        frames = {frame.request_id: frame for frame in (peer.next(), peer.next())}
        assert isinstance(frames[2].message, Error) and frames[2].message.reason == "MODEL_FAILED"
        assert bytes(frames[3].payload or b"") == fp32(-3)


def stuck(nets: Nets, name: str) -> None:
    """From now on the model never loads."""
    (nets.folder / f"{name}.py").write_text("import time\ntime.sleep(3600)\n")


@pytest.mark.parametrize("by_signal", [False, True])
def test_a_newer_reload_takes_the_place_of_one_that_still_loads(tmp_path: Path, by_signal: bool) -> None:
    """It would wait for ever behind a model that hangs; and so would all that come after. One that waits behind the
    first by a signal sees the same files as the newest."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon:
        nets = Nets(daemon, tmp_path)
        memory = arenas()
        reloader = daemon.engine.reloader
        assert reloader is not None
        stuck(nets, "net")
        with RawPeer(daemon.unix_url) as first, RawPeer(daemon.unix_url) as second, ThreadPoolExecutor(1) as pool:
            if by_signal:
                daemon.ask(reloader.start)
                daemon.ask(reloader.hung_up)
            else:
                told = pool.submit(answer, first)
            daemon.until(lambda: len(daemon.engine.pool.workers) == 2)
            nets.problem = "line 3: no such setting"
            with pytest.raises(ConfigError, match="line 3"):
                nets.reload()
            nets.problem, usable = "", nets.settings
            nets.edit(slab_mib=512)
            with pytest.raises(ConfigError, match="needs a restart: slab_mib"):
                nets.reload()
            nets.settings = usable
            assert len(daemon.engine.pool.workers) == 2  # one that cannot be used ends nobody
            if by_signal:
                daemon.ask(reloader.hung_up)
            nets.write("net", 3)
            assert answer(second) == ["model net: replaced"]
            if not by_signal:
                problem = told.result(30)
                assert isinstance(problem, Error)
                assert problem.message == "nothing was changed: a newer reload took its place"
        daemon.until(lambda: len(daemon.engine.pool.workers) == 1)
        assert arenas() <= memory  # fewer: another daemon's of this process had still to go
        daemon.ask(reloader.close)


def test_the_newest_of_many_reloads_goes_through(tmp_path: Path) -> None:
    """Whichever waits behind another that loads does not begin to load when there is a newer one."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon:
        nets = Nets(daemon, tmp_path)
        nets.write("net", 3)

        async def all_at_once() -> list[Any]:
            reloader = daemon.engine.reloader
            assert reloader is not None
            return await asyncio.gather(*(reloader.reload() for _ in range(4)), return_exceptions=True)

        told = asyncio.run_coroutine_threadsafe(all_at_once(), daemon._loop).result(60)
        assert [str(each) for each in told[:3]] == ["a newer reload took its place"] * 3
        assert told[3] == ["model net: replaced"]


def test_a_model_that_never_loads_fails_the_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour; the old ones go on."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon:
        nets = Nets(daemon, tmp_path)
        before = nets.pids()
        monkeypatch.setattr(workers, "LONGEST_LOADING_S", 0.1)
        stuck(nets, "net")
        with pytest.raises(ModelLoadError, match=r"worker 1 has not loaded its models within \d+ s, and was ended"):
            nets.reload()
        daemon.until(lambda: len(daemon.engine.pool.workers) == 1)
        assert nets.pids() == before
        with Client(daemon.url) as client:
            assert client.infer("net", {"x": np.ones(1, np.float32)})["y"].tolist() == [2]


def test_a_replacement_that_never_loads_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker died, and the next one hangs where the first did not."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon:
        nets = Nets(daemon, tmp_path)
        (pid,) = nets.pids()
        gate = tmp_path / "net.py-stuck"
        gate.touch()
        with monkeypatch.context() as patch:
            patch.setattr(workers, "LEAST_LOADING_S", 0.1)
            patch.setattr(workers, "PATIENCE", 0.0)
            os.kill(pid, signal.SIGKILL)
            daemon.until(lambda: daemon.engine.counters["workers_hung"] == 1)
        gate.unlink()
        with Client(daemon.url) as client:
            assert client.infer("net", {"x": np.ones(1, np.float32)})["y"].tolist() == [2]


def test_a_replacement_runs_what_was_put_in_force(tmp_path: Path) -> None:
    """Whatever is in the file by then, also what a reload has found to be broken; the next reload reads it anew."""
    with running(tmp_path, Nets.file(tmp_path, "net", 2)) as daemon, Client(daemon.url) as client:
        nets = Nets(daemon, tmp_path)
        workers = daemon.engine.pool.workers

        def after_a_death() -> list[float]:
            daemon.until(lambda: len(workers) == 1)  # the others of a reload have gone
            (before,) = nets.pids()
            os.kill(before, signal.SIGKILL)
            daemon.until(lambda: all(each.pid != before and each.condition is Condition.IDLE for each in workers))
            answer: list[float] = client.infer("net", {"x": np.ones(1, np.float32)})["y"].tolist()
            return answer

        nets.write("net", 3)
        assert after_a_death() == [2]
        assert nets.reload() == ["model net: replaced"]
        (tmp_path / "net.py").write_text("class Net:\n  oops(\n")
        with pytest.raises(ModelLoadError, match=r"net\.py:2"):
            nets.reload()
        assert after_a_death() == [3]
        nets.edit(max_connections=7)
        (tmp_path / "net.py").unlink()
        with pytest.raises(ModelLoadError, match="No such file"):
            nets.reload()
        nets.write("net", 3)
        assert nets.reload() == ["max_connections: 4096 -> 7"]
        (tmp_path / "net.py").unlink()
        assert after_a_death() == [3]
