"""The daemon as a service: real processes, with a manager that holds sockets and hears what it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from inferd_client import Client

from inferd.cli.reload import ask
from inferd.errors import InferdError
from inferd.wire import frame as f
from tests.rawpeer import RawPeer
from tests.running import end
from tests.systemd.manager import Manager, managing, service

SLOW = """
import time
class Slow:
    inputs = {"x": ("FP32", (1,))}
    warm_up = False
    def forward(self, batch):
        time.sleep(float(batch["x"].max()))
        return {"y": batch["x"]}
"""
SERVE = (sys.executable, "-P", "-m", "inferd", "serve", "--device", "cpu")


@pytest.fixture
def manager(tmp_path: Path):
    with managing(tmp_path) as manager:
        yield manager


def test_its_life_in_words(manager: Manager, tmp_path: Path) -> None:
    """While models load it asks for time; READY comes when they have answered; a reload, the signs of life and the
    drain are told, and the exit status is 0. Nothing that it starts has the variables."""
    config = tmp_path / "inferd.toml"
    url = f"inferd+unix://{tmp_path}/s"
    config.write_text(f'listen = ["{url}"]\ndevices = ["cpu"]\n[models.echo]\ntarget = "echo"\n')
    # 4 looks in the time within which a sign of life is expected; WATCHDOG_PID is left out, as in older versions.
    with service(manager, *SERVE[:5], "--config", str(config), WATCHDOG_USEC="400000") as process:
        assert "EXTEND_TIMEOUT_USEC=60000000" in manager.said
        assert any("STATUS=loading echo: 0 of 1 workers are ready" in said for said in manager.said)
        assert "STATUS=ready: 1 models, 1 of 1 workers" in manager.said[-1]
        with Client(url) as client:
            status = client.status()
        for pid in (process.pid, status["workers"][0]["pid"]):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert pid == process.pid or not re.search(rb"NOTIFY_SOCKET|WATCHDOG|LISTEN_", environ)
        manager.until("WATCHDOG=1")
        config.write_text(config.read_text() + "[limits]\nmax_connections = 100\n")
        process.send_signal(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.until("RELOADING=1"))
        manager.until("READY=1")
        config.write_text("nonsense = 1\n")
        process.send_signal(signal.SIGHUP)
        manager.until("RELOADING=1")
        assert "the last reload changed nothing" in manager.until("STATUS=")
        process.terminate()
        assert "STATUS=draining: 0 in flight" in manager.until("STOPPING=1")
        assert process.wait(20) == 0


def test_a_reload_does_not_say_that_it_is_ready_before_it_is(manager: Manager, tmp_path: Path) -> None:
    """Clients are let in before the gateway answers, and one that asks for a reload by then is refused: the end of it
    would be the READY of the start."""
    words = ("echo", "--listen", f"inferd+unix://{tmp_path}/s", "--web", "127.0.0.1:0")
    with manager.start(*SERVE, *words) as process:
        try:
            refusals = set()
            while True:
                assert process.poll() is None, manager.log.read_text()
                try:
                    ask(str(tmp_path / "s"))
                    break
                except InferdError as error:
                    refusals.add(str(error))
            assert any("still starting; ask when it is ready" in refusal for refusal in refusals)
            manager.until("RELOADING=1", process)
            assert any(word.startswith("READY=1\nSTATUS=ready: 1 models") for word in manager.said)
        finally:
            process.terminate()
            process.wait(20)


def test_a_path_that_is_no_utf_8_ends_neither_the_reload_nor_the_signs_of_life(
    manager: Manager, tmp_path: Path
) -> None:
    """The status names the file of tokens that is gone, its odd byte escaped; READY ends the reload, and the watchdog
    hears of the daemon as before."""
    tokens = tmp_path / "tokens\udcff"
    tokens.write_text("ada: 0123456789abcdef")
    tokens.chmod(0o600)
    words = ("echo", "--tokens", str(tokens), "--listen", f"inferd+unix://{tmp_path}/s")
    with service(manager, *SERVE, *words, WATCHDOG_USEC="400000") as process:
        tokens.unlink()
        process.send_signal(signal.SIGHUP)
        manager.until("RELOADING=1", process)
        assert "tokens\\udcff" in manager.until("READY=1", process)
        for _ in range(3):
            manager.until("WATCHDOG=1", process)


def test_it_is_not_ready_before_every_model_has_answered(manager: Manager, tmp_path: Path) -> None:
    """The warm-up is a real batch through the model: its own example, else zeros of the declared sizes. One that has
    neither is said to be unprobed."""
    (tmp_path / "net.py").write_text(
        """
