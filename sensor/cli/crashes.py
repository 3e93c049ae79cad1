"""`sensor crashes`: crashes of this host, and whom they are attributed to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from sensor.cli.common import example
from sensor.errors import HostError
from sensor.outputs.terminal import terminal_safe

if TYPE_CHECKING:
    from sensor.crashes.database import Found


@click.command(epilog=example("sudo sensor crashes", "sudo sensor crashes --json | jq '.crashes[-1].evidence'"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object: counts and crashes, oldest first.")
@click.option("--id", "wanted", metavar="ID", help="Everything about one crash; the beginning of its id is enough.")
def command(as_json: bool, wanted: str | None) -> int:
    """Show the crashes that the sensor has found at its starts: in pstore, kdump, the journal, the kernel's log."""
    from sensor.crashes import database
    from sensor.switches import state_home

    path = state_home() / database.NAME
    try:
        crashes = database.read_file(path)
    except OSError as error:
        raise HostError(f"{path} can't be read: {error.strerror}", "sudo sensor crashes") from error
    if wanted is not None:
        crashes = [crash for crash in crashes if crash.id.startswith(wanted)]
        if not crashes:
            raise click.BadParameter(f"no crash has the id {wanted!r}; see: sensor crashes", param_hint="--id")
    if as_json:
        click.echo(json.dumps({"counts": database.counts(crashes), "crashes": [crash.plain() for crash in crashes]},
                              indent=2))
    elif wanted is not None:
        for crash in crashes:
            _whole(crash)
    else:
        _table(crashes)
    return 0


def _table(crashes: list[Found]) -> None:
    from rich.console import Console
    from rich.table import Table

    from sensor.crashes.telling import blamed, when

    if not crashes:
        click.echo("no crash is known; they are looked for when the sensor starts")
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # for grep: a crash is a line
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("ID", "WHEN", "KIND", "FATAL", "ATTRIBUTED TO", "CONFIDENCE", "WHY", "KERNEL", "FOUND IN"):
        table.add_column(title, overflow="fold")
    for crash in crashes:
        why = "; ".join((crash.rule, *crash.evidence[:2]))
        table.add_row(*(terminal_safe(text) for text in (
            crash.id[:8], when(crash.time), crash.kind, "yes" if crash.fatal else "no", blamed(crash),
            crash.confidence, why, crash.release, crash.source)))
    console.print(table, markup=False)


def _whole(crash: Found) -> None:
    from sensor.crashes.telling import blamed, when

    rows = (("id", crash.id), ("when", when(crash.time)), ("found", when(crash.found)), ("found in", crash.source),
            ("kind", crash.kind), ("title", crash.title), ("panic", crash.panic), ("kernel", crash.release),
            ("task", f"{crash.comm}[{crash.pid}]" if crash.pid is not None else ""), ("taint", crash.taint),
            ("attributed to", f"{blamed(crash)} ({crash.confidence})"), ("rule", crash.rule), ("RIP", crash.rip))
    for name, text in rows:
        if text:
            click.echo(f"{name + ':':<15}{terminal_safe(text)}")
    for name, texts in (("evidence", crash.evidence), ("trace", crash.trace), ("modules", (" ".join(crash.modules),)),
                        ("log", crash.lines)):
        if any(texts):
            click.echo(f"{name}:")
            for text in texts:
                click.echo(f"  {terminal_safe(text)}")
