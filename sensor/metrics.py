"""Every metric: one table, from which come the exposition and docs/metrics.md.

The engine counts in plain dicts of its own. When somebody asks, ``pull`` gathers them in a
:class:`Snapshot`, on the asker's thread: nothing in the event path knows that metrics exist. Label
values come from closed sets or are bounded, and counters with a closed set show their zeros from the
start, so that the first loss is a rate and not a new series.
"""

# ruff: noqa: RUF009  _row() makes a dataclass field, as field() does

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sensor.breaker import ACTIONS
from sensor.content.state import REASONS
from sensor.controlsocket import DRILLS
from sensor.controlsocket import RESULTS as DRILL_RESULTS
from sensor.crashes.verdict import ATTRIBUTED
from sensor.health import REASONS as HEALTH_REASONS
from sensor.integrity import PARTS as TAMPERED
from sensor.kernel.preflight import LACKS
from sensor.outputs.counts import REASONS as OUTPUT_REASONS
from sensor.rulecache import RESULTS as CACHE_RESULTS
from sensor.rules.meter import REASONS as METER_REASONS
from sensor.schema import EVENTS

PREFIX = "sensor_"

#: Series of one metric whose labels are not a closed set (rules, programs). Those that come later are
#: added up under ``other``: 1,000 series in all is what a scrape of one host should cost.
SERIES_LIMIT = 128
OTHER = "other"
#: The same of what rules cost, where few rules are worth a series.
COSTLY_LIMIT = 32

TYPES = tuple(event.name for event in EVENTS)
KERNEL_TYPES = tuple(event.name for event in EVENTS if event.family != "user")
DECODE_REASONS = ("short", "abi", "type", "malformed", "ring")
LEVELS = ("informational", "low", "medium", "high", "critical")
OUTPUTS = ("stdout", "file", "table", "journald", "recording")
MODES = ("full", "reduced", "passive")
RELOADS = ("success", "failure")
SELFTESTS = ("health", "canary", "ring")
CANARIES = ("seen", "missing", "late")

#: Tuple of label values -> number; with one label the value itself may be the key.
Samples = Mapping[Any, float]


