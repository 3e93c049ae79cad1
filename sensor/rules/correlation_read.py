"""Sigma correlation rules, parsed by pySigma, tied to the rules that they refer to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sigma.correlations import (
    CorrelationConditionAND,
    CorrelationConditionItem,
    CorrelationConditionNOT,
    SigmaCorrelationCondition,
    SigmaCorrelationConditionOperator,
    SigmaCorrelationRule,
    SigmaCorrelationType,
    SigmaRuleReference,
)
from sigma.rule import SigmaRule

from sensor.rules import fields
from sensor.rules.condition import Order
from sensor.rules.correlation_windows import TooMany, sequences_of
from sensor.rules.model import Correlation, Expression, Kind, Refused, Rule, Threshold, Unsupported
from sensor.rules.sigma import about, title_of
from sensor.rules.sigma_convert import Resolve
from sensor.rules.sigma_lines import first_line
from sensor.rules.yamlsafe import Map

MAX_RULES = 64  # that one correlation refers to
MAX_GROUP_BY = 16
MAX_COUNT = 4_096  # half of the events that a group remembers
MAX_TIMESPAN = 31 * 86_400  # seconds
MAX_DEPTH = 8  # correlations of correlations
MAX_CONDITION = 4_096  # characters
MAX_NESTING = 32

_OPERATOR = SigmaCorrelationConditionOperator
_ORDERS = {_OPERATOR.LT: Order.LESS, _OPERATOR.LTE: Order.LESS_EQUAL, _OPERATOR.GT: Order.GREATER,
           _OPERATOR.GTE: Order.GREATER_EQUAL, _OPERATOR.EQ: Order.EQUAL, _OPERATOR.NEQ: Order.EQUAL}
_TEMPORAL = (Kind.TEMPORAL, Kind.TEMPORAL_ORDERED)


@dataclass(frozen=True, slots=True)
class Draft:
    """A correlation whose references are still names."""

    parsed: SigmaCorrelationRule
    document: Map
    path: str
    id: str
    handle: str

    @property
    def references(self) -> tuple[str, ...]:
        """Ids or names of the rules that it refers to, in order."""
        condition = self.parsed.condition
        if self.parsed.rules is None:
            assert not isinstance(condition, SigmaCorrelationCondition)
            return tuple(condition.get_referenced_rules())
        return tuple(str(each.reference) for each in self.parsed.rules)


class _Bad(ValueError):
    """The correlation can't be carried out; ``key`` says where in it."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        super().__init__(reason)


def read(document: Map, path: str, transform: Callable[[SigmaRule | SigmaCorrelationRule], None]) -> Draft | Refused:
    """One YAML document with a ``correlation`` section, or why it is none."""
    name = title_of(document)
    try:
        section = document["correlation"]
        condition = section.get("condition") if isinstance(section, Map) else None
        if isinstance(condition, str) and (len(condition) > MAX_CONDITION or condition.count("(") > MAX_NESTING):
            raise _Bad("condition", f"longer than {MAX_CONDITION} characters or with more than {MAX_NESTING} brackets")
        parsed = SigmaCorrelationRule.from_dict(document)
        transform(parsed)
        return Draft(parsed, document, path, about(parsed, document, path)["id"], str(parsed.name or ""))
    except _Bad as error:
        return _refused(document, path, error)
    except Exception as error:  # noqa: BLE001  pySigma meets shapes that it never expected in foreign files
        key = next((word for word in ("timespan", "condition", "aliases", "generate", "group-by", "type")
                    if word.replace("-", " ") in str(error).lower().replace("-", " ")), "")
        return Refused(path, line_of(document, key), name, f"not a Sigma correlation: {first_line(error)}")


def line_of(document: Map, key: str) -> int:
    """Line of a key of the correlation section, or else of that section."""
    section = document.get("correlation")
    lines = section.lines if isinstance(section, Map) else {}
    return lines.get(key, document.lines.get("correlation", document.line))


def _refused(document: Map, path: str, error: _Bad) -> Refused:
    return Refused(path, line_of(document, error.key), title_of(document), str(error))


