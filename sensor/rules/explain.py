"""A rule for people: its tree in lines, and why an event matched or did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sensor.rules.condition import And, Condition, Not, Or, describe, fields
from sensor.rules.falco.model import FalcoRule
from sensor.rules.model import About, Correlation, Expression, Rule, Threshold
from sensor.rules.reference import holds, routed

_INDENT = "  "


def facts(rule: Rule | Correlation) -> dict[str, Any]:
    """What a rule says about itself and what it looks at."""
    return {**_said(rule), **(_counted(rule) if isinstance(rule, Correlation) else _looked_at(rule))}


def _said(rule: About) -> dict[str, Any]:
    return {
        "id": rule.id, "name": rule.name, "level": rule.level, "description": rule.description,
        "references": list(rule.references), "tags": list(rule.tags), "techniques": list(rule.techniques),
        "falsepositives": list(rule.falsepositives), "path": rule.path, "line": rule.line,
    }


def _looked_at(rule: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {
        "categories": list(rule.categories), "events": list(rule.events), "fields": list(fields(rule.condition))}
    if isinstance(rule, FalcoRule):
        found |= {"output": rule.output, "notes": list(rule.notes)}
    return {**found, **({"silent": True} if rule.silent else {})}


def _counted(rule: Correlation) -> dict[str, Any]:
    return {
        "correlation": rule.kind.value, "rules": list(rule.rules), "timespan": rule.timespan_ns // 1_000_000_000,
        "group_by": {name: sorted({row[number] for row in rule.keys}) for number, name in enumerate(rule.group_by)},
        "fields": sorted({key for row in rule.values for key in row}), "fulfilled": fulfilled(rule),
        **({"silent": True} if rule.silent else {}),
    }


def fulfilled(rule: Correlation) -> str:
    """When a correlation is, in one line."""
    condition = rule.condition
    if isinstance(condition, Expression):
        return _expression(condition, rule)
    what = {"event_count": "events", "value_count": "distinct values"}.get(rule.kind.value, "of the rules")
    order = " one after the other" if rule.kind.value == "temporal_ordered" else ""
    return f"{_threshold(condition)} {what}{order} within {rule.timespan_ns // 1_000_000_000} s"


def _threshold(condition: Threshold) -> str:
    return ("not " if condition.negated else "") + f"{condition.order.value} {condition.value}"


def _expression(node: Expression, rule: Correlation) -> str:
    if node.op == "rule":
        return rule.rules[node.rule]
    parts = [_expression(item, rule) for item in node.items]
    return f"not {parts[0]}" if node.op == "not" else f"({f' {node.op} '.join(parts)})"


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
