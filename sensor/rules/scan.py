"""One field's values -> the set of predicates that are true of them.

Sets are integers with a bit per predicate. The literals of all text predicates of the field
are found in one pass over a value (Aho-Corasick); equality is a dictionary. What a value came
to is remembered, within bounds, because events repeat themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import or_
from typing import Any

import ahocorasick

from sensor.rules.condition import Condition, Or, Predicate, Present, Relation, Text
from sensor.rules.guards import guards_of
from sensor.rules.values import Scalar, scalars, text_of
from sensor.rules.valuetests import value_test

#: Remembered values of one field: at most this many, of at most this many characters, which is
#: 2 MB where every one is new and long. Then all are forgotten; a flood of unique values makes
#: that happen several times a second and costs no more than it would without any memory.
CACHE_VALUES = 4_096
CACHE_CHARACTERS = 512

Bit = tuple[int, Predicate]


class Scanner:
    """Classifies the values of one field.

    ``known`` maps values to sets and is meant to be asked first: where it has a text, a tuple
    of texts, an integer above 1 or None, no call of ``classify`` is needed. Other values are
    never in it: 1, 1.0 and True are one key to a dictionary, and not one value to a rule.
    """

    def __init__(self, bits: Iterable[Bit], capacity: int = CACHE_VALUES) -> None:
        self.known: dict[object, int] = {None: 0}
        self._smallest: list[int | None] = [None, None]  # of 0 and 1: to ``known`` they would be False and True
        self.forgotten = 0  # times that the cache was emptied
        self._capacity = capacity
        self._present = 0
        self._rest: list[tuple[int, Callable[[Scalar], bool]]] = []
        self._guarded: list[tuple[int, list[int], Callable[[Scalar], bool]]] = []
        folded: list[tuple[int, Text]] = []
        cased: list[tuple[int, Text]] = []
        bits = list(bits)
        places: dict[Condition, int] = {predicate: 1 << bit for bit, predicate in bits}
        for bit, predicate in bits:
            if isinstance(predicate, Present):
                self._present |= 1 << bit
            elif isinstance(predicate, Text):
                (cased if predicate.cased else folded).append((1 << bit, predicate))
            elif masks := _masks(predicate, places):
                self._guarded.append((1 << bit, masks, value_test(predicate)))
            else:
                self._rest.append((1 << bit, value_test(predicate)))
        # Nearly no value passes any guard: one look at all of them first.
        self._door = functools.reduce(or_, (masks[0] for _, masks, _ in self._guarded), 0)
        self._texts = [*folded, *cased]
        self._folded = _Literals(folded) if folded else None
        self._cased = _Literals(cased) if cased else None

    def literals(self, guards: int) -> list[tuple[Text, bool]] | None:
        """What decides on an ASCII text: those of its predicates that look for ASCII literals.

        With each whether it is one of *guards*. None where there are predicates that these say nothing of.
        """
        if self._rest or self._guarded:
            return None
        return [(text, bool(guards & bit)) for bit, text in self._texts if text.value and text.value.isascii()]

    def classify(self, value: object) -> int:
        """The set of true predicates of whatever stands at the field's key."""
        if isinstance(value, str):
            found = self._one(value)
            if len(value) <= CACHE_CHARACTERS:
                self._remember(value, found)
            return found
        if type(value) is int:
            if value > 1:
                found = self._one(value)
                self._remember(value, found)
                return found
            if value >= 0:
                return self._small(value)
        items = scalars(value)
        found = 0
        for item in items:
            cached = self.known.get(item) if isinstance(item, str) else self._one(item)
            found |= self.classify(item) if cached is None else cached
        if (type(value) is tuple and all(type(item) is str for item in value)
                and sum(map(len, value)) <= CACHE_CHARACTERS):
            self._remember(value, found)
        return found

    def _small(self, value: int) -> int:
        if self._smallest[value] is None:
            self._smallest[value] = self._one(value)
        return self._smallest[value] or 0

    def _remember(self, value: object, found: int) -> None:
        if len(self.known) >= self._capacity:
            self.known.clear()
            self.known[None] = 0
            self.forgotten += 1
        self.known[value] = found

    def _one(self, value: Scalar) -> int:
        found = self._present
        text = value if value.__class__ is str else text_of(value)
        if self._folded is not None:
            found |= self._folded.find(text.casefold())
        if self._cased is not None:
            found |= self._cased.find(text)
        for bit, test in self._rest:
            if test(value):
                found |= bit
        if found & self._door:
            for bit, masks, test in self._guarded:
                if all(found & mask for mask in masks) and test(value):
                    found |= bit
        return found


def _masks(predicate: Predicate, places: Mapping[Condition, int]) -> list[int]:
    """Sets of which one predicate each must be true for this one to be, as far as they have a place."""
    found = []
    for guard in guards_of(predicate):
        items = guard.items if isinstance(guard, Or) else (guard,)
        if all(item in places for item in items):
            found.append(sum(places[item] for item in items))
    return found


class _Literals:
    """Text predicates of one case rule, all looked for at once."""

    def __init__(self, bits: list[tuple[int, Text]]) -> None:
        self._equal: dict[str, int] = {}
        always = 0
        payloads: dict[str, list[int]] = {}
        slots = {Relation.CONTAINS: 1, Relation.PREFIX: 2, Relation.SUFFIX: 3}
        for bit, predicate in bits:
            literal = predicate.value
            if predicate.relation is Relation.EQUALS:
                self._equal[literal] = self._equal.get(literal, 0) | bit
            elif not literal:
                always |= bit
            else:
                payloads.setdefault(literal, [len(literal), 0, 0, 0])[slots[predicate.relation]] |= bit
        self._always = always
        self._iterate: Callable[[str], Iterator[tuple[int, Any]]] | None = None
        if payloads:
            automaton = ahocorasick.Automaton()
            for literal, payload in payloads.items():
                automaton.add_word(literal, tuple(payload))
            automaton.make_automaton()
            self._iterate = automaton.iter

    def find(self, text: str) -> int:
        """The set of predicates that are true of a text, folded where that is the rule."""
        found = self._always | self._equal.get(text, 0)
        if self._iterate is not None:
            last = len(text) - 1
            for end, (length, contains, prefix, suffix) in self._iterate(text):
                found |= contains
                if suffix and end == last:
                    found |= suffix
                if prefix and end == length - 1:
                    found |= prefix
        return found