class Tying:
    """Ties drafts to rules. ``known`` are rules by id and by name, ``foreign`` names for log sources we lack."""

    def __init__(self, rules: Sequence[Rule], drafts: Sequence[Draft], foreign: Mapping[str, str],
                 resolve: Resolve = fields.resolve) -> None:
        self.correlations: list[Correlation] = []
        self.refused: list[Refused] = []
        self.unsupported: list[Unsupported] = []
        self._foreign, self._resolve = foreign, resolve
        self._names: dict[str, str] = {}  # id or name -> id
        self._twice: set[str] = set()
        self._rules = {rule.id: rule for rule in rules}
        self._drafts = {draft.id: draft for draft in drafts}
        for rule_id, handle in [(each.id, each.handle) for each in rules] + [(each.id, each.handle) for each in drafts]:
            self._name(rule_id, rule_id)
            self._name(handle, rule_id)
        self._done: dict[str, Correlation | None] = {}
        self._open: list[str] = []
        self._speaks: dict[str, bool] = {}  # id of a rule referred to -> whether some referrer lets it speak
        for draft in drafts:
            self._tie(draft)
        self.correlations = [replace(each, silent=self.is_silent(each.id)) for each in self.correlations]

    def _name(self, name: str, meant: str) -> None:
        if name and self._names.setdefault(name, meant) != meant:
            self._twice.add(name)

    def is_silent(self, rule_id: str) -> bool:
        """Whether a rule only serves correlations."""
        return not self._speaks.get(rule_id, True)

    def _tie(self, draft: Draft) -> Correlation | None:
        if draft.id in self._done:
            return self._done[draft.id]
        self._open.append(draft.id)
        made = None
        try:
            made = self._made(draft)
            self.correlations.append(made)
            for rule in made.rules:
                self._speaks[rule] = self._speaks.get(rule, False) or draft.parsed.generate
        except _Foreign as error:
            self.unsupported.append(Unsupported(draft.path, title_of(draft.document), "correlation", str(error)))
        except _Bad as error:
            self.refused.append(_refused(draft.document, draft.path, error))
        finally:
            self._open.pop()
        self._done[draft.id] = made
        return made

    def _made(self, draft: Draft) -> Correlation:
        parsed = draft.parsed
        kind = _kind(parsed.type)
        span = _span(parsed.timespan.seconds)
        targets = [self._target(name, draft) for name in self._references(draft)]
        condition = _condition(parsed, kind, draft.references)
        group_by = tuple(parsed.group_by or ())
        if len(group_by) > MAX_GROUP_BY:
            raise _Bad("group-by", f"more than {MAX_GROUP_BY} fields")
        keys = tuple(tuple(self._key(draft, name, reference, target, "group-by") for name in group_by)
                     for reference, target in zip(draft.references, targets, strict=True))
        values = tuple(tuple(self._key(draft, name, reference, target, "condition") for name in _counted(parsed, kind))
                       for reference, target in zip(draft.references, targets, strict=True))
        said = about(parsed, draft.document, draft.path)
        what = (said["id"], kind.value, group_by, keys, values, span, condition, [_digest_of(each) for each in targets])
        return Correlation(**said, kind=kind, rules=tuple(each.id for each in targets), group_by=group_by, keys=keys,
                           values=values, timespan_ns=span * 1_000_000_000, condition=condition, handle=draft.handle,
                           digest=_hash(what))

    def _references(self, draft: Draft) -> tuple[str, ...]:
        found = draft.references
        if not found:
            raise _Bad("rules", "refers to no rule")
        if len(found) > MAX_RULES:
            raise _Bad("rules", f"refers to more than {MAX_RULES} rules")
        if len({self._names.get(name, name) for name in found}) < len(found):
            raise _Bad("rules", "refers to a rule twice")
        return found

    def _target(self, name: str, draft: Draft) -> Rule | Correlation:
        meant = self._names.get(name)
        if name in self._twice:
            raise _Bad("rules", f"refers to {name}, which is the name of several rules: use the id")
        if meant in self._rules:
            return self._rules[meant]
        if meant is None:
            if name in self._foreign:
                raise _Foreign(f"refers to {name}, which is not supported: {self._foreign[name]}")
            raise _Bad("rules", f"refers to {name}, but no rule with this id or name was loaded")
        if meant in self._open:
            raise _Bad("rules", f"refers to {name}, which refers back to it")
        if len(self._open) >= MAX_DEPTH:
            raise _Bad("rules", f"correlations refer to each other over more than {MAX_DEPTH} levels")
        below = self._tie(self._drafts[meant])
        if below is None:
            raise _Bad("rules", f"refers to {name}, which is not loaded itself")
        return below

    def _key(self, draft: Draft, name: str, reference: str, target: Rule | Correlation, place: str) -> str:
        """The key that a name stands for in matches of one of the rules."""
        alias = draft.parsed.aliases.aliases.get(name)
        if alias is not None:
            mapping = {each.reference: key for each, key in alias.mapping.items()}
            names = [each for each in (reference, target.id, target.handle) if each in mapping]
            if not names:
                raise _Bad("aliases", f"the alias {name} has no field for the rule {reference}")
            name = str(mapping[names[0]])
        if isinstance(target, Correlation):
            if name not in target.group_by:
                raise _Bad(place, f"{name}: alerts of {reference} carry the fields of its group-by alone "
                                  f"({', '.join(target.group_by) or 'none'})")
            return name
        try:
            return self._resolve(name)
        except fields.UnknownField as error:
            raise _Bad(place, str(error)) from error


