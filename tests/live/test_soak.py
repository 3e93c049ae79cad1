"""The probes come and go a thousand times under load: nothing stays, nobody else is disturbed.

`make soak` runs it in full, here and on every kernel of the matrix.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.live import kernelstate
from tests.live.harness import Sensor, Workloads, finish
from tests.live.soak import soak

FULL = bool(os.environ.get("SENSOR_SOAK"))
LOADS, ATTACHES, RUNS = (100, 1000, 20) if FULL else (3, 10, 2)


@pytest.mark.contract("panic-14b", "panic-14c")
def test_attached_and_detached_under_load_leaves_the_kernel_and_its_tenants_as_they_were(
        workloads: Workloads, place: Path) -> None:
    """Same programs, links and maps before and after, no oops or warning; co-tenants miss no event."""
    facts = soak(LOADS, ATTACHES, workloads, place, bpftrace=True, seconds=7200)
    assert any(hook.startswith("raw") for hook in facts["co-tenants"])
    if not any(hook.startswith("tracepoint") for hook in facts["co-tenants"]):
        pytest.skip("no bpftrace here: soaked beside another co-tenant alone (apt-get install bpftrace)")


@pytest.mark.contract("panic-14b")
@pytest.mark.hostile("restart")
def test_whole_runs_one_after_the_other_leave_nothing(workloads: Workloads, place: Path) -> None:
    """Start, ready, stop: each ends with status 0 and its programs gone."""
    before = kernelstate.state()
    (flooded := place / "flood").mkdir()
    churn = workloads.start("churn", flooded, 1)
    try:
        for number in range(RUNS):
            with Sensor(place / f"run-{number}", events="alerts") as sensor:
                assert sensor.is_ready()
            before.check()
        churn.send_signal(signal.SIGTERM)
        assert finish(churn)["rounds"] > 0
    finally:
        churn.kill()
