"""Rules of Falco's language as Sigma: YAML that this engine and others load.

A Sigma rule sees the events of one category, so a rule that names several events becomes
several. What is lost: the message template, and tags that aren't ATT&CK's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sensor import schema
from sensor.rules import fields
from sensor.rules.condition import (
    FALSE,
    TRUE,
    And,
    Condition,
    FieldMatch,
    Glob,
    Network,
    Not,
    Number,
    Or,
    Order,
    Predicate,
    Present,
    Regex,
    Relation,
    Text,
    Wildcard,
    all_of,
    any_of,
    describe,
    negate,
)
from sensor.rules.falco.model import FalcoRule
from sensor.rules.model import Refused, Unsupported
from sensor.rules.yamlsafe import documents

_ACTION = "event.action"
_SIGMA = {key: name for name, key in reversed(schema.SIGMA_FIELDS.items())}
_RELATIONS = {Relation.EQUALS: (), Relation.PREFIX: ("startswith",), Relation.SUFFIX: ("endswith",),
              Relation.CONTAINS: ("contains",)}
_ORDERS = {Order.LESS: "lt", Order.LESS_EQUAL: "lte", Order.GREATER: "gt", Order.GREATER_EQUAL: "gte"}

Item = dict[str, Any]


class CannotConvert(ValueError):
    """A rule that Sigma can't say; ``str()`` is the reason."""


def convert(rule: FalcoRule) -> str:
    """The YAML documents that say the same about the same events. Raises CannotConvert."""
    import yaml

    made = []
    for action in rule.events:
        document = _document(rule, action, several=len(rule.events) > 1)
        text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
        _check(text, rule)
        made.append(text)
    return "---\n".join(made)


def _check(text: str, rule: FalcoRule) -> None:
    """Raise CannotConvert where what was made is not loaded again, say because it got too long."""
    from sensor.rules import sigma

    for document in documents(text):
        found = sigma.read(document, rule.path)
        if isinstance(found, (Refused, Unsupported)):
            raise CannotConvert(found.reason)


def _document(rule: FalcoRule, action: str, *, several: bool) -> Item:
    category = _category(action)
    condition = _on(rule.condition, action)
    if len(fields.events_of(category)) > 1 or condition == TRUE:
        condition = all_of(Text(_ACTION, Relation.EQUALS, action), condition)
    writer = _Writer()
    expression = writer.write(condition)
    description = " ".join([rule.description, *(f"({note}.)" for note in rule.notes)]).strip()
    document: Item = {"title": rule.name + (f" ({action})" if several else ""),
                      "id": str(uuid.uuid5(uuid.UUID(rule.id), action)), "status": "experimental"}
    if description:
        document["description"] = description
    tags = [tag for tag in rule.tags if tag.startswith("attack.")]
    if tags:
        document["tags"] = tags
    document["logsource"] = {"product": "linux", "category": category}
    document["detection"] = {**writer.selections, "condition": expression}
    document["level"] = rule.level
    return document


def _category(action: str) -> str:
    """The category that sees the fewest events beside this one, and all of this one."""
    found = [category for category in schema.SIGMA_CATEGORIES
             if action in fields.events_of(category) and fields.guard(category, action) == TRUE]
    if not found:
        raise CannotConvert(f"no log source of Sigma has the event {action}")
    return min(found, key=lambda category: len(fields.events_of(category)))


def _on(condition: Condition, action: str) -> Condition:
    """A condition on events of one action, comparisons with the action decided."""
    match condition:
        case And(items):
            return all_of(*(_on(item, action) for item in items))
        case Or(items):
            return any_of(*(_on(item, action) for item in items))
        case Not(item):
            return negate(_on(item, action))
        case Text("event.action", Relation.EQUALS, value):
            return TRUE if value == action else FALSE
        case _:
            return condition


