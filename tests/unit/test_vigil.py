"""The supervisor's watch over the kernel: turns of the loader, canaries, what is detached and why. Without a kernel."""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor import children, health, vigil
from sensor.errors import HostError
from sensor.health import Finding
from sensor.kernel import canary, knownbad
from sensor.kernel.plan import COUNTER_BYTES, GO, TYPES
from sensor.loaded import Load
from sensor.schema import EVENTS
from tests.conftest import ROOT

PROCESS = [{"family": "process", "event": event, "program": program, "kind": "raw_tracepoint", "id": 1}
           for event, program in (("process_fork", "on_fork"), ("process_exit", "on_exit"))]
CPUS = (0, 1)


class Child:
    """A canary that is there, and does nothing by itself."""

    pid = 4711

    def __init__(self) -> None:
        self.killed = False

    def poll(self) -> int | None:
        return -9 if self.killed else None

    def kill(self) -> None:
        self.killed = True


class World:
    """A vigil with everything around it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.now, self.serving = root, 0.0, True
        self.found: list[Finding] = []
        self.answers: list[bytes] = []
        self.deadlines: dict[str, float] = {}
        self.said: list[str] = []
        self.told: list[dict[str, Any]] = []
        maps = {"settings": 3, "counters": 4, "ring_process": 6, "ring_events": 5}
        self.load = Load(maps=maps, programs=list(PROCESS))
        self.counts = {cpu: [0, 0, 0, 0] for cpu in CPUS}
        self.pids: list[int] = []
        self.kernel(oops_count=0, warn_count=0, tainted=0)
        cpu = root / "sys/devices/system/cpu"
        cpu.mkdir(parents=True)
        cpu.joinpath("online").write_text("0-1\n")
        cpu.joinpath("possible").write_text("0-2\n")
        monkeypatch.setattr(vigil.os, "sched_getaffinity", lambda _pid: {*CPUS})
        monkeypatch.setattr(vigil.children, "start_with_channel", self._start)
        monkeypatch.setattr(vigil.bpf, "map_lookup", self._lookup)
        monkeypatch.setattr(vigil, "positions", lambda _fd: (0, 0))
        monkeypatch.setattr(vigil.bpf, "map_update",
                            lambda _fd, _key, value: self.pids.append(struct.unpack("<Q", value)[0]))
        self.selector = selectors.DefaultSelector()
        self.vigil = vigil.Vigil(self.selector, self.deadlines.__setitem__, self.said.append, self.found.append,
                                 self.answers.append, lambda: self.load, lambda: self.serving, self.told.append,
                                 root, lambda: self.now)
        monkeypatch.setattr(self.vigil, "_lack", str)

    def kernel(self, **counts: int) -> None:
        for name, number in counts.items():
            folder = self.root / ("proc/sys/kernel" if name == "tainted" else "sys/kernel")
            folder.mkdir(parents=True, exist_ok=True)
            folder.joinpath(name).write_text(f"{number}\n")

    def _start(self, _module: str) -> tuple[Child, socket.socket]:
        if hasattr(self, "channel"):
            self.channel.close()
        ours, self.channel = children.channel_pair()
        self.channel.setblocking(False)
        self.child = Child()
        return self.child, ours

    def _lookup(self, fd: int, key: bytes, size: int) -> bytes:
        assert (fd, size) == (4, COUNTER_BYTES)
        cpu, row = divmod(struct.unpack("<I", key)[0], TYPES)
        assert row == TYPES - 1
        return struct.pack("<QQQQ", *self.counts[cpu])

    def request(self) -> list[int]:
        """The processors of the round that was begun; none where none was."""
        try:
            return list(json.loads(self.channel.recv(canary.REQUEST_BYTES)))
        except BlockingIOError:
            return []

    def sing(self, *blind: int, late: tuple[int, ...] = (), faults: dict[int, int] | None = None) -> list[int]:
        """Answer a round; programs on *blind* processors see nothing."""
        cpus = self.request()
        for cpu in cpus:
            if cpu in late:
                continue
            if cpu not in blind:
                self.counts[cpu] = [count + 3 for count in self.counts[cpu]]
            self.channel.send(canary.ANSWER.pack(cpu, (faults or {}).get(cpu, 0)))
        while self.selector.get_map() and (ready := self.selector.select(0)):
            for key, _ in ready:
                key.data()
        if blind or late:
            self.vigil.actions["canary_end"]()
        return cpus


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A kernel that is well, two processors, the process probes loaded."""
    made = World(tmp_path, monkeypatch)
    monkeypatch.setattr(knownbad.Kernel, "untested", property(lambda _self: False))
    made.vigil.begin()
    yield made
    made.vigil.end()
    made.selector.close()
    made.channel.close()


def running(world: World) -> World:
    """Everything has been loaded."""
    world.vigil.loaded()
    return world


