"""Correlations against plain reasoning: order, doubles, bounds, reload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.pipeline import Pipeline
from sensor.rules.correlation import IDS, Correlator
from sensor.rules.correlation_state import StateLimits
from sensor.rules.matcher import Matcher
from sensor.rules.model import RuleSet
from tests.unit.correlation_helpers import (
    SECOND,
    START,
    Event,
    after_the_time,
    counting,
    distinct,
    document,
    feed,
    in_order,
    loaded,
    one_by_one,
    plain,
    text,
)

SPAN = 10
ABC = "[prog_a, prog_b, prog_c]"
KINDS = {
    "count": text("event_count", "{gte: 3}", ABC),
    "more": text("event_count", "{gt: 3}", ABC),
    "values": text("value_count", "{gte: 3, field: process.name}", ABC),
    "all": text("temporal", "", ABC),
    "two": text("temporal", "{gte: 2}", ABC),
    "ordered": text("temporal_ordered", "", ABC),
    "few": text("event_count", "{lt: 3}", ABC),
    "exact": text("event_count", "{eq: 2}", ABC),
    "other": text("event_count", "{neq: 2}", ABC),
    "value": text("value_count", "{lte: 1, field: process.name}", ABC),
    "either": text("temporal", "prog_a and (prog_b or prog_c)", ABC),
    "without": text("temporal", "prog_a and not prog_b", "[prog_a, prog_b]"),
    "steps": text("temporal_ordered", "prog_a and (prog_b or prog_c)", ABC),
}


class Sets(dict[str, RuleSet]):
    """Rule sets by name, short where an example that fails is shown."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    found = Sets((name, loaded(tmp_path_factory.mktemp(name), each)) for name, each in KINDS.items())
    assert all(not each.refused and len(each.correlations) == 1 for each in found.values())
    return found


def correlator(rules: RuleSet, limits: StateLimits | None = None) -> Correlator:
    return Correlator(rules.correlations, limits)


_event = st.tuples(st.integers(0, 60), st.sampled_from("abc"), st.sampled_from("gh"), st.sampled_from("uvwx"))


@st.composite
def arrivals(draw: st.DrawFn, disorder: int = SPAN, programs: str = "abc") -> list[Event]:
    """Events, each at most so many seconds behind one that came before it, and some of them twice.

    Of one group alone where they come later than a timespan: a group that has been idle for two of them is forgotten.
    """
    drawn = draw(st.lists(_event, max_size=30))
    events = [Event(at, f"e{number}", programs[ord(program) % len(programs)], group if disorder <= SPAN else "g", value)
              for number, (at, program, group, value) in enumerate(drawn)]
    events += [events[number % len(events)] for number in draw(st.lists(st.integers(0, 29), max_size=5)) if events]
    delays = draw(st.lists(st.integers(0, disorder), min_size=len(events), max_size=len(events)))
    return [event for _, event in sorted(zip(delays, events, strict=True), key=lambda pair: pair[0] + pair[1].at)]


@pytest.mark.parametrize(("name", "find"), [
    ("count", counting(3)), ("more", counting(4)), ("ordered", in_order("abc"))])
@given(events=st.sampled_from([0, SPAN, 4 * SPAN]).flatmap(arrivals))
def test_counts_and_orders_equal_plain_reasoning_in_any_order(sets, name, find, events):
    """Same alerts, of the same events, at the same moment, whatever order the events come in."""
    rules = sets[name]
    assert plain(feed(correlator(rules), rules.rules, events)) == one_by_one(events, SPAN, find)


DISTINCT = [("values", 3, "value"), ("all", 3, "program"), ("two", 2, "program")]


@pytest.mark.parametrize(("name", "least", "what"), DISTINCT)
@given(events=arrivals(disorder=0))
def test_distinct_values_and_rules_equal_plain_reasoning(sets, name, least, what, events):
    """In order and with doubles: the same windows, though repeated values are not all kept."""
    rules = sets[name]
    found = [(group, first) for group, first, _ in plain(feed(correlator(rules), rules.rules, events))]
    assert found == [(group, first) for group, first, _ in one_by_one(events, SPAN, distinct(least, what))]


