"""Correlations over the stream: matches of rules in, fulfilled correlations out.

Time is the events' own and no clock is read, so live stream, replay and samples give the same.
``export`` and ``adopt`` carry what is remembered across a change of rules: by the digest of a
correlation, which covers the rules that it refers to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensor.rules.correlation_state import Found, Group, State, StateCounters, StateLimits
from sensor.rules.correlation_windows import measure
from sensor.rules.eventtime import time_ns
from sensor.rules.model import Correlation, Expression, Kind, Rule, RuleSet
from sensor.rules.values import find, scalars, text_of

IDS = 50  # event ids that an alert names; the count says how many there were
VALUE = 512  # characters of a group's value that are kept; the rest is a hash

Get = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Firing:
    """A correlation that was fulfilled.

    ``group`` are its names and values, ``count`` what its condition is about, ``ids`` the ids of
    the first events that made it, of ``events`` in all. Times are ns since 1970. A ``late`` one was
    judged after its time: it has nothing to do with the event at hand.
    """

    correlation: Correlation
    group: tuple[tuple[str, str], ...]
    count: int
    first_ns: int
    last_ns: int
    ids: tuple[str, ...]
    events: int
    id: str
    late: bool


class Correlator:
    """All correlations of a rule set. One thread's."""

    def __init__(self, correlations: Sequence[Correlation], limits: StateLimits | None = None) -> None:
        limits = limits or StateLimits()
        self.counters = StateCounters()
        self._limits = limits
        self._states = {each.id: State(each, limits, self.counters) for each in correlations}
        self._uses: dict[str, list[tuple[State, int]]] = {}
        for state in self._states.values():
            for index, rule in enumerate(state.correlation.rules):
                self._uses.setdefault(rule, []).append((state, index))
        self._patient = [state for state in self._states.values() if not state.rising]
        self._now = 0
        self._unnamed = 0  # events without an id

    @property
    def patient(self) -> bool:
        """Whether some correlation waits for time to pass: then events that no rule matches tell it the time."""
        return bool(self._patient)

    def __len__(self) -> int:
        """Groups remembered."""
        return sum(len(state.groups) for state in self._states.values())

    @property
    def bytes(self) -> int:
        """What is remembered, in bytes, roughly."""
        return sum(state.bytes for state in self._states.values())

    @property
    def entries(self) -> int:
        """Matches remembered."""
        return sum(state.entries for state in self._states.values())

    def feed(self, document: Mapping[str, Any], rules: Sequence[Rule]) -> list[Firing]:
        """Take in an event and the rules that matched it; gives what that fulfilled.

        Never raises on a mapping. Cheap where no rule matched and no correlation waits for time.
        """
        if not rules and not self._patient:
            return []
        used = [rule for rule in rules if rule.id in self._uses]
        waits = any(state.waits for state in self._patient)
        if not used and not waits:
            return []
        moment = time_ns(document.get("@timestamp"))
        if moment is None:
            self.counters.dropped["undated"] += len(used)
            return []
        self._now = max(self._now, moment)
        found: list[Firing] = []
        if used:
            event_id = self._id_of(document)
            for rule in used:
                self._take(rule.id, lambda key: find(document, key), moment, event_id, found)
        if waits:
            found += self._passed(final=False)
        self._keep_bounds()
        return found

    def finish(self) -> list[Firing]:
        """What is fulfilled when no event comes any more. Windows that are not over stay unjudged."""
        return self._passed(final=True)

    def _id_of(self, document: Mapping[str, Any]) -> str:
        event = document.get("event")
        found = event.get("id") if isinstance(event, Mapping) else None
        if isinstance(found, str) and found:
            return found if len(found) <= VALUE else _short(found)
        self._unnamed += 1
        return f"#{self._unnamed}"

    def _take(self, rule: str, get: Get, moment: int, event_id: str, found: list[Firing]) -> None:
        for state, index in self._uses.get(rule, ()):
            correlation = state.correlation
            key = _texts(get, correlation.keys[index])
            tag: int | str | None = 0 if correlation.kind is Kind.EVENT_COUNT else index
            if correlation.kind is Kind.VALUE_COUNT:
                values = _texts(get, correlation.values[index])
                tag = None if values is None else "\0".join(values)
            if key is None or tag is None:
                self.counters.dropped["ungrouped"] += 1
                continue
            one = state.add(key, (moment, event_id, tag), self._now)
            if one is not None:
                self._fire(state, one, found, late=False)

    def _fire(self, state: State, one: Found, found: list[Firing], *, late: bool) -> None:
        firing = _firing(state.correlation, one, late)
        if not state.correlation.silent:
            found.append(firing)
        group = dict(firing.group)
        self._take(state.correlation.id, group.get, firing.last_ns, firing.id, found)

    def _passed(self, *, final: bool) -> list[Firing]:
        found: list[Firing] = []
        for state in self._patient:
            for one in state.passed(self._now, final=final):
                self._fire(state, one, found, late=True)
        return found

    def _keep_bounds(self) -> None:
        while self.bytes > self._limits.bytes:
            largest = max(self._states.values(), key=lambda state: state.bytes)
            if not largest.groups:
                return
            largest.drop(next(iter(largest.groups)))
            self.counters.evicted["bytes"] += 1

    def succeed(self, other: Correlator) -> int:
        """Take the place of another correlator: its counters go on, and what it knows as ``adopt`` says."""
        self.counters = other.counters
        for state in self._states.values():
            state.counters = other.counters
        return self.adopt(other.export())

    def shift(self, step: int) -> None:
        """The clock that times come from was set by so many ns: what is remembered moves along, and nothing is late."""
        self._now += step
        for state in self._states.values():
            state.shift(step)

    # Across a change of rules --------------------------------------------------------------------

    def export(self) -> dict[str, Any]:
        """All that is remembered, as plain data (lists, texts, numbers)."""
        return {"now": self._now, "unnamed": self._unnamed, "correlations": {
            state.correlation.digest: [_plain(key, group) for key, group in state.groups.items()]
            for state in self._states.values()}}

    def adopt(self, exported: Mapping[str, Any]) -> int:
        """Go on with what another correlator exported, where a correlation is the same.

        Returns how many correlations went on.
        """
        self._now, self._unnamed = int(exported["now"]), int(exported["unnamed"])
        same = 0
        for state in self._states.values():
            groups = exported["correlations"].get(state.correlation.digest)
            if groups is None:
                continue
            same += 1
            for row in groups[-self._limits.groups:]:
                state.put(*_group(row))
        self._keep_bounds()
        return same


