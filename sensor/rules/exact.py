"""The rules of one kind of event for whoever remembers what values came to.

Unlike ``program``, every predicate that looks at one field has a bit, expensive ones too: the answer is kept for as
long as the value's class. An expensive one is asked only where a rule hangs on it, as far as the fields beside it
tell: else its bit is 0, and no rule comes to another end by that. What is left open is only what compares two
fields, or looks at a field that is another in every event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sensor.rules.condition import FALSE, PAIRED, TRUE, Condition, Predicate, Text, predicates
from sensor.rules.decide import circumstances, is_cheap, necessary, residual
from sensor.rules.guards import guarded
from sensor.rules.model import Rule
from sensor.rules.scan import Scanner
from sensor.rules.values import Scalar, scalars
from sensor.rules.valuetests import value_test

CAPACITY = 512  # remembered values of one scanner: who asks remembers more

Match = tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Costly:
    """An expensive predicate: ``bit`` is its set. It is worth asking where one of each of some ``wants`` is true."""

    field: str
    bit: int
    wants: tuple[tuple[int, ...], ...]  # the rarest first; an empty one: always
    test: Callable[[Scalar], bool]

    @property
    def door(self) -> int:
        """One set for a first look: where none of it is true this is not worth asking. -1: it always is."""
        found = 0
        for want in self.wants:
            if not want:
                return -1
            found |= want[0]
        return found

    def wanted(self, true: int) -> bool:
        """Whether a rule may hang on it where these predicates are true."""
        return any(all(true & need for need in want) for want in self.wants)

    def holds(self, value: object) -> bool:
        """Whether it is true of what stands at its field."""
        return any(map(self.test, scalars(value)))


class Exact:
    """Compiled rules of one event.

    Args:
        rules: With their conditions.
        known: Whether a field's values are worth remembering.
    """

    def __init__(self, rules: Sequence[tuple[Rule, Condition]], known: Callable[[str], bool]) -> None:
        self._rules = [rule for rule, _ in rules]
        conditions = [guarded(condition) for _, condition in rules]
        found = dict.fromkeys(each for condition in conditions for each in predicates(condition)
                              if not isinstance(each, PAIRED) and known(each.field))
        self._bits: dict[Predicate, int] = {predicate: number for number, predicate in enumerate(found)}
        self.fields = tuple(dict.fromkeys(predicate.field for predicate in found))
        # The rarest first: most rules are out after one look.
        self._needs = [sorted(set(necessary(condition, self._bits)), key=int.bit_count) for condition in conditions]
        costly = {each for each in found if not is_cheap(each)}
        self._dear = sum(1 << self._bits[each] for each in costly)
        self._wants: dict[Predicate, set[tuple[int, ...]]] = {}
        for condition in conditions if costly else ():
            for each, want in circumstances(condition, costly, self._bits):
                self._wants.setdefault(each, set()).add(want)
        self._residuals = [residual(condition, self._bits) for condition in conditions]

    def scanner(self, field: str, *, whole: bool = False) -> Scanner:
        """Finds the true predicates of one of ``fields``: the cheap ones, or all."""
        return Scanner([(bit, each) for each, bit in self._bits.items()
                        if each.field == field and (whole or not self._dear >> bit & 1)], CAPACITY)

    def costly(self, fields: Collection[str]) -> list[Costly]:
        """The expensive predicates of fields whose values are known together."""
        known = sum(1 << bit for each, bit in self._bits.items() if each.field in fields) & ~self._dear
        found = []
        for each, wants in self._wants.items():
            if each.field not in fields:
                continue
            told = {tuple(sorted({need for need in want if not need & ~known}, key=int.bit_count)) for want in wants}
            found.append(Costly(each.field, 1 << self._bits[each], ((),) if () in told else tuple(sorted(told)),
                                value_test(each)))
        return found

    def telling(self, fields: Collection[str]) -> int:
        """The predicates of these fields that look for a text."""
        return sum(1 << bit for each, bit in self._bits.items()
                   if each.field in fields and isinstance(each, Text) and each.value)

    def verdict(self, true: int) -> Match | None:
        """The rules that match where exactly these predicates are true; None if that hangs on the event.

        Costs some microseconds: to be remembered.
        """
        sure, wanted = [], []
        for number, needs in enumerate(self._needs):
            for need in needs:
                if not need & true:
                    break
            else:
                wanted.append(number)
        for number in wanted:
            rest = self._residuals[number](true)
            if rest is TRUE:
                sure.append(self._rules[number])
            elif rest is not FALSE:
                return None
        return tuple(sure)
