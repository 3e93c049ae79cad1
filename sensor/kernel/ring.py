"""Reads a BPF ring buffer by mmap on its file descriptor. Needs no privilege and no libbpf.

The consumer's position is on a page of its own, the producer's on the next, then the data,
mapped twice in a row by the kernel so that no record is ever split.

Source: kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import mmap

_BUSY = 1 << 31  # reserved by a producer that has not finished
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1
_HEADER = 8


class Ring:
    """One ring buffer.

    Args:
        fd: The map's descriptor; stays the caller's.
        size: Bytes of data, a power of two times the page size, as the map was made.
    """

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self.fd, self.size = fd, size
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer_map = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Invariant: positions are only touched as one aligned 8-byte word. struct.pack_into
        # zeroes the field first, and the kernel then sees a full ring.
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._producer = memoryview(self._producer_map)[:8].cast("Q")
        self._data = memoryview(self._producer_map)[page:]
        self._words = self._data.cast("I")
        self._position = self._consumer[0]  # read up to here; freed up to the consumer's position
        self.displaced = 0  # times that somebody else had moved the consumer's position: root can map it, too
        if self._position & 7 or not 0 <= self.pending() <= size:
            self._position = self._producer[0]
            self.displaced = 1
        self._freed = self._consumer[0]

    def pending(self) -> int:
        """Bytes that producers have claimed and nobody has read."""
        return int(self._producer[0] - self._position)

    def producer(self) -> int:
        """The producers' position now: a bound for :meth:`read`."""
        return int(self._producer[0])

    def read(self, until: int, limit: int) -> list[bytes]:
        """Copy out the finished records before position *until*, at most *limit*.

        Their space is freed by :meth:`release`: whoever dies before it leaves them to the next reader.
        Stops at the first record that a producer has not finished. A length that can't be
        (beyond the claimed bytes) can only come from a corrupt ring; everything claimed is
        then given back and :class:`CorruptRing` raised, so that reading goes on behind it.
        """
        position, words, data, mask = self._position, self._words, self._data, self.size - 1
        records: list[bytes] = []
        until = min(until, self._producer[0])
        while position < until and len(records) < limit:
            offset = position & mask
            word = words[offset >> 2]
            if word & _BUSY:
                break
            length = word & _LENGTH
            if length > until - position:
                self._position = until
                raise CorruptRing(f"record of {length} bytes with {until - position} claimed")
            if not word & _DISCARD:
                records.append(bytes(data[offset + _HEADER:offset + _HEADER + length]))
            position += (length + _HEADER + 7) & ~7
        self._position = position
        return records

    def release(self) -> None:
        """Free the space of all that was read. Where the position was moved, it is set right by that."""
        if self._consumer[0] != self._freed:
            self.displaced += 1
        self._consumer[0] = self._freed = self._position

    def close(self) -> None:
        """Unmap the pages."""
        for view in (self._words, self._data, self._producer, self._consumer):
            view.release()
        self._producer_map.close()
        self._consumer_map.close()


def positions(fd: int) -> tuple[int, int]:
    """The consumer's position, then the producers', in bytes, for whoever only watches.

    Nothing stays mapped: a page that is would keep the ring in the kernel. Raises OSError.
    """
    page = mmap.PAGESIZE
    with mmap.mmap(fd, 2 * page, mmap.MAP_SHARED, mmap.PROT_READ) as pages, memoryview(pages).cast("Q") as words:
        return words[0], words[page // 8]  # in this order: the reader never seems to be ahead


class CorruptRing(Exception):
    """The ring's framing makes no sense; what was claimed is skipped."""
