"""Conditions of which only a part can be known: the surest and the widest reading.

A comparison with a field that our events don't carry has a truth that nobody knows. It is
false in the sure reading and true in the wide one; ``not`` swaps the two. What is left of a
rule in its sure reading never fires where Falco would not have fired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sensor.rules.condition import FALSE, TRUE, Condition, all_of, any_of, negate

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Bounds:
    """``sure`` implies the rule's condition, which implies ``wide``; ``missing`` says why they differ.

    ``missing`` also names what was taken as absent although Falco may have it.
    """

    sure: Condition
    wide: Condition
    missing: frozenset[str] = _NOTHING


def exactly(condition: Condition) -> Bounds:
    """A condition that is known."""
    return Bounds(condition, condition)


def unknown(*missing: str) -> Bounds:
    """A comparison that can't be decided, for want of these."""
    return Bounds(FALSE, TRUE, frozenset(missing))


def absent(missing: str) -> Bounds:
    """A comparison with a field that Falco too may lack, and that is absent here."""
    return Bounds(FALSE, FALSE, frozenset({missing}))


ALWAYS, NEVER = exactly(TRUE), exactly(FALSE)


def both(items: Iterable[Bounds]) -> Bounds:
    """Conjunction. Where one item is surely false, what the others lack is of no interest."""
    found = []
    for item in items:
        if item.wide == FALSE:
            return Bounds(FALSE, FALSE, item.missing)
        found.append(item)
    return _join(all_of, found)


def either(items: Iterable[Bounds]) -> Bounds:
    """Disjunction. Where one item is surely true, what the others lack is of no interest."""
    found = []
    for item in items:
        if item.sure == TRUE:
            return item
        found.append(item)
    return _join(any_of, found)


def _join(how: object, found: list[Bounds]) -> Bounds:
    join = all_of if how is all_of else any_of
    sure = join(*(item.sure for item in found))
    exact = all(item.sure is item.wide for item in found)
    missing = _NOTHING.union(*(item.missing for item in found))
    return Bounds(sure, sure if exact else join(*(item.wide for item in found)), missing)


def opposite(item: Bounds) -> Bounds:
    """Negation."""
    sure = negate(item.wide)
    return Bounds(sure, sure if item.sure is item.wide else negate(item.sure), item.missing)
