"""T8: the other end is gone without a word."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest

from tests.chaos import Proxy
from tests.faults import procfs
from tests.faults.network import Cable, connect, hello, needs, needs_cable
from tests.faults.world import LONG, Served, World, double, told
from tests.rawpeer import RawPeer

# One that says HELLO, lets `requests` run, and then only holds on.
HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.rawpeer import RawPeer
peer = RawPeer({url!r})
for number in range({requests}):
    peer.infer(number + 1, "slow", bytes(4), (1,))
print("here", flush=True)
time.sleep(600)
"""
FREED_S = 60.0
LOOK_S = 3.0  # how often it is looked whether it is
ROOT = __file__.rsplit("/tests/", 1)[0]


def sockets(served: Served) -> int:
    """How many sockets the daemon has open, as /proc has it."""
    return sum(what.startswith("socket:") for what in procfs.descriptors(served.pid).values())


def test_the_kernel_asks_too(world: World) -> None:
    """Every TCP connection has keepalive on, at thirty seconds: the system's own would be two hours."""
    needs("ss")
    served = world.serve(told())
    with RawPeer(served.url) as peer:
        port = peer.sock.getpeername()[1]
        lines = subprocess.run(["ss", "-tnoH", "sport", f"= :{port}"], capture_output=True, text=True).stdout
        assert "timer:(keepalive,2" in lines or "timer:(keepalive,30sec" in lines, lines


@pytest.mark.skipif(not LONG, reason="takes a minute: make faults")
def test_gone_without_a_word(world: World) -> None:
    """A cable that is pulled: a client that an answer is on its way to is freed in 20 s, an idle one within a minute.

    Behind a proxy that is alive and passes nothing on, TCP's own probes are answered, and only PING finds out: a client
    that has said it answers at all times is freed within a minute; one that has not said so, and has nothing in flight,
    stays. Both faults at once, each with a daemon of its own.
    """
    needs_cable()
    with contextlib.ExitStack() as stack:
        cable = stack.enter_context(Cable(8).plugged_in())
        listen = ["--listen", f"inferd://{cable.here}:0", "--insecure-no-auth"]
        far = world.serve(double("Slow", seconds=2.0), flags=listen)
        near = world.serve(told())
        proxy = stack.enter_context(Proxy(near.url))
        idle = stack.enter_context(connect(proxy.url))
        idle.sendall(hello("ping"))
        assert idle.recv(1000)
        stack.enter_context(RawPeer(proxy.url))
        [url] = [word for word in far.log("ready")[0]["addresses"] if cable.here in word]
        before = sockets(far)
        for requests in (0, 1):
            program = HOLDER.format(root=ROOT, url=url, requests=requests)
            holder = cable.run([sys.executable, "-c", program], stdout=subprocess.PIPE)
            stack.callback(end, holder)
            assert holder.stdout is not None and holder.stdout.readline() == "here\n"
        proxied = sockets(near)
        assert sockets(far) == before + 2
        cable.cut()
        proxy.up.vanishes = proxy.down.vanishes = True
        since = time.monotonic()
        for served, left, name, limit_s in (
            (far, before + 1, "the cable is pulled, an answer on its way", 30.0),
            (far, before, "the cable is pulled, idle", FREED_S),
            (near, proxied - 1, "behind a dead proxy", FREED_S),
        ):
            world.until(lambda: sockets(served) <= left, since + limit_s + LOOK_S - time.monotonic(), 0.1)  # noqa: B023
            world.report(f"{name}: freed after", time.monotonic() - since, "s")
        assert sockets(near) == proxied - 1
        with world.caller(near) as good:
            assert good.call().outcome == "RESULT"
        proxy.up.vanishes = proxy.down.vanishes = False


def end(holder: subprocess.Popen[str]) -> None:
    """Ends a program at the far end."""
    holder.kill()
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()
