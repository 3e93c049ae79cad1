"""What the supervisor makes of deaths, verdicts and changes, with a clock of the test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor import control
from sensor.content import state as states
from sensor.content.keeper import DEATH_SECONDS, PROVEN_SECONDS, Keeper
from tests.unit.test_content_state import IDS, proven, staged


class Host:
    """A store, a clock and a keeper on them."""

    def __init__(self, folder: Path) -> None:
        self.store, self.kill_file, self.now, self.said = folder / "store", folder / "kill", 1000.0, list[str]()
        for each in IDS:
            (self.store / "releases" / each).mkdir(parents=True)
        self.keeper: Keeper

    def start(self) -> Host:
        self.keeper = Keeper(str(self.store), self.said.append, str(self.kill_file), lambda: self.now, lambda: self.now)
        return self

    def put(self, state: states.State) -> Host:
        states.write(str(self.store), state)
        return self

    def read(self) -> states.State:
        return states.read(str(self.store))

    def engine(self) -> dict[str, Any]:
        return self._closed(self.keeper.begin())

    def poll(self) -> dict[str, Any] | None:
        changed = self.keeper.changed()
        return None if changed is None else self._closed(changed)

    @staticmethod
    def _closed(given: tuple[str, list[int]]) -> dict[str, Any]:
        for fd in given[1]:
            os.close(fd)
        value: dict[str, Any] = json.loads(given[0])
        return {key: item["id"] if key in ("live", "other") and item else item for key, item in value.items()}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    return Host(tmp_path)


@pytest.mark.parametrize("promotions", [0, 1, 2])
@pytest.mark.contract("content-5")
def test_a_release_that_kills_two_engines_is_gone_from_the_third(host: Host, promotions: int) -> None:
    """In shadow, in canary and as the active one; and the last known good one runs."""
    state = staged(2, proven())
    for _ in range(promotions):
        states.promote(state, 1.0)
    host.put(state).start()
    for _ in range(2):
        chosen = host.engine()
        assert IDS[1] in (chosen["live"], chosen["other"])
        host.now += 5
        assert host.keeper.died(stay=True)
    chosen = host.engine()
    assert (chosen["live"], chosen["other"], chosen["trial"]) == (IDS[0], None, False)
    assert chosen["level"] == "configured"
    assert host.read().bad == {IDS[1]: "crash"}
    assert chosen["rollbacks"] == {"crash": 1}
    assert chosen["notices"][-1]["action"] == "rolled_back"


@pytest.mark.contract("content-5")
def test_a_release_that_takes_the_supervisor_down_too_is_gone_from_the_third_start(host: Host) -> None:
    """Starts are counted on disk before they happen: nobody has to live to tell."""
    host.put(staged(2, proven()))
    for _ in range(2):
        assert host.start().engine()["other"] == IDS[1]
    assert host.start().engine()["other"] is None
    assert host.read().bad == {IDS[1]: "crash"}


def test_clean_stops_and_a_minute_of_life_are_no_failed_trials(host: Host) -> None:
    """Restarting the service three times in a row takes nothing back."""
    host.put(staged(2, proven()))
    for _ in range(4):
        assert host.start().engine()["other"] == IDS[1]
        host.keeper.stopped()
    for _ in range(4):
        assert host.start().engine()["other"] == IDS[1]
        host.now += PROVEN_SECONDS + 1
        assert host.poll() is None


def test_only_starts_and_new_releases_count_as_trials(host: Host) -> None:
    """Whatever else is written to the state meanwhile: refused releases, tidying up."""
    host.put(staged(2, proven())).start()
    host.engine()
    for _ in range(3):
        with states.changing(str(host.store)) as state:
            states.refused(state, None)
        assert host.poll() is None
    assert host.read().trials == 1
    with states.changing(str(host.store)) as state:
        states.promote(state, 1.0)
    assert host.poll() is not None
    assert host.read().trials == 1
    assert host.read().bad == {}


@pytest.mark.contract("content-9")
def test_the_ladder_goes_down_a_step_every_two_deaths_and_ends_at_observing(host: Host) -> None:
    """Last known good, built-in rules, none; then there is nothing left that could help."""
    host.put(proven()).start()
    levels, worth = [], []
    for _ in range(6):
        levels.append(host.engine()["level"])
        worth.append(host.keeper.died(stay=True))
    assert worth == [True] * 5 + [False]
    assert levels == ["configured", "configured", "built-in", "built-in", "observe", "observe"]
    assert host.engine()["level"] == "observe"
    assert host.read().bad == {}  # it was known good: something else may be wrong


def test_deaths_far_apart_are_no_ladder(host: Host) -> None:
    """Two in ten minutes are a pattern, two in a day are not."""
    host.put(proven()).start()
    for _ in range(5):
        assert host.engine()["level"] == "configured"
        host.keeper.died(stay=True)
        host.now += DEATH_SECONDS + 1


def test_an_operators_change_gives_everything_another_chance(host: Host) -> None:
    """From the lowest step a staged release leads back up."""
    host.put(proven()).start()
    for _ in range(4):
        host.engine()
        host.keeper.died(stay=True)
    assert host.engine()["level"] == "observe"
    assert host.poll() is None
    with states.changing(str(host.store)) as state:
        staged(2, state)
    chosen = host.poll()
    assert chosen is not None
    assert (chosen["level"], chosen["live"], chosen["other"]) == ("configured", IDS[0], IDS[1])


def test_without_a_store_only_the_ladder_is_left() -> None:
    """Rules that are named on the command line are no release."""
    keeper = Keeper(None, lambda _line: None)
    assert json.loads(keeper.begin()[0])["live"] is None
    assert not keeper.died(stay=False)
    keeper.died(stay=False)
    assert json.loads(keeper.begin()[0])["level"] == "built-in"


@pytest.mark.contract("content-8c")
def test_the_kill_file_wins_over_everything(host: Host) -> None:
    """Seen while running and at a start; and it goes when the file goes."""
    host.put(staged(2, proven())).start()
    assert host.engine()["live"] == IDS[0]
    host.kill_file.touch()
    chosen = host.poll()
    assert chosen is not None
    assert (chosen["live"], chosen["other"]) == (None, None)
    assert host.start().engine()["live"] is None
    host.kill_file.unlink()
    chosen = host.poll()
    assert chosen is not None
    assert chosen["live"] == IDS[0]


def test_verdicts_promote_or_take_back_the_release_on_trial_and_no_other(host: Host) -> None:
    """An engine that was slow to speak can't harm what came after."""
    host.put(staged(2, proven())).start()
    host.engine()
    assert not host.keeper.verdict(control.verdict(IDS[4], "alert_rate"))
    assert not host.keeper.verdict(control.verdict(IDS[0], "alert_rate"))
    assert not host.keeper.verdict(b"SVER" + b"\xff" * 36)
    assert host.read().staged == IDS[1]
    for stage in ("canary", "active"):
        assert host.keeper.verdict(control.verdict(IDS[1], ""))
        assert host.read().label == stage
    assert host.keeper.verdict(control.verdict(IDS[1], "alert_rate"))
    assert (host.read().running, host.read().bad) == (IDS[0], {IDS[1]: "alert_rate"})


