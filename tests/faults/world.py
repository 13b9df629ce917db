"""A real daemon in a process of its own, and what must be true of it after every fault, seen from outside.

    def test_something(world: World) -> None:
        served = world.serve(told(pause_s=0.02), workers=2)        # READY when it returns; log in served.log_path
        with world.load(served, callers=4, deadline_ms=2000) as load:
            os.kill(served.workers()[0], signal.SIGKILL)           # the fault
            world.until(lambda: load.answered() > 100)
        with world.caller(served) as caller:
            assert caller.call(act=models.KILL).outcome == "POISONED"
        world.report("detected p99", 3.1, "ms")                    # told by `make faults`, never asserted

When the test has passed, the fixture checks of every daemon that was served, unless the test has said otherwise:

    I1  one outcome for each request id that was sent, never 0 or 2      history
    I2  every answer is the hash of its own request                      history
    I3  every request with a deadline has ended 250 ms after it          history, the client's clock
    I4  descriptors, children, zombies, /dev/shm, anonymous memory and slab are back at their baseline within 5 s
    I5  "ready" is not said while no worker is alive                     a watcher asks all the time
    I6  same pid, exit 0 after SIGTERM, no traceback in the log that nobody expects, a repeated event once a second

What a test may say otherwise, on what `serve` returned:

    served.ends_by_itself = True        it is not running any more when the test ends, and that is the test's business
    served.expects.add("model_failed")  records of this event may hold a Traceback
    served.repeats.add("worker_lost")   this event may come more often than once a second
    served.watched = False              (as an argument of serve: watch=False) nobody asks for STATUS meanwhile
    call.forgiven = True                I3 does not hold for this call; say why

Models: `told(...)` is tests/faults/models.py; `double("Slow", seconds=1)` is one of tests/doubles.py.
Long or short: `world.scale(short, long)` picks by INFERD_FAULTS=long, which `make faults` sets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from inferd.config import ModelConfig
from inferd.wire import frame as f
from inferd.wire.values import unpack_values
from tests.faults import procfs
from tests.faults.history import Caller, History, Load, StallMeter
from tests.rawpeer import RawPeer
from tests.running import DEVICE, double

__all__ = ["Served", "World", "double", "told"]

MODELS = Path(__file__).with_name("models.py")
START_TIMEOUT_S = 60.0
# I3: how long after its deadline a request may end.
DEADLINE_GRACE_S = 0.25
# I4: how long the way back may take, and how much more memory there may be then.
BASELINE_TIMEOUT_S = 5.0
# So long nothing is opened and closed in a daemon at rest.
SETTLED_S = 0.1
GROWTH_BYTES, GROWTH_SHARE = 16 * 1024 * 1024, 0.05
# I5: so long a daemon may not know yet that its last worker has died.
UNAWARE_S = 0.3
WATCH_EVERY_S = 0.05
# I6: so many lines of one event may come in a row; what is repeated after that comes once a second at most.
EVENT_BURST = 5
LONG = os.environ.get("INFERD_FAULTS") == "long"

T = TypeVar("T")


def told(kind: str = "Told", **options: Any) -> ModelConfig:
    """The model Told of tests/faults/models.py, or ToldAhead, under the name "told"."""
    return ModelConfig("told", f"{MODELS}:{kind}", options)


@dataclasses.dataclass
class Baseline:
    """What a daemon at rest has."""

    descriptors: dict[str, str]
    children: int
    shared_memory: set[str]
    rss_anon_bytes: int


class Served:
    """One daemon, as its tests see it. `expects`, `repeats`, `ends_by_itself`: see the module's docstring."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path, unix_url: str) -> None:
        self.process = process
        self.log_path = log_path
        self.unix_url = unix_url
        self.url = ""
        self.web_url = ""
        self.pid = process.pid
        self.ends_by_itself = False
        self.expects: set[str] = set()
        self.repeats: set[str] = set()
        self.baseline: Baseline | None = None
        self.lies: list[str] = []  # "ready" without a worker

    # ---- from outside

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's records so far, of one event or of all. A line that is no record is {"event": "", "text": …}."""
        records = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            records.append(record if isinstance(record, dict) and "event" in record else {"event": "", "text": line})
        return [record for record in records if event is None or record["event"] == event]

    def status(self, timeout_ms: float = 5000) -> dict[str, Any]:
        """What the daemon says of itself, asked on a connection of its own."""
        with RawPeer(self.unix_url) as peer:
            peer.sock.settimeout(timeout_ms / 1000)
            return ask_status(peer)

    def fork_server(self) -> int:
        """The pid of its fork server; 0 while there is none."""
        children = procfs.descendants(self.pid)
        return next((pid for pid, (_, parent) in children.items() if parent == self.pid and _is_fork_server(pid)), 0)

    def workers(self) -> list[int]:
        """The pids of its worker processes that are alive, as /proc has them: the fork server's children."""
        children = procfs.descendants(self.pid)
        servers = {pid for pid, (_, parent) in children.items() if parent == self.pid and _is_fork_server(pid)}
        return sorted(pid for pid, (state, parent) in children.items() if parent in servers and state not in "ZX")

    def is_alive(self) -> bool:
        """Whether the daemon runs."""
        return procfs.is_alive(self.pid)

    def measure(self) -> Baseline:
        """What it has now."""
        return Baseline(
            procfs.descriptors(self.pid),
            len(procfs.descendants(self.pid)),
            procfs.shared_memory(),
            procfs.rss_anon_bytes(self.pid),
        )

    def rest(self) -> None:
        """Takes what it has now as its baseline for I4. `serve` has done so; again after a warm-up, if one likes."""
        before, found = None, self.measure()
        while before is None or before.descriptors != found.descriptors:
            # A connection that was closed here is closed there a little later.
            time.sleep(SETTLED_S)
            before, found = found, self.measure()
        self.baseline = found

    # ---- its life

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; its exit status. Kills what is left after the time: the status is −9 then."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """Ends whatever of its process group is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in procfs.descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    # ---- the invariants

    def back_to_baseline(self) -> str:
        """I4: "" when everything is as it was, else what is not."""
        was, found = self.baseline, self.measure()
        assert was is not None
        wrong = []
        # Fewer are not a leak: a connection of the one who looked was still being closed when it was looked first.
        if len(found.descriptors) > len(was.descriptors):
            fds = sorted(set(found.descriptors.items()) ^ set(was.descriptors.items()))
            wrong.append(f"descriptors {len(was.descriptors)} → {len(found.descriptors)}: {fds}")
        states = procfs.descendants(self.pid)
        if len(states) != was.children:
            wrong.append(f"children {was.children} → {len(states)}: {states}")
        if zombies := [pid for pid, (state, _) in states.items() if state == "Z"]:
            wrong.append(f"zombies: {zombies}")
        if more := {name for name in found.shared_memory - was.shared_memory if "inferd" in name}:
            wrong.append(f"/dev/shm: {more}")
        limit = was.rss_anon_bytes + max(GROWTH_BYTES, int(GROWTH_SHARE * was.rss_anon_bytes))
        if found.rss_anon_bytes > limit:
            wrong.append(f"RssAnon {was.rss_anon_bytes} → {found.rss_anon_bytes} bytes")
        slab = self.status()["slab"]["used_bytes"]
        if slab:
            wrong.append(f"{slab} bytes of the slab are still in use")
        return "; ".join(wrong)

    def complaints(self) -> list[str]:
        """I6: what of the log nobody expects."""
        wrong = []
        buckets: dict[tuple[Any, ...], tuple[float, float]] = {}  # event and who → (lines left, time of the last)
        for record in self.log():
            event = record["event"]
            text = json.dumps(record)
            if "never retrieved" in text:
                wrong.append(f"never retrieved: {text[:1000]}")
            if "Traceback" in text and event not in self.expects:
                wrong.append(f"a traceback: {text[:3000]}")
            if not event or event in self.repeats:
                continue
            key = (event, *(str(record.get(name)) for name in ("worker", "model", "reason", "peer", "address")))
            left, last = buckets.get(key, (EVENT_BURST, record["time"]))
            left = min(EVENT_BURST, left + record["time"] - last) - 1
            if left < 0:
                wrong.append(f"more than a line a second: {text[:300]}")
            buckets[key] = (max(left, 0), record["time"])
        return wrong


