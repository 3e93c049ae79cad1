"""The meaning of a condition, said as plainly as possible and as slowly as it takes.

This is the oracle of the matcher's tests and what ``sensor rules explain`` asks. It shares the
reading of values with the matcher (values.py) and RE2 for regular expressions, nothing else.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from sensor.rules import fields
from sensor.rules.condition import (
    TRUE,
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
    Predicate,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Unit,
    Wildcard,
    all_of,
)
from sensor.rules.eventtime import time_ns
from sensor.rules.linear import compile_pattern
from sensor.rules.model import Rule
from sensor.rules.values import Scalar, find, fold, number_of, plain, scalars, text_of

_ORDERS: dict[Order, Callable[[Any, Any], bool]] = {
    Order.EQUAL: operator.eq, Order.LESS: operator.lt, Order.LESS_EQUAL: operator.le,
    Order.GREATER: operator.gt, Order.GREATER_EQUAL: operator.ge,
}
_UNITS: dict[Unit, Callable[[datetime], int]] = {
    Unit.MINUTE: lambda time: time.minute, Unit.HOUR: lambda time: time.hour,
    Unit.DAY: lambda time: time.day, Unit.WEEK: lambda time: time.isocalendar()[1],
    Unit.MONTH: lambda time: time.month, Unit.YEAR: lambda time: time.year,
}
# Fractions of a second have up to nine digits here, which fromisoformat() of 3.10 doesn't take.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.\d+)?(?:[Zz]|([+-]\d\d:\d\d))", re.ASCII)


def match(rules: Sequence[Rule], document: Mapping[str, Any]) -> list[Rule]:
    """The rules that match a document, in their order."""
    event = document.get("event")
    action = event.get("action") if isinstance(event, Mapping) else None
    return [rule for rule in rules if action in rule.events and holds(routed(rule, str(action)), document)]


def routed(rule: Rule, action: str) -> Condition:
    """The rule's condition together with what makes an event one of the rule's log source."""
    guards = [guard for category in rule.categories if (guard := fields.guard(category, action)) != TRUE]
    return all_of(*guards, rule.condition) if guards else rule.condition


def holds(condition: Condition, document: Mapping[str, Any]) -> bool:
    """Whether a condition is true for a document."""
    if isinstance(condition, And):
        return all(holds(item, document) for item in condition.items)
    if isinstance(condition, Or):
        return any(holds(item, document) for item in condition.items)
    if isinstance(condition, Not):
        return not holds(condition.item, document)
    return true_of(condition, document)


def true_of(predicate: Predicate, document: Mapping[str, Any]) -> bool:
    """Whether some value of the predicate's field satisfies it."""
    values = scalars(find(document, predicate.field))
    if isinstance(predicate, Elapsed):
        ends, starts = (list(map(time_ns, each)) for each in (values, scalars(find(document, predicate.other))))
        return any(_ORDERS[predicate.order](end - start, predicate.nanoseconds)
                   for end in ends if end is not None for start in starts if start is not None)
    if isinstance(predicate, FieldMatch):
        others = [fold(text_of(other)) for other in scalars(find(document, predicate.other))]
        return any(_relates(predicate.relation, fold(text_of(value)), other)
                   for value in values for other in others)
    return any(satisfied(predicate, value) for value in values)


def satisfied(predicate: Predicate, value: Scalar) -> bool:
    """Whether one value satisfies a predicate that looks at one field only."""
    match predicate:
        case Present():
            return True
        case Number(_, order, wanted):
            number = number_of(value)
            return number is not None and _ORDERS[order](number, wanted)
        case Text(_, relation, wanted_text, cased):
            return _relates(relation, text_of(value) if cased else fold(text_of(value)), wanted_text)
        case Wildcard(_, parts, cased):
            text = plain(text_of(value) if cased else fold(text_of(value)))
            return re.fullmatch("".join(map(_glob, parts)), text, re.DOTALL) is not None
        case Regex(_, pattern, flags):
            return compile_pattern(pattern, flags)(text_of(value))
        case Network(_, network):
            address = address_of(value)
            return address is not None and address in ipaddress.ip_network(network)
        case TimePart(_, unit, order, wanted):
            time = time_of(value)
            return time is not None and _ORDERS[order](_UNITS[unit](time), wanted)
        case Bits(_, mask):
            number = number_of(value)
            return isinstance(number, int) and number >= 0 and number & mask == mask
        case FieldMatch() | Elapsed():
            raise TypeError("the predicate looks at two fields")


def address_of(value: Scalar) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text is, an IPv4 address mapped into IPv6 as IPv4; or None."""
    if not isinstance(value, str):
        return None
    return _known_address(value) if len(value) <= _ADDRESS_CHARACTERS else _address_of(value)


def _address_of(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


# A value is held against several networks in a row.
_known_address = lru_cache(1024)(_address_of)
_ADDRESS_CHARACTERS = 64


def time_of(value: Scalar) -> datetime | None:
    """The moment that an RFC 3339 text is, in UTC; or None."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, offset = found.groups()
    try:
        return datetime.fromisoformat(f"{day}T{clock}{offset or '+00:00'}").astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def _relates(relation: Relation, text: str, other: str) -> bool:
    if relation is Relation.EQUALS:
        return text == other
    if relation is Relation.PREFIX:
        return text.startswith(other)
    return text.endswith(other) if relation is Relation.SUFFIX else other in text


def _glob(part: str | Glob) -> str:
    if isinstance(part, Glob):
        return ".*" if part is Glob.MANY else "."
    return re.escape(part)
