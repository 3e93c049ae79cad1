"""A rule set as plain data: JSON that holds nothing but what the typed tree holds.

What parses rules may be talked into anything by a hostile file, so what it hands over is data that can't
do anything, and whoever reads it checks the type of every value. Conditions stand in one list in which
each refers to earlier ones only: no cycle, no recursion in reading, and the size and depth that a tree
would have when written out are known before anybody walks it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from sensor.rules.condition import (
    And,
    Bits,
    Condition,
    Elapsed,
    FieldMatch,
    Glob,
    Network,
    Not,
    Number,
    Or,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Unit,
    Wildcard,
    predicates,
)
from sensor.rules.falco.model import FalcoRule, FalcoUnsupported
from sensor.rules.guards import literals_of
from sensor.rules.linear import compile_pattern
from sensor.rules.model import Correlation, Expression, Kind, Refused, Rule, RuleSet, Threshold, Unsupported
from sensor.rules.valuetests import document_test

FORMAT = 2
MAX_BYTES = 32 << 20  # 2,000 rules as people write them take 4 MB
MAX_DEPTH = 128  # rules are refused at 64; filters and Falco's bounds add a few
MAX_PARTS = 1_000_000  # parts of all conditions when written out: what a walk over all of them costs

Row = list[Any]


class NotPlain(ValueError):
    """The data is no rule set. ``str()`` says what is wrong with it."""


def dump(rules: RuleSet) -> bytes:
    """Encode for :func:`load`."""
    nodes = _Nodes()
    raw: dict[str, Any] = {"format": FORMAT, "filters": rules.filters}
    for name in _GROUPS:
        raw[name] = [_record(each, nodes) for each in getattr(rules, name)]
    return json.dumps({**raw, "nodes": nodes.rows}, separators=(",", ":")).encode()


def load(data: bytes) -> RuleSet:
    """Decode what :func:`dump` wrote. Raises NotPlain for anything else."""
    if len(data) > MAX_BYTES:
        raise NotPlain(f"larger than {MAX_BYTES} bytes")
    try:
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            raise NotPlain("another format")
        reading = _Reading(raw["nodes"])
        groups = {name: tuple(reading.record(row, kinds) for row in raw[name]) for name, kinds in _GROUPS.items()}
        return RuleSet(**groups, filters=_integer(raw["filters"]))
    except NotPlain:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, RecursionError) as error:
        raise NotPlain(f"not a compiled rule set: {error!r}"[:200]) from error


def check(rules: RuleSet) -> None:
    """Raise NotPlain where an expression or network can't be used; what is compiled here is kept for the matcher."""
    for rule in rules.rules:
        for predicate in predicates(rule.condition):
            try:
                if isinstance(predicate, Regex):
                    compile_pattern(predicate.pattern, predicate.flags)
                elif isinstance(predicate, (Wildcard, Network)):
                    document_test(predicate)
            except ValueError as error:
                raise NotPlain(f"{rule.name[:80]}: {error}"[:200]) from error


# --- conditions ------------------------------------------------------------------------------------


class _Nodes:
    """Conditions as rows, each equal one once."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._numbers: dict[Any, int] = {}

    def add(self, node: Condition) -> int:
        """Number of a condition's row."""
        if isinstance(node, (And, Or)):
            row = [type(node).__name__, *map(self.add, node.items)]
        elif isinstance(node, Not):
            row = ["Not", self.add(node.item)]
        elif isinstance(node, Wildcard):
            parts = [part if isinstance(part, str) else [part.value] for part in node.parts]
            row = ["Wildcard", node.field, parts, node.cased]
        elif isinstance(node, Regex):
            row = ["Regex", node.field, node.pattern, list(literals_of(node)), node.flags]
        else:
            values = [getattr(node, item.name) for item in dataclasses.fields(node)]
            row = [type(node).__name__, *(value.value if isinstance(value, Enum) else value for value in values)]
        # 1, 1.0 and True are one key to a dictionary.
        key = (*map(str, row), row[-1].__class__) if row[0] in ("Wildcard", "Regex") else (*row, row[-1].__class__)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.rows)
            self.rows.append(row)
        return number


def _member(cls: Any) -> Callable[[Any], Any]:
    members = {each.value: each for each in cls}
    return lambda value: members[value]


def _text(value: Any) -> str:
    if value.__class__ is not str:
        raise NotPlain("a text expected")
    return str(value)


def _integer(value: Any) -> int:
    if value.__class__ is not int:
        raise NotPlain("an integer expected")
    return int(value)


def _number(value: Any) -> int | float:
    if value.__class__ is not int and value.__class__ is not float:
        raise NotPlain("a number expected")
    return value


def _truth(value: Any) -> bool:
    if value.__class__ is not bool:
        raise NotPlain("true or false expected")
    return bool(value)


def _parts(value: Any) -> tuple[str | Glob, ...]:
    return tuple(_text(part) if isinstance(part, str) else _GLOB(part[0]) for part in _list(value))


def _list(value: Any) -> list[Any]:
    if value.__class__ is not list:
        raise NotPlain("a list expected")
    return list(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, _list(value)))


def _regex(field: str, pattern: str, literals: tuple[str, ...], flags: str) -> Regex:
    return Regex(field, pattern, flags, literals)


_GLOB, _RELATION, _ORDER, _UNIT = map(_member, (Glob, Relation, Order, Unit))

