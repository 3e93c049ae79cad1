"""Accounts of sequence numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.sequences import GAPS_MAX, SETTLE_NS, Sequences

LATER = 10 * SETTLE_NS


def feed(numbers: list[int], **more: int) -> Sequences:
    """Numbers of one stream, one after the other."""
    made = Sequences(**more)
    for number in numbers:
        made.saw(0, 0, number)
    return made


def told(made: Sequences) -> list[tuple[int, int, int]]:
    """What is reported as lost: first, last, count."""
    return [(gap.first, gap.last, gap.count) for gap in made.settled(LATER, final=True)]


@pytest.mark.contract("loss-2")
def test_gap_is_told_once_with_its_exact_ends() -> None:
    """From, to and count, and never again."""
    made = feed([0, 1, 5, 6, 9])
    assert told(made) == [(2, 4, 3), (7, 8, 2)]
    assert told(made) == []


def test_gap_is_not_believed_before_it_has_settled() -> None:
    """A record may be overtaken by the interrupt that came between its number and its space."""
    made = feed([0, 2])
    assert made.settled(LATER) == []
    assert made.settled(LATER + SETTLE_NS - 1) == []
    assert made.missing() == 1
    made.saw(0, 0, 1)
    assert told(made) == []
    assert made.missing() == 0
    assert (made.reordered, made.repeated) == (1, 0)


def test_late_record_in_the_middle_splits_the_gap() -> None:
    """The rest is still missing."""
    assert told(feed([0, 10, 5])) == [(1, 4, 4), (6, 9, 4)]


def test_repeated_number_is_counted_and_loses_nothing() -> None:
    """Twice the same record is an error of ours or a lie; it fills no gap."""
    made = feed([0, 1, 1, 2, 0])
    assert made.repeated == 2
    assert told(made) == []


def test_streams_of_rings_and_processors_are_apart() -> None:
    """Each has numbers of its own."""
    made = Sequences()
    for ring, cpu in ((0, 0), (0, 1), (1, 0)):
        made.saw(ring, cpu, 7)
        made.saw(ring, cpu, 8 + cpu)
    assert [(gap.ring, gap.cpu) for gap in made.settled(LATER, final=True)] == [(0, 1)]


def test_known_beginning_shows_loss_before_the_first_record() -> None:
    """New rings count from a known number; one that is joined in the middle does not."""
    assert told(feed([3, 4], first=0)) == [(0, 2, 3)]
    assert told(feed([3, 4])) == []


def test_flood_of_gaps_is_joined_with_its_exact_count() -> None:
    """Memory is bounded; what is lost is still known to the last record."""
    made = feed(list(range(0, 1000, 2)))
    gaps = told(made)
    assert len(gaps) == GAPS_MAX
    assert sum(count for _first, _last, count in gaps) == 499
    assert gaps[-1][:2] == (127, 997)


@given(st.lists(st.booleans(), min_size=1, max_size=400), st.lists(st.integers(0, 398), max_size=20))
@pytest.mark.contract("loss-2")
def test_lost_is_exactly_what_did_not_arrive(arrives: list[bool], swaps: list[int]) -> None:
    """However many are lost and swapped with a neighbour: received + lost = sent, from the first to the last."""
    numbers = [number for number, here in enumerate(arrives) if here]
    for at in swaps:
        if at + 1 < len(numbers):
            numbers[at], numbers[at + 1] = numbers[at + 1], numbers[at]
    made = feed(numbers, first=0)
    missing = made.missing()
    gaps = told(made)
    assert missing == sum(count for _first, _last, count in gaps)
    highest = max(numbers, default=-1)
    assert sum(count for _first, _last, count in gaps) == highest + 1 - len(numbers)
    assert made.repeated == 0
    if len(gaps) < GAPS_MAX:
        lost = {number for first, last, _count in gaps for number in range(first, last + 1)}
        assert lost == set(range(highest + 1)) - set(numbers)
