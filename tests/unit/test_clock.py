"""The clock of the day is set, by years, forward or back: nothing goes blind, nothing waits, nothing is forgotten."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest

from sensor import control, guard
from sensor import engine as engines
from sensor.boottime import BootClock
from sensor.engine import Engine
from sensor.record import ZstdLines, header
from sensor.rules.correlation import Correlator
from sensor.rules.eventtime import time_ns
from sensor.sequences import Sequences
from tests.unit.correlation_helpers import SECOND, Event, feed, loaded, plain, text
from tests.unit.output_samples import event
from tests.unit.test_engine import started, write

YEARS = 10 * 365 * 86400
JUMPS = (YEARS, -YEARS, 3600, -3600)


def later(events: list[Event], seconds: int) -> list[Event]:
    return [each._replace(at=each.at + seconds) for each in events]


@pytest.mark.hostile("clock")
@pytest.mark.parametrize("jump", JUMPS)
def test_a_window_goes_on_over_a_clock_that_was_set(tmp_path: Path, jump: int) -> None:
    """Two of three events before, the third after: the same alert as with a clock that nobody touched."""
    rules = loaded(tmp_path, text("event_count", "{gte: 3}"))
    events = [Event(0, "1"), Event(4, "2"), Event(8, "3")]
    correlator = Correlator(rules.correlations)
    assert feed(correlator, rules.rules, events[:2]) == []
    correlator.shift(jump * SECOND)
    (firing,) = feed(correlator, rules.rules, later(events[2:], jump))
    assert plain([firing]) == [("g", jump, ("1", "2", "3"))]


@pytest.mark.hostile("clock")
@pytest.mark.parametrize("jump", JUMPS)
def test_a_window_that_waits_for_its_end_is_judged_after_a_clock_that_was_set(tmp_path: Path, jump: int) -> None:
    """A count that more events undo, whose time is over only after the jump."""
    rules = loaded(tmp_path, text("event_count", "{eq: 2}"))
    correlator = Correlator(rules.correlations)
    assert feed(correlator, rules.rules, [Event(0, "1"), Event(4, "2")]) == []
    correlator.shift(jump * SECOND)
    found = feed(correlator, rules.rules, later([Event(60, "3", group="other")], jump))
    assert plain(found) == [("g", jump, ("1", "2"))]
    assert correlator.counters.dropped["late"] == 0


@pytest.mark.hostile("clock")
def test_a_clock_put_back_does_not_make_events_late(tmp_path: Path) -> None:
    """Forward by mistake, an event, and back again: without the shift all correlations would wait ten years."""
    rules = loaded(tmp_path, text("event_count", "{eq: 2}"), text("event_count", "{gte: 2}", number=1))
    correlator = Correlator(rules.correlations)
    correlator.shift(YEARS * SECOND)
    feed(correlator, rules.rules, [Event(YEARS, "1", group="x")])
    correlator.shift(-YEARS * SECOND)
    found = feed(correlator, rules.rules, [Event(100, "2"), Event(101, "3"), Event(200, "4", group="y")])
    assert plain(found) == [("g", 100, ("2", "3")), ("g", 100, ("2", "3"))]
    assert correlator.counters.dropped["late"] == 0


def test_only_a_step_of_the_clock_is_one() -> None:
    """Keeping time moves it by less; many small moves that add up to a second are told once."""
    clock = BootClock(5 * SECOND)
    assert clock.set(5 * SECOND + 1000) == 0
    assert clock.set(-YEARS * SECOND) == -YEARS * SECOND - 5 * SECOND
    assert clock.set(-YEARS * SECOND) == 0
    assert [clock.set(-YEARS * SECOND + part * SECOND // 4) for part in range(1, 6)] == [0, 0, 0, SECOND, 0]


@pytest.mark.hostile("clock")
def test_the_engine_moves_what_it_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second of the step, and once."""
    rules = tmp_path / "rules"
    rules.mkdir()
    write(rules, 1, "first")
    shifted: list[int] = []
    with started(rules) as made:
        begin(made)
        assert made._pipeline is not None
        correlator = Correlator(())
        monkeypatch.setattr(made._pipeline, "correlator", correlator)
        monkeypatch.setattr(correlator, "shift", shifted.append)
        real = engines.wall_offset_ns()
        made._second()
        monkeypatch.setattr(engines, "wall_offset_ns", lambda: real - YEARS * SECOND)
        made._second()
        made._second()
    (step,) = shifted
    assert abs(step + YEARS * SECOND) < 3600 * SECOND


def begin(made: Engine) -> None:
    """Without probes: a pipeline, and nothing to read."""
    made._begin({"restarts": 0, "generation": 1, "passive": {"lack": "btf", "reason": "", "fix": ""}, "drills": []}, [])


@pytest.mark.hostile("clock")
def test_times_before_1970_and_after_9999_are_texts(tmp_path: Path) -> None:
    """Of a clock that somebody has ruined; ordering is by number, and no event is lost for it."""
    for offset in (-YEARS * 10, 0, 300_000_000_000):
        assert isinstance(time_ns(BootClock(offset * SECOND).text(SECOND)), int)


@pytest.mark.hostile("clock")
def test_a_recording_is_written_on_though_the_clock_was_put_back(tmp_path: Path) -> None:
    """A frame's age is no matter of the day."""
    day, uptime = [1e9], [0.0]
    path = tmp_path / "r.jsonl.zst"
    recorder = ZstdLines(io.FileIO(path, "w"), header(), clock=lambda: day[0], monotonic=lambda: uptime[0])
    recorder.write(event(1))
    day[0], uptime[0] = 1e9 - YEARS, 5.0
    recorder.flush()
    assert path.stat().st_size > 0
    recorder.close()


@pytest.mark.hostile("clock")
def test_programs_loaded_under_a_clock_put_back_are_remembered() -> None:
    """Else no crash of theirs could be attributed, once the list is full of later ones."""
    state = guard.remember(guard.State(), {f"{number:016x}": "p" for number in range(1024)}, "1", 2e9)
    state = guard.remember(state, {"new": "q"}, "1", 1e9)
    assert "new" in state.programs and len(state.programs) == 1024


@pytest.mark.hostile("clock", "suspend")
def test_gaps_are_found_by_numbers_whatever_the_clock() -> None:
    """Sequences know no time but the one that they are given: that of the boot."""
    sequences = Sequences(0)
    for number in (0, 1, 4):
        sequences.saw(0, 0, number)
    assert sequences.missing() == 2


@pytest.mark.hostile("restart")
def test_a_supervisor_that_does_not_read_holds_no_engine_up(tmp_path: Path) -> None:
    """Beats meet a full channel: they are left out, and the next ones go through."""
    write(tmp_path, 1, "first")
    with started(tmp_path) as made:
        made._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for _ in range(500):  # nobody reads
            made._second()
        assert control.kind_of(made.theirs.recv(100)) == control.MAGIC_BEAT  # type: ignore[attr-defined]
        made._second()
