"""What rules cost and how often they alert, and which one is over its budget.

An event whose fields have been seen before costs a few look-ups, however many rules there are, and that
can't be told apart by rule. What can: the tests that a rule runs on an event itself, because its words
alone did not decide (regular expressions, wildcards in the middle, networks, parts of times, two fields
compared). Of these a few events a second are timed once more, and stand for all of their kind since: a flood of
one kind of event must not be charged to the rules of another. What matching remembers is not known here, so that
an estimate may be too high; never higher than the time that the thread has run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sensor.rules.matcher import Matcher

#: Between two samples. One takes some 0.2 ms, whatever the rate of events: a thousandth of a core.
SAMPLE_NS = 250_000_000
WINDOW_NS = 60_000_000_000
_STEP_NS = 5_000_000_000  # how finely the window moves
#: Samples of a rule before its time counts against it: one that was interrupted says nothing.
LEAST_SAMPLES = 20
#: What a rule has taken in all before it is worth a series of its own in the metrics.
COSTLY_NS = 10_000_000
CPU_TIME, ALERTS = "cpu_time", "alerts"
REASONS = (CPU_TIME, ALERTS)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one rule may take within a minute; 0: as much as it likes."""

    cpu_ns: int = 0
    alerts: int = 0


@dataclass(frozen=True, slots=True)
class Over:
    """A rule that took more: ns or alerts within the last minute, and what it was given."""

    rule: str
    reason: str
    measured: int
    limit: int


@dataclass(slots=True)
class Meter:
    """Estimates by rule id, since the start. ``costly`` are rules above COSTLY_NS, as they came there.

    Args:
        clock: Time that this thread has run, in ns.
    """

    clock: Callable[[], int]
    nanoseconds: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    costly: dict[str, None] = field(default_factory=dict)
    _before: dict[str, tuple[int, int]] = field(default_factory=dict)  # by event.action at its last sample: seen, time
    _next_ns: int = 0

    def sample(self, matcher: Matcher, document: Mapping[str, Any], events: Mapping[str, int], now_ns: int) -> None:
        """Time the rules on one event, if it is time for it.

        Args:
            matcher: The rules.
            document: An event that they have decided on.
            events: How many they have decided on, with it, by ``event.action``.
            now_ns: Any clock that goes on steadily.
        """
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + SAMPLE_NS
        action, began = document["event"]["action"], self.clock()
        seen, ran = self._before.get(action, (0, 0))
        spent = {}
        for rule, test in matcher.left_open(document):
            begin = self.clock()
            test(document)
            spent[rule.id] = self.clock() - begin
        weight, whole = events[action] - seen, sum(spent.values())
        self._before[action] = events[action], began
        for rule_id, each in spent.items():
            most = (began - ran) * each // whole if whole else 0
            self.nanoseconds[rule_id] = self.nanoseconds.get(rule_id, 0) + min(each * weight, most)
            self.evaluations[rule_id] = self.evaluations.get(rule_id, 0) + weight
            self.samples[rule_id] = self.samples.get(rule_id, 0) + 1
            if self.nanoseconds[rule_id] >= COSTLY_NS:
                self.costly[rule_id] = None


@dataclass(frozen=True, slots=True)
class _Mark:
    now_ns: int
    nanoseconds: dict[str, int]
    samples: dict[str, int]
    alerts: dict[str, int]


class Watch:
    """Compares what rules took within the last minute with their budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._marks: deque[_Mark] = deque()

    def check(self, meter: Meter, alerts: Mapping[str, int], silent: Iterable[str], now_ns: int) -> list[Over]:
        """The rules that are over their budget, each with the first reason.

        Args:
            meter: Its totals.
            alerts: Events that each rule matched, in all.
            silent: Rules that raise no alert when they match.
            now_ns: Any clock that goes on steadily.
        """
        if not self._marks or now_ns - self._marks[-1].now_ns >= _STEP_NS:
            self._marks.append(_Mark(now_ns, dict(meter.nanoseconds), dict(meter.samples), dict(alerts)))
        while len(self._marks) > 1 and now_ns - self._marks[1].now_ns >= WINDOW_NS:
            self._marks.popleft()
        then = self._marks[0]
        found = self._by_time(meter, then) if self._budget.cpu_ns else {}
        if self._budget.alerts:
            quiet = set(silent)
            found = {**self._by_alerts({rule: count for rule, count in alerts.items() if rule not in quiet}, then),
                     **found}
        return list(found.values())

    def forget(self) -> None:
        """Begin anew: other rules run now."""
        self._marks.clear()

    def _by_time(self, meter: Meter, then: _Mark) -> dict[str, Over]:
        limit = self._budget.cpu_ns
        return {rule: Over(rule, CPU_TIME, spent, limit) for rule, total in meter.nanoseconds.items()
                if (spent := total - then.nanoseconds.get(rule, 0)) > limit
                and meter.samples[rule] - then.samples.get(rule, 0) >= LEAST_SAMPLES}

    def _by_alerts(self, alerts: Mapping[str, int], then: _Mark) -> dict[str, Over]:
        limit = self._budget.alerts
        return {rule: Over(rule, ALERTS, raised, limit) for rule, total in alerts.items()
                if (raised := total - then.alerts.get(rule, 0)) > limit}
