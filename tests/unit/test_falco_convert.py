"""Falco's rules as Sigma: the same matches on the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules import sigma
from sensor.rules.condition import FALSE
from sensor.rules.falco.model import FalcoRule
from sensor.rules.falco.tosigma import CannotConvert, convert
from sensor.rules.model import Rule
from sensor.rules.reference import match
from sensor.rules.yamlsafe import documents
from tests.unit.falco_helpers import Host, rule
from tests.unit.rules_helpers import made, predicates, trees
from tests.unit.test_falco_corpus import CASES, loaded


def again(text: str) -> list[Rule]:
    """The rules of converted text, which must all be accepted."""
    found = [sigma.read(document, "converted.yml") for document in documents(text)]
    assert all(isinstance(each, Rule) for each in found), found
    return found  # type: ignore[return-value]


def test_converted_stable_rules_match_what_the_originals_match() -> None:
    """Each of the rules on each of the events that any of them is tested with."""
    host = Host()
    events = [event for make in CASES.values() for group in make(host) for event in group]
    assert len(events) > 100
    without_words = set()
    for original in loaded().rules:
        assert isinstance(original, FalcoRule)
        try:
            converted = again(convert(original))
        except CannotConvert as error:
            assert "Sigma has no words for" in str(error)
            without_words.add(original.name)
            continue
        assert [each.level for each in converted] == [original.level] * len(original.events)
        for event in events:
            assert bool(match(converted, event)) == bool(match([original], event)), (original.name, event)
    # Single bits, and the time between two fields.
    assert without_words == {"Read sensitive file trusted after startup", "Linux Kernel Module Injection Detected",
                             "Detect release_agent File Container Escapes"}


def test_rule_for_several_events_becomes_several() -> None:
    """Each with an id of its own, and only its own events."""
    original = rule("evt.type in (connect, accept, mkdir) and proc.name = nc")
    text = convert(original)
    converted = again(text)
    assert len({each.id for each in converted} | {original.id}) == 4
    assert {each.name for each in converted} == {
        "A rule (file-mkdir)", "A rule (network-connect)", "A rule (network-accept)"}
    host = Host()
    pid, _ = host.run("nc")
    hits = [len(match(converted, event)) for event in (
        host.connects(pid, "10.0.0.1", 1), host.does("file_mkdir", pid, path="/x"), host.does("network_bind", pid))]
    assert hits == [1, 1, 0]


def test_rule_for_an_event_without_a_log_source_is_refused() -> None:
    """Sigma has no category for forks."""
    with pytest.raises(CannotConvert, match="no log source of Sigma has the event process-fork"):
        convert(rule("evt.type = clone and proc.name = nc"))


@given(st.one_of(predicates, trees), st.data())
def test_any_condition_says_the_same_in_sigma(condition: object, data: st.DataObject) -> None:
    """Random trees: converted and read again they match the same random events, or are refused with a reason."""
    from tests.unit import rules_helpers

    if condition == FALSE:
        return
    plain = made(1, condition)  # type: ignore[arg-type]
    original = FalcoRule(*(getattr(plain, name) for name in (
        "id", "name", "level", "description", "references", "tags", "techniques", "falsepositives", "path", "line",
        "categories", "events", "condition")))
    original = FalcoRule(**{**{name: getattr(original, name) for name in FalcoRule.__dataclass_fields__},
                            "id": "00000000-0000-4000-8000-000000000001"})
    try:
        text = convert(original)
    except CannotConvert as error:
        assert str(error)
        return
    converted = again(text)
    for _ in range(3):
        event = data.draw(rules_helpers.events())
        assert bool(match(converted, event)) == bool(match([original], event)), text
