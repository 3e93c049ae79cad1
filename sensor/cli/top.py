"""`sensor top`: the running sensor, again and again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from sensor.cli.common import duration, example

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group

_ROWS = 15


@click.command(epilog=example("sudo sensor top", "sudo sensor top --interval 5s --count 12 | tee sensor.txt"))
@click.option("--interval", metavar="TIME", default="2s", callback=duration, show_default=True,
              help="Between refreshes; at least 500ms, at most 60s.")
@click.option("--count", metavar="N", type=click.IntRange(1, 1_000_000), help="End after so many. Default: Ctrl-C.")
def command(interval: float, count: int | None) -> int:
    """Show the running sensor and what costs most, refreshed until Ctrl-C. Plain text where there is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    pages = _pages(min(max(interval, 0.5), 60.0), count)
    try:
        if console.is_terminal:
            from rich.live import Live

            with Live(console=console, auto_refresh=False, screen=True) as live:
                for page in pages:
                    live.update(page, refresh=True)
        else:
            for page in pages:
                console.print(page)
    except KeyboardInterrupt:
        pass  # the usual way out
    return 0


def _pages(interval: float, count: int | None) -> Iterator[Group]:
    from sensor import monitor
    from sensor.cli.statuspage import page

    before, shown = monitor.read("sensor top"), 0
    while count is None or shown < count:
        time.sleep(interval)
        now = monitor.read("sensor top")
        yield page(monitor.summary(before, now), rows=_ROWS)
        before, shown = now, shown + 1
