"""What the kernel's counts, canaries and rings mean: any rise since the baseline, two misses in a row, a minute."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import health
from sensor.health import Canaries, Finding, Reading, Standstill, cpu_list, show_list
from sensor.kernel.preflight import LACKS

WELL = Reading(0, 3, 0)


def fake(root: Path, **texts: str) -> Path:
    """A root directory with these files of /proc and /sys."""
    for name, text in texts.items():
        folder = root / ("proc/sys/kernel" if name == "tainted" else "sys/kernel")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return root


def test_the_counts_are_read_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    """Kernels before 6.2 have only the taint; one that hides everything leaves the canaries."""
    assert health.read(fake(tmp_path, oops_count="1\n", warn_count="22\n", tainted="512\n")) == Reading(1, 22, 512)
    assert health.read(tmp_path).blind == ""
    old = health.read(fake(tmp_path / "old", tainted="0\n"))
    assert old == Reading(None, None, 0)
    assert "only the first taint" in old.blind
    assert "only canaries" in health.read(tmp_path / "nothing").blind


@given(st.binary(max_size=80))
def test_no_content_of_these_files_stops_the_supervisor(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """A number of decimal digits, or nothing."""
    root = tmp_path_factory.getbasetemp() / "any"
    fake(root, oops_count="", tainted="0")
    (root / "sys/kernel/oops_count").write_bytes(data)
    found = health.read(root).oopses
    assert found is None or found >= 0


@pytest.mark.contract("panic-9")
@pytest.mark.parametrize(("now", "reason"), [
    (Reading(1, 3, 0), "oops"), (Reading(0, 4, 0), "warning"), (Reading(1, 4, 1 << 7), "oops"),
    (Reading(0, 3, 1 << 7), "taint"), (Reading(0, 3, 1 << 9), "taint"), (Reading(0, 3, 1 << 14), "taint")])
def test_any_rise_since_the_baseline_is_found(now: Reading, reason: str) -> None:
    """The worst of it names the reason, which is a metric's label and leads to a declared lack."""
    found = health.rise(WELL, now)
    assert found is not None
    assert found.reason == reason
    assert found.reason in health.REASONS
    assert found.lack in LACKS


@pytest.mark.parametrize(("before", "now"), [
    (WELL, WELL), (Reading(5, 3, 1 << 7 | 1 << 9), Reading(5, 3, 1 << 7 | 1 << 9)),  # others did that, before us
    (WELL, Reading(0, 0, 0)),  # warn_count can be reset
    (WELL, Reading(0, 3, 1 << 12 | 1 << 13)),  # a module that was built elsewhere
    (Reading(), Reading()), (Reading(None, None, 0), Reading(1, 1, 0))])
def test_what_was_there_before_or_is_no_fault_is_no_rise(before: Reading, now: Reading) -> None:
    """Only what came since counts, and only bits 7, 9 and 14."""
    assert health.rise(before, now) is None


@given(st.frozensets(st.integers(0, 8191), max_size=60))
def test_lists_of_processors_read_back(cpus: frozenset[int]) -> None:
    """As the kernel writes them."""
    assert cpu_list(show_list(cpus)) == cpus


@given(st.text(max_size=60))
def test_no_list_of_processors_costs_more_than_all_of_them(text: str) -> None:
    """Whatever the file says."""
    assert all(0 <= cpu < 8192 for cpu in cpu_list(text))


@pytest.mark.contract("panic-9")
def test_two_canaries_in_a_row_that_are_missing_are_found_and_one_is_not() -> None:
    """On the same processor; one that comes back in between begins the count anew."""
    canaries = Canaries()
    assert canaries.take({0}, {1: "exit"}, ()) is None
    assert canaries.take({0, 1}, {}, ()) is None
    assert canaries.take({1}, {0: "exit"}, ()) is None
    assert canaries.take({0}, {1: "exit"}, ()) is None
    found = canaries.take({0}, {1: "exit, system call"}, ())
    assert found is not None
    assert "processor 1" in found.detail
    assert "exit, system call" in found.detail
    assert canaries.totals == {"seen": 6, "missing": 4, "late": 0}


def test_a_processor_without_time_is_not_one_without_probes() -> None:
    """Late says nothing, however often; nor does what was missing before the processor went away."""
    canaries = Canaries()
    for _ in range(5):
        assert canaries.take({0}, {}, {1}) is None
    assert canaries.take({0}, {1: "exit"}, ()) is None
    canaries.forget({0})
    assert canaries.take({0}, {1: "exit"}, ()) is None


@pytest.mark.contract("panic-11")
def test_a_ring_that_is_not_read_for_a_minute_is_found() -> None:
    """Not one that is empty, nor one that moves, nor one for which nobody was there to read it."""
    ring = Standstill("process")
    assert ring.take(0, 0, 0.0) is None
    assert ring.take(0, 0, 500.0) is None
    assert ring.take(0, 64, 510.0) is None
    assert ring.take(8, 64, 565.0) is None
    assert [ring.take(8, 64, now) for now in (575.0, 595.0, 624.0)] == [None] * 3
    found = ring.take(8, 128, 625.0)
    assert found == Finding("ring", "the engine has not read from the process ring for 60 s, 120 bytes are waiting")
    ring.excuse(625.0)
    assert [ring.take(8, 128, now) for now in (635.0, 655.0, 684.0)] == [None] * 3


@pytest.mark.hostile("stopped-sensor", "starvation")
def test_a_ring_that_stood_while_everything_stood_is_not_blamed_on_the_engine() -> None:
    """Supervisor and engine were frozen for an hour: whoever wakes first, the engine gets time to read."""
    ring = Standstill("events")
    assert [ring.take(8, 8, 0.0), ring.take(8, 64, 10.0), ring.take(8, 1 << 20, 3600.0)] == [None] * 3
    assert ring.take(1 << 20, 1 << 20, 3610.0) is None
    assert [ring.take(1 << 20, 2 << 20, 3620.0), ring.take(1 << 20, 2 << 20, 3650.0)] == [None] * 2
    assert ring.take(1 << 20, 2 << 20, 3680.0) is not None
