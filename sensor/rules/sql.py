"""Conditions as SQL for DuckDB over Parquet recordings, with the engine's meaning and no other.

An expression has three values, as SQL's own logic has: true and false are what the engine would say,
NULL is "ask the engine". Absence is false before anything is compared, so that NULL never means
absence. What SQL can't say as the engine does is NULL and never a guess:

* Case is folded as Unicode does, which DuckDB's ``lower`` doesn't. Folded comparisons and regular
  expressions are decided for ASCII values alone.
* Numbers from 2**53 on, IPv6 addresses, times, and expressions that DuckDB's RE2 is too old for.
* Rows with more than their columns hold (``sensor.rest``): escaped bytes, values of other types.

Values of rules are parameters, never part of the text. Names of columns come from the event table and
are quoted all the same.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sensor.rules.condition import (
    ANYWHERE,
    And,
    Bits,
    Condition,
    Elapsed,
    FieldMatch,
    Network,
    Not,
    Number,
    Or,
    Order,
    Predicate,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Wildcard,
    predicates,
)
from sensor.rules.linear import wildcard_pattern
from sensor.rules.values import OWN_KEYS, list_item

#: Comparisons of one condition beyond which keywords are left to the engine: each is one for every column.
MAX_COMPARISONS = 20_000

_TRUE, _FALSE, _UNKNOWN = "true", "false", "NULL::BOOLEAN"
_EXACT = 1 << 53
_DECIMAL = r"-?[0-9]{1,20}(\.[0-9]{1,20})?"
_TIME = "@timestamp"
_RFC3339 = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ADDRESS = rf"({_OCTET}\.){{3}}{_OCTET}"
_OPERATORS = {Order.EQUAL: "=", Order.LESS: "<", Order.LESS_EQUAL: "<=", Order.GREATER: ">", Order.GREATER_EQUAL: ">="}
_FUNCTIONS = {Relation.PREFIX: "starts_with", Relation.SUFFIX: "ends_with", Relation.CONTAINS: "contains"}


@dataclass(frozen=True, slots=True)
class Expression:
    """SQL with ``$1`` and so on for its parameters."""

    sql: str
    parameters: tuple[str | float, ...]


def translate(condition: Condition, columns: Mapping[str, type],
              takes: Callable[[str], bool]) -> Expression:
    """A condition over columns of these names and types (str, int, bool, list): true, false or NULL.

    Args:
        condition: Any. A field without a column is absent.
        columns: Columns of the table that hold values of events.
        takes: Whether DuckDB compiles a regular expression.
    """
    writer = _Writer(columns, takes)
    return Expression(writer.whole(condition), tuple(writer.parameters))


def select(conditions: Sequence[Condition], columns: Mapping[str, type], odd: Condition, rest: str | None,
           takes: Callable[[str], bool], since: str = "", until: str = "") -> Expression:
    """A query for the rows of one recording in which some condition may hold, in their order.

    The last parameter, to be added by the caller, is the path of the file. Columns of the result: the
    row's number, and for each condition its value, NULL where the engine has to be asked.

    Args:
        conditions: One or more.
        columns: Columns of the file but *rest*, and their types.
        odd: Rows for which this is not false are left to the engine, like those that have a *rest*.
        rest: Column that holds what the others can't, if the file has it.
        takes: As for ``translate``.
        since: First moment, RFC 3339 in UTC without its Z and without trailing zeros, or nothing.
        until: First moment that is too late, likewise.
    """
    writer = _Writer(columns, takes)
    left = f"({writer.whole(odd)}) IS DISTINCT FROM false"
    if rest is not None:
        left = f"({quoted(rest)} IS NOT NULL OR {left})"
    when = writer.period(since, until)
    made = [f"CASE WHEN {left} THEN {_UNKNOWN} ELSE ({writer.whole(condition)} AND {when}) END AS c{number}"
            for number, condition in enumerate(conditions)]
    some = " OR ".join(f"c{number} IS DISTINCT FROM false" for number in range(len(made)))
    sql = (f"SELECT * FROM (SELECT file_row_number AS place, {', '.join(made)} "  # noqa: S608  written here
           f"FROM read_parquet(${len(writer.parameters) + 1}, file_row_number = true)) WHERE {some} ORDER BY place")
    return Expression(sql, tuple(writer.parameters))


def quoted(name: str) -> str:
    """A name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


