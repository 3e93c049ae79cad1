"""Metrics: closed label sets from the start, bounded series, names that Prometheus takes."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from sensor.codegen_docs import metrics_page
from sensor.metrics import (
    KERNEL_TYPES,
    OTHER,
    ROWS,
    SERIES_LIMIT,
    TYPES,
    Histogram,
    Metrics,
    Snapshot,
    full_name,
    output_samples,
)
from sensor.outputs.counts import Counts
from tests.conftest import ROOT, prometheus_tool

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def full(rules: int = 40) -> Snapshot:
    """A snapshot with something in every field."""
    latency = Histogram()
    for seconds in (0.0005, 0.02, 9.0):
        latency.observe(seconds)
    counts = Counts(events=3, bytes=900, last_success=1.5)
    counts.drop("no_space", 2)
    return Snapshot(
        events_emitted=dict.fromkeys(KERNEL_TYPES, 11), events_received=dict.fromkeys(TYPES, 7),
        events_lost={("file_open", "kernel_ringbuf", "full"): 4, ("all", "decode", "short"): 1},
        events_filtered={("file_open", "kernel"): 2}, event_sequence_gaps={str(cpu): 1 for cpu in range(8)},
        event_latency_seconds=dict.fromkeys(KERNEL_TYPES, latency), events_truncated={"process_exec": 1},
        enrichment_errors={"dns_message": 1}, ringbuf_used_bytes={"process": 1, "events": 2},
        ringbuf_size_bytes={"process": 1 << 20, "events": 8 << 20},
        bpf_program_info={(f"p{n}", "tag", "raw_tracepoint:x", "bcc"): 1 for n in range(40)},
        bpf_program_run_seconds={f"p{n}": 0.5 for n in range(40)}, bpf_program_runs={f"p{n}": 9 for n in range(40)},
        bpf_program_missed={(f"p{n}", "recursion"): 0 for n in range(40)},
        probe_attached={f"p{n}": 1 for n in range(40)}, probe_attach_failures={("p0", "ENOENT"): 1},
        kernel_cpu_ratio=0.002, breaker_shed={"file": 1}, throttled_cgroups=1,
        bpf_memory_bytes=9e6, rule_matches={(f"rule-{n}", "high"): 1 for n in range(rules)},
        rule_evaluations={f"rule-{n}": 1 for n in range(rules)},
        rule_eval_seconds={f"rule-{n}": 0.1 for n in range(rules)},
        rule_disabled={("rule-1", "operator"): 1}, rules_loaded={"loaded": rules}, config_last_reload_successful=1,
        content_info={("8", "ab" * 32, "0123456789abcdef"): 1}, content_stage={"shadow": 1, "canary": 0, "full": 0},
        content_level={"configured": 1}, content_load={"loaded": 2}, content_rollbacks={"crash": 1},
        content_last_load_timestamp_seconds=1.7e9, content_expiry_timestamp_seconds=1.8e9,
        correlation_groups=1, correlation_events=2, correlation_bytes=3,
        config_last_reload_success_timestamp_seconds=1.0, process_table_entries=5, process_table_capacity=65536,
        process_table_evictions={"ended": 3}, process_lookups={"hit": 9}, mode={"full": 1}, engine_restarts=0,
        host_crashes={"other": 1}, last_crash_timestamp_seconds=1.0, boot_guard_strikes=1, requests_dropped=0,
        kernel_supported=1, selftest_success={"canary": 1}, selftest_timestamp_seconds=1.0, canaries={"seen": 2},
        canary_processors={"watched": 2}, detachments={("oops", "no"): 1},
        build={"version": "1", "commit": "c", "python": "3", "kernel": "6"},
        **output_samples({"file": counts}))


def scrape(snapshot: Snapshot, accept: str = "") -> str:
    return Metrics(lambda: snapshot).exposition(accept)[0].decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parse(text) for sample in family.samples}


def test_every_row_is_exposed_under_its_name_with_its_labels() -> None:
    """Table and exposition agree, and nothing else carries our prefix."""
    names = {name for name, _ in samples(scrape(full())) if name.startswith("sensor_")}
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert plain == {full_name(name) for name in ROWS}


def test_losses_are_zero_before_the_first_one() -> None:
    """rate() needs a series to begin at zero: each event type, each reason."""
    found = samples(scrape(Snapshot()))
    for kind in KERNEL_TYPES:
        labels = (("reason", "full"), ("stage", "kernel_ringbuf"), ("type", kind))
        assert found["sensor_events_lost_total", labels] == 0
        assert found["sensor_events_received_total", (("type", kind),)] == 0
    assert found["sensor_events_lost_total", (("reason", "no_space"), ("stage", "output"), ("type", "all"))] == 0


def test_gauges_are_absent_until_somebody_knows_them() -> None:
    """A zero that nobody measured would be a lie."""
    found = samples(scrape(Snapshot()))
    assert not [name for name, _ in found if name in ("sensor_process_table_entries", "sensor_bpf_memory_bytes")]


def test_counts_arrive_where_they_belong() -> None:
    """Values keep their labels through the exposition."""
    found = samples(scrape(full()))
    assert found["sensor_events_lost_total",
                 (("reason", "full"), ("stage", "kernel_ringbuf"), ("type", "file_open"))] == 4
    assert found["sensor_output_dropped_total", (("output", "file"),)] == 2
    assert found["sensor_output_errors_total", (("output", "file"), ("reason", "no_space"))] == 1
    assert found["sensor_event_latency_seconds_bucket", (("le", "0.05"), ("type", "file_open"))] == 2
    assert found["sensor_event_latency_seconds_bucket", (("le", "+Inf"), ("type", "file_open"))] == 3
    assert found["sensor_event_latency_seconds_sum", (("type", "file_open"),)] == pytest.approx(9.0205)


@pytest.mark.hostile("cardinality")
def test_series_stay_below_a_thousand_with_thousands_of_rules() -> None:
    """No content and no attacker makes a scrape grow."""
    few, many = samples(scrape(full())), samples(scrape(full(5000)))
    assert len(many) < len(few) + SERIES_LIMIT
    assert len(many) < 1000
    rest = (("rule", OTHER), ("severity", OTHER))
    assert many["sensor_rule_matches_total", rest] == 5000 - SERIES_LIMIT


def test_counters_only_rise_while_rules_are_added() -> None:
    """A series never moves into the rest or out of it."""
    matches: dict[tuple[str, ...], float] = {}
    before: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for number in range(SERIES_LIMIT + 40):
        matches[f"rule-{number}", "low"] = 1
        if number % 13 == 0:
            now = samples(scrape(Snapshot(rule_matches=matches)))
            assert all(now[key] >= value for key, value in before.items() if key[0].startswith("sensor_rule"))
            before = now


def test_openmetrics_is_served_by_accept_and_is_sound() -> None:
    """The stricter format, checked by its own parser."""
    body, content_type = Metrics(full).exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name for family in parse_openmetrics(body.decode())}
    assert "sensor_events_lost" in families
    assert body.endswith(b"# EOF\n")


@pytest.mark.hostile("delimiters")
def test_label_values_of_an_attacker_stay_one_line() -> None:
    """Quotes, backslashes and newlines in a label are escaped."""
    hostile = 'a"b\\c\nsensor_fake 1'
    found = samples(scrape(Snapshot(enrichment_errors={hostile: 3})))
    assert found["sensor_enrichment_errors_total", (("kind", hostile),)] == 3
    assert not [name for name, _ in found if name == "sensor_fake"]


def test_scrapes_while_the_engine_counts_never_fail() -> None:
    """A dict that grows under the scraper's hands is copied in one step."""
    matches: dict[tuple[str, ...], float] = {}
    metrics = Metrics(lambda: Snapshot(rule_matches=matches))
    stop = threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            matches[str(number % 5000), "low"] = number
            number += 1
            if number % 5000 == 0:
                matches.clear()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(50):
            metrics.exposition()
    finally:
        stop.set()
        thread.join()


