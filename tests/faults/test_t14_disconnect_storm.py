"""T14: thousands connect, ask, send half a frame and are gone with RST."""

from __future__ import annotations

import threading
import time

from inferd.wire import frame as f
from inferd.wire.messages import Infer
from inferd.wire.peer import CLIENT, OPEN, Peer
from inferd.wire.tensor import layout
from tests.chaos import reset_on_close
from tests.faults.network import connect, hello
from tests.faults.world import World, double
from tests.rawpeer import RawPeer

REQUESTS = 8
PER_S = 500


def burst() -> bytes:
    """HELLO, some requests, and the first half of one more."""
    peer = Peer(CLIENT)
    peer._become(OPEN)
    table, end = layout([("x", "FP32", (1,))])
    message = hello()
    for request_id in range(1, REQUESTS + 1):
        message += peer.send(f.INFER, Infer("counted", table, end), request_id, 4) + bytes(4)
    half = peer.send(f.INFER, Infer("counted", table, end), 99, 4) + bytes(4)
    return message + half[: len(half) // 2]


def test_what_the_dead_have_asked_is_not_computed(world: World) -> None:
    """The device has enough to do with one who stays. At most one in twenty of the requests of the dead is computed:
    those that it took before their RST came. Everything is back at rest at once. The model counts what it computes."""
    served = world.serve(double("Counted"))
    connections = world.scale(400, 5000)
    data = burst()
    answered = 0
    stop = threading.Event()

    def stay() -> None:
        nonlocal answered
        with RawPeer(served.unix_url) as peer:
            asked = 0
            while not stop.is_set():
                while asked - answered < 64:
                    asked += 1
                    peer.infer(asked, "counted", bytes(4), (1,))
                assert peer.next().type == f.RESULT
                answered += 1
            while answered < asked:
                assert peer.next().type == f.RESULT
                answered += 1

    staying = threading.Thread(target=stay)
    staying.start()
    world.until(lambda: answered > 64)
    since = time.monotonic()
    for number in range(connections):
        time.sleep(max(0.0, since + number / PER_S - time.monotonic()))
        sock = connect(served.url)
        sock.sendall(data)
        reset_on_close(sock)
        sock.close()
    took_s = time.monotonic() - since
    over = time.monotonic()
    stop.set()
    staying.join(10)
    world.until(lambda: not served.back_to_baseline(), 10)
    quiet_s = time.monotonic() - over
    with RawPeer(served.unix_url) as peer:
        peer.infer(1, "counted", bytes(4), (1,))
        frame = peer.next()
    assert frame.payload is not None
    counters = served.status()["counters"]
    computed = int.from_bytes(frame.payload[64:72], "little") - answered - 1
    asked = connections * REQUESTS
    world.report(f"{connections} connections in", took_s, "s")
    world.report("of their requests computed", 100 * computed / asked, "%")
    world.report("taken off the queue", counters.get("disconnected_while_queued", 0), f"of {asked}")
    world.report("descriptors, memory and slab at rest after", quiet_s, "s")
    assert answered > 10
    assert computed <= asked / 20
    assert quiet_s < 5
