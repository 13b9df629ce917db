"""T15: more connections than there may be, and a process without another descriptor."""

from __future__ import annotations

import contextlib
import resource
import select
import signal
import socket
import subprocess
import time

import pytest

from inferd.serve.listener import OPERATOR_PLACES
from inferd.wire import frame as f
from inferd.wire.messages import Error
from tests.faults import procfs
from tests.faults.network import connect, hello, needs
from tests.faults.world import Served, World, told
from tests.rawpeer import RawPeer

RECOVERED_S = 2.0


def reason_of(url: str) -> str:
    """Connects and says HELLO: "WELCOME", or why not; "" when the server closes without a word."""
    try:
        with RawPeer(url, greet=False) as peer:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peer.sock.sendall(hello())  # the answer may be here already, and the other end closed
            peer.peer._become("GREETING")
            frame = peer.next()
            return frame.message.reason if isinstance(frame.message, Error) else f.TYPE_NAMES[frame.type]
    except (EOFError, ConnectionResetError):
        return ""


def served_again(world: World, served: Served, name: str) -> None:
    """Somebody new is welcome, within two seconds."""
    since = time.monotonic()
    world.until(lambda: reason_of(served.url) == "WELCOME", RECOVERED_S + 1)
    took_s = time.monotonic() - since
    world.report(f"{name}: taken again after", took_s, "s")
    assert took_s < RECOVERED_S + world.meter.stalled_s(since, since + took_s)


def test_at_our_own_limit_the_surplus_is_told(world: World) -> None:
    """TOO_MANY_CONNECTIONS and a counter; who is there stays, and a place that is free is given."""
    served = world.serve(told(), flags=["--max-connections", "16"])
    with contextlib.ExitStack() as stack:
        inside = []
        while True:
            try:
                inside.append(stack.enter_context(world.caller(served)))
            except AssertionError:
                break  # no WELCOME
        refusals = world.scale(20, 500)
        for number in range(refusals):
            assert reason_of(served.url if number % 2 else served.unix_url) == "TOO_MANY_CONNECTIONS"
        for caller in inside:
            assert caller.call().outcome == "RESULT"
        # The tests' user is the daemon's own, which has some places more over a Unix socket.
        for _ in range(1 + OPERATOR_PLACES):
            inside.pop().close()
        served_again(world, served, "our own limit")
        assert served.status()["counters"]["refused_too_many_connections"] >= refusals
    assert len(served.log()) < 30


def test_the_process_has_no_descriptor_left(world: World) -> None:
    """RLIMIT_NOFILE of 64: who is there is served; who comes is left waiting or closed; it goes on when there is one
    again."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    served = world.serve(told(), before_exec=limit)
    served.repeats.discard("few_descriptors")
    crowd: list[socket.socket] = []
    with world.caller(served) as inside:
        for _ in range(100):
            sock = connect(served.url)
            sock.sendall(hello())
            crowd.append(sock)
        time.sleep(0.5)
        descriptors = len(procfs.descriptors(served.pid))
        assert descriptors >= 62, descriptors
        busy_s = cpu_s(served.pid)
        for _ in range(world.scale(10, 100)):
            assert inside.call(deadline_ms=2000).outcome == "RESULT"
        time.sleep(world.scale(0.5, 5.0))
        spent_s = cpu_s(served.pid) - busy_s
        world.report("CPU meanwhile", spent_s, f"s in {world.scale(0.5, 5.0)} s")
        assert spent_s < world.scale(0.4, 2.0), "it spins"
        for sock in crowd:
            sock.close()
        served_again(world, served, "no descriptor left")
    lines = len(served.log("cannot_accept"))
    assert 0 < lines <= world.scale(4, 10)


def cpu_s(pid: int) -> float:
    """The CPU time of a process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_accept_itself_fails(world: World) -> None:
    """accept() gives EMFILE to each call, as when the system has no file left: the same."""
    needs("strace")
    served = world.serve(told())
    inject = "inject=accept,accept4:error=EMFILE:when=1+"
    command = ["strace", "-f", "-p", str(served.pid), "-e", "trace=accept,accept4", "-e", inject, "-o", "/dev/null"]
    with world.caller(served) as inside:
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert tracer.stderr is not None
            if not select.select([tracer.stderr], [], [], 10)[0] or "attached" not in tracer.stderr.readline():
                pytest.skip("strace cannot attach to a process here")
            time.sleep(0.2)
            waiting = connect(served.url)
            waiting.sendall(hello())
            assert not select.select([waiting], [], [], 0.3)[0]  # so the fault is there
            until = time.monotonic() + world.scale(0.5, 5.0)
            while time.monotonic() < until:
                assert inside.call(deadline_ms=2000).outcome == "RESULT"
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
            assert tracer.stderr is not None
            tracer.stderr.close()
        served_again(world, served, "accept fails")
        waiting.settimeout(5)
        assert waiting.recv(100)  # who has waited is served
        waiting.close()
    assert 0 < len(served.log("cannot_accept")) <= world.scale(3, 8)