class Histogram:
    """Durations in buckets, counted by one thread and read by any."""

    #: Upper bounds in seconds: a 10 ms tick is usual, 1 s is where the alarm is.
    BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(self.BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.BOUNDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition wants them."""
        bounds = [*(str(bound) for bound in self.BOUNDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of the table. ``closed`` are the label values that a counter shows from the start."""

    kind: str  # counter, gauge, histogram, info
    group: str
    doc: str
    labels: tuple[str, ...] = ()
    closed: tuple[tuple[str, ...], ...] = ()
    limit: int = SERIES_LIMIT


def _row(kind: str, group: str, doc: str, labels: str = "", closed: Any = (), limit: int = SERIES_LIMIT) -> Any:
    names = tuple(labels.split())
    combinations = tuple((item,) if isinstance(item, str) else tuple(item) for item in closed)
    row = Row(kind, group, doc, names, combinations, limit)
    return field(default_factory=dict, metadata={"row": row}) if names or kind == "info" else field(
        default=None, metadata={"row": row})


_FLOW, _KERNEL, _RULES, _STATE, _OUTPUTS, _PROCESS = (
    "Flow and loss", "Kernel side", "Rules", "State", "Outputs", "Process")

_LOSSES = (
    *((name, "kernel_ringbuf", "full") for name in KERNEL_TYPES),
    *(("all", "decode", reason) for reason in DECODE_REASONS),
    *(("all", "output", reason) for reason in OUTPUT_REASONS),
    ("all", "drill", "drill"),
)


@dataclass(slots=True)
class Snapshot:
    """What the engine knows at one moment. A field is the metric of its name; empty ones have no samples.

    A counter's field lacks the suffix ``_total``. Totals only rise while the process lives.
    """

    events_emitted: Samples = _row("counter", _FLOW, "Records that probes wrote or wanted to write: received plus "
                                   "lost in the ring buffer.", "type", KERNEL_TYPES)
    events_received: Samples = _row("counter", _FLOW, "Records decoded, and events that the sensor made itself.",
                                    "type", TYPES)
    events_lost: Samples = _row("counter", _FLOW, "Events lost, by where. Any increase deserves an alarm.",
                                "type stage reason", _LOSSES)
    events_filtered: Samples = _row("counter", _FLOW, "Events dropped on purpose, in the kernel or after it.",
                                    "type where", tuple((name, where) for name in KERNEL_TYPES
                                                        for where in ("kernel", "user")))
    throttled: Samples = _row("counter", _FLOW, "Events that the kernel dropped because their control group had caused "
                              "more than `limits.cgroup_events`. They are neither emitted nor lost.", "type",
                              KERNEL_TYPES)
    throttled_cgroups: float | None = _row("gauge", _FLOW, "Control groups that are throttled now, one for each probe "
                                           "family.")
    event_sequence_gaps: Samples = _row("counter", _FLOW, "Gaps in the numbers that records carry.", "cpu")
    event_latency_seconds: Mapping[str, Histogram] = _row(
        "histogram", _FLOW, "From the hook in the kernel to the rules' verdict.", "type")
    events_truncated: Samples = _row("counter", _FLOW, "Records with a text cut at its bound.", "type", KERNEL_TYPES)
    enrichment_errors: Samples = _row("counter", _FLOW, "What could not be added to an event, by kind.", "kind")
    ringbuf_used_bytes: Samples = _row("gauge", _FLOW, "Bytes waiting in a ring buffer.", "ring")
    ringbuf_size_bytes: Samples = _row("gauge", _FLOW, "Size of a ring buffer.", "ring")

    bpf_program_info: Samples = _row("gauge", _KERNEL, "1 for each program in the kernel.",
                                     "program tag attach source")
    bpf_program_run_seconds: Samples = _row("counter", _KERNEL, "Time that a program ran while the kernel measured "
                                            "it: the breaker's samples, a fifth of the time; all of it where "
                                            "kernel.bpf_stats_enabled is on. What a tail call reaches counts for the "
                                            "program that it began with.", "program")
    bpf_program_runs: Samples = _row("counter", _KERNEL, "Times that a program ran, as above.", "program")
    kernel_cpu_ratio: float | None = _row("gauge", _KERNEL, "Part of the time of all processors that all programs "
                                          "took, mean of 30 s: what `limits.kernel_cpu` bounds. Absent where the "
                                          "kernel does not measure, or where neither that nor "
                                          "`limits.program_ns` is a bound.")
    breaker_shed: Samples = _row("gauge", _KERNEL, "1 for a probe family that the breaker has switched off. Anything "
                                 "but 0 deserves an alarm.", "family")
    breaker_steps: Samples = _row("counter", _KERNEL, "Steps of the breaker, drills too: shed, restored; exhausted, "
                                  "where what costs can't be switched off.", "action", ACTIONS)
    bpf_program_missed: Samples = _row("counter", _KERNEL, "Times that a program should have run and did not.",
                                       "program reason")
    probe_attached: Samples = _row("gauge", _KERNEL, "1 while the probe is attached, 0 where it should be.", "probe")
    probe_attach_failures: Samples = _row("counter", _KERNEL, "Probes that could not be attached.", "probe errno")
    bpf_memory_bytes: float | None = _row("gauge", _KERNEL, "Memory of all maps of the sensor.")

    rule_matches: Samples = _row("counter", _RULES, f"Events that a rule matched. After {SERIES_LIMIT} rules the "
                                 "rest is added up.", "rule severity")
    rule_evaluations: Samples = _row("counter", _RULES, "Times that a rule had to test an event itself (expressions, "
                                     "networks, ...), because its words alone did not decide. Estimated from samples. "
                                     "Rules that took 10 ms in all have a series, the first "
                                     f"{COSTLY_LIMIT} of them.", "rule", limit=COSTLY_LIMIT)
    rule_eval_seconds: Samples = _row("counter", _RULES, "Processor time of those tests, estimated likewise. What all "
                                      "rules share (scanning new values, look-ups) belongs to no rule.", "rule",
                                      limit=COSTLY_LIMIT)
    rule_disabled: Samples = _row("gauge", _RULES, "1 for each rule that is loaded and does not run: by the operator, "
                                  "or because it was over its budget of cpu_time or alerts.", "rule reason")
    rule_disablings: Samples = _row("counter", _RULES, "Rules that were disabled for being over their budget.",
                                    "reason", METER_REASONS)
    rules_loaded: Samples = _row("gauge", _RULES, "Rules by state: loaded, refused (broken), unsupported (for log "
                                 "sources that the sensor lacks), disabled (of the loaded).", "state")
    correlation_groups: float | None = _row("gauge", _RULES, "Groups that correlations remember events of.")
    correlation_events: float | None = _row("gauge", _RULES, "Events that correlations remember.")
    correlation_bytes: float | None = _row("gauge", _RULES, "Memory of the two, roughly.")
    correlation_evictions: Samples = _row("counter", _RULES, "What correlations forgot before its time for want of "
                                          "room, by the bound that was reached. A correlation may miss something "
                                          "then.", "bound", ("groups", "events", "bytes"))
    correlation_dropped: Samples = _row("counter", _RULES, "Matches that correlations could not use: an event seen "
                                        "before, later than the timespan, without a time, or without a value to "
                                        "group by.", "reason", ("duplicate", "late", "undated", "ungrouped"))
    config_reloads: Samples = _row("counter", _RULES, "Reloads of rules; after a failure the rules are those of "
                                   "before.", "result", RELOADS)
    rule_cache: Samples = _row("counter", _RULES, "Look-ups of compiled rules: hit, miss, damaged, untrusted (another "
                               "user could have written them); unwritable: what was compiled could not be kept.",
                               "result", CACHE_RESULTS)
    config_last_reload_successful: float | None = _row("gauge", _RULES, "1 if the last reload of rules succeeded.")
    config_last_reload_success_timestamp_seconds: float | None = _row(
        "gauge", _RULES, "When rules were last loaded, seconds since the epoch.")

    content_info: Samples = _row("gauge", _RULES, "1 for the content release whose rules raise alerts; signer is the "
                                 "ids of the keys.", "version sha256 signer")
    content_stage: Samples = _row("gauge", _RULES, "1 for the stage of the newest content release.", "stage")
    content_level: Samples = _row("gauge", _RULES, "1 for the rules that crashes have left: configured, built-in, or "
                                  "none (observe). Anything but configured deserves an alarm.", "level")
    content_load: Samples = _row("counter", _RULES, "Content releases taken into the store or refused.", "result",
                                 ("loaded", "refused"))
    content_rollbacks: Samples = _row("counter", _RULES, "Content releases taken back, by why. Any increase deserves "
                                      "an alarm.", "reason", REASONS)
    content_last_load_timestamp_seconds: float | None = _row(
        "gauge", _RULES, "When content last changed, seconds since the epoch.")
    content_expiry_timestamp_seconds: float | None = _row(
        "gauge", _RULES, "When the content release expires, seconds since the epoch. It goes on then, and a newer "
        "one is due.")

    process_table_entries: float | None = _row("gauge", _STATE, "Processes known, running and ended.")
    process_table_capacity: float | None = _row("gauge", _STATE, "Bound of the above.")
    process_table_evictions: Samples = _row("counter", _STATE, "Processes forgotten: ended ones are the usual way "
                                            "out, live ones mean that the table is too small.", "state",
                                            ("ended", "live"))
    process_lookups: Samples = _row("counter", _STATE, "Processes looked up: hit, miss (a parent or target not "
                                    "known), created (an event's process not known).", "result",
                                    ("hit", "miss", "created"))
    mode: Samples = _row("gauge", _STATE, "1 for the mode that the sensor is in: full; reduced, where probes are "
                         "missing; passive, where none is loaded.", "mode")
    passive_reason: Samples = _row("gauge", _STATE, "1 for what keeps probes from being loaded in the mode passive; "
                                   "`/-/ready` says it in words.", "reason", LACKS)
    requests_dropped: float | None = _row("counter", _STATE, "Requests of the engine that the supervisor dropped, for "
                                          "there were too many. Any increase deserves an alarm.")
    tampered: Samples = _row("counter", _STATE, "Changes by others to what the sensor has in the kernel, as found by "
                             "looking every 10 s. Any increase deserves an alarm.", "part", TAMPERED)
    host_crashes: Samples = _row("counter", _STATE, "Crashes of this host that are known (`sensor crashes`), by whom "
                                 "they are attributed to.", "attributed", ATTRIBUTED)
    last_crash_timestamp_seconds: float | None = _row(
        "gauge", _STATE, "When the last of them was, seconds since the epoch.")
    boot_guard_strikes: float | None = _row("gauge", _STATE, "Boots with probes that ended badly: 1 leaves process "
                                            "events, 2 none, until `sensor guard reset` or a new version.")
    drills: Samples = _row("counter", _STATE, "Rehearsals (`sensor drill`) that were run, by how they ended. What they "
                           "show is no alarm.", "drill result", tuple((drill, result) for drill in DRILLS
                                                                        for result in DRILL_RESULTS))
    kernel_supported: float | None = _row("gauge", _STATE, "1 where this series of kernels was tested, 0 where it is "
                                          "newer: the self-test at the start decides then about most probes.")
    selftest_success: Samples = _row("gauge", _STATE, "1 where the last test was passed: the kernel's counts of oopses "
                                     "and warnings (health), a canary from every processor (canary), rings that are "
                                     "read (ring).", "test", SELFTESTS)
    selftest_timestamp_seconds: float | None = _row(
        "gauge", _STATE, "When the last canaries came back, seconds since the epoch. They do every 30 s.")
    canaries: Samples = _row("counter", _STATE, "Canaries by what became of them: seen by every program that must; "
                             "missing; late, where the processor had no time for them.", "result", CANARIES)
    canary_processors: Samples = _row("gauge", _STATE, "Processors with canaries, and those without: offline, or "
                                      "closed to the sensor.", "state", ("watched", "skipped"))
    detachments: Samples = _row("counter", _STATE, "Times that every probe was detached to keep the host safe. Any "
                                "increase that is no drill deserves an alarm.", "reason drill",
                                tuple((reason, drill) for reason in HEALTH_REASONS for drill in ("no", "yes")))
    engine_restarts: float | None = _row("counter", _STATE, "Times that the engine was started again.")

    output_events: Samples = _row("counter", _OUTPUTS, "Events and alerts written.", "output")
    output_bytes: Samples = _row("counter", _OUTPUTS, "Bytes written.", "output")
    output_errors: Samples = _row("counter", _OUTPUTS, "Writes that failed.", "output reason")
    output_dropped: Samples = _row("counter", _OUTPUTS, "Events and alerts lost by failed writes.", "output")
    output_last_success_timestamp_seconds: Samples = _row(
        "gauge", _OUTPUTS, "When an output last took something, seconds since the epoch.", "output")

    build: Mapping[str, str] = _row("info", _PROCESS, "Version, commit, Python and kernel, as labels.")


#: Metric without prefix and suffix -> its row.
ROWS: dict[str, Row] = {item.name: item.metadata["row"] for item in dataclasses.fields(Snapshot)}


def full_name(name: str) -> str:
    """The name as it is scraped."""
    suffix = {"counter": "_total", "info": "_info"}.get(ROWS[name].kind, "")
    return f"{PREFIX}{name}{suffix}"


class SnapshotCollector(Collector):
    """Turns a snapshot into metric families at each scrape."""

    def __init__(self, pull: Callable[[], Snapshot]) -> None:
        self._pull = pull

    def describe(self) -> Iterator[Metric]:
        """The families without samples: registering must not pull."""
        for name, row in ROWS.items():
            yield _family(name, row)

    def collect(self) -> Iterator[Metric]:
        """The families as of now."""
        snapshot = self._pull()
        for name, row in ROWS.items():
            family = _family(name, row)
            _fill(family, row, getattr(snapshot, name))
            yield family


def _family(name: str, row: Row) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    if row.kind == "info":
        return InfoMetricFamily(PREFIX + name, row.doc)
    family: Metric = kinds[row.kind](PREFIX + name, row.doc, labels=row.labels)
    return family


def _fill(family: Any, row: Row, value: Any) -> None:
    if row.kind == "info":
        if value:
            family.add_metric((), dict(value))
    elif not row.labels:
        if value is not None:
            family.add_metric((), value)
    elif row.kind == "histogram":
        # dict(): copied in one step, for the engine's thread may add a key meanwhile.
        for key, histogram in bounded(dict(value), row):
            family.add_metric(key, histogram.buckets(), histogram.sum)
    else:
        for key, number in bounded({**dict.fromkeys(row.closed, 0), **_tuples(dict(value))}, row):
            family.add_metric(key, number)


def _tuples(samples: Mapping[Any, float]) -> dict[tuple[str, ...], float]:
    return {key if isinstance(key, tuple) else (str(key),): number for key, number in samples.items()}


def bounded(samples: Mapping[Any, Any], row: Row) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Samples up to the limit, in the order in which they first came; the rest as one, ``other``.

    The order makes it stable: a series never moves into ``other`` or out of it, so counters only rise.
    """
    limit = max(row.limit, len(row.closed))
    rest = 0.0
    for index, (key, value) in enumerate(samples.items()):
        if index < limit:
            yield key if isinstance(key, tuple) else (str(key),), value
        elif row.kind == "counter":
            rest += value
    if len(samples) > limit and row.kind == "counter":
        yield (OTHER,) * len(row.labels), rest


def output_samples(counts: Mapping[str, Any]) -> dict[str, dict[Any, float]]:
    """The fields of the group Outputs, from output name -> :class:`sensor.outputs.Counts`."""
    return {
        "output_events": {name: each.events for name, each in counts.items()},
        "output_bytes": {name: each.bytes for name, each in counts.items()},
        "output_dropped": {name: each.dropped for name, each in counts.items()},
        "output_errors": {(name, reason): number for name, each in counts.items()
                          for reason, number in each.errors.items()},
        "output_last_success_timestamp_seconds": {
            name: each.last_success for name, each in counts.items() if each.last_success},
    }


class Metrics:
    """The metrics of this process, on a registry of their own.

    Args:
        pull: Gathers a snapshot. Called on the thread of whoever asks; must only read.
        proc: Root of the proc file system, for the process's own CPU time, memory and descriptors.
    """

    def __init__(self, pull: Callable[[], Snapshot], proc: str = "/proc") -> None:
        self.registry = CollectorRegistry()
        self.registry.register(SnapshotCollector(pull))
        ProcessCollector(registry=self.registry, proc=proc)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