@pytest.mark.parametrize(("name", "least", "what"), DISTINCT)
@given(events=arrivals())
def test_distinct_values_out_of_order_are_told_where_there_are_enough(sets, name, least, what, events):
    """A group has an alert if and only if some window of all its events has enough, and then of such a window."""
    rules = sets[name]
    firings = feed(correlator(rules), rules.rules, events)
    enough = {event.group for event in events for first in range(event.at - SPAN, event.at + 1)
              if len({getattr(each, what) for each in events
                      if each.group == event.group and first <= each.at <= first + SPAN}) >= least}
    assert {firing.group[0][1] for firing in firings} == enough
    by_id = {event.id: event for event in events}
    for firing in firings:
        made = [by_id[each] for each in firing.ids]
        assert len({getattr(each, what) for each in made}) == firing.count >= least
        assert firing.last_ns - firing.first_ns <= SPAN * SECOND
        assert {each.group for each in made} == {firing.group[0][1]}


def _programs(window: list[Event]) -> set[str]:
    return {each.program for each in window}


@pytest.mark.parametrize(("name", "holds"), [
    ("few", lambda window: len(window) < 3), ("exact", lambda window: len(window) == 2),
    ("other", lambda window: len(window) != 2), ("value", lambda window: len({each.value for each in window}) <= 1)])
@given(data=st.data())
def test_conditions_that_more_events_undo_are_judged_when_the_time_is_over(sets, name, holds, data):
    """Windows that are over when the last event has come, and no other, in any order within the timespan."""
    events = data.draw(arrivals())
    rules = sets[name]
    under_test = correlator(rules)
    found = feed(under_test, rules.rules, events) + under_test.finish()
    assert sorted((group, first) for group, first, _ in plain(found)) == after_the_time(events, SPAN, holds)
    assert all(firing.late for firing in found)


@given(events=arrivals(programs="ab"))
def test_a_rule_that_must_not_match_is_waited_for(sets, events):
    """``a and not b`` is not told before b can come no more."""
    rules = sets["without"]
    under_test = correlator(rules)
    found = feed(under_test, rules.rules, events) + under_test.finish()
    expected = after_the_time(events, SPAN, lambda window: _programs(window) == {"a"})
    assert sorted((group, first) for group, first, _ in plain(found)) == expected


@given(events=arrivals())
def test_expressions_hold_in_the_windows_that_are_told(sets, events):
    """Alternatives, unordered and in order: told in the groups where some window holds."""
    rules = sets["either"]
    groups = {firing.group[0][1] for firing in feed(correlator(rules), rules.rules, events)}
    assert groups == {event.group for event in events for first in range(event.at - SPAN, event.at + 1)
                      if (got := _programs([each for each in events if each.group == event.group
                                            and first <= each.at <= first + SPAN])) >= {"a"} and got & {"b", "c"}}
    rules = sets["steps"]
    groups = {firing.group[0][1] for firing in feed(correlator(rules), rules.rules, events)}
    assert groups == {one.group for one in events for other in events if one.group == other.group
                      and one.program == "a" and other.program in "bc" and 0 < other.at - one.at <= SPAN}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_reload_in_the_middle_changes_nothing(sets, name, data):
    """What was exported as JSON and adopted by a new correlator goes on as if nothing had happened."""
    events = [event for event in data.draw(arrivals()) if event.program in "ab" or name != "without"]
    cut = data.draw(st.integers(0, len(events)))
    rules = sets[name]
    whole = correlator(rules)
    expected = feed(whole, rules.rules, events) + whole.finish()
    first, second = correlator(rules), correlator(rules)
    found = feed(first, rules.rules, events[:cut])
    assert second.adopt(json.loads(json.dumps(first.export()))) == 1
    assert (len(second), second.entries, second.bytes) == (len(first), first.entries, first.bytes)
    found += feed(second, rules.rules, events[cut:]) + second.finish()
    assert found == expected


