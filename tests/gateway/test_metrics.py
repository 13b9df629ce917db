"""/metrics, read by prometheus_client's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inferd_client import Client, InvalidArgument, NotFound
from prometheus_client.parser import text_string_to_metric_families

from inferd.gateway.metrics import HttpCounts, exposition
from tests.gateway.serving import Served, serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon that has answered three requests over its Unix socket, and refused two."""
    with serving(tmp_path_factory.mktemp("asked"), "virtual") as served:
        with Client(served.url) as client:
            for _ in range(2):
                client.infer("virtual", {"x": np.float32([1])})
            client.infer_batch("virtual", {"x": np.ones((3, 1), np.float32)})
            with pytest.raises(InvalidArgument):
                client.infer("virtual", {"x": np.float64([1])})
            with pytest.raises(NotFound):
                client.infer("nope", {"x": np.float32([1])})
        yield served


def samples(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and label values, as they are sorted by label."""
    answer = served.ask("GET", "/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_requests_are_counted_wherever_they_came_in(asked: Served) -> None:
    """By model and code; what nobody serves is counted, without a model's name of its own."""
    found = samples(asked)
    assert found["inferd_requests_total", ("OK", "virtual")] == 3
    assert found["inferd_requests_total", ("INVALID_ARGUMENT", "virtual")] == 1
    assert found["inferd_refused_total", ("MODEL_NOT_FOUND",)] == 1
    assert found["inferd_refused_total", ("INPUT_DTYPE",)] == 1
    assert found["inferd_ready", ()] == 1 and found["inferd_in_flight", ()] == 0
    assert found["inferd_worker_restarts_total", ()] == 0
    assert found["inferd_batches_released_total", ("idle",)] == 3


def test_histograms_have_every_request_and_batch(asked: Served) -> None:
    """Durations by request, computing and sizes by batch; buckets grow, and the last one is all."""
    found = samples(asked)
    for name in ("request_duration_seconds", "queue_duration_seconds", "compute_duration_seconds", "batch_size"):
        assert found[f"inferd_{name}_count", ("virtual",)] == 3
        assert found[f"inferd_{name}_bucket", ("+Inf", "virtual")] == 3
        buckets = sorted(
            (float(labels[0]), count) for (sample, labels), count in found.items() if sample == f"inferd_{name}_bucket"
        )
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert found["inferd_batch_size_sum", ("virtual",)] == 5
    assert found["inferd_batch_size_bucket", ("1.0", "virtual")] == 2
    assert found["inferd_batch_size_bucket", ("4.0", "virtual")] == 3
    total = found["inferd_request_duration_seconds_sum", ("virtual",)]
    assert total >= found["inferd_queue_duration_seconds_sum", ("virtual",)] > 0
    assert found["inferd_padding_ratio_count", ("virtual",)] == 3


def test_the_gateway_counts_its_own(asked: Served) -> None:
    """By route, not by path, and by status; and WebSockets."""
    asked.ask("GET", "/v2/models/nope")
    found = samples(asked)
    assert found["inferd_http_requests_total", ("/v2/models/{model}", "404")] >= 1
    assert found["inferd_http_websockets", ()] == 0


def test_every_metric_is_documented(asked: Served) -> None:
    """docs/OPERATIONS.md has each by the name that a query uses."""
    document = DOCUMENT.read_text()
    for name in {name for name, _ in samples(asked)}:
        family = name
        for end in ("_bucket", "_count", "_sum", "_created"):
            family = family.removesuffix(end)
        assert f"`{family}" in document, name


def test_without_a_status_there_is_what_can_be_said() -> None:
    """Not ready, and the gateway's own numbers."""
    text, _ = exposition(None, HttpCounts(), "")
    assert b"inferd_ready 0.0" in text and b"inferd_http_websockets" in text
