"""The stream matcher says what the naive reference says, whatever rules and documents are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensor.rules import program, reference, scan
from sensor.rules.condition import (
    ANYWHERE,
    FALSE,
    TRUE,
    Present,
    Regex,
    Relation,
    Text,
    all_of,
    any_of,
    negate,
    predicates,
)
from sensor.rules.decide import is_cheap
from sensor.rules.guards import guarded, necessary_literals
from sensor.rules.matcher import Matcher
from sensor.rules.reference import routed
from tests.unit.rules_helpers import EXEC, document, events, made, trees

EXE = "process.executable"
CMD = "process.command_line"


def has(field: str, relation: Relation, value: str) -> Text:
    return Text(field, relation, value)


def curl() -> Matcher:
    """Rules that are gated by a program's name, one that isn't, and one with a regular expression."""
    return Matcher([
        made(0, all_of(has(EXE, Relation.SUFFIX, "/curl"), has(CMD, Relation.CONTAINS, "secret"))),
        made(1, all_of(has(EXE, Relation.SUFFIX, "/wget"), has(CMD, Relation.CONTAINS, "secret"))),
        made(2, has(CMD, Relation.CONTAINS, "everywhere")),
        made(3, all_of(has(EXE, Relation.SUFFIX, "/curl"), Regex(CMD, r"\s-[FT]\s"))),
    ])


def names(matcher: Matcher, **process: object) -> list[str]:
    return [rule.id for rule in matcher.match(document(process=process))]


def test_gated_rule_sees_only_its_program():
    """A rule about curl matches curl with its words, and neither wget nor curl without them."""
    matcher = curl()
    assert names(matcher, executable="/usr/bin/curl", command_line="curl SECRET") == ["rule-0"]
    assert names(matcher, executable="/usr/bin/wget", command_line="wget SECRET") == ["rule-1"]
    assert names(matcher, executable="/usr/bin/nc", command_line="nc SECRET") == []
    assert names(matcher, executable="/usr/bin/curl", command_line="curl") == []


def test_open_rule_is_tested_on_each_event_not_remembered():
    """A regular expression decides anew for events that are alike to all cheap predicates."""
    matcher = curl()
    for _ in range(2):
        assert names(matcher, executable="/usr/bin/curl", command_line="curl -F x") == ["rule-3"]
        assert names(matcher, executable="/usr/bin/curl", command_line="curl -f x") == []


def test_rules_come_in_the_order_of_loading():
    """Sure and open rules are mixed back into one order."""
    matcher = curl()
    line = "curl -T secret everywhere"
    assert names(matcher, executable="/usr/bin/curl", command_line=line) == ["rule-0", "rule-2", "rule-3"]


@pytest.mark.parametrize("odd", [
    {}, {"event": None}, {"event": {"action": ["process-exec"]}}, {"event": {}}, {"event": "process-exec"},
    {"event": {"action": 3}},
])
def test_document_without_a_usable_action_matches_nothing(odd):
    """A document that names no event is no event."""
    assert list(curl().match(odd)) == []


def test_event_without_rules_matches_nothing_and_is_not_odd():
    """An action that no rule wants is dismissed by one look-up."""
    matcher = curl()
    assert list(matcher.match(document("process-fork"))) == []
    assert matcher.odd == 0


@pytest.mark.parametrize("process", ["text", ["list"], 3, None])
def test_document_of_a_foreign_shape_is_counted_and_matched(process):
    """Where a section should be stands something else: no match, no exception, one count."""
    matcher = curl()
    assert list(matcher.match(document(process=process))) == []
    assert matcher.odd == 1


def test_true_and_one_are_not_taken_for_each_other():
    """A dictionary takes 1, 1.0 and True for one key; a rule doesn't."""
    matcher = Matcher([made(0, has("network.initiated", Relation.EQUALS, "true")),
                       made(1, has("network.initiated", Relation.EQUALS, "1"))])

    def ids(value: object) -> list[str]:
        return [rule.id for rule in matcher.match(document(network={"initiated": value}))]

    for _ in range(2):
        assert ids(True) == ["rule-0"]
        assert ids(1) == ["rule-1"]
        assert ids(1.0) == ["rule-1"]
        assert ids((True,)) == ["rule-0"]
        assert ids((1,)) == ["rule-1"]


def test_actions_say_what_documents_need():
    """The pipeline learns which events any rule asks for."""
    assert curl().actions == {EXEC}


def test_memory_is_bounded_under_unique_values(monkeypatch):
    """A flood of values that never repeat leaves every memory within its bound, and no answer wrong."""
    monkeypatch.setattr(program, "DECISIONS", 16)
    monkeypatch.setattr(program, "CONTEXTS", 16)
    monkeypatch.setattr(scan, "CACHE_VALUES", 16)
    bits = [f"w{number}" for number in range(12)]
    rules = [made(0, any_of(*(has(CMD, Relation.CONTAINS, bit) for bit in bits))),
             made(1, all_of(has(EXE, Relation.CONTAINS, "w1"), has(CMD, Relation.SUFFIX, "w2")))]
    rules += [made(2 + number, all_of(has(EXE, Relation.CONTAINS, bit), Regex(CMD, f"{bit}$")))
              for number, bit in enumerate(bits)]
    matcher = Matcher(rules)
    for number in range(3000):
        line = " ".join(bit for place, bit in enumerate(bits) if number >> place & 1)
        event = document(process={"executable": f"/{line}", "command_line": f"{number} {line}"})
        assert list(matcher.match(event)) == reference.match(rules, event)
    compiled = matcher._programs[EXEC]
    assert len(compiled._decisions) <= 16
    assert len(compiled._contexts) <= 17
    assert len(compiled._by_live) <= 17


