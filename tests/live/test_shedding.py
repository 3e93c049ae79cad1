"""Families switched off and on in the kernel: what is off costs nothing and tells nothing, what is on goes on."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensor import manifest
from sensor.breaker import ORDER
from sensor.config import Settings
from sensor.control import Bounds
from sensor.governor import Governor
from sensor.kernel import bpf
from sensor.kernel.stream import KernelCounters
from sensor.loaded import Load
from sensor.shedding import Shedding


def _write() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")


def _rename() -> None:
    with tempfile.TemporaryDirectory() as place:
        Path(place, "a").touch()
        Path(place, "a").rename(Path(place, "b"))


def _listen() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        pass


def _memory() -> None:
    os.close(os.memfd_create("shed"))


#: family -> what makes an event of it, the event
ACTS: dict[str, tuple[Callable[[], None], str]] = {
    "file": (_write, "file_open"), "path": (_rename, "file_rename"), "network": (_listen, "network_listen"),
    "privilege": (_memory, "memfd_create"),
}


@pytest.fixture(scope="module")
def loaded() -> Iterator[SimpleNamespace]:
    """The probes, with nobody left out: our own process is the one that acts."""
    plan = manifest._plan(Settings())
    load = manifest._load(plan)
    for slot in (0, 2):
        bpf.map_update(load.maps["settings"], struct.pack("<I", slot), bytes(8))
    counters = KernelCounters(load.maps["counters"], plan.cpus)
    yield SimpleNamespace(load=load, plan=plan, counters=counters)
    counters.close()
    load.close()


def seen(counters: KernelCounters, family: str) -> bool:
    """Whether what makes an event of this family makes one now; often, for others may do the same meanwhile."""
    act, event = ACTS[family]
    before = counters.read()[event]["emitted"]
    for _ in range(200):
        act()
    return counters.read()[event]["emitted"] - before >= 200


def forks(counters: KernelCounters) -> int:
    before = counters.read()["process_exec"]["emitted"]
    subprocess.run(["/bin/true"], check=True)
    return counters.read()["process_exec"]["emitted"] - before


def runs(load: Load) -> int:
    """Of the dispatcher, while one system call after the other is made."""
    number = next(number for number, name in load.program_names.items() if name == "on_sys_exit")
    held = bpf.enable_stats()
    try:
        before = bpf.program_info(load.program_fds[number]).runs
        for _ in range(1000):
            os.getppid()
        return bpf.program_info(load.program_fds[number]).runs - before
    finally:
        os.close(held)


@pytest.mark.contract("panic-10a")
def test_families_are_switched_off_one_by_one_in_order_and_on_again(loaded: SimpleNamespace) -> None:
    """At each step those that are off tell nothing, those that are on all; executions are seen throughout."""
    switches = Shedding(loaded.load)
    order = [name for name in ORDER if name in ACTS]
    for number in [*range(len(order) + 1), *reversed(range(len(order)))]:
        switches.apply(order[:number])
        assert {name: seen(loaded.counters, name) for name in order} == {
            name: name not in order[:number] for name in order}
        assert forks(loaded.counters) >= 1
        assert (runs(loaded.load) >= 1000) is (number < len(order))


def test_a_switch_that_is_set_twice_stays(loaded: SimpleNamespace) -> None:
    """The breaker says what should be; it is made so from whatever there is."""
    for _ in range(2):
        Shedding(loaded.load).apply(["network"])
    switches = Shedding(loaded.load)
    switches.apply(["network"])
    assert not seen(loaded.counters, "network")
    switches.apply([])
    assert seen(loaded.counters, "network")


def test_a_drill_switches_one_family_off_and_on_and_says_so(loaded: SimpleNamespace) -> None:
    """By the governor, with a clock of our own: told as a drill, and undone."""
    said: list[str] = []
    now = [1000.0]
    governor = Governor(said.append, lambda: now[0])
    governor.begin(loaded.load, Bounds(program_ns=1_000_000), loaded.plan.cpus)
    assert "drill: file is switched off" in governor.rehearse(10)
    assert not seen(loaded.counters, "file")
    assert seen(loaded.counters, "path")
    for _ in range(6):
        now[0] += governor.round()
    assert seen(loaded.counters, "file")
    report = governor.report()
    assert [(step["action"], step["reason"]) for step in report["steps"]] == [("shed", "drill"), ("restored", "drill")]
    assert report["counts"] == {"shed": 1, "restored": 1, "exhausted": 0}
    assert all("drill" in line for line in said)
    governor.end()


def test_statistics_are_on_only_while_somebody_measures(loaded: SimpleNamespace) -> None:
    """The descriptor's end is theirs: the host's setting stays what it is."""
    setting = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = setting.read_text()
    governor = Governor(lambda _message: None)
    governor.begin(loaded.load, Bounds(program_ns=1_000_000), loaded.plan.cpus)
    governor.round()
    assert governor.sampling
    assert runs(loaded.load) >= 1000
    governor.end()
    assert setting.read_text() == before
    assert not governor.sampling


def test_budgets_can_be_read_without_privilege(loaded: SimpleNamespace) -> None:
    """The engine maps them, as it does the counters."""
    with mmap.mmap(loaded.load.maps["budgets"], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ) as words:
        assert len(words) == mmap.PAGESIZE
