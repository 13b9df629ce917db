"""`inferd serve` as a newcomer meets it: what can go wrong at the start is one sentence with the reason, and where."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inferd.cli.serve import _try_next, command, default_socket, serve
from inferd.config import SETTINGS, Settings
from inferd.errors import ConfigError
from inferd.serve import daemon
from inferd.wire.address import Address
from tests.running import end

START_TIMEOUT_S = 60.0
MODEL = """
import torch
class Model:
    inputs = {{"x": ("FP32", (1,))}}
    {more}
    def forward(self, batch):
        return {{"y": batch["x"]}}
"""


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`inferd serve` in `folder`, and the lines it said until it was ready or over, standard error included."""
    url = f"inferd+unix://{folder / 'inferd.sock'}"
    # With -P, as the installed `inferd` is: the current folder is not on the path of the daemon itself.
    start = [sys.executable, "-P", "-m", "inferd", "serve", *words, "--listen", url, "--device", "cpu"]
    with subprocess.Popen(start, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if "is ready" in line:
                    break
            yield process, said
        finally:
            end(process)


def refusal(folder: Path, *words: str) -> str:
    """What a daemon that does not start says, all lines; it exits 78."""
    with serving(folder, *words) as (process, said):
        assert process.wait(20) == 78, said
    return "".join(said)


def test_a_test_that_fails_ends_its_daemon(tmp_path: Path) -> None:
    """And is told so, instead of waiting for ever."""
    with pytest.raises(AssertionError, match="fails"), serving(tmp_path, "echo") as (process, said):
        raise AssertionError("fails")
    assert process.returncode == 0, said


@pytest.mark.parametrize("executor", ["process", "inline"])
def test_the_folder_it_is_started_in_is_the_models_and_not_torchs(tmp_path: Path, executor: str) -> None:
    """A torch.py or random.py in the folder is never run, and a package in the folder can be served."""
    for name in ("torch.py", "random.py", "msgpack.py"):
        (tmp_path / name).write_text("raise SystemExit('this was run')")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "net.py").write_text("import helper\n" + MODEL.format(more=""))
    (tmp_path / "helper.py").write_text("")
    with serving(tmp_path, "mine.net:Model", "--executor", executor) as (_, said):
        assert "is ready" in said[-1], said


def test_a_model_may_be_in_a_file_called_as_a_library_is(tmp_path: Path) -> None:
    """types.py:Model is served, and what others import as `types` stays what it is."""
    (tmp_path / "types.py").write_text(MODEL.format(more=""))
    with serving(tmp_path, "types.py:Model") as (_, said):
        assert "is ready" in said[-1], said


def test_what_a_model_prints_is_seen_at_once(tmp_path: Path) -> None:
    """Standard output is a pipe here, and the line is there before the daemon is ready."""
    more = "def load(self, device): print('loading the weights')"
    (tmp_path / "net.py").write_text(MODEL.format(more=more))
    with serving(tmp_path, "net.py:Model") as (_, said):
        assert "is ready" in said[-1] and "loading the weights\n" in said


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import torch\nimport nothing_of_this_name", 2),
        ("class Model:\n    def __init__(self):\n        raise ValueError('no weights')", 3),
        (MODEL.format(more="def load(self, device): raise ValueError('no weights')"), 5),
        (MODEL.format(more="example = {'x': torch.zeros(1)}; preprocess = lambda self, x: 1 / 0"), 5),
        (MODEL.format(more="inputs = {'x': ('FLOAT', (1,))}"), 3),
        ("class Model:\n    forward = property(lambda self: 1 / 0)", 2),
    ],
    ids=["import", "factory", "load", "example", "signature", "attribute"],
)
def test_a_model_that_does_not_load_is_found_in_its_file(tmp_path: Path, code: str, line: int) -> None:
    """Whatever fails, the last sentence and the log's `at` have the file and the line."""
    (tmp_path / "net.py").write_text(code)
    said = refusal(tmp_path, "net.py:Model", "--log-format", "json")
    place = f"{tmp_path}/net.py:{line}"
    failed = [json.loads(text) for text in said.splitlines() if '"load_failed"' in text]
    assert [event["at"] for event in failed] == [place], said
    assert place in said.splitlines()[-1] and said.splitlines()[-1].startswith("inferd: ")


