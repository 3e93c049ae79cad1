"""The rules of one kind of event for whoever remembers what values came to.

Unlike ``program``, every predicate that looks at one field has a bit, expensive ones too: each is asked once
for a value, and the answer is kept for as long as the value's class. What is left open is only what compares
two fields, or looks at a field that is another in every event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sensor.rules.condition import FALSE, PAIRED, TRUE, Condition, Predicate, predicates
from sensor.rules.decide import necessary, residual
from sensor.rules.guards import guarded
from sensor.rules.model import Rule
from sensor.rules.scan import Scanner

CAPACITY = 512  # remembered values of one scanner: who asks remembers more

Match = tuple[Rule, ...]


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
        self._residuals = [residual(condition, self._bits) for condition in conditions]

    def scanner(self, field: str) -> Scanner:
        """Finds the true predicates of one of ``fields``."""
        return Scanner([(bit, each) for each, bit in self._bits.items() if each.field == field], CAPACITY)

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