import torch
class Declared:
    inputs = {"x": ("FP32", (2,))}
    def forward(self, batch):
        open("declared", "a").close()
        return {"y": batch["x"]}
class Example:
    example = {"x": torch.ones(3)}
    def forward(self, batch):
        open("example", "a").close()
        return {"y": batch["x"]}
class Unknown:
    def forward(self, batch):
        open("unknown", "a").close()
        return {}
"""
    )
    models = [f"net.py:{name}" for name in ("Declared", "Example", "Unknown")]
    with service(manager, *SERVE, *models, "--listen", f"inferd+unix://{tmp_path}/s"):
        assert (tmp_path / "declared").exists() and (tmp_path / "example").exists()
        assert not (tmp_path / "unknown").exists()
    assert "not_probed model=unknown" in manager.log.read_text()  # its own thread writes the log


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        (("echo", "--device", "cuda:7"), 69, "cuda"),
        (("echo", "--device", "cpu", "--listen", "inferd://192.0.2.1:1", "--insecure-no-auth"), 78, "cannot listen on"),
        (("broken.py:Net", "--device", "cpu"), 78, "broken.py:1"),
        (("echo", "--device", "tpu"), 78, "--device: 'tpu' is no device"),
        (("--config", "broken.toml"), 78, "broken.toml:2: 'slab' is no key of [limits]"),
    ],
    ids=["no device", "address", "model", "setting", "file"],
)
def test_the_exit_status_says_whether_to_try_again(
    manager: Manager, tmp_path: Path, more: tuple[str, ...], code: int, why: str
) -> None:
    """69 without its device, 78 when the configuration is wrong; the status that systemd shows has the sentence."""
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "broken.toml").write_text("[limits]\nslab = 1\n")
    with manager.start(*SERVE[:5], *more, "--listen", f"inferd+unix://{tmp_path}/s") as process:
        assert process.wait(60) == code
    failed = [said for said in manager.rest() if said.startswith("STATUS=failed: ")]
    assert len(failed) == 1 and why in failed[0], (manager.said, manager.log.read_text())


def test_a_socket_from_systemd_that_others_can_reach_needs_tokens(manager: Manager) -> None:
    """Exit status 78, as for an address of its own."""
    manager.hold(("0.0.0.0", 0))
    with manager.start() as process:
        assert process.wait(60) == 78
    assert "can be reached from other machines" in manager.log.read_text()


def test_sigabrt_leaves_every_threads_stack_in_the_log(manager: Manager, tmp_path: Path) -> None:
    """It is what systemd's watchdog sends."""
    with service(manager, *SERVE, "echo", "--listen", f"inferd+unix://{tmp_path}/s") as process:
        process.send_signal(signal.SIGABRT)
        assert process.wait(20) == -signal.SIGABRT
    log = manager.log.read_text()
    assert "Fatal Python error: Aborted" in log and "inferd/serve" not in log.partition("Fatal")[0]
    assert re.search(r"[Tt]hread 0x[0-9a-f]+ .*\n  File ", log)


def test_who_waits_in_a_drain_is_counted_and_a_second_signal_ends_it(manager: Manager, tmp_path: Path) -> None:
    """GOAWAY comes at once, nobody is accepted any more, and the second SIGTERM ends within 2 s what would take 60."""
    (tmp_path / "slow.py").write_text(SLOW)
    place = f"{tmp_path}/s"
    url = f"inferd+unix://{place}"
    words = ("slow.py:Slow", "--listen", url, "--drain-timeout-s", "100")
    with service(manager, *SERVE, *words) as process, RawPeer(url) as peer:
        peer.infer(1, "slow", struct.pack("<f", 60.0), (1,))
        with Client(url) as client:
            deadline = time.monotonic() + 10
            while not any(worker["state"] == "busy" for worker in client.status()["workers"]):
                assert time.monotonic() < deadline
        process.terminate()
        asked = time.monotonic()
        assert "draining: 1 in flight" in manager.until("STOPPING=1")
        assert peer.next().type == f.GOAWAY
        with pytest.raises(OSError), socket.socket(socket.AF_UNIX) as late:
            late.connect(place)
        report = time.monotonic() - asked
        process.terminate()
        asked = time.monotonic()
        process.wait(20)
        assert process.returncode == 0 and time.monotonic() - asked < 2.0, report