def test_a_worker_that_ends_while_it_loads_says_how(tmp_path: Path) -> None:
    """A model that ends its process without a word: the sentence has the exit status."""
    (tmp_path / "net.py").write_text(MODEL.format(more="def load(self, device): import os; os._exit(7)"))
    assert "(status 7)" in refusal(tmp_path, "net.py:Model").splitlines()[-1]


@pytest.mark.parametrize("flag", ["--slab-mib", "--arena-mib"])
@pytest.mark.parametrize("mib", ["100000000", "1000000000000000"])
def test_more_memory_than_there_is_is_one_sentence(tmp_path: Path, flag: str, mib: str) -> None:
    """It names the setting, without a traceback."""
    said = refusal(tmp_path, "echo", flag, mib)
    assert said.count("\n") == 1 and flag[2:] in said.replace("_", "-")


def test_a_device_that_cannot_be_is_a_setting(inferd) -> None:
    """`--device tpu` exits 78, as every setting that cannot be used; 69 is for one that is not there."""
    said = inferd("serve", "echo", "--device", "tpu", "--listen", "inferd://127.0.0.1:0")
    assert said == (
        78,
        "",
        "inferd: --device: 'tpu' is no device: use cpu, cuda, cuda:N or auto; did you mean 'cpu'?\n",
    )
    for device in ("cpu", "auto", "cuda", "cuda:3"):
        Settings(devices=(device,)).check()


@pytest.mark.parametrize(
    ("path", "reason"), [("/proc/no/inferd.sock", "/proc/no: No such file"), ("/dev/null/inferd.sock", "/dev/null")]
)
def test_a_socket_that_cannot_be_made_says_why(tmp_path: Path, path: str, reason: str) -> None:
    """The system's reason, and no guess at another daemon."""
    said = refusal(tmp_path, "echo", "--listen", f"inferd+unix://{path}").splitlines()[-1]
    assert reason in said and "another inferd" not in said


def test_an_address_that_is_taken_hints_at_the_other(tmp_path: Path, daemon_url: str) -> None:
    """Only then is another daemon the likely reason."""
    assert "is another inferd running there?" in refusal(tmp_path, "echo", "--listen", daemon_url)


