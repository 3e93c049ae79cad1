"""How a Falco field of one kind of event is seen in our documents, and compared there.

A view answers each operator with Bounds. Falco's rules for all of them: a field without a
value makes every comparison false, ``!=`` too; texts compare by case; ``regex`` and ``glob``
are about the whole text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sensor.rules.condition import (
    FALSE,
    TRUE,
    Condition,
    Network,
    Number,
    Order,
    Present,
    Relation,
    Text,
    all_of,
    any_of,
    negate,
)
from sensor.rules.falco import patterns
from sensor.rules.falco.bounds import ALWAYS, NEVER, Bounds, absent, either, exactly, opposite, unknown
from sensor.rules.falco.patterns import BadValue, escape, piece
from sensor.rules.reference import holds

_ORDERS = {"<": Order.LESS, "<=": Order.LESS_EQUAL, ">": Order.GREATER, ">=": Order.GREATER_EQUAL, "=": Order.EQUAL}
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?", re.ASCII)
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,16}", re.ASCII)


class View:
    """One field of one kind of event. ``one`` is a comparison with one value by a plain operator."""

    def present(self) -> Bounds:
        """The field has a value."""
        raise NotImplementedError

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        """``=``, ``startswith``, ``endswith``, ``contains``, ``icontains``, ``glob``, ``iglob``, ``regex``, ``<``..."""
        raise NotImplementedError

    def below(self, value: str) -> Bounds:
        """``pmatch`` with one path."""
        raise BadValue("pmatch is for paths")

    def tail(self) -> View | None:
        """The view of what follows the last slash (``basename()``), where that can be told."""
        return None

    def compare(self, operator: str, values: Sequence[str], *, folded: bool = False) -> Bounds:
        """Any operator. Raises BadValue for values that the field or operator can't have."""
        if operator == "exists":
            return self.present()
        if operator in ("in", "intersects"):
            return either([self.one("=", value, folded=folded) for value in values])
        if operator == "pmatch":
            return either([self.below(value) for value in values])
        (value,) = values
        if operator == "!=":
            return self.differs(value, folded=folded)
        if operator in ("bcontains", "bstartswith"):
            return self.one(operator[1:], _bytes(value), folded=folded)
        return self.one("=" if operator == "==" else operator, value, folded=folded)

    def differs(self, value: str, *, folded: bool) -> Bounds:
        """``!=``: there is a value, and it is another one."""
        same, there = self.one("=", value, folded=folded), self.present()
        other = opposite(same)
        return Bounds(all_of(there.sure, other.sure), all_of(there.wide, other.wide), there.missing | other.missing)


def _bytes(value: str) -> str:
    try:
        return bytes.fromhex(value).decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise BadValue(f"{value[:40]!r} is not hexadecimal, as bcontains and bstartswith want it") from error


def number(value: str) -> int | float:
    """A number of a condition. Raises BadValue."""
    if _HEXADECIMAL.fullmatch(value):
        return int(value, 16)
    if not _NUMBER.fullmatch(value):
        raise BadValue(f"{value[:40]!r} is no number")
    return float(value) if "." in value else int(value)


def numeric(operator: str) -> Order:
    """The order that an operator asks for. Raises BadValue."""
    if operator not in _ORDERS:
        raise BadValue(f"{operator} compares texts, and the field is a number")
    return _ORDERS[operator]


@dataclass(frozen=True, slots=True)
class Plain(View):
    """A text that stands at a key as Falco has it. ``where`` must hold for the field to have a value."""

    key: str
    where: Condition = TRUE

    def present(self) -> Bounds:
        return exactly(all_of(self.where, Present(self.key)))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return exactly(all_of(self.where, patterns.text(self.key, textual(operator), value, folded=folded)))

    def below(self, value: str) -> Bounds:
        return exactly(all_of(self.where, patterns.below(self.key, value)))

    def tail(self) -> View:
        from sensor.rules.falco.processes import Tail  # which builds on this module

        return Tail(self.key, root=True)


def textual(operator: str) -> str:
    if operator in ("<", "<=", ">", ">="):
        raise BadValue(f"{operator} compares numbers, and the field is text")
    return operator


