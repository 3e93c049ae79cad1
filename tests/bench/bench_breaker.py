"""What the breaker gives back: the same loads without probes, with them, while they are measured, and shed.

Needs root. All in one run, turn by turn; the least of several runs each. Rings are read meanwhile, as an engine would.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sensor import manifest
from sensor.breaker import ORDER
from sensor.config import Settings
from sensor.kernel import bpf
from sensor.kernel.hooks import RINGS
from sensor.kernel.ring import Ring
from sensor.kernel.stream import Stream
from sensor.loaded import Load
from sensor.shedding import Shedding
from tests.bench import bench_cost

ROUNDS = 3
STATES = ("off", "normal", "measured", "opens shed", "all shed")


@contextlib.contextmanager
def probes() -> Iterator[Load]:
    """The default probes, for whom this process is nobody special, and a reader of their rings."""
    plan = manifest._plan(Settings())
    load = manifest._load(plan)
    for slot in (0, 2):  # OWN_* in probes/common.h
        bpf.map_update(load.maps["settings"], struct.pack("<I", slot), bytes(8))
    rings = [Ring(load.maps[f"ring_{name}"], size) for name, size in zip(RINGS, plan.rings, strict=True)]
    stream, stop = Stream(rings), threading.Event()

    def read() -> None:
        while not stop.wait(0 if stream.backlog else 0.01):
            stream.batch()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield load
    finally:
        stop.set()
        reader.join()
        load.close()


def in_state(program: Path, load: Load, switches: Shedding, state: str) -> dict[str, float]:
    """ns per operation of each load while the probes are in this state."""
    switches.apply({"opens shed": ("file",), "all shed": ORDER}.get(state, ()))
    held = bpf.enable_stats() if state == "measured" else -1
    try:
        return bench_cost.measure(program)
    finally:
        if held >= 0:
            os.close(held)


def main() -> int:
    """Print the table."""
    if os.geteuid() != 0:
        print("host slow-down while the breaker is rehearsed: left out, it needs root")
        return 0
    figures: dict[str, dict[str, float]] = {what: {} for what in bench_cost.LOADS}

    def keep(state: str, found: dict[str, float]) -> None:
        for what, figure in found.items():
            figures[what][state] = min(figure, figures[what].get(state, figure))

    with tempfile.TemporaryDirectory() as name:
        program = bench_cost.build(Path(name))
        for _ in range(ROUNDS):
            keep("off", bench_cost.measure(program))
            with probes() as load:
                switches = Shedding(load)
                for state in STATES[1:]:
                    keep(state, in_state(program, load, switches, state))
    table = Table(title="Host slow-down while the breaker is rehearsed, ratio to no probes")
    for column in ("operation", "off, ns", *STATES[1:]):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for what, row in figures.items():
        table.add_row(what, f"{row['off']:,.0f}", *(f"{row[state] / row['off']:.2f}" for state in STATES[1:]))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