#: Kind of predicate -> (class, how each of its values is read).
_PREDICATES: dict[str, tuple[Any, tuple[Callable[[Any], Any], ...]]] = {
    "Text": (Text, (_text, _RELATION, _text, _truth)), "Wildcard": (Wildcard, (_text, _parts, _truth)),
    "Regex": (_regex, (_text, _text, _texts, _text)), "Number": (Number, (_text, _ORDER, _number)),
    "Network": (Network, (_text, _text)), "TimePart": (TimePart, (_text, _UNIT, _ORDER, _number)),
    "FieldMatch": (FieldMatch, (_text, _RELATION, _text)), "Present": (Present, (_text,)),
    "Bits": (Bits, (_text, _integer)), "Elapsed": (Elapsed, (_text, _ORDER, _number, _text)),
}

#: Names of the kinds of predicates that can be written.
KINDS = frozenset(_PREDICATES)


class _Reading:
    """Rows back to conditions, and records with their help."""

    def __init__(self, rows: list[Row]) -> None:
        self.nodes: list[Condition] = []
        self._depths: list[int] = []
        self._sizes: list[int] = []
        self._left = MAX_PARTS
        for row in _list(rows):
            self._add(row)

    def _add(self, row: Row) -> None:
        kind = row[0]
        if kind in _PREDICATES:
            cls, readers = _PREDICATES[kind]
            if len(row) != len(readers) + 1:
                raise NotPlain(f"{kind} with {len(row) - 1} values")
            self.nodes.append(cls(*[read(value) for read, value in zip(readers, row[1:], strict=True)]))
            self._depths.append(1)
            self._sizes.append(1)
            return
        items = [self._number(each) for each in row[1:]]
        if kind == "Not" and len(items) == 1:
            self.nodes.append(Not(self.nodes[items[0]]))
        elif kind in ("And", "Or"):
            self.nodes.append((And if kind == "And" else Or)(tuple(self.nodes[each] for each in items)))
        else:
            raise NotPlain("an unknown kind of condition")
        self._depths.append(1 + max((self._depths[each] for each in items), default=0))
        self._sizes.append(1 + sum(self._sizes[each] for each in items))
        if self._depths[-1] > MAX_DEPTH or self._sizes[-1] > MAX_PARTS:
            raise NotPlain("a condition that is nested too deep, or has too many parts")

    def _number(self, value: Any) -> int:
        number = _integer(value)
        if not 0 <= number < len(self.nodes):
            raise NotPlain("a condition that doesn't stand before")
        return number

    def condition(self, value: Any) -> Condition:
        """The condition of a rule, which is charged for its size."""
        number = self._number(value)
        self._left -= self._sizes[number]
        if self._left < 0:
            raise NotPlain(f"conditions of more than {MAX_PARTS} parts together")
        return self.nodes[number]

    def record(self, row: Row, kinds: Sequence[type]) -> Any:
        """One record, of one of these classes."""
        cls = next((kind for kind in kinds if kind.__name__ == row[0]), None)
        if cls is None:
            raise NotPlain("an unknown kind of record")
        readers = _READERS[cls]
        if len(row) != len(readers) + 1:
            raise NotPlain(f"{row[0]} with {len(row) - 1} values")
        return cls(*[self.condition(value) if read is None else read(value)
                     for read, value in zip(readers, row[1:], strict=True)])


# --- records ---------------------------------------------------------------------------------------


def _text_rows(value: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(map(_texts, _list(value)))


def _triple(value: Any) -> tuple[str, str, str]:
    first, second, third = _texts(value)
    return first, second, third


def _line(value: Any) -> int | None:
    return None if value is None else _integer(value)


def _judgement(value: Any) -> Threshold | Expression:
    if value[0] == "Threshold":
        _, order, number, negated = value
        return Threshold(_ORDER(order), _integer(number), _truth(negated))
    return _expression(value, 64)


def _expression(value: Any, room: int) -> Expression:
    op, rule, *items = value
    if op not in ("rule", "and", "or", "not") or room == 0:
        raise NotPlain("an expression that is none")
    return Expression(op, _integer(rule), tuple(_expression(item, room - 1) for item in items))


#: Annotation of a record's field -> how its value is read; None: a condition, by its number.
_BY_ANNOTATION: dict[str, Callable[[Any], Any] | None] = {
    "str": _text, "int": _integer, "bool": _truth, "int | None": _line, "tuple[str, ...]": _texts,
    "tuple[str, str, str]": _triple, "tuple[tuple[str, ...], ...]": _text_rows, "Condition": None,
    "Kind": _member(Kind), "Threshold | Expression": _judgement,
}
#: Part of a rule set -> the classes of its records.
_GROUPS: dict[str, tuple[type, ...]] = {
    "rules": (Rule, FalcoRule), "refused": (Refused,), "unsupported": (Unsupported, FalcoUnsupported),
    "correlations": (Correlation,),
}
_READERS: Mapping[type, tuple[Callable[[Any], Any] | None, ...]] = {
    cls: tuple(_BY_ANNOTATION[str(item.type)] for item in dataclasses.fields(cls))
    for group in _GROUPS.values() for cls in group
}


def _record(record: Any, nodes: _Nodes) -> Row:
    values: Row = [type(record).__name__]
    for item, read in zip(dataclasses.fields(record), _READERS[type(record)], strict=True):
        value = getattr(record, item.name)
        values.append(nodes.add(value) if read is None else _encoded(value))
    return values


def _encoded(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Threshold):
        return ["Threshold", value.order.value, value.value, value.negated]
    if isinstance(value, Expression):
        return [value.op, value.rule, *map(_encoded, value.items)]
    return value
