"""Rule sets as plain data: what is written is read back, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.resources import rules_dir
from sensor.rules import content, guards, plain
from sensor.rules.condition import And, Or, Predicate, Present, Regex, Relation, Text
from sensor.rules.falco.model import FalcoRule, FalcoUnsupported
from sensor.rules.model import Refused, RuleSet, Unsupported
from tests.conftest import shared_data
from tests.unit.rules_helpers import made, trees


def rule_set(*conditions: Any) -> RuleSet:
    return RuleSet(tuple(made(number, tree) for number, tree in enumerate(conditions)), (), ())


@given(st.lists(trees, max_size=4))
def test_any_condition_comes_back_as_it_was(conditions: list[Any]) -> None:
    """Equal, and shown to people in the same words."""
    rules = rule_set(*conditions)
    back = plain.load(plain.dump(rules))
    assert back == rules
    assert repr(back) == repr(rules)  # 1 and 1.0 are equal, and not the same


def test_what_was_found_of_an_expression_is_kept_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading expressions takes a fifth of a start from the cache."""
    data = plain.dump(rule_set(Regex("process.name", "^(?:nc|ncat) -e"), Regex("process.name", "a*")))
    monkeypatch.setattr(guards, "necessary_literals", None)
    one, other = (rule.condition for rule in plain.load(data).rules)
    assert guards.guards_of(one) == [Or(tuple(Text("process.name", Relation.CONTAINS, text)
                                              for text in ("nc -e", "ncat -e")))]
    assert guards.guards_of(other) == []


def test_every_kind_of_predicate_can_be_written() -> None:
    """A kind that was added to conditions alone would be refused by the cache, and by each reload."""
    assert {kind.__name__ for kind in get_args(Predicate)} == set(plain.KINDS)


def test_the_default_rules_come_back_as_they_were() -> None:
    """Correlations with their digests, references and places too."""
    rules = content.load(content.discover([str(rules_dir())]))
    assert rules.correlations
    assert plain.load(plain.dump(rules)) == rules


def test_the_public_rules_come_back_as_they_were() -> None:
    """Sigma's and Falco's."""
    paths = [str(shared_data("sigma", "linux")), str(shared_data("falco", "falco_rules.yaml"))]
    rules = content.load(content.discover(paths))
    assert any(isinstance(rule, FalcoRule) for rule in rules.rules)
    back = plain.load(plain.dump(rules))
    assert repr(back) == repr(rules)


def test_what_was_refused_and_names_that_are_no_text_come_back() -> None:
    """File names have any bytes; refusals are shown after a reload too."""
    rules = RuleSet((), (Refused("a\udcff.yml", None, "", "why"), Refused("b", 3, "name", "why")),
                    (Unsupported("c", "r", "s", "why"), FalcoUnsupported("d", "r", "s", "why", 7)), filters=2)
    assert plain.load(plain.dump(rules)) == rules


def test_equal_parts_stand_once() -> None:
    """Filters that many rules share cost their size once."""
    part = Or(tuple(Present(f"field{number}") for number in range(50)))
    one, many = plain.dump(rule_set(part)), plain.dump(rule_set(*[And((part, Present("x")))] * 20))
    assert len(json.loads(many)["nodes"]) == len(json.loads(one)["nodes"]) + 2


json_values = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
                           lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=5)


@given(st.data())
def test_data_with_anything_replaced_is_read_as_a_rule_set_or_refused(data: st.DataObject) -> None:
    """No other exception, whatever a child that has been taken over writes."""
    raw = json.loads(plain.dump(rule_set(And((Present("a"), Regex("b", "c"))), Or((Present("a"),)))))
    node: Any = raw
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(json_values)
            break
        node = node[key]
    try:
        found = plain.load(json.dumps(raw).encode())
    except plain.NotPlain:
        return
    assert isinstance(found, RuleSet)
    for rule in found.rules:
        assert all(isinstance(value, str) for value in (rule.id, rule.name, rule.level, *rule.events, *rule.tags))


@pytest.mark.parametrize("text", [b"", b"[" * 50_000, b"[]", b"{}", b'{"format":2}', b"\xff", b"9" * 5000])
def test_other_data_is_refused(text: bytes) -> None:
    """Among them what ends parsers that recurse."""
    with pytest.raises(plain.NotPlain):
        plain.load(text)


def doubled(levels: int) -> bytes:
    """A condition each level of which holds the one below twice: 2**levels parts when written out."""
    raw = json.loads(plain.dump(rule_set(Present("a"))))
    raw["nodes"] += [["And", number, number] for number in range(levels)]
    raw["rules"][0][13] = levels
    return json.dumps(raw).encode()


def test_a_small_file_that_stands_for_a_huge_condition_is_refused() -> None:
    """What is shared in the file is walked as often as it is used."""
    assert plain.load(doubled(3)).rules[0].condition
    with pytest.raises(plain.NotPlain, match="parts"):
        plain.load(doubled(40))


def test_a_condition_nested_deeper_than_the_stack_is_refused() -> None:
    """A list has no depth; what it describes has."""
    raw = json.loads(plain.dump(rule_set(Present("a"))))
    raw["nodes"] += [["Not", number] for number in range(5000)]
    raw["rules"][0][13] = 5000
    with pytest.raises(plain.NotPlain, match="deep"):
        plain.load(json.dumps(raw).encode())


@pytest.mark.parametrize("number", [-1, 1, 10**30, True, "0", None, 0.0])
def test_a_condition_refers_to_earlier_ones_only(number: Any) -> None:
    """No cycle can be written."""
    raw = json.loads(plain.dump(rule_set(Present("a"))))
    raw["nodes"].append(["Not", number])
    if number == 1 and number is not True:
        raw["nodes"][1] = ["Not", 1]
    with pytest.raises(plain.NotPlain):
        plain.load(json.dumps(raw).encode())


def test_an_expression_that_the_engine_cannot_use_is_told_by_the_check() -> None:
    """It would end the engine at the first event that needs it."""
    bad = rule_set(Regex("process.command_line", "("))
    assert plain.load(plain.dump(bad)) == bad
    with pytest.raises(plain.NotPlain):
        plain.check(bad)
    plain.check(rule_set(Regex("process.command_line", "a+"), Present("a")))
    plain.check(replace(bad, rules=()))
