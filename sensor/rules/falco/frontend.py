"""Falco's rule files -> rules of the engine, or why they are none."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator

from sensor.rules.condition import FALSE, Condition, FieldMatch, Relation, Text, all_of, any_of
from sensor.rules.falco import events, fields, output, views
from sensor.rules.falco.bounds import Bounds, both, either, opposite, unknown
from sensor.rules.falco.items import Collected, RuleItem, collect, is_falco
from sensor.rules.falco.model import CATEGORY, FalcoRule, FalcoUnsupported
from sensor.rules.falco.names import Names
from sensor.rules.falco.patterns import BadValue
from sensor.rules.falco.syntax import All, BadCondition, Check, Field, Node, Not, Some, Value, children
from sensor.rules.model import Refused, Rule, Unsupported
from sensor.rules.yamlsafe import Items
from sensor.schema import Event

__all__ = ["Falco", "is_falco"]

#: Namespace of the ids that rules get from their names; Falco's rules have none.
_IDS = uuid.uuid5(uuid.NAMESPACE_OID, "falco rule")
_TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?", re.ASCII)
_TACTIC = re.compile(r"TA\d{4}", re.ASCII)


class Falco:
    """The files of one load: added in their order, compiled together, since each may change the ones before."""

    def __init__(self) -> None:
        self._collected = Collected()
        self.files = 0

    def add(self, document: Items, path: str) -> None:
        """Take the items of one file."""
        self.files += 1
        collect(document, path, self._collected)

    def compile(self) -> list[Rule | Refused | Unsupported]:
        """Every rule that is enabled, or why it is none; and what is wrong with other items."""
        compiler = _Compiler(Names(self._collected))
        found: list[Rule | Refused | Unsupported] = [*self._collected.refused, *self._collected.unsupported]
        for item in self._collected.rules.values():
            if ("rule", item.name) not in self._collected.broken and item.enabled:
                found.append(compiler.rule(item))
        return found


class _Compiler:
    """Rules by name resolved -> conditions, each event on its own."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[tuple[int, str], tuple[Node, Bounds]] = {}
        self._compared: dict[tuple[int, int], tuple[Check, views.View, Bounds]] = {}

    def rule(self, item: RuleItem) -> Rule | Refused | Unsupported:
        """One rule, or why it is none."""
        if item.source != "syscall":
            return _unsupported(item, f"events of source {item.source} are not read; only syscall is")
        try:
            tree = self._names.tree(item.condition)
            for exception in item.exceptions:
                if exception.rows:
                    tree = All((tree, Not(self._names.exception(exception))))
            _check_fields(tree)
            output.check(item.output)
            return self._made(item, tree)
        except fields.UnknownField as error:
            if item.skip_unknown:
                return _unsupported(item, f"{error}, and skip-if-unknown-filter is set")
            return Refused(item.path, item.line, item.name, str(error))
        except (BadCondition, BadValue) as error:
            return Refused(item.path, item.line, item.name, str(error))
        except RecursionError:
            return Refused(item.path, item.line, item.name, "the condition with its macros is nested too deep")

    def _made(self, item: RuleItem, tree: Node) -> Rule | Unsupported:
        self._known.clear()  # both by identity, which ends with the rule's tree
        self._compared.clear()
        found: dict[str, Condition] = {}
        missing: set[str] = set()
        lost: set[str] = set()
        for event in events.CARRIED:
            bounds = self._on(tree, event)
            if bounds.sure != FALSE:
                found[event.action] = bounds.sure
            # Where an event could fire the rule and is not seen to, that is to be told as well.
            (missing if bounds.wide != FALSE else lost).update(bounds.missing)
        types = _foreign_types(tree)
        if not found:
            return _unsupported(item, _reason(missing or lost, types))
        return _rule(item, found, _notes(missing, types))

    def _on(self, node: Node, event: Event) -> Bounds:
        """A tree's meaning for one event. Shared trees of macros are answered once."""
        if isinstance(node, Check):
            return self._comparison(node, event)
        key = (id(node), event.name)
        known = self._known.get(key)
        if known is not None:
            return known[1]
        made = self._node(node, event)
        self._known[key] = (node, made)
        return made

    def _comparison(self, check: Check, event: Event) -> Bounds:
        """One comparison. Most fields are seen alike in all events, and long lists are compared once then."""
        view = fields.view(check.field, event)
        if any(isinstance(operand, Field) for operand in check.operands):
            return _comparison(check, view, event)
        known = self._compared.get((id(check), id(view)))
        if known is None:
            known = (check, view, _comparison(check, view, event))
            self._compared[id(check), id(view)] = known
        return known[2]

    def _node(self, node: Node, event: Event) -> Bounds:
        match node:
            case All(items):
                return both(self._on(item, event) for item in items)
            case Some(items):
                return either(self._on(item, event) for item in items)
            case Not(item):
                return opposite(self._on(item, event))
            case _:
                raise BadCondition(f"the name {getattr(node, 'name', '')} is not resolved")


