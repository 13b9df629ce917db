"""inferd profile: what was learned of a model, and what rate it allows."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from inferd.cli import cli
from inferd.cli.profile import sustainable
from inferd.config import ModelConfig
from tests.running import double, running


def test_the_table_is_there_before_the_first_request(tmp_path: Path) -> None:
    """The warm-up has measured a model that declares its shapes; what it allows follows from that."""
    model = ModelConfig("virtual", "inferd.models.virtual:Virtual", {"alpha_ms": 4, "beta_ms": 1, "max_batch_size": 8})
    with running(tmp_path, model, double("Hash")) as daemon:
        result = CliRunner().invoke(
            cli, ["profile", "virtual", "--url", daemon.url, "--objective-ms", "1000", "--json"]
        )
        found = json.loads(result.output)
        assert [entry["rows"] for entry in found["latency"]] == [1, 2, 3, 4, 6, 8]
        assert found["batch"] == 8 and 0 < found["rate_per_s"] <= 1.1 * 8 / 0.012  # a line through what was measured
        text = CliRunner().invoke(cli, ["profile", "hash", "--url", daemon.url]).output
        assert "nothing is known of hash yet" in text
        wrong = CliRunner().invoke(cli, ["profile", "nobody", "--url", daemon.url])
        assert wrong.exit_code == 2 and "there are: virtual, hash" in wrong.output


def test_two_batches_have_to_fit() -> None:
    """A request may come just after a batch has begun."""
    learned = [(1, 6.0, 6.0), (8, 13.0, 13.0), (64, 69.0, 69.0)]
    assert sustainable(learned, 25.0) == (1000 / 6.0, 1)
    assert sustainable(learned, 26.0) == (8000 / 13.0, 8)
    assert sustainable(learned, 5.0) == (0.0, 0)
