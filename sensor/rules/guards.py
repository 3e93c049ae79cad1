"""What a text must contain for an expensive predicate to be true of it.

A regular expression or wildcard is rewritten to ``cheap guard and itself``, so that it only
runs on the few texts that pass the guard. Guards are necessary, never sufficient; where
nothing safe can be said there is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from operator import is_

from sensor.rules.condition import (
    And,
    Condition,
    Not,
    Or,
    Predicate,
    Regex,
    Relation,
    Text,
    Wildcard,
    all_of,
    any_of,
    negate,
)
from sensor.rules.values import fold

MAX_ALTERNATIVES = 16  # literals of one guard
MIN_LENGTH = 2  # a shorter literal is in every text

_QUANTIFIER = re.compile(r"[*?+]|\{[0-9]+(?:,[0-9]*)?\}", re.ASCII)
_QUANTIFIERS = re.compile(f"(?:{_QUANTIFIER.pattern})+", re.ASCII)
_SET = re.compile(r"\^?\]?(?:[^\[\]\\]|\\[^A-Za-z0-9]|\\[sSdDwW])*\]", re.ASCII)


def guarded(condition: Condition) -> Condition:
    """The same condition with a guard before each wildcard and regular expression."""
    if isinstance(condition, (And, Or)):
        items = tuple(map(guarded, condition.items))
        if all(map(is_, items, condition.items)):
            return condition
        return all_of(*items) if isinstance(condition, And) else any_of(*items)
    if isinstance(condition, Not):
        return negate(guarded(condition.item))
    if isinstance(condition, (Wildcard, Regex)):
        return all_of(*guards_of(condition), condition)
    return condition


def guards_of(predicate: Predicate) -> list[Condition]:
    """What must be true of a text besides for the predicate to be; nothing where that is not known."""
    if isinstance(predicate, Wildcard):
        return _wildcard_guards(predicate)
    return _regex_guards(predicate) if isinstance(predicate, Regex) else []


def _wildcard_guards(predicate: Wildcard) -> list[Condition]:
    literals = [part for part in predicate.parts if isinstance(part, str) and len(part) >= MIN_LENGTH]
    if not literals:
        return []
    return [Text(predicate.field, Relation.CONTAINS, max(literals, key=len), predicate.cased)]


def _regex_guards(predicate: Regex) -> list[Condition]:
    literals = literals_of(predicate)
    if not literals:
        return []
    # Folding makes the guard wider than the expression, with or without the flag for case.
    return [any_of(*(Text(predicate.field, Relation.CONTAINS, text) for text in literals))]


def literals_of(predicate: Regex) -> tuple[str, ...]:
    """``necessary_literals`` of an expression, sorted; known already where it was compiled before."""
    if predicate.literals is not None:
        return predicate.literals
    return tuple(sorted(necessary_literals(predicate.pattern)))


@lru_cache(maxsize=4096)
def necessary_literals(pattern: str) -> frozenset[str]:
    """Folded texts of which at least one is in every text that the expression is found in.

    Empty where nothing is known. Understands sequences of ASCII literals, groups that hold
    nothing but alternatives of them, and small sets; the rest only separates.
    """
    if "(?" in pattern.replace("(?:", "") or not pattern.isascii():
        return frozenset()  # flags inside, names, or letters that fold to several
    reader = _Reader(pattern)
    try:
        sequence = reader.alternatives()
    except _Unclear:
        return frozenset()
    return _best(sequence) if reader.done() else frozenset()


class _Unclear(Exception):
    """The expression has something that this reader doesn't know."""


@dataclass(slots=True)
class _Sequence:
    """What a piece of an expression stands for.

    ``exact``: all texts that it can match, or None. ``needed``: sets of literals, of each of
    which one must be there.
    """

    exact: frozenset[str] | None
    needed: list[frozenset[str]]


_EMPTY = frozenset({""})


def _best(piece: _Sequence) -> frozenset[str]:
    options = [*piece.needed, *([piece.exact] if piece.exact is not None else [])]
    usable = [option for option in options if min(map(len, option)) >= MIN_LENGTH]
    return max(usable, key=lambda option: (min(map(len, option)), -len(option)), default=frozenset())


