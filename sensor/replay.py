"""The engine over recordings: same rules, the events' own clock, the same output every time."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sensor import safe_yaml
from sensor.errors import ContentError
from sensor.reading import Reader
from sensor.shape import DEPTH_LIMIT, Document, depth

Feed = Callable[[Document], Sequence[Document]]
Columns = Callable[[str], "Iterator[Piece] | None"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a recording: a number of events, those of them that raise alerts, and alerts that are only counted.

    The latter are (rule id, name, number).
    """

    events: int
    raised: Sequence[tuple[Document, Sequence[Document]]] = ()
    counted: Sequence[tuple[str, str, int]] = ()


class Sink(Protocol):
    """Where alerts go: an output, or a report."""

    def write(self, document: Document) -> None:
        """Take one alert."""


@dataclass(slots=True)
class Result:
    """What a replay saw. ``alert_ids`` is rule id -> event.id of each alert, kept for --expect only."""

    events: int = 0
    alerts: int = 0
    by_rule: dict[str, int] = field(default_factory=dict)
    alert_ids: dict[str, list[str]] = field(default_factory=dict)
    rule_names: dict[str, str] = field(default_factory=dict)

    def add(self, alert: Document, keep_id: bool) -> None:
        """Count one alert."""
        rule = alert["rule"]
        rule_id = rule["id"]
        self.count(rule_id, rule.get("name", ""), 1)
        if keep_id:
            self.alert_ids.setdefault(rule_id, []).append(str(alert["event"].get("id", "")))

    def count(self, rule_id: str, name: str, number: int) -> None:
        """Count alerts of a rule."""
        self.alerts += number
        self.by_rule[rule_id] = self.by_rule.get(rule_id, 0) + number
        self.rule_names.setdefault(rule_id, name)


def replay(paths: Iterable[str], reader: Reader, feed: Feed, sinks: Sequence[Sink],
           keep_ids: bool = False, finish: Callable[[], Sequence[Document]] = tuple,
           columns: Columns | None = None) -> Result:
    """Feed recordings to the engine, one after another, and alerts to *sinks*.

    Args:
        paths: Recordings; ``-`` is standard input.
        reader: Counts what it skips.
        feed: Pipeline.feed_document: a document in, its alerts out. Takes no clock.
        sinks: Get every alert, in order.
        keep_ids: Keep every alert's event id for :func:`compare`.
        finish: Pipeline.finish: the alerts that are due when the last recording has ended.
        columns: Takes a path and gives its pieces, or None for a recording that has to be read as documents:
            batches.alerts, for rules that need no other event.

    Raises:
        UsageError: A recording can't be opened.
    """
    result = Result()
    events = 0

    def told(document: Document, alerts: Sequence[Document]) -> bool:
        # Only now, because it costs as much as parsing: no output takes more.
        if depth(document) > DEPTH_LIMIT:
            reader.skip("too_deep")
            return False
        _hand_on(alerts, result, sinks, keep_ids)
        return True

    try:
        for path in paths:
            batches = columns(path) if columns else None
            if batches is None:
                for document in reader.documents(path):
                    events += 1
                    alerts = feed(document)
                    if alerts and not told(document, alerts):
                        events -= 1
            else:
                for piece in batches:
                    events += piece.events
                    events -= sum(not told(document, alerts) for document, alerts in piece.raised)
                    for rule_id, name, count in piece.counted:
                        result.count(rule_id, name, count)
        _hand_on(finish(), result, sinks, keep_ids)
    finally:
        result.events = events  # also for a reader of ours that went away
    return result


def _hand_on(alerts: Sequence[Document], result: Result, sinks: Sequence[Sink], keep_ids: bool) -> None:
    for alert in alerts:
        result.add(alert, keep_ids)
        for sink in sinks:
            sink.write(alert)


def summary_line(result: Result, skipped: Mapping[str, int], seconds: float) -> str:
    """The one JSON line that a summary ends with."""
    return json.dumps({
        "events": result.events,
        "skipped": dict(sorted(skipped.items())),
        "alerts": result.alerts,
        "by_rule": dict(sorted(result.by_rule.items())),
        "seconds": round(seconds, 3),
        "events_per_second": round(result.events / seconds) if seconds > 0 else 0,
    })


def summary_text(result: Result, skipped: Mapping[str, int]) -> list[str]:
    """The summary for people: events, what was skipped, alerts by rule, most first."""
    lines = [f"events   {result.events}"]
    lines += [f"skipped  {count:>7}  {reason}" for reason, count in sorted(skipped.items())]
    lines.append(f"alerts   {result.alerts}")
    ranked = sorted(result.by_rule.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"         {count:>7}  {rule}  {result.rule_names[rule]}" for rule, count in ranked]
    return lines


@dataclass(frozen=True, slots=True)
class Expected:
    """What ``--expect`` asks of one rule. ``events`` None leaves open which events they are."""

    count: int
    events: tuple[str, ...] | None = None


def load_expected(path: str) -> dict[str, Expected]:
    """Read an expectation: a YAML or JSON mapping of rule id to a number of alerts.

    In the place of the number may stand a mapping with ``count``, ``events`` (a list of event ids, in
    any order), or both. Every rule that is not named is expected to raise none.

    Raises:
        ContentError: Broken, with file and line.
    """
    root = safe_yaml.parse(safe_yaml.read_text(path), path)
    if root is None or not isinstance(root.value, dict):
        raise ContentError(path, root.line if root else None,
                           "expected a mapping of rule id to number of alerts", "an empty one is written {}")
    return {rule: _expected(path, node) for rule, (_, node) in root.value.items()}


def _expected(path: str, node: safe_yaml.Node) -> Expected:
    if not isinstance(node.value, dict):
        return Expected(_count(path, node))
    unknown = set(node.value) - {"count", "events"}
    if unknown or not node.value:
        reason = f"unknown key {min(unknown)[:64]!r}" if unknown else "nothing is expected"
        raise ContentError(path, node.line, reason, "known are count and events")
    events: tuple[str, ...] | None = None
    if "events" in node.value:
        items = node.value["events"][1]
        if not isinstance(items.value, list) or not all(isinstance(item.value, str) for item in items.value):
            raise ContentError(path, items.line, "events is not a list of event ids")
        events = tuple(sorted(str(item.value) for item in items.value))
    if "count" not in node.value:
        return Expected(len(events or ()), events)
    return Expected(_count(path, node.value["count"][1]), events)


def _count(path: str, node: safe_yaml.Node) -> int:
    text = node.value
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ContentError(path, node.line, "expected a number of alerts, 0 or more")
    return int(text)


def compare(expected: Mapping[str, Expected], result: Result) -> list[str]:
    """Lines of a diff between what was expected and what came; empty if they agree."""
    wanted: list[str] = []
    got: list[str] = []
    for rule in sorted({*expected, *result.by_rule}):
        want = expected.get(rule, Expected(0))
        count, ids = result.by_rule.get(rule, 0), sorted(result.alert_ids.get(rule, []))
        title = f"{rule} ({result.rule_names[rule]})" if result.rule_names.get(rule) else rule
        wanted.append(f"{title}: {want.count}")
        got.append(f"{title}: {count}")
        if want.events is not None:
            wanted += [f"  {rule} event {event}" for event in want.events]
            got += [f"  {rule} event {event}" for event in ids]
    return list(difflib.unified_diff(wanted, got, "expected", "replayed", n=0, lineterm=""))