@dataclass(frozen=True, slots=True)
class Quantity(View):
    """A number at a key."""

    key: str

    def present(self) -> Bounds:
        return exactly(Present(self.key))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return exactly(Number(self.key, numeric(operator), number(value)))


@dataclass(frozen=True, slots=True)
class AtLeast(View):
    """A number that no event carries, of which only the least possible value is known; or the exact one."""

    least: int
    exact: bool = False
    name: str = ""

    def present(self) -> Bounds:
        return ALWAYS

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        wanted, order = number(value), numeric(operator)
        low = _ordered(order, self.least, wanted)
        if self.exact:
            return ALWAYS if low else NEVER
        if order in (Order.GREATER, Order.GREATER_EQUAL):
            return ALWAYS if low else unknown(self.name)
        impossible = wanted < self.least or (order is Order.LESS and wanted == self.least)
        return NEVER if impossible else unknown(self.name)


def _ordered(order: Order, left: float, right: float) -> bool:
    return holds(Number("n", order, right), {"n": left})


@dataclass(frozen=True, slots=True)
class Split(View):
    """One view where a condition holds, another where not."""

    where: Condition
    then: View
    otherwise: View

    def present(self) -> Bounds:
        return self._both(lambda view: view.present())

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return self._both(lambda view: view.one(operator, value, folded=folded))

    def below(self, value: str) -> Bounds:
        return self._both(lambda view: view.below(value))

    def _both(self, ask: Callable[[View], Bounds]) -> Bounds:
        yes, no = ask(self.then), ask(self.otherwise)
        elsewhere = negate(self.where)
        sure = any_of(all_of(self.where, yes.sure), all_of(elsewhere, no.sure))
        if yes.sure is yes.wide and no.sure is no.wide:
            return Bounds(sure, sure, yes.missing | no.missing)
        wide = any_of(all_of(self.where, yes.wide), all_of(elsewhere, no.wide))
        return Bounds(sure, wide, yes.missing | no.missing)


@dataclass(frozen=True, slots=True)
class Cases(View):
    """A text out of a few, each told by a condition. All others never occur; with ``name`` that is told."""

    cases: tuple[tuple[str, Condition], ...]
    name: str = ""

    def present(self) -> Bounds:
        return exactly(any_of(*(condition for _, condition in self.cases)))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        test = patterns.text("t", textual(operator), value, folded=folded)
        found = any_of(*(condition for name, condition in self.cases if holds(test, {"t": name})))
        return absent(f"{self.name} {value[:40]}") if self.name and found == FALSE else exactly(found)


@dataclass(frozen=True, slots=True)
class Truth(View):
    """True or false. ``known`` is where that can be told; elsewhere the field has no value."""

    condition: Condition

    def present(self) -> Bounds:
        return ALWAYS

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        wanted = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if wanted is None or operator != "=":
            raise BadValue(f"{operator} {value[:40]!r}: the field is true or false")
        return exactly(self.condition if wanted else negate(self.condition))


@dataclass(frozen=True, slots=True)
class Parts(View):
    """A text that lists names (flags, capabilities), of which only ``contains`` can be told.

    For each name the conditions under which it is surely, and possibly, in the list.
    """

    name: str
    parts: tuple[tuple[str, Condition, Condition], ...]
    #: Whether the vocabulary has more names than ``parts``: of those nothing is known.
    more: bool = False

    def present(self) -> Bounds:
        return ALWAYS

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        if operator not in ("contains", "icontains") or not value:
            return unknown(f"{self.name} other than by contains")
        test = patterns.text("t", operator, value, folded=folded)
        found = [part for part in self.parts if holds(test, {"t": part[0]})]
        if self.more and not found:
            return unknown(f"{self.name} {value[:40]}")
        sure = any_of(*(condition for _, condition, _ in found))
        wide = any_of(*(condition for _, _, condition in found))
        return exactly(sure) if sure == wide else Bounds(sure, wide, frozenset({f"{self.name} {value[:40]}"}))


