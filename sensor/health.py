"""Whether the kernel is well since our probes are in it: its counts of oopses and warnings, canaries, rings.

A baseline is taken before anything is loaded, so that what others did before is theirs. Afterwards any rise means that
our probes go: nobody can tell in that moment whose fault it was, and fewer programs can only help. Files and times
come from outside. Pure logic, standard library only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/")
CHECK_SECONDS = 10.0
CANARY_SECONDS = 30.0
RING_SECONDS = 60.0
GAP_SECONDS = 30.0  # between two looks at a ring; beyond it nobody looked because everything stood, the engine too
MISSES = 2  # canaries in a row that must be missing: one may be left out for a good reason
#: Why everything was detached.
REASONS = ("oops", "warning", "taint", "canary", "ring")
#: Bits of /proc/sys/kernel/tainted, Documentation/admin-guide/tainted-kernels.rst.
TAINTS = {7: "D (oops or BUG)", 9: "W (warning)", 14: "L (soft lock-up)"}
_OOPSES, _WARNINGS = "sys/kernel/oops_count", "sys/kernel/warn_count"  # both since 6.2
_TAINTED = "proc/sys/kernel/tainted"
_SMALL = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """Why the probes must go. ``reason`` is one of REASONS; ``drill``: nothing has happened, somebody rehearses."""

    reason: str
    detail: str
    drill: bool = False

    @property
    def lack(self) -> str:
        """One of preflight.LACKS."""
        return self.reason if self.reason in ("canary", "ring") else "health"


@dataclass(frozen=True, slots=True)
class Reading:
    """The kernel's own counts; None where this kernel has none, or hides them."""

    oopses: int | None = None
    warnings: int | None = None
    taint: int | None = None

    @property
    def blind(self) -> str:
        """What can't be noticed here; "" where everything can."""
        if self.taint is None and (self.oopses is None or self.warnings is None):
            return "the kernel's counts of oopses and warnings can't be read: only canaries tell of a fault"
        if self.oopses is None or self.warnings is None:
            return "no oops_count and warn_count in this kernel (6.2 has them): only the first taint of each kind tells"
        return ""


def read(root: Path = ROOT) -> Reading:
    """As of now."""
    return Reading(*(_number(root / name) for name in (_OOPSES, _WARNINGS, _TAINTED)))


def _number(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            text = file.read(_SMALL).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def rise(before: Reading, now: Reading) -> Finding | None:
    """The worst that has come since *before*; None where nothing has. A count that fell was reset, which is no rise."""
    for reason, name, old, new in (("oops", "oops_count", before.oopses, now.oopses),
                                   ("warning", "warn_count", before.warnings, now.warnings)):
        if old is not None and new is not None and new > old:
            return Finding(reason, f"the kernel's {name} rose from {old} to {new} since the probes were loaded")
    if before.taint is None or now.taint is None:
        return None
    came = [name for bit, name in TAINTS.items() if now.taint & ~before.taint & 1 << bit]
    return Finding("taint", f"the kernel was tainted since the probes were loaded: {', '.join(came)}") if came else None


def cpu_list(text: str) -> frozenset[int]:
    """Processors of a kernel's list: "0-3,8". What is none is left out."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal() and int(last or first) < _PROCESSORS:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


_PROCESSORS = 8192  # CONFIG_NR_CPUS at its highest


def show_list(cpus: Iterable[int]) -> str:
    """The other way round: ``{0, 1, 2, 8}`` -> "0-2,8"."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


@dataclass(slots=True)
class Canaries:
    """Canaries that came back, by processor. ``totals`` only rise."""

    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("seen", "missing", "late"), 0))
    in_a_row: dict[int, int] = field(default_factory=dict)

    def take(self, seen: Collection[int], missing: Mapping[int, str], late: Collection[int]) -> Finding | None:
        """Add one round.

        Args:
            seen: Processors whose canaries came back.
            missing: Processor -> which programs there did not see what was done.
            late: Processors where nothing could be done in time: too busy, which says nothing of the probes.
        """
        self.totals["seen"] += len(seen)
        self.totals["missing"] += len(missing)
        self.totals["late"] += len(late)
        for cpu in seen:
            self.in_a_row.pop(cpu, None)
        for cpu in missing:
            self.in_a_row[cpu] = self.in_a_row.get(cpu, 0) + 1
        gone = {cpu: missing[cpu] for cpu in missing if self.in_a_row[cpu] >= MISSES}
        if not gone:
            return None
        return Finding("canary", f"the probes see nothing any more on processor {show_list(gone)}: {MISSES} canaries "
                                 f"in a row are missing ({', '.join(sorted({*gone.values()}))})")

    def forget(self, cpus: Collection[int]) -> None:
        """What was missing on processors that are gone says nothing."""
        for cpu in [cpu for cpu in self.in_a_row if cpu not in cpus]:
            del self.in_a_row[cpu]


@dataclass(slots=True)
class Standstill:
    """Whether a ring is read. Fed with its positions every few seconds."""

    name: str
    _consumer: int = -1
    _looked: float = 0.0
    _stood: float = 0.0  # seconds

    def take(self, consumer: int, producer: int, now: float) -> Finding | None:
        """Positions in bytes, time in seconds of any steady clock."""
        step, self._looked = min(now - self._looked, GAP_SECONDS), now
        if consumer != self._consumer or consumer == producer:
            self._consumer, self._stood = consumer, 0.0
            return None
        self._stood += step
        if self._stood < RING_SECONDS:
            return None
        return Finding("ring", f"the engine has not read from the {self.name} ring for {self._stood:.0f} s, "
                               f"{producer - consumer} bytes are waiting")

    def excuse(self, now: float) -> None:
        """Nobody is there to read: the time begins anew."""
        self._looked, self._stood = now, 0.0