class _Writer:
    """A condition as Sigma's selections and an expression of their names."""

    def __init__(self) -> None:
        self.selections: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # by what they select: the same is written once

    def write(self, condition: Condition) -> str:
        """The expression; selections are added."""
        match condition:
            case And(items):
                return self._all(items)
            case Or(items):
                return self._any(items)
            case Not(item):
                return f"not {self._group(item)}"
            case _:
                return self._selection(dict([_item(condition)]))

    def _group(self, condition: Condition) -> str:
        text = self.write(condition)
        return f"({text})" if " " in text else text

    def _all(self, items: Sequence[Condition]) -> str:
        """One selection for what must hold, one for what must not, an expression for the rest."""
        plain, rest = _split(items)
        parts = []
        for mapping in _mappings(plain):
            parts.append(self._selection(mapping))
        refused, rest = [item.item for item in rest if isinstance(item, Not)], [
            item for item in rest if not isinstance(item, Not)]
        parts += [self._group(item) for item in rest]
        if refused:
            parts.append(f"not {self._group(any_of(*refused))}")
        return " and ".join(parts)

    def _any(self, items: Sequence[Condition]) -> str:
        """One selection of alternatives, an expression for those that are no plain conjunction."""
        alternatives: list[Item] = []
        merged: dict[str, list[Any]] = {}
        parts = []
        for item in items:
            if not isinstance(item, (And, Or, Not)):
                key, value = _item(item)
                merged.setdefault(key, []).append(value)
                continue
            plain, rest = _split(item.items) if isinstance(item, And) else ([], [item])
            mappings = _mappings(plain)
            if rest or len(mappings) != 1:
                parts.append(self._group(item))
            else:
                alternatives += mappings
        alternatives += [{key: values if len(values) > 1 else values[0]} for key, values in merged.items()]
        if alternatives:
            parts.insert(0, self._selection(alternatives if len(alternatives) > 1 else alternatives[0]))
        return " or ".join(parts)

    def _selection(self, content: Any) -> str:
        # The letter keeps the name apart from numbers and from "of", "them" and the operators.
        name = self._names.setdefault(repr(content), f"s{len(self.selections) + 1}")
        self.selections[name] = content
        return name


def _split(items: Sequence[Condition]) -> tuple[list[Predicate], list[Condition]]:
    plain: list[Predicate] = [item for item in items if not isinstance(item, (And, Or, Not))]
    return plain, [item for item in items if isinstance(item, (And, Or, Not))]


def _mappings(predicates: Sequence[Predicate]) -> list[Item]:
    """Conjunctions of predicates, as few as keys that occur once in each allow."""
    found: list[Item] = []
    for predicate in predicates:
        key, value = _item(predicate)
        place = next((mapping for mapping in found if key not in mapping), None)
        if place is None:
            found.append({key: value})
        else:
            place[key] = value
    return found


def _item(predicate: Predicate) -> tuple[str, Any]:
    """One predicate as key and value of a selection. Raises CannotConvert."""
    name = _SIGMA.get(predicate.field, predicate.field)
    match predicate:
        case Text(_, relation, value, cased):
            return _key(name, *_RELATIONS[relation], *(("cased",) if cased else ())), _escaped(value)
        case Wildcard(_, parts, cased):
            pattern = "".join(part.value if isinstance(part, Glob) else _escaped(part) for part in parts)
            return _key(name, *(("cased",) if cased else ())), pattern
        case Regex(_, pattern, flags):
            return _key(name, "re", *flags), pattern
        case Number(_, Order.EQUAL, number):
            return name, number
        case Number(_, order, number):
            return _key(name, _ORDERS[order]), number
        case Network(_, network):
            return _key(name, "cidr"), network
        case Present():
            return _key(name, "exists"), True
        case FieldMatch(_, Relation.EQUALS, other):
            return _key(name, "fieldref"), _SIGMA.get(other, other)
    raise CannotConvert(f"Sigma has no words for: {describe(predicate)}")


def _key(name: str, *modifiers: str) -> str:
    return "|".join((name, *modifiers))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
