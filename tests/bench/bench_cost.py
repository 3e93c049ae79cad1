"""What the running sensor costs the host: the same workloads without it and with it, turn by turn.

Needs root. Figures are the least of several runs, for the machine is shared; what counts is the
difference between the two columns of one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROUNDS, RUNS = 3, 3
LOADS = {"getppid": 300_000, "read": 100_000, "write": 20_000, "connect": 5_000, "exec": 300}
READY_SECONDS = 120
_TICKS = os.sysconf("SC_CLK_TCK")


def build(folder: Path) -> Path:
    """Compile the load generator."""
    program = folder / "load"
    subprocess.run(["gcc", "-O2", "-o", str(program), str(Path(__file__).with_name("load.c"))], check=True)
    return program


def measure(program: Path) -> dict[str, float]:
    """Least ns per operation of each load."""
    return {what: min(float(subprocess.check_output([program, what, str(count)])) for _ in range(RUNS))
            for what, count in LOADS.items()}


class Running:
    """A sensor under test."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / f"alerts-{time.monotonic_ns()}.jsonl"
        self.stderr = self.output.with_suffix(".err")
        began = time.monotonic()
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("sensor"), "run", "-o", self.output, "--metrics", "off"],
                stderr=stderr)
        while not self.output.exists() or b'"start"' not in self.output.read_bytes():
            if self.process.poll() is not None or time.monotonic() - began > READY_SECONDS:
                raise SystemExit(f"the sensor did not start:\n{self.stderr.read_text()}")
            time.sleep(0.02)
        self.ready_seconds = time.monotonic() - began

    def usage(self) -> tuple[float, int]:
        """CPU seconds and resident KiB of supervisor and engine together."""
        cpu, memory = 0.0, 0
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (str(self.process.pid), *children):
            with contextlib.suppress(FileNotFoundError):
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu += (int(stat[11]) + int(stat[12])) / _TICKS
                status = Path(f"/proc/{pid}/status").read_text()
                memory += int(status.partition("VmRSS:")[2].split()[0])
        return cpu, memory

    def alert_latency(self) -> float:
        """Seconds from an act to its alert in the output file."""
        payload = Path("/dev/shm/sensor-bench-payload")
        payload.write_bytes(Path("/bin/true").read_bytes())
        payload.chmod(0o755)
        before = self.output.stat().st_size
        began = time.monotonic()
        subprocess.run([payload], check=True)
        while b"sensor-bench-payload" not in self.output.read_bytes()[before:]:
            if time.monotonic() - began > 10:
                raise SystemExit("no alert within 10 s")
            time.sleep(0.0005)
        payload.unlink()
        return time.monotonic() - began

    def stop(self) -> dict[str, int]:
        """Stop it; the numbers of its summary."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        summary: dict[str, int] = json.loads(self.stderr.read_text().strip().splitlines()[-1].partition(": ")[2])
        return summary


@contextlib.contextmanager
def sensor(folder: Path) -> Iterator[Running]:
    """Run a sensor for the length of a block."""
    running = Running(folder)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def main() -> int:
    """Print the table."""
    if os.geteuid() != 0:
        print("cost of the live sensor: left out, it needs root")
        return 0
    without: dict[str, list[float]] = {what: [] for what in LOADS}
    with_it: dict[str, list[float]] = {what: [] for what in LOADS}
    facts: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(folder)
        for _ in range(ROUNDS):
            for what, figure in measure(program).items():
                without[what].append(figure)
            with sensor(folder) as running:
                idle_from = running.usage()[0]
                time.sleep(2)
                idle = (running.usage()[0] - idle_from) / 2
                latency = min(running.alert_latency() for _ in range(5))
                for what, figure in measure(program).items():
                    with_it[what].append(figure)
                _, memory = running.usage()
                ready = running.ready_seconds
                summary = running.stop()
            facts.append(f"ready {ready:.1f} s · act to alert {latency * 1000:.0f} ms · {memory // 1024} MB resident · "
                         f"idle {idle:.1%} of a core · {summary['emitted']:,} events, {summary['lost']:,} lost")
    table = Table(title="Cost of the live sensor, ns per operation")
    for column in ("operation", "without", "with", "added", "ratio"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for what in LOADS:
        off, on = min(without[what]), min(with_it[what])
        table.add_row(what, f"{off:,.0f}", f"{on:,.0f}", f"{on - off:+,.0f}", f"{on / off:.2f}")
    console = Console(width=100)
    console.print(table)
    for fact in facts:
        console.print(fact)
    return 0


if __name__ == "__main__":
    sys.exit(main())