def test_a_known_good_release_that_no_longer_loads_is_left_too(host: Host) -> None:
    """A disk forgets."""
    host.put(staged(3, proven(2, proven()))).start()
    host.engine()
    assert host.keeper.verdict(control.verdict(IDS[1], "load"))
    assert (host.read().running, host.read().staged) == (IDS[0], IDS[2])


def test_a_broken_state_or_a_missing_release_runs_what_was_before(host: Host) -> None:
    """With a line in the log, and no exception in the supervisor."""
    (host.store / "releases" / IDS[0]).rmdir()
    host.put(proven()).start()
    assert host.engine()["live"] is None
    (host.store / "state.json").write_text("{")
    assert host.start().engine()["live"] is None
    assert "No such file" in host.said[0]
    assert "broken" in host.said[1]


def test_a_state_that_can_t_be_written_is_kept_in_memory(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk doesn't keep a crashing release alive."""
    host.put(staged(2, proven())).start()

    def full(_store: str, _state: states.State) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(states, "write", full)
    for _ in range(2):
        assert host.engine()["other"] == IDS[1]
        host.keeper.died(stay=True)
    assert host.engine()["other"] is None


def test_what_happened_is_told_to_one_engine_once(host: Host) -> None:
    """The next one gets no old news."""
    host.put(proven()).start()
    actions = [notice["action"] for notice in host.engine()["notices"]]
    assert actions == ["staged", "promoted", "promoted", "known_good"]
    host.keeper.told()
    assert host.engine()["notices"] == []
    assert host.start().engine()["notices"] == []