def _plain(key: tuple[str, ...], group: Group) -> list[Any]:
    return [list(key), [list(entry) for entry in group.entries], [list(each) for each in group.over],
            list(group.torn), group.newest]


def _group(row: Sequence[Any]) -> tuple[tuple[str, ...], Group]:
    key, entries, over, torn, newest = row
    group = Group(over=[(first, last) for first, last in over], torn=list(torn), newest=newest)
    for moment, event_id, tag in entries:
        group.insert((moment, event_id, tag))
    return tuple(key), group


def _texts(get: Get, keys: Sequence[str]) -> tuple[str, ...] | None:
    """The values at the keys as texts, a list as one; None where one is absent."""
    found = []
    for key in keys:
        values = scalars(get(key))
        if not values:
            return None
        text = ", ".join(map(text_of, values))
        found.append(text if len(text) <= VALUE else _short(text))
    return tuple(found)


def _short(text: str) -> str:
    """A long text as its beginning and a hash of all of it."""
    return f"{text[:VALUE - 40]}…{_hash(text)}"


def _hash(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _firing(correlation: Correlation, one: Found, late: bool) -> Firing:
    key, _, made = one
    ids = tuple(dict.fromkeys(event_id for _, event_id, _ in made))
    count = measure(correlation, made)
    if isinstance(correlation.condition, Expression) or correlation.kind is Kind.TEMPORAL_ORDERED:
        count = len({tag for _, _, tag in made})
    first, last = made[0][0], made[-1][0]
    return Firing(correlation, tuple(zip(correlation.group_by, key, strict=True)), count, first, last, ids[:IDS],
                  len(ids), _hash(correlation.id, *key, str(first), *ids[:IDS]), late)


def correlator_of(rules: RuleSet) -> Correlator | None:
    """The correlator of a rule set, or None where it has no correlations."""
    return Correlator(rules.correlations) if rules.correlations else None