class _Reader:
    """Recursive descent over an expression; nesting is bounded by the pattern's own checks."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at, self._depth = pattern, 0, 0

    def done(self) -> bool:
        return self._at == len(self._pattern)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def alternatives(self) -> _Sequence:
        """One or more sequences separated by ``|``."""
        found = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            found.append(self._sequence())
        if len(found) == 1:
            return found[0]
        exact: frozenset[str] | None = frozenset()
        for piece in found:
            exact = None if exact is None or piece.exact is None else exact | piece.exact
        best = [_best(piece) for piece in found]
        needed = [frozenset().union(*best)] if all(best) else []
        return _Sequence(_bounded(exact), [option for option in needed if len(option) <= MAX_ALTERNATIVES])

    def _sequence(self) -> _Sequence:
        """Pieces one after the other; runs of exact ones are joined."""
        whole: frozenset[str] | None = _EMPTY
        run, needed = _EMPTY, []
        while (char := self._peek()) and char not in "|)":
            piece = self._quantified(self._atom())
            needed.extend(piece.needed)
            joined = None if piece.exact is None else _bounded(_joined(run, piece.exact))
            whole = None if whole is None or piece.exact is None else _bounded(_joined(whole, piece.exact))
            if joined is None:
                needed.append(run)
                run = piece.exact or _EMPTY
            else:
                run = joined
        needed.append(run)
        return _Sequence(whole, [option for option in needed if min(map(len, option)) >= MIN_LENGTH])

    def _quantified(self, piece: _Sequence) -> _Sequence:
        found = _QUANTIFIERS.match(self._pattern, self._at)
        if found is None:
            return piece
        self._at = found.end()
        # Where each quantifier asks for one at least, what the piece needs is needed.
        sure = all(each == "+" or (each[0] == "{" and int(each[1:-1].split(",")[0]) > 0)
                   for each in _QUANTIFIER.findall(found.group()))
        best = _best(piece) if sure else frozenset()
        return _Sequence(None, [best] if best else [])

    def _atom(self) -> _Sequence:
        char = self._peek()
        self._at += 1
        if char == "(":
            return self._group()
        if char == "[":
            return self._set()
        if char == "\\":
            return self._escape()
        if char in "^$":
            return _Sequence(_EMPTY, [])
        if char == ".":
            return _Sequence(None, [])
        if char in "*?+{})]":
            raise _Unclear
        return _Sequence(frozenset({fold(char)}), [])

    def _group(self) -> _Sequence:
        self._depth += 1
        if self._depth > 20:
            raise _Unclear
        if self._pattern.startswith("?:", self._at):
            self._at += 2
        piece = self.alternatives()
        if self._peek() != ")":
            raise _Unclear
        self._at += 1
        self._depth -= 1
        return piece

    def _escape(self) -> _Sequence:
        char = self._peek()
        self._at += 1
        if char and char in "bB":
            return _Sequence(_EMPTY, [])
        if char and char in "sSdDwW":
            return _Sequence(None, [])
        if not char or char.isalnum():
            raise _Unclear  # \x41, \Q, \pL and whatever comes
        return _Sequence(frozenset({char}), [])

    def _set(self) -> _Sequence:
        """A bracket expression: exact if it is a few plain characters, anything otherwise."""
        found = _SET.match(self._pattern, self._at)
        if found is None:
            raise _Unclear
        self._at = found.end()
        inside = found.group()[:-1]
        if not inside or inside[0] == "^" or "-" in inside or "\\" in inside or len(inside) > 4:
            return _Sequence(None, [])
        return _Sequence(frozenset(map(fold, inside)), [])


def _joined(left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    return frozenset(a + b for a in left for b in right) if len(left) * len(right) <= 64 else frozenset()


def _bounded(option: frozenset[str] | None) -> frozenset[str] | None:
    return option if option and len(option) <= MAX_ALTERNATIVES else None
