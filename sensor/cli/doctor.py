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
    from sensor.config import Settings
    from sensor.doctor import Report
    from sensor.host import Check
    from sensor.manifest import Manifest

_FAULTS = 1
_LACKING = 3
_STYLE = {"ok": "green", "note": "cyan", "warning": "yellow", "missing": "bold red"}


@click.command(epilog=example("sudo sensor doctor", "sudo sensor doctor --manifest",
                              "sensor doctor --json | jq '.checks[] | select(.fix != \"\")'"))
@click.option("-c", "--config", type=click.Path(path_type=Path),
              help="Settings; default /etc/sensor/sensor.yaml. They are checked as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: state, checks, events and hooks.")
@click.option("--manifest", is_flag=True,
              help="Load the probes for a moment and show what the kernel says of them: programs, helpers, maps, "
                   "bytes. Status 1 where something is outside of what may be loaded.")
def command(config: Path | None, as_json: bool, manifest: bool) -> int:
    """Say what this host offers and what is missing. Changes nothing. Status 3: `run` can't work here."""
    from sensor import config as configuration
    from sensor import host
    from sensor.doctor import examine

    if manifest:
        return _manifest(configuration.load(config), as_json)
    report = examine(host.Host(), configuration.load(config))
    if as_json:
        click.echo(json.dumps(report.plain(), indent=2))
    else:
        show(report)
    return _LACKING if report.state == "missing" else 0


def _manifest(settings: Settings, as_json: bool) -> int:
    from sensor.manifest import collect

    found = collect(settings)
    if as_json:
        click.echo(json.dumps(found.plain(), indent=1))
    else:
        show_manifest(found)
    return _FAULTS if found.faults else 0


def show_manifest(found: Manifest, console: Console | None = None) -> None:
    """Print the manifest for people."""
    from rich.console import Console
    from rich.table import Table

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 200  # for grep: lines must not be folded early
    programs = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("PROGRAM", "FAMILY", "TYPE", "HOOKS", "HELPERS", "INSTRUCTIONS", "VERIFIED", "TAG"):
        programs.add_column(title, overflow="fold")
    for program in found.programs:
        hooks = dict.fromkeys(hook.rpartition(" ")[2] for hook in program.hooks)
        programs.add_row(program.name, program.family, program.type, " ".join(hooks), " ".join(program.helpers),
                         str(program.instructions), str(program.verified), program.tag)
    console.print(programs)
    maps = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("MAP", "TYPE", "ENTRIES", "BYTES"):
        maps.add_column(title, overflow="fold")
    for entry in found.maps:
        maps.add_row(entry.name, entry.type, str(entry.entries), str(entry.bytes))
    console.print()
    console.print(maps)
    console.print()
    for fault in found.faults:
        console.print(f"outside of what may be loaded: {terminal_safe(fault)}", style="bold red")
    console.print(f"{len(found.programs)} programs, {found.memory >> 10} KiB of maps, kernel {found.kernel}"
                  + ("" if found.faults else "; nothing outside of what may be loaded"))


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
