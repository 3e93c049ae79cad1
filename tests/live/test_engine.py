"""The running sensor from outside: what its engine may do, what its metrics say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.harness import Sensor, Workloads, action, get, of_kind
from tests.live.host import children, descriptors, owned_programs, status_of, wait_until

MAP_ARRAY, MAP_RINGBUF = 2, 27


def test_engine_has_no_capability_and_is_not_root(sensor: Sensor) -> None:
    """All capability sets are empty, all four user ids are not 0, no new privileges can come."""
    status = status_of(sensor.engine())
    assert {
        name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    } == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()
    assert "0" not in status["Groups"].split()
    assert status["NoNewPrivs"] == "1"


@pytest.mark.contract("panic-5a")
def test_engine_holds_no_link_no_program_and_no_filter_map(sensor: Sensor) -> None:
    """Only ring buffers and counters: nothing by which it could change what the kernel reports."""
    engine = sensor.engine()
    links = set(descriptors(engine).values())
    assert not [link for link in links if re.search(r"bpf[-_](link|prog)|perf_event|btf", link)]
    kinds = [
        int(found)
        for entry in Path(f"/proc/{engine}/fdinfo").iterdir()
        for found in re.findall(r"^map_type:\s*(\d+)", entry.read_text(), re.MULTILINE)
    ]
    assert MAP_RINGBUF in kinds
    assert set(kinds) <= {MAP_RINGBUF, MAP_ARRAY}


@pytest.mark.contract("panic-5a")
def test_supervisor_holds_the_attachments_and_no_parser(sensor: Sensor) -> None:
    """Programs are attached through it, and neither LLVM nor YAML nor a rule is in its memory."""
    assert set(owned_programs([sensor.pid]))
    mapped = Path(f"/proc/{sensor.pid}/maps").read_text()
    assert not re.search(r"libbcc|libLLVM|libclang|_yaml|re2|pyarrow", mapped)


def test_loader_is_gone_when_the_sensor_is_ready(sensor: Sensor) -> None:
    """No process with the compiler in it remains."""
    for pid in children(sensor.pid):
        assert "libbcc" not in Path(f"/proc/{pid}/maps").read_text(), pid


def test_metrics_parse_and_stay_few(sensor: Sensor) -> None:
    """Prometheus' own parser takes them; every name has the prefix, help and type; at most 1,000 series."""
    status, text = sensor.probe("/metrics")
    assert status == 200
    families = list(text_string_to_metric_families(text))
    assert families
    assert sum(len(family.samples) for family in families) <= 1000
    for family in families:
        assert family.name.startswith(("sensor_", "process_", "python_")), family.name
        assert family.documentation, family.name
        assert family.type != "unknown", family.name


def test_health_and_readiness_are_served(sensor: Sensor) -> None:
    """The two probes answer 200; an unknown path does not."""
    assert sensor.probe("/-/healthy")[0] == 200
    assert sensor.probe("/-/ready")[0] == 200
    assert sensor.probe("/no-such-path")[0] == 404


def test_received_counts_what_the_output_shows(sensor: Sensor, workloads: Workloads) -> None:
    """23 executions more in the output are at least 23 more in the metric, by type."""
    before = sensor.total("sensor_events_received_total", type="process_exec")
    program = workloads.program("forkexec")

    def act() -> list[int]:
        pids = []
        for _ in range(23):
            child = subprocess.Popen([program, "--exit", "0"])
            assert child.wait() == 0
            pids.append(child.pid)
        return pids

    pids, documents = sensor.watch(act)
    assert len([d for d in of_kind(documents, "process-exec") if get(d, "process.pid") in pids]) == 23
    assert sensor.total("sensor_events_received_total", type="process_exec") >= before + 23


def test_sensor_does_not_report_its_own_work(sensor: Sensor) -> None:
    """Its output, its scrapes and its reads of /proc make no events that would make more output."""
    own = {sensor.pid, sensor.engine()}
    _, documents = sensor.watch(lambda: [sensor.probe("/metrics")[0] for _ in range(7)])
    assert [action(d) for d in documents if get(d, "process.pid") in own and get(d, "event.kind") == "event"] == []


@pytest.mark.contract("loss-1")
def test_nothing_is_lost_in_quiet_times(sensor: Sensor) -> None:
    """Emitted is received, while nobody floods."""
    flow = wait_until(
        lambda: (now := sensor.flow())[0] == now[1] + now[2] and now, 10, "emitted = received + lost", 0.2
    )
    emitted, _, lost = flow
    assert emitted > 0
    assert lost == 0
    assert sensor.total("sensor_events_lost_total") == 0


def test_timestamps_are_the_wall_clock(sensor: Sensor) -> None:
    """@timestamp is RFC 3339 in UTC with nanoseconds, between before and after."""

    def iso(seconds: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))

    before = time.time()
    child, documents = sensor.watch(lambda: subprocess.Popen(["/bin/true", "clock"]).wait())
    assert child == 0
    [seen] = [d for d in of_kind(documents, "process-exec") if get(d, "process.args") == ["/bin/true", "clock"]]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", seen["@timestamp"])
    assert iso(before - 0.1) <= seen["@timestamp"][:19] <= iso(time.time() + 0.1)


def test_engine_and_zygote_are_confined_and_rules_are_read_anew(sensor: Sensor) -> None:
    """The engine has a filter of its calls; its one child has none, no privilege and no descriptor of the sensor's."""
    engine = sensor.engine()
    assert int(status_of(engine)["Seccomp"]) == 2
    [zygote] = children(engine)
    status = status_of(zygote)
    assert (status["Name"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("sensor-zygote", "1", 0)
    assert not [link for link in descriptors(zygote).values() if re.search(r"bpf|events\.jsonl", link)]
    before = sensor.total("sensor_config_reloads_total", result="success")
    os.kill(sensor.pid, signal.SIGHUP)
    wait_until(lambda: sensor.total("sensor_config_reloads_total", result="success") > before, 120,
               f"the rules are read again: {sensor.stderr()[-500:]}")
