"""The boot guard's states, its file, the switches, and what the supervisor may load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import guard, killswitch
from sensor.guard import FULL, MINIMAL, PASSIVE, Armed, State
from sensor.kernel.plan import Plan
from sensor.oversight import Oversight
from sensor.statefiles import read_small, write_whole

PLAN = Plan((4096, 4096), ("process", "syscall", "file"), 32 << 20, 2, hooks=((1, "raw_tracepoint"), (10, "kprobe")))


def armed(boot: str, mode: str = FULL, pid: int = 100, version: str = "1") -> Armed:
    return Armed(boot, "6.12.9-amd64", pid, 5.0, mode, version, ("5a1e0c2bd4f69783",), {"100": "sensor"})


def start(state: State, boot: str, version: str = "1") -> State:
    """One start that arms in the mode which the guard allows."""
    state = guard.begin(state, version, boot, lambda _each: False)
    return guard.arm(state, armed(boot, state.mode)) if state.mode != PASSIVE else state


@pytest.mark.contract("panic-8b")
def test_two_bad_ends_lead_to_minimal_and_then_to_passive() -> None:
    """And passive it stays, boot after boot."""
    state = start(State(version="1"), "a")
    assert state.mode == FULL
    state = start(state, "b")
    assert (state.mode, state.strikes) == (MINIMAL, 1)
    assert "boot a" in state.reason
    state = start(state, "c")
    assert (state.mode, state.armed) == (PASSIVE, ())
    assert start(state, "d").mode == PASSIVE
    assert [each.boot_id for each in state.history] == ["a", "b"]


@pytest.mark.contract("panic-8a")
def test_a_clean_stop_is_no_strike() -> None:
    state = start(State(version="1"), "a")
    state = guard.disarm(state, state.armed[0])
    assert start(state, "b").mode == FULL


def test_ten_healthy_minutes_at_minimal_let_the_next_start_try_everything() -> None:
    """Whatever ends badly then is the second strike; ten healthy minutes with everything end the matter."""
    state = start(start(State(version="1"), "a"), "b")
    state = guard.healthy(state, state.armed[0])
    assert state.armed == ()
    tried = start(state, "c")
    assert (tried.mode, tried.strikes, tried.trial) == (FULL, 1, True)
    assert start(tried, "d").mode == PASSIVE
    well = guard.healthy(tried, tried.armed[0])
    assert (well.mode, well.strikes) == (FULL, 0)
    assert start(start(well, "e"), "f").mode == MINIMAL


def test_a_kill_within_the_boot_is_no_bad_end_of_it() -> None:
    """The kernel has detached everything; another sensor that still runs keeps its record."""
    state = replace(State(version="1"), armed=(armed("a", pid=7), armed("a", pid=8)))
    state = guard.begin(state, "1", "a", lambda each: each.pid == 8)
    assert state.strikes == 0
    assert [each.pid for each in state.armed] == [8]


def test_two_sensors_in_one_bad_boot_are_one_strike() -> None:
    state = replace(State(version="1"), armed=(armed("a", pid=7), armed("a", pid=8)))
    assert guard.begin(state, "1", "b", lambda _each: True).strikes == 1


@pytest.mark.contract("panic-8b")
def test_a_new_version_begins_anew() -> None:
    """What the old one did is kept as history, its tags too, and is not held against the new one."""
    state = start(start(start(State(version="1"), "a"), "b"), "c")
    state = guard.remember(state, {"5a1e0c2bd4f69783": "on_exec"}, "1", 1.0)
    assert state.mode == PASSIVE
    state = guard.begin(state, "2", "d", lambda _each: False)
    assert (state.mode, state.strikes, len(state.history), len(state.programs)) == (FULL, 0, 2, 1)
    left = guard.begin(start(State(version="1"), "a"), "2", "b", lambda _each: False)
    assert (left.mode, left.armed) == (FULL, ())


def test_tags_are_bounded_and_the_newest_stay() -> None:
    state = State()
    for number in range(1100):
        state = guard.remember(state, {f"{number:016x}": "p"}, "1", float(number))
    assert len(state.programs) == 1024
    assert f"{1099:016x}" in state.programs
    assert f"{0:016x}" not in state.programs


def test_the_file_keeps_everything(tmp_path: Path) -> None:
    """What is written is read, by another process too; nobody else may read it."""
    store = guard.Store(tmp_path)
    made = guard.remember(start(start(State(version="1"), "a"), "b"), {"5a1e0c2bd4f69783": "on_exec"}, "1", 1.5)
    store.change(lambda _state: made)
    assert guard.Store(tmp_path).read() == made
    assert (tmp_path / guard.NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'{"format": 2}', b'{"armed": 7}', b'{"armed": [{}]}', b'{"strikes": "x"}',
    b'{"programs": [1]}', b"[" * 100_000, b"\xff\xfe", b'{"strikes": 1e999}', b"x" * (300 << 10)])
def test_a_file_that_is_none_of_ours_is_no_file(tmp_path: Path, content: bytes) -> None:
    """No start fails of it, and the next change replaces it."""
    (tmp_path / guard.NAME).write_bytes(content)
    assert guard.Store(tmp_path).read() == State()
    assert guard.Store(tmp_path).change(lambda state: start(state, "a")).mode == FULL


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
                        st.sampled_from(["format", "version", "strikes", "trial", "armed", "history", "programs",
                                         "boot_id", "pid", "time", "tags", "processes"]), inner, max_size=6)))
@pytest.mark.hostile("state-tampered")
def test_any_json_is_a_state(value: object) -> None:
    assert guard.parse(json.dumps(value).encode()).mode in (FULL, MINIMAL, PASSIVE)


@pytest.mark.contract("panic-8a")
@pytest.mark.hostile("full-disk")
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: the record is whole, the part is gone."""
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert read_small(path, 10) == b"old"


