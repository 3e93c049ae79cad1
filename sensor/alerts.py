"""Alert documents: the event that a rule matched, and the rule."""

from __future__ import annotations

from typing import Any

from sensor.rules.correlation import Firing
from sensor.rules.eventtime import text_of_ns
from sensor.rules.falco import output
from sensor.rules.falco.model import FalcoRule
from sensor.rules.model import About

Document = dict[str, Any]


def alert(document: Document, rule: About) -> Document:
    """A new document: *document* with ``event.kind: alert`` and the rule's part added.

    ``event.id`` stays the event's, so that an alert leads back to it. Tags and techniques that
    the document has already (it may come from another sensor's recording) are kept in front.
    """
    made = dict(document)
    made["event"] = {**_dict(document.get("event")), "kind": "alert"}
    about: Document = {"id": rule.id, "name": rule.name, "level": rule.level}
    if rule.description:
        about["description"] = rule.description
    if rule.references:
        about["reference"] = list(rule.references)
    made["rule"] = {key: value for key, value in about.items() if value}
    if rule.techniques:
        threat = _dict(document.get("threat"))
        technique = _dict(threat.get("technique"))
        identifiers = _merged(technique.get("id"), rule.techniques)
        made["threat"] = {**threat, "technique": {**technique, "id": identifiers}}
    if isinstance(rule, FalcoRule) and rule.output:
        made["message"] = output.render(rule.output, document)
    if rule.tags:
        made["tags"] = _merged(document.get("tags"), rule.tags)
    return made


def correlated(document: Document, firing: Firing) -> Document:
    """The alert of a correlation: the event that completed it, the rule, and ``sensor.correlation``.

    One that was judged after its time has no event: it carries the group's values and the time of
    the last event instead. ``event.start`` and ``event.end`` are the first and last event's times.
    """
    about = firing.correlation
    times = {"start": text_of_ns(firing.first_ns), "end": text_of_ns(firing.last_ns)}
    base = document
    if firing.late:
        base = {"@timestamp": times["end"], "event": {"id": firing.id, "action": "correlation"}}
    made = alert(base, about)
    made["event"] = {**made["event"], **times}
    details: Document = {
        "type": about.kind.value, "id": firing.id, "count": firing.count, "events": list(firing.ids),
        "events_count": firing.events, "timespan": about.timespan_ns // 1_000_000_000,
        "group": [{"field": name, "value": value} for name, value in firing.group],
    }
    made["sensor"] = {**_dict(base.get("sensor")), "correlation": details}
    return made


def _dict(value: Any) -> Document:
    return value if isinstance(value, dict) else {}


def _merged(present: Any, added: tuple[str, ...]) -> list[Any]:
    """What is present, whatever its shape, and the added texts, each once."""
    before = list(present) if isinstance(present, (list, tuple)) else [] if present is None else [present]
    return [*before, *(item for item in dict.fromkeys(added) if item not in before)]
