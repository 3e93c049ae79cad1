"""Gathers the engine's counts into a metrics snapshot. Reads only; runs on the scraper's thread."""

from __future__ import annotations

import errno as errnos
import platform
from dataclasses import dataclass, field
from typing import Any

from sensor import __version__
from sensor.breaker import ORDER
from sensor.content.keeper import LEVELS
from sensor.content.running import Selection
from sensor.crashes.database import Found, counts
from sensor.integrity import PARTS as TAMPERED
from sensor.kernel.hooks import RINGS
from sensor.live import Live
from sensor.metrics import RELOADS, Histogram, Snapshot, output_samples
from sensor.pipeline import STAGE_DRILL
from sensor.rules.meter import REASONS as METER_REASONS
from sensor.rules.meter import Meter
from sensor.rules.model import RuleSet


@dataclass(slots=True)
class Facts:
    """What the engine knows besides the live counts. Replaced whole, so a reader sees one state."""

    info: dict[str, Any] = field(default_factory=dict)  # the supervisor's message that began this run
    statistics: list[list[int]] = field(default_factory=list)  # [program id, run_ns, runs, missed]
    breaker: dict[str, Any] = field(default_factory=dict)  # the supervisor's last message of it
    rules: RuleSet | None = None
    levels: dict[str, str] = field(default_factory=dict)  # rule id -> level
    reload_ok: bool = True
    reload_at: float = 0.0
    reloads: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RELOADS, 0))
    disabled: dict[str, str] = field(default_factory=dict)  # id of a rule that doesn't run -> why
    disablings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METER_REASONS, 0))
    meter: Meter | None = None
    cache: dict[str, int] = field(default_factory=dict)  # of compiled rules: result -> look-ups
    latency: dict[str, Histogram] = field(default_factory=dict)
    requests_dropped: int = 0  # by the supervisor, of this engine and those before it
    tampered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TAMPERED, 0))
    crashes: list[Found] = field(default_factory=list)  # of this host, oldest first
    drills: dict[tuple[str, str], float] = field(default_factory=dict)  # (drill, result) -> how often
    content: Selection = field(default_factory=Selection)
    health: dict[str, Any] = field(default_factory=dict)  # the supervisor's message of that kind


def mode_of(info: dict[str, Any], breaker: dict[str, Any] | None = None) -> str:
    """full, reduced (a probe is missing, kept back by the boot guard, or switched off) or passive (none is loaded)."""
    if not info or info.get("passive"):
        return "passive"
    shed = breaker is not None and breaker.get("shed")
    return "reduced" if info.get("failures") or info.get("restricted") or shed else "full"


def take(live: Live | None, facts: Facts) -> Snapshot:
    """The state of everything, now."""
    snapshot = Snapshot(build={"version": __version__, "python": platform.python_version(),
                               "kernel": platform.release(), "commit": ""})
    current = mode_of(facts.info, facts.breaker)
    snapshot.mode = {name: float(name == current) for name in ("full", "reduced", "passive")}
    passive = facts.info.get("passive")
    snapshot.passive_reason = {passive["lack"]: 1.0} if passive else {}
    snapshot.requests_dropped = float(facts.requests_dropped)
    snapshot.tampered = dict(facts.tampered)
    snapshot.host_crashes = counts(facts.crashes)
    snapshot.last_crash_timestamp_seconds = max((each.time for each in facts.crashes if each.counted), default=None)
    snapshot.boot_guard_strikes = float(facts.info.get("strikes", 0))
    snapshot.engine_restarts = float(facts.info.get("restarts", 0))
    snapshot.drills = dict(facts.drills)
    _health(snapshot, facts.health)
    _rules(snapshot, facts)
    _content(snapshot, facts.content)
    _programs(snapshot, facts)
    if live is not None:
        _flow(snapshot, live, facts)
        _state(snapshot, live)
    return snapshot


def _health(snapshot: Snapshot, told: dict[str, Any]) -> None:
    if not told:
        return
    snapshot.kernel_supported = float(told["supported"])
    snapshot.selftest_success = dict(told["tests"])
    snapshot.selftest_timestamp_seconds = told["tested"] or None
    snapshot.canaries = dict(told["canaries"])
    snapshot.canary_processors = {"watched": told["watched"], "skipped": told["skipped"]}
    snapshot.detachments = {(reason, "yes" if drill else "no"): number for reason, drill, number in told["detached"]}


def _rules(snapshot: Snapshot, facts: Facts) -> None:
    rules = facts.rules
    if rules is not None:
        snapshot.rules_loaded = {"loaded": rules.loaded, "refused": len(rules.refused),
                                 "unsupported": len(rules.unsupported), "disabled": len(facts.disabled)}
    snapshot.rule_disabled = dict.fromkeys(facts.disabled.items(), 1.0)
    snapshot.rule_disablings = dict(facts.disablings)
    if facts.meter is not None:
        costly = list(facts.meter.costly)
        snapshot.rule_evaluations = {rule: facts.meter.evaluations[rule] for rule in costly}
        snapshot.rule_eval_seconds = {rule: facts.meter.nanoseconds[rule] / 1e9 for rule in costly}
    snapshot.config_reloads, snapshot.rule_cache = dict(facts.reloads), dict(facts.cache)
    snapshot.config_last_reload_successful = float(facts.reload_ok)
    snapshot.config_last_reload_success_timestamp_seconds = facts.reload_at or None


