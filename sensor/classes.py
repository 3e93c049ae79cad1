"""The memory of classes: what each part of an event comes to, as a number, and what the numbers come to.

A part's class is the set of predicates that are true of it (``rules.scan``). Rules decide on the sets alone
(``rules.exact``), so a tuple of classes that no rule matched needs no second look, and no document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sensor.parts import OPEN, VOLATILE, Source, Values, constant, sources
from sensor.pipeline import Rules
from sensor.process.users import Users
from sensor.rules.condition import ANYWHERE
from sensor.rules.exact import Costly, Exact
from sensor.rules.matcher import Matcher
from sensor.rules.scan import Scanner
from sensor.rules.values import at, list_item
from sensor.schema import BY_ID, Event

#: Different sets of one part that are kept. Then all is forgotten: a set is an integer of some hundred bytes.
SETS = 16_384
#: What ``decide`` gives where the event itself must be looked at.
UNDECIDED = Ellipsis


class _Names:
    """User names that classes hang on: whoever remembers classes has to ask whether they still are the same."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._told: dict[int, str | None] = {}

    def short(self, uid: int, now_ns: int) -> dict[str, Any]:
        self._told.setdefault(uid, self._users.name(uid, now_ns))
        return self._users.short(uid, now_ns)

    def same(self, now_ns: int) -> bool:
        return len(self._told) < SETS and all(
            self._users.name(uid, now_ns) == name for uid, name in self._told.items())

    def forget(self) -> None:
        self._told.clear()


@dataclass(slots=True)
class Part:
    """One source of an event with the predicates on those of its keys that rules look at."""

    source: Source
    #: Name in what the source reads, place in a list, finder of the cheap ones.
    scanners: list[tuple[str, int | None, Scanner]]
    costly: list[tuple[int, str, int | None, Costly]] = field(default_factory=list)  # door, name, place, predicate
    telling: int = 0  # the cheap ones that look for a text
    numbers: dict[int | None, int] = field(default_factory=dict)  # set -> class
    sets: list[int | None] = field(default_factory=lambda: [None])  # class -> set; None: only a document tells

    def classify(self, material: Any) -> int:
        """The class of what this part is made of."""
        made = self.source.read(material)
        found = None if made is None else self._true_of(made)
        number = self.numbers.get(found)
        if number is None:
            number = self.numbers[found] = len(self.sets)
            self.sets.append(found)
        return number

    def _true_of(self, made: Values) -> int:
        found = 0
        for name, place, scanner in self.scanners:
            value = made.get(name)
            if place is not None:
                value = at(value, place)
            known = scanner.known.get(value) if value.__class__ is str else None
            found |= scanner.classify(value) if known is None else known
        true = found  # of the cheap ones: what the expensive ones are guarded by
        for door, name, place, predicate in self.costly:
            if door < 0 or (true & door and predicate.wanted(true)):
                value = made.get(name)
                if predicate.holds(value if place is None else at(value, place)):
                    found |= predicate.bit
        return found

    def guards(self) -> int | None:
        """Of texts that none of the expensive predicates may be true of without; None where there are no such."""
        found = 0
        for _, _, _, predicate in self.costly:
            for want in predicate.wants:
                told = [need for need in want if not need & ~self.telling]
                if not told:
                    return None
                found |= told[0]
        return found


@dataclass(slots=True)
class Plan:
    """How the events of one type are decided. ``rules`` is None where each needs a look."""

    rules: Exact | None
    base: int = 0  # true of every event
    parts: list[Part] = field(default_factory=list)


class Classes:
    """Plans for all events that some rule wants."""

    def __init__(self, rules: Rules, users: Users, now: Callable[[], int], *, every: bool = False,
                 parts_max: int = 24) -> None:
        """Make plans.

        Args:
            rules: Of another kind than a ``Matcher`` they are asked of each event.
            users: For names.
            now: Time of the event at hand, in ns CLOCK_BOOTTIME.
            every: Each event needs a look, whatever rules say of it.
            parts_max: More parts are not remembered.
        """
        self.plans: dict[int, Plan] = {}
        self._parts_max = parts_max
        self._names = _Names(users)
        for event in BY_ID.values():
            if event.action not in rules.actions or event.family == "user":
                continue
            if every or event.name in OPEN or not isinstance(rules, Matcher):
                self.plans[event.id] = Plan(None)
                continue
            exact = Exact(rules.routed(event.action), lambda key: key != ANYWHERE and _split(key)[0] not in VOLATILE)
            self.plans[event.id] = self._plan(event, exact, sources(event, self._names, now))

    def _plan(self, event: Event, rules: Exact, known: list[Source]) -> Plan:
        same, plan = constant(event), Plan(rules)
        owner = {key: source for source in known for key in source.names}
        wanted: dict[int, Part] = {id(source): Part(source, []) for source in known if source.needed}
        held: dict[int, dict[str, tuple[str, int | None]]] = {}  # keys of a part: name and place
        for key in rules.fields:
            base, place = _split(key)
            source = owner.get(base)
            if source is None:  # the same for all events, or not in them at all
                value = same.get(base)
                plan.base |= rules.scanner(key, whole=True).classify(value if place is None else at(value, place))
            else:
                wanted.setdefault(id(source), Part(source, []))
                held.setdefault(id(source), {})[key] = source.names[base], place
        for number, keys in held.items():
            part = wanted[number]
            part.scanners = [(*keys[key], rules.scanner(key)) for key in keys]
            part.costly = [(each.door, *keys[each.field], each) for each in rules.costly(keys)]
            part.telling = rules.telling(keys)
        plan.parts = list(wanted.values())
        return plan if len(plan.parts) <= self._parts_max else Plan(None)

    def current(self, now_ns: int) -> bool:
        """Whether users still have the names that classes were made with."""
        return self._names.same(now_ns)

    @property
    def full(self) -> bool:
        """Whether a part has had so many different sets that all should be forgotten."""
        return any(len(part.sets) > SETS for plan in self.plans.values() for part in plan.parts)

    def forget(self) -> None:
        """Forget every class."""
        self._names.forget()
        for plan in self.plans.values():
            for part in plan.parts:
                part.numbers.clear()
                del part.sets[1:]

    def classify(self, event: int, part: int, material: Any) -> int:
        """The class of one part of an event of this type."""
        return self.plans[event].parts[part].classify(material)

    def decide(self, event: int, classes: tuple[int, ...]) -> Any:
        """What events of these classes come to: None (no rule), a tuple of rules, or UNDECIDED."""
        plan = self.plans[event]
        true = plan.base
        for part, number in zip(plan.parts, classes, strict=True):
            found = part.sets[number]
            if found is None:
                return UNDECIDED
            true |= found
        assert plan.rules is not None
        verdict = plan.rules.verdict(true)
        return UNDECIDED if verdict is None else verdict or None


def _split(key: str) -> tuple[str, int | None]:
    """A key, and the place in its list where it names an item of one."""
    base, place = list_item(key)
    return (base, place) if base else (key, None)
