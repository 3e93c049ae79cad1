"""The engine's requests to the supervisor: fixed size, no variable-length parsing, every number checked.

The engine is unprivileged and reads hostile input; what it sends is treated as hostile too. The
other direction (supervisor to engine) is JSON, for it comes from root. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from sensor.errors import UsageError

FAMILY_BITS = ("process", "syscall", "file", "network", "privilege", "shell", "path")
WATCH_LEAF, WATCH_PARENT = 1, 2  # WATCH_* in probes/file.c
#: Kinds of hooks that the settings can ask for, by number; 0 leaves the choice.
HOOK_KINDS = ("", "off", "raw_tracepoint", "syscall", "fentry", "kprobe", "kretprobe", "lsm", "uprobe")
MAX_EVENTS = 64
REQUESTS_PER_SECOND = 20  # a beat a second, and a handful around a start or a release
MAX_WATCH = 256
NAME_BYTES = 32  # struct watch_name
PATTERN_BYTES = 256

_BEAT = struct.Struct("<4sQ")
_PLAN = struct.Struct(f"<4sIIIIIIIII{MAX_EVENTS}s")
_VERDICT = struct.Struct("<4sI32s")
_NAME = struct.Struct(f"<I{NAME_BYTES}s")
PLAN_BYTES = _PLAN.size + MAX_WATCH * (_NAME.size + PATTERN_BYTES)
#: Enough for any message in this direction.
PACKET_BYTES = PLAN_BYTES + 1

MAGIC_PLAN, MAGIC_READY, MAGIC_BEAT, MAGIC_VERDICT = b"SPLN", b"SRDY", b"SBEA", b"SVER"
#: Why the engine wants a content release taken back, by number; 0: it is healthy, go on to the next stage.
VERDICTS = ("", "load", "fault", "evaluation_time", "alert_rate", "loss")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the probes may cost; 0: no bound. Each at most BOUND_MAX."""

    kernel_ppm: int = 0  # run time of all programs, in millionths of the time of all processors
    program_ns: int = 0  # mean run time of one program
    cgroup_events: int = 0  # records a second of one control group and probe family


