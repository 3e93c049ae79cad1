"""What the loader is asked to load: a bounds-checked plan, and the maps that all families share.

Only the supervisor makes a plan; numbers that came from the unprivileged engine are checked here.
Standard library only.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass

from sensor.control import UNBOUNDED, Bounds, Request
from sensor.errors import UsageError
from sensor.kernel import bpf
from sensor.kernel.hooks import FAMILIES, SYSCALL_SLOTS, scratches
from sensor.schema import BY_ID

COUNTER_BYTES = 40  # struct counter in probes/common.h
SCRATCH_HEAD = 24  # struct scratch in probes/common.h, before its data
GO = b"go"  # the answer to a family of the loader that asks for its turn; anything else is why not
TYPES = 64  # rows of counters per processor
BUDGETS, BUDGET_SHARDS, BUDGET_BYTES = 1024, 8, 576  # struct budget
WINDOW_NS = 1 << 30  # WINDOW_SHIFT
SETTING_SHED, SETTING_BUDGET = 6, 7  # places in the map of settings
WATCH_ENTRIES = 1024
OWN_ENTRIES = 1024  # own_objects in probes/tamper.c: programs and maps
MEMORY_CAP = 64 << 20
_RING_MIN, _RING_MAX = 4096, 32 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """One load. ``rings`` are sizes in bytes (process ring, events ring); ``families`` names."""

    rings: tuple[int, int]
    families: tuple[str, ...]
    memory_limit: int
    cpus: int
    names: tuple[tuple[str, int], ...] = ()  # watched names (surrogateescape) and WATCH_* bits
    patterns: tuple[str, ...] = ()
    hooks: tuple[tuple[int, str], ...] = ()  # event id and the only kind of hook to use, or "off"
    bounds: Bounds = UNBOUNDED
    turns: bool = False  # before each family the loader asks whether it may go on

    @classmethod
    def of(cls, request: Request, cpus: int) -> Plan:
        """The plan that the engine asks for. Raises UsageError as :meth:`check` does."""
        names = tuple((name.decode("utf-8", "surrogateescape"), kind) for name, kind in request.names)
        plan = cls(request.rings, request.families, request.memory_limit, cpus, names, request.patterns, request.hooks,
                   request.bounds)
        plan.check()
        return plan

    def check(self) -> None:
        """Raise UsageError unless every number is within its bounds and the memory within the limit."""
        for size in self.rings:
            if not _RING_MIN <= size <= _RING_MAX or size & (size - 1):
                raise UsageError(f"ring size {size}: a power of two from {_RING_MIN} to {_RING_MAX} is needed")
        unknown = set(self.families) - {family.name for family in FAMILIES}
        if unknown:
            raise UsageError(f"unknown probe families: {', '.join(sorted(unknown))}")
        if any(event not in BY_ID for event, _ in self.hooks):
            raise UsageError("hooks for an event that does not exist")
        limit = min(self.memory_limit, MEMORY_CAP)
        if self.memory() > limit:
            raise UsageError(f"the maps need {self.memory() >> 10} KiB of kernel memory, the limit is "
                             f"{limit >> 10} KiB (limits.kernel_memory_mib, or smaller rings)")

    def only(self) -> dict[str, str]:
        """Event name -> the kind of hook that the settings ask for."""
        return {BY_ID[event].name: kind for event, kind in self.hooks}

    def memory(self) -> int:
        """Bytes of kernel memory that the maps of this plan take, elements only."""
        scratch = sum((family.mask + 1 + family.slack + SCRATCH_HEAD) * self.cpus * scratches(self.cpus)
                      for family in FAMILIES if family.name in self.families)
        hashes = WATCH_ENTRIES * (32 + 4 + 64) + WATCH_ENTRIES * (16 + 4 + 64) + 4096 * (8 + 40 + 64)
        hashes += OWN_ENTRIES * (8 + 4 + 64)
        contacts = 4096 * 40  # of probes/datagram.c
        arrays = self.cpus * TYPES * COUNTER_BYTES + contacts + 3 * SYSCALL_SLOTS * 8 + BUDGETS * BUDGET_BYTES
        return sum(self.rings) + scratch + hashes + arrays

    def dump(self) -> bytes:
        """Encode for the loader."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> Plan:
        """Decode what :meth:`dump` wrote."""
        raw = json.loads(data)
        return cls((raw["rings"][0], raw["rings"][1]), tuple(raw["families"]), raw["memory_limit"], raw["cpus"],
                   tuple((name, kind) for name, kind in raw["names"]), tuple(raw["patterns"]),
                   tuple((event, kind) for event, kind in raw["hooks"]), Bounds(**raw["bounds"]), raw["turns"])


def possible_cpus(text: str) -> int:
    """Highest possible processor number plus one, of /sys/devices/system/cpu/possible ("0-3", "0,2-7")."""
    return max(int(part.rpartition("-")[2]) for part in text.strip().split(",")) + 1


#: Shared maps in the order in which their descriptors travel.
SHARED = ("ring_process", "ring_events", "counters", "settings", "any", "native", "compat", "watch_names",
          "watch_inodes", "budgets", "own_objects", "owner")


def create_shared(plan: Plan) -> dict[str, int]:
    """Make the shared maps; name -> descriptor."""
    array, programs = bpf.ARRAY, bpf.PROG_ARRAY
    made = {
        "ring_process": bpf.map_create(bpf.RINGBUF, 0, 0, plan.rings[0], name="sensor_process"),
        "ring_events": bpf.map_create(bpf.RINGBUF, 0, 0, plan.rings[1], name="sensor_events"),
        "counters": bpf.map_create(array, 4, COUNTER_BYTES, plan.cpus * TYPES, bpf.MMAPABLE, "sensor_counters"),
        "settings": bpf.map_create(array, 4, 8, 8, name="sensor_settings"),
        "any": bpf.map_create(programs, 4, 4, SYSCALL_SLOTS, name="sensor_any"),
        "native": bpf.map_create(programs, 4, 4, SYSCALL_SLOTS, name="sensor_native"),
        "compat": bpf.map_create(programs, 4, 4, SYSCALL_SLOTS, name="sensor_compat"),
        "watch_names": bpf.map_create(bpf.HASH, 32, 4, WATCH_ENTRIES, name="sensor_names"),
        "watch_inodes": bpf.map_create(bpf.HASH, 16, 4, WATCH_ENTRIES, name="sensor_inodes"),
        "budgets": bpf.map_create(array, 4, BUDGET_BYTES, BUDGETS, bpf.MMAPABLE, "sensor_budgets"),
        "owner": bpf.map_create(array, 4, 8, 1, name="sensor_owner"),
        "own_objects": bpf.map_create(bpf.HASH, 8, 4, OWN_ENTRIES, name="sensor_own"),
    }
    budget = plan.bounds.cgroup_events * WINDOW_NS // 1_000_000_000
    bpf.map_update(made["settings"], struct.pack("<I", SETTING_BUDGET), struct.pack("<Q", budget))
    return made