class _Writer:
    """Writes one expression; parameters are noted in the order of their places."""

    def __init__(self, columns: Mapping[str, type], takes: Callable[[str], bool]) -> None:
        self.parameters: list[str | float] = []
        self._columns, self._takes = columns, takes
        self._large = False

    def whole(self, condition: Condition) -> str:
        """A condition on its own."""
        count = sum(predicate.field == ANYWHERE for predicate in predicates(condition))
        self._large = count * len(self._columns) > MAX_COMPARISONS
        return self.condition(condition)

    def period(self, since: str, until: str) -> str:
        """Whether the event's time is in a period. Texts of one form are in the order of their times."""
        if not since and not until:
            return _TRUE
        if self._columns.get(_TIME) is not str:
            return _FALSE
        name, tests = quoted(_TIME), []
        if since:
            tests.append(f"rtrim({name}, 'Z') >= {self._parameter(since)}")
        if until:
            tests.append(f"rtrim({name}, 'Z') < {self._parameter(until)}")
        return (f"CASE WHEN {name} IS NULL THEN {_FALSE} WHEN regexp_full_match({name}, '{_RFC3339}') "
                f"THEN ({' AND '.join(tests)}) ELSE {_UNKNOWN} END")

    def condition(self, condition: Condition) -> str:
        """A condition or a part of one."""
        match condition:
            case And(items):
                return _balanced("AND", [self.condition(item) for item in items], _TRUE)
            case Or(items):
                return _balanced("OR", [self.condition(item) for item in items], _FALSE)
            case Not(item):
                return f"(NOT {self.condition(item)})"
            case _:
                return self._predicate(condition)

    def _predicate(self, predicate: Predicate) -> str:
        if isinstance(predicate, FieldMatch):
            return self._field_match(predicate)
        if isinstance(predicate, Elapsed):
            return self._elapsed(predicate)
        if predicate.field == ANYWHERE:
            keys = [key for key in self._columns if key.partition(".")[0] not in OWN_KEYS]
            if self._large:
                return _UNKNOWN
            return _balanced("OR", [self._column(predicate, key) for key in keys], _FALSE)
        if predicate.field in self._columns:
            return self._column(predicate, predicate.field)
        key, place = list_item(predicate.field)
        if self._columns.get(key) is list:
            return self._some(f"{quoted(key)}[{place + 1}]", predicate)
        return _FALSE

    def _column(self, predicate: Predicate, key: str) -> str:
        name, kind = quoted(key), self._columns[key]
        if kind is str:
            return self._some(name, predicate)
        if kind is list:
            return self._any(name, predicate)
        # A number or boolean has its text form, and no more.
        if isinstance(predicate, Number):
            test = self._number(f"{name}::DOUBLE", predicate) if kind is int else _FALSE
        elif isinstance(predicate, Bits):
            test = self._bits(name, predicate.mask) if kind is int else _FALSE
        else:
            test = self._test(f"{name}::VARCHAR", predicate)
        return f"CASE WHEN {name} IS NULL THEN {_FALSE} ELSE {test} END"

    def _some(self, value: str, predicate: Predicate) -> str:
        return f"CASE WHEN {value} IS NULL THEN {_FALSE} ELSE {self._test(value, predicate)} END"

    def _any(self, name: str, predicate: Predicate) -> str:
        """Whether some item of a list satisfies it; NULL where none does and one might."""
        if isinstance(predicate, Present):
            return f"(coalesce(list_count({name}), 0) > 0)"
        found = f"list_transform({name}, lambda item: {self._some('item', predicate)})"
        return (f"CASE WHEN {name} IS NULL THEN {_FALSE} WHEN list_contains({found}, true) THEN {_TRUE} "
                f"WHEN list_count({found}) < len({name}) THEN {_UNKNOWN} ELSE {_FALSE} END")

    def _parameter(self, value: str | float) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def _test(self, value: str, predicate: Predicate) -> str:
        """A predicate of a text that is there."""
        match predicate:
            case Present():
                return _TRUE
            case Text(_, relation, text, cased):
                return self._text(value, relation, text, cased)
            case Wildcard(_, parts, _) if not all(_encodable(part) for part in parts if isinstance(part, str)):
                return _UNKNOWN
            case Wildcard(_, parts, cased):
                found = self._pattern(value if cased else f"lower({value})", wildcard_pattern(parts))
                return _if_ascii(value, found)
            case Regex(_, pattern, flags):
                return _if_ascii(value, self._pattern(value, f"(?{flags}){pattern}" if flags else pattern))
            case Number():
                found = self._number(f"TRY_CAST({value} AS DOUBLE)", predicate)
                return f"CASE WHEN regexp_full_match({value}, '{_DECIMAL}') THEN {found} ELSE {_FALSE} END"
            case Network(_, network):
                return self._network(value, network)
            case TimePart() | Bits() | Elapsed() | FieldMatch():
                return _UNKNOWN

    def _text(self, value: str, relation: Relation, text: str, cased: bool) -> str:
        if not _encodable(text):
            return _FALSE  # no text of a column has such a character; rows that do have a rest
        left = value if cased else f"lower({value})"
        right = self._parameter(text)
        found = f"({left} = {right})" if relation is Relation.EQUALS else f"{_FUNCTIONS[relation]}({left}, {right})"
        return found if cased else _if_ascii(value, found)

    def _pattern(self, value: str, pattern: str) -> str:
        if not _encodable(pattern) or not self._takes(pattern):
            return _UNKNOWN
        return f"regexp_matches({value}, {self._parameter(pattern)})"

    def _number(self, value: str, predicate: Number) -> str:
        # As doubles, numbers around the wanted one are themselves; larger ones are rounded, never across it.
        if not (math.isfinite(predicate.value) and abs(predicate.value) < _EXACT):
            return _UNKNOWN
        return f"({value} {_OPERATORS[predicate.order]} {self._parameter(float(predicate.value))}::DOUBLE)"

    def _network(self, value: str, text: str) -> str:
        network = ipaddress.ip_network(text)
        inside = _FALSE
        if isinstance(network, ipaddress.IPv4Network):
            parts = [f"split_part({value}, '.', {place})::BIGINT * {256 ** (4 - place)}" for place in range(1, 5)]
            first, last = int(network.network_address), int(network.broadcast_address)
            inside = (f"CASE WHEN regexp_full_match({value}, '{_ADDRESS}') "
                      f"THEN ({' + '.join(parts)}) BETWEEN {first} AND {last} ELSE {_FALSE} END")
        return f"CASE WHEN contains({value}, ':') THEN {_UNKNOWN} ELSE {inside} END"

    @staticmethod
    def _bits(name: str, mask: int) -> str:
        if mask >> 63:
            return _FALSE  # no column holds such a number
        return f"({name} >= 0 AND ({name} & {mask}::BIGINT) = {mask}::BIGINT)"

    def _elapsed(self, predicate: Elapsed) -> str:
        keys = predicate.field, predicate.other
        if not all(key in self._columns for key in keys):
            return _FALSE
        absent = " OR ".join(f"{quoted(key)} IS NULL" for key in keys)
        return f"CASE WHEN {absent} THEN {_FALSE} ELSE {_UNKNOWN} END"

    def _field_match(self, predicate: FieldMatch) -> str:
        kinds = [self._columns.get(key) for key in (predicate.field, predicate.other)]
        if kinds != [str, str]:
            return _UNKNOWN
        left, right = quoted(predicate.field), quoted(predicate.other)
        lower = f"lower({left})", f"lower({right})"
        found = (f"({lower[0]} = {lower[1]})" if predicate.relation is Relation.EQUALS
                 else f"{_FUNCTIONS[predicate.relation]}({lower[0]}, {lower[1]})")
        return (f"CASE WHEN {left} IS NULL OR {right} IS NULL THEN {_FALSE} "
                f"ELSE {_if_ascii(left, _if_ascii(right, found))} END")


def _if_ascii(value: str, test: str) -> str:
    """The test where the value has no character beyond ASCII (as many bytes as characters), else NULL."""
    return test if test in (_TRUE, _FALSE, _UNKNOWN) else (
        f"CASE WHEN strlen({value}) = length({value}) THEN {test} ELSE {_UNKNOWN} END")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _balanced(word: str, items: list[str], nothing: str) -> str:
    """Items joined pair by pair: parsers recurse, and some rules have a thousand literals."""
    if not items:
        return nothing
    while len(items) > 1:
        items = [f"({items[at]} {word} {items[at + 1]})" if at + 1 < len(items) else items[at]
                 for at in range(0, len(items), 2)]
    return items[0]
