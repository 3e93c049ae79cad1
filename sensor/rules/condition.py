"""The condition tree that every rule becomes, whatever language it was written in.

A predicate looks at one field of a document and is true when *any* value of that field
satisfies it; a field holds no value (absent), one, or several (a list). So every predicate is
false on an absent field, ``Not(predicate)`` is true there, and absence itself is
``Not(Present(field))``. An empty text is a value like any other.

What the values mean (text forms, numbers, case, undecodable bytes) is defined in values.py.
``And(())`` is true and ``Or(())`` is false.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum

#: Pseudo field of keyword searches: every value of the document but the sensor's own keys.
ANYWHERE = "*"


class Relation(Enum):
    """How a field's text relates to the text of a rule."""

    EQUALS = "equals"
    PREFIX = "starts with"
    SUFFIX = "ends with"
    CONTAINS = "contains"

    __hash__ = object.__hash__  # each is there once; Enum's own is a call of Python for every look-up of a predicate


class Order(Enum):
    """How a field's number relates to the number of a rule."""

    EQUAL = "="
    LESS = "<"
    LESS_EQUAL = "<="
    GREATER = ">"
    GREATER_EQUAL = ">="


class Glob(Enum):
    """What isn't literal in a wildcard pattern."""

    MANY = "*"
    ONE = "?"


class Unit(Enum):
    """Part of a time stamp, in UTC. Weeks are those of ISO 8601."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Text:
    """Text comparison. Without ``cased`` both sides are folded; ``value`` is folded already."""

    field: str
    relation: Relation
    value: str
    cased: bool = False


@dataclass(frozen=True, slots=True)
class Wildcard:
    """The whole text matches a pattern of literals, ``*`` and ``?`` (one code point)."""

    field: str
    parts: tuple[str | Glob, ...]
    cased: bool = False


@dataclass(frozen=True, slots=True)
class Regex:
    """RE2's syntax and meaning, found anywhere in the text; ``flags`` out of ``ims``.

    ``literals``: what ``guards.literals_of`` found of it at an earlier start, None where it was not asked.
    """

    field: str
    pattern: str
    flags: str = ""
    literals: tuple[str, ...] | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """The value is a number, or its text is a decimal number, in this order to ``value``."""

    field: str
    order: Order
    value: int | float


@dataclass(frozen=True, slots=True)
class Network:
    """The text is an IP address inside ``network`` (CIDR); IPv4 mapped into IPv6 is IPv4."""

    field: str
    network: str


@dataclass(frozen=True, slots=True)
class TimePart:
    """The text is an RFC 3339 time whose part, in UTC, is in this order to ``value``."""

    field: str
    unit: Unit
    order: Order
    value: int | float


@dataclass(frozen=True, slots=True)
class Bits:
    """The value is a number of which all bits of ``mask`` are set."""

    field: str
    mask: int


@dataclass(frozen=True, slots=True)
class Elapsed:
    """The time from the one at ``other`` to the one at ``field``, both RFC 3339, is in this order to so many ns."""

    field: str
    order: Order
    nanoseconds: int | float
    other: str


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """Some value's text, case folded, relates to some value of another field."""

    field: str
    relation: Relation
    other: str


@dataclass(frozen=True, slots=True)
class Present:
    """The field has a value."""

    field: str


@dataclass(frozen=True, slots=True)
class And:
    """True when all items are."""

    items: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True when some item is."""

    items: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True when its item is false."""

    item: Condition


Predicate = Text | Wildcard | Regex | Number | Network | TimePart | Bits | Elapsed | FieldMatch | Present
Condition = And | Or | Not | Predicate
#: Those that look at two fields.
PAIRED = (FieldMatch, Elapsed)

TRUE = And(())
FALSE = Or(())


def all_of(*conditions: Condition) -> Condition:
    """Conjunction, simplified: nested ones joined, doubles and constants removed, contradictions seen."""
    items: dict[Condition, None] = {}
    for condition in conditions:
        if isinstance(condition, And):
            items.update(dict.fromkeys(condition.items))
        elif condition == FALSE:
            return FALSE
        else:
            items[condition] = None
    if any(isinstance(item, Not) and item.item in items for item in items):
        return FALSE
    if len(items) == 1:
        return next(iter(items))
    return And(tuple(items)) if items else TRUE


def any_of(*conditions: Condition) -> Condition:
    """Disjunction, simplified: nested ones joined, doubles and constants removed."""
    items: dict[Condition, None] = {}
    for condition in conditions:
        if isinstance(condition, Or):
            items.update(dict.fromkeys(condition.items))
        elif condition == TRUE:
            return TRUE
        else:
            items[condition] = None
    if len(items) == 1:
        return next(iter(items))
    return Or(tuple(items)) if items else FALSE


def negate(condition: Condition) -> Condition:
    """Negation, simplified: a double one cancels, a constant flips."""
    if isinstance(condition, Not):
        return condition.item
    if condition == TRUE:
        return FALSE
    return TRUE if condition == FALSE else Not(condition)


def predicates(condition: Condition) -> list[Predicate]:
    """Every predicate of the tree, in reading order, doubles included."""
    found: list[Predicate] = []
    left: list[Condition] = [condition]
    while left:
        each = left.pop()
        # By class: isinstance() of several takes twice as long, and a start walks over all trees some times.
        if type(each) is And or type(each) is Or:
            left += each.items[::-1]
        elif type(each) is Not:
            left.append(each.item)
        else:
            found.append(each)  # type: ignore[arg-type]  # no class has others below it
    return found


def fields(condition: Condition) -> tuple[str, ...]:
    """The keys that the tree looks at, sorted, without doubles."""
    found: set[str] = set()
    for predicate in predicates(condition):
        found.add(predicate.field)
        if isinstance(predicate, PAIRED):
            found.add(predicate.other)
    return tuple(sorted(found))


def describe(predicate: Predicate) -> str:
    """One predicate as a person would say it."""
    match predicate:
        case Text(field, relation, value, cased):
            return f"{field} {relation.value} {value!r}" + (" (case matters)" if cased else "")
        case Wildcard(field, parts, cased):
            shown = "".join(part.value if isinstance(part, Glob) else part for part in parts)
            return f"{field} is like {shown!r}" + (" (case matters)" if cased else "")
        case Regex(field, pattern, flags):
            return f"{field} matches /{pattern}/{flags}"
        case Number(field, order, number):
            return f"{field} {order.value} {number}"
        case Network(field, network):
            return f"{field} is in {network}"
        case TimePart(field, unit, order, number):
            return f"{unit.value} of {field} {order.value} {number}"
        case Bits(field, mask):
            return f"{field} has all bits of {mask:#x}"
        case Elapsed(field, order, number, other):
            return f"{field} - {other} {order.value} {number} ns"
        case FieldMatch(field, relation, other):
            return f"{field} {relation.value} {other}"
        case Present(field):
            return f"{field} is present"
