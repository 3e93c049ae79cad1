"""One control group floods: the kernel drops what is over its budget, counts it exactly, and nobody else notices.

SENSOR_FLOOD sets the number of events of one flood, 1,000,000 at most: files are opened, and their permissions and
owners set again and again, since those calls cost the flooder the least. One flood follows the other until everybody
else is done.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.live import cgroups
from tests.live.harness import Document, Sensor, Workloads, action, finish, get, of_kind
from tests.live.host import status_of, wait_until

FLOOD = min(int(os.environ.get("SENSOR_FLOOD", "300000")), 1_000_000)
FLOODS = 200  # at most, one after the other
BUDGET = 1000  # a second
EXECS, OPENS = 100, 500
GROWTH_KIB = 32 << 10
CHANGES = 8  # of permissions, and of owners, after each open
INSIDE = b"/inside/flooded-"
#: Type of the flood's events -> their probe family. Each family has a budget of its own.
FLOODED = {"file_open": "file", "file_chmod": "path", "file_chown": "path"}
FAMILIES = sorted(set(FLOODED.values()))
MEMORY = Path("/dev/shm")
_BIND = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(('127.0.0.1', 0))"


def _memory(pid: int) -> int:
    return int(status_of(pid)["VmRSS"].split()[0])


def _about(document: Document) -> tuple[Any, ...]:
    return tuple(get(document, f"sensor.throttle.{key}") for key in ("action", "family", "cgroup.id"))


def _told(flooded: SimpleNamespace) -> list[Document]:
    """Beginnings and ends of the throttling of the flood: others on this host may be throttled, too."""
    return [d for d in flooded.sensor.documents() if action(d) == "sensor-throttle"
            and get(d, "sensor.throttle.cgroup.id") == flooded.group]


def _throttled(told: list[Document]) -> int:
    return sum(get(d, "sensor.throttle.count") for d in told if get(d, "sensor.throttle.action") == "ended")


def _identity(emitted: float, received: float, lost: float) -> bool:
    return emitted == received + lost


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory, where there is one: no disk slows the flood down."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("throttle").resolve()
        return
    with tempfile.TemporaryDirectory(prefix="sensor-throttle-", dir=MEMORY) as directory:
        yield Path(directory)


class Flooding:
    """One flood after the other, until it is told to end."""

    def __init__(self, command: list[str]) -> None:
        self._command, self._end = command, threading.Event()
        self._truths: list[Document] = []
        self._thread = threading.Thread(target=self._run)
        self.seconds = 0.0  # on the wall, all of them
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._end.is_set() and len(self._truths) < FLOODS:
            flood = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._truths.append(finish(flood, 600))
        self.seconds = time.monotonic() - began

    @property
    def under_way(self) -> bool:
        return self._thread.is_alive()

    @property
    def truth(self) -> dict[str, int]:
        """Events and microseconds of all floods."""
        assert self._truths
        return {key: sum(truth[key] for truth in self._truths) for key in ("events", "microseconds")}

    def close(self) -> None:
        """Wait for the last one."""
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="module")
def flooded(workloads: Workloads, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """After a flood in a control group of its own, while others open files and execute."""
    for name in ("inside", "outside"):
        (place / name).mkdir()
    settings = f"limits:\n  cgroup_events: {BUDGET}\n"
    with (cgroups.group("sensor-flood") as group,
          Sensor(tmp_path_factory.mktemp("throttled"), settings=settings, only_count=INSIDE) as sensor):
        flood, number = workloads.program("flood"), group.stat().st_ino
        sensor.settle()
        engine = sensor.engine()
        before = _memory(engine)
        command = cgroups.inside(group, flood, place / "inside", FLOOD, 2, 0, CHANGES)
        with contextlib.closing(Flooding(command)) as floods:
            for family in FAMILIES:
                began = ("began", family, number)
                sensor.wait_for(lambda d, began=began: _about(d) == began, 0, 60, "the throttle's beginning")
            bound = subprocess.Popen(cgroups.inside(group, sys.executable, "-c", _BIND))
            assert bound.wait(60) == 0
            others = workloads.run("flood", place / "outside", OPENS, 1, EXECS)
            assert floods.under_way  # all of it happened meanwhile
        for family in FAMILIES:
            ended = ("ended", family, number)
            sensor.wait_for(lambda d, ended=ended: _about(d) == ended, 0, 60, "the throttle's end")
        sensor.settle(len(sensor.documents()))
        yield SimpleNamespace(sensor=sensor, truth=floods.truth, seconds=floods.seconds, others=others,
                              bound=bound.pid, group=number, grown=_memory(engine) - before, name=group.name)


@pytest.mark.contract("panic-10b")
@pytest.mark.hostile("cgroup-flood")
def test_every_event_of_the_flood_is_seen_or_counted_as_throttled(flooded: SimpleNamespace) -> None:
    """The workload's own count, exactly; what was throttled is neither emitted nor lost."""
    sensor, events = flooded.sensor, flooded.truth["events"]
    assert events % FLOOD == 0
    # pytest -rP shows it
    print(f"{events:,} events, {events / flooded.truth['microseconds'] * 1e6:,.0f} a second while others worked, too")
    wait_until(lambda: _identity(*sensor.flow()), 10, "emitted = received + lost", 0.25)
    throttled, lost = _throttled(_told(flooded)), sum(sensor.flow(type=each)[2] for each in FLOODED)
    assert sensor.total("sensor_throttled_total") == _throttled(sensor.documents())  # whoever else was throttled
    assert 0 < throttled <= sum(sensor.total("sensor_throttled_total", type=each) for each in FLOODED)
    assert sensor.counted + throttled + lost == events
    assert throttled > events // 2


