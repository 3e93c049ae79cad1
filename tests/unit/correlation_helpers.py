"""Correlations for tests: from YAML to a correlator, events as tuples, and what plain reasoning expects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

from sensor.rules import content
from sensor.rules.correlation import Correlator, Firing
from sensor.rules.eventtime import text_of_ns
from sensor.rules.model import Rule, RuleSet

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND

#: Rules that match by the name of the program: a, b, c.
BASE = "\n---\n".join(f"""title: Program {name}
id: 00000000-0000-4000-8000-00000000000{number}
name: prog_{name}
logsource: {{product: linux, category: process_creation}}
detection: {{s: {{Image: /{name}}}, condition: s}}""" for number, name in enumerate("abc"))


class Event(NamedTuple):
    """An event: second, id, program (a, b, c), group, value."""

    at: int
    id: str
    program: str = "a"
    group: str = "g"
    value: str = "v"


def loaded(folder: Path, *correlations: str, base: str = BASE) -> RuleSet:
    """A rule set of the base rules and correlations, which are YAML of the whole document."""
    (folder / "rules.yml").write_text("\n---\n".join([base, *correlations]))
    return content.load(content.discover([str(folder)]))


def text(kind: str, condition: str, rules: str = "prog_a", timespan: str = "10s", more: str = "",
         number: int = 0, group_by: str = "[User]") -> str:
    """A correlation's document."""
    return f"""title: Correlation {number}
id: 00000000-0000-4000-9000-00000000000{number}
name: corr_{number}
level: high
correlation:
  type: {kind}
  rules: {rules}
  group-by: {group_by}
  timespan: {timespan}
{f"  condition: {condition}" if condition else ""}
{more}"""


def document(event: Event) -> dict[str, Any]:
    """The event as a document."""
    return {"@timestamp": text_of_ns(START + event.at * SECOND), "event": {"action": "process-exec", "id": event.id},
            "process": {"executable": f"/{event.program}", "name": event.value}, "user": {"name": event.group}}


def feed(correlator: Correlator, rules: Sequence[Rule], events: Iterable[Event]) -> list[Firing]:
    """All that a correlator gives for events; the rule of an event is the one of its program."""
    by_program = {rule.name[-1]: rule for rule in rules}
    return [firing for event in events
            for firing in correlator.feed(document(event), [by_program[event.program]])]


def plain(firings: Iterable[Firing]) -> list[tuple[str, int, tuple[str, ...]]]:
    """Group, second of the first event and ids of each firing."""
    return [(firing.group[0][1], (firing.first_ns - START) // SECOND, tuple(sorted(firing.ids))) for firing in firings]


# Plain reasoning ------------------------------------------------------------------------------------

Window = tuple[int, list[Event]]  # first second, events
Find = Callable[[list[Event], Event, int], "Window | None"]


def one_by_one(events: Iterable[Event], span: int, find: Find) -> list[tuple[str, int, tuple[str, ...]]]:
    """What has to be told when events come in this order: all of them are kept, and all is searched anew."""
    kept: dict[str, list[Event]] = {}
    over: dict[str, list[int]] = {}
    newest: dict[str, int] = {}
    told = []
    for event in events:
        mine, done = kept.setdefault(event.group, []), over.setdefault(event.group, [])
        if event.at < newest.get(event.group, 0) - 2 * span or event in mine:
            continue
        newest[event.group] = max(event.at, newest.get(event.group, 0))
        if any(first <= event.at <= first + span for first in done):
            continue
        mine.append(event)
        found = find([each for each in mine if each.at >= newest[event.group] - 2 * span], event, span)
        if found is not None:
            first, made = found
            done.append(first)
            kept[event.group] = [each for each in mine if not first <= each.at <= first + span]
            told.append((event.group, first, tuple(sorted({each.id for each in made}))))
    return told


def windows(kept: list[Event], event: Event, span: int) -> Iterable[Window]:
    """The windows that begin with an event and hold another one, earliest first."""
    for first in sorted({each.at for each in kept}):
        if first <= event.at <= first + span:
            yield first, [each for each in kept if first <= each.at <= first + span]


def counting(least: int) -> Find:
    """At least so many events."""
    return lambda kept, event, span: next(
        (each for each in windows(kept, event, span) if len(each[1]) >= least), None)


def distinct(least: int, what: str) -> Find:
    """At least so many values; the last such window."""
    def find(kept: list[Event], event: Event, span: int) -> Window | None:
        found = [each for each in windows(kept, event, span) if len({getattr(one, what) for one in each[1]}) >= least]
        return found[-1] if found else None
    return find


def in_order(programs: str) -> Find:
    """Programs one after the other: the chain that is complete first, of those the one that began last.

    Of chains that are alike in both, the one of the earliest events, by id where they are of one time.
    """
    def find(kept: list[Event], event: Event, span: int) -> Window | None:
        near = sorted(each for each in kept if abs(each.at - event.at) <= span)
        chains = [chain for chain in product(*([each for each in near if each.program == one] for one in programs))
                  if all(before.at < after.at for before, after in pairwise(chain))
                  and chain[-1].at - chain[0].at <= span]
        if not chains:
            return None
        best = min(chains, key=lambda chain: (chain[-1].at, -chain[0].at))
        return best[0].at, list(best)
    return find


def after_the_time(events: Iterable[Event], span: int, holds: Callable[[list[Event]], bool]) -> list[tuple[str, int]]:
    """Windows, each beginning with the first event outside of those before, whose time is over and which hold."""
    every = sorted(set(events))
    told = []
    for group in {each.group for each in every}:
        mine = [each for each in every if each.group == group]
        while mine:
            first = mine[0].at
            window = [each for each in mine if each.at <= first + span]
            mine = mine[len(window):]
            if first + span < every[-1].at and holds(window):
                told.append((group, first))
    return sorted(told)