def test_reload_keeps_state_of_unchanged_correlations_alone(tmp_path: Path):
    """Same rule, same state; another threshold, another detection below it, or another id, none."""
    old = loaded(tmp_path, KINDS["count"])
    events = [Event(1, "x"), Event(2, "y")]

    def goes_on(new: RuleSet) -> bool:
        pipeline = Pipeline(Matcher(old.rules), correlator=Correlator(old.correlations))
        for event in events:
            assert pipeline.feed_document(document(event)) == []
        pipeline.use(Matcher(new.rules), Correlator(new.correlations))
        return bool(pipeline.feed_document(document(Event(3, "z"))))

    assert goes_on(loaded(tmp_path, KINDS["count"]))
    assert goes_on(loaded(tmp_path, KINDS["count"].replace("level: high", "level: low")))
    assert not goes_on(loaded(tmp_path, text("event_count", "{gte: 03}", ABC, timespan="11s")))
    assert not goes_on(loaded(tmp_path, KINDS["count"].replace("-9000-", "-9001-")))
    (tmp_path / "filter.yml").write_text("title: F\nlogsource: {category: process_creation}\n"
                                         "filter: {rules: [prog_a], s: {User: root}, condition: not s}")
    assert not goes_on(loaded(tmp_path, KINDS["count"]))


# Bounds ---------------------------------------------------------------------------------------------


def sizes(under_test: Correlator) -> int:
    """Bytes as they would be counted anew."""
    fresh = Correlator([state.correlation for state in under_test._states.values()],
                       StateLimits(groups=1 << 30, bytes=1 << 40))
    fresh.adopt(under_test.export())
    assert fresh.entries == under_test.entries == sum(
        len(group.entries) for state in under_test._states.values() for group in state.groups.values())
    return fresh.bytes


@pytest.mark.parametrize("name", ["count", "values", "ordered", "few"])
def test_flood_of_groups_is_bounded_and_counted(sets, name):
    """Any number of groups costs what the limit says; those idle longest go first, each is counted."""
    rules = sets[name]
    under_test = correlator(rules, StateLimits(groups=100, bytes=1 << 20))
    feed(under_test, rules.rules, (Event(30, f"e{number}", "abc"[number % 3], f"g{number}") for number in range(5_000)))
    assert len(under_test) == 100
    assert under_test.counters.evicted["groups"] == 4_900
    assert under_test.bytes == sizes(under_test) <= 1 << 20
    assert {row[0][0] for row in next(iter(under_test.export()["correlations"].values()))} == {
        f"g{number}" for number in range(4_900, 5_000)}


@pytest.mark.parametrize("name", ["more", "values", "few"])
def test_bytes_are_bounded_whatever_the_texts(sets, name):
    """Long values and ids count with their length, and the sum stays below the limit."""
    rules = sets[name]
    under_test = correlator(rules, StateLimits(bytes=100_000))
    for number in range(2_000):
        feed(under_test, rules.rules, [Event(30, "i" * (number % 700) + str(number), "a", "g" * (number % 900),
                                             "v" * (number % 1_000) + str(number % 2))])
        assert under_test.bytes <= 100_000
    assert under_test.counters.evicted["bytes"] > 0
    assert under_test.bytes == sizes(under_test)


def test_events_of_one_group_are_bounded(sets):
    """The oldest go first; a window that lost some is not judged, and counted."""
    rules = sets["few"]
    under_test = correlator(rules, StateLimits(events=50))
    feed(under_test, rules.rules, (Event(30, f"e{number}") for number in range(1_000)))
    assert under_test.entries == 50
    assert under_test.counters.evicted["events"] == 950
    assert feed(under_test, rules.rules, [Event(90, "last")]) == []
    assert under_test.counters.unjudged == 1


def test_repetition_pushes_nothing_out(sets):
    """A port scan among ten thousand connections to one port is still one."""
    rules = sets["values"]
    under_test = correlator(rules, StateLimits(events=50))
    events = [Event(30, "first", value="1"), Event(31, "second", value="2")]
    events += [Event(32, f"e{number}", value="1") for number in range(5_000)]
    assert feed(under_test, rules.rules, events) == []
    assert under_test.entries <= 4
    assert len(feed(under_test, rules.rules, [Event(33, "third", value="3")])) == 1
    assert under_test.counters.evicted == {"groups": 0, "events": 0, "bytes": 0}


