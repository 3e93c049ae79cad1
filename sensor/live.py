"""The live engine without its surroundings: rings in, documents and alerts out, counts kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.document import Document
from sensor.kernel.stream import KernelCounters, Stream
from sensor.kernel.throttles import Throttles
from sensor.outputs import Output, open_output
from sensor.pipeline import STAGE_DRILL, Notice, Pipeline
from sensor.record import Recorder, open_recorder

#: How long a loss may go untold after the kernel has counted it.
SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Outputs:
    """Where documents go. Alerts go to ``output``; every event too if ``all_events``; events to the recorder."""

    output: Output | None = None
    recorder: Recorder | None = None
    all_events: bool = False

    def open(self, spec: str | None, record: str | None) -> None:
        """Open what the command line names; raises UsageError."""
        if record is not None:
            self.recorder = open_recorder(Path(record))  # strict: a recording with a hole is none
        elif spec is not None:
            self.output = open_output(spec)

    def write(self, document: Document | None, alerts: list[Document]) -> None:
        """Hand one event and its alerts on."""
        if document is not None:
            if self.recorder is not None:
                self.recorder.write(document)
            if self.all_events and self.output is not None:
                self.output.write(document)
        if self.output is not None:
            for alert in alerts:
                self.output.write(alert)

    def tell(self, notices: list[Notice]) -> None:
        """The sensor's own state is never left out: a loss that nobody is told of is a loss.

        It is handed on at once: the next record may be the one that ends the engine, and this is in no ring.
        """
        for document, alerts in notices:
            if self.recorder is not None:
                self.recorder.write(document)
            if self.output is not None:
                self.output.write(document)
                for alert in alerts:
                    self.output.write(alert)
        if notices and self.output is not None:
            self.output.flush()

    def each(self) -> list[Output | Recorder]:
        """All that is open."""
        return [each for each in (self.output, self.recorder) if each is not None]


@dataclass(slots=True)
class Live:
    """One engine's run over the rings.

    Args:
        clock: CLOCK_BOOTTIME in ns.
    """

    pipeline: Pipeline
    stream: Stream
    kernel: KernelCounters
    outputs: Outputs
    clock: Callable[[], int]
    observe: Callable[[int, int], None] = lambda _type, _ns: None  # event id, ns from hook to verdict
    sampled: Callable[[Document], None] = lambda _document: None  # gets an event of each batch that rules looked at
    throttles: Throttles | None = None
    say: Callable[[str], None] = lambda _message: None  # for people
    counts: dict[str, dict[str, int]] = field(default_factory=dict)  # the kernel's, as of the last second
    _base: int = 0  # records lost before this engine began

    def __post_init__(self) -> None:
        self.counts = self.kernel.read()
        # A later engine joins rings that an earlier one has read: what was lost before, that one told.
        self._base = 0 if self.pipeline.sequences.begins else self._lost()

    def tick(self) -> bool:
        """Read and match one batch; True where more is waiting."""
        last: Document | None = None

        def write(document: Document, alerts: list[Document]) -> None:
            nonlocal last
            last = document
            self.outputs.write(document, alerts)

        ends = self.pipeline.feed_batch(self.stream.raw(), self.stream.malformed, write)
        if ends is not None:
            # The oldest and the youngest of the batch: a clock call per event would cost as much as its match.
            now = self.clock()
            for kind, time_ns in (ends.first, ends.last):
                self.observe(kind, now - time_ns)
            if last is not None:
                self.sampled(last)
        self._tell(self.pipeline.notices(self.clock()))
        return self.stream.backlog

    def second(self) -> None:
        """Once a second, also when no event comes: tell losses that left no gap behind."""
        self.counts = self.kernel.read()
        waiting = sum(self.stream.used())
        gaps = self.pipeline.counters.lost.get("kernel_ringbuf", 0)
        # Loss at the tail leaves no gap until the next record. While records wait, their gaps are yet to be seen.
        untold = self._lost() - self._base - gaps - self.pipeline.sequences.missing()
        if untold > 0 and not waiting:
            self._tell([self.pipeline.loss(untold, now_ns=self.clock())])
        self._throttled()
        for each in self.outputs.each():
            each.flush()

    def drain(self) -> None:
        """Read what is left after the probes are gone, and close the outputs."""
        while self.tick():
            pass
        self.tick()
        self._tell(self.pipeline.notices(self.clock(), final=True))
        self.outputs.write(None, self.pipeline.finish())
        self.second()
        for each in self.outputs.each():
            each.close()

    def _throttled(self) -> None:
        """Tell which control groups the kernel has begun, or ceased, to throttle."""
        now = self.clock()
        for change in self.throttles.look(now) if self.throttles is not None else ():
            table = self.pipeline.table
            path = table.cgroup_path(change.cgroup) if table is not None else ""
            name = path or f"id {change.cgroup}"
            dropped = f"; {change.count} were dropped" if change.action == "ended" else ""
            self.say(f"throttling of {change.family} events of control group {name} {change.action}{dropped}")
            self._tell([self.pipeline.throttle((change.action, change.cgroup, path, change.family, change.count),
                                               now_ns=now)])

    def breaker(self, step: Mapping[str, Any]) -> None:
        """Report a step of the breaker, as the supervisor has written it."""
        values = tuple(step[name] for name in ("action", "family", "reason", "measured", "limit", "sentence"))
        self._tell([self.pipeline.breaker(values, now_ns=self.clock())])

    def rehearse_loss(self, count: int) -> None:
        """Drill: tell of lost records that never were, in a stage of their own, so that no account is wrong."""
        self.say(f"drill: a loss of {count} records is told, and none was")
        self._tell([self.pipeline.loss(count, now_ns=self.clock(), stage=STAGE_DRILL)])

    def state(self, state: str, detail: str) -> None:
        """Report a change of the sensor itself."""
        self._tell([self.pipeline.state(state, detail, now_ns=self.clock())])

    def rule_disabled(self, rule: str, name: str, reason: str, measured: int, limit: int) -> None:
        """Report a rule that is not evaluated any more."""
        self._tell([self.pipeline.rule_disabled(rule, name, reason, measured, limit, now_ns=self.clock())])

    def content(self, values: tuple[Any, ...]) -> None:
        """Report what became of a content release: the values of a sensor_content event."""
        self._tell([self.pipeline.content(values, now_ns=self.clock())])

    def flush(self) -> None:
        """Hand on what outputs hold back."""
        if self.outputs.output is not None:
            self.outputs.output.flush()

    def _lost(self) -> int:
        return sum(counts["lost"] for counts in self.counts.values())

    def _tell(self, notices: list[Notice]) -> None:
        self.outputs.tell(notices)


def totals(live: Live) -> dict[str, Any]:
    """The numbers of the summary at the end."""
    counters = live.pipeline.counters
    emitted = sum(counts["emitted"] for counts in live.counts.values())
    lost = sum(counts["lost"] for counts in live.counts.values())
    return {"emitted": emitted, "received": sum(counters.received.values()), "lost": lost,
            "alerts": counters.alerts, "by_rule": dict(sorted(counters.matches.items()))}