def _comparison(check: Check, view: views.View, event: Event) -> Bounds:
    """One comparison on one event. Raises UnknownField, BadValue."""
    others = [operand for operand in check.operands if isinstance(operand, Field)]
    if others:
        return _between(check, view, others[0], event)
    values = [operand.text for operand in check.operands if isinstance(operand, Value)]
    case = [name for name in check.field.transformers if name in ("tolower", "toupper")]
    try:
        if not case:
            return view.compare(check.operator, values)
        # The outermost transformer decides what letters there are; a value with others never occurs.
        shaped = [value for value in values if value == (value.lower() if case[-1] == "tolower" else value.upper())]
        if len(shaped) < len(values) and check.operator not in ("in", "intersects"):
            return view.present() if check.operator == "!=" else views.ABSENT.present()
        return view.compare(check.operator, shaped, folded=True)
    except BadValue as error:
        raise BadValue(f"{check.field} {check.operator}: {error}") from error


def _between(check: Check, view: views.View, other: Field, event: Event) -> Bounds:
    """A comparison of two fields: equality of numbers and texts that stand in documents as they are."""
    right = fields.view(other, event)
    shown = f"{check.field} {check.operator} val({other})"
    plain = (views.Plain, views.Quantity)
    if (not isinstance(view, plain) or not isinstance(right, plain) or check.field.transformers or other.transformers
            or type(view) is not type(right) or check.operator not in ("=", "==", "!=")):
        return unknown(shown)
    same = FieldMatch(view.key, Relation.EQUALS, right.key)
    found = Bounds(same, same)
    if isinstance(view, views.Plain):  # without case, where Falco has it
        found = Bounds(FALSE, same, frozenset({f"{shown} (case)"}))
    if check.operator != "!=":
        return found
    return both([view.present(), right.present(), opposite(found)])


def _checks(tree: Node) -> Iterator[Check]:
    """Every comparison of a tree; parts that it has several times are given once."""
    stack, seen = [tree], set[int]()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Check):
            yield node
        else:
            stack.extend(children(node))


def _check_fields(tree: Node) -> None:
    """Raise UnknownField for a field that Falco doesn't have, also where no event gets as far as to it."""
    for check in _checks(tree):
        for field in (check.field, *check.operands):
            if isinstance(field, Field):
                fields.view(field, events.CARRIED[0])


def _foreign_types(tree: Node) -> set[str]:
    """Event types that a condition asks for and that are none of our events."""
    found: set[str] = set()
    for check in _checks(tree):
        if check.field.name in ("evt.type", "syscall.type") and check.operator in ("=", "==", "in", "intersects"):
            found |= {value.text for value in check.operands if isinstance(value, Value)} - events.KNOWN_TYPES
    return found


def _reason(lost: set[str], types: set[str]) -> str:
    parts = []
    if lost:
        parts.append(f"our events don't carry {', '.join(sorted(lost))}")
    if types:
        parts.append(f"no event of ours is of type {', '.join(sorted(types))}")
    return "; ".join(parts) or "the condition can never be true of our events"


def _notes(missing: set[str], types: set[str]) -> tuple[str, ...]:
    notes = [f"not carried, so what hangs on it is left out: {', '.join(sorted(missing))}"] if missing else []
    if types:
        notes.append(f"no event of ours is of type {', '.join(sorted(types))}")
    return tuple(notes)


def _unsupported(item: RuleItem, reason: str) -> Unsupported:
    return FalcoUnsupported(item.path, item.name, f"source={item.source}"[:64], reason, item.line)


def _rule(item: RuleItem, found: dict[str, Condition], notes: tuple[str, ...]) -> Rule:
    grouped: dict[Condition, list[str]] = {}
    for action, each in found.items():
        grouped.setdefault(each, []).append(action)
    condition = (next(iter(grouped)) if len(grouped) == 1 else
                 any_of(*(all_of(_is_one_of(actions), each) for each, actions in grouped.items())))
    tags = tuple(dict.fromkeys(map(_tag, item.tags)))
    return FalcoRule(
        id=str(uuid.uuid5(_IDS, item.name)), name=item.name, level=item.level,
        description=" ".join(item.description.split()), references=(), tags=tags,
        techniques=tuple(tag.upper() for tag in item.tags if _TECHNIQUE.fullmatch(tag.upper())),
        falsepositives=(), path=item.path, line=item.line, categories=(CATEGORY,), events=tuple(found),
        condition=condition, output=item.output, notes=notes)


def _is_one_of(actions: Iterable[str]) -> Condition:
    return any_of(*(Text("event.action", Relation.EQUALS, action, cased=True) for action in actions))


def _tag(tag: str) -> str:
    """Falco's way to write ATT&CK's tactics and techniques -> Sigma's; other tags as they are."""
    if tag.lower().startswith("mitre_"):
        return f"attack.{tag[6:].lower().replace('_', '-')}"
    if _TECHNIQUE.fullmatch(tag.upper()) or _TACTIC.fullmatch(tag.upper()):
        return f"attack.{tag.lower()}"
    return tag
