"""`sensor record`: the daemon with a recording as its output."""

from __future__ import annotations

from pathlib import Path

import click

from sensor.cli.common import duration as duration_option
from sensor.cli.common import example, listen
from sensor.options import METRICS_OFF, RunOptions


@click.command(epilog=example(
    "sudo sensor record today.jsonl.zst --duration 10m", "sudo sensor record incident.parquet",
    "sensor replay today.jsonl.zst --format summary"))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-c", "--config", type=click.Path(path_type=Path),
              help="Settings; default /etc/sensor/sensor.yaml.")
@click.option("--duration", metavar="TIME", callback=duration_option,
              help="Stop after this long: 30, 90s, 5m. Default: at a signal.")
@click.option("--metrics", metavar="HOST:PORT|off", callback=listen, default=METRICS_OFF, show_default=True,
              help="Where Prometheus may ask.")
def command(out: Path, config: Path | None, duration: float | None, metrics: str) -> int:
    """Write live events to OUT, by suffix: .jsonl, .jsonl.zst or .parquet.

    An existing file is not overwritten. A .parquet file is complete only after a clean stop.
    """
    from sensor import daemon
    from sensor.record import check_target

    check_target(out)
    return daemon.run(RunOptions(config=config, duration=duration, metrics=metrics, record=out))
