"""State and settings as somebody left them who meant harm or had none to spare: links, pipes, floods, huge numbers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sensor import cli, config, guard, killswitch, oversight
from sensor.content import state as contents
from sensor.content.keeper import Keeper
from sensor.crashes import database
from sensor.errors import ContentError, UsageError

#: Ways to stand in the place of a file.
PLACES: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "endless link": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "directory": Path.mkdir,
    "huge": lambda path: path.touch() or os.truncate(path, 1 << 34),
    "deep": lambda path: path.write_text("[" * 100_000) and None,
    "numbers": lambda path: path.write_text(json.dumps({"format": 1, "strikes": 10**400, "pid": 10**400})) and None,
    "bytes": lambda path: path.write_bytes(os.urandom(4096)) and None,
    "empty": Path.touch,
}


@pytest.fixture(params=PLACES)
def put(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Puts it there."""
    found: Callable[[Path], None] = PLACES[request.param]
    return found


@pytest.mark.hostile("state-tampered", "odd-files")
def test_whatever_lies_for_the_boot_guard_the_sensor_starts(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """At once, with the mode of somebody who knows nothing; and nothing is written through a link."""
    before = Path("/etc/passwd").read_bytes()
    put(tmp_path / guard.NAME)
    put(tmp_path / killswitch.RUNNING)
    said: list[str] = []
    made = oversight.Oversight(tmp_path, said.append, boot="b", root=tmp_path)
    made.begin()
    made.arm()
    made.refresh()
    assert made.standing().mode == guard.FULL
    assert Path("/etc/passwd").read_bytes() == before
    assert made.facts()["strikes"] == 0


@pytest.mark.hostile("state-tampered", "odd-files")
def test_whatever_lies_for_the_passive_switch_means_passive(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """The safe side; and `sensor passive off` undoes all but a directory, which is said."""
    path = tmp_path / killswitch.PASSIVE
    put(path)
    assert killswitch.passive_since(tmp_path) == 0.0
    try:
        assert killswitch.set_passive(tmp_path, on=False)
        assert killswitch.passive_since(tmp_path) is None
    except OSError:
        assert path.is_dir()


@pytest.mark.hostile("state-tampered", "odd-files")
def test_whatever_lies_for_the_content_state_is_refused_without_waiting(tmp_path: Path,
                                                                        put: Callable[[Path], None]) -> None:
    """Also by the supervisor, which goes on with the rules before."""
    put(tmp_path / contents.FILE)
    with pytest.raises(UsageError):
        contents.read(str(tmp_path))
    said: list[str] = []
    keeper = Keeper(str(tmp_path), said.append, kill_file=str(tmp_path / "none"))
    selection, fds = keeper.begin()
    assert fds == [] and json.loads(selection)["live"] is None
    assert said and keeper.facts()["release"] is None


@pytest.mark.hostile("state-tampered", "odd-files")
def test_whatever_lies_for_the_crash_database_is_no_crash(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """`sensor crashes` and `sensor status` read it as root."""
    put(tmp_path / database.NAME)
    try:
        assert database.read_file(tmp_path / database.NAME) == []
    except OSError as error:
        assert error.errno in (errno.ELOOP, errno.EISDIR)


@pytest.mark.hostile("full-disk")
def test_passive_mode_on_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3 and the reason; nothing half-written is left."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.call(["passive", "on"]) == 3
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.hostile("huge-settings")
@pytest.mark.parametrize("name", [name for name, _, hint in config.all_keys() if hint is int])
def test_numbers_beyond_sense_are_refused_with_their_line(name: str) -> None:
    """Each setting that is a number, with what would overflow, divide by nothing or never end."""
    section, _, key = name.partition(".")
    for value in ("1e999", "-1", "9" * 400, "9223372036854775808", ".nan", ".inf", "0x7fffffffffffffff", "1.5", "true"):
        with pytest.raises(ContentError) as error:
            config.loads(f"{section}:\n  {key}: {value}\n", "s.yaml")
        assert str(error.value).startswith("s.yaml:2: ")
        assert len(str(error.value)) < 1000


@pytest.mark.hostile("huge-settings")
def test_lists_without_end_are_refused() -> None:
    """Before the kernel's filter or the matcher sees them."""
    for text in ("watch:\n  paths: [" + ", ".join(f"/a/{number}" for number in range(100_000)) + "]\n",
                 "rules:\n  paths: [" + "/a, " * 300_000 + "/a]\n",
                 "events: " + "a" * (2 << 20) + "\n"):
        with pytest.raises(UsageError) as error:
            config.loads(text, "s.yaml")
        assert len(str(error.value)) < 1000
