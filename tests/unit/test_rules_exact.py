"""Rules over classes: expensive predicates are asked only where it matters, and rules come to the same end."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.classes import Classes
from sensor.process.users import Users
from sensor.rules import reference
from sensor.rules.condition import And, Condition, Glob, Not, Or, Present, Regex, Relation, Text, Wildcard
from sensor.rules.matcher import Matcher
from sensor.schema import BY_NAME
from tests.unit import native_cases as cases

LISTEN = BY_NAME["network_listen"]  # all that its documents tell of the program is one part
KEYS = ("process.executable", "process.command_line", "process.args", "process.args.1")
VALUES = ["/bin/ls", "/bin/sh", "ls -i /", "sh -c ls", "-i", "x" * 30, "LS", "", "/"]


def _leaf(key: str) -> st.SearchStrategy[Condition]:
    literal = st.sampled_from(["ls", "sh", "/bin/", "-i", "x", "/bin/ls"])
    return st.one_of(
        st.builds(Text, st.just(key), st.sampled_from(list(Relation)), literal, st.booleans()),
        st.just(Present(key)),
        st.sampled_from(["(.){20,}", r"\s-[^-\s]{0,3}i", "ls$", "^/", "[bs]h", "(?i)LS"]).map(
            lambda pattern: Regex(key, pattern)),
        st.sampled_from([(Glob.MANY, "ls", Glob.MANY), (Glob.ONE, Glob.MANY), ("/bin/", Glob.ONE, Glob.ONE)]).map(
            lambda parts: Wildcard(key, parts)))


CONDITIONS = st.recursive(
    st.sampled_from(KEYS).flatmap(_leaf), lambda inner: st.one_of(
        st.builds(Not, inner), *(st.lists(inner, min_size=2, max_size=4).map(
            lambda items, kind=kind: kind(tuple(items))) for kind in (And, And, Or))), max_leaves=8)


@given(st.lists(CONDITIONS, min_size=1, max_size=4), st.lists(st.fixed_dictionaries({}, optional={
    "executable": st.sampled_from(VALUES), "command_line": st.sampled_from(VALUES),
    "args": st.lists(st.sampled_from(VALUES), max_size=3)}), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_rules_come_to_the_same_end_as_when_everything_is_asked(conditions, programs):
    rules = [cases.rule(number, condition, [LISTEN]) for number, condition in enumerate(conditions)]
    made = Classes(Matcher(rules), Users(lambda _uid: None), lambda: 0)
    for facts in programs:
        document: dict[str, Any] = {"event": {"action": LISTEN.action}, "process": facts}
        assert _decided(made, facts) == [rule.id for rule in reference.match(rules, document)]


def _decided(made: Classes, facts: dict[str, Any]) -> list[str]:
    parts = made.plans[LISTEN.id].parts
    found = made.decide(LISTEN.id, tuple(part.classify(facts) for part in parts))
    assert len(parts) <= 1
    assert found is not Ellipsis
    return [rule.id for rule in found or ()]


def test_an_expensive_predicate_waits_for_what_stands_beside_it():
    """``ls`` with a long list of arguments: the expression is searched for in arguments of ``ls`` alone."""
    rule = cases.rule(0, And((
        Text("process.executable", Relation.SUFFIX, "/ls"), Regex("process.command_line", "(.){20,}"))), [LISTEN])
    part = Classes(Matcher([rule]), Users(lambda _uid: None), lambda: 0).plans[LISTEN.id].parts[0]
    (door, name, place, predicate), = part.costly
    assert (name, place, len(predicate.wants), predicate.door) == ("command_line", None, 1, door)
    long = {"command_line": "x" * 30}
    bits = [part.sets[part.classify({**long, "executable": path})] for path in ("/bin/sh", "/bin/ls")]
    assert [bool(found & predicate.bit) for found in bits] == [False, True]


def test_what_stands_in_another_part_is_no_reason_not_to_ask():
    """The path of the file is another part than the program: of neither is known what the other says."""
    rule = cases.rule(0, And((
        Text("process.executable", Relation.SUFFIX, "/ls"), Regex("file.path", "(.){20,}"))), [BY_NAME["file_mkdir"]])
    parts = Classes(Matcher([rule]), Users(lambda _uid: None), lambda: 0).plans[BY_NAME["file_mkdir"].id].parts
    doors = [door for part in parts for door, *_ in part.costly]
    assert doors == [-1]
