"""The rings as one stream of records in time order, and the kernel's counters."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from sensor.kernel.decode import Record, decode_all
from sensor.kernel.plan import COUNTER_BYTES, TYPES
from sensor.kernel.ring import CorruptRing, Ring
from sensor.schema import EVENTS

#: Records of one batch: a tenth of a second's work at most, so that requests are served in between.
BATCH = 4096
_KERNEL_EVENTS = tuple((event.id, event.name) for event in EVENTS if event.id < TYPES)


class Stream:
    """Reads several rings.

    Args:
        rings: The process ring first. A batch reads it up to where it stood *after* the others
            were looked at, so that a process is known before its first file or network event.
    """

    def __init__(self, rings: Sequence[Ring]) -> None:
        self.rings = rings
        self.malformed: dict[str, int] = {"short": 0, "abi": 0, "type": 0, "malformed": 0, "ring": 0}
        self.backlog = False  # the last batch left records behind

    def batch(self) -> list[Record]:
        """Records by time; empty where there are none. Undecodable ones are counted by reason."""
        return decode_all(self.raw(), self.malformed)

    def raw(self) -> list[list[bytes]]:
        """The records of each ring as they lie there, those of the process ring first.

        Frees the space of the batch before: a batch that kills the engine is there for the next one.
        """
        for ring in self.rings:
            ring.release()
            self.malformed["ring"] += ring.displaced
            ring.displaced = 0
        bounds = [ring.producer() for ring in reversed(self.rings)]
        found: list[list[bytes]] = []
        self.backlog = False
        for index, (ring, bound) in enumerate(zip(self.rings, reversed(bounds), strict=True)):
            # Never cut the process ring short: later records of the others may need what is in it.
            raw = self._read(ring, bound, BATCH if index else 1 << 30)
            self.backlog |= bool(index) and len(raw) == BATCH
            found.append(raw)
        return found

    def _read(self, ring: Ring, bound: int, limit: int) -> list[bytes]:
        try:
            return ring.read(bound, limit)
        except CorruptRing:
            self.malformed["ring"] += 1
            return []

    def used(self) -> list[int]:
        """Bytes waiting in each ring."""
        return [ring.pending() for ring in self.rings]


class KernelCounters:
    """The probes' own counts, read by mmap: no system call, no privilege. Sums over processors."""

    def __init__(self, fd: int, cpus: int) -> None:
        size = -(-cpus * TYPES * COUNTER_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(self._map).cast("Q")
        self._cpus = cpus

    def read(self) -> dict[str, dict[str, int]]:
        """Event name -> {"emitted", "lost", "filtered", "nested", "throttled"}. Lost is part of emitted."""
        words, result = self._words, {}
        stride = COUNTER_BYTES // 8
        for number, name in _KERNEL_EVENTS:
            rows = range(number * stride, self._cpus * TYPES * stride, TYPES * stride)
            result[name] = {"emitted": sum(words[row] for row in rows),
                            "lost": sum(words[row + 1] for row in rows),
                            "filtered": sum(words[row + 2] for row in rows),
                            "nested": sum(words[row + 3] for row in rows),
                            "throttled": sum(words[row + 4] for row in rows)}
        return result

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