def test_repeated_value_is_kept_where_a_late_event_can_need_it(sets):
    """The middle one of three that are further apart than a timespan is in a window without the others."""
    rules = sets["values"]
    events = [Event(at, f"e{at}", value=value) for at, value in ((30, "v"), (36, "v"), (42, "v"), (41, "w"), (31, "u"))]
    assert len(feed(correlator(rules), rules.rules, events)) == 1


def test_groups_whose_time_is_over_leave_without_being_counted(sets):
    """Leaving is no eviction where nothing is lost by it."""
    rules = sets["count"]
    under_test = correlator(rules, StateLimits(groups=10))
    feed(under_test, rules.rules, (Event(number * 10, f"e{number}", "a", f"g{number}") for number in range(500)))
    assert len(under_test) <= 10
    assert under_test.counters.evicted["groups"] == 0


@pytest.mark.parametrize(("change", "reason"), [
    ({"@timestamp": None}, "undated"), ({"@timestamp": "yesterday"}, "undated"), ({"@timestamp": 5}, "undated"),
    ({"user": {}}, "ungrouped"), ({"user": "root"}, "ungrouped"), ({"user": {"name": [None]}}, "ungrouped")])
def test_events_that_can_not_be_placed_are_counted(sets, change: dict[str, Any], reason: str):
    """No time or no group: the event belongs to no window, and is not lost silently."""
    rules = sets["count"]
    under_test = correlator(rules)
    for number in range(5):
        assert under_test.feed({**document(Event(1, f"e{number}")), **change}, [rules.rules[0]]) == []
    assert under_test.counters.dropped[reason] == 5
    assert under_test.entries == 0


@given(value=st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
                          lambda inner: st.one_of(st.lists(inner, max_size=3),
                                                  st.dictionaries(st.text(max_size=3), inner, max_size=3))))
def test_no_shape_of_a_document_raises(sets, value):
    """Whatever stands where an id, a time or a group should."""
    for name in ("count", "few", "ordered"):
        rules = sets[name]
        under_test = correlator(rules)
        good = document(Event(1, "e"))
        for bad in ({**good, "user": {"name": value}}, {**good, "@timestamp": value}, {**good, "event": value},
                    {**good, "user": value}, {**good, "event": {"id": value}}):
            under_test.feed(bad, rules.rules[:1])
        assert under_test.bytes == sizes(under_test)


# Alerts ---------------------------------------------------------------------------------------------


def run(rules: RuleSet, events: list[Event]) -> list[dict[str, Any]]:
    """Alerts of a pipeline."""
    pipeline = Pipeline(Matcher(rules.rules), correlator=Correlator(rules.correlations))
    alerts = [alert for event in events for alert in pipeline.feed_document(document(event))]
    alerts += pipeline.finish()
    assert pipeline.counters.alerts == len(alerts)
    return alerts


def test_alert_names_rule_group_count_times_and_events(sets):
    """The event that completed it, with what a person wants to know about the others."""
    events = [Event(10, "x", "a"), Event(14, "y", "b"), Event(12, "z", "c")]
    (alert,) = run(sets["count"], events)
    assert alert["rule"] == {"id": "00000000-0000-4000-9000-000000000000", "name": "Correlation 0", "level": "high"}
    assert alert["event"]["kind"] == "alert"
    assert alert["event"]["id"] == "z"
    assert (alert["event"]["start"], alert["event"]["end"]) == (
        "2026-01-01T00:00:10.000000000Z", "2026-01-01T00:00:14.000000000Z")
    found = alert["sensor"]["correlation"]
    assert {key: found[key] for key in found if key != "id"} == {
        "type": "event_count", "count": 3, "events": ["x", "z", "y"], "events_count": 3, "timespan": 10,
        "group": [{"field": "User", "value": "g"}]}


