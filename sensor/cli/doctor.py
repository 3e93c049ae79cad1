"""`sensor doctor`: what this host offers, which hook each event will use, what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor.cli.common import example
from sensor.outputs.terminal import terminal_safe

if TYPE_CHECKING:
    from rich.console import Console

    from sensor.carriers import Carried
    from sensor.doctor import Report
    from sensor.host import Check

_LACKING = 3
_STYLE = {"ok": "green", "note": "cyan", "warning": "yellow", "missing": "bold red"}


@click.command(epilog=example("sudo sensor doctor", "sensor doctor --json | jq '.checks[] | select(.fix != \"\")'"))
@click.option("-c", "--config", type=click.Path(path_type=Path),
              help="Settings; default /etc/sensor/sensor.yaml. They are checked as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: state, checks, events and hooks.")
def command(config: Path | None, as_json: bool) -> int:
    """Say what this host offers and what is missing. Changes nothing. Status 3: `run` can't work here."""
    from sensor import config as configuration
    from sensor import host
    from sensor.doctor import examine

    report = examine(host.Host(), configuration.load(config))
    if as_json:
        click.echo(json.dumps(report.plain(), indent=2))
    else:
        show(report)
    return _LACKING if report.state == "missing" else 0


def show(report: Report, console: Console | None = None) -> None:
    """Print the report for people."""
    from rich.console import Console

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 160  # for grep: lines must not be folded early
    _checks(console, report.checks)
    console.print()
    _events(console, report.events)
    console.print()
    console.print({"missing": "The sensor can't run here; see what is missing above.",
                   "warning": "The sensor can run here, with what the warnings say."}.get(
                       report.state, "The sensor can run here."))


def _checks(console: Console, checks: tuple[Check, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for check in checks:
        style = _STYLE[check.state]
        table.add_row(Text(check.state, style), check.name, Text(terminal_safe(check.found)))
        if check.why:
            table.add_row("", "", Text(terminal_safe(check.why), "dim"))
        if check.fix:
            table.add_row("", "", Text(f"fix: {terminal_safe(check.fix)}", style))
    console.print(table)


def _events(console: Console, events: tuple[Carried, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("EVENT", "FAMILY", "CARRIED BY", "MISSES", "ELSE"):
        table.add_column(title, overflow="fold")
    for event in events:
        if not event.enabled:
            table.add_row(event.event, event.family, Text("off in the settings", "dim"), "", "")
            continue
        if (used := event.used) is None:
            faults = dict.fromkeys(way.reason for way in event.alternatives)
            table.add_row(event.event, event.family, Text(terminal_safe("; ".join(faults)), "red"), "", "")
            continue
        kinds: dict[str, list[str]] = {}
        for hook in used.hooks:
            if hook.available and hook.kind != "tail":
                kinds.setdefault(hook.kind, []).append(hook.target)
        carried = "; ".join(f"{kind} {' '.join(targets)}" for kind, targets in kinds.items())
        others = "; ".join(way.kind if way.available else f"{way.kind}: {way.reason}"
                           for way in event.alternatives if not way.used)
        table.add_row(event.event, event.family, terminal_safe(carried), terminal_safe(used.misses),
                      Text(terminal_safe(others), "dim"))
    console.print(table)
