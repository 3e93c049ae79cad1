"""`sensor hunt`: which recorded events a rule or a condition is about."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option, example, load_rules
from sensor.errors import UsageError
from sensor.outputs import STDOUT, TABLE, open_output
from sensor.outputs.terminal import terminal_safe
from sensor.reading import INPUTS, Reader

if TYPE_CHECKING:
    from sensor.hunting import Found
    from sensor.rules.model import Rule

FORMATS = ("jsonl", "table")
_NOTHING = 1
#: Values that are counted by --group-by; what comes after them is counted as the rest.
_GROUPS = 100_000


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    from sensor.hunting import moment

    try:
        return None if value is None else moment(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time: write 2026-11-21, 2026-11-21T10:05 or RFC 3339",
                                 ctx, param) from error


@click.command(epilog=example(
    "sensor hunt 'Cleared command history' month/*.parquet",
    "sensor hunt 'Image|endswith: /nc and not User: backup' a.parquet b.jsonl.zst",
    "sensor hunt my-rule.yml a.parquet --from 2026-11-01 --to 2026-11-08 --group-by Image"))
@click.argument("what", metavar="RULE|CONDITION")
@click.argument("recordings", nargs=-1, required=True, metavar="FILE...")
@click.option("--rules", multiple=True, metavar="PATH",
              help="Where to look for the rule; may be repeated. Default: the rules that come with the sensor.")
@config_option
@click.option("--format", "form", type=click.Choice(FORMATS),
              help="JSON lines (default in a pipe) or a table (default on a terminal).")
@click.option("--count", is_flag=True, help="Print only how many events there are.")
@click.option("--group-by", "group", metavar="FIELD", help="Print how many events there are for each value of a field.")
@click.option("--from", "since", callback=_moment, metavar="TIME", help="Events from this time on, by their own clock.")
@click.option("--to", "until", callback=_moment, metavar="TIME", help="Events before this time.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N events.")
@click.option("--input", "kind", default="auto", show_default=True, metavar="|".join(INPUTS),
              help="What the lines are, as for replay.")
def command(what: str, recordings: tuple[str, ...], rules: tuple[str, ...], config: str | None, form: str | None,
            count: bool, group: str | None, since: int | None, until: int | None, limit: int | None,
            kind: str) -> int:
    """Search recordings for the events of a rule or condition.

    The first argument is a rule's id or title, a rule file, or a condition such as
    'Image|endswith: /nc and CommandLine|contains: [" -e ", " -c "]'. Parquet is searched by SQL (needs DuckDB:
    pip install 'sensor[hunt]'), JSON lines and zstd by the engine.

    Exit status 1 if nothing is found.
    """
    from sensor.hunting import Hunt

    if count and group:
        raise click.UsageError("--count and --group-by exclude each other")
    key = _key(group) if group else None
    chosen, is_rule = _chosen(what, rules, config)
    hunt = Hunt(chosen, since, until)
    form = form or ("table" if sys.stdout.isatty() else "jsonl")
    with _progress(recordings, quiet=not (count or group) and sys.stdout.isatty()) as advance:
        reader = Reader(kind, progress=advance)
        found: Iterator[Found] = (each for path in recordings for each in hunt.run(path, reader))
        found = islice(found, limit)
        if count:
            number = sum(1 for _ in found)
            click.echo(number)
        elif key:
            number = _grouped(found, key, form)
        else:
            number = _written(found, form, is_rule)
    for note in reader.notes:
        click.echo(f"sensor: {terminal_safe(note)}", err=True)
    for reason, skipped in sorted(reader.skipped.items()):
        click.echo(f"sensor: {skipped} skipped: {reason}", err=True)
    return 0 if number else _NOTHING


def _key(name: str) -> str:
    from sensor.rules.fields import UnknownField, resolve

    try:
        return resolve(name)
    except UnknownField as error:
        raise UsageError(f"--group-by: {error}") from error


def _chosen(what: str, paths: Sequence[str], config: str | None) -> tuple[tuple[Rule, ...], bool]:
    """The rules that an argument names, or the condition that it is; and whether they are rules."""
    if os.path.isfile(what):
        rules = load_rules([what], config)
        if not rules.rules:
            raise UsageError(f"{what}: a hunt is for rules that look at one event; correlations need: sensor replay")
        if rules.correlations:
            click.echo(f"sensor: {terminal_safe(what)}: searching for single events; correlations need: sensor replay",
                       err=True)
        return rules.rules, True
    loaded = load_rules(paths, config)
    for rule in loaded.rules:
        if rule.id == what.lower() or rule.name.casefold() == what.casefold():
            return (rule,), True
    if any(what in (each.id, each.name) for each in loaded.correlations):
        raise UsageError(f"{what}: a correlation needs every event in order: sensor replay")
    if not any(mark in what for mark in ":'\""):
        raise UsageError(f"no rule has the id or title {what!r}, and it is no condition, which has FIELD: VALUE")
    from sensor.rules import query

    return (query.parse(what),), False


def _written(found: Iterator[Found], form: str, is_rule: bool) -> int:
    from sensor.alerts import alert

    output = open_output(TABLE if form == "table" else STDOUT, strict=True)
    number = 0
    for document, rules in found:
        number += 1
        for made in [alert(document, rule) for rule in rules] if is_rule else [document]:
            output.write(made)
    output.flush()
    return number


def _grouped(found: Iterator[Found], key: str, form: str) -> int:
    from sensor.rules.values import find, scalars, text_of

    groups: dict[str | None, int] = {}
    number = left = 0
    for document, _ in found:
        number += 1
        values: set[str | None] = {text_of(each) for each in scalars(find(document, key))}
        for value in values or {None}:
            if value in groups or len(groups) < _GROUPS:
                groups[value] = groups.get(value, 0) + 1
            else:
                left += 1
    for value, count in sorted(groups.items(), key=lambda item: (-item[1], item[0] or "")):
        if form == "jsonl":
            click.echo(json.dumps({"field": key, "value": value, "events": count}))
        else:
            click.echo(f"{count:>9}  {'(absent)' if value is None else terminal_safe(value)}")
    if left:
        click.echo(f"sensor: {left} events have other values, more than {_GROUPS}", err=True)
    return number


@contextmanager
def _progress(recordings: tuple[str, ...], quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, if that is a terminal and nothing is written across it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    total = sum(Path(path).stat().st_size for path in recordings if Path(path).is_file())
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hunt", total=total or None)
        yield lambda size: bar.advance(task, size)
