"""`inferd models`: what a daemon serves."""

from __future__ import annotations

import json

import click

from inferd.cli.common import daemon, daemon_options, signature_text, table


@click.command(short_help="List the models of a daemon.")
@daemon_options
@click.option("--json", "as_json", is_flag=True, help="A list of objects, as the daemon announces them.")
def models(url: str, timeout_ms: float | None, as_json: bool) -> None:
    """List the models of a daemon: names, inputs and outputs as dtype[shape] (* is any size), largest batch."""
    with daemon(url, timeout_ms) as client:
        served = client.models()
    if as_json:
        click.echo(json.dumps(served))
        return
    rows = [
        [
            str(model.get("name")),
            signature_text(model.get("inputs")),
            signature_text(model.get("outputs")),
            str(model.get("max_batch_size")),
        ]
        for model in served
    ]
    for line in table(("name", "inputs", "outputs", "max batch"), rows):
        click.echo(line)