@pytest.mark.contract("panic-7")
def test_the_next_family_waits_until_a_canary_came_back_from_every_processor(world: World) -> None:
    """The canary is known to the programs by its process id before it is asked."""
    world.vigil.heard({"kind": "turn", "name": "process"})
    assert world.answers == [GO]
    world.vigil.heard({"kind": "family", "name": "process"})
    world.vigil.heard({"kind": "turn", "name": "syscall"})
    assert world.answers == [GO]
    assert world.pids == [Child.pid]
    assert world.sing() == [*CPUS]
    assert world.answers == [GO, GO]
    assert world.found == []
    assert any("processor 2: offline" in line for line in world.said)


@pytest.mark.contract("panic-7")
def test_a_rise_during_the_load_is_found_before_the_next_family(world: World) -> None:
    """No turn is given any more."""
    world.kernel(oops_count=1)
    world.vigil.heard({"kind": "failed", "name": "process"})
    assert [(finding.reason, finding.lack) for finding in world.found] == [("oops", "health")]
    assert world.answers == []


def test_a_processor_that_sees_nothing_during_the_load_is_tried_twice(world: World) -> None:
    """At once, for the next family waits; then everything goes."""
    world.vigil.heard({"kind": "family", "name": "process"})
    world.vigil.heard({"kind": "turn", "name": "syscall"})
    world.sing(1)
    assert world.found == []
    assert world.sing(1) == [0, 1]
    assert [finding.reason for finding in world.found] == ["canary"]
    assert "fork, exit" in world.found[0].detail
    assert world.answers == []


@pytest.mark.contract("panic-9")
def test_while_running_the_second_missing_canary_is_the_next_one(world: World) -> None:
    """Half a minute apart; which is told, and counted."""
    running(world)
    world.vigil.actions["canary"]()
    world.sing(0)
    assert world.request() == []
    world.vigil.actions["canary"]()
    world.sing(0)
    assert [(finding.reason, finding.drill) for finding in world.found] == [("canary", False)]
    world.vigil.report()
    assert world.told[-1]["detached"] == [["canary", False, 1]]
    assert world.told[-1]["tests"]["canary"] == 0.0
    assert world.told[-1]["canaries"] == {"seen": 2, "missing": 2, "late": 0}


@pytest.mark.parametrize("late", [True, False])
def test_a_processor_without_time_or_that_refuses_detaches_nothing(world: World, late: bool) -> None:
    """However often: it says nothing of the probes, and is named once."""
    running(world)
    for _ in range(4):
        world.vigil.actions["canary"]()
        if late:
            world.sing(late=(1,))
        else:
            world.sing(faults={1: errno.EPERM})
    assert world.found == []
    assert sum("processor 1" in line for line in world.said) == 1


def test_a_processor_that_goes_offline_meanwhile_is_not_missing(world: World) -> None:
    """The kernel moves whoever was pinned to it: the canary is then seen somewhere else."""
    running(world)
    for _ in range(3):
        world.vigil.actions["canary"]()
        (world.root / "sys/devices/system/cpu/online").write_text("0\n")
        world.sing(1)
        (world.root / "sys/devices/system/cpu/online").write_text("0-1\n")
    assert world.found == []


def test_a_canary_that_died_is_replaced(world: World) -> None:
    """Whoever kills it gains half a minute."""
    running(world)
    first = world.child
    world.vigil.actions["canary"]()
    world.channel.close()
    for key, _ in world.selector.select(0):
        key.data()
    first.killed = True
    world.vigil.reap()
    world.vigil.actions["canary_end"]()
    world.vigil.actions["canary"]()
    assert world.child is not first
    assert world.sing() == [*CPUS]
    assert world.found == []


@pytest.mark.contract("panic-9")
@pytest.mark.parametrize(("counts", "reason"), [
    ({"oops_count": 1}, "oops"), ({"warn_count": 1}, "warning"), ({"tainted": 1 << 14}, "taint")])
def test_a_rise_while_running_is_found(world: World, counts: dict[str, int], reason: str) -> None:
    """Every ten seconds."""
    running(world)
    world.vigil.actions["health"]()
    assert world.found == []
    assert world.deadlines["health"] == health.CHECK_SECONDS
    world.kernel(**counts)
    world.vigil.actions["health"]()
    assert [finding.reason for finding in world.found] == [reason]


@pytest.mark.contract("panic-9")
def test_what_was_there_before_the_load_is_somebody_else_s(world: World) -> None:
    """A kernel that has oopsed before may still be watched."""
    world.kernel(oops_count=7, tainted=1 << 7)
    world.vigil.begin()
    running(world)
    world.vigil.actions["health"]()
    assert world.found == []


