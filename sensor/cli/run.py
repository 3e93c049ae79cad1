"""`sensor run`: parse and check the options; the daemon does the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from sensor.cli.common import duration as duration_option
from sensor.cli.common import example, listen
from sensor.options import RunOptions


@click.command(epilog=example(
    "sudo sensor run", "sudo sensor run --duration 1m -o alerts.jsonl",
    "sudo sensor run --rules ./my-rules --events all -o - | jq .event.action"))
@click.option("-c", "--config", type=click.Path(path_type=Path),
              help="Settings; default /etc/sensor/sensor.yaml.")
@click.option("--rules", multiple=True, type=click.Path(path_type=Path),
              help="Rule file or directory instead of those in the settings; may be repeated.")
@click.option("--duration", metavar="TIME", callback=duration_option,
              help="Stop after this long: 30, 90s, 5m. Default: at a signal.")
@click.option("-o", "--output", metavar="FILE|-|table|journald",
              help="Where alerts go: a file or - as JSON lines. Default: the journal under systemd, a table "
                   "on a terminal, else JSON lines on stdout.")
@click.option("--events", type=click.Choice(["alerts", "all"]), help="Write alerts only, or every event too.")
@click.option("--metrics", metavar="HOST:PORT|off", callback=listen,
              help="Where Prometheus may ask; default 127.0.0.1:9923.")
def command(config: Path | None, rules: tuple[Path, ...], duration: float | None, output: str | None,
            events: Literal["alerts", "all"] | None, metrics: str | None) -> int:
    """Watch this host until SIGTERM or SIGINT, then print a summary on stderr."""
    from sensor import daemon

    # The settings are parsed by the engine, once it has no privilege left.
    return daemon.run(RunOptions(config=config, rules=rules, duration=duration, output=output, events=events,
                                 metrics=metrics))
