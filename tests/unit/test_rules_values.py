"""What values mean: text forms, numbers, case, undecodable bytes, absence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules.condition import (
    FALSE,
    TRUE,
    And,
    FieldMatch,
    Glob,
    Network,
    Not,
    Number,
    Or,
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
    describe,
    fields,
    negate,
)
from sensor.rules.fields import UnknownField, events_of, guard, resolve
from sensor.rules.linear import BadPattern, compile_pattern
from sensor.rules.matcher import Matcher
from sensor.rules.reference import holds
from sensor.rules.values import find, fold, leaves, number_of, plain, scalars, text_of
from tests.unit.rules_helpers import made

F = "process.command_line"


def on(condition, *value) -> bool:
    """Truth of a condition where the field holds this value, or is absent."""
    return holds(condition, {"process": {"command_line": value[0]} if value else {}})


@pytest.mark.parametrize(("value", "text"), [
    ("A b", "A b"), (7, "7"), (-7, "-7"), (True, "true"), (False, "false"), (1.0, "1"), (1.5, "1.5")])
def test_text_form(value, text):
    """What a text predicate compares."""
    assert text_of(value) == text


@pytest.mark.parametrize(("value", "number"), [
    (7, 7), (1.5, 1.5), ("7", 7), ("-7", -7), ("007", 7), ("1.5", 1.5), (True, None), ("", None), (" 7", None),
    ("7 ", None), ("1e3", None), ("0x10", None), ("1_0", None),
    ("٣", None), ("9" * 21, None), ("7\n", None), ("+7", None)])
def test_number(value, number):
    """Plainly decimal texts and numbers are numbers; nothing else is."""
    assert number_of(value) == number
    assert on(Number(F, Order.EQUAL, 7), value) == (number == 7)


@pytest.mark.parametrize(("value", "values"), [
    ("a", ("a",)), (["a", 1, None, ["b"], {"c": 1}, True], ("a", 1, True)), ((), ()), (None, ()),
    ({"a": 1}, ()), (b"a", ())])
def test_scalars(value, values):
    """What counts as the values of a key."""
    assert scalars(value) == values


ABSENT = [(), (None,), ([],), ({},)]


@pytest.mark.parametrize("value", ABSENT)
def test_every_predicate_is_false_on_an_absent_field(value):
    """Absence satisfies nothing, and everything negated."""
    for predicate in (
        Present(F), Text(F, Relation.EQUALS, ""), Text(F, Relation.CONTAINS, ""), Wildcard(F, (Glob.MANY, Glob.ONE)),
        Regex(F, ".*"), Number(F, Order.LESS, 5), Network(F, "0.0.0.0/0"), FieldMatch(F, Relation.EQUALS, F),
        TimePart(F, Unit.YEAR, Order.GREATER, 0),
    ):
        assert not on(predicate, *value)
        assert on(negate(predicate), *value)


def test_empty_text_is_a_value():
    """Present, equal to the empty text, and not null."""
    assert on(Present(F), "")
    assert on(Text(F, Relation.EQUALS, ""), "")
    assert not on(negate(Present(F)), "")


def test_list_satisfies_a_predicate_by_any_item():
    """``all`` asks for each word in some item; a negation for none."""
    words = [Text(F, Relation.EQUALS, word) for word in ("-o", "x")]
    assert on(all_of(*words), ["curl", "-O", "x"])
    assert not on(all_of(*words), ["curl", "-o"])
    assert not on(negate(words[0]), ["curl", "-o"])


@pytest.mark.parametrize(("rule", "value", "folded"), [
    ("k", "\u212a", True), ("straße", "STRASSE", True), ("σ", "ς", True), ("i", "İ", False), ("i\u0307", "İ", True),
    ("é", "É", True), ("ab", "AB", True)])
def test_case_is_folded_as_unicode_says(rule, value, folded):
    """Full case folding, equal for a part and for the whole."""
    assert on(Text(F, Relation.EQUALS, fold(rule)), value) == folded
    assert not on(Text(F, Relation.EQUALS, rule, cased=True), value)


@given(st.text(), st.text())
def test_folding_a_part_gives_a_part_of_the_folded_whole(left, right):
    """What makes ``contains`` sound: folding looks at no neighbours."""
    assert fold(left + right) == fold(left) + fold(right)


def test_undecodable_byte_is_one_unknown_character_to_patterns():
    """It hides nothing from ``.*``, and equals itself alone."""
    text = "a\udcffb"
    assert plain(text) == "a\ufffdb"
    assert on(Regex(F, "^a.b$"), text)
    assert on(Wildcard(F, ("a", Glob.ONE, "b")), text)
    assert on(Text(F, Relation.CONTAINS, "b"), text)
    assert not on(Text(F, Relation.CONTAINS, "\udcfe"), text)


@pytest.mark.contract("content-7c")
def test_regular_expressions_are_re2s():
    """Found anywhere; ``$`` is the very end; ``\\s`` is ASCII; case matters without ``i``."""
    assert on(Regex(F, "b"), "abc")
    assert not on(Regex(F, "b$"), "ab\n")
    assert on(Regex(F, "b$", "m"), "ab\nc")
    assert not on(Regex(F, r"a\sb"), "a\u00a0b")
    assert not on(Regex(F, "A"), "a")
    assert on(Regex(F, "A", "i"), "a")
    assert not on(Regex(F, "a.b"), "a\nb")
    assert on(Regex(F, "a.b", "s"), "a\nb")


@pytest.mark.parametrize("pattern", [
    "(?<=a)b", r"(a)\1", "(?>a)", "a{1001}", "((a{100}){100})", "(", "a" * 5000, "\ud800"])
def test_what_re2_does_not_take_is_refused(pattern):
    """No expression gets in that could cost more than linear time or bounded memory."""
    with pytest.raises(BadPattern):
        compile_pattern(pattern)


@pytest.mark.contract("content-7c")
def test_catastrophic_expression_is_harmless():
    """What takes a backtracking engine minutes takes RE2 nothing."""
    assert not compile_pattern("(a+)+$")("a" * 100_000 + "b")


@pytest.mark.parametrize(("network", "value", "inside"), [
    ("10.0.0.0/8", "10.1.2.3", True), ("10.0.0.0/8", "11.1.2.3", False), ("10.0.0.0/8", "::ffff:10.1.2.3", True),
    ("fe80::/10", "fe80::1", True), ("10.0.0.0/8", "fe80::1", False), ("10.0.0.0/8", "ten", False),
    ("0.0.0.0/0", 7, False)])
def test_network(network, value, inside):
    """Addresses as text; IPv4 inside IPv6 is IPv4."""
    assert on(Network(F, network), value) == inside


@pytest.mark.parametrize(("unit", "value", "part"), [
    (Unit.HOUR, "2026-11-21T10:05:00.123456789Z", 10), (Unit.MINUTE, "2026-11-21T10:05:00Z", 5),
    (Unit.DAY, "2026-01-31T23:30:00-02:00", 1), (Unit.MONTH, "2026-01-31T23:30:00-02:00", 2),
    (Unit.WEEK, "2027-01-01T00:00:00Z", 53), (Unit.YEAR, "2027-01-01t00:00:00z", 2027),
    (Unit.HOUR, "2026-11-21T10:05:00", None), (Unit.HOUR, "2026-13-21T10:05:00Z", None), (Unit.YEAR, 2026, None),
    (Unit.YEAR, "0001-01-01T00:00:00+01:00", None)])
def test_time_part(unit, value, part):
    """Parts of RFC 3339 times, in UTC; anything else is no time."""
    assert on(TimePart(F, unit, Order.EQUAL, part or 0), value) == (part is not None)
    assert on(TimePart(F, unit, Order.GREATER_EQUAL, 0), value) == (part is not None)


@pytest.mark.parametrize(("key", "found"), [
    ("process.args.0", "a"), ("process.args.1", ""), ("process.args.2", None), ("process.args.01", ""),
    ("process.args.0.0", None), ("process.args.-1", None), ("process.args.\u0661", None),
    ("process.args.1000000", None),
    ("process.args." + "9" * 5000, None), ("process.name.0", None), ("process.odd.0", "b"), ("process.odd.0.1", None),
])
def test_items_of_lists(key, found):
    """A place that a list can have, as the last part of a key; in a mapping the same text is a key like any other."""
    document = {"event": {"action": "process-exec"}, "process": {"args": ["a", ""], "name": "n", "odd": {"0": "b"}}}
    assert find(document, key) == found
    matched = Matcher([made(0, Present(key))]).match(document)
    assert bool(matched) is (found is not None) is holds(Present(key), document)


def test_items_of_lists_are_fields_of_rules():
    """Of lists alone, at places that a list can have."""
    assert resolve("process.args.1") == "process.args.1"
    assert resolve("process.ancestor_names.15") == "process.ancestor_names.15"
    for name in ("process.name.0", "process.args.x", "process.args.0.0", "process.args.1000000", "process.args."):
        with pytest.raises(UnknownField):
            resolve(name)


def test_contradiction_is_false():
    """What is demanded and excluded at once never holds; alternatives are looked into no further."""
    one, other = Present("user.name"), Present("user.id")
    assert all_of(one, other, negate(one)) == FALSE
    assert all_of(all_of(one, other), negate(one)) == FALSE
    assert all_of(one, negate(other)) != FALSE


def test_find_and_leaves():
    """Dotted keys lead through mappings; a keyword search sees all but the sensor's own keys."""
    document = {"event": {"id": "x"}, "a": {"b": ["c", 1], "d": {"e": True}}, "@timestamp": "t", "sensor": {"x": "y"}}
    assert find(document, "a.d.e") is True
    assert find(document, "a.b.c") is None
    assert find(document, "z.y") is None
    assert sorted(map(str, leaves(document))) == ["1", "True", "c"]


