"""What user space makes of the kernel's buckets."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from sensor.kernel.hooks import FAMILIES
from sensor.kernel.plan import BUDGET_BYTES, BUDGET_SHARDS, BUDGETS
from sensor.kernel.throttles import QUIET_NS, Change, Throttles

SECOND = 1_000_000_000
FILE = next(place for place, family in enumerate(FAMILIES) if family.name == "file")


class Buckets:
    """A map as the kernel has it: struct budget of probes/common.h."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("budgets")
        os.ftruncate(self.fd, BUDGETS * BUDGET_BYTES)

    def set(self, place: int, throttled: int, cgroup: int, family: int = FILE, shard: int = 0) -> None:
        os.pwrite(self.fd, struct.pack("<QQQQII", 5, 6, 7, cgroup, 1, family), place * BUDGET_BYTES)
        os.pwrite(self.fd, struct.pack("<Q", throttled), place * BUDGET_BYTES + 64 * (1 + shard))


@pytest.fixture
def buckets() -> Iterator[Buckets]:
    made = Buckets()
    yield made
    os.close(made.fd)


def test_beginning_and_end_are_told_once_and_bursts_are_one(buckets: Buckets) -> None:
    """The end has the count of all of it."""
    throttles = Throttles(buckets.fd)
    assert throttles.look(0) == []
    buckets.set(9, 100, 4711)
    assert throttles.look(SECOND) == [Change("began", 4711, "file", 100)]
    buckets.set(9, 150, 4711)
    assert throttles.look(SECOND * 5) == []
    assert throttles.throttled == 1
    assert throttles.look(SECOND * 5 + QUIET_NS - 1) == []
    assert throttles.look(SECOND * 5 + QUIET_NS) == [Change("ended", 4711, "file", 150)]
    assert throttles.throttled == 0
    throttles.close()


def test_what_was_dropped_before_an_engine_began_is_not_told_again(buckets: Buckets) -> None:
    """A restarted engine joins in the middle."""
    buckets.set(0, 100, 1)
    throttles = Throttles(buckets.fd)
    assert throttles.look(SECOND) == []
    buckets.set(0, 101, 1)
    assert throttles.look(2 * SECOND) == [Change("began", 1, "file", 1)]
    throttles.close()


def test_two_families_of_one_control_group_are_two(buckets: Buckets) -> None:
    """Each has a budget of its own. A number that is no family's has no name, and is told all the same."""
    throttles = Throttles(buckets.fd)
    buckets.set(1, 1, 8)
    buckets.set(BUDGETS - 1, 2, 8, family=FILE + 1)
    buckets.set(2, 3, 8, family=999)
    assert {(change.family, change.count) for change in throttles.look(SECOND)} == {
        ("file", 1), (FAMILIES[FILE + 1].name, 2), ("", 3)}
    throttles.close()


def test_what_processors_count_apart_is_one_sum(buckets: Buckets) -> None:
    """Each of them has a line of the cache, or shares it with few."""
    throttles = Throttles(buckets.fd)
    for shard in range(BUDGET_SHARDS):
        buckets.set(3, 10 ** shard, 8, shard=shard)
    assert throttles.look(SECOND) == [Change("began", 8, "file", 11_111_111)]
    throttles.close()


def test_what_is_kept_is_bounded_by_the_buckets(buckets: Buckets) -> None:
    """All of them throttle another control group every second: none is kept longer than its quiet time."""
    throttles = Throttles(buckets.fd)
    for second in range(1, 40):
        for place in range(0, BUDGETS, 64):
            buckets.set(place, second, second * BUDGETS + place)
        throttles.look(second * SECOND)
        assert throttles.throttled <= BUDGETS // 64 * (QUIET_NS // SECOND)
    throttles.close()
