"""How many events a second one control group can make: without probes, without a limit for it, and throttled.

Needs root and control groups of the second version. All in one run, turn by turn; the most of several runs each.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from sensor.config import Settings
from sensor.kernel import bpf
from sensor.kernel.plan import SETTING_BUDGET, WINDOW_NS, possible_cpus
from sensor.kernel.stream import KernelCounters
from sensor.loaded import Load
from tests.bench.bench_breaker import probes
from tests.live import cgroups
from tests.live.harness import Workloads

ROUNDS, EVENTS, PROCESSES = 3, 500_000, 2
FLOODS = {"opens for writing": 0, "a chmod and a chown to each open": 1, "eight of both to each open": 8}
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, order=True)
class Figure:
    """One flood: events a second; which parts of its events were throttled, and lost to a full ring."""

    rate: float
    throttled: float = 0.0
    lost: float = 0.0


def flood(program: Path, changes: int) -> float:
    """Events a second of a flood in a control group of its own, of files in memory."""
    with cgroups.group("sensor-bench") as group, tempfile.TemporaryDirectory(dir=MEMORY) as files:
        command = cgroups.inside(group, program, files, EVENTS, PROCESSES, 0, changes)
        done = json.loads(subprocess.check_output(command))
    return float(done["events"] / done["microseconds"] * 1e6)


def counted(load: Load) -> tuple[int, int]:
    """Events throttled and lost so far, of all types."""
    cpus = possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
    with contextlib.closing(KernelCounters(load.maps["counters"], cpus)) as counters:
        rows = counters.read().values()
    return sum(row["throttled"] for row in rows), sum(row["lost"] for row in rows)


def watched(program: Path, changes: int, load: Load, limit: int) -> Figure:
    """The same while so many events a second of one control group and family are recorded; 0: all of them."""
    bpf.map_update(load.maps["settings"], struct.pack("<I", SETTING_BUDGET),
                   struct.pack("<Q", limit * WINDOW_NS // 1_000_000_000))
    before = counted(load)
    rate = flood(program, changes)
    throttled, lost = (now - then for now, then in zip(counted(load), before, strict=True))
    return Figure(rate, throttled / EVENTS, lost / EVENTS)


def measured(program: Path) -> dict[str, list[Figure]]:
    """Flood -> without probes, without a limit, throttled."""
    figures = {name: [Figure(0.0)] * 3 for name in FLOODS}
    for _ in range(ROUNDS):
        off = {name: Figure(flood(program, changes)) for name, changes in FLOODS.items()}
        with probes() as load:
            for name, changes in FLOODS.items():
                found = (off[name], *(watched(program, changes, load, limit)
                                      for limit in (0, Settings().limits.cgroup_events)))
                figures[name] = [max(pair) for pair in zip(figures[name], found, strict=True)]
    return figures


def main() -> int:
    """Print the table."""
    if os.geteuid() != 0:
        print("a flood of one control group: left out, it needs root")
        return 0
    with tempfile.TemporaryDirectory() as name:
        try:
            figures = measured(Workloads(Path(name)).program("flood"))
        except pytest.skip.Exception as lacking:
            print(f"a flood of one control group: left out, {lacking.msg}")
            return 0
    table = Table(title=f"A flood of one control group, {PROCESSES} processes: events a second, and as a part of off")
    for column in ("flood", "off", "no limit", "", "lost", "limit", "", "throttled"):
        table.add_column(column, justify="left" if column == "flood" else "right")
    for name, (off, free, held) in figures.items():
        table.add_row(name, f"{off.rate:,.0f}", f"{free.rate:,.0f}", f"{free.rate / off.rate:.2f}", f"{free.lost:.0%}",
                      f"{held.rate:,.0f}", f"{held.rate / off.rate:.2f}", f"{held.throttled:.0%}")
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
