"""Preprocess runs beside the device: asked for late, lost without harm, and no way to hurt others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from inferd_client import Client, InferdError, Superseded

from inferd.serve import ahead
from tests.running import Daemon, double, running


@pytest.fixture(autouse=True)
def asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are asked for from a batch's beginning to its end, so that nothing depends on how well that is known."""
    monkeypatch.setattr(ahead, "SLACK", 1.0)


def ask(client: Client, word: str) -> str:
    """The thread that prepared it, or why it failed."""
    try:
        return str(client.infer("ahead", {"word": word})["thread"])
    except InferdError as error:
        return str(error.reason)


def busy(daemon: Daemon) -> None:
    """Returns when the worker has a batch."""
    daemon.until(lambda: daemon.engine.pool.workers[0].batch is not None)


def queued(daemon: Daemon, count: int) -> None:
    """Returns when so many wait."""
    daemon.until(lambda: daemon.engine.scheduler.queued == count)


def test_requests_are_prepared_while_the_batch_before_theirs_runs(tmp_path: Path) -> None:
    """The first batch teaches how long that takes, the second runs, and the third has been prepared beside it."""
    with running(tmp_path, double("Ahead", seconds=0.3)) as daemon, Client(daemon.url) as client:
        assert ask(client, "first") == "MainThread"
        with ThreadPoolExecutor(3) as threads:
            second = threads.submit(ask, client, "second")
            busy(daemon)
            third = [threads.submit(ask, client, word) for word in ("third", "and")]
            assert second.result() == "MainThread"
            assert [answer.result() for answer in third] == ["ahead", "ahead"]


def test_a_superseded_request_that_was_prepared_is_never_run(tmp_path: Path) -> None:
    """It gives up its place while it waits; forward never sees it."""
    with running(tmp_path, double("Ahead", seconds=0.3), double("Counted")) as daemon, Client(daemon.url) as client:
        ask(client, "first")
        with ThreadPoolExecutor(3) as threads:
            running_one = threads.submit(ask, client, "second")
            busy(daemon)
            older = threads.submit(client.infer, "ahead", {"word": "older"}, supersede="box")
            queued(daemon, 1)
            daemon.until(lambda: bool(daemon.engine.workers._ahead._prepared.get(0)))
            newer = threads.submit(client.infer, "ahead", {"word": "newer"}, supersede="box")
            assert running_one.result() == "MainThread"
            assert isinstance(older.exception(), Superseded)
            assert newer.result()["word"] == "newer"
        assert daemon.ask(lambda: daemon.engine.door.models["ahead"].meters.rows) == 3


def test_a_request_that_kills_its_worker_while_it_is_prepared_takes_no_other_with_it(tmp_path: Path) -> None:
    """The batch that ran beside it is answered, so is who was prepared with it, and it has two deaths, no more."""
    with running(tmp_path, double("Ahead", seconds=0.3)) as daemon, Client(daemon.url) as client:
        ask(client, "first")
        with ThreadPoolExecutor(4) as threads:
            second = threads.submit(ask, client, "second")
            busy(daemon)
            others = [threads.submit(ask, client, word) for word in ("before", "deadly", "after")]
            answers = [other.result() for other in others]
            assert second.result() == "MainThread"
        assert answers[0] in ("MainThread", "ahead") and answers[2] in ("MainThread", "ahead")
        assert answers[1] in ("WORKER_LOST", "POISONED")
        assert daemon.ask(lambda: daemon.engine.pool.workers[0].deaths) == 2
        daemon.until(lambda: daemon.engine.slab.used_bytes == 0)


def test_nobody_is_blamed_for_who_was_prepared_beside_him(tmp_path: Path) -> None:
    """Two that kill their worker while they are prepared, one after the other, behind the same innocent request."""
    with running(tmp_path, double("Ahead", seconds=0.3)) as daemon, Client(daemon.url) as client:
        ask(client, "first")
        with ThreadPoolExecutor(4) as threads:
            innocent = threads.submit(ask, client, "second")
            busy(daemon)
            guilty = [threads.submit(ask, client, "deadly")]
            daemon.until(lambda: daemon.engine.pool.workers[0].deaths > 0)
            guilty.append(threads.submit(ask, client, "deadly"))
            assert innocent.result() == "MainThread"
            assert {one.result() for one in guilty} <= {"WORKER_LOST", "POISONED"}
