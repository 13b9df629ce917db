"""T18: sockets with tiny buffers, bytes that come one at a time, a line of one megabit."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from inferd.wire import frame as f
from inferd.wire.messages import Infer
from tests.chaos import Proxy
from tests.faults.models import digest
from tests.faults.network import Cable, needs_cable
from tests.faults.world import LONG, World, told
from tests.rawpeer import RawPeer

SIZE = 20_000
REPLY_BYTES = 160_000
ROOT = __file__.rsplit("/tests/", 1)[0]


def ask(peer: RawPeer, count: int, size: int, reply_bytes: int) -> None:
    """Some requests at once; every answer is byte for byte its own."""
    from inferd.wire.tensor import layout

    table, end = layout([("x", "UINT8", (size,))])
    asked = {}
    for request_id in range(1, count + 1):
        x = bytes([0]) + bytes((request_id + position) % 251 for position in range(size - 1))
        asked[request_id] = x
        head = peer.peer.send(f.INFER, Infer("told", table, end), request_id, len(x))

        def send(data: bytes = head + x) -> None:
            peer.sock.sendall(data)

        sending = threading.Thread(target=send)
        sending.start()
        frame = peer.next()
        sending.join()
        assert frame.type == f.RESULT and frame.request_id == request_id, frame
        assert bytes(frame.payload or b"") == digest(asked[request_id]) * (reply_bytes // 16)


def test_small_socket_buffers(world: World) -> None:
    """4 KiB on the client's side: every write of the daemon is cut short, and every read is a few bytes."""
    served = world.serve(told(size=SIZE, reply_bytes=REPLY_BYTES))
    for url in (served.url, served.unix_url):
        peer = RawPeer(url, receive_buffer_bytes=4096)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with peer:
            ask(peer, world.scale(3, 50), SIZE, REPLY_BYTES)


def test_byte_by_byte(world: World) -> None:
    """A proxy that hands on one byte at a time, both ways."""
    size, reply_bytes = world.scale((600, 1600), (6000, 16_000))
    served = world.serve(told(size=size, reply_bytes=reply_bytes))
    with Proxy(served.url, buffer_bytes=4096) as proxy:
        proxy.up.piece_bytes = proxy.down.piece_bytes = 1
        with RawPeer(proxy.url) as peer:
            since = time.monotonic()
            ask(peer, world.scale(3, 20), size, reply_bytes)
            took_s = time.monotonic() - since
        world.report("byte by byte", (proxy.up.passed + proxy.down.passed) / took_s / 1000, "KB/s")


@pytest.mark.skipif(not LONG, reason="takes its time: make faults")
def test_a_line_of_one_megabit(world: World) -> None:
    """Between two network namespaces with tc's tbf at both ends: slow, and byte-identical; nobody is cut for it."""
    needs_cable()
    with Cable(18).plugged_in("tbf rate 1mbit burst 4kb latency 400ms") as cable:
        listen = ["--listen", f"inferd://{cable.here}:0", "--insecure-no-auth"]
        served = world.serve(told(size=SIZE, reply_bytes=REPLY_BYTES), flags=listen)
        [url] = [word for word in served.log("ready")[0]["addresses"] if cable.here in word]
        program = (
            f"import sys; sys.path.insert(0, {ROOT!r})\n"
            "from tests.faults.test_t18_tiny_buffers import RawPeer, ask\n"
            f"peer = RawPeer({url!r}); peer.sock.settimeout(60); ask(peer, 8, {SIZE}, {REPLY_BYTES}); print('right')\n"
        )
        since = time.monotonic()
        client = cable.run([sys.executable, "-c", program], stdout=subprocess.PIPE)
        out, _ = client.communicate(timeout=120)
        took_s = time.monotonic() - since
        assert out == "right\n"
        world.report("on a line of 1 Mbit/s", 8 * (SIZE + REPLY_BYTES) * 8 / took_s / 1e6, "Mbit/s")
    assert served.status()["counters"].get("connections_cut", 0) == 0
