"""The breaker: which probe families are switched off while the probes cost the host more than they may.

It is fed samples of what the kernel has measured of our programs, and answers with steps. One family goes at
a time, in the order of ORDER; it comes back once the cost has been low for a while, which doubles each time that it
was too early. No clock and no kernel: sensor/governor.py has both. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sensor.control import Bounds

#: What goes first tells least for what it costs: opens are most of all records, the calls of `privilege` are rare
#: and say most. `process` is not here: every other event needs the process table. `syscall` has no events of its own;
#: it goes with the last family that it serves.
ORDER = ("file", "path", "network", "privilege", "shell")
DISPATCHER = "syscall"
#: Behind the dispatcher. The kernel accounts the time of what a tail call reaches to the program that it began with.
DISPATCHED = ("file", "path", "network", "privilege")
_SWITCHED = frozenset((*ORDER, DISPATCHER))

WINDOW_SECONDS = 30.0  # of the means; time before the first sample counts as none
HOLD_SECONDS, HOLD_MAX_SECONDS = 60.0, 3600.0
#: A program's mean counts where it takes this part of the limit of all programs: on a slow or emulated processor
#: every mean is high, and one that hardly runs harms nobody.
FLOOR = 0.1
_FLOOR_PPM = 1000.0  # where the limit of all programs is off

SHED, RESTORED, EXHAUSTED = "shed", "restored", "exhausted"
KERNEL_CPU, PROGRAM_NS, DRILL = "kernel_cpu", "program_ns", "drill"
ACTIONS, REASONS = (SHED, RESTORED, EXHAUSTED), (KERNEL_CPU, PROGRAM_NS, DRILL)


@dataclass(frozen=True, slots=True)
class Ran:
    """One program within one sample."""

    name: str
    family: str
    run_ns: int
    runs: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What the programs took. ``at`` is its end, seconds of a monotonic clock; ``seconds`` is its length."""

    at: float
    seconds: float
    cpus: int
    ran: tuple[Ran, ...]

    def ppm(self, *, kept: bool = True) -> float:
        """Millionths of the time of all processors; of what can be switched off alone, or with what is *kept*."""
        taken = sum(each.run_ns for each in self.ran if kept or each.family in _SWITCHED)
        return taken / (self.seconds * self.cpus) / 1e3


@dataclass(frozen=True, slots=True)
class Step:
    """One decision. ``measured`` and ``limit`` in millionths of all processors, or ns for the reason program_ns."""

    action: str
    family: str
    reason: str
    measured: int
    limit: int
    sentence: str


