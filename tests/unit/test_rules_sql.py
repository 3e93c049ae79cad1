"""SQL says what the engine says, or leaves it to the engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensor.parquet import columns
from sensor.rules import reference
from sensor.rules.condition import (
    ANYWHERE,
    FALSE,
    TRUE,
    Bits,
    Condition,
    Elapsed,
    FieldMatch,
    Glob,
    Network,
    Number,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    TimePart,
    Unit,
    Wildcard,
    all_of,
    any_of,
    negate,
)
from sensor.rules.sql import MAX_COMPARISONS, translate
from tests.unit.rules_helpers import trees
from tests.unit.test_rules_batch import KEYS, arrays, nested, rows

duckdb = pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")

CMD, EXE, USER, CODE, IP = ("process.command_line", "process.executable", "user.name", "process.exit_code",
                            "destination.ip")
ARGS = "process.args"
TYPES = {key: columns()[key] for key in ("event.action", *KEYS)}


@pytest.fixture(scope="module")
def database():
    return duckdb.connect(config={"threads": 1})


def takes(database, pattern: str) -> bool:
    try:
        database.execute("SELECT regexp_matches('', $1)", [pattern])
    except duckdb.Error:
        return False
    return True


def answers(database, condition: Condition, table: list[dict[str, Any]]) -> list[bool | None]:
    database.register("recorded", pa.table(arrays(table, folded=False)))
    expression = translate(condition, TYPES, lambda pattern: takes(database, pattern))
    return [row[0] for row in database.execute(
        f"SELECT {expression.sql} FROM recorded", list(expression.parameters)).fetchall()]


@settings(max_examples=200, deadline=None)
@given(trees, st.lists(rows(), min_size=1, max_size=8))
@example(Number(CODE, Order.EQUAL, 2**53), [{CODE: 2**53}, {CODE: 2**53 + 1}])
@example(Number(USER, Order.LESS, 1), [{USER: text} for text in ("0", "-0", "0x1", " 1", "1e0", "00.5", "1.", "")])
@example(Number(USER, Order.EQUAL, 2**53 - 1), [{USER: str(2**53 - 1)}, {USER: str(2**53)}, {USER: "9" * 20}])
@example(Network(IP, "10.0.0.0/8"), [{IP: text} for text in (
    "10.255.255.255", "11.0.0.0", "010.0.0.1", "10.0.0.1\n", "::ffff:10.0.0.1", "10.0.0", "")])
@example(Wildcard(CMD, ("a", Glob.ONE, "%_\\")), [{CMD: "A\n%_\\"}, {CMD: "a%_\\"}, {CMD: "aab_\\"}])
@example(Text(CMD, Relation.CONTAINS, "k"), [{CMD: "\u212a"}, {CMD: "K\0"}])
@example(Text(CMD, Relation.EQUALS, "\0'"), [{CMD: "\0'"}, {CMD: ""}])
@example(Bits(CODE, 6), [{CODE: 6}, {CODE: 7}, {CODE: 4}, {CODE: -1}, {CODE: -2}, {}])
@example(Bits(CODE, 1 << 63), [{CODE: -1}, {CODE: 2**62}])
@example(negate(Bits(USER, 1)), [{USER: "1"}, {USER: "2"}, {USER: "x"}, {}])
@example(negate(Elapsed(USER, Order.GREATER, 5, EXE)), [
    {USER: "2026-01-01T00:00:01Z", EXE: "2026-01-01T00:00:00Z"}, {USER: "2026-01-01T00:00:01Z"}, {}])
@example(Text("process.args.1", Relation.EQUALS, ""), [{ARGS: ["a", ""]}, {ARGS: ["a"]}, {ARGS: []}, {}])
@example(negate(Text("process.args.99999999999999999999", Relation.EQUALS, "a")), [{ARGS: ["a"]}, {}])
@example(Regex("process.args.0", "^b$"), [{ARGS: ["a", "b"]}, {ARGS: ["b"]}])
@example(Regex(CMD, "a.b$"), [{CMD: "a\nb"}, {CMD: "acb\n"}, {CMD: "a b"}])
def test_sql_agrees_with_the_reference_where_it_answers(database, condition, table):
    """True and false are the engine's; NULL is never said of an absent field alone."""
    for row, answer in zip(table, answers(database, condition, table), strict=True):
        assert answer in (None, reference.holds(condition, nested(row))), row


ASCII = [{CMD: "curl -F A", EXE: "/usr/bin/curl", USER: "0", CODE: 5, IP: "10.1.2.3", "network.initiated": True,
          "process.args": ["curl", "-F", "A"]}]


