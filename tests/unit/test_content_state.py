"""The rollout's state: every way through it ends at something known good, and nothing bad comes back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.content import state as states
from sensor.content.state import State
from sensor.errors import UsageError

IDS = [f"{number:064x}" for number in range(1, 6)]


def facts(version: int) -> dict[str, object]:
    return {"name": "rules", "version": version, "expires": 4_000_000_000, "signers": ["k"]}


def staged(version: int = 1, state: State | None = None, **options: bool) -> State:
    state = state or State()
    states.stage(state, IDS[version - 1], facts(version), 1.0, **options)
    return state


def proven(version: int = 1, state: State | None = None) -> State:
    state = staged(version, state)
    for _ in range(3):
        states.promote(state, 2.0)
    return state


@pytest.mark.contract("content-3")
def test_a_release_goes_through_shadow_canary_and_active_before_it_is_known_good() -> None:
    """And only in canary are its rules those that raise alerts."""
    state = staged()
    assert (state.running, state.trial, state.label) == (None, IDS[0], "shadow")
    assert states.promote(state, 2.0) == "canary"
    assert (state.running, state.trial, state.current) == (IDS[0], IDS[0], None)
    assert states.promote(state, 3.0) == "active"
    assert (state.running, state.trial, state.good) == (IDS[0], IDS[0], [])
    assert states.promote(state, 4.0) == "known good"
    assert (state.running, state.trial, state.good) == (IDS[0], None, [IDS[0]])
    with pytest.raises(UsageError, match="no release is on trial"):
        states.promote(state, 5.0)


@pytest.mark.parametrize("promotions", [0, 1, 2])
def test_a_rollback_from_every_stage_returns_to_the_last_known_good(promotions: int) -> None:
    """And the release is never taken again."""
    state = staged(2, proven())
    for _ in range(promotions):
        states.promote(state, 3.0)
    assert states.rollback(state, "crash", 4.0) == IDS[1]
    assert (state.running, state.trial, state.good) == (IDS[0], None, [IDS[0]])
    assert state.bad == {IDS[1]: "crash"}
    assert state.rollbacks == {"crash": 1}
    with pytest.raises(UsageError, match="not tried again"):
        staged(2, state)
    staged(2, state, retry=True)


def test_a_rollback_of_what_is_known_good_goes_further_back_to_the_built_in_rules() -> None:
    """Until nothing is left to leave."""
    state = proven(2, proven())
    assert states.rollback(state, "operator", 1.0) == IDS[1]
    assert state.running == IDS[0]
    assert states.rollback(state, "operator", 1.0) == IDS[0]
    assert state.running is None
    with pytest.raises(UsageError, match="built-in"):
        states.rollback(state, "operator", 1.0)


@pytest.mark.contract("content-8a")
def test_versions_only_rise_unless_the_operator_says_so() -> None:
    """Also after a rollback: what was once here is the mark."""
    state = proven(3)
    states.rollback(state, "operator", 1.0)
    for version in (1, 2):
        with pytest.raises(UsageError, match="allow-downgrade"):
            staged(version, state)
    with pytest.raises(UsageError, match="allow-downgrade"):
        states.stage(state, IDS[4], facts(3), 1.0)
    staged(2, state, downgrade=True)
    assert state.floor == 2


@pytest.mark.contract("content-8c")
def test_revoked_releases_are_left_wherever_they_are() -> None:
    """Running, on trial, known good, or not here yet."""
    state = staged(3, proven(2, proven()))
    assert states.revoke(state, [IDS[1], IDS[2], IDS[4]], 1.0) == [IDS[1], IDS[2], IDS[4]]
    assert (state.running, state.trial, state.good) == (IDS[0], None, [IDS[0]])
    with pytest.raises(UsageError, match="revoked"):
        staged(5, state)
    assert states.revoke(state, [IDS[1]], 2.0) == []


@given(steps=st.lists(st.tuples(st.sampled_from(["stage", "promote", "rollback", "revoke"]), st.integers(1, 5)),
                      max_size=25))
@pytest.mark.contract("content-4")
def test_whatever_is_done_nothing_bad_runs_and_the_state_survives_the_disk(
        steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Invariants over any order of commands."""
    store = str(tmp_path_factory.mktemp("store"))
    state = State()
    for step, number in steps:
        try:
            if step == "stage":
                staged(number, state)
            elif step == "promote":
                states.promote(state, 1.0)
            elif step == "rollback":
                states.rollback(state, "crash", 1.0)
            else:
                states.revoke(state, [IDS[number - 1]], 1.0)
        except UsageError:
            pass
        in_use = {state.current, state.staged, *state.good} - {None}
        assert not in_use & set(state.bad)
        assert in_use <= set(state.releases)
        assert len(state.journal) <= 32
    states.write(store, state)
    assert states.read(store) == state


@pytest.mark.hostile("state-tampered")
def test_a_state_that_is_none_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Cut short, of another format, with a path for an id."""
    states.write(str(tmp_path), proven())
    good = json.loads((tmp_path / "state.json").read_text())
    for text in ("", "[", json.dumps({}), json.dumps({**good, "format": 9}), json.dumps({**good, "current": "../x"}),
                 json.dumps({**good, "extra": 1}), json.dumps({**good, "stage": "canary"}),
                 json.dumps({**good, "good": 1}), "[" * 100_000):
        (tmp_path / "state.json").write_text(text)
        with pytest.raises(UsageError, match="broken"):
            states.read(str(tmp_path))


@pytest.mark.hostile("full-disk")
def test_a_full_disk_leaves_the_old_state_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced whole or not at all."""
    store = str(tmp_path)
    states.write(store, proven())

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), states.changing(store) as state:
        states.rollback(state, "operator", 1.0)
    monkeypatch.undo()
    assert states.read(store).running == IDS[0]
    assert sorted(os.listdir(store)) == [".lock", "state.json"]


def test_two_commands_at_once_don_t_lose_each_other_s_change(tmp_path: Path) -> None:
    """The second one waits, then says so."""
    store = str(tmp_path)
    with states.changing(store) as state:
        staged(1, state)
        with pytest.raises(UsageError, match="try again"), states.changing(store, wait=0.1):
            pass
    assert states.read(store).staged == IDS[0]
