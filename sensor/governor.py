"""What the probes cost, measured while they run, and the breaker's decisions carried out. Standard library only.

The kernel measures run time only while somebody asks for it, since that costs two readings of the clock for each run
of a program, of everybody's programs. So it is asked for SAMPLE_SECONDS out of ROUND_SECONDS, by a descriptor: nothing
outlives this process, and kernel.bpf_stats_enabled stays what it is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sensor.breaker import ACTIONS, Breaker, Ran, Sample, Step
from sensor.control import Bounds
from sensor.errors import HostError, UsageError
from sensor.kernel import bpf
from sensor.loaded import Load
from sensor.shedding import Shedding

ROUND_SECONDS, SAMPLE_SECONDS = 5.0, 1.0
_SHORTEST_SECONDS = 0.2  # of a sample; what was cut short says too little
_UNTOLD = 64  # steps kept for an engine that is away
DRILL_SECONDS = 30.0
_DRILL_BOUNDS = (5.0, 600.0)
_SYSCTL = Path("/proc/sys/kernel/bpf_stats_enabled")

_Row = list[int]  # program id, run time in ns, runs, runs missed by recursion


class Governor:
    """One supervisor's.

    Args:
        say: For people.
        clock: Seconds, monotonic.
        enable: Has the kernel measure until its descriptor is closed. Raises OSError.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic,
                 enable: Callable[[], int] = bpf.enable_stats) -> None:
        self._say, self._clock, self._enable = say, clock, enable
        self._load = Load()
        self._breaker: Breaker | None = None
        self._switches: Shedding | None = None
        self._names: dict[int, tuple[str, str]] = {}  # program id -> name, family
        self._measuring = -1
        self._began: tuple[float, list[_Row]] | None = None  # a sample
        self._pending = False  # what was decided is not done yet
        self._cpus = 1
        self._bounded = False
        self._lack = ""  # why nothing is measured
        self._untold: deque[Step] = deque(maxlen=_UNTOLD)
        self._counts = dict.fromkeys(ACTIONS, 0)

    def begin(self, load: Load, bounds: Bounds, cpus: int) -> None:
        """Look after a load that is attached; a load that is known already goes on as it is."""
        if self._load is load and self._breaker is not None:
            return
        self.end()
        self._load, self._cpus = load, cpus
        self._bounded = bool(bounds.kernel_ppm or bounds.program_ns)
        self._breaker, self._switches = Breaker(bounds, load.families), Shedding(load)
        self._names = {row["id"]: (row["program"], row["family"]) for row in load.programs}

    def end(self) -> None:
        """Nothing is attached any more."""
        self._stop_measuring()
        self._breaker = self._switches = self._began = None
        self._pending = False

    def round(self) -> float:
        """Begin or end a sample, and act on it; seconds until the next call."""
        if self._breaker is None:
            return ROUND_SECONDS
        if self._began is None:
            if self._start_measuring():
                self._began = (self._clock(), self.rows())
                return SAMPLE_SECONDS
            self._carry_out(self._breaker.tick(self._clock()))
        else:
            sample = self._sample(*self._began)
            self._began = None
            self._stop_measuring()
            self._carry_out(self._breaker.feed(sample) if sample is not None else [])
        return ROUND_SECONDS - SAMPLE_SECONDS

    def rows(self) -> list[_Row]:
        """The kernel's own statistics of each program."""
        rows = []
        for fd in self._load.program_fds.values() if self._breaker is not None else ():
            with contextlib.suppress(OSError):
                info = bpf.program_info(fd)
                rows.append([info.id, info.run_ns, info.runs, info.missed])
        return rows

    @property
    def sampling(self) -> bool:
        """Whether a sample has begun and not ended."""
        return self._began is not None

    def report(self, *, heard: bool = True) -> dict[str, Any]:
        """For the engine. *heard*: it is there to take it, so that steps need not be told again."""
        steps = [asdict(step) for step in self._untold] if heard else []
        if heard:
            self._untold.clear()
        return {"kind": "statistics", "programs": self.rows(), "steps": steps, "counts": dict(self._counts),
                "shed": list(self._breaker.shed) if self._breaker is not None else [], "lack": self._lack,
                "ppm": self._breaker.ppm if self._breaker is not None else 0.0}

    # --- drills -------------------------------------------------------------------------------

    def rehearse(self, seconds: float = DRILL_SECONDS) -> str:
        """Drill: switch the next family off for so many seconds; what was done. SensorError where nothing was.

        It is told as a drill by event, metric and log line, and undone by itself.
        """
        low, high = _DRILL_BOUNDS
        if not low <= seconds <= high:
            raise UsageError(f"a drill takes from {low:.0f} to {high:.0f} s")
        if self._breaker is None:
            raise HostError("no probes are attached", "sensor status")
        steps = self._breaker.rehearse(self._clock(), seconds)
        if not steps:
            raise HostError("no family is left to switch off, or a drill is under way", "try again in a minute")
        self._carry_out(steps)
        return steps[0].sentence

    # --- inside -------------------------------------------------------------------------------

    def _start_measuring(self) -> bool:
        if not self._bounded:
            self._lacks("limits.kernel_cpu and limits.program_ns are 0")
            return False
        try:
            self._measuring = self._enable()
        except OSError as error:
            with contextlib.suppress(OSError):
                if _SYSCTL.read_text().strip() == "1":  # somebody has it measured all the time
                    return True
            self._lacks(f"the kernel does not measure run times for us: {error.strerror}")
            return False
        self._lack = ""
        return True

    def _lacks(self, reason: str) -> None:
        if reason != self._lack:
            self._lack = reason
            self._say(f"no breaker, whatever the probes cost: {reason}")

    def _stop_measuring(self) -> None:
        if self._measuring >= 0:
            os.close(self._measuring)
            self._measuring = -1

    def _sample(self, began: float, before: list[_Row]) -> Sample | None:
        now, known = self._clock(), {row[0]: row for row in before}
        if now - began < _SHORTEST_SECONDS:
            return None
        ran = []
        for number, run_ns, runs, _ in self.rows():
            if number in known and number in self._names:
                _, ns_then, runs_then, _ = known[number]
                ran.append(Ran(*self._names[number], run_ns - ns_then, runs - runs_then))
        return Sample(now, now - began, self._cpus, tuple(ran))

    def _carry_out(self, steps: list[Step]) -> None:
        assert self._breaker is not None
        assert self._switches is not None
        for step in steps:
            self._counts[step.action] += 1
            self._untold.append(step)
            self._say(f"breaker: {step.sentence}")
        if not steps and not self._pending:
            return
        try:
            self._switches.apply(self._breaker.shed)
            self._pending = False
        except OSError as error:
            if not self._pending:
                self._say(f"breaker: the kernel refused, it is tried again: {error.strerror}")
            self._pending = True
