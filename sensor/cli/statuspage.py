"""The page of `sensor status` and `sensor top`. Every text is made safe for a terminal: some come from the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sensor.outputs.terminal import terminal_safe

_MODES = {"full": "green", "loading": "yellow", "reduced": "yellow", "minimal": "yellow"}
_UNTOLD = "-"


def page(document: Mapping[str, Any], rows: int | None = None) -> Group:
    """A page from :func:`sensor.monitor.summary`; *rows*: of the costliest programs, None for all."""
    parts: list[RenderableType] = [_head(document), _probes(document)]
    if document["programs"]:
        parts.append(_programs(document, rows))
    parts += [Text(terminal_safe(f"missing: {row['program']} ({row['target']}): {row['reason']}"))
              for row in document["failures"][:rows]]
    return Group(*parts)


def _number(value: Any, unit: str = "") -> str:
    if value is None:
        return _UNTOLD
    return f"{value:,}{unit}" if isinstance(value, int) else f"{value:,.2f}{unit}"


def _bytes(value: int | None) -> str:
    return _UNTOLD if value is None else f"{value / (1 << 20):.1f} MiB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24}d {hours % 24}h {minutes}m" if hours >= 24 else f"{hours}h {minutes}m {rest}s"


def _head(document: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in _lines(document):
        style = _MODES.get(document["mode"], "red") if name == "mode" else ""
        table.add_row(name, Text(terminal_safe(text), style=style))
    return table


def _lines(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    events, engine, kernel = document["events"], document["engine"], document["kernel"]
    rates, held, content = events["per_second"], document["guard"], document["content"]
    rules, crashes = document["rules"], document["crashes"]
    why = f": {document['reason']}" if document["reason"] else ""
    fix = f" (fix: {document['fix']})" if document["fix"] else ""
    lost = ", ".join(f"{key} {number:,}" for key, number in events["lost_by"].items())
    cost = f"{kernel['cpu_percent']:.3f} % of one CPU" if kernel["counted"] else \
        "not counted: sysctl kernel.bpf_stats_enabled=1"
    strikes = f"{held['strikes']} strikes{', armed' if held['armed'] else ''}"
    missing = "" if document["metrics"] else " (metrics are off: no more is known)"
    return [
        ("mode", f"{document['mode']}{why}{fix}"),
        ("up", (f"{_time(document['uptime_seconds'])}, version {document['version']}, process {document['pid']}, "
                f"engine restarts {document['restarts']}")),
        ("events", (f"{_number(events['received'])} received, {_number(rates.get('received'))}/s, "
                    f"{_number(events['filtered'])} filtered, {_number(events['matches'])} matches{missing}")),
        ("lost", f"{_number(events['lost'])}{f' ({lost})' if lost else ''}, {_number(rates.get('lost'))}/s"),
        ("kernel", f"{cost}, maps {_bytes(kernel['map_bytes'])}"),
        ("engine", "none runs" if engine is None else
         f"process {engine['pid']}, {_bytes(engine['rss_bytes'])}, {_number(engine['cpu_percent'])} % of one CPU, up "
         f"{_time(engine['uptime_seconds'])}"),
        ("rules", _UNTOLD if rules is None else ", ".join(f"{number:,} {state}" for state, number in rules.items())),
        ("content", _content(content)),
        ("guard", f"{strikes}{': ' + held['reason'] if held['reason'] else ''}"),
        ("crashes", _UNTOLD if crashes is None else ", ".join(f"{key} {number}" for key, number in crashes.items())),
    ]


def _content(content: Mapping[str, Any]) -> str:
    release = f"release {content['version']} ({content['release'][:12]})" if content["release"] else "no release"
    stage = f", stage {content['stage']}" if content["stage"] else ""
    trial = f", on trial: {content['trial'][:12]}" if content["trial"] else ""
    return f"{release}{stage}{trial}, rules: {content['level']}, taken back: {content['rollbacks']}"


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table


def _probes(document: Mapping[str, Any]) -> Table:
    table = _table(("FAMILY", False), ("HOOK", False), ("ATTACHED", True), ("EVENTS", False))
    for row in document["probes"]:
        table.add_row(*(terminal_safe(str(cell)) for cell in (row["family"], row["hook"], row["attached"],
                                                              " ".join(row["events"]))))
    return table


def _programs(document: Mapping[str, Any], rows: int | None) -> Table:
    table = _table(("PROGRAM", False), ("FAMILY", False), ("NS/RUN", True), ("RUNS/S", True), ("CPU %", True),
                   ("MISSED", True))
    for row in document["programs"][:rows]:
        table.add_row(terminal_safe(row["program"]), row["family"], _number(row["ns_per_run"]),
                      _number(row["runs_per_second"]), _number(row["cpu_percent"]), _number(row["missed"]))
    return table