@pytest.mark.contract("panic-11")
def test_a_ring_that_nobody_reads_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an engine is there that should."""
    monkeypatch.setattr(vigil, "positions", lambda fd: (8, 64) if fd == 5 else (0, 0))
    running(world)
    world.serving = False
    for second in range(0, 200, 10):
        world.now = float(second)
        world.vigil.actions["health"]()
    assert world.found == []
    world.serving = True
    for second in range(200, 270, 10):
        world.now = float(second)
        world.vigil.actions["health"]()
    assert [finding.reason for finding in world.found] == ["ring"]
    assert "events ring" in world.found[0].detail


def test_after_the_end_nothing_is_found_and_nobody_is_left(world: World) -> None:
    """Deadlines that are still set come to nothing."""
    running(world)
    world.vigil.end()
    world.kernel(oops_count=9)
    for action in world.vigil.actions.values():
        action()
    world.vigil.heard({"kind": "family", "name": "file"})
    assert world.found == []
    assert world.child.killed


def test_a_drill_detaches_as_if_a_canary_were_missing(world: World) -> None:
    """At once, told as a drill, and the test itself has not failed."""
    with pytest.raises(HostError, match="no probes are loaded"):
        world.vigil.rehearse()
    running(world)
    assert "taken for missing" in world.vigil.rehearse()
    world.sing()
    assert [(finding.reason, finding.drill) for finding in world.found] == [("canary", True)]
    world.vigil.report()
    assert world.told[-1]["detached"] == [["canary", True, 1]]
    assert world.told[-1]["tests"]["canary"] == 0.0  # no round has been finished yet
    world.vigil.end()
    world.vigil.begin()
    running(world)
    world.vigil.actions["canary"]()
    world.sing()
    assert len(world.found) == 1


@pytest.mark.contract("panic-6b")
@pytest.mark.parametrize("passed", [True, False])
def test_on_a_kernel_newer_than_tested_only_a_self_test_lets_the_rest_in(
        world: World, monkeypatch: pytest.MonkeyPatch, passed: bool) -> None:
    """The hooks of process events come first; what is kept back is told with its reason."""
    monkeypatch.setattr(knownbad.Kernel, "untested", property(lambda _self: True))
    world.vigil.heard({"kind": "turn", "name": "process"})
    world.vigil.heard({"kind": "family", "name": "process"})
    world.vigil.heard({"kind": "turn", "name": "syscall"})
    world.sing(late=() if passed else (1,))
    assert world.answers[0] == GO
    assert (world.answers[1] == GO) is passed
    assert passed or b"the newest tested" in world.answers[1]
    world.vigil.heard({"kind": "turn", "name": ""})  # the loader's own, at its end
    assert world.answers[2] == GO


def test_without_canaries_the_probes_run_and_it_is_said_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pid namespace of its own nobody could be recognised."""
    monkeypatch.setattr(world.vigil, "_lack", lambda: "process ids here are not the host's")
    world.vigil.end()
    world.vigil.begin()
    world.vigil.heard({"kind": "family", "name": "process"})
    world.vigil.heard({"kind": "turn", "name": "syscall"})
    assert world.answers == [GO]
    assert any("no canaries" in line for line in world.said)


def test_what_must_count_is_what_is_loaded() -> None:
    """A decision counts only where a security hook carries it."""
    assert vigil.expected(PROCESS) == ("fork", "exit")
    assert vigil.expected([]) == ()
    dispatcher = {"event": "", "program": "on_sys_exit", "kind": "raw_tracepoint"}
    assert vigil.expected([dispatcher]) == ("system call",)
    chmod = {"event": "file_chmod", "program": "on_chmod", "kind": "syscall"}
    assert vigil.expected([chmod]) == ()
    assert vigil.expected([chmod, chmod | {"kind": "kprobe"}]) == ("decision",)


def test_the_canaries_row_is_no_event_s() -> None:
    """The last row of the counters, in C and here; the slot of its process id too."""
    assert TYPES - 1 not in {event.id for event in EVENTS}
    text = (ROOT / "probes/common.h").read_text()
    assert "#define CANARY_ROW (TYPES - 1)" in text
    assert f"#define OWN_CANARY {struct.unpack('<I', vigil._OWN_CANARY)[0]}\n" in text


def test_the_canary_acts_on_each_processor_and_says_where_it_could_not() -> None:
    """Here, really: one that may be used, one that does not exist."""
    told: list[tuple[int, int]] = []
    acted: list[set[int]] = []
    before = os.sched_getaffinity(0)
    cpu = min(before)
    try:
        canary.sing((cpu, 8000), lambda: acted.append(os.sched_getaffinity(0)),
                    lambda data: told.append(canary.ANSWER.unpack(data)))
    finally:
        os.sched_setaffinity(0, before)
    assert told == [(cpu, 0), (8000, errno.EINVAL)]
    assert acted == [{cpu}]
    canary.acts()()  # leaves nothing but a memory file