BOUND_MAX = 100_000_000
UNBOUNDED = Bounds()


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine wants loaded. Ring sizes and memory limit in bytes."""

    rings: tuple[int, int]
    memory_limit: int
    families: tuple[str, ...]
    names: tuple[tuple[bytes, int], ...] = ()  # watched names, WATCH_LEAF or WATCH_PARENT
    patterns: tuple[str, ...] = ()  # absolute globs, whose inodes are watched too
    hooks: tuple[tuple[int, str], ...] = ()  # event id, one of HOOK_KINDS
    bounds: Bounds = UNBOUNDED

    def pack(self) -> bytes:
        """Encode in PLAN_BYTES bytes."""
        if len(self.names) > MAX_WATCH or len(self.patterns) > MAX_WATCH:
            raise UsageError(f"watch.paths: at most {MAX_WATCH} names and patterns fit the kernel's filter")
        bits = sum(1 << FAMILY_BITS.index(name) for name in self.families)
        kinds = bytearray(MAX_EVENTS)
        for event, kind in self.hooks:
            kinds[event] = HOOK_KINDS.index(kind)
        parts = [_PLAN.pack(MAGIC_PLAN, *self.rings, self.memory_limit, bits, len(self.names), len(self.patterns),
                            *astuple(self.bounds), bytes(kinds))]
        parts += [_NAME.pack(kind, name[:NAME_BYTES - 1]) for name, kind in self.names]
        parts.append(b"\0" * (MAX_WATCH - len(self.names)) * _NAME.size)
        for pattern in self.patterns:
            raw = pattern.encode("utf-8", "surrogateescape")
            if len(raw) >= PATTERN_BYTES:
                raise UsageError(f"watch.paths: {pattern[:64]}... is longer than {PATTERN_BYTES - 1} bytes")
            parts.append(raw.ljust(PATTERN_BYTES, b"\0"))
        return b"".join(parts).ljust(PLAN_BYTES, b"\0")


def parse_request(data: bytes) -> Request:
    """Decode and check a plan. Raises UsageError where anything is out of bounds."""
    if len(data) != PLAN_BYTES or data[:4] != MAGIC_PLAN:
        raise UsageError("malformed plan")
    _, first, second, limit, bits, names, patterns, *bounds, kinds = _PLAN.unpack_from(data)
    if (bits >> len(FAMILY_BITS) or names > MAX_WATCH or patterns > MAX_WATCH or max(kinds) >= len(HOOK_KINDS)
            or max(bounds) > BOUND_MAX):
        raise UsageError("plan out of bounds")
    families = tuple(name for index, name in enumerate(FAMILY_BITS) if bits >> index & 1)
    entries = []
    for index in range(names):
        kind, raw = _NAME.unpack_from(data, _PLAN.size + index * _NAME.size)
        name = raw.partition(b"\0")[0]
        if kind not in (WATCH_LEAF, WATCH_PARENT, WATCH_LEAF | WATCH_PARENT) or not name:
            raise UsageError("plan with a watched name out of bounds")
        entries.append((name, kind))
    base = _PLAN.size + MAX_WATCH * _NAME.size
    texts = [data[base + index * PATTERN_BYTES:base + (index + 1) * PATTERN_BYTES].partition(b"\0")[0]
             for index in range(patterns)]
    if not all(text.startswith(b"/") for text in texts):
        raise UsageError("plan with a relative pattern")
    return Request((first, second), limit, families, tuple(entries),
                   tuple(text.decode("utf-8", "surrogateescape") for text in texts),
                   tuple((event, HOOK_KINDS[kind]) for event, kind in enumerate(kinds) if kind), Bounds(*bounds))


def watch_entries(leaves: Sequence[str], parents: Sequence[str]) -> tuple[tuple[bytes, int], ...]:
    """Names for the kernel's filter, one entry per name; cut as the kernel cuts them."""
    kinds: dict[bytes, int] = {}
    for names, kind in ((leaves, WATCH_LEAF), (parents, WATCH_PARENT)):
        for name in names:
            key = name.encode("utf-8", "surrogateescape")[:NAME_BYTES - 1]
            kinds[key] = kinds.get(key, 0) | kind
    return tuple(sorted(kinds.items()))


def ready() -> bytes:
    """The engine reads records now."""
    return _BEAT.pack(MAGIC_READY, 0)


def beat(events: int) -> bytes:
    """The engine is alive, and has seen this many events."""
    return _BEAT.pack(MAGIC_BEAT, events)


def events_of(data: bytes) -> int:
    """What a beat says."""
    return int(_BEAT.unpack(data)[1])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the engine thinks of a content release, named by its id. ``reason`` is one of VERDICTS."""

    release: str
    reason: str


def verdict(release: str, reason: str) -> bytes:
    """Encode for :func:`parse_verdict`."""
    return _VERDICT.pack(MAGIC_VERDICT, VERDICTS.index(reason), bytes.fromhex(release))


def parse_verdict(data: bytes) -> Verdict | None:
    """Decode; None for anything that is none."""
    if kind_of(data) != MAGIC_VERDICT:
        return None
    _, number, release = _VERDICT.unpack(data)
    return Verdict(release.hex(), VERDICTS[number]) if number < len(VERDICTS) else None


class Pace:
    """How many requests of an engine are looked at: what is beyond that is dropped and counted, and serves nothing."""

    def __init__(self) -> None:
        self._second, self._taken, self.dropped = -1, 0, 0

    def take(self, now: float) -> bool:
        """Whether to look at one that came *now* (seconds of a clock that doesn't go back)."""
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        self._taken += 1
        if self._taken > REQUESTS_PER_SECOND:
            self.dropped += 1
            return False
        return True

    @property
    def begins(self) -> bool:
        """Whether the last one taken was the first to be dropped within its second."""
        return self._taken == REQUESTS_PER_SECOND + 1


def kind_of(data: bytes) -> bytes:
    """Magic of a message, checked against its size; b"" for anything else."""
    sizes = {MAGIC_PLAN: PLAN_BYTES, MAGIC_READY: _BEAT.size, MAGIC_BEAT: _BEAT.size, MAGIC_VERDICT: _VERDICT.size}
    return data[:4] if sizes.get(data[:4]) == len(data) else b""