@dataclass(frozen=True, slots=True)
class Directory(View):
    """A directory that Falco shows with a slash at its end, and we without."""

    key: str

    def present(self) -> Bounds:
        return exactly(Present(self.key))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        # Versions differ in the slash; a value without one is taken as it is meant.
        found = patterns.text(self.key, textual(operator), value, folded=folded)
        if not value.endswith("/") or len(value) == 1 or operator in ("glob", "iglob", "regex"):
            if operator in ("glob", "iglob", "regex"):
                expression = piece(operator, value)
                stripped = expression[:-1] if expression.endswith("/") else None
                if stripped is not None:
                    folded = folded or operator == "iglob"
                    return exactly(any_of(found, patterns.whole(self.key, stripped, folded=folded)))
            return exactly(found)
        last = {"startswith": "=", "contains": "endswith", "icontains": "endswith"}.get(operator, operator)
        ending = patterns.text(self.key, last, value[:-1], folded=folded or operator == "icontains")
        return exactly(any_of(found, ending))

    def below(self, value: str) -> Bounds:
        return exactly(patterns.below(self.key, value))


@dataclass(frozen=True, slots=True)
class Addresses(View):
    """An address, or either of two: ``=`` is about some of them, ``!=`` about all."""

    keys: tuple[str, ...]
    network: bool = False

    def present(self) -> Bounds:
        return exactly(any_of(*map(Present, self.keys)))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        if operator != "=":
            raise BadValue(f"{operator} can't compare addresses: = and in can")
        try:
            if self.network or "/" in value:
                network = str(ipaddress.ip_network(value, strict=False))
                return exactly(any_of(*(Network(key, network) for key in self.keys)))
            address = ipaddress.ip_address(value)
        except ValueError as error:
            raise BadValue(f"{value[:40]!r} is no IP address") from error
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        shown = str(mapped or address)
        return exactly(any_of(*(Text(key, Relation.EQUALS, shown) for key in self.keys)))


@dataclass(frozen=True, slots=True)
class Numbers(View):
    """Either of two numbers, such as ports: ``=`` is about some of them, ``!=`` about all."""

    keys: tuple[str, ...]

    def present(self) -> Bounds:
        return exactly(any_of(*map(Present, self.keys)))

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        order, wanted = numeric(operator), number(value)
        return exactly(any_of(*(Number(key, order, wanted) for key in self.keys)))


@dataclass(frozen=True, slots=True)
class ContainerId(View):
    """The first twelve digits of a container's id, or ``host``."""

    key: str

    def present(self) -> Bounds:
        return ALWAYS

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        inside = Present(self.key)
        host = patterns.text("t", textual(operator), value, folded=folded)
        found: list[Condition] = [negate(inside)] if holds(host, {"t": "host"}) else []
        if operator == "=":
            if value != "host":
                found.append(patterns.text(self.key, "startswith" if len(value) == 12 else "=", value))
        else:
            found.append(patterns.whole(self.key, f"{_short(operator, value)}.*"))
        return exactly(any_of(*found))


def _short(operator: str, value: str) -> str:
    """The expression of the first twelve characters, for operators that look into them."""
    left = 12 - len(value)
    if operator in ("glob", "iglob", "regex") or left < 0:
        return piece(operator, value)
    text = escape(value)
    if operator == "startswith":
        return text
    return f".{{{left}}}{text}" if operator == "endswith" else f".{{0,{left}}}{text}"


@dataclass(frozen=True, slots=True)
class Absent(View):
    """A field that this kind of event never has, in Falco neither."""

    def present(self) -> Bounds:
        return NEVER

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return NEVER

    def below(self, value: str) -> Bounds:
        return NEVER


@dataclass(frozen=True, slots=True)
class Lacking(View):
    """A field that Falco has and our events don't. ``optional``: Falco itself may lack it; then it is absent."""

    name: str
    optional: bool = False

    def present(self) -> Bounds:
        return self._answer()

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        return self._answer()

    def compare(self, operator: str, values: Sequence[str], *, folded: bool = False) -> Bounds:
        return self._answer()

    def _answer(self) -> Bounds:
        return Bounds(FALSE, FALSE if self.optional else TRUE, frozenset({self.name}))


ABSENT = Absent()
