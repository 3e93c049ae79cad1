"""The ring reader, against a ring made by hand in a memory file."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.kernel.ring import CorruptRing, Ring, positions

PAGE = mmap.PAGESIZE
SIZE = PAGE


class HandMadeRing:
    """Lays out consumer page, producer page and data as the kernel maps them (the second copy by hand)."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.position = 0

    def _write(self, offset: int, data: bytes) -> None:
        for index, byte in enumerate(data):
            place = (offset + index) % SIZE
            for copy in (0, SIZE):
                os.pwrite(self.fd, bytes([byte]), 2 * PAGE + copy + place)

    def put(self, data: bytes, flags: int = 0) -> None:
        """Add a record as bpf_ringbuf_output does."""
        self._write(self.position, struct.pack("<II", len(data) | flags, 0) + data)
        self.position += (len(data) + 8 + 7) & ~7
        os.pwrite(self.fd, struct.pack("<Q", self.position), PAGE)

    def consumed(self) -> int:
        """The reader's position."""
        return int(struct.unpack("<Q", os.pread(self.fd, 8, 0))[0])


@pytest.fixture
def made() -> Iterator[HandMadeRing]:
    """One empty ring."""
    ring = HandMadeRing()
    yield ring
    os.close(ring.fd)


def test_records_come_in_order_and_free_their_space(made: HandMadeRing) -> None:
    """What was written is read once, and the position moves behind it."""
    ring = Ring(made.fd, SIZE)
    made.put(b"one")
    made.put(b"twotwotwo")
    assert ring.read(ring.producer(), 100) == [b"one", b"twotwotwo"]
    assert made.consumed() == 0
    ring.release()
    assert made.consumed() == made.position
    assert ring.pending() == 0
    assert ring.read(ring.producer(), 100) == []
    ring.close()


def test_a_watcher_sees_both_positions_and_changes_nothing(made: HandMadeRing) -> None:
    """The reader's first; they meet once everything is read and released."""
    ring = Ring(made.fd, SIZE)
    assert positions(made.fd) == (0, 0)
    made.put(b"one")
    ring.read(ring.producer(), 100)
    assert positions(made.fd) == (0, made.position)
    ring.release()
    assert positions(made.fd) == (made.position, made.position)
    ring.close()
    with pytest.raises(OSError, match="descriptor"):
        positions(-2)


def test_what_was_read_and_not_released_is_there_for_the_next_reader(made: HandMadeRing) -> None:
    """An engine that dies over a batch loses none of it."""
    first = Ring(made.fd, SIZE)
    made.put(b"one")
    assert first.read(first.producer(), 100) == [b"one"]
    first.close()
    second = Ring(made.fd, SIZE)
    assert second.read(second.producer(), 100) == [b"one"]
    second.close()


def test_an_unfinished_record_stops_the_reader(made: HandMadeRing) -> None:
    """A record that its producer still writes is left, and everything behind it too."""
    ring = Ring(made.fd, SIZE)
    made.put(b"one")
    made.put(b"busy", flags=1 << 31)
    made.put(b"three")
    assert ring.read(ring.producer(), 100) == [b"one"]
    ring.release()
    assert made.consumed() == 16
    ring.close()


def test_discarded_records_are_skipped(made: HandMadeRing) -> None:
    """A record that its producer took back is freed, not given out."""
    ring = Ring(made.fd, SIZE)
    made.put(b"gone", flags=1 << 30)
    made.put(b"kept")
    assert ring.read(ring.producer(), 100) == [b"kept"]
    ring.close()


@pytest.mark.hostile("malformed-record")
def test_an_impossible_length_is_reported_and_passed(made: HandMadeRing) -> None:
    """A corrupt ring costs what was claimed, and reading goes on behind it."""
    ring = Ring(made.fd, SIZE)
    made.put(b"good")
    os.pwrite(made.fd, struct.pack("<I", 5000), 2 * PAGE)
    with pytest.raises(CorruptRing):
        ring.read(ring.producer(), 100)
    made.put(b"next")
    assert ring.read(ring.producer(), 100) == [b"next"]
    ring.close()


@pytest.mark.hostile("root-tampers")
@pytest.mark.parametrize("position", [0, 8, 1 << 20, (1 << 64) - 8, 13])
def test_a_position_that_somebody_moved_is_counted_and_set_right(made: HandMadeRing, position: int) -> None:
    """The reader knows by itself how far it is."""
    ring = Ring(made.fd, SIZE)
    made.put(b"one")
    assert ring.read(ring.producer(), 100) == [b"one"]
    ring.release()
    assert ring.displaced == 0
    made.put(b"two")
    os.pwrite(made.fd, struct.pack("<Q", position), 0)
    assert ring.read(ring.producer(), 100) == [b"two"]
    ring.release()
    assert (ring.displaced, made.consumed()) == (1, made.position)
    ring.release()
    assert ring.displaced == 1
    ring.close()


@pytest.mark.hostile("root-tampers")
@pytest.mark.parametrize("position", [1 << 20, (1 << 64) - 8, 13, (1 << 64) - 2 * SIZE])
def test_a_reader_that_comes_to_an_impossible_position_begins_behind_it(made: HandMadeRing, position: int) -> None:
    """It would wait for ever: what is there is given up, and its numbers tell that it is missing."""
    made.put(b"lost")
    os.pwrite(made.fd, struct.pack("<Q", position), 0)
    ring = Ring(made.fd, SIZE)
    assert ring.displaced == 1
    assert ring.read(ring.producer(), 100) == []
    ring.release()
    assert (ring.displaced, made.consumed()) == (1, made.position)
    made.put(b"next")
    assert ring.read(ring.producer(), 100) == [b"next"]
    ring.close()


def test_bound_and_limit_are_kept(made: HandMadeRing) -> None:
    """A reader stops at the position and at the number it was given."""
    ring = Ring(made.fd, SIZE)
    made.put(b"a")
    bound = ring.producer()
    made.put(b"b")
    assert ring.read(bound, 100) == [b"a"]
    made.put(b"c")
    assert ring.read(ring.producer(), 1) == [b"b"]
    ring.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=6), max_size=12))
@pytest.mark.contract("loss-1")
def test_any_sequence_survives_the_wrap(rounds: list[list[bytes]]) -> None:
    """Whatever sizes come, in whatever bursts, all records are read once and in order."""
    made = HandMadeRing()
    ring = Ring(made.fd, SIZE)
    for burst in rounds:
        for data in burst:
            made.put(data)
        assert ring.read(ring.producer(), 1000) == burst
        ring.release()
    ring.close()
    os.close(made.fd)
