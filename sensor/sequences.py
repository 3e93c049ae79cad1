"""Accounts of sequence numbers: which records never arrived.

Every record has a number, per ring and processor, taken before the kernel asks the ring for space:
a record for which there was none leaves a gap. Records of one processor can change places by a few
(the program was interrupted between taking its number and its space), so a gap is only believed
once it is a little older.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Far longer than a probe runs, interrupted or not; still well within the second in which a loss is told.
SETTLE_NS = 100_000_000
# Gaps remembered one by one for each ring and processor; beyond it the last grows, with its exact count.
GAPS_MAX = 64


@dataclass(slots=True)
class Gap:
    """Missing numbers *first* to *last*; *count* is less than the span where gaps were joined."""

    ring: int
    cpu: int
    first: int
    last: int
    count: int
    seen_ns: int = -1  # when it was first looked at; not yet: -1


@dataclass(slots=True)
class _Stream:
    last: int
    gaps: list[Gap] = field(default_factory=list)


class Sequences:
    """Follows the numbers of all rings and processors."""

    __slots__ = ("_first", "_open", "_streams", "reordered", "repeated")

    def __init__(self, first: int | None = None) -> None:
        """*first*: the number that every stream begins with; None where one joins in the middle."""
        self._first = first
        self._streams: dict[tuple[int, int], _Stream] = {}
        self._open = 0  # gaps not yet told, of all streams
        self.reordered = 0  # arrived after a later one
        self.repeated = 0  # not missing: seen twice, or already told as lost

    @property
    def begins(self) -> bool:
        """Whether the streams were joined at their first number."""
        return self._first is not None

    def missing(self) -> int:
        """Numbers missing in gaps that are not told yet."""
        if not self._open:
            return 0
        return sum(gap.count for stream in self._streams.values() for gap in stream.gaps)

    def saw(self, ring: int, cpu: int, seq: int) -> None:
        """Take in the number of one record that arrived."""
        stream = self._streams.get((ring, cpu))
        if stream is None:
            first = seq if self._first is None else self._first
            stream = self._streams[ring, cpu] = _Stream(first - 1)
        expected = stream.last + 1
        if seq == expected:
            stream.last = seq
        elif seq > expected:
            self._open_gap(stream, Gap(ring, cpu, expected, seq - 1, seq - expected))
            stream.last = seq
        else:
            self._late(stream, seq)

    def expected(self, ring: int, cpu: int) -> int:
        """The number that should come next, of a stream that was seen."""
        return self._streams[ring, cpu].last + 1

    def resume(self, ring: int, cpu: int, expected: int) -> None:
        """Somebody else saw every number of a stream up to *expected*."""
        self._streams[ring, cpu].last = expected - 1

    def settled(self, now_ns: int, *, final: bool = False) -> list[Gap]:
        """Gaps that no late record will fill any more, each given once; in order of their streams.

        A gap settles by the time of these calls, not by that of its records: with a backlog, records
        are old when they are read, and the one that fills the gap is in the next batch all the same.
        *final*: nothing comes any more, so all gaps are settled.
        """
        if not self._open:
            return []
        found: list[Gap] = []
        for stream in self._streams.values():
            waiting: list[Gap] = []
            for gap in stream.gaps:
                if gap.seen_ns < 0:
                    gap.seen_ns = now_ns
                (found if final or now_ns - gap.seen_ns >= SETTLE_NS else waiting).append(gap)
            stream.gaps = waiting
        self._open -= len(found)
        return found

    def _open_gap(self, stream: _Stream, gap: Gap) -> None:
        if len(stream.gaps) < GAPS_MAX:
            stream.gaps.append(gap)
            self._open += 1
            return
        joined = stream.gaps[-1]
        joined.last = gap.last
        joined.count += gap.count

    def _late(self, stream: _Stream, seq: int) -> None:
        for index, gap in enumerate(stream.gaps):
            if not gap.first <= seq <= gap.last:
                continue
            self.reordered += 1
            if gap.count < gap.last - gap.first + 1:  # joined: which ones are missing is not known
                gap.count -= 1
                rest = [gap] if gap.count else []
            else:
                parts = ((gap.first, seq - 1), (seq + 1, gap.last))
                rest = [Gap(gap.ring, gap.cpu, low, high, high - low + 1, gap.seen_ns)
                        for low, high in parts if low <= high]
            stream.gaps[index:index + 1] = rest
            self._open += len(rest) - 1
            return
        self.repeated += 1
