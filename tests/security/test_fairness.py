"""What a client owes of its fair share: it cannot be shaken off by leaving and coming back."""

from __future__ import annotations

from inferd.config import Settings
from inferd.schedule.ticket import Client
from inferd.serve import engine as engines
from inferd.serve.engine import Engine
from inferd.work.inline import InlineExecutor


def made() -> Engine:
    return Engine(Settings(slab_mib=4, arena_mib=4, payload_mib=1), InlineExecutor(), clock=lambda: 0.0)


def test_a_debt_outlives_the_connections_that_made_it() -> None:
    """Until the clock has passed it; then the name is forgotten, because a newcomer stands no worse."""
    engine = made()
    greedy, calm = engine.client("ip:10.0.0.1"), engine.client("ip:10.0.0.2")
    greedy.tag, calm.tag = 50.0, 9.0
    engine._forget_clients(10.0)
    assert engine.client("ip:10.0.0.1") is greedy
    assert engine.client("ip:10.0.0.2") is not calm
    engine._forget_clients(50.0)
    assert engine.client("ip:10.0.0.1") is not greedy


def test_debtors_are_bounded(monkeypatch: object) -> None:
    """Those who owe most are kept."""
    engine = made()
    extra = 100
    for number in range(engines.MAX_DEBTORS + extra):
        engine.client(f"ip:{number}").tag = 100.0 + number
    engine._forget_clients(10.0)
    kept: dict[str, Client] = engine._clients
    assert len(kept) == engines.MAX_DEBTORS
    assert min(client.tag for client in kept.values()) == 100.0 + extra
