"""Requests of the engine are hostile until checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import control
from sensor.errors import UsageError

REQUEST = control.Request((1 << 20, 8 << 20), 32 << 20, ("process", "syscall", "file"),
                          ((b"shadow", 1), (b".ssh", 2)), ("/etc/shadow", "/home/*/.ssh/*"),
                          ((10, "syscall"), (24, "off")), control.Bounds(2_500, 900, 20_000))


def test_a_plan_reads_back_as_it_was_written() -> None:
    """Nothing is lost between engine and supervisor."""
    assert control.parse_request(REQUEST.pack()) == REQUEST
    assert control.kind_of(REQUEST.pack()) == control.MAGIC_PLAN


@given(st.binary(max_size=200))
@pytest.mark.hostile("hostile-control")
def test_short_garbage_is_no_message(data: bytes) -> None:
    """Only exact sizes with a known magic are messages."""
    assert control.kind_of(data) in (b"", control.MAGIC_READY, control.MAGIC_BEAT)
    with pytest.raises(UsageError):
        control.parse_request(data)


@given(st.lists(st.tuples(st.integers(4, control.PLAN_BYTES - 1), st.integers(0, 255)), max_size=20))
@pytest.mark.hostile("hostile-control")
def test_a_damaged_plan_is_refused_or_within_bounds(damage: list[tuple[int, int]]) -> None:
    """Whatever the engine writes, what comes out is within the fixed bounds."""
    data = bytearray(REQUEST.pack())
    for position, value in damage:
        data[position] = value
    try:
        request = control.parse_request(bytes(data))
    except UsageError:
        return
    assert len(request.names) <= control.MAX_WATCH and len(request.patterns) <= control.MAX_WATCH
    assert all(0 < len(name) <= control.NAME_BYTES for name, _ in request.names)
    assert all(pattern.startswith("/") for pattern in request.patterns)
    assert max(request.bounds.kernel_ppm, request.bounds.program_ns, request.bounds.cgroup_events) <= control.BOUND_MAX


def test_too_many_names_are_said_to_be_too_many() -> None:
    """The kernel's filter has a bound, and the message names the setting."""
    names = tuple((b"n%d" % number, 1) for number in range(control.MAX_WATCH + 1))
    with pytest.raises(UsageError, match=r"watch\.paths"):
        control.Request((4096, 4096), 1 << 20, ("process",), names).pack()


def test_names_longer_than_the_kernel_compares_are_cut_alike() -> None:
    """Two names with the same first 31 bytes are one entry."""
    entries = control.watch_entries(["x" * 40], ["x" * 50])
    assert entries == ((b"x" * 31, control.WATCH_LEAF | control.WATCH_PARENT),)
