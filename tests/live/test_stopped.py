"""The sensor gets no time: stopped, frozen or starved. What it missed is counted, and it goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.live import cgroups
from tests.live.harness import Sensor, Workloads, action, command, get
from tests.live.host import children, owned_programs, wait_until

SILENT = 10
FLOOD = 20_000
LOOPS = 4  # on each processor
SMALL = "limits:\n  ring_kib: 64\nprobes:\n  families: [process, file]\n"


class Hurried(Sensor):
    """Its engine may be silent for a few seconds only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, settings=SMALL, only_count=b"/flooded-")
        self.arguments = [sys.executable, "-m", "tests.live.hurried", str(SILENT), *self.arguments[len(command()):]]


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Sensor]:
    """Likewise, with less patience."""
    with Hurried(tmp_path / "sensor") as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sensor]:
    """A sensor with a ring that is soon full."""
    with Sensor(tmp_path / "sensor", settings=SMALL, only_count=b"/flooded-") as running:
        yield running


def said_lost(sensor: Sensor) -> int:
    """By documents."""
    return sum(get(d, "sensor.loss.count") for d in sensor.documents()
               if action(d) == "sensor-loss" and get(d, "sensor.loss.stage") == "kernel_ringbuf")


def accounted(sensor: Sensor) -> bool:
    """Emitted is received plus lost, and what was lost has been told."""
    emitted, received, lost = sensor.flow()
    return emitted == received + lost and lost > 0 and said_lost(sensor) == lost


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """By SIGSTOP, until the end of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def move(sensor: Sensor, group: Path) -> None:
    """All of it into a control group: the supervisor first, so that what it starts meanwhile is born there."""
    procs = group / "cgroup.procs"
    procs.write_text(str(sensor.pid))
    for pid in children(sensor.pid):
        with suppress(ProcessLookupError):  # the search for crashes ends by itself
            procs.write_text(str(pid))


@contextmanager
def frozen(sensor: Sensor) -> Iterator[None]:
    """All of it, by the freezer."""
    with cgroups.group("sensor-frozen") as group:
        if not (group / "cgroup.freeze").exists():
            pytest.skip("no freezer in this kernel's control groups")
        move(sensor, group)
        (group / "cgroup.freeze").write_text("1")
        try:
            wait_until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), 30, "frozen")
            yield
        finally:
            (group / "cgroup.freeze").write_text("0")
            move(sensor, group.parent)


def goes_on(sensor: Sensor, engine: int, attached: set[int]) -> None:
    """The same engine, the same programs, everything accounted for, and what happens now is seen."""
    wait_until(lambda: accounted(sensor), 120, f"emitted = received + lost, all told: {sensor.flow()}", 0.25)
    sensor.settle(len(sensor.documents()))
    assert sensor.engine() == engine
    assert set(owned_programs([sensor.pid])) == attached
    assert sensor.total("sensor_engine_restarts_total") == 0
    assert "silent" not in sensor.stderr()


def missed(sensor: Sensor, workloads: Workloads, place: Path, standing: AbstractContextManager[None],
           seconds: float = 0) -> None:
    """More opens than the ring holds while it stands still, then so long nothing."""
    place.mkdir()
    sensor.settle()
    engine, attached = sensor.engine(), set(owned_programs([sensor.pid]))
    with standing:
        truth = workloads.run("flood", place, FLOOD, 1, 0)
        time.sleep(seconds)
    goes_on(sensor, engine, attached)
    assert truth["events"] == FLOOD
    assert 0 < FLOOD - sensor.counted <= sensor.flow(type="file_open")[2]


@pytest.mark.hostile("stopped-sensor")
def test_what_a_stopped_engine_missed_is_counted_exactly_and_it_goes_on(
        own: Sensor, workloads: Workloads, tmp_path: Path) -> None:
    """Seen or lost, told by number, with no other engine."""
    missed(own, workloads, tmp_path / "place", stopped(own.engine()))


@pytest.mark.hostile("stopped-sensor")
def test_a_frozen_sensor_goes_on_and_blames_nobody(hurried: Sensor, workloads: Workloads, tmp_path: Path) -> None:
    """All of it, for twice as long as an engine may be silent: what it missed is counted, nobody is ended."""
    missed(hurried, workloads, tmp_path / "place", frozen(hurried), 2 * SILENT)


@pytest.mark.hostile("stopped-sensor")
def test_the_engine_goes_on_while_the_supervisor_is_stopped(own: Sensor, tmp_path: Path) -> None:
    """Events come, the probes stay, and when it goes on it ends nobody for a silence that was its own."""
    own.settle()
    engine, attached = own.engine(), set(owned_programs([own.pid]))
    with stopped(own.pid):
        time.sleep(3)
        own.settle(len(own.documents()))
        assert set(owned_programs([own.pid])) == attached
    time.sleep(2)
    own.settle(len(own.documents()))
    assert (own.engine(), set(owned_programs([own.pid]))) == (engine, attached)
    assert "silent" not in own.stderr()


@pytest.mark.contract("panic-11")
@pytest.mark.hostile("stopped-sensor")
def test_an_engine_that_stays_stopped_is_replaced(hurried: Sensor) -> None:
    """By another one, which reads on; the programs are the same."""
    engine, attached, since = hurried.engine(), set(owned_programs([hurried.pid])), len(hurried.documents())
    os.kill(engine, signal.SIGSTOP)
    subprocess.run(["/bin/true", "while-stopped"], check=True)
    for check, what in (
        (lambda d: get(d, "sensor.state") == "engine_restart", "another engine"),
        (lambda d: "while-stopped" in get(d, "process.args", ()), "what happened meanwhile"),
    ):
        hurried.wait_for(check, since, 120, what)
    assert hurried.engine() != engine
    assert set(owned_programs([hurried.pid])) == attached
    assert f"silent for {SILENT} s; it is ended" in hurried.stderr()
    hurried.settle(len(hurried.documents()))


def _each(pid: int, act: Callable[[int], None]) -> None:
    for process in (pid, *children(pid)):
        for task in Path(f"/proc/{process}/task").iterdir():
            act(int(task.name))


@pytest.mark.hostile("starvation")
def test_without_a_processor_nobody_is_ended_and_nothing_is_lost_unseen(
        hurried: Sensor, workloads: Workloads, tmp_path: Path) -> None:
    """For twice as long as an engine may be silent, with nothing but what busy loops on each processor leave."""
    place = tmp_path / "place"
    place.mkdir()
    hurried.settle()
    engine, attached, policy = hurried.engine(), set(owned_programs([hurried.pid])), os.sched_getscheduler(0)
    _each(hurried.pid, lambda task: os.sched_setscheduler(task, os.SCHED_IDLE, os.sched_param(0)))
    busy = []
    try:
        for cpu in sorted(os.sched_getaffinity(0)) * LOOPS:
            loop = subprocess.Popen(["timeout", str(6 * SILENT), "taskset", "-c", str(cpu), "sh", "-c",
                                     "while :; do :; done"])
            busy.append(loop)
        workloads.run("flood", place, FLOOD, 1, 0)
        time.sleep(2 * SILENT)
    finally:
        for loop in busy:
            loop.terminate()  # timeout hands it on
            loop.wait()
        _each(hurried.pid, lambda task: os.sched_setscheduler(task, policy, os.sched_param(0)))
    wait_until(lambda: accounted(hurried) or hurried.flow()[2] == 0, 120, "emitted = received + lost", 0.25)
    hurried.settle(len(hurried.documents()))
    assert FLOOD - hurried.counted <= hurried.flow(type="file_open")[2]
    assert (hurried.engine(), set(owned_programs([hurried.pid]))) == (engine, attached)
    assert "it is ended" not in hurried.stderr()
