"""`sensor replay`: the engine over recordings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option, example, load_rules
from sensor.errors import SensorError, UsageError
from sensor.outputs import STDOUT, TABLE, Output, open_output
from sensor.outputs.terminal import terminal_safe
from sensor.reading import INPUTS, STDIN, Reader
from sensor.replay import Columns, Result, Sink, compare, load_expected, replay, summary_line, summary_text
from sensor.shape import Document

if TYPE_CHECKING:
    from sensor.pipeline import Pipeline
    from sensor.rules.model import RuleSet

FORMATS = ("jsonl", "table", "summary")
_CHECK_FAILED = 1


@click.command(epilog=example(
    "sensor replay recording.jsonl.zst --format table",
    "sensor replay a.jsonl b.parquet --rules ./my-rules --report out.html",
    "sensor replay recording.jsonl --expect expected.yaml",
    "zcat old.jsonl.gz | sensor replay - --format summary"))
@click.argument("recordings", nargs=-1, required=True, metavar="REC...")
@click.option("--rules", multiple=True, metavar="PATH",
              help="Rule file or directory; may be repeated. Default: the rules that come with the sensor.")
@config_option
@click.option("--format", "form", type=click.Choice(FORMATS),
              help="Alerts as JSON lines (default in a pipe), as a table (default on a terminal), or the "
                   "summary only, on stdout.")
@click.option("--expect", metavar="FILE",
              help="YAML or JSON mapping of rule id to number of alerts, or to {count: N, events: [ids]}. "
                   "Rules not named must raise none. A difference is printed and ends with status 1.")
@click.option("--report", metavar="OUT.html", type=click.Path(path_type=Path, dir_okay=False),
              help="Write a page of its own: alerts by rule, over time, and with their processes.")
@click.option("--input", "kind", default="auto", show_default=True, metavar="|".join(INPUTS),
              help="What the lines are; ecs takes ECS documents of any maker.")
def command(recordings: tuple[str, ...], rules: tuple[str, ...], config: str | None, form: str | None,
            expect: str | None, report: Path | None, kind: str) -> int:
    """Run the rules over recordings (.jsonl, .jsonl.zst, .parquet; - is stdin).

    Time is the events' own and the output is the same every time. The summary goes to stderr and ends
    with one line of JSON.
    """
    if recordings.count(STDIN) > 1:
        raise click.UsageError("standard input can be read once")
    form = form or ("table" if sys.stdout.isatty() else "jsonl")
    expected = load_expected(expect) if expect else None
    page = _Page(report) if report else None
    output = _output(form)
    shown = _Shown(output, needed=expected is None and page is None) if output else None
    sinks: list[Sink] = [sink for sink in (shown, page) if sink is not None]
    ruleset = load_rules(rules, config)
    engine = _engine(ruleset)
    started = time.perf_counter()
    with _progress(recordings, form, shown) as progress:
        reader = Reader(kind, progress=progress)
        result = replay(recordings, reader, engine.feed_document, sinks, keep_ids=expected is not None,
                        finish=engine.finish,
                        columns=_columns(ruleset, reader, engine, documents=bool(sinks) or expected is not None))
        if shown:
            shown.flush()
    if page:
        page.save(result, reader)
    _print_summary(result, reader, time.perf_counter() - started, to_stderr=form != "summary")
    if expected is None:
        return 0
    difference = compare(expected, result)
    for line in difference:
        click.echo(terminal_safe(line), err=True)
    return _CHECK_FAILED if difference else 0


class _Shown:
    """Alerts on stdout. A reader that goes away ends the replay, unless it has another purpose."""

    def __init__(self, output: Output, needed: bool) -> None:
        self._output: Output | None = output
        self._needed = needed

    def write(self, alert: Document) -> None:
        if self._output:
            self._try(lambda output: output.write(alert))

    def flush(self) -> None:
        if self._output:
            self._try(lambda output: output.flush())

    def _try(self, action: Callable[[Output], None]) -> None:
        try:
            if self._output:
                action(self._output)
        except BrokenPipeError:
            if self._needed:
                raise
            self._output = None


class _Page:
    """The report, opened before the replay: a path that can't be written is said at once."""

    def __init__(self, path: Path) -> None:
        from sensor.report import Report

        self._path, self._report = path, Report()
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"can't write {path}: {error.strerror}") from error

    def write(self, alert: Document) -> None:
        self._report.write(alert)

    def save(self, result: Result, reader: Reader) -> None:
        try:
            with self._file as file:
                file.write(self._report.render(result, reader.skipped))
        except OSError as error:
            raise SensorError(f"can't write {self._path}: {error.strerror}") from error


def _engine(ruleset: RuleSet) -> Pipeline:
    from sensor.pipeline import Pipeline
    from sensor.rules.correlation import correlator_of
    from sensor.rules.matcher import Matcher

    return Pipeline(Matcher(ruleset.rules), correlator=correlator_of(ruleset))


def _columns(ruleset: RuleSet, reader: Reader, engine: Pipeline, *, documents: bool) -> Columns | None:
    """Parquet by columns, where no rule needs more than one event; without *documents* alerts are only counted."""
    if engine.correlator is not None:
        return None
    from sensor.batches import alerts

    return lambda path: alerts(path, reader, ruleset.rules, documents=documents)


def _output(form: str) -> Output | None:
    if form == "summary":
        return None
    return open_output(TABLE if form == "table" else STDOUT, strict=True)


@contextmanager
def _progress(recordings: tuple[str, ...], form: str,
              shown: _Shown | None) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, if that is a terminal and no alerts are written across it."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and form != "summary"):
        # Alerts of a stream (`tail -f | sensor replay -`) are not held back for a full buffer.
        yield (lambda _: shown.flush()) if shown and STDIN in recordings else None
        return
    from rich.console import Console
    from rich.progress import Progress

    total = sum(Path(path).stat().st_size for path in recordings if Path(path).is_file())
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=total or None)
        yield lambda size: bar.advance(task, size)


def _print_summary(result: Result, reader: Reader, seconds: float, to_stderr: bool) -> None:
    for note in reader.notes:
        click.echo(f"sensor: {terminal_safe(note)}", err=True)
    for line in summary_text(result, reader.skipped):
        click.echo(terminal_safe(line), err=to_stderr)
    click.echo(summary_line(result, reader.skipped, seconds), err=to_stderr)
