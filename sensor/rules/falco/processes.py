"""Views of what Falco says about processes: names cut as the kernel cuts them, command lines as it joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensor.rules.condition import (
    FALSE,
    Condition,
    Elapsed,
    Present,
    Regex,
    Relation,
    Text,
    all_of,
    any_of,
    negate,
)
from sensor.rules.falco import patterns
from sensor.rules.falco.bounds import ALWAYS, NEVER, Bounds, exactly, unknown
from sensor.rules.falco.patterns import escape, piece
from sensor.rules.falco.views import View, number, numeric, textual
from sensor.rules.reference import holds

COMM = 15  # bytes of a task's name that the kernel keeps


@dataclass(frozen=True, slots=True)
class Tail(View):
    """What follows the last slash of a path at a key; cut to ``COMM`` bytes where it is a task's name.

    ``root``: a text without a slash is its own tail.
    """

    key: str
    cut: bool = False
    root: bool = False

    def present(self) -> Bounds:
        return exactly(Present(self.key))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        folded = folded or operator in ("icontains", "iglob")
        expression = tail_piece(textual(operator), value) if self.cut else piece(operator, value, "[^/]")
        if expression is None:
            return NEVER
        if operator == "=" and not self.root and "/" not in value and not (self.cut and _size(value) == COMM):
            return exactly(patterns.text(self.key, "endswith", "/" + value, folded=folded))
        start = "(?:.*/)?" if self.root else ".*/"
        found = patterns.whole(self.key, f"{start}{expression}", folded=folded)
        literal = "" if operator in ("glob", "iglob", "regex") else value
        return exactly(patterns.guarded(self.key, literal, found, folded=folded))


@dataclass(frozen=True, slots=True)
class Several(View):
    """Texts in a list at a key: a comparison is about some of them. Empty ones are not known."""

    key: str

    def present(self) -> Bounds:
        return exactly(Present(self.key))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return exactly(patterns.text(self.key, textual(operator), value, folded=folded))

    def differs(self, value: str, *, folded: bool) -> Bounds:
        return unknown("!= on a list of ancestors")


@dataclass(frozen=True, slots=True)
class Known(View):
    """A text that is empty where it is not known."""

    key: str

    def present(self) -> Bounds:
        return exactly(all_of(Present(self.key), self._known()))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        found = patterns.text(self.key, textual(operator), value, folded=folded)
        empty = holds(patterns.text("t", operator, value, folded=folded), {"t": ""})
        return exactly(all_of(found, self._known()) if empty else found)

    def _known(self) -> Condition:
        return negate(Text(self.key, Relation.EQUALS, "", cased=True))


@dataclass(frozen=True, slots=True)
class Duration(View):
    """Nanoseconds between the times at two keys."""

    until: str
    since: str

    def present(self) -> Bounds:
        return exactly(all_of(Present(self.until), Present(self.since)))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return exactly(Elapsed(self.until, numeric(operator), number(value), self.since))


def _size(value: str) -> int:
    return len(value.encode("utf-8", "surrogateescape"))


def tail_piece(operator: str, value: str) -> str | None:
    """The expression of whole names whose first COMM bytes relate so to a value; None where none can.

    Whole names are matched for ``glob`` and ``regex``, which say nothing about single bytes.
    """
    if operator in ("glob", "iglob", "regex"):
        return piece(operator, value, "[^/]")
    left = COMM - _size(value)
    if left < 0 or "/" in value:
        return None
    text = escape(value)
    match operator:
        case "=":
            return text if left else f"{text}[^/]*"
        case "startswith":
            return f"{text}[^/]*"
        case "endswith":
            return f"(?:[^/]{{0,{left}}}{text}|[^/]{{{left}}}{text}[^/]+)"
    return f"[^/]{{0,{left}}}{text}[^/]*"


@dataclass(frozen=True, slots=True)
class Name(View):
    """A process's name as the kernel has it: the first bytes of what was executed, script or program."""

    key: str
    script: str = ""

    def present(self) -> Bounds:
        return exactly(Present(self.key))

    def compare(self, operator: str, values: Sequence[str], *, folded: bool = False) -> Bounds:
        if operator in ("in", "intersects"):
            return self._some("=", values, folded=folded)
        return View.compare(self, operator, values, folded=folded)

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return self._some(textual(operator), [value], folded=folded or operator in ("icontains", "iglob"))

    def _some(self, operator: str, values: Sequence[str], *, folded: bool) -> Bounds:
        """Some of the values; what tells a script from a program is asked for once."""
        programs = any_of(*(self._program(operator, value, folded=folded) for value in values))
        if not self.script:
            return exactly(programs)
        script = Tail(self.script, cut=True)
        scripts = any_of(*(script.one(operator, value, folded=folded).sure for value in values))
        return exactly(any_of(all_of(programs, negate(Present(self.script))), scripts))

    def _program(self, operator: str, value: str, *, folded: bool) -> Condition:
        expression = tail_piece(operator, value)
        if expression is None:
            return FALSE
        if operator == "startswith" or (operator == "=" and _size(value) == COMM):
            return patterns.text(self.key, "startswith", value, folded=folded)
        if operator in ("=", "glob", "iglob", "regex"):
            return patterns.text(self.key, operator, value, folded=folded)
        return patterns.guarded(self.key, value, patterns.whole(self.key, expression, folded=folded), folded=folded)


