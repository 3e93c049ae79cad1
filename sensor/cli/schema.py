"""`sensor schema`: the event table for people and programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from sensor import schema
from sensor.cli.common import example
from sensor.errors import UsageError


@click.command(epilog=example("sensor schema", "sensor schema process_exec",
                              "sensor schema --json | jq '.events[].name'"))
@click.argument("event", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: events, fields, aliases.")
def command(event: str | None, as_json: bool) -> None:
    """List events, or the fields of one EVENT."""
    chosen = _chosen(event)
    if as_json:
        click.echo(json.dumps(describe(chosen), indent=2))
    elif event is None:
        _print_events(chosen)
    else:
        _print_fields(chosen[0])


def _chosen(name: str | None) -> tuple[schema.Event, ...]:
    if name is None:
        return schema.EVENTS
    event = schema.BY_NAME.get(name.replace("-", "_"))
    if event is None:
        raise UsageError(f"no event {name!r}; known are {', '.join(schema.BY_NAME)}")
    return (event,)


def describe(events: tuple[schema.Event, ...]) -> dict[str, Any]:
    """The event table as plain data."""
    return {
        "abi": schema.ABI,
        "header": [_field(field) for field in schema.HEADER],
        "events": [{
            "id": event.id, "name": event.name, "action": event.action, "family": event.family,
            "doc": event.doc, "category": event.category, "type": event.type, "sigma": list(event.sigma),
            "falco": event.falco or None, "fields": [_field(field) for field in event.fields],
        } for event in events],
        "derived": [{"key": key, "events": where, "doc": doc} for key, where, doc in schema.DERIVED],
        "sigma_fields": schema.SIGMA_FIELDS,
        "flags": {flag.name.lower(): flag.value for flag in schema.Flag if flag.name},
    }


def _field(field: schema.Field) -> dict[str, Any]:
    return {"name": field.name, "key": field.ecs, "kind": field.kind.name.lower(), "unit": field.unit or None,
            "cap": field.cap or None, "keep": field.keep if field.cap else None, "doc": field.doc}


def _print_events(events: tuple[schema.Event, ...]) -> None:
    _print("EVENT CATEGORY SIGMA MEANING", [
        (event.name, event.category, ", ".join(event.sigma) or "-", event.doc) for event in events])


def _print_fields(event: schema.Event) -> None:
    click.echo(f"{event.name} (event.action {event.action}): {event.doc}\n")
    _print("FIELD KEY KIND MEANING", [
        (field.name, field.ecs or "-", field.kind.name.lower(),
         field.doc + (f" [{field.unit}]" if field.unit else ""))
        for field in (*schema.HEADER, *event.fields)])
    derived = [(key, doc) for key, where, doc in schema.DERIVED if where in ("*", event.name)]
    click.echo()
    _print("KEY MEANING", derived)


def _print(titles: str, rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles.split():
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # for grep: names must not be folded
    console.print(table)
