"""`inferd status`: what a daemon is doing, once or again and again."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from inferd.cli.common import DAY_S, Finite, daemon, daemon_options, printable, table
from inferd.config import MIB
from inferd.errors import RequestError

# How the last reload ended.
_RELOADS = {
    "running": "under way",
    "changed": "it changed what the log says",
    "nothing changed": "nothing had changed",
    "failed": "it failed, and nothing was changed; the log says why",
}


@click.command(short_help="Show what a daemon is doing.")
@daemon_options
@click.option(
    "--watch",
    is_flag=False,
    flag_value=1.0,
    type=Finite(0.1, DAY_S),
    metavar="[SECONDS]",
    help="Again every SECONDS (1 if left out), with rates, until Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, or with --watch one a line.")
def status(url: str, timeout_ms: float | None, watch: float | None, as_json: bool) -> None:
    """Show what a daemon is doing: requests, workers, models and counters since it started."""
    previous: dict[str, Any] | None = None
    taken = 0.0
    with daemon(url, timeout_ms) as client:
        while True:
            try:
                current = client.status()
            except RequestError as error:
                if previous is None or watch is None or not error.retryable:
                    raise
                click.echo(printable(f"inferd: {error}; trying again"), err=True)
                time.sleep(watch)
                continue
            now = time.monotonic()
            _show(current, previous, now - taken, as_json, clear=watch is not None and sys.stdout.isatty())
            if watch is None:
                return
            previous, taken = current, now
            time.sleep(watch)


def _show(
    current: dict[str, Any], previous: dict[str, Any] | None, elapsed_s: float, as_json: bool, clear: bool
) -> None:
    if as_json:
        click.echo(json.dumps(current))
        sys.stdout.flush()
        return
    lines = status_lines(current, previous, elapsed_s)
    if clear:
        click.clear()
    click.echo("\n".join(lines) + ("" if clear or previous is None else "\n"))


def status_lines(current: dict[str, Any], previous: dict[str, Any] | None = None, elapsed_s: float = 0.0) -> list[str]:
    """A status for a reader; with the one `elapsed_s` before it, rates too."""
    if previous is not None and current["uptime_s"] < previous["uptime_s"]:
        previous = None  # it was started anew in between
    slab = current["slab"]
    pid = f"  pid {current['pid']}" if "pid" in current else ""
    lines = [
        printable(f"inferd {current['version']}  {current['state']}  up {duration(current['uptime_s'])}{pid}"),
        f"queued {current['queued']}  in flight {current['in_flight']}  connections {current['connections']}  "
        f"slab {slab['used_bytes'] / MIB:.1f} of {slab['bytes'] / MIB:.0f} MiB",
    ]
    reload = current.get("reload")
    if reload is not None:
        lines.append(f"last reload {duration(max(0.0, time.time() - reload['at']))} ago: {_RELOADS[reload['state']]}")
    lines.append("")
    rates = _Rates(previous, elapsed_s)
    lines += _workers(current, previous, rates)
    lines += ["", *_models(current, previous, rates)]
    counters = current["counters"]
    if counters:
        before = previous["counters"] if previous else {}
        rows = [[name, str(value), *rates.of(value, before.get(name, 0))] for name, value in counters.items()]
        lines += ["", *table(("counter", "total", *rates.head("")), rows)]
    return lines


class _Rates:
    """The columns that are there only when two statuses can be compared."""

    def __init__(self, previous: dict[str, Any] | None, elapsed_s: float) -> None:
        self.known = previous is not None and elapsed_s > 0
        self.elapsed_s = elapsed_s

    def head(self, what: str) -> list[str]:
        return [f"{what}/s"] if self.known else []

    def of(self, value: float, before: float) -> list[str]:
        return [f"{(value - before) / self.elapsed_s:,.1f}"] if self.known else []


def _workers(current: dict[str, Any], previous: dict[str, Any] | None, rates: _Rates) -> list[str]:
    before = {worker["id"]: worker for worker in (previous or {}).get("workers", ())}
    rows = []
    for worker in current["workers"]:
        earlier = before.get(worker["id"]) or {"batches": 0, "busy_s": 0.0}
        # Without a status to compare with: the mean since the start.
        busy = (
            (worker["busy_s"] - earlier["busy_s"]) / rates.elapsed_s
            if rates.known
            else worker["busy_s"] / max(current["uptime_s"], 1e-9)
        )
        rows.append(
            [
                str(worker["id"]),
                worker["device"],
                str(worker["pid"]),
                worker["state"],
                str(worker["batches"]),
                *rates.of(worker["batches"], earlier["batches"]),
                f"{100 * busy:.0f} %",
                str(worker["deaths"]),
            ]
        )
    head = ("worker", "device", "pid", "state", "batches", *rates.head("batches"), "busy", "deaths")
    return table(head, rows)


def _models(current: dict[str, Any], previous: dict[str, Any] | None, rates: _Rates) -> list[str]:
    before = {model["name"]: model for model in (previous or {}).get("models", ())}
    rows = []
    for model in current["models"]:
        earlier = before.get(model["name"]) or {"results": 0, "rows": 0}
        rows.append(
            [
                model["name"],
                str(model["results"]),
                *rates.of(model["results"], earlier["results"]),
                str(model["rows"]),
                *rates.of(model["rows"], earlier["rows"]),
            ]
        )
    return table(("model", "results", *rates.head("results"), "rows", *rates.head("rows")), rows)


def duration(seconds: float) -> str:
    """`3 d 4 h`, `4 h 5 min`, `5 min 6 s`, `6.7 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