def test_remembered_values_are_bounded_in_number_and_length():
    """A scanner forgets all when full, and never holds a long text."""
    scanner = scan.Scanner([(0, has(CMD, Relation.CONTAINS, "a"))], capacity=8)
    for number in range(100):
        assert scanner.classify(f"a{number}") == 1
        assert len(scanner.known) <= 8
    assert scanner.forgotten > 0
    scanner.classify("a" * (scan.CACHE_CHARACTERS + 1))
    assert all(len(str(key)) <= scan.CACHE_CHARACTERS for key in scanner.known)
    assert scanner.known[None] == 0


def test_scanner_equals_plain_comparison_on_all_short_texts():
    """Every relation, with and without case, on every text of up to four of three letters."""
    words = [left + right for left in "abA" for right in ("", "a", "b", "A")]
    group = [Text(CMD, relation, word if cased else word.casefold(), cased)
             for relation in Relation for word in words for cased in (False, True)]
    scanner = scan.Scanner(enumerate(dict.fromkeys(group)))
    bits = list(enumerate(dict.fromkeys(group)))
    for length in range(5):
        for letters in itertools.product("abA", repeat=length):
            value = "".join(letters)
            expected = sum(1 << bit for bit, predicate in bits if reference.satisfied(predicate, value))
            assert scanner.classify(value) == expected, value


@settings(max_examples=400, deadline=None)
@given(st.lists(trees, min_size=1, max_size=6), st.lists(events(), min_size=1, max_size=6))
@example([all_of(Present(ANYWHERE), negate(Text(EXE, Relation.EQUALS, "")))], [document(process={"executable": ""})])
@example([TRUE, FALSE], [document()])
def test_matcher_equals_naive_reference(conditions, found):
    """Any rules on any documents, seen twice so that both the first and the remembered way are taken."""
    rules = [made(number, condition) for number, condition in enumerate(conditions)]
    matcher = Matcher(rules)
    for _ in range(2):
        for event in found:
            assert [rule.id for rule in matcher.match(event)] == [rule.id for rule in reference.match(rules, event)]


@settings(max_examples=150, deadline=None)
@given(st.lists(trees, min_size=1, max_size=4), events())
def test_way_for_any_shape_equals_the_fast_one(conditions, event):
    """The slow way agrees with the reference too, not only where it is needed."""
    rules = [made(number, condition) for number, condition in enumerate(conditions)]
    compiled = program.Program([(rule, routed(rule, EXEC)) for rule in rules])
    assert list(compiled.match_any_shape(event)) == reference.match(rules, event)


@settings(max_examples=300, deadline=None)
@given(trees, events())
def test_guards_change_no_truth(condition, event):
    """A guard is implied by what it guards."""
    assert reference.holds(guarded(condition), event) == reference.holds(condition, event)


@pytest.mark.parametrize(("pattern", "literals"), [
    (r"\s-[FTd]\s", {"-f", "-t", "-d"}),
    (r"-(W|R)\s?(\s|\"|')([0-9a-fA-F]{2}\s?){2,20}", {"-w", "-r"}),
    ("(.){200,}", set()),
    (r"(?:\s-[^-\s]{0,20}i|\s--inode\s)", set()),
    (r"(?:\s--directory|\s--inode\s)", {"--directory", "--inode"}),
    ("abc+", {"ab"}),
    ("(abc)+", {"abc"}),
    ("(abc)*x", set()),
    ("abc|", set()),
    ("ab|cd", {"ab", "cd"}),
    ("(ab", set()),
    ("[[:alpha:]]ab", set()),
    (r"\x61\x62cd", set()),
    ("(?i)abc", set()),
    ("ſſss", set()),
    ("x{0}yyy", {"yyy"}),
    ("(yyy){0,3}zz", {"zz"}),
    ("(yyy){1,3}zz", {"yyy"}),
    ("(yy){2}z", {"yy"}),
])
def test_necessary_literals_of_expressions(pattern, literals):
    """What every text that matches must contain; nothing where that isn't certain."""
    assert necessary_literals(pattern) == literals


def test_decisions_hold_no_expensive_predicate():
    """What has a bit is answered from the value; regular expressions never are."""
    rule = all_of(has(EXE, Relation.SUFFIX, "/curl"), Regex(CMD, r"\s-[FT]\s"))
    compiled = program.Program([(made(0, rule), rule)])
    assert all(is_cheap(predicate) for predicate in compiled._bits)
    assert any(not is_cheap(predicate) for predicate in predicates(rule))
