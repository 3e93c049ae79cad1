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
    assert control.kind_of(data) in (b"", control.MAGIC_READY, control.MAGIC_BEAT, control.MAGIC_VERDICT)
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


@given(st.binary(min_size=32, max_size=32), st.sampled_from(control.VERDICTS))
def test_a_verdict_reads_back_as_it_was_written(release: bytes, reason: str) -> None:
    """The id of a release, and one of the reasons."""
    data = control.verdict(release.hex(), reason)
    assert control.parse_verdict(data) == control.Verdict(release.hex(), reason)


@given(st.binary(max_size=40), st.sampled_from([b"", b"SVER", b"SRDY", b"SBEA", b"SPLN"]))
def test_a_damaged_verdict_is_none_or_one_of_the_reasons(data: bytes, magic: bytes) -> None:
    """A number without a reason is no verdict."""
    found = control.parse_verdict(magic + data)
    assert found is None or (found.reason in control.VERDICTS and len(found.release) == 64)


@given(st.lists(st.floats(0, 10, allow_nan=False), max_size=300).map(sorted))
def test_no_second_has_more_requests_than_are_looked_at(times: list[float]) -> None:
    """Up to the limit each is taken, beyond it each is counted, and the next second begins anew."""
    pace = control.Pace()
    taken = [int(at) for at in times if pace.take(at)]
    came = [int(at) for at in times]
    assert all(taken.count(second) == min(came.count(second), control.REQUESTS_PER_SECOND) for second in {*came})
    assert pace.dropped == len(came) - len(taken)
