"""T12: whoever connects speaks something else."""

from __future__ import annotations

import time

from tests.faults.network import connect, rest
from tests.faults.world import Served, World, told

OPENINGS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST": b"POST /v2/models HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(100),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "zeros": bytes(64),
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "one byte": b"G",
}


def test_it_is_closed_without_a_byte(world: World) -> None:
    """At once, with nothing echoed, and one line a second in the log however many come."""
    served = world.serve(told())
    for network, url in (("tcp", served.url), ("unix", served.unix_url)):
        strangers(world, served, network, url)


def strangers(world: World, served: Served, network: str, url: str) -> None:
    """Each of them, many times."""
    lines_before = len(served.log("protocol_error"))
    began = time.monotonic()
    times = []
    with world.caller(served) as good:
        for _ in range(world.scale(5, 50)):
            for opening in OPENINGS.values():
                with connect(url) as sock:
                    since = time.monotonic()
                    sock.sendall(opening)
                    assert rest(sock) == b""
                    times.append(time.monotonic() - since)
        assert good.call().outcome == "RESULT"
    world.report(f"{network}: closed after, at most", max(times) * 1000, "ms")
    refused = len(times)
    lines = len(served.log("protocol_error")) - lines_before
    seconds = time.monotonic() - began
    world.report(f"{network}: lines in the log", lines, f"for {refused} of them")
    assert lines <= seconds + 20
