"""`inferd profile`: how long a model's batches take, and what rate that allows within an objective."""

from __future__ import annotations

import json

import click

from inferd.cli.common import Finite, daemon, daemon_options, table


@click.command(short_help="Show what a model's batches take, and the rate that allows.")
@click.argument("model")
@daemon_options
@click.option(
    "--objective-ms",
    type=Finite(min=0, min_open=True),
    help="The rate at which requests can still be answered within so many milliseconds.",
)
@click.option("--json", "as_json", is_flag=True, help="One object.")
def profile(model: str, url: str, timeout_ms: float | None, objective_ms: float | None, as_json: bool) -> None:
    """Show what a running daemon has learned of MODEL: how long a batch takes on average, what is planned for it (so
    long or less 95 times in 100), and how many rows a second that makes.

    With --objective-ms, also the rate the device can take: a request may have to wait for the batch before its own, so
    it is that of the largest batch that fits the objective twice.
    """
    with daemon(url, timeout_ms) as client:
        served = {entry["name"]: entry for entry in client.status()["models"]}
    if model not in served:
        raise click.UsageError(f"no model {model!r} is served there; there are: {', '.join(served)}")
    learned = [(rows, 1000 * mean, 1000 * planned) for rows, mean, planned in served[model]["latency"]]
    rate, batch = sustainable(learned, objective_ms) if objective_ms is not None else (None, None)
    if as_json:
        entries = [{"rows": rows, "mean_ms": mean, "planned_ms": planned} for rows, mean, planned in learned]
        click.echo(json.dumps({"model": model, "latency": entries, "rate_per_s": rate, "batch": batch}))
        return
    if not learned:
        click.echo(
            f"nothing is known of {model} yet: it shows no example and declares no shapes, and nobody has asked it"
        )
        return
    lines = [
        [str(rows), f"{mean:.3f}", f"{planned:.3f}", f"{1000 * rows / mean:,.0f}"] for rows, mean, planned in learned
    ]
    for line in table(("batch", "mean ms", "planned ms", "rows/s"), lines):
        click.echo(line)
    if objective_ms is not None:
        if rate:
            click.echo(f"within {objective_ms:g} ms: about {rate:,.0f} rows/s, in batches of {batch}")
        else:
            click.echo(f"within {objective_ms:g} ms: not even one row at a time")


def sustainable(learned: list[tuple[int, float, float]], objective_ms: float) -> tuple[float, int]:
    """(rows a second, batch) of the best batch of which two are planned to fit the objective; zeros if none does."""
    fitting = [(1000 * rows / mean, rows) for rows, mean, planned in learned if 2 * planned <= objective_ms]
    return max(fitting, default=(0.0, 0))
