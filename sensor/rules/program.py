"""The rules of one kind of event, compiled: document in, matching rules out.

1. Every cheap predicate has a bit. A field's value gives the set of its true predicates
   (scan.py), the sets are joined to one integer, and that integer has been decided before:
   most events cost a handful of dictionary look-ups, however many rules there are.
2. What a set leaves open (decide.py) is tested on the event itself.
3. Most rules want certain programs. Those whose ``process.executable`` can't be right are not
   looked at: their other predicates live in small scanners of their own, which only events of
   these programs pass. That keeps the scanner that all events pass small.

The reading of the fields is generated Python: nested look-ups written out, because a loop over
the fields costs more than everything else together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sensor.rules.condition import ANYWHERE, FALSE, TRUE, Condition, Predicate, predicates
from sensor.rules.decide import Test, document_condition, is_cheap, necessary, residual
from sensor.rules.fields import BOOLEAN_KEYS, list_keys
from sensor.rules.guards import guarded
from sensor.rules.model import Rule
from sensor.rules.scan import Scanner
from sensor.rules.values import find, leaves, list_item

#: The field that gates: what a rule is most often about, and takes few values on a host.
GATE = "process.executable"

#: Remembered decisions. An entry is an integer of some hundred bytes and a tuple; 8 MB at worst.
DECISIONS = 32_768
CONTEXTS = 1_024  # remembered sets of the gate field; a few hundred exist with public rules
CONTEXT_VALUES = 512  # remembered values in each of their scanners

Document = Mapping[str, Any]
Match = tuple[Rule, ...]


class _Open:
    """A decision that hangs on the event: rules that match, and rules that are still open."""

    __slots__ = ("_open", "_rules", "_sure")

    def __init__(self, rules: Sequence[Rule], sure: list[int], left: list[tuple[int, Test]]) -> None:
        self._rules, self._sure, self._open = rules, sure, left

    def __call__(self, document: Document) -> Match:
        found = [*self._sure, *(number for number, test in self._open if test(document))]
        return tuple(self._rules[number] for number in sorted(found))


class _Context:
    """Scanners of the predicates that matter to some programs alone."""

    __slots__ = ("scanners",)

    def __init__(self, scanners: list[tuple[int, Scanner]]) -> None:
        self.scanners = scanners

    def __call__(self, *values: object) -> int:
        true = 0
        for position, scanner in self.scanners:
            value = values[position]
            found = scanner.known.get(value)
            true |= scanner.classify(value) if found is None else found
        return true


class Program:
    """Compiled rules of one event.

    ``match`` is the fast way and raises TypeError or AttributeError on a document of a shape
    that the sensor never makes; ``match_any_shape`` takes all and is slower.
    """

    match: Callable[[Document], Match]

    def __init__(self, rules: Sequence[tuple[Rule, Condition]]) -> None:
        self._rules = [rule for rule, _ in rules]
        conditions = [guarded(condition) for _, condition in rules]
        cheap = [list(filter(is_cheap, predicates(condition))) for condition in conditions]
        by_field = _by_field(cheap)
        self.fields = tuple(by_field)
        self._bits = {predicate: number for number, predicate in enumerate(
            predicate for group in by_field.values() for predicate in group)}
        needs = [necessary(condition, self._bits) for condition in conditions]
        self._needs = [min(options, key=int.bit_count, default=0) for options in needs]
        self._residuals = [residual(condition, self._bits) for condition in conditions]
        self._owned = [frozenset(owned) for owned in cheap]
        self._gates = self._gate_of(needs)
        self._decisions: dict[int, Match | _Open] = {}
        self._contexts: dict[int, _Context | tuple[()]] = {0: ()}
        self._by_live: dict[frozenset[int], _Context | tuple[()]] = {}
        self._tests: dict[Condition, Test] = {}
        base = frozenset().union(*(
            owned for owned, gate in zip(self._owned, self._gates, strict=True) if not gate))
        self._base = base | frozenset(by_field.get(GATE, ()))
        self.scanners = [self._scanner(group, self._base) for group in by_field.values()]
        self.match = self._generate()

    def _gate_of(self, needs: list[list[int]]) -> list[int]:
        """For each rule the set of the gate field of which one must be true, or 0."""
        key = sum(1 << bit for predicate, bit in self._bits.items() if predicate.field == GATE)
        return [min((option for option in options if not option & ~key), key=int.bit_count, default=0)
                for options in needs]

    def _scanner(self, group: Sequence[Predicate], wanted: frozenset[Predicate], *capacity: int) -> Scanner:
        return Scanner([(self._bits[each], each) for each in group if each in wanted], *capacity)

    def match_any_shape(self, document: Document) -> Match:
        """The rules that match, whatever the document looks like."""
        found = self._decide(self._true_of(document))
        return found if isinstance(found, tuple) else found(document)

    def left_open(self, document: Document) -> list[tuple[Rule, Test]]:
        """The rules that hang on the event itself, each with its test."""
        true = self._true_of(document)
        return [(self._rules[number], self._test(rest)) for number, need in enumerate(self._needs)
                if not need or need & true
                if (rest := self._residuals[number](true)) is not TRUE and rest is not FALSE]

    def _true_of(self, document: Document) -> int:
        """The cheap predicates that are true of a document of any shape."""
        values = [find(document, field) for field in self.fields]
        true = 0
        for value, scanner in zip(values, self.scanners, strict=True):
            true |= scanner.classify(value)
        if GATE in self.fields:
            gate = self.scanners[self.fields.index(GATE)]
            extra = self._context(gate.classify(values[self.fields.index(GATE)]))
            if extra:
                for position, scanner in extra.scanners:
                    true |= scanner.classify(values[position])
        return true

    def _decide(self, true: int) -> Match | _Open:
        """Which rules match where exactly these predicates are true; remembered."""
        sure: list[int] = []
        left: list[tuple[int, Test]] = []
        for number, need in enumerate(self._needs):
            if need and not need & true:
                continue
            rest = self._residuals[number](true)
            if rest is TRUE:
                sure.append(number)
            elif rest is not FALSE:
                left.append((number, self._test(rest)))
        found = _Open(self._rules, sure, left) if left else tuple(self._rules[number] for number in sure)
        if len(self._decisions) >= DECISIONS:
            self._decisions.clear()
        self._decisions[true] = found
        return found

    def _test(self, condition: Condition) -> Test:
        test = self._tests.get(condition)
        if test is None:
            if len(self._tests) >= DECISIONS:
                self._tests.clear()
            test = self._tests[condition] = document_condition(condition)
        return test

    def _context(self, gate: int) -> _Context | tuple[()]:
        """The scanners for events whose gate field has this set; remembered."""
        live = frozenset(number for number, wanted in enumerate(self._gates) if wanted & gate)
        if len(self._contexts) >= CONTEXTS:
            self._contexts.clear()
            self._by_live.clear()
            self._contexts[0] = ()
        context = self._by_live.get(live)
        if context is None:
            context = self._by_live[live] = self._build_context(live)
        self._contexts[gate] = context
        return context

    def _build_context(self, live: frozenset[int]) -> _Context | tuple[()]:
        wanted = frozenset().union(*(self._owned[number] for number in live)) - self._base
        found = []
        for position, field in enumerate(self.fields):
            group = [each for each in self._bits if each.field == field and each in wanted]
            if group:
                found.append((position, self._scanner(group, wanted, CONTEXT_VALUES)))
        return _Context(found) if found else ()

    def _generate(self) -> Callable[[Document], Match]:
        names: dict[str, Any] = {
            "none": {}, "leaves": leaves,
            "decide": self._decide, "decisions": self._decisions.get,
            "context": self._context, "contexts": self._contexts.get,
        }
        for number, scanner in enumerate(self.scanners):
            names[f"known{number}"], names[f"classify{number}"] = scanner.known.get, scanner.classify
        exec(compile(source(self.fields, any(self._gates)), "<rules>", "exec"), names)  # noqa: S102  from names of fields, quoted
        match: Callable[[Document], Match] = names["match"]
        return match


def _by_field(cheap: Sequence[Sequence[Predicate]]) -> dict[str, list[Predicate]]:
    """The cheap predicates of each field: the gate first, the field with the most last (highest bits)."""
    groups: dict[str, dict[Predicate, None]] = {}
    for owned in cheap:
        for predicate in owned:
            groups.setdefault(predicate.field, {})[predicate] = None
    order = sorted(groups, key=lambda field: (field != GATE, len(groups[field])))
    return {field: list(groups[field]) for field in order}


def source(fields: Sequence[str], gated: bool) -> str:
    """Python source of ``match(document)`` for these fields.

    Nested mappings and lists are fetched once. A list of one item is that item, longer ones become
    tuples, booleans their text form, so that what was seen before can be looked up.
    """
    lines, nodes = [], {"": "document"}
    lists: dict[str, str] = {}  # key of a list -> where it was fetched to
    for number, field in enumerate(fields):
        if field == ANYWHERE:
            lines.append(f"v{number} = leaves(document)")
        else:
            *parents, last = field.split(".")
            base, place = list_item(field)
            if base:
                lines += _fetch_list(parents, nodes, lists)
                lines.append(f"v{number} = {lists[base]}[{place}] if size_{lists[base]} > {place} else None")
            else:
                lines += _descend(parents, nodes)
                lines.append(f"v{number} = {_fetch(nodes['.'.join(parents)], last, 'None', len(parents))}")
        if field == ANYWHERE or field in list_keys():
            lines.append(f"if v{number}.__class__ is list:")
            lines.append(f"    v{number} = v{number}[0] if len(v{number}) == 1 else tuple(v{number})")
        if field in BOOLEAN_KEYS:
            lines.append(f"v{number} = 'true' if v{number} is True else 'false' if v{number} is False else v{number}")
    lines += ["true = found = 0"]
    for number, field in enumerate(fields):
        gate = gated and field == GATE
        # What is not there, as most of what rules ask for, costs a comparison and no look-up.
        lines += [f"if v{number} is not None:", f"    found = known{number}(v{number})", "    if found is None:",
                  f"        found = classify{number}(v{number})", "    true |= found"]
        if gate:
            values = ", ".join(f"v{each}" for each in range(len(fields)))
            lines += ["    extra = contexts(found)", "    if extra is None:",
                      "        extra = context(found)", "    if extra:", f"        true |= extra({values})"]
    lines += ["found = decisions(true)", "if found is None:", "    found = decide(true)",
              "return found if found.__class__ is tuple else found(document)"]
    return "def match(document):\n" + "\n".join(f"    {line}" for line in lines) + "\n"


def _fetch_list(parents: list[str], nodes: dict[str, str], lists: dict[str, str]) -> list[str]:
    """Lines that fetch a list, and its size, where they have not been fetched before."""
    base = ".".join(parents)
    if base in lists:
        return []
    *above, last = parents
    name = lists[base] = f"l{len(lists)}"
    return [*_descend(above, nodes), f"{name} = {nodes['.'.join(above)]}.get({last!r})",
            f"if {name} is None:", f"    size_{name} = 0",
            f"elif {name}.__class__ is list or {name}.__class__ is tuple:", f"    size_{name} = len({name})",
            "else:", "    raise TypeError('no list')"]


def _descend(parents: list[str], nodes: dict[str, str]) -> list[str]:
    """Lines that fetch the mapping at a key path, through those fetched before."""
    lines = []
    for depth in range(1, len(parents) + 1):
        path = ".".join(parents[:depth])
        if path not in nodes:
            nodes[path] = f"n{len(nodes)}"
            above = nodes[".".join(parents[: depth - 1])]
            lines.append(f"{nodes[path]} = {_fetch(above, parents[depth - 1], 'none', depth - 1)}")
    return lines


def _fetch(above: str, key: str, default: str, depth: int) -> str:
    """An expression for a key; what is far down is often not there, mapping and all."""
    found = f"{above}.get({key!r})" if default == "None" else f"{above}.get({key!r}, {default})"
    return f"{found} if {above} else {default}" if depth > 1 else found