@pytest.mark.parametrize("condition", [
    Text(CMD, Relation.EQUALS, "curl -f a"), Text(CMD, Relation.PREFIX, "curl"),
    Text(CMD, Relation.SUFFIX, "F A", True),
    Text(CMD, Relation.CONTAINS, ""),
    Wildcard(CMD, ("curl", Glob.MANY, "f", Glob.ONE, "a")), Regex(CMD, r"\s-[FT]\s"),
    Number(USER, Order.EQUAL, 0), Number(CODE, Order.GREATER, 4.5),
    Text(CODE, Relation.EQUALS, "5"),
    Text("network.initiated", Relation.EQUALS, "true"), Network(IP, "10.0.0.0/8"), Present(USER),
    Present("process.args"),
    Text("process.args", Relation.EQUALS, "-f"), Text("process.args.1", Relation.EQUALS, "-f"),
    negate(Text("process.args.7", Relation.EQUALS, "-f")), negate(Present("process.parent.executable")),
    negate(Text("no.such.column", Relation.EQUALS, "x")), FieldMatch(EXE, Relation.SUFFIX, EXE),
    Text(ANYWHERE, Relation.CONTAINS, "-f"), Regex(ANYWHERE, "^-F$"), TRUE, negate(FALSE),
    negate(Network(IP, "fe80::/10")), negate(Number("network.initiated", Order.EQUAL, 1)),
    Bits(CODE, 5), negate(Bits(CODE, 2)), negate(Bits("network.initiated", 1)),
])
def test_ordinary_values_are_decided_in_sql(database, condition):
    """An expression that left everything to the engine would agree with it, and be of no use."""
    assert answers(database, condition, ASCII) == [True]


@pytest.mark.parametrize(("condition", "row"), [
    (Text(CMD, Relation.CONTAINS, "ss"), {CMD: "ß"}),
    (Regex(CMD, "(?i)k"), {CMD: "\u212a"}),
    (Regex(CMD, "(?<name>a)"), {CMD: "a"}),
    (Number(CODE, Order.EQUAL, 2**53), {CODE: 2**53}),
    (Network(IP, "10.0.0.0/8"), {IP: "::ffff:10.0.0.1"}),
    (Bits(USER, 1), {USER: "1"}),
    (Elapsed(USER, Order.EQUAL, 10**9, EXE), {USER: "2026-01-01T00:00:01Z", EXE: "2026-01-01T00:00:00Z"}),
    (TimePart(USER, Unit.HOUR, Order.EQUAL, 10), {USER: "2026-11-21T10:00:00Z"}),
])
def test_what_sql_would_say_otherwise_is_left_to_the_engine(database, condition, row):
    """All of them hold, and DuckDB would not say so."""
    assert reference.holds(condition, nested(row)) or "<name>" in str(condition)  # which the engine's RE2 may lack, too
    assert answers(database, condition, [row]) == [None]


def test_cased_texts_are_decided_whatever_their_letters(database):
    """Bytes compare as they are."""
    assert answers(database, Text(CMD, Relation.EQUALS, "ß", True), [{CMD: "ß"}, {CMD: "SS"}]) == [True, False]


def test_a_megabyte_is_a_value_like_any_other(database):
    """No buffer of SQL cuts it."""
    long = "x" * (1 << 20)
    assert answers(database, Text(CMD, Relation.SUFFIX, "xend"), [{CMD: f"{long}END"}, {CMD: long}]) == [True, False]


HOSTILE = ["'; DROP TABLE recorded; --", "' OR 1=1 --", "$1; x", "x?y", "a\\", "a\"b", "%%", "_x_", "a\x00b",
           "{0}", "E'\\''",
           "a\udc80", "*/ x", "read_csv('/etc/passwd')"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_values(database, text):
    """Whatever a rule says stays a parameter: none of its text is in the SQL."""
    texts = [Text(CMD, relation, text if cased else text.casefold(), cased)
             for relation in Relation for cased in (True, False)]
    condition = any_of(*texts, Text("process.args", Relation.EQUALS, text.casefold()))
    if text.isprintable():
        condition = any_of(condition, Wildcard(CMD, (text.casefold(), Glob.ONE)), Regex(CMD, re.escape(text)))
        table = [{CMD: "other"}, {CMD: f"say {text}"}, {"process.args": [text.upper()]}, {USER: "x"}]
    else:
        table = [{CMD: "other"}, {USER: "x"}]
    for row, answer in zip(table, answers(database, condition, table), strict=True):
        assert answer is reference.holds(condition, nested(row))
    assert text not in translate(condition, TYPES, lambda _: True).sql


def test_hostile_names_of_columns_are_names(database):
    """Also a column of a foreign file can't leave its quotes."""
    name = 'a"; DROP TABLE recorded; --'
    database.register("others", pa.table({name: ["x"]}))
    expression = translate(Text(name, Relation.EQUALS, "x"), {name: str}, lambda _: True)
    found = database.execute(f"SELECT {expression.sql} FROM others", list(expression.parameters)).fetchall()
    assert found == [(True,)]


def test_thousands_of_literals_and_deep_trees_are_parsed(database):
    """Rules about supply chains have a thousand names, and conditions nest."""
    names = any_of(*(Text(CMD, Relation.CONTAINS, f"package-{number}") for number in range(1500)))
    deep: Condition = Text(USER, Relation.EQUALS, "x")
    for number in range(30):
        deep = all_of(any_of(negate(deep), Text(EXE, Relation.EQUALS, str(number))), Present(CMD))
    assert answers(database, names, [{CMD: "npm i package-1499"}, {CMD: "npm"}]) == [True, False]
    assert answers(database, deep, [{CMD: "npm"}]) == [reference.holds(deep, nested({CMD: "npm"}))]


def test_too_many_keywords_are_left_to_the_engine():
    """Each is a comparison with every column."""
    many = any_of(*(Text(ANYWHERE, Relation.CONTAINS, str(number)) for number in range(MAX_COMPARISONS)))
    assert translate(many, TYPES, lambda _: True).parameters == ()
