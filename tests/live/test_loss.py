"""A flood that the ring can't hold: every lost record is counted, said, and accounted for."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.live.harness import Sensor, Workloads, action, finish, get, of_kind
from tests.live.host import wait_until

FLOOD = 1_000_000
EXECS = 101


@pytest.fixture(scope="module")
def flooded(workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A sensor with a ring of 64 KiB after a million opens for writing and 101 executions in between."""
    place = tmp_path_factory.mktemp("flood").resolve()
    settings = "limits:\n  ring_kib: 64\n"
    with Sensor(tmp_path_factory.mktemp("small-ring"), settings=settings, only_count=b"/flooded-") as sensor:
        workloads.program("flood")
        engine = sensor.engine()
        began, idle = time.time(), _waited(engine)
        flood = workloads.start("flood", place, FLOOD, 4, EXECS)
        first = sensor.wait_for(lambda d: action(d) == "sensor-loss", 0, 60, "a loss document")
        heard = _seconds(first["@timestamp"]) - began - (_waited(engine) - idle)
        truth = finish(flood)
        wait_until(lambda: _identity(sensor), 15, "emitted = received + lost", 0.25)
        yield SimpleNamespace(sensor=sensor, truth=truth, heard=heard)


def _waited(pid: int) -> float:
    """Seconds that a process has waited for a processor: four flooding processes have two of them busy."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _seconds(timestamp: str) -> float:
    return dt.datetime.fromisoformat(timestamp[:26] + "+00:00").timestamp()


def _identity(sensor: Sensor) -> bool:
    emitted, received, lost = sensor.flow()
    return emitted == received + lost and lost > 0


@pytest.mark.contract("loss-5")
@pytest.mark.hostile("event-flood")
def test_emitted_is_received_plus_lost_after_a_million_events(flooded: SimpleNamespace) -> None:
    """Exactly, in total and for the type that flooded; and the flood was one."""
    assert flooded.truth["events"] == FLOOD
    wait_until(lambda: _identity(flooded.sensor), 10, "emitted = received + lost", 0.25)
    emitted, received, lost = flooded.sensor.flow(type="file_open")
    assert emitted >= FLOOD
    assert lost > FLOOD // 100
    assert emitted == received + lost


def test_opens_missing_in_the_output_are_not_more_than_the_loss_counted(flooded: SimpleNamespace) -> None:
    """The workload's own count: what it did is in the documents or in the counter."""
    flooded.sensor.settle(len(flooded.sensor.documents()))
    seen = flooded.sensor.counted
    _, _, lost = flooded.sensor.flow(type="file_open")
    elsewhere = flooded.sensor.total("sensor_events_lost_total", stage="output")
    assert 0 < seen < FLOOD
    assert FLOOD - seen <= lost + elsewhere


@pytest.mark.contract("loss-3")
def test_loss_is_a_document_within_a_second(flooded: SimpleNamespace) -> None:
    """Number, type and stage, a second after the first open, the wait for a processor left out."""
    losses = [d for d in flooded.sensor.documents() if action(d) == "sensor-loss"]
    assert losses
    assert flooded.heard <= 1.0
    assert any(get(d, "sensor.loss.count") > 0 for d in losses)
    for d in losses:
        # Where the counters had told the number already, the sequence numbers follow with the rest of it.
        assert get(d, "sensor.loss.count") > 0 or get(d, "sensor.loss.to") >= get(d, "sensor.loss.from")
        assert get(d, "sensor.loss.stage")
        assert get(d, "sensor.loss.type")
        assert get(d, "event.kind") == "state"


@pytest.mark.contract("loss-3")
def test_loss_documents_add_up_to_the_metric(flooded: SimpleNamespace) -> None:
    """Nothing is lost without a document that says so."""

    def same() -> bool:
        said = sum(
            get(d, "sensor.loss.count")
            for d in flooded.sensor.documents()
            if action(d) == "sensor-loss" and get(d, "sensor.loss.stage") == "kernel_ringbuf"
        )
        return bool(said == flooded.sensor.flow()[2])

    assert wait_until(same, 5, "the documents' sum is the metric's value", 0.25)


@pytest.mark.contract("panic-10c")
def test_executions_during_the_flood_are_all_seen(flooded: SimpleNamespace) -> None:
    """Process events have a ring of their own: 101 of 101 starts, programs and ends."""
    flooded.sensor.settle(len(flooded.sensor.documents()))
    documents, pids = flooded.sensor.documents(), flooded.truth["execs"]
    assert len(set(pids)) == EXECS
    for wanted in ("process-exec", "process-exit"):
        assert [get(d, "process.pid") for d in of_kind(documents, wanted) if get(d, "process.pid") in pids] == pids
    forked = [get(d, "process.child.pid") for d in of_kind(documents, "process-fork")]
    assert [pid for pid in forked if pid in pids] == pids


@pytest.mark.hostile("event-flood")
def test_sensor_is_well_after_the_flood(flooded: SimpleNamespace) -> None:
    """Ready, and what happens now is seen."""
    assert flooded.sensor.probe("/-/ready")[0] == 200
    flooded.sensor.settle(len(flooded.sensor.documents()))