def test_process_metrics_come_from_the_given_proc(tmp_path: Path) -> None:
    """CPU time, memory and descriptors are the client library's, under their usual names."""
    text = scrape(Snapshot())
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert f"\n{name} " in text
    absent = Metrics(Snapshot, proc=str(tmp_path)).exposition()[0]
    assert b"process_cpu_seconds_total" not in absent


def test_two_registries_do_not_meet() -> None:
    """Nothing global: a second engine in one process has its own."""
    first, second = Metrics(lambda: Snapshot(engine_restarts=1)), Metrics(lambda: Snapshot(engine_restarts=2))
    assert b"sensor_engine_restarts_total 1.0" in first.exposition()[0]
    assert b"sensor_engine_restarts_total 2.0" in second.exposition()[0]


@pytest.mark.parametrize("make", [Snapshot, full])
def test_promtool_has_nothing_to_say(make: Callable[[], Snapshot]) -> None:
    """Prometheus' own linter accepts names, types and help texts."""
    promtool = prometheus_tool("promtool")
    checked = subprocess.run([promtool, "check", "metrics"], input=scrape(make()), text=True, capture_output=True,
                             check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_page_of_metrics_is_generated_from_the_table() -> None:
    """docs/metrics.md is what the generator writes now, and says on line 1 how it came to be."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_page(), "run: python -m sensor.codegen_docs"
    assert "python -m sensor.codegen_docs" in page.splitlines()[0]


def test_queries_in_the_page_name_metrics_that_exist() -> None:
    """A query that somebody copies finds something."""
    known = {full_name(name) for name in ROWS}
    for name in re.findall(r"sensor_[a-z_]+", metrics_page().partition("## Questions")[2]):
        assert name.removesuffix("_bucket") in known
