"""T24: twice and ten times what the device can do, from callers who do not wait for answers."""

from __future__ import annotations

import select
import time
from collections import Counter

from inferd.wire import frame as f
from inferd.wire.messages import Error, Infer
from inferd.wire.tensor import layout
from tests.faults.world import Served, World, told
from tests.rawpeer import RawPeer

# A batch takes 5 ms and half a millisecond a row, 32 at most: 1523 rows/s.
PAUSE_S, PER_ROW_S, LARGEST = 0.005, 0.0005, 32
PEAK_PER_S = LARGEST / (PAUSE_S + PER_ROW_S * LARGEST)
DEADLINE_MS = 200.0
CONNECTIONS = 8
TICK_S = 0.002
BACK_S = 5.0


class Phase:
    """What became of the requests that were sent in it."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.took: list[float] = []  # to the result, in seconds
        self.refused: list[float] = []  # to OVERLOADED
        self.without_advice = 0

    def note(self, took_s: float, error: Error | None) -> None:
        """One outcome."""
        self.outcomes[error.reason if error is not None else "RESULT"] += 1
        if error is None:
            self.took.append(took_s)
        elif error.reason == "OVERLOADED":
            self.refused.append(took_s)
            self.without_advice += error.retry_after_ms is None


def share_ms(times: list[float], share: float) -> float:
    """The time that this share of them stayed under."""
    return sorted(times)[int(share * (len(times) - 1))] * 1000 if times else 0.0


class OpenLoop:
    """Requests at a rate, whatever becomes of those before; credits are ignored, as a bad client would."""

    def __init__(self, served: Served) -> None:
        self.peers = [RawPeer(served.unix_url) for _ in range(CONNECTIONS)]
        self.open: list[dict[int, tuple[float, Phase]]] = [{} for _ in self.peers]
        self._last_id = 0
        table, end = layout([("x", "UINT8", (64,))])
        self._header = Infer("told", table, end, deadline_ms=DEADLINE_MS).pack()

    def offer(self, per_s: float, seconds: float, phase: Phase) -> None:
        """That rate for that time."""
        began = time.monotonic()
        sent = 0
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * per_s)
            if due > sent:
                self._send(due - sent, phase)
                sent = due
            self._receive(TICK_S)

    def finish(self) -> None:
        """Every request has ended."""
        deadline = time.monotonic() + 10
        while any(self.open):
            assert time.monotonic() < deadline, "requests without an outcome"
            self._receive(0.1)

    def close(self) -> None:
        """Ends the connections."""
        for peer in self.peers:
            peer.sock.close()

    def _send(self, count: int, phase: Phase) -> None:
        share = -(-count // len(self.peers))
        for peer, unanswered in zip(self.peers, self.open, strict=True):
            data = []
            now = time.monotonic()
            for _ in range(min(share, count)):
                self._last_id += 1
                unanswered[self._last_id] = (now, phase)
                data += [f.pack_prefix(f.INFER, self._last_id, len(self._header), 64), self._header, bytes(64)]
            count -= min(share, count)
            peer.sock.sendall(b"".join(data))

    def _receive(self, timeout_s: float) -> None:
        socks = {peer.sock: index for index, peer in enumerate(self.peers)}
        for sock in select.select(list(socks), [], [], timeout_s)[0]:
            index = socks[sock]
            peer, unanswered = self.peers[index].peer, self.open[index]
            nbytes = sock.recv_into(peer.get_buffer())
            assert nbytes, "the connection ended"
            now = time.monotonic()
            peer.buffer_updated(nbytes)
            while (frame := peer.next_frame()) is not None:
                if not frame.complete:
                    peer.accept(memoryview(bytearray(frame.payload_bytes)))
                    continue
                if frame.type in (f.RESULT, f.ERROR):
                    since, phase = unanswered.pop(frame.request_id)
                    phase.note(now - since, frame.message if isinstance(frame.message, Error) else None)


def test_it_serves_what_it_can_and_comes_back(world: World) -> None:
    """Under ten times its rate it answers about as many as it ever does, refuses the others with advice, and five
    seconds after the load has gone it is as fast as before."""
    served = world.serve(told(pause_s=PAUSE_S, pause_per_row_s=PER_ROW_S, max_batch_size=LARGEST))
    seconds = world.scale(1.0, 8.0)
    phases = {name: Phase() for name in ("half", "peak", "2x", "10x", "pause", "after")}
    load = OpenLoop(served)
    try:
        for name, times, for_s in (
            ("half", 0.5, seconds),
            ("peak", 1.2, seconds),
            ("2x", 2.0, seconds),
            ("10x", 10.0, seconds),
            ("pause", 0.5, world.scale(0.5, BACK_S)),
            ("after", 0.5, seconds),
        ):
            load.offer(times * PEAK_PER_S, for_s, phases[name])
        load.finish()
    finally:
        load.close()
    peak = phases["peak"].outcomes["RESULT"] / seconds
    world.report("peak", peak, "requests/s")
    for name in ("2x", "10x"):
        phase = phases[name]
        world.report(f"{name}: offered", phase.outcomes.total() / seconds, "requests/s")
        world.report(f"{name}: goodput", 100 * phase.outcomes["RESULT"] / seconds / peak, "% of peak")
        world.report(f"{name}: refused after, median", share_ms(phase.refused, 0.5), "ms")
        assert phase.without_advice == 0
        assert phase.outcomes["RESULT"] > 0
        assert set(phase.outcomes) <= {"RESULT", "OVERLOADED", "TIMEOUT", "TOO_MANY_IN_FLIGHT"}, phase.outcomes
    world.report("p99 at half load, before", share_ms(phases["half"].took, 0.99), "ms")
    world.report("p99 at half load, 5 s after", share_ms(phases["after"].took, 0.99), "ms")
    after = phases["after"].outcomes
    world.report("not answered at half load, 5 s after", after.total() - after["RESULT"], f"of {after.total()}")
    assert after["RESULT"] > 0.9 * after.total(), after