def test_without_listen_only_what_is_handed_over_is_served(manager: Manager, tmp_path: Path) -> None:
    """A TCP and a Unix socket answer, nothing else is bound, and the socket's file outlives the daemon."""
    place = f"{tmp_path}/s"
    tcp = manager.hold(("127.0.0.1", 0)).getsockname()
    manager.hold(place)
    with service(manager) as process:
        for url in (f"inferd://127.0.0.1:{tcp[1]}", f"inferd+unix://{place}"):
            with Client(url) as client:
                assert client.infer("echo", {"x": 1}) == {"x": 1}
        said = manager.log.read_text()
        assert said.count("listening address=") == 2
        process.terminate()
        assert process.wait(20) == 0
    assert os.path.exists(place)


def test_the_gateway_takes_the_socket_named_web(manager: Manager) -> None:
    """HTTP is answered on it although no --web was given; while the daemon drains nobody is refused."""
    port = manager.hold(("127.0.0.1", 0), "web").getsockname()[1]
    manager.hold(("127.0.0.1", 0), "wire")
    with service(manager) as process:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as http:
            http.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert http.recv(100).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.wait(20) == 0
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_systemds_own_socket_activation_starts_it(tmp_path: Path) -> None:
    """systemd-socket-activate listens, the first connection starts the daemon, and it is answered."""
    place = f"{tmp_path}/s"
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            ["systemd-socket-activate", "-l", place, *SERVE, "echo"],
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=tmp_path,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 10
            while not os.path.exists(place):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.01)
            with Client(f"inferd+unix://{place}", timeout_ms=60_000, connect_timeout_ms=60_000) as client:
                assert client.infer("echo", {"text": "hello"}) == {"text": "hello"}
                pid = client.status()["pid"]
            assert pid == process.pid  # it has become the daemon
        finally:
            end(process)
    assert os.path.exists(place)


def unshares() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(["unshare", "-n", "true"], stderr=subprocess.DEVNULL, check=False).returncode
    )


@pytest.mark.skipif(not unshares(), reason="needs unshare -n, and the right to use it")
def test_in_an_empty_network_it_answers_and_can_connect_nowhere(manager: Manager, tmp_path: Path) -> None:
    """PrivateNetwork=yes: requests come in by the socket that was handed over, and a model's code reaches nothing, not
    even this machine's own loopback."""
    (tmp_path / "home.py").write_text(
        """
import socket
import struct
class Phone:
    inputs = {"host": ("STRING", ()), "port": ("STRING", ())}
    def preprocess(self, host, port): return {"host": host, "port": port}
    def forward(self, batch): return batch
    def postprocess(self, outputs):
        try:
            socket.create_connection((outputs["host"], int(outputs["port"])), timeout=5).close()
        except OSError as error:
            return {"said": type(error).__name__ + ": " + str(error)}
        return {"said": "connected"}
"""
    )
    ours = manager.hold(("127.0.0.1", 0)).getsockname()
    command = ("unshare", "-n", *SERVE, "home.py:Phone")
    with service(manager, *command), Client(f"inferd://127.0.0.1:{ours[1]}") as client:
        for host, port in (("127.0.0.1", str(ours[1])), ("192.0.2.1", "80")):
            said = client.infer("phone", {"host": host, "port": port})["said"]
            assert "unreachable" in said, said


def test_five_restarts_under_load_and_no_request_fails(manager: Manager, tmp_path: Path) -> None:
    """The manager keeps the socket; requests are due every 20 ms whatever happens; each has its answer."""
    place = f"{tmp_path}/s"
    manager.hold(place)
    url = f"inferd+unix://{place}"
    done, failed, wrong = [], [], []
    stop = threading.Event()

    def ask(client: Client, number: int) -> None:
        try:
            answer = client.infer("echo", {"n": number})
        except Exception as error:
            failed.append(repr(error))
        else:
            (done if answer == {"n": number} else wrong).append(number)

    def load(client: Client) -> None:
        number = 0
        threads = []
        while not stop.wait(0.02):
            number += 1
            thread = threading.Thread(target=ask, args=(client, number))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(60)

    # As it comes: who connects while nobody serves waits in the socket, and after connect_timeout_ms once more.
    with Client(url) as client:
        loader = threading.Thread(target=load, args=(client,))
        try:
            for start in range(5):
                with service(manager) as process:
                    if not start:
                        loader.start()
                    served = len(done)
                    deadline = time.monotonic() + 20
                    while len(done) < served + 20 and not failed:
                        assert time.monotonic() < deadline, (len(done), manager.log.read_text())
                        time.sleep(0.01)
                    process.terminate()
                    assert process.wait(20) == 0
            with service(manager):
                stop.set()
                loader.join(90)
        finally:
            stop.set()
    assert not failed and not wrong and len(done) > 100, (len(done), failed[:3], wrong[:3])
