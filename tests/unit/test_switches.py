"""Rules switched off by the operator: one small file, read with suspicion."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import switches
from sensor.errors import HostError, UsageError


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=30), max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rules: dict[str, str]) -> None:
    """Ids are anything."""
    home = tmp_path_factory.mktemp("state")
    switches.write(home, rules)
    assert switches.read(home) == rules
    assert stat.S_IMODE((home / switches.FILE).stat().st_mode) == 0o644
    assert os.listdir(home) == [switches.FILE]


def test_without_a_file_nothing_is_off(tmp_path: Path) -> None:
    """The usual case; nor is there a directory before the first start."""
    assert switches.read(tmp_path / "absent") == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "rules": {}}', '{"format": 1, "rules": []}',
                                  "[" * 100_000, '{"format": 1}'])
@pytest.mark.hostile("state-tampered")
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    """Guessing what was meant could switch on what somebody needed off."""
    (tmp_path / switches.FILE).write_text(text)
    (tmp_path / switches.FILE).chmod(0o644)
    with pytest.raises(UsageError, match="damaged; remove it"):
        switches.read(tmp_path)


def test_a_file_that_others_may_write_is_not_obeyed(tmp_path: Path) -> None:
    """It switches detection off."""
    switches.write(tmp_path, {"a": "now"})
    (tmp_path / switches.FILE).chmod(0o666)
    with pytest.raises(UsageError, match="others may write it"):
        switches.read(tmp_path)


@pytest.mark.hostile("state-tampered")
def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Whoever may make one there shall not choose what is read."""
    (tmp_path / "real").write_text(json.dumps({"format": 1, "rules": {"a": ""}}))
    (tmp_path / switches.FILE).symlink_to(tmp_path / "real")
    with pytest.raises(UsageError, match="can't be read"):
        switches.read(tmp_path)


def test_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """Exit status 3, with the command that would help."""
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="sudo"):
        switches.write(tmp_path / "file", {})


def test_place_is_the_state_directory_of_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd gives a list; the first is ours."""
    monkeypatch.setenv("STATE_DIRECTORY", "/a:/b")
    assert switches.state_home() == Path("/a")
    monkeypatch.delenv("STATE_DIRECTORY")
    assert switches.state_home() == Path("/var/lib/sensor")
