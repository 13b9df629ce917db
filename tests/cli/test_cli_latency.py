"""Latencies in buckets, and the pictures made of them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest

from inferd.cli.bench_plot import check_plot, over_time, page, percentile_curve, tail_position, ticks, write_plot
from inferd.cli.latency import FLOOR_S, Latencies
from inferd.errors import InferdError


def latencies(*seconds: float) -> Latencies:
    filled = Latencies()
    for value in seconds:
        filled.add(value)
    return filled


def test_percentiles_are_those_of_the_values() -> None:
    """Within half a bucket, 0.25 %, of numpy's over values that span five decades."""
    values = np.random.default_rng(1).lognormal(-6, 2, 20_000).clip(2e-6)
    filled = latencies(*values.tolist())
    for q in (0.001, 0.5, 0.9, 0.99, 0.999):
        exact = float(np.quantile(values, q, method="inverted_cdf"))
        assert filled.quantile(q) == pytest.approx(exact, rel=0.0026)
    assert filled.quantile(1) == filled.max_s == values.max()


def test_merging_is_counting_together() -> None:
    """The latencies of two generators are those of one that saw both."""
    one, other = latencies(0.001, 0.002), latencies(0.002, 0.5)
    one.merge(Latencies(other.counts.items(), other.max_s))
    both = latencies(0.001, 0.002, 0.002, 0.5)
    assert (one.counts, one.max_s, one.total) == (both.counts, both.max_s, 4)


def test_nothing_and_less_than_anything_are_no_accident() -> None:
    """No latencies have the percentile 0; those below the floor, or negative ones from clocks, count in the first
    bucket."""
    assert latencies().quantile(0.5) == 0.0
    assert latencies(0.0, -1.0, FLOOR_S).counts == {0: 3}


def test_the_tails_axis_gives_each_nine_the_same_room() -> None:
    """90 %, 99 % and 99.9 % are equally far apart."""
    assert [round(tail_position(q), 9) for q in (0, 0.9, 0.99, 0.999)] == [0, 1, 2, 3]


def test_the_curve_ends_at_the_largest() -> None:
    """The percentile curve climbs, and its last point is the maximum in milliseconds."""
    curve = percentile_curve(latencies(*(n / 1000 for n in range(1, 1001))))
    assert curve == sorted(curve)
    assert curve[-1] == (pytest.approx(3.0), 1000.0)


def test_a_gap_in_time_is_a_gap_in_the_line() -> None:
    """Slices without an answer break the line instead of being drawn as fast."""
    lines = over_time([latencies(0.001), latencies(), latencies(0.002), latencies(0.002)], 0.5, 0.5)
    assert [[x for x, _ in line] for line in lines] == [[0.25], [1.25, 1.75]]


@pytest.mark.parametrize("largest", [0.0, 1e-4, 0.7, 1, 19.99, 20, 1234])
def test_ticks_are_round_and_reach_the_largest(largest: float) -> None:
    """An axis has a few round numbers, from 0 to at least the largest value."""
    values = ticks(largest)
    assert values[0] == 0 and values[-1] >= largest * 0.999 and len(values) <= 7


def test_the_page_is_whole() -> None:
    """The HTML has two pictures that are valid XML, both colour schemes, no script, no other host, and the facts."""
    text = page("<echo>", [("requests/s", "1,234")], [latencies(0.001, 0.002), latencies(), latencies(0.004)], 0.5)
    assert "&lt;echo&gt;" in text and "<echo>" not in text
    assert "1,234" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import", text)
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_a_run_without_results_has_a_page_too() -> None:
    """Nothing to draw is said, not an error."""
    assert page("echo", [], [latencies()], 1.0).count("There were no results.") == 2


def test_a_picture_that_cannot_be_made_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown ending is a mistake of usage; a PNG without matplotlib says what to install."""
    with pytest.raises(click.UsageError, match=r"FILE\.html"):
        check_plot("latency.svg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InferdError, match="matplotlib"):
        check_plot("latency.png")
    check_plot("latency.html")


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The path and the reason, as one sentence."""
    with pytest.raises(InferdError, match="No such file"):
        write_plot(str(tmp_path / "no" / "a.html"), "t", [], [latencies()], 1.0)
