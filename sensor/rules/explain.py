"""A rule for people: its tree in lines, and why an event matched or did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sensor.rules.condition import And, Condition, Not, Or, describe, fields
from sensor.rules.model import Rule
from sensor.rules.reference import holds, routed

_INDENT = "  "


def facts(rule: Rule) -> dict[str, Any]:
    """What a rule says about itself and what it looks at."""
    return {
        "id": rule.id, "name": rule.name, "level": rule.level, "description": rule.description,
        "references": list(rule.references), "tags": list(rule.tags), "techniques": list(rule.techniques),
        "falsepositives": list(rule.falsepositives), "path": rule.path, "line": rule.line,
        "categories": list(rule.categories), "events": list(rule.events),
        "fields": list(fields(rule.condition)),
    }


def tree(condition: Condition, document: Mapping[str, Any] | None = None) -> Any:
    """The tree as plain data; with a document, the truth of each node in it."""
    node: dict[str, Any]
    if isinstance(condition, (And, Or)):
        key = "all" if isinstance(condition, And) else "any"
        node = {key: [tree(item, document) for item in condition.items]}
    elif isinstance(condition, Not):
        node = {"not": tree(condition.item, document)}
    else:
        node = {"predicate": describe(condition)}
    return node if document is None else {"true": holds(condition, document), **node}


def lines(condition: Condition, document: Mapping[str, Any] | None = None) -> list[str]:
    """The tree, a line per node, indented; with a document each line begins with its truth."""
    return list(_lines(condition, document, 0))


def _lines(condition: Condition, document: Mapping[str, Any] | None, depth: int) -> Iterator[str]:
    truth = "" if document is None else ("true   " if holds(condition, document) else "false  ")
    start = truth + _INDENT * depth
    if isinstance(condition, (And, Or)):
        yield start + ("all of" if isinstance(condition, And) else "any of")
        for item in condition.items:
            yield from _lines(item, document, depth + 1)
    elif isinstance(condition, Not):
        yield start + "not"
        yield from _lines(condition.item, document, depth + 1)
    else:
        yield start + describe(condition)


def verdict(rule: Rule, document: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a rule matches a document, and one sentence about it."""
    event = document.get("event")
    action = event.get("action") if isinstance(event, Mapping) else None
    if action not in rule.events:
        return False, f"no match: {action} is not among the rule's events ({', '.join(rule.events)})"
    if holds(routed(rule, str(action)), document):
        return True, "match"
    if holds(rule.condition, document):
        return False, f"no match: the condition holds, but this {action} is no {'/'.join(rule.categories)}"
    return False, "no match"
