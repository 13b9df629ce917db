"""What a client owes of its fair share: it cannot be shaken off by leaving and coming back."""

from __future__ import annotations

from inferd.serve.holdings import MAX_DEBTORS, Holdings


def test_a_debt_outlives_the_connections_that_made_it() -> None:
    """Until the clock has passed it; then the name is forgotten, because a newcomer stands no worse."""
    holdings = Holdings(4 * 1024 * 1024)
    greedy, calm = holdings.client("ip:10.0.0.1"), holdings.client("ip:10.0.0.2")
    greedy.tag, calm.tag = 50.0, 9.0
    holdings.forget(set(), 10.0)
    assert holdings.client("ip:10.0.0.1") is greedy
    assert holdings.client("ip:10.0.0.2") is not calm
    holdings.forget(set(), 50.0)
    assert holdings.client("ip:10.0.0.1") is not greedy


def test_debtors_are_bounded() -> None:
    """Those who owe most are kept."""
    holdings = Holdings(4 * 1024 * 1024)
    extra = 100
    for number in range(MAX_DEBTORS + extra):
        holdings.client(f"ip:{number}").tag = 100.0 + number
    holdings.forget(set(), 10.0)
    kept = holdings.clients
    assert len(kept) == MAX_DEBTORS
    assert min(client.tag for client in kept.values()) == 100.0 + extra
