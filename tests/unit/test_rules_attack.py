"""What rules cover of ATT&CK: counted from their tags, shown as a matrix and as a Navigator layer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.cli import call
from sensor.rules import attack
from sensor.rules.condition import Present
from sensor.rules.model import Rule
from tests.unit.rules_helpers import made


def rule(number: int, *tags: str, silent: bool = False) -> Rule:
    techniques = tuple(tag.upper()[7:] for tag in tags if re.fullmatch(r"attack\.t[\d.]+", tag))
    return replace(made(number, Present("x")), tags=tags, techniques=techniques, silent=silent)


def matrix(*rules: Rule) -> dict[str, dict[str, list[str]]]:
    """Tactic -> technique or sub-technique -> names of its rules."""
    found = attack.coverage(rules)
    shown: dict[str, dict[str, list[str]]] = {}
    for tactic, row in found.tactics.items():
        cells = shown[tactic] = {}
        for one in row.values():
            cells[one.id] = [each.name for each in one.every]
            cells.update({each: [one.name for one in below] for each, below in one.below.items()})
    return shown


def test_subtechniques_stand_below_their_technique() -> None:
    """A technique has the rules of its sub-techniques, each rule once."""
    assert matrix(rule(1, "attack.execution", "attack.t1059.004", "attack.t1059.006"),
                  rule(2, "attack.execution", "attack.t1059")) == {
        "execution": {"T1059": ["Rule 2", "Rule 1"], "T1059.004": ["Rule 1"], "T1059.006": ["Rule 1"]}}


def test_rules_that_name_one_tactic_tell_where_a_technique_belongs() -> None:
    """Of a rule with two tactics and two techniques nobody else would know."""
    both = rule(1, "attack.persistence", "attack.execution", "attack.t1053.003", "attack.t1059.004")
    assert matrix(both) == {tactic: {name: ["Rule 1"] for name in ("T1053", "T1053.003", "T1059", "T1059.004")}
                            for tactic in ("execution", "persistence")}
    told = matrix(both, rule(2, "attack.persistence", "attack.t1053"), rule(3, "attack.execution", "attack.t1059.001"))
    assert set(told["persistence"]) == {"T1053", "T1053.003"}
    assert set(told["execution"]) == {"T1059", "T1059.004", "T1059.001"}


def test_tags_as_people_write_them() -> None:
    """Underscores of older rules, capitals, groups and other taxonomies."""
    found = matrix(rule(1, "attack.defense_evasion", "attack.t1070", "attack.g0001", "cve.2020-1", "attack.s0003"),
                   rule(2, "Attack.Defense-Evasion", "attack.t1070"), rule(3, "attack.t1485"))
    assert found == {"defense-evasion": {"T1070": ["Rule 1", "Rule 2"]}, "": {"T1485": ["Rule 3"]}}


def test_untagged_rules_are_counted_and_silent_ones_are_not() -> None:
    """A rule that serves a correlation raises nothing; the correlation has tags of its own."""
    found = attack.coverage([rule(1, "attack.impact"), rule(2, "cve.2020-1"),
                             rule(3, "attack.impact", "attack.t1485", silent=True)])
    assert (len(found.rules), [each.name for each in found.untagged]) == (2, ["Rule 2"])
    assert found.tactics == {"impact": {}}
    assert attack.lines(found)[0] == "Impact (TA0040): 0 techniques, 1 rule"


def test_tactics_are_in_the_order_of_an_attack_and_have_ids_of_their_own() -> None:
    """Fourteen of them in the enterprise matrix."""
    assert len({number for number, _ in attack.TACTICS.values()}) == len(attack.TACTICS) == 14
    assert list(matrix(rule(1, "attack.impact", "attack.t1485"), rule(2, "attack.execution", "attack.t1059"))) == [
        "execution", "impact"]


# Layer format 4.5: object -> property -> (type, whether it is required).
NUMBER = (int, float)
FORMAT: dict[str, dict[str, tuple[Any, bool]]] = {
    "layer": {"versions": (dict, False), "name": (str, True), "description": (str, False), "domain": (str, True),
              "customDataURL": (str, False), "filters": (dict, False), "sorting": (int, False), "layout": (dict, False),
              "hideDisabled": (bool, False), "techniques": (list, False), "gradient": (dict, False),
              "legendItems": (list, False), "showTacticRowBackground": (bool, False),
              "tacticRowBackground": (str, False), "selectTechniquesAcrossTactics": (bool, False),
              "selectSubtechniquesWithParent": (bool, False), "selectVisibleTechniques": (bool, False),
              "metadata": (list, False), "links": (list, False)},
    "versions": {"attack": (str, False), "navigator": (str, True), "layer": (str, True)},
    "filters": {"platforms": (list, False)},
    "layout": {"layout": (str, False), "showID": (bool, False), "showName": (bool, False),
               "showAggregateScores": (bool, False), "countUnscored": (bool, False), "aggregateFunction": (str, False),
               "expandedSubtechniques": (str, False)},
    "gradient": {"colors": (list, True), "minValue": (NUMBER, True), "maxValue": (NUMBER, True)},
    "techniques": {"techniqueID": (str, True), "tactic": (str, False), "comment": (str, False),
                   "enabled": (bool, False), "score": (NUMBER, False), "color": (str, False),
                   "metadata": (list, False), "links": (list, False), "showSubtechniques": (bool, False)},
    "legendItems": {"label": (str, True), "color": (str, True)},
    "metadata": {"name": (str, True), "value": (str, True)},
}


def conforms(kind: str, value: dict[str, Any]) -> None:
    """Every property is one of the format, of its type, and those that must be are there."""
    properties = FORMAT[kind]
    assert set(value) <= set(properties), kind
    for name, (expected, required) in properties.items():
        assert name in value or not required, (kind, name)
        if name in value:
            assert isinstance(value[name], expected), (kind, name)
            below = value[name] if isinstance(value[name], list) else [value[name]]
            for each in below:
                if isinstance(each, dict):
                    conforms(name, each)


tags = st.lists(st.sampled_from(["attack.execution", "attack.impact", "attack.t1059", "attack.t1059.004",
                                 "attack.t1485", "attack.t1070.001", "attack.nonsense"]), max_size=5)


@given(st.lists(tags, max_size=6))
def test_layer_conforms_to_format_4_5_and_counts_each_rule_once(tagged: list[list[str]]) -> None:
    """Scores are numbers of rules; the gradient's end is above its beginning, as the format wants."""
    rules = [rule(number, *each) for number, each in enumerate(tagged)]
    layer = json.loads(json.dumps(attack.layer(attack.coverage(rules), "name", "about")))
    conforms("layer", layer)
    assert layer["domain"] in ("enterprise-attack", "mobile-attack", "ics-attack")
    assert layer["versions"]["layer"] == "4.5"
    assert layer["gradient"]["maxValue"] > layer["gradient"]["minValue"]
    assert len(layer["gradient"]["colors"]) >= 2
    scores = {each["techniqueID"]: each["score"] for each in layer["techniques"]}
    assert len(scores) == len(layer["techniques"])
    assert scores == {
        technique: sum(any(mine == technique or mine.startswith(f"{technique}.") for mine in each.techniques)
                       for each in rules)
        for each in rules for mine in each.techniques for technique in (mine, mine.partition(".")[0])}


def test_command_shows_writes_and_dumps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default rules: the three forms agree."""
    file = tmp_path / "layer.json"
    assert call(["rules", "coverage", "--navigator", str(file)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert call(["rules", "coverage", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    layer = json.loads(file.read_text())
    conforms("layer", layer)
    assert last.startswith(f"{facts['techniques']} techniques and {facts['subtechniques']} sub-techniques in ")
    assert len(layer["techniques"]) == facts["techniques"] + facts["subtechniques"]
    assert facts["techniques"] > 20
    assert call(["rules", "coverage", "--navigator", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == layer


def test_a_layer_that_cannot_be_written_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the path and the reason."""
    assert call(["rules", "coverage", "--navigator", str(tmp_path)]) == 2
    assert "Is a directory" in capsys.readouterr().err
