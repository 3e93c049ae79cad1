"""The engine's part of the rollout: run a release beside another one, and say whether it is healthy.

In ``shadow`` the release is evaluated, timed and counted, and nothing of it is sent. In ``canary`` its
alerts are sent and the rules before it are evaluated for comparison. Pure: time and counts come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensor.config import Content
from sensor.content.state import SHADOW
from sensor.rules.correlation import Correlator
from sensor.rules.matcher import Matcher
from sensor.rules.model import Rule

HEALTHY = "healthy"
#: Events before means mean something, and alerts before rates do.
_EVENTS, _ALERTS = 1000, 50
_SLOWER = 3.0  # times the rules before it, where it is slow at all
_SLOW_NS = 100_000
_FLOOD = 10  # one alert in so many events, where there is nothing to compare with
_LOSS = 0.01  # of the events since the stage began


class Compared:
    """A matcher that also evaluates other rules, counts them and keeps their results to itself.

    Args:
        live: Its matches are given.
        other: Its matches are counted; None times *live* alone.
        correlator: Of *other*.
        clock: Nanoseconds; a clock that only rises.
    """

    def __init__(self, live: Matcher, other: Matcher | None, correlator: Correlator | None,
                 clock: Callable[[], int]) -> None:
        self.live, self.other, self._correlator, self._clock = live, other, correlator, clock
        self.actions = live.actions | (other.actions if other is not None else frozenset())
        self.events, self.live_ns, self.other_ns, self.other_alerts = 0, 0, 0, 0
        self.fault = ""  # of *other*; it is not asked again then

    def use(self, live: Matcher) -> None:
        """Go on with fewer live rules; what was counted stays."""
        self.live = live
        self.actions = live.actions | (self.other.actions if self.other is not None else frozenset())

    def shift(self, step: int) -> None:
        """The wall clock was set by so many ns."""
        if self._correlator is not None:
            self._correlator.shift(step)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Those whose matches are given."""
        return self.live.rules

    def match(self, document: Mapping[str, Any]) -> Sequence[Rule]:
        """The live rules that match."""
        clock = self._clock
        began = clock()
        found = self.live.match(document)
        between = clock()
        self.events += 1
        self.live_ns += between - began
        if self.other is not None and not self.fault:
            self._evaluate(self.other, document)
            self.other_ns += clock() - between
        return found

    def _evaluate(self, other: Matcher, document: Mapping[str, Any]) -> None:
        try:
            rules = other.match(document)
            self.other_alerts += sum(not rule.silent for rule in rules)
            if self._correlator is not None:
                self.other_alerts += len(self._correlator.feed(document, rules))
        except Exception as error:  # noqa: BLE001  rules on trial must not end the rules that run
            self.fault = f"{type(error).__name__}: {error}"[:200]


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of a stage since it began. Means are ns per event; ``lost`` and ``events`` are numbers."""

    seconds: float
    events: int
    lost: int
    mean_ns: float
    alerts: int
    base_mean_ns: float | None = None  # of the rules before; None where they are not evaluated
    base_alerts: int | None = None
    fault: str = ""


def signals(compared: Compared, stage: str, seconds: float, alerts: int, lost: int) -> Signals:
    """Signals of the release on trial; *alerts* are those that were sent since the stage began."""
    events = max(1, compared.events)
    live, other = (compared.live_ns / events, alerts), (compared.other_ns / events, compared.other_alerts)
    if compared.other is None:
        return Signals(seconds, compared.events, lost, *live)
    trial, base = (other, live) if stage == SHADOW else (live, other)
    return Signals(seconds, compared.events, lost, *trial, *base, compared.fault if stage == SHADOW else "")


def judge(seen: Signals, settings: Content) -> str:
    """``healthy`` once the stage has lasted long enough, a reason to take it back, or nothing yet.

    Reasons are of sensor.content.state.REASONS.
    """
    if seen.fault:
        return "fault"
    if seen.events >= _EVENTS:
        if seen.mean_ns > settings.event_us * 1000:
            return "evaluation_time"
        if seen.base_mean_ns is not None and seen.mean_ns > max(_SLOW_NS, _SLOWER * seen.base_mean_ns):
            return "evaluation_time"
        if seen.lost > _LOSS * seen.events:
            return "loss"
    allowed = settings.alert_factor * seen.base_alerts if seen.base_alerts is not None else seen.events // _FLOOD
    if seen.alerts > max(_ALERTS, allowed):
        return "alert_rate"
    return HEALTHY if seen.seconds >= settings.hold and not seen.lost else ""
