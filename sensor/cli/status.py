"""`sensor status`: the running sensor on one page."""

from __future__ import annotations

import json
import time

import click

from sensor.cli.common import duration, example


@click.command(epilog=example("sudo sensor status", "sudo sensor status --json | jq '.mode, .events.lost'"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--over", metavar="TIME", default="1s", callback=duration, show_default=True,
              help="How long to look for rates: two readings that far apart.")
def command(as_json: bool, over: float) -> int:
    """Show the running sensor: mode, probes, rates, loss, cost, rules, content, crashes. Status 3 where none runs."""
    from sensor import monitor

    before = monitor.read("sensor status")
    time.sleep(min(over, 60.0))
    document = monitor.summary(before, monitor.read("sensor status"))
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return 0
    from rich.console import Console

    from sensor.cli.statuspage import page

    Console(highlight=False).print(page(document), soft_wrap=False)
    return 0