@pytest.mark.hostile("state-tampered")
def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / guard.NAME).symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        guard.Store(tmp_path).read()


# --- what may be loaded ----------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    return []


def oversight(home: Path, said: list[str], boot: str = "a") -> Oversight:
    made = Oversight(home / "state", said.append, boot=boot, root=home)
    made.begin()
    return made


@pytest.mark.contract("panic-8a")
def test_the_record_is_on_disk_before_arm_returns_and_names_the_programs_after(tmp_path: Path, said: list[str]) -> None:
    """Boot, kernel, process, version; then tags, which later boots keep."""
    made = oversight(tmp_path, said)
    made.arm()
    [record] = guard.Store(tmp_path / "state").read().armed
    assert (record.boot_id, record.release, record.pid, record.mode) == ("a", os.uname().release, os.getpid(), FULL)
    assert record.processes[str(os.getpid())]
    made.loaded({"5a1e0c2bd4f69783": "on_exec"})
    state = guard.Store(tmp_path / "state").read()
    assert state.armed[0].tags == ("5a1e0c2bd4f69783",)
    assert state.programs["5a1e0c2bd4f69783"]["name"] == "on_exec"
    made.clear()
    assert guard.Store(tmp_path / "state").read().armed == ()
    assert said == []


@pytest.mark.contract("panic-8b")
def test_minimal_is_process_events_by_tracepoints(tmp_path: Path, said: list[str]) -> None:
    """What the settings force onto other hooks is dropped with its event's family."""
    first = oversight(tmp_path, said)
    assert first.limit(PLAN) == PLAN
    first.arm()
    second = oversight(tmp_path, said, "b")
    plan = second.limit(PLAN)
    assert (plan.families, plan.hooks) == (("process",), ((1, "raw_tracepoint"),))
    assert any("boot guard" in line for line in said)
    assert second.restriction == ""
    second.arm()
    assert "ended badly" in second.restriction


@pytest.mark.contract("panic-8b")
def test_the_guards_passive_mode_ends_with_a_reset_that_a_running_supervisor_sees(tmp_path: Path,
                                                                                 said: list[str]) -> None:
    for boot in "abc":
        made = oversight(tmp_path, said, boot)
        made.arm() if boot != "c" else None
    standing = made.standing()
    assert (standing.mode, standing.lack) == (PASSIVE, "guard")
    assert "guard reset" in standing.fix
    guard.Store(tmp_path / "state").change(lambda state: replace(state, strikes=0))
    made.refresh()
    assert made.standing().mode == FULL