def test_connectives_simplify():
    """Constants, doubles, nesting and double negation vanish."""
    a, b, c = (Present(name) for name in "abc")
    assert all_of() is TRUE
    assert any_of() is FALSE
    assert all_of(a, all_of(b, a), TRUE, c) == And((a, b, c))
    assert any_of(a, any_of(b, FALSE), a) == Or((a, b))
    assert all_of(a, FALSE) is FALSE
    assert any_of(a, TRUE) is TRUE
    assert all_of(a) is a
    assert negate(negate(a)) is a
    assert negate(a) == Not(a)
    assert negate(TRUE) is FALSE
    assert fields(all_of(b, negate(FieldMatch("a", Relation.EQUALS, "c")))) == ("a", "b", "c")


@pytest.mark.parametrize(("predicate", "shown"), [
    (Text("a", Relation.PREFIX, "x\n", cased=True), r"a starts with 'x\n' (case matters)"),
    (Wildcard("a", ("x", Glob.MANY, Glob.ONE)), "a is like 'x*?'"), (Regex("a", "x", "i"), "a matches /x/i"),
    (Number("a", Order.LESS, 1), "a < 1"), (Network("a", "::/0"), "a is in ::/0"), (Present("a"), "a is present"),
    (TimePart("a", Unit.HOUR, Order.EQUAL, 1), "hour of a = 1"),
    (FieldMatch("a", Relation.SUFFIX, "b"), "a ends with b")])
