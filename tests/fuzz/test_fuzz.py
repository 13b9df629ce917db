"""What the fuzzer has found stays fixed, and it still finds nothing in a short run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.bulk import Bulk
from tests.fuzz.fuzz_session import STRANGERS, Bench
from tests.fuzz.fuzz_wire import CORPUS, Broken, Input, Mutator, check, check_memory, run


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_corpus(path: Path) -> None:
    """An input that once broke the invariant keeps it."""
    one = Input.load(path)
    if one.target in ("session", "stranger"):
        converse(one)
    else:
        check(one)
        check_memory(one)


def test_a_short_run_finds_nothing() -> None:
    """Four thousand inputs of a fixed seed keep the invariant."""
    tried, frames, findings = run(seed=1, inputs=4_000)
    assert (tried, findings) == (4_000, [])
    assert frames > 4_000  # most of what is made is still looked at


def converse(one: Input) -> None:
    bench = Bench()
    try:
        bench.check(one.data, greets=one.target == "session", reads=one.keep, piece=one.piece)
    finally:
        bench.close()


def test_a_short_run_in_bulk_finds_nothing() -> None:
    """Thousands of frames with a few bytes changed break neither the decoder nor a session."""
    bulk = Bulk(seed=1)
    try:
        bulk.run("decoder", seconds=60, frames=4_000)
        bulk.run("session", seconds=60, frames=4_000)
    finally:
        bulk.close()
    assert all(tally.frames >= 4_000 for tally in bulk.of.values())


@pytest.mark.parametrize("data", STRANGERS, ids=lambda data: repr(data[:6]))
@pytest.mark.parametrize("piece", [1, 3, 1 << 30])
def test_a_stranger_hears_nothing(data: bytes, piece: int) -> None:
    """Whoever speaks another protocol is closed at the first bytes that show it, and nothing is sent back."""
    converse(Input("stranger", data, piece=piece))


def test_the_check_of_a_session_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that answers strangers, or forgets to give memory back, is found out."""
    monkeypatch.setattr("inferd.serve.engine.Engine.withdraw", lambda *_: None)
    bulk = Bulk(seed=1)
    with pytest.raises(Broken, match="left of a connection"):
        bulk.run("session", seconds=60, frames=4_000)
    bulk.close()


def test_the_same_seed_makes_the_same_inputs() -> None:
    """A finding can be made again from its seed."""
    one, other = Mutator(5), Mutator(5)
    assert [one.next() for _ in range(200)] == [other.next() for _ in range(200)]


def test_the_check_can_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A decoder that leaks another exception, or lets a lie through, is found and kept with its reason."""
    monkeypatch.setattr("tests.fuzz.fuzz_wire.CORPUS", tmp_path)
    monkeypatch.setattr("inferd.wire.peer.aligned", lambda _: -1)
    _, _, findings = run(seed=1, inputs=300)
    assert findings
    with pytest.raises(Broken, match="passed"):
        check(Input.load(findings[0]))
