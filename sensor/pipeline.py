"""The engine's middle: a record in, its document and alerts out.

No clock, no socket, no file: whoever drives it says what time it is and what to do with what comes
out. The same object serves the live stream (``feed``) and recordings (``feed_document``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from sensor.alerts import alert, correlated
from sensor.document import Builder, Document
from sensor.kernel.decode import Record, decode_all
from sensor.process.model import Process, Processes
from sensor.process.table import ProcessTable
from sensor.rules.correlation import Correlator, Firing
from sensor.rules.model import Rule
from sensor.schema import BY_NAME, EVENTS, Flag
from sensor.sequences import Sequences
from sensor.watch import WatchList

#: Where a loss happened: values of ``sensor.loss.stage``.
STAGE_RING = "kernel_ringbuf"
STAGE_DRILL = "drill"  # nothing was lost

_OPEN = BY_NAME["file_open"].id
_LOSS = BY_NAME["sensor_loss"].id
_STATE = BY_NAME["sensor_state"].id
_CONTENT = BY_NAME["sensor_content"].id
_RULE_DISABLED = BY_NAME["sensor_rule_disabled"].id
_BREAKER = BY_NAME["sensor_breaker"].id
_THROTTLE = BY_NAME["sensor_throttle"].id
_CRASH = BY_NAME["sensor_crash"].id
_PATH_INDEX = next(index for index, item in enumerate(BY_NAME["file_open"].fields) if item.name == "path")
# An open with one of these is reported for more than its name. A cut path can't be held against a
# pattern, and a hard link to a watched file has another name on purpose.
KEEP = int(Flag.CREATED | Flag.TRUNC | Flag.WRITE | Flag.PATH_CUT | Flag.WATCHED_INODE)
_TRUNCATED = int(Flag.TRUNCATED)  # a plain number: an IntFlag's operators are slow
# No ring of the kernel has this number: the sensor's own events are numbered here.
_OWN_RING = 255

NAMES = {event.id: event.name for event in EVENTS}

Notice = tuple[Document, list[Document]]
Write = Callable[[Document, list[Document]], None]


class Ends(NamedTuple):
    """(type, time_ns) of the first and the last record of a batch, and how many there were."""

    first: tuple[int, int]
    last: tuple[int, int]
    records: int


class Rules(Protocol):
    """What the pipeline needs of a matcher."""

    @property
    def actions(self) -> frozenset[str]:
        """Values of ``event.action`` that some rule wants."""

    def match(self, document: Mapping[str, Any]) -> Sequence[Rule]:
        """The rules that match; never raises on a mapping."""


def _per_event() -> dict[str, int]:
    return {event.name: 0 for event in EVENTS}


@dataclass(slots=True)
class Counters:
    """What went through, in plain numbers. Keys are closed sets, but for rule ids and processors."""

    received: dict[str, int] = field(default_factory=_per_event)  # the kernel's records, by event name
    own: int = 0  # documents about the sensor itself
    documents: int = 0
    replayed: int = 0  # documents from recordings
    filtered: dict[str, int] = field(default_factory=_per_event)  # in user space, by event name
    truncated: dict[str, int] = field(default_factory=_per_event)  # records with a text cut at its cap
    dropped: dict[str, int] = field(default_factory=lambda: {"duplicate_exit": 0})  # by reason
    alerts: int = 0
    matches: dict[str, int] = field(default_factory=dict)  # by rule id
    lost: dict[str, int] = field(default_factory=dict)  # records, by stage
    gaps: dict[int, int] = field(default_factory=dict)  # gaps in sequence numbers, by processor


class Pipeline:
    """Enriches, matches and accounts. One thread's."""

    def __init__(self, matcher: Rules, table: Processes | None = None, builder: Builder | None = None, *,
                 all_events: bool = False, watch: WatchList | None = None,
                 first_sequence: int | None = None, correlator: Correlator | None = None) -> None:
        """Put the parts together.

        Args:
            matcher: The rules.
            table: Processes; with *builder*, needed for ``feed`` and notices, not for replay.
            builder: Makes documents of records; reads the same *table*.
            all_events: Documents of all events are wanted, not only of those that rules look at.
            watch: Reads of other files are dropped; None keeps every read that the kernel let through.
            first_sequence: The number that every ring and processor begins with, where the rings are new.
            correlator: The correlations of the same rules.
        """
        self.counters = Counters()
        self.looked: dict[str, int] = {}  # documents that rules have been run on, one by one, by event.action
        self.sequences = Sequences(first_sequence)
        self.table = table
        self._apply = table.apply if isinstance(table, ProcessTable) else None
        self.builder = builder
        self.watch = watch
        self._all_events = all_events
        self._own_sequence = 0
        self._told_ahead = 0  # records told as lost by count, whose gap is still to come
        self.correlator: Correlator | None = None
        self.use(matcher, correlator)

    def use(self, matcher: Rules, correlator: Correlator | None = None) -> None:
        """Go on with other rules, from the next event on. Correlations that are the same keep what they know."""
        self.matcher = matcher
        if self.correlator is not None and correlator is not None and correlator is not self.correlator:
            correlator.succeed(self.correlator)
        self.correlator = correlator
        actions = matcher.actions
        self._wanted = frozenset(event.id for event in EVENTS if self._all_events or event.action in actions)

    # Live ----------------------------------------------------------------------------------------

    def feed(self, record: Record) -> tuple[Document | None, list[Document]]:
        """Take in one record.

        Returns:
            (document, alerts). The document is None where nobody wants one: no rule looks at this
            event and not all events are wanted, or the event was dropped, which is counted.
        """
        apply = self._apply
        if apply is None or self.builder is None:
            raise TypeError("a pipeline without process table and builder takes documents, not records")
        kind = record.type
        name = NAMES[kind]
        self.counters.received[name] += 1
        self.sequences.saw(record.ring, record.cpu, record.seq)
        process = apply(record)
        if record.flags & _TRUNCATED:
            self.counters.truncated[name] += 1
        if process is None:
            self.counters.dropped["duplicate_exit"] += 1
            return None, []
        if kind == _OPEN and self._unwatched(record):
            self.counters.filtered[name] += 1
            return None, []
        if kind not in self._wanted:
            return None, []
        return self._document(record, process)

    def feed_batch(self, rings: Sequence[list[bytes]], malformed: dict[str, int], write: Write) -> Ends | None:
        """Take in the records of several rings, by time.

        Args:
            rings: Records as they lie in each ring.
            malformed: Counts those that can't be decoded, by reason.
            write: Gets the documents that somebody wants, each with its alerts.

        Returns:
            The first and the last record; None where there was none.
        """
        records = decode_all(rings, malformed)
        if not records:
            return None
        feed = self.feed
        for record in records:
            document, alerts = feed(record)
            if document is not None:
                write(document, alerts)
        first, last = records[0], records[-1]
        return Ends((first.type, first.time_ns), (last.type, last.time_ns), len(records))

    def feed_document(self, document: Document) -> list[Document]:
        """Take in one document of a recording; gives its alerts."""
        self.counters.replayed += 1
        return self._alerts(document)

    def finish(self) -> list[Document]:
        """Alerts of correlations whose time is over, when no event comes any more."""
        return self._correlated({}, self.correlator.finish()) if self.correlator is not None else []

    # The sensor's own events ---------------------------------------------------------------------

    def notices(self, now_ns: int, *, final: bool = False) -> list[Notice]:
        """Documents and alerts for the gaps that have come to light. Call it with every batch.

        A gap is told once, 0.1 s after the first of these calls that saw it, or at once if *final*:
        no record comes any more. *now_ns* is CLOCK_BOOTTIME. What ``loss`` has told already, by count
        alone, is not counted again: its numbers follow in a document with the rest of the count,
        perhaps 0.
        """
        told = []
        for gap in self.sequences.settled(now_ns, final=final):
            self.counters.gaps[gap.cpu] = self.counters.gaps.get(gap.cpu, 0) + 1
            ahead = min(self._told_ahead, gap.count)
            self._told_ahead -= ahead
            told.append(self.loss(gap.count - ahead, gap.first, gap.last, now_ns=now_ns, cpu=gap.cpu))
        return told

    def loss(self, count: int, first: int = 0, last: int = 0, *, now_ns: int, stage: str = STAGE_RING,
             event: str = "all", cpu: int | None = None) -> Notice:
        """The document (and alerts) of records lost, also counted by stage.

        Args:
            count: How many.
            first: First lost sequence number, and *last* the last; 0 where they were only counted.
            last: See *first*. ``last - first + 1`` exceeds *count* where gaps were told together.
            now_ns: CLOCK_BOOTTIME.
            stage: Where: see the event table.
            event: Event name, or ``all``.
            cpu: Processor, where known.
        """
        self.counters.lost[stage] = self.counters.lost.get(stage, 0) + count
        if stage == STAGE_RING and not last:
            self._told_ahead += count
        return self._own(_LOSS, (count, first, last, stage, event), now_ns, cpu=cpu)

    def state(self, state: str, detail: str, *, now_ns: int) -> Notice:
        """The document (and alerts) of a change of the sensor itself; *detail* is one sentence."""
        return self._own(_STATE, (state, detail), now_ns)

    def rule_disabled(self, rule: str, name: str, reason: str, measured: int, limit: int, *, now_ns: int) -> Notice:
        """The document (and alerts) of a rule that was over its budget; see the event table for the values."""
        return self._own(_RULE_DISABLED, (rule, name, reason, measured, limit), now_ns)

    def breaker(self, values: tuple[Any, ...], *, now_ns: int) -> Notice:
        """The document (and alerts) of a step of the breaker; *values* as in the event table."""
        return self._own(_BREAKER, values, now_ns)

    def throttle(self, values: tuple[Any, ...], *, now_ns: int) -> Notice:
        """The document (and alerts) of a control group that is, or was, throttled; *values* as in the event table."""
        return self._own(_THROTTLE, values, now_ns)

    def crash(self, values: tuple[str, ...], *, now_ns: int) -> Notice:
        """The document (and alerts) of a crash of the host; *values* in the order of the event table."""
        return self._own(_CRASH, values, now_ns)

    def content(self, values: tuple[Any, ...], *, now_ns: int) -> Notice:
        """The document (and alerts) of what became of a content release; *values* as in the event table."""
        return self._own(_CONTENT, values, now_ns)

    # Inside --------------------------------------------------------------------------------------

    def _unwatched(self, record: Record) -> bool:
        return (self.watch is not None and not record.flags & KEEP
                and not self.watch.matches(record.values[_PATH_INDEX]))

    def _document(self, record: Record, process: Process) -> tuple[Document, list[Document]]:
        assert self.builder is not None
        document = self.builder.build(record, process)
        self.counters.documents += 1
        action = document["event"]["action"]
        self.looked[action] = self.looked.get(action, 0) + 1
        return document, self._alerts(document)

    def _alerts(self, document: Document) -> list[Document]:
        rules = self.matcher.match(document)
        correlator = self.correlator
        fired = correlator.feed(document, rules) if correlator is not None else None
        if not rules and not fired:
            return []
        counters = self.counters
        for rule in rules:
            counters.matches[rule.id] = counters.matches.get(rule.id, 0) + 1
        made = [alert(document, rule) for rule in rules if not rule.silent]
        counters.alerts += len(made)
        return made + self._correlated(document, fired) if fired else made

    def _correlated(self, document: Document, fired: Sequence[Firing]) -> list[Document]:
        for firing in fired:
            rule_id = firing.correlation.id
            self.counters.matches[rule_id] = self.counters.matches.get(rule_id, 0) + 1
        self.counters.alerts += len(fired)
        return [correlated(document, firing) for firing in fired]

    def _own(self, kind: int, values: tuple[Any, ...], now_ns: int, *, cpu: int | None = None) -> Notice:
        if self.builder is None:
            raise TypeError("a pipeline without a builder makes no documents of its own")
        self._own_sequence += 1
        self.counters.own += 1
        record = Record(kind, 0, self._own_sequence, now_ns, 0, 0, 0, 0, 0, 0, 0, 0, values, _OWN_RING)
        document = self.builder.build_own(record)
        if cpu is not None:
            document.setdefault("sensor", {})["cpu"] = cpu
        return document, self._alerts(document)