class Breaker:
    """One load's.

    Args:
        bounds: What the probes may cost; 0 is no bound.
        families: Those that are attached.
    """

    def __init__(self, bounds: Bounds, families: Iterable[str]) -> None:
        self._bounds = bounds
        present = frozenset(families)
        self._order = tuple(name for name in ORDER if name in present)
        self._samples: list[tuple[Sample, float]] = []  # and the seconds that each of them stands for
        self._began: float | None = None  # the window; None: with the next sample
        self._last: float | None = None  # sample
        self._low: float | None = None  # since when the cost has been low
        self._tripped = 0.0  # when something was last shed
        self._again = False  # something has been restored since: the next trip means that it was too early
        self._told_exhausted = False
        self._drill: tuple[str, float] | None = None  # family, end
        self.hold = HOLD_SECONDS
        self.shed: list[str] = []  # in the order in which they went
        self.ppm = 0.0  # mean of the window
        self._movable = 0.0  # the part of it that can be switched off

    def feed(self, sample: Sample) -> list[Step]:
        """Take in one sample; at most one family goes or comes, but for a drill's end."""
        ended = self.tick(sample.at)
        span = sample.seconds if self._last is None else sample.at - self._last
        self._last = sample.at
        self._began = sample.at - sample.seconds if self._began is None else self._began
        self._samples = [each for each in self._samples if each[0].at > sample.at - WINDOW_SECONDS]
        self._samples.append((sample, min(span, WINDOW_SECONDS)))
        self.ppm, self._movable = self._mean(sample.at, kept=True), self._mean(sample.at, kept=False)
        return ended + (self._trip(sample.at) or self._recover(sample.at))

    def tick(self, now: float) -> list[Step]:
        """What time alone brings, where nothing is measured: the end of a drill."""
        if self._drill is None or now < self._drill[1]:
            return []
        family, self._drill = self._drill[0], None
        self.shed.remove(family)
        self._begin_anew()
        return [Step(RESTORED, family, DRILL, 0, 0, f"drill: {family} is switched on again")]

    def rehearse(self, now: float, seconds: float) -> list[Step]:
        """Shed the next family as a drill, for so many seconds. Empty where there is none, or a drill already."""
        left = self._left()
        if not left or self._drill is not None:
            return []
        self._drill = (left[0], now + seconds)
        self.shed.append(left[0])
        self._begin_anew()
        return [Step(SHED, left[0], DRILL, 0, 0, f"drill: {left[0]} is switched off for {seconds:.0f} s")]

    # --- inside -------------------------------------------------------------------------------

    def _left(self) -> list[str]:
        return [name for name in self._order if name not in self.shed]

    def _mean(self, now: float, *, kept: bool) -> float:
        total = 0.0
        for sample, span in self._samples:
            total += sample.ppm(kept=kept) * min(span, sample.at - (now - WINDOW_SECONDS))
        return total / WINDOW_SECONDS

    def _slow(self, limit: float) -> tuple[str, str, float] | None:
        """(program, family, mean ns) of the slowest program that takes enough to matter and more than *limit*."""
        runs: dict[tuple[str, str], list[float]] = {}
        floor = self._bounds.kernel_ppm * FLOOR or _FLOOR_PPM
        for sample, _ in self._samples:
            for each in sample.ran:
                row = runs.setdefault((each.name, each.family), [0, 0, 0])
                row[0] += each.run_ns
                row[1] += each.runs
                row[2] += sample.seconds * sample.cpus
        # The time before the first sample is none here too: one short burst is no 30 s.
        worth = ((run_ns / count, name, family) for (name, family), (run_ns, count, seconds) in runs.items()
                 if count and run_ns / seconds / 1e3 * self._filled() >= floor and self._target(family))
        slowest = max(worth, default=None)
        return (slowest[1], slowest[2], slowest[0]) if slowest is not None and slowest[0] > limit else None

    def _filled(self) -> float:
        return min(1.0, sum(span for _, span in self._samples) / WINDOW_SECONDS)

    def _target(self, family: str) -> str:
        """What to shed for a program of this family; "" where nothing would help."""
        left = self._left()
        if family == DISPATCHER:
            return next((name for name in left if name in DISPATCHED), "")
        return family if family in left else ""

    def _trip(self, now: float) -> list[Step]:
        limit = self._bounds.kernel_ppm
        if limit and self.ppm > limit:
            left = self._left()
            what = f"the probes took {self.ppm / 1e4:.2f} % of each processor, limit {limit / 1e4:g} %"
            if left and self._movable >= limit * FLOOR:
                return [self._shed(now, left[0], KERNEL_CPU, self.ppm, limit, what)]
            if not self._told_exhausted:
                self._told_exhausted = True
                return [Step(EXHAUSTED, "", KERNEL_CPU, round(self.ppm), limit,
                             f"{what}; it is process events that cost, and those are never switched off")]
            return []
        slow = self._slow(self._bounds.program_ns) if self._bounds.program_ns else None
        if slow is None:
            return []
        program, family, mean = slow
        return [self._shed(now, self._target(family), PROGRAM_NS, mean, self._bounds.program_ns,
                           f"{program} took {mean:.0f} ns per run, limit {self._bounds.program_ns} ns")]

    def _shed(self, now: float, family: str, reason: str, measured: float, limit: int, what: str) -> Step:
        if self._again:
            self.hold = min(self.hold * 2, HOLD_MAX_SECONDS)
            self._again = False
        self.shed.append(family)
        self._tripped = now
        self._begin_anew()
        return Step(SHED, family, reason, round(measured), limit,
                    f"{what}: {family} is switched off for {self.hold:.0f} s at least")

    def _recover(self, now: float) -> list[Step]:
        if not self.shed:
            if now - self._tripped >= HOLD_MAX_SECONDS:
                self.hold, self._again = HOLD_SECONDS, False
            return []
        if self._drill is not None and self.shed == [self._drill[0]]:
            return []
        limit = self._bounds.kernel_ppm
        assert self._began is not None
        # What process events cost can't be helped: what else there is may be back below the limit all the same.
        if now - self._began < WINDOW_SECONDS or (limit and (self._movable >= limit / 2 or self.ppm >= limit)):
            self._low = None
            return []
        self._low = now if self._low is None else self._low
        if now - self._low < self.hold:
            return []
        held = self._drill[0] if self._drill is not None else ""
        family = next(name for name in reversed(self.shed) if name != held)
        self.shed.remove(family)
        self._again, self._told_exhausted = True, False
        self._begin_anew()
        return [Step(RESTORED, family, KERNEL_CPU, round(self.ppm), limit,
                     f"the probes took {self.ppm / 1e4:.2f} % of each processor: {family} is switched on again")]

    def _begin_anew(self) -> None:
        """What was measured before a step says nothing of the time after it."""
        self._samples, self._began, self._low = [], None, None