class _Foreign(ValueError):
    """The correlation refers to a rule for a log source that this sensor lacks."""


def _kind(written: SigmaCorrelationType) -> Kind:
    try:
        return Kind(written.name.lower())
    except ValueError as error:
        raise _Bad("type", f"correlations of type {written.name.lower()} are not evaluated: "
                           f"{', '.join(each.value for each in Kind)} are") from error


def _span(seconds: int) -> int:
    if seconds > MAX_TIMESPAN:
        raise _Bad("timespan", f"longer than {MAX_TIMESPAN // 86_400} days: no state is kept that long")
    return seconds


def _counted(parsed: SigmaCorrelationRule, kind: Kind) -> tuple[str, ...]:
    """The fields of a value count."""
    found = parsed.condition.fieldref if isinstance(parsed.condition, SigmaCorrelationCondition) else None
    names = (found,) if isinstance(found, str) else tuple(found or ())
    if kind is not Kind.VALUE_COUNT:
        if names:
            raise _Bad("condition", f"field: only {Kind.VALUE_COUNT.value} counts values")
        return ()
    if not all(isinstance(name, str) for name in names) or not 1 <= len(names) <= MAX_GROUP_BY:
        raise _Bad("condition", "field: a name or a list of names expected")
    return names


def _condition(parsed: SigmaCorrelationRule, kind: Kind, references: Sequence[str]) -> Threshold | Expression:
    if not isinstance(parsed.condition, SigmaCorrelationCondition):
        expression = _expression(parsed.condition.parsed, references, 0)
        if kind is Kind.TEMPORAL_ORDERED:
            if not expression.rising:
                raise _Bad("condition", "'not' has no place in an order of events: use the type temporal")
            try:
                sequences_of(expression, len(references))
            except TooMany as error:
                raise _Bad("condition", str(error)) from error
        return expression
    return _threshold(parsed.condition, kind, len(references))


def _threshold(condition: SigmaCorrelationCondition, kind: Kind, rules: int) -> Threshold:
    count = condition.count
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_COUNT:
        raise _Bad("condition", f"{count}: an integer from 0 to {MAX_COUNT} expected")
    threshold = Threshold(_ORDERS[condition.op], count, condition.op is _OPERATOR.NEQ)
    most = rules if kind in _TEMPORAL else MAX_COUNT
    if not any(map(threshold.met, (*range(1, min(most, count + 1) + 1), most))):
        raise _Bad("condition", f"{condition.op.name.lower()} {count} can never be fulfilled")
    if kind is Kind.TEMPORAL_ORDERED:
        if not threshold.met(rules) or (rules > 1 and threshold.met(rules - 1)):
            raise _Bad("condition", f"an order of {rules} rules is fulfilled by all of them; leave the condition out")
        return Threshold(Order.GREATER_EQUAL, rules)
    return threshold


def _expression(node: CorrelationConditionItem | SigmaRuleReference, references: Sequence[str],
                depth: int) -> Expression:
    if depth > MAX_NESTING:
        raise _Bad("condition", f"nested deeper than {MAX_NESTING}")
    if isinstance(node, SigmaRuleReference):
        return Expression("rule", references.index(node.reference))
    op = "not" if isinstance(node, CorrelationConditionNOT) else (
        "and" if isinstance(node, CorrelationConditionAND) else "or")
    return Expression(op, items=tuple(_expression(each, references, depth + 1) for each in node.args))


def _digest_of(target: Rule | Correlation) -> str:
    return target.digest if isinstance(target, Correlation) else _hash((target.id, target.events, target.condition))


def _hash(what: object) -> str:
    return hashlib.sha256(repr(what).encode("utf-8", "surrogatepass")).hexdigest()