def _content(snapshot: Snapshot, chosen: Selection) -> None:
    snapshot.content_rollbacks, snapshot.content_load = dict(chosen.rollbacks), dict(chosen.loads)
    snapshot.content_level = {level: float(level == chosen.level) for level in LEVELS}
    stage = "full" if chosen.stage == "active" else chosen.stage
    snapshot.content_stage = {name: float(name == stage) for name in ("shadow", "canary", "full")}
    snapshot.content_last_load_timestamp_seconds = chosen.changed or None
    if chosen.live is not None:
        signer = ",".join(chosen.live.get("signers", ())) or "trusted path"
        snapshot.content_info = {(str(chosen.live["version"]), chosen.live["id"], signer): 1.0}
        snapshot.content_expiry_timestamp_seconds = float(chosen.live["expires"])


def _programs(snapshot: Snapshot, facts: Facts) -> None:
    programs = facts.info.get("programs", [])
    names = {program["id"]: program["program"] for program in programs}
    snapshot.bpf_program_info = {(program["program"], program["tag"], program["target"], "bcc"): 1.0
                                 for program in programs}
    attached = {f"{program['event'] or program['family']}:{program['target']}": 1.0 for program in programs}
    failures = facts.info.get("failures", [])
    missing = {f"{failure['event'] or failure['program']}:{failure['target']}": 0.0 for failure in failures}
    snapshot.probe_attached = {**attached, **missing}
    snapshot.probe_attach_failures = {
        (name, errnos.errorcode.get(failure.get("errno", 0), "other")): 1.0
        for name, failure in zip(missing, failures, strict=False)}
    runs = [row for row in facts.statistics if row[0] in names]
    snapshot.bpf_program_run_seconds = {names[row[0]]: row[1] / 1e9 for row in runs}
    snapshot.bpf_program_runs = {names[row[0]]: float(row[2]) for row in runs}
    snapshot.bpf_program_missed = {(names[row[0]], "recursion"): float(row[3]) for row in runs}
    _breaker(snapshot, facts.breaker, {program["family"] for program in programs})
    snapshot.bpf_memory_bytes = float(facts.info.get("memory", 0))


def _breaker(snapshot: Snapshot, told: dict[str, Any], families: set[str]) -> None:
    shed = told.get("shed", ())
    snapshot.breaker_shed = {name: float(name in shed) for name in ORDER if name in families}
    snapshot.breaker_steps = dict(told.get("counts", {}))
    if told and not told["lack"]:
        snapshot.kernel_cpu_ratio = told["ppm"] / 1e6


def _flow(snapshot: Snapshot, live: Live, facts: Facts) -> None:
    counters, kernel = live.pipeline.counters, live.kernel.read()
    snapshot.events_emitted = {name: row["emitted"] for name, row in kernel.items()}
    snapshot.events_received = dict(counters.received)
    lost: dict[tuple[str, str, str], float] = {}
    for name, row in kernel.items():
        lost[name, "kernel_ringbuf", "full"] = row["lost"]
        if row["nested"]:  # never numbered: refused before it began
            lost[name, "kernel_map", "nested"] = row["nested"]
    for reason, number in dict(live.stream.malformed).items():
        lost["all", "decode", reason] = number
    for each in live.outputs.each():
        for reason, number in dict(each.counts.errors).items():
            lost["all", "output", reason] = lost.get(("all", "output", reason), 0) + number
    if drilled := counters.lost.get(STAGE_DRILL):
        lost["all", STAGE_DRILL, STAGE_DRILL] = drilled
    snapshot.events_lost = lost
    snapshot.throttled = {name: row["throttled"] for name, row in kernel.items()}
    snapshot.throttled_cgroups = float(live.throttles.throttled) if live.throttles is not None else None
    snapshot.events_filtered = {
        **{(name, "kernel"): row["filtered"] for name, row in kernel.items()},
        **{(name, "user"): number for name, number in dict(counters.filtered).items()}}
    snapshot.event_sequence_gaps = {str(cpu): number for cpu, number in dict(counters.gaps).items()}
    snapshot.events_truncated = dict(counters.truncated)
    snapshot.event_latency_seconds = facts.latency
    snapshot.rule_matches = {(rule, facts.levels.get(rule, "")): number
                             for rule, number in dict(counters.matches).items()}
    snapshot.ringbuf_used_bytes = dict(zip(RINGS, live.stream.used(), strict=True))
    snapshot.ringbuf_size_bytes = dict(zip(RINGS, (ring.size for ring in live.stream.rings), strict=True))


def _state(snapshot: Snapshot, live: Live) -> None:
    table, builder = live.pipeline.table, live.pipeline.builder
    if table is not None:
        snapshot.process_table_entries, snapshot.process_table_capacity = len(table), table.capacity
        snapshot.process_lookups = dict(table.counters.lookups())
        snapshot.process_table_evictions = {"ended": table.counters.evicted_ended,
                                            "live": table.counters.evicted_live}
    if builder is not None:
        snapshot.enrichment_errors = dict(builder.counters.errors)
    correlator = live.pipeline.correlator
    if correlator is not None:
        snapshot.correlation_groups, snapshot.correlation_events = len(correlator), correlator.entries
        snapshot.correlation_bytes = correlator.bytes
        snapshot.correlation_evictions = dict(correlator.counters.evicted)
        snapshot.correlation_dropped = dict(correlator.counters.dropped)
    names = {"output": live.outputs.output, "recording": live.outputs.recorder}
    counts = {getattr(each, "name", name): each.counts for name, each in names.items() if each is not None}
    for name, value in output_samples(counts).items():
        setattr(snapshot, name, value)
