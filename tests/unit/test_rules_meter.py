"""What rules cost is estimated from samples, and who takes too much is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.rules.condition import Regex, Relation, Text, all_of
from sensor.rules.matcher import Matcher
from sensor.rules.meter import (
    ALERTS,
    COSTLY_NS,
    CPU_TIME,
    LEAST_SAMPLES,
    SAMPLE_NS,
    WINDOW_NS,
    Budget,
    Meter,
    Over,
    Watch,
)
from sensor.rules.model import Rule
from sensor.rules.reference import holds
from tests.unit.rules_helpers import document, events, made, trees

SECOND = 1_000_000_000
COMMAND = "process.command_line"
#: The second needs its expression where the word is there, the first never.
RULES = [made(0, Text(COMMAND, Relation.CONTAINS, "nc")), made(1, all_of(
    Text(COMMAND, Relation.CONTAINS, "curl"), Regex(COMMAND, "https?://[0-9.]+/")))]
CURL, OTHER = document(process={"command_line": "curl http://1.2.3.4/x"}), document(process={"command_line": "nc -l"})


def seen(count: int) -> dict[str, int]:
    """As many events of the kind that these documents are, among others."""
    return {CURL["event"]["action"]: count, "file-open": 1_000_000}


class Clock:
    """Goes on by as much each time that it is read."""

    def __init__(self, step: int) -> None:
        self.now, self.step = 0, step

    def __call__(self) -> int:
        self.now += self.step
        return self.now


def test_only_rules_that_test_an_event_themselves_are_charged() -> None:
    """Words are found for all rules at once; an expression is one rule's."""
    meter = Meter(Clock(1000))
    meter.sample(Matcher(RULES), OTHER, seen(1), 0)
    assert meter.nanoseconds == {}
    meter.sample(Matcher(RULES), CURL, seen(2), SAMPLE_NS)
    assert (meter.nanoseconds, meter.evaluations) == ({"rule-1": 1000}, {"rule-1": 1})


def test_a_sample_stands_for_all_events_since_the_one_before() -> None:
    """So the estimate is of all events, however few are timed."""
    clock, matcher = Clock(1000), Matcher(RULES)
    clock.now, meter = SECOND, Meter(clock)
    meter.sample(matcher, CURL, seen(100), 0)
    clock.now += SECOND
    meter.sample(matcher, CURL, seen(150), SAMPLE_NS)
    assert (meter.nanoseconds, meter.evaluations) == ({"rule-1": 150_000}, {"rule-1": 150})
    assert meter.samples == {"rule-1": 2}


def test_a_flood_of_one_kind_is_not_charged_to_the_rules_of_another() -> None:
    """Or whoever makes a flood of anything could have rules switched off."""
    clock, matcher = Clock(1000), Matcher(RULES)
    clock.now, meter = SECOND, Meter(clock)
    action = CURL["event"]["action"]
    meter.sample(matcher, CURL, {action: 1, "file-open": 1}, 0)
    meter.sample(matcher, CURL, {action: 2, "file-open": 10_000_000}, SAMPLE_NS)
    assert (meter.nanoseconds, meter.evaluations) == ({"rule-1": 2000}, {"rule-1": 2})


def test_rules_are_never_charged_more_than_the_thread_has_run() -> None:
    """What matching remembers makes most events cheaper than the one that is timed anew."""
    clock, matcher = Clock(1000), Matcher(RULES)
    clock.now, meter = SECOND, Meter(clock)
    meter.sample(matcher, CURL, seen(1), 0)
    before = clock.now
    meter.sample(matcher, CURL, seen(1_000_000), SAMPLE_NS)
    assert meter.evaluations == {"rule-1": 1_000_000}
    assert 0 < meter.nanoseconds["rule-1"] <= clock.now - before + 1000


def test_rules_worth_a_series_come_in_a_lasting_order() -> None:
    """A series that came and went would be a counter that falls."""
    meter, matcher = Meter(Clock(COSTLY_NS - 1)), Matcher(RULES)
    meter.sample(matcher, CURL, seen(1), 0)
    assert not meter.costly
    meter.sample(matcher, CURL, seen(2), SAMPLE_NS)
    assert list(meter.costly) == ["rule-1"]