@dataclass(frozen=True, slots=True)
class Arguments(View):
    """All arguments but the first, joined by spaces; a first argument with a space in it is not told apart."""

    line: str

    def present(self) -> Bounds:
        return ALWAYS

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        folded = folded or operator in ("icontains", "iglob")
        expression = piece(textual(operator), value)
        found = self.rest(f" {expression}", operator, value, folded=folded)
        if holds(patterns.text("t", operator, value, folded=folded), {"t": ""}):
            found = any_of(found, negate(Text(self.line, Relation.CONTAINS, " ", cased=True)))
        return exactly(found)

    def rest(self, expression: str, operator: str, value: str, *, folded: bool) -> Condition:
        """The command line without its first word matches an expression from end to end."""
        literal = "" if operator in ("glob", "iglob", "regex") else value
        found = patterns.whole(self.line, f"[^ ]*{expression}", folded=folded)
        return patterns.guarded(self.line, literal, found, folded=folded)


@dataclass(frozen=True, slots=True)
class CommandLine(View):
    """The process's name and its arguments but the first: Falco's cmdline.

    Each split of the value at a space, before which the name and after which arguments stand, is
    asked for. ``glob`` and ``regex`` can't be split: they get the first argument without directories.
    """

    name: Name
    line: str

    def present(self) -> Bounds:
        return self.name.present()

    def compare(self, operator: str, values: Sequence[str], *, folded: bool = False) -> Bounds:
        if operator in ("in", "intersects"):
            return self._in(values, folded=folded)
        return View.compare(self, operator, values, folded=folded)

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        folded = folded or operator in ("icontains", "iglob")
        if operator in ("glob", "iglob", "regex"):
            return exactly(patterns.whole(self.line, f"(?:[^ ]*/)?{piece(operator, value)}", folded=folded))
        if operator == "=":
            return self._in([value], folded=folded)
        return exactly(any_of(*self._alternatives(textual(operator), value, folded=folded)))

    def _alternatives(self, operator: str, value: str, *, folded: bool) -> list[Condition]:
        """Where a value can lie: in the name, in the arguments, or across both."""
        found = []
        arguments = Arguments(self.line)
        beginning = operator == "startswith"
        bare = negate(Text(self.line, Relation.CONTAINS, " ", cased=True))
        alone = self.name.one(operator, value, folded=folded).sure
        found.append(alone if operator != "endswith" else all_of(bare, alone))
        if not beginning:
            dots = "" if operator == "endswith" else ".*"
            lead = ".*" if value.startswith(" ") else " .*"
            found.append(arguments.rest(f"{lead}{escape(value)}{dots}", operator, value, folded=folded))
        for name, rest in _splits(value):
            dots = "" if operator == "endswith" else ".*"
            inside = self.name.one("=" if beginning else "endswith", name, folded=folded).sure
            found.append(all_of(inside, arguments.rest(f"{escape(rest)}{dots}", operator, rest, folded=folded)))
        return found

    def _in(self, values: Sequence[str], *, folded: bool) -> Bounds:
        """Equality with some of many values: one expression for all that begin with the same name."""
        found, rests = [], dict[str, list[str]]()
        bare = negate(Text(self.line, Relation.CONTAINS, " ", cased=True))
        for value in values:
            found.append(all_of(self.name.one("=", value, folded=folded).sure, bare))
            for name, rest in _splits(value):
                rests.setdefault(name, []).append(rest)
        for name, group in rests.items():
            for start in range(0, len(group), _GROUP):
                several = "|".join(map(escape, group[start:start + _GROUP]))
                expression = patterns.whole(self.line, f"[^ ]*(?:{several})", folded=folded)
                found.append(all_of(self.name.one("=", name, folded=folded).sure, expression))
        return exactly(any_of(*found))


_GROUP = 16  # values in one expression: guards.py finds literals in no longer ones


def _splits(value: str) -> list[tuple[str, str]]:
    """(name, rest from the space on) for each space at which a name may end."""
    return [(value[:at], value[at:]) for at, char in enumerate(value)
            if char == " " and at and _size(value[:at]) <= COMM]


@dataclass(frozen=True, slots=True)
class FirstArgument(View):
    """argv[0]: the command line's beginning, up to the first space. ``items`` is the list of arguments, if carried."""

    line: str
    items: str = ""

    def present(self) -> Bounds:
        return exactly(Present(self.line))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        folded = folded or operator in ("icontains", "iglob")
        operator = textual(operator)
        if operator == "startswith" and " " not in value:
            return exactly(patterns.text(self.line, operator, value, folded=folded))
        expression = piece(operator, value, "[^ ]")
        found: Condition = Regex(self.line, patterns.checked(f"^(?:{expression})(?: |$)"), "is" if folded else "s")
        if self.items:
            found = all_of(patterns.text(self.items, operator, value, folded=folded), found)
        return exactly(found)

    def tail(self) -> View | None:
        return None