def test_what_comes_through_is_the_budget(flooded: SimpleNamespace) -> None:
    """In the windows that the flood has touched, each with a little for two processors that begin one at once."""
    budget = BUDGET * len(FAMILIES)
    windows = flooded.seconds / 1.073741824 + 2
    assert budget <= flooded.sensor.counted <= windows * budget * 1.1


@pytest.mark.contract("panic-10b")
def test_everybody_else_is_seen_whole(flooded: SimpleNamespace) -> None:
    """100 of 100 executions and all opens outside of the control group, while it flooded."""
    documents, pids = flooded.sensor.documents(), flooded.others["execs"]
    assert len({*pids}) == EXECS
    for wanted in ("process-exec", "process-exit"):
        assert [get(d, "process.pid") for d in of_kind(documents, wanted) if get(d, "process.pid") in pids] == pids
    opened = [d for d in of_kind(documents, "file-open") if "/outside/flooded-" in get(d, "file.path", "")]
    assert len(opened) == OPENS


@pytest.mark.contract("panic-10b")
def test_beginning_and_end_are_told_once_with_the_control_group_and_the_count(flooded: SimpleNamespace) -> None:
    """By event and by log line."""
    told = _told(flooded)
    for family in FAMILIES:
        assert [get(d, "sensor.throttle.action") for d in told
                if get(d, "sensor.throttle.family") == family] == ["began", "ended"]
    assert len(told) == 2 * len(FAMILIES)
    for document in told:
        assert flooded.name in get(document, "sensor.throttle.cgroup.path", flooded.name)
    said = flooded.sensor.stderr()
    for family in FAMILIES:
        lines = [line for line in said.splitlines() if f"throttling of {family} events of control group" in line]
        assert len([line for line in lines if flooded.name in line or str(flooded.group) in line]) == 2, said


@pytest.mark.contract("panic-10b")
def test_the_engine_has_not_grown(flooded: SimpleNamespace) -> None:
    """Buckets and what is kept of them are bounded."""
    assert flooded.grown < GROWTH_KIB


def test_a_flood_hides_no_other_family_of_the_same_control_group(flooded: SimpleNamespace) -> None:
    """Each has a budget of its own: what was bound in the control group while it was throttled is seen."""
    bound = [d for d in of_kind(flooded.sensor.documents(), "network-bind") if get(d, "process.pid") == flooded.bound]
    assert len(bound) == 1
