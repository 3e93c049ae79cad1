"""Compiled rules on disk: used where they are sure to be ours and of these files, made anew elsewhere."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sensor import rulecache
from sensor.resources import rules_dir
from sensor.rulecache import RuleCache, key_of, user_home
from sensor.rules import content, files
from sensor.rules.model import Options, RuleSet
from tests.conftest import ROOT

RULE = """\
title: {0}
logsource: {{product: linux, category: process_creation}}
detection:
    selection: {{Image: {0}}}
    condition: selection
"""


@pytest.fixture
def gathered(tmp_path: Path) -> files.Gathered:
    place = tmp_path / "rules"
    place.mkdir()
    (place / "one.yml").write_text(RULE.format("one"))
    return files.gather(files.discover([str(place)]))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "sensor"


class Compiler:
    """Counts how often it had to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, gathered: files.Gathered, options: Options) -> RuleSet:
        self.times += 1
        return content.compile_rules(gathered, options=options)


def one(home: Path) -> Path:
    [file] = home.glob("rules-*")
    return file


def test_rules_that_were_seen_before_are_not_parsed_again(gathered: files.Gathered, home: Path) -> None:
    """The second load gives what the first one gave."""
    compiler = Compiler()
    first = RuleCache(home).load(gathered, Options(), compiler)
    cache = RuleCache(home)
    assert cache.load(gathered, Options(), compiler) == first
    assert compiler.times == 1
    assert cache.counts == {**dict.fromkeys(rulecache.RESULTS, 0), "hit": 1}
    assert stat.S_IMODE(one(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def keys(gathered: files.Gathered) -> list[str]:
    file = gathered.files[0]
    other = files.Gathered((replace(file, data=file.data + b"#"),))
    return [key_of(gathered, Options(), "code"), key_of(gathered, Options(), "other code"),
            key_of(other, Options(), "code"),
            key_of(files.Gathered((replace(file, display="elsewhere.yml"),)), Options(), "code"),
            key_of(files.Gathered((replace(file, data=b"", fault="larger"),)), Options(), "code"),
            key_of(files.Gathered((*gathered.files, *gathered.files)), Options(), "code"),
            key_of(files.Gathered((), gathered.files), Options(), "code"),
            key_of(gathered, Options({"name": ("value",)}), "code"), key_of(gathered, Options({}, ("p.yml",)), "code")]


def test_everything_that_rules_are_made_from_is_in_the_key(gathered: files.Gathered) -> None:
    """Content, name, fault and number of files, settings, pipelines, code."""
    assert len(set(keys(gathered))) == 9
    assert keys(gathered) == keys(gathered)


def test_the_stamp_of_the_code_changes_with_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits the parser in a checkout gets what the edited one makes."""
    import sensor

    before = rulecache.code_stamp()
    assert before == rulecache.code_stamp()
    package = tmp_path / "sensor"
    package.mkdir()
    (package / "extra.py").touch()
    monkeypatch.setattr(sensor.__spec__, "submodule_search_locations", [*sensor.__path__, str(package)])
    assert rulecache.code_stamp() != before


def spoil_bytes(home: Path) -> None:
    data = bytearray(one(home).read_bytes())
    data[len(data) // 2] ^= 1
    one(home).write_bytes(data)


def cut(home: Path) -> None:
    one(home).write_bytes(one(home).read_bytes()[:-10])


def empty(home: Path) -> None:
    one(home).write_bytes(b"")


def other_format(home: Path) -> None:
    body = b'{"format":0}'
    one(home).write_bytes(rulecache._DIGEST(body).hexdigest().encode() + b"\n" + body)


@pytest.mark.parametrize("damage", [spoil_bytes, cut, empty, other_format])
def test_a_damaged_file_is_counted_and_made_anew(gathered: files.Gathered, home: Path,
                                                 damage: Callable[[Path], None]) -> None:
    """A disk error costs half a second."""
    compiler = Compiler()
    first = RuleCache(home).load(gathered, Options(), compiler)
    damage(home)
    cache = RuleCache(home)
    assert cache.load(gathered, Options(), compiler) == first
    assert (compiler.times, cache.counts["damaged"]) == (2, 1)
    assert RuleCache(home).load(gathered, Options(), compiler) == first
    assert compiler.times == 2


def open_file(home: Path) -> None:
    one(home).chmod(0o620)


def open_folder(home: Path) -> None:
    home.chmod(0o702)


def link(home: Path) -> None:
    file, kept = one(home), home.parent / "kept"
    file.rename(kept)
    file.symlink_to(kept)


@pytest.mark.parametrize("opening", [open_file, open_folder, link])
def test_what_another_user_could_have_written_is_not_read(gathered: files.Gathered, home: Path,
                                                          opening: Callable[[Path], None]) -> None:
    """Writable by group or others, or a link to a place where they may write."""
    compiler = Compiler()
    RuleCache(home).load(gathered, Options(), compiler)
    opening(home)
    cache = RuleCache(home)
    cache.load(gathered, Options(), compiler)
    assert compiler.times == 2
    assert cache.counts["hit"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_a_file_of_another_user_is_not_read_and_their_cache_not_made(gathered: files.Gathered, home: Path) -> None:
    """Among them: root with the home of somebody else, who could not use what root leaves there."""
    compiler = Compiler()
    RuleCache(home).load(gathered, Options(), compiler)
    os.chown(one(home), 12345, -1)
    cache = RuleCache(home)
    cache.load(gathered, Options(), compiler)
    assert cache.counts["untrusted"] == 1
    theirs = home.parent / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, -1)
    cache = RuleCache(theirs / "sensor")
    cache.load(gathered, Options(), compiler)
    assert cache.counts["unwritable"] == 1
    assert not (theirs / "sensor").exists()


def test_nobody_keeps_nothing(gathered: files.Gathered, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That user is shared by whoever has no user."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    RuleCache(home).load(gathered, Options(), Compiler())
    assert not home.exists()


def test_a_directory_that_cannot_be_made_is_no_fault(gathered: files.Gathered, tmp_path: Path) -> None:
    """A full disk or a home that isn't there must not cost the rules."""
    (tmp_path / "file").touch()
    cache = RuleCache(tmp_path / "file" / "sensor")
    assert cache.load(gathered, Options(), Compiler()).loaded == 1
    assert cache.counts["unwritable"] == 1


def test_only_the_last_few_rule_sets_are_kept(gathered: files.Gathered, home: Path) -> None:
    """Somebody who edits a rule all day leaves no hundred files."""
    for number in range(12):
        RuleCache(home, f"stamp {number}").load(gathered, Options(), Compiler())
    assert len(list(home.iterdir())) == 8


def test_place_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative XDG_CACHE_HOME is to be ignored, says its specification."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_home() == Path("/somewhere/sensor")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert user_home() == Path("/home/me/.cache/sensor")


def test_a_warm_start_imports_no_parser_of_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pySigma nor lark: that is where the time went."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = ("import sys; from sensor.cli.common import rule_set; print(rule_set([]).loaded, "
            "sorted({'sigma', 'pyparsing', 'lark', 'sensor.rules.content'} & set(sys.modules)))")
    seen = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout.split(" ", 1) for _ in range(2)]
    assert seen[0][0] == seen[1][0] == str(content.load(content.discover([str(rules_dir())])).loaded)
    assert "sigma" in seen[0][1]
    assert seen[1][1].strip() == "[]"


def test_gathered_files_survive_the_way_to_another_process(gathered: files.Gathered) -> None:
    """Names and contents are bytes of any kind."""
    everything = files.Gathered((*gathered.files, files.File("\udcff", b"\0\n\xff"), files.File("x", b"", "closed")),
                                (files.File("p", b"{}"),))
    assert files.Gathered.parse(everything.dump()) == everything


def test_files_beyond_the_total_are_refused_one_by_one(tmp_path: Path) -> None:
    """A directory of a million small files ends somewhere too."""
    for name in "abc":
        (tmp_path / f"{name}.yml").write_bytes(b"#" * 100)
    found = files.gather(files.discover([str(tmp_path)]), limits=files.Limits(total_bytes=250))
    assert [file.fault for file in found.files] == ["", "", "all files together are larger than 250 bytes"]