@pytest.mark.contract("panic-8c")
def test_the_operators_switch_wins_over_the_guard(tmp_path: Path, said: list[str]) -> None:
    """On: nothing is loaded; off: as before. Twice is once."""
    made = oversight(tmp_path, said)
    state = tmp_path / "state"
    assert killswitch.set_passive(state, on=True)
    assert not killswitch.set_passive(state, on=True)
    assert (made.standing().mode, made.standing().lack) == (PASSIVE, "operator")
    assert killswitch.passive_since(state)
    assert killswitch.set_passive(state, on=False)
    assert not killswitch.set_passive(state, on=False)
    assert made.standing().mode == FULL


@pytest.mark.parametrize("content", [b"", b"{", b'{"since": -1}', b'{"since": "x"}', b"[" * 5000])
def test_any_file_of_that_name_means_passive(tmp_path: Path, content: bytes) -> None:
    """`touch /var/lib/sensor/passive` is a switch too."""
    (tmp_path / killswitch.PASSIVE).write_bytes(content)
    assert killswitch.passive_since(tmp_path) == 0.0


@pytest.mark.contract("panic-8c")
def test_file_and_kernel_command_line_switch_off(tmp_path: Path) -> None:
    """Only the very word counts."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "etc/sensor").mkdir(parents=True)
    (tmp_path / "proc/cmdline").write_text("quiet xsensor=0 sensor=01 sensor=0x\n")
    assert killswitch.disabled(tmp_path) is None
    (tmp_path / "proc/cmdline").write_text("quiet sensor=0\n")
    assert "command line" in str(killswitch.disabled(tmp_path))
    (tmp_path / "etc/sensor/disable").symlink_to("/nowhere")
    found = killswitch.disabled(tmp_path)
    assert found is not None and found.fix == "sudo rm /etc/sensor/disable"


@pytest.mark.hostile("full-disk")
def test_without_a_state_directory_the_sensor_runs_and_says_so_once(tmp_path: Path, said: list[str]) -> None:
    """Whoever fills the disk must not blind it."""
    (tmp_path / "state").write_text("no directory")
    made = oversight(tmp_path, said)
    made.arm()
    made.loaded({"5a1e0c2bd4f69783": "on_exec"})
    made.healthy()
    assert made.limit(PLAN) == PLAN
    assert len(said) == 1
    assert "no boot guard" in said[0]
    assert not made.search()


# --- who is told ---------------------------------------------------------------------------------------


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has announced itself and ends with 7 at SIGHUP."""
    code = ("import signal, sys, time; from pathlib import Path; from sensor import killswitch\n"
            "signal.signal(signal.SIGHUP, lambda *_: sys.exit(7))\n"
            f"killswitch.announce(Path({str(tmp_path)!r}), 'a'); print('ready', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_the_running_supervisor_is_told_and_nobody_else(tmp_path: Path, listener: subprocess.Popen[str]) -> None:
    """Another boot's record, or a process that has the number now, gets no signal."""
    assert killswitch.tell(tmp_path, "b") is None
    facts = json.loads((tmp_path / killswitch.RUNNING).read_bytes())
    write_whole(tmp_path / killswitch.RUNNING, json.dumps({**facts, "start": facts["start"] + 1}).encode())
    assert killswitch.tell(tmp_path, "a") is None
    write_whole(tmp_path / killswitch.RUNNING, json.dumps(facts).encode())
    assert listener.poll() is None
    assert killswitch.tell(tmp_path, "a") == listener.pid
    assert listener.wait(30) == 7
    assert killswitch.tell(tmp_path, "a") is None


def test_nobody_is_told_where_nobody_runs(tmp_path: Path) -> None:
    assert killswitch.tell(tmp_path, "a") is None
    for content in (b"", b"{}", b"[1]", b'{"pid": 1, "start": 1, "boot_id": "a"}'):
        (tmp_path / killswitch.RUNNING).write_bytes(content)
        assert killswitch.tell(tmp_path, "a") is None
    assert signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, signal.SIG_IGN)
