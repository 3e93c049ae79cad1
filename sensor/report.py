"""The report of a replay: one HTML page that needs nothing else and trusts nothing in it.

Event data is written by attackers: every value passes :func:`_text`, and the page's own policy
forbids scripts and anything from elsewhere. Nothing of the present (no clock) is in it, so that the
same recording gives the same page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from html import escape
from typing import Any

from sensor.outputs.summary import (
    basename,
    process_name,
    subject,
    text_at,
    user_name,
    value_at,
)
from sensor.outputs.terminal import terminal_safe
from sensor.replay import Result
from sensor.shape import Document

#: Alerts shown with their processes; the tables above count all. A page stays below some 5 MB.
_SHOWN = 1000
#: Bars of the timeline, and the steps of time kept apart before they are drawn.
_BARS = 120
_STEPS = 20_000
_LAST_MOMENT = 253402300799  # the end of the year 9999
_TEXT_LIMIT = 2000
LEVELS = ("critical", "high", "medium", "low", "informational")

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark;
        --ink: #1c2330; --faint: #667; --line: #ccd; --paper: #fff; --soft: #f4f6fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dde3ee; --faint: #99a; --line: #3a4252; --paper: #14181f; --soft: #1d232d } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line) }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
code, pre, .tree { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
article { border: 1px solid var(--line); border-radius: 6px; padding: .6rem 1rem; margin: .8rem 0;
          background: var(--soft) }
article h3 { margin: 0 0 .3rem; font-size: 1rem }
.tree ul { list-style: none; margin: 0; padding-left: 1.3rem; border-left: 1px solid var(--line) }
.faint { color: var(--faint) }
.level { display: inline-block; min-width: 5.5rem; padding: 0 .4rem; border-radius: 3px; color: #fff;
         text-align: center }
.critical { background: #8b1a2b; fill: #8b1a2b } .high { background: #b83a1e; fill: #b83a1e }
.medium { background: #8a6100; fill: #b98200 } .low { background: #2b6a99; fill: #3b82b8 }
.informational { background: #5a6270; fill: #8a93a3 }
"""


class Report:
    """Collects alerts of a replay and renders them."""

    def __init__(self) -> None:
        self._shown: list[Document] = []
        self._times = _Times()
        self._rules: dict[str, Document] = {}

    def write(self, alert: Document) -> None:
        """Take one alert."""
        if len(self._shown) < _SHOWN:
            self._shown.append(alert)
        self._rules.setdefault(text_at(alert, "rule.id"), alert)
        moment = _moment(text_at(alert, "@timestamp"))
        if moment is not None:
            self._times.add(moment, _level(alert))

    def render(self, result: Result, skipped: Mapping[str, int]) -> str:
        """The page, as text."""
        parts = [
            "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Replay: {result.alerts} alerts</title><style>{_STYLE}</style></head><body>",
            "<h1>Replay report</h1>",
            f"<p>{result.events} events, {result.alerts} alerts of {len(result.by_rule)} rules.</p>",
            *_skipped(skipped), "<h2>Alerts by rule</h2>", *self._by_rule(result),
            "<h2>Over time</h2>", *self._times.render(),
            "<h2>Alerts</h2>", *self._alerts(result.alerts), "</body></html>",
        ]
        return "\n".join(parts) + "\n"

    def _by_rule(self, result: Result) -> Iterable[str]:
        if not result.by_rule:
            yield '<p class="faint">No rule matched.</p>'
            return
        yield '<table><tr><th>Level</th><th>Rule</th><th>Technique</th><th class="n">Alerts</th></tr>'
        for rule, count in sorted(result.by_rule.items(), key=lambda item: (-item[1], item[0])):
            alert = self._rules.get(rule, {})
            yield (f"<tr><td>{_badge(_level(alert))}</td><td>{_text(text_at(alert, 'rule.name'))}<br>"
                   f'<code class="faint">{_text(rule)}</code></td><td>{_text(_techniques(alert))}</td>'
                   f'<td class="n">{count}</td></tr>')
        yield "</table>"

    def _alerts(self, total: int) -> Iterable[str]:
        for alert in self._shown:
            yield _article(alert)
        if total > len(self._shown):
            yield f'<p class="faint">The first {len(self._shown)} of {total} alerts are shown.</p>'


def _skipped(skipped: Mapping[str, int]) -> Iterable[str]:
    if skipped:
        yield "<table><tr><th>Skipped because</th><th class=\"n\">Lines</th></tr>"
        for reason, count in sorted(skipped.items()):
            yield f'<tr><td>{_text(reason)}</td><td class="n">{count}</td></tr>'
        yield "</table>"


