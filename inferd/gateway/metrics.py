"""/metrics for Prometheus: made from the daemon's STATUS when it is asked for, and the gateway's own few counters.

The daemon counts (inferd/serve/meters.py), so that what went over TCP is in it too. docs/OPERATIONS.md lists the names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

_HISTOGRAMS = (
    ("inferd_request_duration_seconds", "duration_s", "seconds", "From a request's arrival to its result."),
    ("inferd_queue_duration_seconds", "queue_s", "seconds", "From a request's arrival to the start of its batch."),
    ("inferd_compute_duration_seconds", "compute_s", "seconds", "What a batch took in its worker."),
    ("inferd_batch_size", "batch_rows", "rows", "Rows of a batch, padding left out."),
)


class HttpCounts:
    """The gateway's own: requests by (route, status), and how many WebSockets are open."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.websockets = 0


def exposition(status: Mapping[str, Any] | None, http: HttpCounts, accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the form that `accept` asks for; `status` is None if there is none."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot([*_of_the_daemon(status), *_of_the_gateway(http)]))
    try:
        encoder, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # it asks for a version that is no number
        encoder, content_type = choose_encoder("")
    return encoder(registry), content_type


class _Snapshot(Collector):
    """Metrics that are there already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


def _of_the_gateway(http: HttpCounts) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "inferd_http_requests", "Requests to the gateway over HTTP.", labels=("route", "status")
    )
    for (route, status), count in sorted(http.requests.items()):
        requests.add_metric((route, status), count)
    yield requests
    yield GaugeMetricFamily("inferd_http_websockets", "WebSockets that are open.", http.websockets)


def _of_the_daemon(status: Mapping[str, Any] | None) -> Iterator[Metric]:
    ready = status is not None and status["state"] == "ready"
    yield GaugeMetricFamily("inferd_ready", "1 if the daemon can serve: warm, a worker there, not draining.", ready)
    if status is None:
        return
    yield GaugeMetricFamily(
        "inferd_connections", "Connections to the daemon, the gateway's too.", status["connections"]
    )
    yield GaugeMetricFamily("inferd_pending", "Requests that wait in the queue.", status["queued"])
    yield GaugeMetricFamily("inferd_in_flight", "Requests that have no answer yet.", status["in_flight"])
    restarts = sum(worker["deaths"] for worker in status["workers"])
    yield CounterMetricFamily("inferd_worker_restarts", "Workers that died and were replaced.", restarts)
    yield from _by_model(status)
    yield from _counted(status["counters"])


def _by_model(status: Mapping[str, Any]) -> Iterator[Metric]:
    models: list[Mapping[str, Any]] = status["models"]
    requests = CounterMetricFamily(
        "inferd_requests", "Requests that have ended, by how: OK or the error's code.", labels=("model", "code")
    )
    padding = SummaryMetricFamily(
        "inferd_padding_ratio", "The share of a batch's elements that were padding.", labels=("model",)
    )
    for model in models:
        for code, count in sorted(model["meters"]["codes"].items()):
            requests.add_metric((model["name"], code), count)
        batches = sum(model["meters"]["batch_rows"]["counts"])
        padding.add_metric((model["name"],), batches, model["meters"]["padding_sum"])
    yield requests
    yield padding
    for name, key, unit, text in _HISTOGRAMS:
        histogram = HistogramMetricFamily(name, text, labels=("model",))
        bounds = [str(float(bound)) for bound in status["buckets"][unit]] + ["+Inf"]
        for model in models:
            values = model["meters"][key]
            # Prometheus counts what is at or below each bound.
            counts = accumulate(values["counts"])
            histogram.add_metric((model["name"],), list(zip(bounds, counts, strict=True)), values["sum"])
        yield histogram


def _counted(counters: Mapping[str, int]) -> Iterator[Metric]:
    """The daemon's counters that are families: their names begin, or end, alike."""
    released = CounterMetricFamily("inferd_batches_released", "Batches, by why each began.", labels=("why",))
    refused = CounterMetricFamily("inferd_refused", "Requests turned away before they were queued.", labels=("reason",))
    failed = CounterMetricFamily("inferd_failed", "Queued requests that ended with an error.", labels=("reason",))
    cancelled = CounterMetricFamily(
        "inferd_cancelled",
        "Requests nobody waited for any more: what they were doing, and why.",
        labels=("stage", "why"),
    )
    for name, count in counters.items():
        head, _, rest = name.partition("_")
        why, _, stage = name.partition("_while_")
        if stage:
            cancelled.add_metric((stage, why), count)
        elif name in ("batches_idle", "batches_freed", "batches_again"):
            released.add_metric((rest,), count)
        elif head == "refused":
            refused.add_metric((rest.upper(),), count)
        elif head == "failed":
            failed.add_metric((rest.upper(),), count)
    yield from (released, refused, failed, cancelled)
    for name in ("connections_cut", "batches_raised", "arena_waits", "dropped_logs"):
        yield CounterMetricFamily(f"inferd_{name}", f"The daemon's counter {name}.", counters.get(name, 0))
