"""T7: a client asks for large answers and does not read them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from inferd.wire import frame as f
from inferd.wire.messages import Hello, Infer
from inferd.wire.peer import CLIENT, OPEN, Peer
from inferd.wire.tensor import layout
from tests.faults import procfs
from tests.faults.network import Peak, connect, ended
from tests.faults.world import LONG, Served, World, told

MIB = 1024 * 1024
BATCH = 16
# What one connection may make the daemon hold beside its arenas: 1 MiB, and what two batches return (the one that runs
# when that is noticed, and the one that was sent behind it before its answers were written). More than the catalogue
# wants: 1 MiB and a reply.
ONE_CONNECTION_MIB = 1 + 2 * BATCH + 4
ALL_CONNECTIONS_MIB = 256
# What a turn of the loop may add before those that were cut have given theirs back, and the daemon's own.
SLACK_MIB = 128


def serve(world: World, **options: Any) -> Served:
    """Answers of 1 MiB, sixteen to a batch. Options: those of World.serve."""
    return world.serve(told(reply_bytes=MIB, max_batch_size=BATCH), **options)


def test_a_reader_that_stops_is_bounded_and_cut(world: World) -> None:
    """It has 1 MiB and what was being computed; its other requests stay undone; after ten seconds it is cut. Another
    client, on the same model, is served all the time."""
    served = serve(world)
    requests = world.scale(24, 200)
    with Peak(served) as peak, world.caller(served, reply_bytes=MIB) as good:
        good.call()
        since = time.monotonic()
        with world.caller(served, reply_bytes=MIB) as slow:
            for _ in range(requests):
                slow.send()
            for _ in range(20):
                assert good.call(deadline_ms=10_000).outcome == "RESULT"
            if world.scale(False, True):
                world.until(lambda: served.status()["counters"].get("connections_cut", 0) == 1, 20)
                took_s = time.monotonic() - since
                world.report("cut after", took_s, "s")
                assert took_s > 9
                # Nothing of what was left undone is computed for nobody.
                computed = served.status()["models"][0]["rows"]
                world.report("computed of its requests", computed - 21, f"of {requests}")
                assert computed - 21 < requests / 2
        assert good.call().outcome == "RESULT"
    world.report("memory for one reader that stops", peak.growth_mib, "MiB")
    assert peak.growth_mib < ONE_CONNECTION_MIB
    assert "connection_cut" in {record["event"] for record in served.log()} or not world.scale(False, True)


def test_all_of_them_together_are_bounded(world: World) -> None:
    """Sixty clients that read nothing of sixteen answers each: at 256 MiB those that hold most are cut, and one that
    reads is not."""
    served = serve(world)
    served.repeats.add("connection_cut")
    connections = world.scale(4, 60)
    with Peak(served) as peak, contextlib.ExitStack() as stack, world.caller(served, reply_bytes=MIB) as good:
        slow = []
        for _ in range(connections):
            caller = stack.enter_context(world.caller(served, reply_bytes=MIB))
            slow.append(caller)
            for _ in range(16):
                caller.send()
            assert good.call(deadline_ms=10_000).outcome == "RESULT"
        for _ in range(10):
            assert good.call(deadline_ms=10_000).outcome == "RESULT"
        cut = sum(ended(caller.raw.sock) for caller in slow)
    world.report("memory for 60 readers that stop", peak.growth_mib, "MiB")
    world.report("of them cut at once", cut, f"of {connections}")
    assert peak.growth_mib < ALL_CONNECTIONS_MIB + SLACK_MIB


@pytest.mark.skipif(not LONG, reason="takes ten seconds: make faults")
def test_a_page_that_does_not_read(world: World) -> None:
    """Over a WebSocket, too: the gateway holds back what a page does not take, and cuts it after ten seconds."""
    served = serve(world, web=True)
    [gateway] = [pid for pid in procfs.descendants(served.pid) if "inferd.gateway" in procfs.command_of(pid)]
    before_mib = procfs.rss_anon_bytes(gateway) / MIB
    table, end = layout([("x", "UINT8", (64,))])
    peer = Peer(CLIENT)
    said = peer.send(f.HELLO, Hello("page"))
    peer._become(OPEN)
    for request_id in range(1, 101):
        said += peer.send(f.INFER, Infer("told", table, end), request_id, 64) + bytes(64)
    host, port = served.web_url.removeprefix("http://").rsplit(":", 1)
    with Peak(served) as peak, connect(f"inferd://{host}:{port}") as page:
        page.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: inferd.v1\r\n\r\n".encode()
        )
        assert b"101" in page.recv(1000)
        # One binary message with a mask of zeros.
        page.sendall(b"\x82\xfe" + len(said).to_bytes(2, "big") + bytes(4) + said)
        open_then = len(procfs.descriptors(gateway))
        since = time.monotonic()
        most_mib = 0.0
        while len(procfs.descriptors(gateway)) >= open_then:
            assert time.monotonic() - since < 30, "the gateway keeps it"
            most_mib = max(most_mib, procfs.rss_anon_bytes(gateway) / MIB)
            time.sleep(0.05)
        world.report("a page that stops: cut after", time.monotonic() - since, "s")
        world.report("a page that stops: memory of the gateway", most_mib - before_mib, "MiB")
    world.report("a page that stops: memory of the loop", peak.growth_mib, "MiB")
    assert most_mib - before_mib < 16
    assert peak.growth_mib < ONE_CONNECTION_MIB
