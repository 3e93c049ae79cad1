"""The breaker's hands without a kernel: what it says, what it does again, what it can't have."""

from __future__ import annotations

import os
from typing import Any

import pytest

from sensor import governor as governors
from sensor.breaker import DISPATCHED
from sensor.control import Bounds
from sensor.errors import HostError, UsageError
from sensor.governor import Governor
from sensor.kernel import bpf
from sensor.loaded import Load

FAMILIES = ("process", "syscall", *DISPATCHED)
BOUNDED = Bounds(kernel_ppm=10_000)


class Kernel:
    """Programs whose run time grows by what a test says with each look, and switches that may fail."""

    def __init__(self) -> None:
        self.now, self.grows, self.looks, self.measured = 100.0, 0, 0, 0
        self.applied: list[list[str]] = []
        self.refuse, self.unmeasured = 0, False

    def enable(self) -> int:
        if self.unmeasured:
            raise PermissionError(1, "Operation not permitted")
        self.measured += 1
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def info(self, fd: int) -> bpf.ProgramInfo:
        self.looks += 1
        return bpf.ProgramInfo(1, 17, "on_sys_exit", "tag", 1, 1, self.looks * self.grows, self.looks * 10, 0)

    def apply(self, shed: list[str]) -> None:
        if self.refuse:
            self.refuse -= 1
            raise OSError(16, "Device or resource busy")
        self.applied.append(list(shed))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()

    class Switches:
        def __init__(self, _load: Load) -> None:
            self.apply = made.apply
    monkeypatch.setattr(governors, "Shedding", Switches)
    monkeypatch.setattr(governors.bpf, "program_info", made.info)
    monkeypatch.setattr(governors, "_SYSCTL", governors.Path("/nonexistent"))
    return made


def started(kernel: Kernel, said: list[str], bounds: Bounds = BOUNDED) -> Governor:
    load = Load()
    load.programs = [{"id": 1, "program": "on_sys_exit", "family": name} for name in reversed(FAMILIES)]
    load.programs.append({"id": 1, "program": "on_sys_exit", "family": "syscall"})
    load.program_fds = {1: 7}
    made = Governor(said.append, lambda: kernel.now, kernel.enable)
    made.begin(load, bounds, 2)
    return made


def rounds(governor: Governor, kernel: Kernel, seconds: float) -> list[dict[str, Any]]:
    """Call it as the supervisor does; the reports."""
    end, reports = kernel.now + seconds, []
    while kernel.now < end:
        kernel.now += governor.round()
        if not governor.sampling:
            reports.append(governor.report())
    return reports


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_costly_load_is_shed_told_and_done(kernel: Kernel) -> None:
    """The step is in the report once, in the log, and in the kernel."""
    said: list[str] = []
    governor, before = started(kernel, said), open_files()
    kernel.grows = 200_000_000  # ns between two looks: 10 % of two processors for a second
    reports = rounds(governor, kernel, 15)
    steps = [step for report in reports for step in report["steps"]]
    assert [step["family"] for step in steps] == kernel.applied[-1]
    assert steps[0]["family"] == "file"
    assert [line.partition(": ")[0] for line in said] == ["breaker"] * len(steps)
    assert reports[-1]["shed"] == kernel.applied[-1]
    assert reports[-1]["counts"]["shed"] == len(steps)
    assert kernel.measured == len(reports)
    assert open_files() == before  # nothing is measured between samples
    governor.end()
    assert governor.report()["shed"] == []


def test_what_the_kernel_refuses_is_tried_again_and_said_once(kernel: Kernel) -> None:
    """The state that was decided is made, later."""
    said: list[str] = []
    governor = started(kernel, said)
    kernel.refuse = 3
    governor.rehearse(60)
    assert kernel.applied == []
    rounds(governor, kernel, 30)
    assert kernel.applied[-1] == ["file"]
    assert len([line for line in said if "refused" in line]) == 1


def test_a_kernel_that_does_not_measure_is_told_once(kernel: Kernel) -> None:
    """No breaker is no secret: a log line, and a report that says why."""
    said: list[str] = []
    kernel.unmeasured = True
    reports = rounds(started(kernel, said), kernel, 60)
    assert len(said) == 1
    assert "no breaker" in said[0]
    assert "Operation not permitted" in reports[-1]["lack"]


@pytest.mark.parametrize("bounds", [Bounds(), Bounds(cgroup_events=20_000)])
def test_without_a_bound_nothing_is_measured(kernel: Kernel, bounds: Bounds) -> None:
    """Each switch interrupts all processors: whoever has set both bounds to 0 is spared that, and told so."""
    said: list[str] = []
    reports = rounds(started(kernel, said, bounds), kernel, 60)
    assert kernel.measured == 0
    assert said == ["no breaker, whatever the probes cost: limits.kernel_cpu and limits.program_ns are 0"]
    assert reports[-1]["lack"]


@pytest.mark.parametrize("bounds", [Bounds(kernel_ppm=1), Bounds(program_ns=1)])
def test_either_bound_is_measured(kernel: Kernel, bounds: Bounds) -> None:
    """One is enough."""
    rounds(started(kernel, [], bounds), kernel, 20)
    assert kernel.measured == 4


@pytest.mark.parametrize("unmeasured", [True, False])
def test_a_drill_ends_where_nothing_is_measured(kernel: Kernel, unmeasured: bool) -> None:
    """By time alone: what was switched off for half a minute is not off for good."""
    kernel.unmeasured = unmeasured
    kernel.refuse = 2
    governor = started(kernel, [], BOUNDED if unmeasured else Bounds())
    governor.rehearse(30)
    assert kernel.applied == []
    rounds(governor, kernel, 10)
    assert kernel.applied[-1] == ["file"]  # what the kernel refuses is tried again here, too
    reports = rounds(governor, kernel, 18)
    assert reports[-1]["shed"] == ["file"]
    (step,) = [step for report in rounds(governor, kernel, 10) for step in report["steps"]]
    assert (step["action"], step["reason"]) == ("restored", "drill")
    assert kernel.applied[-1] == []


def test_where_somebody_has_it_measured_anyway_that_is_used(
        kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: governors.Path) -> None:
    """kernel.bpf_stats_enabled is on."""
    setting = tmp_path / "bpf_stats_enabled"
    setting.write_text("1\n")
    monkeypatch.setattr(governors, "_SYSCTL", setting)
    kernel.unmeasured, kernel.grows = True, 200_000_000
    assert rounds(started(kernel, []), kernel, 15)[-1]["shed"]


def test_steps_wait_for_an_engine_that_is_away(kernel: Kernel) -> None:
    """They are told to the next one."""
    governor = started(kernel, [])
    governor.rehearse(60)
    assert governor.report(heard=False)["steps"] == []
    assert [step["reason"] for step in governor.report()["steps"]] == ["drill"]
    assert governor.report()["steps"] == []


@pytest.mark.parametrize("seconds", [0, 4.9, 601, float("nan")])
def test_a_drill_is_bounded(kernel: Kernel, seconds: float) -> None:
    """Nobody switches a family off for good with it."""
    with pytest.raises(UsageError, match="takes from 5 to 600 s"):
        started(kernel, []).rehearse(seconds)
    assert kernel.applied == []


def test_a_drill_without_probes_says_so(kernel: Kernel) -> None:
    """Passive mode."""
    with pytest.raises(HostError, match="no probes are attached"):
        Governor(lambda _message: None).rehearse(10)
