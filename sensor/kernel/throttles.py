"""Which control groups the kernel throttles, read from the probes' buckets by mmap: no system call, no privilege."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from sensor.kernel.hooks import FAMILIES
from sensor.kernel.plan import BUDGET_BYTES, BUDGET_SHARDS, BUDGETS

#: After so long without a dropped event it is over: a flood that comes in bursts is told once.
QUIET_NS = 10_000_000_000
_WORDS = BUDGET_BYTES // 8
_OWNER, _FAMILIES = 3, 4  # words of struct budget; the last is two numbers, the higher one is meant
_SHARDS = range(8, _WORDS, (_WORDS - 8) // BUDGET_SHARDS)  # of the count of what was dropped


@dataclass(slots=True)
class Change:
    """``action`` is began or ended; ``count`` are events dropped since it began."""

    action: str
    cgroup: int
    family: str
    count: int


@dataclass(slots=True)
class _Under:
    count: int
    last_ns: int


class Throttles:
    """The buckets of one load. *fd* is the map; what was dropped before is not told again."""

    def __init__(self, fd: int) -> None:
        size = -(-BUDGETS * BUDGET_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(self._map).cast("Q")
        self._before = self._dropped()
        self._under: dict[tuple[int, str], _Under] = {}  # bounded: by the buckets, for QUIET_NS

    def _dropped(self) -> list[int]:
        shards = (self._words[word:BUDGETS * _WORDS:_WORDS].tolist() for word in _SHARDS)
        return [*map(sum, zip(*shards, strict=True))]

    @property
    def throttled(self) -> int:
        """How many are throttled now."""
        return len(self._under)

    def look(self, now_ns: int) -> list[Change]:
        """What has changed since the last look."""
        now, before = self._dropped(), self._before
        self._before = now
        changes: list[Change] = []
        if now != before:
            for place, (count, known) in enumerate(zip(now, before, strict=True)):
                if count != known:
                    changes += self._more(place, count - known, now_ns)
        for (cgroup, family), under in [*self._under.items()]:
            if now_ns - under.last_ns >= QUIET_NS:
                del self._under[cgroup, family]
                changes.append(Change("ended", cgroup, family, under.count))
        return changes

    def _more(self, place: int, count: int, now_ns: int) -> list[Change]:
        # Who was dropped last: two that share a bucket within one look are told as one of them.
        cgroup, number = self._words[place * _WORDS + _OWNER], self._words[place * _WORDS + _FAMILIES] >> 32
        family = FAMILIES[number].name if number < len(FAMILIES) else ""
        under = self._under.get((cgroup, family))
        if under is not None:
            under.count += count
            under.last_ns = now_ns
            return []
        self._under[cgroup, family] = _Under(count, now_ns)
        return [Change("began", cgroup, family, count)]

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
