"""Which pages may ask, and under which name the gateway answers."""

from __future__ import annotations

import pytest

from inferd.gateway.access import Access
from tests.gateway.serving import Served


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7480", None),
        ("localhost", None),
        ("LocalHost:1", "http://localhost:1"),
        ("[::1]:7480", "http://[::1]:7480"),
        ("127.0.0.1:7480", "http://127.0.0.1:7480"),
        ("127.0.0.1:7480", "https://demo.example"),
        ("demo.example", "https://demo.example"),
    ],
)
def test_the_own_page_and_listed_ones_may_ask(host: str, origin: str | None) -> None:
    """The page's own Origin is the Host; programs have none."""
    assert Access(["https://demo.example"], True).problem(host, origin) == ""


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7480", "http://evil.example"),
        ("127.0.0.1:7480", "http://127.0.0.1:8000"),
        ("127.0.0.1:7480", "null"),
        ("127.0.0.1:7480", ""),
        ("127.0.0.1:7480", "http://demo.example"),
        ("evil.example:7480", "http://evil.example:7480"),
        ("evil.example", None),
        ("", None),
        ("[", None),
        ("127.0.0.1.evil.example", None),
    ],
)
def test_others_may_not(host: str, origin: str | None) -> None:
    """Another site, another port, no site at all; and a name that somebody lets point here."""
    assert Access(["https://demo.example"], True).problem(host, origin)


def test_a_gateway_for_all_answers_to_any_name() -> None:
    """Beyond loopback nobody knows by which names it is reached; the Origin is checked all the same."""
    access = Access([], False)
    assert access.problem("inference.example", None) == ""
    assert access.problem("inference.example", "https://inference.example") == ""
    assert access.problem("inference.example", "https://evil.example")


@pytest.mark.parametrize("path", ["/", "/v2", "/metrics", "/livez", "/ws"])
def test_every_address_is_checked(served: Served, path: str) -> None:
    """403 with the reason, for a page of another origin and for another host."""
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        answer = served.ask("GET", path, **headers)
        assert answer.status == 403 and "--web-origin" in answer.json["error"]
