"""Rules over sets of true predicates: what is decided by the set alone, and what is left open.

Cheap predicates have a bit. Expensive ones (regular expressions, wildcards, networks, times,
two fields) have none: they stay *open* until an event comes on which a rule hangs on them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from operator import is_
from typing import Any

from sensor.rules.condition import (
    FALSE,
    PAIRED,
    TRUE,
    And,
    Bits,
    Condition,
    Not,
    Number,
    Or,
    Predicate,
    Present,
    Text,
    all_of,
    any_of,
    negate,
    predicates,
)
from sensor.rules.reference import satisfied
from sensor.rules.values import Scalar
from sensor.rules.valuetests import document_test

Document = Mapping[str, Any]
Test = Callable[[Document], bool]


def settled(condition: Condition, field: str, value: Scalar) -> Condition:
    """The same condition where *field* is known to have this one value."""
    if not any(each.field == field for each in predicates(condition)):
        return condition  # as most: what follows builds the tree anew
    return _settled(condition, field, value)


def _settled(condition: Condition, field: str, value: Scalar) -> Condition:
    if isinstance(condition, (And, Or)):
        items = tuple(_settled(item, field, value) for item in condition.items)
        if all(map(is_, items, condition.items)):
            return condition
        return all_of(*items) if isinstance(condition, And) else any_of(*items)
    if isinstance(condition, Not):
        return negate(_settled(condition.item, field, value))
    if condition.field != field or isinstance(condition, PAIRED):
        return condition
    return TRUE if satisfied(condition, value) else FALSE


def is_cheap(predicate: Predicate) -> bool:
    """Whether a predicate is answered for each new value at once."""
    return isinstance(predicate, (Text, Number, Bits, Present))


def necessary(condition: Condition, bits: Mapping[Predicate, int]) -> list[int]:
    """Sets of predicates, of each of which one must be true for the condition to be."""
    if isinstance(condition, And):
        return [found for item in condition.items for found in necessary(item, bits)]
    if isinstance(condition, Or):
        whole = 0
        for item in condition.items:
            options = necessary(item, bits)
            if not options:
                return []
            whole |= min(options, key=lambda option: option.bit_count())
        return [whole] if whole else []
    if isinstance(condition, Not):
        return []
    bit = bits.get(condition)
    return [] if bit is None else [1 << bit]


def circumstances(condition: Condition, wanted: Container[Predicate], bits: Mapping[Predicate, int],
                  above: tuple[int, ...] = ()) -> Iterator[tuple[Predicate, tuple[int, ...]]]:
    """Where each of the *wanted* predicates stands: with sets as ``necessary`` gives them.

    Where none of one set is true the predicate says nothing of the condition, whatever it comes to: something
    that stands beside it is false.
    """
    if isinstance(condition, And):
        needs = [necessary(item, bits) for item in condition.items]
        for place, item in enumerate(condition.items):
            if not any(each in wanted for each in predicates(item)):
                continue
            beside = [need for other, each in enumerate(needs) if other != place for need in each]
            yield from circumstances(item, wanted, bits, (*above, *beside))
    elif isinstance(condition, Or):
        for item in condition.items:
            yield from circumstances(item, wanted, bits, above)
    elif isinstance(condition, Not):
        yield from circumstances(condition.item, wanted, bits, above)
    elif condition in wanted:
        yield condition, above


def residual(condition: Condition, bits: Mapping[Predicate, int]) -> Callable[[int], Condition]:
    """From a set of true predicates to the condition with all cheap ones replaced by their truth.

    What comes back is TRUE or FALSE itself where nothing is left open.
    """
    if isinstance(condition, (And, Or)):
        cheap, rest = 0, []
        for item in condition.items:
            number = bits.get(item)  # type: ignore[arg-type]  # nor is a tree a key
            if number is None:
                rest.append(residual(item, bits))
            else:
                cheap |= 1 << number
        return _every(cheap, rest) if isinstance(condition, And) else _some(cheap, rest)
    if isinstance(condition, Not):
        inner = residual(condition.item, bits)
        return lambda true: negate(inner(true))
    if condition not in bits:
        return lambda true: condition  # noqa: ARG005  has no bit
    bit = 1 << bits[condition]
    return lambda true: TRUE if true & bit else FALSE


def _every(cheap: int, rest: list[Callable[[int], Condition]]) -> Callable[[int], Condition]:
    if not rest:
        return lambda true: TRUE if true & cheap == cheap else FALSE

    def every(true: int) -> Condition:
        if true & cheap != cheap:
            return FALSE
        left = []
        for each in rest:
            found = each(true)
            if found is FALSE:
                return FALSE
            if found is not TRUE:
                left.append(found)
        return all_of(*left) if left else TRUE

    return every


def _some(cheap: int, rest: list[Callable[[int], Condition]]) -> Callable[[int], Condition]:
    if not rest:
        return lambda true: TRUE if true & cheap else FALSE

    def some(true: int) -> Condition:
        if true & cheap:
            return TRUE
        left = []
        for each in rest:
            found = each(true)
            if found is TRUE:
                return TRUE
            if found is not FALSE:
                left.append(found)
        return any_of(*left) if left else FALSE

    return some


def document_condition(condition: Condition) -> Test:
    """A test of a document for what ``residual`` left open."""
    if isinstance(condition, And):
        every = tuple(map(document_condition, condition.items))
        return lambda document: all(test(document) for test in every)
    if isinstance(condition, Or):
        some = tuple(map(document_condition, condition.items))
        return lambda document: any(test(document) for test in some)
    if isinstance(condition, Not):
        inner = document_condition(condition.item)
        return lambda document: not inner(document)
    return document_test(condition)