def _is_fork_server(pid: int) -> bool:
    return "inferd.work.forkserver" in procfs.command_of(pid)


class World:
    """What a fault test is given: daemons, callers, a history, a watcher, and `check` at its end."""

    def __init__(self, folder: Path, report: Callable[[str, float, str], None]) -> None:
        self.folder = folder
        self.history = History()
        self.report = report
        self.served: list[Served] = []
        self.meter = StallMeter()
        self._cleanup = contextlib.ExitStack()

    # ---- the daemon

    def serve(
        self,
        *models: ModelConfig,
        workers: int = 1,
        device: str = DEVICE,
        flags: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        failpoints: str = "",
        before_exec: Callable[[], None] | None = None,
        wrapper: Sequence[str] = (),
        stderr: int | None = None,
        web: bool = False,
        watch: bool = True,
        settle: bool = True,
    ) -> Served:
        """Starts a daemon in a session of its own and returns when it is ready.

        `workers` places on `device`, `flags` further words of the command line, `failpoints` as in
        INFERD_FAILPOINTS; `before_exec` runs in the child (rlimits), `wrapper` is a command to start it with.
        `stderr` is a descriptor that takes the log instead of the file: then nothing is read from it, and `url` is "".
        With settle=False the call returns as soon as the process is there, ready or not.
        """
        folder = self.folder / f"daemon-{len(self.served)}"
        folder.mkdir()
        unix = folder / "inferd.sock"
        command = [*wrapper, sys.executable, "-m", "inferd", "serve"]
        command += [f"{model.name}={model.target}" for model in models]
        for model in models:
            for name, value in model.options.items():
                command += ["--set", f"{model.name}.{name}={json.dumps(value)}"]
        command += ["--listen", "inferd://127.0.0.1:0", "--listen", f"inferd+unix://{unix}", "--log-format", "json"]
        command += ["--device", device] * workers
        if not any(flag.startswith("--slab-mib") for flag in flags):
            command += ["--slab-mib", "64", "--arena-mib", "64", "--payload-mib", "16"]
        if web:
            command += ["--web=127.0.0.1:0"]
        command += flags
        log_path = folder / "log"
        with log_path.open("wb") as sink, (folder / "stdout").open("wb") as stdout:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=sink if stderr is None else stderr,
                env={**os.environ, "INFERD_FAILPOINTS": failpoints, **(environment or {})},
                preexec_fn=before_exec,
                start_new_session=True,
            )
        served = Served(process, log_path, f"inferd+unix://{unix}")
        self.served.append(served)
        self._cleanup.callback(served.kill)
        if not settle:
            return served
        if stderr is None:
            self.until(lambda: served.log("ready") or process.poll() is not None, START_TIMEOUT_S)
            ready = served.log("ready")
            assert ready, f"the daemon ended with {process.poll()}: {log_path.read_text()[-3000:]}"
            for address in ready[0]["addresses"]:
                if address.startswith("inferd://"):
                    served.url = address
                elif address.startswith("http"):
                    served.web_url = address
        else:
            self.until(lambda: _answers(served) or process.poll() is not None, START_TIMEOUT_S)
        served.pid = served.status()["pid"]
        if watch:
            self._cleanup.enter_context(_watching(served))
        served.rest()
        return served

    # ---- its callers

    def caller(self, served: Served, **options: Any) -> Caller:
        """One raw connection to drive by hand, over the Unix socket. Options: those of history.Caller."""
        return Caller(served.unix_url, self.history, **options)

    def load(self, served: Served, **options: Any) -> Load:
        """Callers in threads, half of them over TCP. Options: those of history.Load and history.Caller."""
        return Load([served.unix_url, served.url or served.unix_url], self.history, **options)

    # ---- time

    def until(self, condition: Callable[[], Any], timeout_s: float = 10.0, every_s: float = 0.01) -> None:
        """Returns when `condition` holds; fails when it does not within the time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s"
            time.sleep(every_s)

    def scale(self, short: T, long: T) -> T:
        """What is for `make test`, or what is for `make faults`."""
        return long if LONG else short

    # ---- the end

    @contextlib.contextmanager
    def lifetime(self) -> Iterator[World]:
        """Cleans up at the end, whatever happened."""
        with self._cleanup, self.meter.running():
            yield self

    def check(self) -> None:
        """I1 to I6."""
        history = self.history
        endless = [call for call in history.calls if len(call.outcomes) != 1]
        assert not endless, f"I1: {len(endless)} of {len(history.calls)} requests without one outcome: {endless[:5]}"
        assert not history.strays, f"I1: answers to nothing: {history.strays[:5]}"
        wrong = [call for call in history.calls if call.right is False]
        assert not wrong, f"I2: {len(wrong)} answers were somebody else's: {wrong[:5]}"
        late = [
            call
            for call in history.calls
            if call.deadline_s is not None
            and not call.forgiven
            and call.took_s > call.deadline_s + DEADLINE_GRACE_S + self.meter.stalled_s(call.sent_at, call.ended_at)
        ]
        assert not late, f"I3: {len(late)} of {len(history.calls)} requests ended too late: {late[:5]}"
        for served in self.served:
            if not served.ends_by_itself:
                assert served.is_alive(), f"I6: the daemon is gone: {served.log_path.read_text()[-3000:]}"
                deadline = time.monotonic() + BASELINE_TIMEOUT_S
                while difference := served.back_to_baseline():
                    assert time.monotonic() < deadline, f"I4: {difference}"
                    time.sleep(0.1)
            assert not served.lies, f"I5: {served.lies[:5]}"
            if not served.ends_by_itself:
                status = served.stop()
                assert status == 0, f"I6: exit status {status} after SIGTERM: {served.log_path.read_text()[-3000:]}"
            complaints = served.complaints()
            assert not complaints, f"I6: {len(complaints)}: " + "\n".join(complaints[:5])


def ask_status(peer: RawPeer) -> dict[str, Any]:
    """The answer to STATUS on a connection that is used for nothing else. Raises OSError or EOFError."""
    peer.sock.sendall(peer.peer.send(f.STATUS))
    while (frame := peer.next()).type != f.STATUS:
        pass
    assert frame.payload is not None
    return unpack_values(frame.payload)


def _answers(served: Served) -> bool:
    try:
        return bool(served.status(timeout_ms=1000))
    except (OSError, EOFError):
        return False


@contextlib.contextmanager
def _watching(served: Served) -> Iterator[None]:
    """I5: asks for STATUS while it looks at the worker processes, until the block ends.

    It keeps one connection, which is part of the baseline: the first answer has come when this returns.
    """
    stop, asked = threading.Event(), threading.Event()

    def watch() -> None:
        alone_since: float | None = None
        with contextlib.suppress(EOFError, OSError), RawPeer(served.unix_url) as peer:
            peer.sock.settimeout(None)
            while not stop.wait(WATCH_EVERY_S):
                alone_before = not served.workers()
                state = ask_status(peer)["state"]
                now = time.monotonic()
                if not (alone_before and not served.workers()):
                    alone_since = None
                elif alone_since is None:
                    alone_since = now
                elif state == "ready" and now - alone_since > UNAWARE_S:
                    served.lies.append(f'"ready" {now - alone_since:.2f} s after the last worker died')
                asked.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    asked.wait(5)
    try:
        yield
    finally:
        stop.set()
        thread.join(5)
