"""sensor crashes, guard and passive: what they print and change, whether anything runs or not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sensor import cli, daemon, guard, killswitch
from sensor.crashes import database, scan, sources
from sensor.crashes.verdict import Own
from sensor.errors import HostError
from sensor.options import RunOptions
from tests.unit import crash_texts as texts


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return tmp_path


def fill(home: Path, *reports: str) -> list[database.Found]:
    dumps = [sources.Dump("pstore", "dump", texts.stamped(text, 10.0 + number).encode(), 1.7e9 + number)
             for number, text in enumerate(reports)]
    found = scan.examine(dumps, Own(texts.OWN), Own(texts.OWN), {}, "s1", 1.7e9, 0.0)
    (home / database.NAME).write_bytes(b"".join(record.line() for record in found))
    return found


def strike(home: Path, strikes: int) -> None:
    left = guard.Armed("0f1e2d3c-old", "6.12.9-amd64", 7, 1.7e9, "full", "0", ("5a1e0c2bd4f69783",), {"7": "sensor"})
    guard.Store(home).change(lambda _state: guard.State("0", strikes, history=(left,) * strikes))


def test_crashes_is_empty_and_fine_where_nothing_was_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["crashes"]) == 0
    assert "no crash is known" in capsys.readouterr().out
    assert cli.call(["crashes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"counts": {"self": 0, "other": 0, "unknown": 0}, "crashes": []}


@pytest.mark.contract("panic-12b")
def test_crashes_are_shown_with_whom_and_why(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has a line for each, JSON everything."""
    fill(home, texts.SYSRQ_6_1, texts.NULL_IN_OWN_5_10, texts.BUG_5_10)
    assert cli.call(["crashes"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    assert "other: sysrq" in table[1] and "sysrq triggered crash by sh[388]" in table[1]
    assert cli.call(["crashes", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"self": 1, "other": 1, "unknown": 1}
    assert [crash["attributed"] for crash in shown["crashes"]] == ["other", "self", "unknown"]


def test_one_crash_is_shown_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the beginning of its id; one that isn't there is bad usage."""
    [found] = fill(home, texts.NULL_IN_OWN_5_10)
    assert cli.call(["crashes", "--id", found.id[:6]]) == 0
    out = capsys.readouterr().out
    for text in (found.id, f"bpf_prog_{texts.TAG}_{texts.NAME}", "vbox_guest(OE)", "#PF: supervisor read access"):
        assert text in out
    assert cli.call(["crashes", "--id", "zz"]) == 2


def test_control_characters_of_a_report_do_not_reach_the_terminal(home: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """A program's name is whatever the program wants."""
    [found] = fill(home, texts.SYSRQ_6_1.replace("Comm: sh ", "Comm: \x1b[2Jsh "))
    assert found.comm == "\x1b[2Jsh"
    for words in (["crashes"], ["crashes", "--id", found.id]):
        assert cli.call(words) == 0
        assert "\x1b" not in capsys.readouterr().out


def test_guard_show_says_mode_and_reason(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["guard", "show"]) == 0
    assert capsys.readouterr().out.startswith("mode: full\nstrikes: 0 of 2\n")
    strike(home, 2)
    assert cli.call(["guard", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["mode"], shown["strikes"]) == ("passive", 2)
    assert (shown["switched_passive"], shown["disabled"]) == (False, False)
    assert shown["bad_ends"][0]["tags"] == ["5a1e0c2bd4f69783"]
    assert cli.call(["guard", "show"]) == 0
    assert "ended badly: 2023-11-14T22:13:20Z boot 0f1e2d3c-old kernel 6.12.9-amd64" in capsys.readouterr().out


def test_guard_reset_forgets(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strike(home, 2)
    assert cli.call(["guard", "reset"]) == 0
    assert "is reset" in capsys.readouterr().out
    state = guard.Store(home).read()
    assert (state.mode, state.strikes, state.history) == ("full", 0, ())
    assert cli.call(["guard", "reset"]) == 0
    assert "not in the way" in capsys.readouterr().out


def test_guard_reset_writes_nothing_where_nothing_is(home: Path) -> None:
    assert cli.call(["guard", "reset"]) == 0
    assert not (home / guard.NAME).exists()


@pytest.mark.contract("content-6")
def test_passive_is_kept_and_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without anything running; the second time changes nothing."""
    assert cli.call(["passive", "on"]) == 0
    assert "passive mode is on; no sensor is running" in capsys.readouterr().out
    assert cli.call(["passive", "on"]) == 0
    assert "already on" in capsys.readouterr().out
    assert cli.call(["guard", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["mode"], shown["switched_passive"]) == ("passive", True)
    assert cli.call(["passive", "off"]) == 0
    assert killswitch.passive_since(home) is None
    assert cli.call(["passive", "maybe"]) == 2


def test_passive_off_says_that_the_guard_still_holds(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strike(home, 2)
    assert cli.call(["passive", "off"]) == 0
    assert "the boot guard still keeps all probes out" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize("words", [["crashes"], ["guard", "show"], ["guard", "reset"], ["passive", "on"]])
def test_without_the_right_to_the_state_the_fix_is_named(home: Path, words: list[str],
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, as for everything that wants root."""
    home.chmod(0o700)
    os.seteuid(65534)
    try:
        assert cli.call(words) == 3
    finally:
        os.seteuid(0)
    assert f"sudo sensor {' '.join(words)}" in capsys.readouterr().err


@pytest.mark.contract("panic-8c")
def test_run_refuses_where_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The units' conditions are not all there is: the daemon looks itself."""
    monkeypatch.setattr(killswitch, "disabled", lambda: HostError("switched off", "rm"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match="switched off"):
        daemon.run(RunOptions())
