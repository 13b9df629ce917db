"""`inferd bench`: load on a running daemon, and what it does with it.

bench.py          the verb: what is asked for, and the report
bench_frames.py   what is sent
bench_run.py      generators started and heard, the daemon's CPU time
bench_worker.py   a generator: a process of its own
bench_order.py    what a generator is told, and what it tells
bench_wire.py     its side of a connection
latency.py        latencies in buckets
bench_plot.py     the pictures
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from inferd.cli.common import DAY_S, Finite, client_options, daemon, daemon_options, find_model, printable
from inferd.errors import InferdError

if TYPE_CHECKING:
    from inferd.cli.bench_order import Order
    from inferd.cli.bench_run import Run

DEFAULT_CALLERS = 64
CALLERS_PER_CONNECTION = 8
OPEN_LOOP_CONNECTIONS = 8
SLICES = 60  # points of the curve over time
PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
# Above this a generator, not the daemon, may be what is measured.
BUSY_SHARE = 0.9


@click.command(short_help="Put load on a daemon and measure rate, latency and CPU.")
@click.argument("model", required=False)
@daemon_options
@click.option("--callers", type=click.IntRange(1), help="Closed loop: so many requests in flight.  [default: 64]")
@click.option("--rate", type=Finite(min=0, min_open=True), help="Open loop: requests a second, at random (Poisson).")
@click.option("--connections", type=click.IntRange(1), help="[default: one for 8 callers; 8 in an open loop]")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Generator processes.")
@click.option("--seconds", type=Finite(0.05, DAY_S), default=10.0, show_default=True)
@click.option("--warmup-seconds", type=Finite(0, DAY_S), default=1.0, show_default=True)
@click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="As for `inferd infer`; repeatable.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=DTYPE[SIZES]", help="A random tensor; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw it as FILE.html or FILE.png.")
def bench(
    model: str | None,
    url: str,
    timeout_ms: float | None,
    inputs: tuple[str, ...],
    shapes: tuple[str, ...],
    as_json: bool,
    plot: str | None,
    **load: Any,
) -> None:
    """Put load on MODEL (echo, or the first there is) and measure.

    --callers is a closed loop: each sends its next request when it has its answer. --rate is an open loop: requests
    are due at random times, and their latency counts from then, also when they could not be sent in time. Inputs are
    made up from the model's signature, unless --input or --shape gives them.

    \b
    inferd bench echo --shape x=FP32[16] --callers 64
    inferd bench ner --rate 500 --timeout-ms 100 --plot latency.html
    """
    from inferd_client.url import TIMEOUT_MS, Target

    from inferd.cli.bench_frames import make_frames
    from inferd.cli.bench_plot import check_plot, write_plot
    from inferd.cli.bench_run import measure

    if plot:
        check_plot(plot)
    target = Target(url)
    if len(target.addresses) > 1:
        raise click.UsageError(f"one daemon is measured at a time, and --url names {len(target.addresses)}")
    said = client_options(timeout_ms)
    with daemon(url, timeout_ms) as client:
        served = client.models()
        name = model or _default_model(served)
        description = find_model(served, name)
        waits_ms = target.timeout_ms("timeout_ms", said["timeout_ms"], TIMEOUT_MS)
        what, frames = make_frames(served, description, inputs, shapes, waits_ms)
        orders = _orders(str(target), target.token(said["token"]), frames, waits_ms, **load)
        title = f"{what} at {target}: {_load_text(orders)}"
        if not as_json:
            click.echo(printable(title), err=True)
        run = measure(client, orders)
    result = summary(name, orders, run)
    if as_json:
        click.echo(json.dumps(result))
    else:
        width = max(len(name) for name, _ in facts(result))
        for fact, value in facts(result):
            click.echo(f"{fact:{width}}  {printable(value)}")
    if plot:
        write_plot(plot, title, facts(result), run.slices, orders[0].slice_s)
    if not result["results"]:
        sys.exit(1)


def _default_model(served: Sequence[dict[str, Any]]) -> str:
    names = [str(model["name"]) for model in served]
    if not names:
        raise InferdError("the daemon serves no model")
    return "echo" if "echo" in names else names[0]


# ---- how it is split


def _orders(
    url: str,
    token: str | None,
    frames: list[bytes],
    timeout_ms: float,
    callers: int | None,
    rate: float | None,
    connections: int | None,
    processes: int,
    seconds: float,
    warmup_seconds: float,
) -> list[Order]:
    """One order for each generator: callers, connections and the rate in equal parts."""
    from inferd.cli.bench_order import Order

    if callers and rate:
        raise click.UsageError("--callers is a closed loop and --rate an open one: choose one of them")
    if rate is None:
        callers = callers or DEFAULT_CALLERS
        connections = min(connections or math.ceil(callers / CALLERS_PER_CONNECTION), callers)
        if processes > callers:
            raise click.UsageError(f"{processes} processes have no use for {callers} callers")
    connections = max(connections or OPEN_LOOP_CONNECTIONS, processes)
    return [
        Order(
            url=url,
            token=token,
            frames=frames,
            connections=_part(connections, processes, index),
            callers=_part(callers or 0, processes, index),
            rate=(rate or 0.0) / processes,
            timeout_s=timeout_ms / 1000,
            warmup_s=warmup_seconds,
            seconds=seconds,
            slice_s=seconds / SLICES,
            seed=index,
        )
        for index in range(processes)
    ]


def _part(whole: int, parts: int, index: int) -> int:
    return whole // parts + (index < whole % parts)


def _load_text(orders: Sequence[Order]) -> str:
    first = orders[0]
    callers = sum(order.callers for order in orders)
    load = _count(callers, "caller") if callers else f"{sum(order.rate for order in orders):,.6g} requests/s"
    connections = _count(sum(order.connections for order in orders), "connection")
    processes = f" in {len(orders)} processes" if len(orders) > 1 else ""
    return f"{load} on {connections}{processes}, {first.seconds:g} s after {first.warmup_s:g} s of warm-up"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# ---- what is said


def summary(model: str, orders: Sequence[Order], run: Run) -> dict[str, Any]:
    """A run as `--json` prints it: milliseconds, microseconds and shares of a core, named so."""
    from inferd.cli.bench_plot import merged

    latencies = merged(run.slices)
    first = orders[0]
    callers = sum(order.callers for order in orders)
    seconds = first.seconds
    return {
        "model": model,
        "url": first.url,
        "callers": callers or None,
        "rate": None if callers else sum(order.rate for order in orders),
        "connections": sum(order.connections for order in orders),
        "processes": len(orders),
        "seconds": seconds,
        "requests_per_s": run.arrived / seconds,
        "started": run.started,
        "results": latencies.total,
        "misses": sum(count for count, _ in run.errors.values()),
        "errors": {reason: {"count": count, "first": said} for reason, (count, said) in sorted(run.errors.items())},
        "latency_ms": {
            **{name: latencies.quantile(q) * 1000 for name, q in PERCENTILES},
            "max": latencies.max_s * 1000,
        },
        "send_lag_ms": None
        if callers
        else {"p50": run.lag.quantile(0.5) * 1000, "p99": run.lag.quantile(0.99) * 1000, "max": run.lag.max_s * 1000},
        "server_cpu_us_per_request": None
        if run.server_cpu_s is None or not run.arrived
        # Per result that arrived in the window, brought to the time between the two looks at the CPU.
        else run.server_cpu_s * 1e6 / (run.arrived * run.window_s / seconds),
        "server_cpu_cores": None if run.server_cpu_s is None else run.server_cpu_s / run.window_s,
        "server_processes": run.server_processes,
        "mean_batch_size": run.rows / run.batches if run.batches > 0 else None,
        "generator_cpu_cores": run.generator_cpu,
    }


def facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """A summary in words: (what, how much)."""
    latency = result["latency_ms"]
    said = [("requests/s", _figure(result["requests_per_s"]))]
    if result["results"]:
        said.append(("latency ms", "  ".join(f"{name} {_figure(ms)}" for name, ms in latency.items())))
    said.append(("misses", f"{result['misses']:,} of {result['started']:,}{_share(result)}"))
    for reason, error in result["errors"].items():
        said.append((f"  {reason}", f"{error['count']:,}  {error['first']}"))
    if result["send_lag_ms"]:
        lag = result["send_lag_ms"]
        said.append(("sent late ms", "  ".join(f"{name} {_figure(ms)}" for name, ms in lag.items())))
    if result["server_cpu_us_per_request"] is not None:
        cpu, cores, processes = (result[f"server_{key}"] for key in ("cpu_us_per_request", "cpu_cores", "processes"))
        said.append(
            ("server CPU", f"{_figure(cpu)} µs/request, {100 * cores:.0f} % of a core in {processes} processes")
        )
    elif result["results"]:
        said.append(("server CPU", "unknown: the daemon is gone, on another machine, or does not say its pid"))
    if result["mean_batch_size"] is not None:
        said.append(("batch size", f"{result['mean_batch_size']:.1f} rows in the mean"))
    busy = result["generator_cpu_cores"]
    limit = "  (busy: the generator may be the limit; --processes adds more)" if max(busy) > BUSY_SHARE else ""
    said.append(("generator CPU", ", ".join(f"{100 * share:.0f} %" for share in busy) + " of a core" + limit))
    return said


def _figure(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(result: dict[str, Any]) -> str:
    return f" ({_figure(100 * result['misses'] / result['started'])} %)" if result["misses"] else ""