@pytest.mark.parametrize("kind", ["taken", "path", "elsewhere"])
def test_an_address_that_cannot_be_had_is_found_before_models_load(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    """A model may take minutes to load; this one would never."""
    (tmp_path / "net.py").write_text("import time, pathlib\npathlib.Path('loading').touch()\ntime.sleep(3600)\n")
    path = tmp_path_factory.mktemp("other") / "inferd.sock"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(str(path))
        for sock in (tcp, unix):
            sock.listen()
        url = {
            "taken": f"inferd://127.0.0.1:{tcp.getsockname()[1]}",
            "path": f"inferd+unix://{path}",
            "elsewhere": "inferd://192.0.2.1:7433",  # of no machine (RFC 5737)
        }[kind]
        said = refusal(tmp_path, "net.py:Model", "--listen", url, "--insecure-no-auth").splitlines()[-1]
    assert f"cannot listen on {url}" in said
    assert (
        "no interface of this machine has it" if kind == "elsewhere" else "is another inferd running there?"
    ) in said
    assert not (tmp_path / "loading").exists()


def test_who_connects_while_models_load_is_refused(tmp_path: Path) -> None:
    """The address is the daemon's already; nobody waits in its queue. A daemon that is stopped then leaves nothing."""
    (tmp_path / "net.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(3600)\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-P", "-m", "inferd", "serve", "net.py:Model", "--device", "cpu"]
    start += ["--listen", f"inferd://127.0.0.1:{port}", "--listen", f"inferd+unix://{tmp_path / 'inferd.sock'}"]
    with subprocess.Popen(start, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            assert any("loading" in line for line in process.stdout)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        finally:
            end(process)
    assert not (tmp_path / "inferd.sock").exists()


@pytest.mark.parametrize("what", ["net\udcff.py:Model", "net.py:Model"], ids=["target", "option"])
def test_a_model_whose_path_is_no_utf_8_is_one_sentence(tmp_path: Path, what: str) -> None:
    """Workers are told of it in UTF-8. The sentence has the path with the odd byte escaped."""
    (tmp_path / what.partition(":")[0]).write_text(MODEL.format(more=""))
    said = refusal(tmp_path, what, "--set", "weights=w\udcff")
    assert said.count("\n") == 1 and "\\udcff" in said and "no text in UTF-8" in said


# ---- standard output, and what else may be missing


def start(folder: Path, *words: str, shell: str = "", **how: Any) -> subprocess.Popen[bytes]:
    """`inferd serve` in `folder`, with its log in the file `log`; `shell` are redirections."""
    url = f"inferd+unix://{folder / 'inferd.sock'}"
    command = [sys.executable, "-P", "-m", "inferd", "serve", *words, "--listen", url, "--device", "cpu"]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, **{"stderr": log, "stdin": subprocess.DEVNULL, **how})


def asked(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The status of a daemon once it is ready. Fails when it ends before, or does not answer within a minute."""
    from inferd_client import Client, InferdError

    with Client(f"inferd+unix://{folder / 'inferd.sock'}", timeout_ms=5000) as client:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            over = process.poll() is not None or time.monotonic() > deadline
            assert not over, (process.returncode, (folder / "log").read_text())
            with contextlib.suppress(InferdError):
                client.wait_ready(timeout_ms=1000)
                return client.status()


@contextlib.contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A daemon that SIGTERM ends with 0 after the block."""
    with process:
        try:
            yield
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_standard_output_that_nobody_reads_stops_nobody(tmp_path: Path) -> None:
    """A pipe that is full from the start: it serves, what it says comes in order once somebody reads, and SIGTERM ends
    it also when nobody ever does."""
    for reads in (True, False):
        read, write = os.pipe()
        os.set_blocking(write, False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(write, b"x")
        os.set_blocking(write, True)
        process = start(tmp_path, "echo", stdout=write)
        os.close(write)
        with ending(process):
            assert asked(tmp_path, process)["state"] == "ready"
            if reads:
                with open(read, closefd=False) as lines:
                    assert lines.read(filled) == "x" * filled
                    assert "is ready" in lines.readline() and lines.readline().startswith("Try: ")
        os.close(read)


def test_a_standard_output_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    """A full disk, and a reader that is gone, as behind `| head -1`: also a model that prints is loaded and answers."""
    import numpy as np
    from inferd_client import Client

    text = MODEL.format(more="def load(self, device): print('loading')")
    (tmp_path / "net.py").write_text(text.replace("return {", "print('a batch'); return {"))
    read, gone = os.pipe()
    os.close(read)
    for sink in (os.open("/dev/full", os.O_WRONLY), gone):
        process = start(tmp_path, "net.py:Model", stdout=sink)
        os.close(sink)
        with ending(process):
            assert asked(tmp_path, process)["state"] == "ready"
            with Client(f"inferd+unix://{tmp_path / 'inferd.sock'}") as client:
                assert client.infer("model", {"x": np.ones(1, np.float32)})["y"].tolist() == [1]
        assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_daemon_without_standard_streams_serves(tmp_path: Path, closed: str) -> None:
    """They are /dev/null then, in its workers as well, so that no socket gets their numbers."""
    process = start(tmp_path, "echo", "--web=127.0.0.1:0", shell=closed)
    with ending(process):
        worker = asked(tmp_path, process)["workers"][0]["pid"]
        for pid in (process.pid, worker):
            assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"


# ---- SIGHUP in its first moments


def test_sighup_while_the_program_is_imported_is_ignored(tmp_path: Path) -> None:
    """Whatever is imported here asks for it, and then ends the program."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nraise SystemExit(5)")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    for verb, code in (("serve", 5), ("status", -signal.SIGHUP)):
        command = [sys.executable, "-P", "-m", "inferd", verb]
        assert subprocess.run(command, env=environ, timeout=60).returncode == code


def test_sighup_while_the_settings_are_read_is_ignored(tmp_path: Path) -> None:
    """The file is a pipe here, so that the moment is known. What the daemon starts does not ignore the signal."""
    os.mkfifo(tmp_path / "inferd.toml")
    process = start(tmp_path, "echo", "--config", "inferd.toml", stdout=subprocess.DEVNULL)
    with ending(process):
        with (tmp_path / "inferd.toml").open("w") as file:
            process.send_signal(signal.SIGHUP)
            file.write("[limits]\nmax_connections = 7\n")
        worker = asked(tmp_path, process)["workers"][0]["pid"]
        [ignored] = [line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if "SigIgn" in line]
        assert not int(ignored.split()[1], 16) & 1 << signal.SIGHUP - 1


# ---- the default socket


def test_the_default_socket_is_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without $XDG_RUNTIME_DIR a folder is made that only the user can enter; one that others can write to, a link, or
    somebody else's is refused."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"inferd-{os.getuid()}"
    for _ in range(2):
        assert default_socket() == f"{folder}/inferd.sock"
        assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match="only you can write to"):
        default_socket()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="only you can write to"):
        default_socket()
    folder.unlink()
    folder.mkdir(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    folder.rename(tmp_path / "inferd-12345")
    with pytest.raises(ConfigError, match="that you own"):
        default_socket()


def test_the_default_socket_is_in_the_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """$XDG_RUNTIME_DIR is the user's own already."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert default_socket() == "/run/user/7/inferd.sock"


# ---- settings


def test_every_setting_is_a_flag() -> None:
    """The flags of `serve` are those of the definitions, and a few that are no settings."""
    flags = {parameter.name: parameter.opts for parameter in serve.params}
    assert {name: [setting.flag] for name, setting in SETTINGS.items()}.items() <= flags.items()
    assert set(flags) - set(SETTINGS) == {"models", "options", "path", "executor"}
    assert set(SETTINGS) == set(Settings.__dataclass_fields__) - {"models"}


def test_variables_are_read_and_flags_go_before_them(inferd, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variable says is what the flag would have said; several values are divided by blanks."""
    seen: list[Settings] = []
    monkeypatch.setattr(sys.modules["inferd.cli.serve"], "_run", lambda settings, *_: seen.append(settings))
    monkeypatch.setenv("INFERD_LISTEN", "inferd://127.0.0.1:1 inferd+unix:///tmp/a.sock")
    monkeypatch.setenv("INFERD_DEVICE", "cpu cpu")
    monkeypatch.setenv("INFERD_SLAB_MIB", "512")
    monkeypatch.setenv("INFERD_DRAIN_TIMEOUT_S", "2.5")
    assert inferd("serve", "echo", "--slab-mib", "1024").code == 0
    (settings,) = seen
    assert [str(address) for address in settings.listen] == ["inferd://127.0.0.1:1", "inferd+unix:///tmp/a.sock"]
    assert (settings.devices, settings.slab_mib, settings.drain_timeout_s) == (("cpu", "cpu"), 1024, 2.5)
    monkeypatch.setenv("INFERD_SLAB_MIB", "many")
    assert "INFERD_SLAB_MIB" in inferd("serve", "echo").err


def test_the_hint_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name where `inferd` is on the path, else by the way it was started, from this folder."""
    folder = tmp_path / "env" / "bin"
    folder.mkdir(parents=True)
    program = folder / "inferd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command() == "env/bin/inferd"
    monkeypatch.chdir("/")
    assert command() == str(program)[1:]
    monkeypatch.setattr(sys, "argv", ["/x/inferd/__main__.py"])
    assert command().endswith(" -m inferd")
    monkeypatch.setenv("PATH", str(folder))
    assert command() == "inferd"


def test_the_limit_of_open_files_is_raised(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The soft limit becomes the hard one; only where that is too low for the connections is there a line."""
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    caplog.set_level("INFO", "inferd")
    daemon.allow_descriptors(4000)
    assert limits[-1] == (4096, 4096) and not caplog.records
    daemon.allow_descriptors(5000)
    assert [record.getMessage() for record in caplog.records] == ["few_descriptors"]


def test_a_stop_takes_no_longer_than_it_is_given(tmp_path: Path) -> None:
    """--drain-timeout-s bounds how long a request that does not end holds the daemon up."""
    from inferd_client import Client, InferdError

    (tmp_path / "net.py").write_text(MODEL.format(more="def load(self, d): import time; self.s = time.sleep"))
    text = (tmp_path / "net.py").read_text().replace("return {", "self.s(30); return {")
    (tmp_path / "net.py").write_text(text.replace("inputs =", "warm_up = False; inputs ="))
    with serving(tmp_path, "net.py:Model", "--drain-timeout-s", "0.2") as (process, said):
        assert "is ready" in said[-1], said
        import threading

        import numpy as np

        def ask() -> None:
            with Client(f"inferd+unix://{tmp_path / 'inferd.sock'}") as client, contextlib.suppress(InferdError):
                client.infer("model", {"x": np.ones(1, np.float32)})

        thread = threading.Thread(target=ask)
        thread.start()
        with Client(f"inferd+unix://{tmp_path / 'inferd.sock'}") as client:
            while not client.status()["in_flight"]:
                pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        thread.join(10)


@pytest.mark.parametrize(
    ("listen", "tokens", "url"),
    [
        (["inferd://127.0.0.1:7433", "inferd+unix:///run/i.sock"], "", ""),
        (["inferd://127.0.0.1:7433", "inferd+unix:///run/i.sock"], "tokens", " --url inferd+unix:///run/i.sock"),
        (["inferds://127.0.0.1:7433", "inferd+unix:///run/i.sock"], "", " --url inferd+unix:///run/i.sock"),
        (["inferd://127.0.0.1:9000"], "", " --url inferd://127.0.0.1:9000"),
        (["inferd://192.0.2.5:7433"], "", " --url inferd://192.0.2.5:7433"),
        (["inferd://0.0.0.0:7433"], "", ""),
        (["inferds://127.0.0.1:7433"], "tokens", " --url inferds://127.0.0.1:7433 --token-file FILE"),
        (["inferd://127.0.0.1:7433"], "tokens", " --token-file FILE"),
        ([], "", ""),
    ],
)
def test_what_to_try_needs_no_more_than_it_names(listen: list[str], tokens: str, url: str) -> None:
    """A Unix socket asks for neither a token nor a certificate, so it is the one to try."""
    addresses = [Address.parse(each) for each in listen]
    assert _try_next(Settings(tokens=tokens), addresses) == f"{command()} models{url}"


@pytest.mark.parametrize("words", [("serve", "echo"), ("config", "show"), ("reload",)])
def test_without_a_folder_for_temporary_files_it_is_a_sentence(
    inferd, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A read-only root, say: the default socket has no place, and TMPDIR or --listen names one."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("INFERD_URL", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", none)
    said = inferd(*words)
    assert said.code == 78 and said.err.count("\n") == 1 and "TMPDIR" in said.err and "--listen" in said.err