def _article(alert: Document) -> str:
    facts = {"What": subject(alert), "User": user_name(alert),
             "Directory": text_at(alert, "process.working_directory"),
             "Container": text_at(alert, "container.id"), "Technique": _techniques(alert),
             "Event": text_at(alert, "event.id")}
    rows = "".join(f"<tr><th>{name}</th><td><code>{_text(value)}</code></td></tr>"
                   for name, value in facts.items() if value)
    return (f"<article><h3>{_badge(_level(alert))} {_text(text_at(alert, 'rule.name', 'rule.id'))}</h3>"
            f'<p class="faint">{_text(text_at(alert, "@timestamp"))} '
            f'{_text(text_at(alert, "rule.description"))}</p>'
            f'<div class="tree">{_tree(alert)}</div><table>{rows}</table></article>')


def _tree(alert: Document) -> str:
    """The process under its parents, the oldest on top."""
    above = value_at(alert, "process.ancestors")
    names = [_text(basename(str(path))) for path in reversed(above)] if isinstance(above, list) else []
    parent = process_name(alert, "process.parent")
    if parent:
        known = isinstance(above, list) and above[:1] == [value_at(alert, "process.parent.executable")]
        command = _text(text_at(alert, "process.parent.command_line"))
        names = [*(names[:-1] if known else names), f'{_text(parent)} <span class="faint">{command}</span>']
    names.append(f"<b>{_text(process_name(alert))}</b> {_text(text_at(alert, 'process.command_line'))}")
    return "".join(f"<ul><li>{name}" for name in names) + "</li></ul>" * len(names)


class _Times:
    """Alerts over time, counted in steps that grow so that their number stays bounded."""

    def __init__(self) -> None:
        self._step = 1
        self._counts: dict[tuple[int, str], int] = {}

    def add(self, moment: int, level: str) -> None:
        key = (moment // self._step, level)
        self._counts[key] = self._counts.get(key, 0) + 1
        while len(self._counts) > _STEPS:
            self._step *= 2
            counts, self._counts = self._counts, {}
            for (step, name), count in counts.items():
                self._counts[step // 2, name] = self._counts.get((step // 2, name), 0) + count

    def render(self) -> Iterable[str]:
        """Bars stacked by level, as inline SVG."""
        if not self._counts:
            yield '<p class="faint">No alert has a time.</p>'
            return
        steps = [step for step, _ in self._counts]
        first, last = min(steps), max(steps)
        span = last - first + 1
        bars: list[dict[str, int]] = [{} for _ in range(_BARS)]
        for (step, level), count in self._counts.items():
            bar = bars[(step - first) * _BARS // span]
            bar[level] = bar.get(level, 0) + count
        highest = max(sum(bar.values()) for bar in bars)
        yield f'<svg viewBox="0 0 {_BARS * 8} 110" width="100%" role="img" aria-label="Alerts over time">'
        for index, bar in enumerate(bars):
            yield from _stack(index, bar, highest)
        ends = _clock(first * self._step), _clock((last + 1) * self._step)
        yield f'</svg><p class="faint">{ends[0]} to {ends[1]}; the highest bar is {highest}.</p>'


def _stack(index: int, bar: Mapping[str, int], highest: int) -> Iterable[str]:
    top = 100.0
    for level in LEVELS:
        if level in bar:
            height = 100.0 * bar[level] / highest
            top -= height
            yield (f'<rect class="{level}" x="{index * 8}" y="{top:.1f}" width="7" height="{height:.1f}">'
                   f"<title>{bar[level]} {level}</title></rect>")


def _moment(timestamp: str) -> int | None:
    """Whole seconds since the epoch."""
    if not timestamp.endswith("Z") or not timestamp.isascii():
        return None
    try:
        whole = datetime.strptime(timestamp[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(whole.timestamp())


def _clock(moment: int) -> str:
    # Not fromtimestamp(): a time in the year 9999 plus a step is out of its range.
    return str(datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=min(moment, _LAST_MOMENT)))


def _level(alert: Document) -> str:
    level = text_at(alert, "rule.level")
    return level if level in LEVELS else "informational"


def _badge(level: str) -> str:
    return f'<span class="level {level}">{level}</span>'


def _techniques(alert: Document) -> str:
    value: Any = value_at(alert, "threat.technique.id")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _text(value: str) -> str:
    """Text for the page: markup escaped, control and reordering characters made visible."""
    if len(value) > _TEXT_LIMIT:
        value = value[:_TEXT_LIMIT] + "..."
    return escape(terminal_safe(value))