def test_samples_are_no_more_frequent_than_they_may_be() -> None:
    """A flood of events costs four samples a second, like a trickle."""
    meter, matcher = Meter(Clock(1)), Matcher(RULES)
    for number in range(10_000):
        meter.sample(matcher, CURL, seen(number + 1), number * SECOND // 10_000)
    assert meter.samples == {"rule-1": SECOND // SAMPLE_NS}
    assert 9000 * 0.7 < meter.evaluations["rule-1"] <= 10_000


@given(st.lists(trees, min_size=1, max_size=4), events())
def test_open_rules_and_sure_ones_are_the_rules_that_match(conditions: list[Any], event: dict[str, Any]) -> None:
    """What is timed is what decides: an open rule's test says whether it matches."""
    rules = [made(number, tree) for number, tree in enumerate(conditions)]
    matcher = Matcher(rules)
    matched = set(map(id, matcher.match(event)))
    open_rules: dict[int, Rule] = {}
    for rule, test in matcher.left_open(event):
        assert test(event) is holds(rule.condition, event)
        assert test(event) is (id(rule) in matched)
        open_rules[id(rule)] = rule
    assert len(open_rules) <= len(rules)


def charged(watch: Watch, meter: Meter, at: int, **spent: int) -> list[Over]:
    for rule, amount in spent.items():
        meter.nanoseconds[rule] = meter.nanoseconds.get(rule, 0) + amount
        meter.samples[rule] = meter.samples.get(rule, 0) + LEAST_SAMPLES
    return watch.check(meter, {}, (), at)


@pytest.mark.contract("content-7d")
def test_a_rule_that_takes_more_than_its_time_within_a_minute_is_told() -> None:
    """At once when it has, not after a minute."""
    watch, meter = Watch(Budget(cpu_ns=12 * SECOND)), Meter(Clock(1))
    assert charged(watch, meter, 0) == []
    assert charged(watch, meter, SECOND, a=12 * SECOND, b=SECOND) == []
    assert charged(watch, meter, 2 * SECOND, a=1) == [Over("a", CPU_TIME, 12 * SECOND + 1, 12 * SECOND)]


def test_what_was_spent_long_ago_does_not_count() -> None:
    """The window moves on."""
    watch, meter = Watch(Budget(cpu_ns=12 * SECOND)), Meter(Clock(1))
    for minute in range(10):
        assert charged(watch, meter, minute * (WINDOW_NS + 5 * SECOND), a=11 * SECOND) == []


@given(st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=300))
def test_window_is_never_shorter_than_a_minute_nor_much_longer(spent: list[int]) -> None:
    """Against the sum over the last minute, second by second."""
    watch, meter = Watch(Budget(cpu_ns=60 * SECOND)), Meter(Clock(1))
    charged(watch, meter, 0)
    for second, amount in enumerate(spent, 1):
        told = bool(charged(watch, meter, second * SECOND, a=amount))
        assert told or sum(spent[max(0, second - 60):second]) <= 60 * SECOND
        assert not told or sum(spent[max(0, second - 70):second]) > 60 * SECOND


def test_a_few_samples_say_nothing() -> None:
    """One that was interrupted for a second would cost a rule."""
    watch, meter = Watch(Budget(cpu_ns=SECOND)), Meter(Clock(1))
    watch.check(meter, {}, (), 0)
    meter.nanoseconds["a"], meter.samples["a"] = 100 * SECOND, LEAST_SAMPLES - 1
    assert watch.check(meter, {}, (), SECOND) == []
    meter.samples["a"] += 1
    assert len(watch.check(meter, {}, (), 2 * SECOND)) == 1


@pytest.mark.contract("content-7d")
def test_alerts_within_a_minute_are_counted_but_not_of_rules_that_raise_none() -> None:
    """Rules that serve correlations match as often as they like."""
    watch, meter = Watch(Budget(alerts=100)), Meter(Clock(1))
    assert watch.check(meter, {"a": 1_000_000}, (), 0) == []
    totals = {"a": 1_000_101, "b": 100, "quiet": 5000}
    assert watch.check(meter, totals, ("quiet",), SECOND) == [Over("a", ALERTS, 101, 100)]


def test_without_a_budget_nobody_is_told_and_forgetting_begins_anew() -> None:
    """0 is no limit; after a reload what was before is forgiven."""
    meter = Meter(Clock(1))
    assert charged(Watch(Budget()), meter, 0, a=1000 * SECOND) == []
    watch = Watch(Budget(cpu_ns=SECOND))
    charged(watch, meter, 0)
    charged(watch, meter, SECOND, a=10 * SECOND)
    watch.forget()
    assert charged(watch, meter, 2 * SECOND) == []