def test_alert_after_the_time_stands_for_no_event(sets):
    """Its time is that of the last event, not of the one that showed the time to be over."""
    (alert,) = run(sets["few"], [Event(10, "x"), Event(12, "y"), Event(31, "z", group="h")])
    assert alert["@timestamp"] == alert["event"]["end"] == "2026-01-01T00:00:12.000000000Z"
    assert "process" not in alert
    assert alert["sensor"]["correlation"]["events"] == ["x", "y"]


def test_ids_in_an_alert_are_bounded(tmp_path: Path):
    """The first ones are named, all are counted."""
    rules = loaded(tmp_path, text("event_count", "{gte: 200}"))
    (alert,) = run(rules, [Event(1, f"e{number}") for number in range(200)])
    found = alert["sensor"]["correlation"]
    assert (len(found["events"]), found["events_count"], found["count"]) == (IDS, 200, 200)


def test_one_alert_a_timespan_in_a_flood(sets):
    """What comes within the timespan of an alert belongs to it."""
    rules = sets["count"]
    under_test = correlator(rules)
    found = feed(under_test, rules.rules, (Event(number // 100, f"e{number}") for number in range(3_300)))
    assert [(firing.first_ns - START) // SECOND for firing in found] == [0, 11, 22]
    assert under_test.counters.absorbed == 3_300 - 9


def test_rules_referred_to_are_silent_unless_generate_says_otherwise(tmp_path: Path):
    """As Sigma has it; a rule that one of its correlations lets speak, speaks."""
    events = [Event(1, "x"), Event(2, "y", "b")]
    quiet = text("event_count", "{gte: 1}", "prog_a", number=1)
    assert [alert["rule"]["name"] for alert in run(loaded(tmp_path, quiet), events)] == ["Correlation 1", "Program b"]
    loud = quiet.replace("type:", "generate: true\n  type:")
    assert len(run(loaded(tmp_path, loud), events)) == 3
    other = text("event_count", "{gte: 5}", "prog_a", number=2)
    assert len(run(loaded(tmp_path, loud, other), events)) == 3


def test_correlation_of_correlations(tmp_path: Path):
    """Two counts of one user, one after the other, with names of their own for the group."""
    rules = loaded(
        tmp_path,
        text("event_count", "{gte: 2}", "prog_a", number=1),
        text("event_count", "{gte: 2}", "prog_b", number=2, group_by="[user.name]"),
        text("temporal_ordered", "", "[corr_1, corr_2]", number=3, group_by="[who]", timespan="1m",
             more="  aliases:\n    who:\n      corr_1: User\n      corr_2: user.name"))
    assert rules.refused == ()
    events = [Event(at, f"{program}{group}{at}", program, group)
              for at, program in ((1, "a"), (2, "a"), (20, "b"), (21, "b")) for group in "gh"]
    alerts = run(rules, events)
    assert [(alert["rule"]["name"], alert["sensor"]["correlation"]["group"]) for alert in alerts] == [
        ("Correlation 3", [{"field": "who", "value": group}]) for group in "gh"]
    assert (alerts[0]["event"]["start"][-13:], alerts[0]["event"]["end"][-13:]) == ("02.000000000Z", "21.000000000Z")
    assert run(rules, [event for event in events if event.at < 21]) == []


def test_aliases_give_each_rule_its_own_field(tmp_path: Path):
    """One group over fields of different names."""
    rules = loaded(tmp_path, text("temporal", "", "[prog_a, prog_b]", group_by="[who]",
                                  more="  aliases:\n    who:\n      prog_a: User\n      prog_b: process.name"))
    assert len(run(rules, [Event(1, "x", "a", group="ann"), Event(2, "y", "b", value="ann")])) == 1
    assert run(rules, [Event(1, "x", "a", group="ann"), Event(2, "y", "b", group="ann")]) == []


# Refusals -------------------------------------------------------------------------------------------



@pytest.mark.parametrize(("correlation", "key", "reason"), [
    (text("value_sum", "{gte: 3, field: User}"), "type", "correlations of type value_sum are not evaluated"),
    (text("event_cont", "{gte: 3}"), "type", "no valid sigma correlation type"),
    (text("event_count", "{gte: 3}", "prog_x"), "rules", "refers to prog_x, but no rule"),
    (text("event_count", "{gte: 3}", "corr_0"), "rules", "refers back to it"),
    (text("event_count", "{gte: 3}", "[prog_a, 00000000-0000-4000-8000-000000000000]"), "rules", "a rule twice"),
    (text("event_count", "{gte: 3}", group_by="[Usr]"), "group-by", "unknown field Usr (did you mean User?)"),
    (text("value_count", "{gte: 3, field: Imagee}"), "condition", "unknown field Imagee (did you mean Image?)"),
    (text("event_count", "{gte: 5000}"), "condition", "from 0 to 4096"),
    (text("event_count", "{gte: 2.5}"), "condition", "an integer"),
    (text("event_count", "{lt: 1}"), "condition", "can never be fulfilled"),
    (text("temporal", "{gte: 3}", "[prog_a, prog_b]"), "condition", "can never be fulfilled"),
    (text("temporal_ordered", "{gte: 1}", "[prog_a, prog_b]"), "condition", "fulfilled by all of them"),
    (text("temporal_ordered", "prog_a and not prog_b", "[prog_a, prog_b]"), "condition", "no place in an order"),
    (text("event_count", "{gte: 3}", timespan="2y"), "timespan", "longer than 31 days"),
    (text("event_count", "{gte: 3}", timespan="soon"), "timespan", "invalid"),
    (text("event_count", "{gte: 3}", ABC, more="  aliases:\n    User:\n      prog_a: User"), "aliases", "no field for"),
    (text("temporal", "prog_a and", "[prog_a]"), "condition", "failed to parse"),
])
def test_refused_with_line_and_reason(tmp_path: Path, correlation: str, key: str, reason: str):
    """The line of the key at fault, and what is wrong with it; the other rules stay."""
    rules = loaded(tmp_path, correlation)
    (refused,) = rules.refused
    assert reason.lower() in refused.reason.lower()
    wanted = next(number for number, line in enumerate((tmp_path / "rules.yml").read_text().splitlines(), 1)
                  if number > 17 and line.strip().startswith(key + ":"))
    assert refused.line == wanted
    assert (len(rules.rules), rules.correlations) == (3, ())
    assert not any(rule.silent for rule in rules.rules)


def test_correlation_over_a_foreign_rule_is_unsupported(tmp_path: Path):
    """The rule that it needs is sound, only not for this sensor."""
    foreign = ("title: W\nname: logon\nlogsource: {product: windows, service: security}\n"
               "detection: {s: {EventID: 1}, condition: s}")
    rules = loaded(tmp_path, foreign, text("event_count", "{gte: 3}", "logon"))
    assert rules.refused == ()
    assert [each.logsource for each in rules.unsupported] == ["product=windows service=security", "correlation"]


def test_names_that_mean_two_rules_are_refused_where_they_are_used(tmp_path: Path):
    """An id always means one."""
    twin = "title: T\nname: prog_a\nlogsource: {category: process_creation}\ndetection: {s: {Image: x}, condition: s}"
    (refused,) = loaded(tmp_path, twin, text("event_count", "{gte: 3}", "prog_a")).refused
    assert "the name of several rules" in refused.reason


def test_loops_and_depth_of_references_are_refused(tmp_path: Path):
    """Whatever correlations refer to each other in a circle, or too deep, none of them is loaded."""
    circle = [text("event_count", "{gte: 1}", f"corr_{(number + 1) % 3}", number=number) for number in range(3)]
    rules = loaded(tmp_path, *circle)
    assert rules.correlations == ()
    assert len(rules.refused) == 3
    deep = [text("event_count", "{gte: 1}", f"corr_{number + 1}" if number < 9 else "prog_a", number=number)
            for number in range(10)]
    rules = loaded(tmp_path, *deep)
    assert any("more than 8 levels" in each.reason for each in rules.refused)


def test_expression_of_too_many_sequences_is_refused(tmp_path: Path):
    """Alternatives multiply."""
    wide = " and ".join(["(prog_a or prog_b or prog_c)"] * 8)
    (refused,) = loaded(tmp_path, text("temporal_ordered", wide, ABC)).refused
    assert "more than 64 sequences" in refused.reason


