"""What a correlation remembers: for each group the entries that may still become part of an alert.

A rising condition (``gte``, ``gt``, rules that matched) is judged whenever an entry comes. All others
(``lt``, ``eq``, ``not`` ...) are judged once per window, when its time is over: a window begins with the
first entry that is in no window before it. Either way an entry belongs to one alert at most, and
what comes within the timespan of an alert is taken to belong to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from sensor.rules.correlation_windows import Entry, Search, judged, search_for, within
from sensor.rules.model import Correlation, Kind

Key = tuple[str, ...]
Found = tuple[Key, int, list[Entry]]  # group, first time of the window, the entries that made it

GROUP_BYTES, ENTRY_BYTES = 700, 300  # what Python takes, roughly, besides the texts


@dataclass(frozen=True, slots=True)
class StateLimits:
    """Bounds of what correlations remember. Each that is reached is counted."""

    groups: int = 10_000  # of one correlation
    events: int = 8_192  # of one group; thresholds end at half of it
    ordered: int = 1_024  # of one group where the order matters: each event may look at all
    bytes: int = 32 << 20  # of all together


@dataclass(slots=True)
class StateCounters:
    """What became of matches that correlations refer to."""

    taken: int = 0
    absorbed: int = 0  # part of an alert that was raised before
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(
        ("duplicate", "late", "undated", "ungrouped"), 0))
    evicted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("groups", "events", "bytes"), 0))
    unjudged: int = 0  # windows of which entries had to be dropped


@dataclass(slots=True)
class Group:
    """Entries of one group, sorted, and the windows that are over."""

    entries: list[Entry] = field(default_factory=list)
    seen: set[tuple[str, int | str]] = field(default_factory=set)
    over: list[tuple[int, int]] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)  # first and last time of entries dropped for room
    newest: int = 0
    bytes: int = GROUP_BYTES

    def insert(self, entry: Entry) -> None:
        """Take an entry in."""
        insort(self.entries, entry)
        self.seen.add(entry[1:])
        self.bytes += weight(entry)

    def remove(self, begin: int, end: int) -> list[Entry]:
        """Forget a slice of the entries and give it back."""
        gone = self.entries[begin:end]
        del self.entries[begin:end]
        for entry in gone:
            self.seen.discard(entry[1:])
            self.bytes -= weight(entry)
        return gone

    def is_over(self, moment: int) -> bool:
        """Whether a time lies in a window that is over."""
        return any(first <= moment <= last for first, last in self.over)


def weight(entry: Entry) -> int:
    """Bytes that an entry is counted with."""
    return ENTRY_BYTES + len(entry[1]) + (len(entry[2]) if isinstance(entry[2], str) else 0)


class State:
    """The groups of one correlation."""

    def __init__(self, correlation: Correlation, limits: StateLimits, counters: StateCounters) -> None:
        self.correlation, self.span = correlation, correlation.timespan_ns
        self.rising = correlation.condition.rising
        self.groups: OrderedDict[Key, Group] = OrderedDict()  # the one that was idle longest first
        self.bytes = self.entries = 0  # of all groups; kept as sums, for they are read from another thread
        self._search: Search | None = search_for(correlation) if self.rising else None
        self._limits, self.counters = limits, counters
        self._room = limits.ordered if correlation.kind is Kind.TEMPORAL_ORDERED else limits.events
        self._distinct = correlation.kind in (Kind.VALUE_COUNT, Kind.TEMPORAL)
        self._looked = 0  # when all groups were last looked at

    def add(self, key: Key, entry: Entry, now: int) -> Found | None:
        """Take a match in; *now* is the latest event time seen. Gives what it fulfils at once."""
        group = self._group(key, now)
        before, count = group.bytes, len(group.entries)
        try:
            return self._add(key, group, entry, now)
        finally:
            self.bytes += group.bytes - before
            self.entries += len(group.entries) - count

    def _add(self, key: Key, group: Group, entry: Entry, now: int) -> Found | None:
        moment = entry[0]
        if moment < (group.newest - 2 * self.span if self.rising else now - self.span):
            self.counters.dropped["late"] += 1
            return None
        if entry[1:] in group.seen:
            self.counters.dropped["duplicate"] += 1
            return None
        group.newest = max(group.newest, moment)
        if group.is_over(moment):
            self.counters.absorbed += 1
            return None
        self.counters.taken += 1
        if self.rising:
            self._prune(group)
        group.insert(entry)
        if self._distinct and self._spare(group, entry):
            return None
        found = self._judge_now(key, group, entry)
        if found is None and len(group.entries) > self._room:
            self._make_room(group)
        return found

    def _group(self, key: Key, now: int) -> Group:
        group = self.groups.get(key)
        if group is not None:
            self.groups.move_to_end(key)
            return group
        for _ in range(2):  # idle ones leave by twos, so that they never pile up
            oldest = next(iter(self.groups), None)
            if oldest is None or not self._idle(self.groups[oldest], now):
                break
            self.drop(oldest)
        if len(self.groups) >= self._limits.groups:
            self.drop(next(iter(self.groups)))
            self.counters.evicted["groups"] += 1
        group = Group()
        self.put(key, group)
        return group

    def put(self, key: Key, group: Group) -> None:
        """Take a whole group in."""
        self.groups[key] = group
        self.bytes += group.bytes + sum(map(len, key))
        self.entries += len(group.entries)

    def _idle(self, group: Group, now: int) -> bool:
        return group.newest + 2 * self.span < now and (self.rising or not group.entries)

    def drop(self, key: Key) -> None:
        """Forget a group."""
        group = self.groups.pop(key)
        self.bytes -= group.bytes + sum(map(len, key))
        self.entries -= len(group.entries)

    def _prune(self, group: Group) -> None:
        """What no window with a coming entry can reach is forgotten."""
        horizon = group.newest - 2 * self.span
        group.remove(0, bisect_left(group.entries, (horizon,)))
        group.over = [each for each in group.over if each[1] >= horizon]

    def _spare(self, group: Group, entry: Entry) -> bool:
        """Forget a repeated tag that no window can need; True if that was the new entry.

        Each window with the middle one of three entries of a tag, the outer ones at most a timespan
        apart, has one of the outer ones too. So repetition can't push anything out.
        """
        if not self.rising:
            return False
        same = [each for each in group.entries[slice(*within(
            group.entries, entry[0] - 2 * self.span, entry[0] + 2 * self.span))] if each[2] == entry[2]] \
            if len(group.entries) > 1 else []
        for before, middle, after in zip(same, same[1:], same[2:], strict=False):
            if after[0] - before[0] <= self.span:
                at = bisect_left(group.entries, middle)
                group.remove(at, at + 1)
                return middle == entry
        return False

    def _judge_now(self, key: Key, group: Group, entry: Entry) -> Found | None:
        if self._search is None:
            return None
        found = self._search(group.entries, bisect_left(group.entries, entry), self.span)
        if found is None:
            return None
        self._close(group, found[0])
        return key, found[0], found[1]

    def _close(self, group: Group, first: int) -> list[Entry]:
        """The window that begins then is over: its entries leave."""
        last = first + self.span
        group.over.append((first, last))
        return group.remove(*within(group.entries, first, last))

    def _make_room(self, group: Group) -> None:
        ((moment, _, _),) = group.remove(0, 1)
        self.counters.evicted["events"] += 1
        if not self.rising:
            group.torn = [min([moment, *group.torn]), max([moment, *group.torn])]

    def shift(self, step: int) -> None:
        """Move all times by so many ns."""
        self._looked += step
        for group in self.groups.values():
            group.entries = [(moment + step, event_id, tag) for moment, event_id, tag in group.entries]
            group.over = [(first + step, last + step) for first, last in group.over]
            group.torn = [moment + step for moment in group.torn]
            group.newest += step

    # Conditions that are judged when the time is over --------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether a window may be over by the mere passing of time."""
        return not self.rising and bool(self.groups)

    def passed(self, now: int, *, final: bool = False) -> Iterator[Found]:
        """The windows whose time is over at the event time *now*, and which fulfil the condition.

        A window waits another timespan for entries that come late, unless nothing comes any more.
        """
        if self.rising or not (final or now - self._looked > self.span // 16):
            return
        self._looked = now
        wait = self.span if final else 2 * self.span
        for key in list(self.groups):
            group = self.groups[key]
            before, count = group.bytes, len(group.entries)
            while group.entries and group.entries[0][0] + wait < now:
                found = self._judge(group)
                if found is not None:
                    yield key, found[0][0], found
            horizon = now - 2 * self.span
            group.over = [each for each in group.over if each[1] >= horizon]
            self.bytes += group.bytes - before
            self.entries += len(group.entries) - count
            if not group.entries and self._idle(group, now):
                self.drop(key)

    def _judge(self, group: Group) -> list[Entry] | None:
        first = group.entries[0][0]
        window = self._close(group, first)
        if group.torn and group.torn[0] <= first + self.span and group.torn[1] >= first:
            self.counters.unjudged += 1
            return None
        return window if judged(self.correlation, window) else None