def test_description_of_a_predicate(predicate, shown):
    """One line that says all of it."""
    assert describe(predicate) == shown


@pytest.mark.parametrize(("name", "key"), [
    ("Image", "process.executable"), ("process.args", "process.args"),
    ("process.parent.name", "process.parent.name"),
    ("process.session_leader.executable", "process.session_leader.executable"), ("sensor.flags", "sensor.flags"),
    ("Initiated", "network.initiated"), ("process.parent.user.name", "process.parent.user.name")])
def test_field_names(name, key):
    """Sigma's names and keys of documents."""
    assert resolve(name) == key


@pytest.mark.parametrize(("name", "hint"), [
    ("image", "did you mean Image?"), ("CommandLin", "did you mean CommandLine?"), ("OriginalFileName", ""),
    ("process.parent.nonsense", ""), ("process", ""), ("*", ""), ("process.comand_line", "process.command_line")])
def test_unknown_field_is_named_with_a_suggestion(name, hint):
    """A typo is found out when the rule is loaded, not by an alert that never comes."""
    with pytest.raises(UnknownField, match=f"unknown field {name.replace('*', '.')}") as caught:
        resolve(name)
    assert hint in str(caught.value)


def test_log_sources_come_from_the_event_table():
    """Categories and the events they see; an open is a file_event only where it made or changed."""
    assert events_of("process_creation") == ("process-exec",)
    assert events_of("file_event") == ("file-open", "file-rename", "file-link")
    assert events_of("nonsense") == ()
    written = guard("file_event", "file-open")
    assert holds(written, {"event": {"type": ["creation"]}})
    assert holds(written, {"event": {"type": ["change"]}})
    assert not holds(written, {"event": {"type": ["access"]}})
    assert guard("file_access", "file-open") is TRUE
    assert guard("file_event", "file-rename") is TRUE
