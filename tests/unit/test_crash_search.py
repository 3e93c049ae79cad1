"""Where dumps are found, how parts are joined, what the database keeps, and the search as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import guard
from sensor.crashes import database, scan, sources
from sensor.crashes.database import Found
from sensor.crashes.sources import Dump
from sensor.crashes.telling import blamed, detail, told
from sensor.crashes.verdict import Own
from sensor.schema import BY_NAME
from sensor.snapshot import Facts, take
from tests.conftest import ROOT
from tests.unit import crash_texts as texts

OWN = Own(texts.OWN)


def efi_name(time: int, part: int, count: int = 1) -> str:
    return f"dmesg-efi-{(time * 100 + part) * 1000 + count}"


def test_parts_of_a_dump_are_joined_oldest_text_first() -> None:
    """Part 1 is the end of the log; two dumps of one backend stay apart."""
    parts = [(efi_name(1700000000, number), f"Panic#1 Part{number}\n{text}".encode(), 5.0)
             for number, text in ((1, "third"), (2, "second "), (3, "first "))]
    other = (efi_name(1700000999, 1), b"Oops#1 Part1\nalone", 9.0)
    assert sorted(sources.join([*parts, other])) == [(b"alone", 9.0), (b"first second third", 5.0)]


def test_the_same_counter_in_two_boots_makes_two_dumps() -> None:
    """ERST keeps records until somebody removes them, and each boot counts from one."""
    parts = [(f"dmesg-erst-{6_812_345_678_901_234_560 + boot * 1000 + part}",
              f"Panic#1 Part{part}\n{boot}{part} ".encode(), 1000.0 * boot + part)
             for boot in (1, 2) for part in (1, 2)]
    assert sources.join(reversed(parts)) == [(b"12 11 ", 1001.0), (b"22 21 ", 2001.0)]


def test_records_in_ram_are_dumps_of_their_own() -> None:
    """An oops and the panic that followed; what the kernel could not unpack is left out."""
    found = sources.join([("dmesg-ramoops-0", b"Oops#1 Part1\na", 1.0), ("dmesg-ramoops-1", b"Panic#2 Part1\nb", 2.0),
                          ("dmesg-ramoops-2.enc.z", b"\x78\x9c", 3.0), ("console-ramoops-0", b"x", 4.0)])
    assert sorted(found) == [(b"a", 1.0), (b"b", 2.0)]


@given(st.lists(st.tuples(st.sampled_from(["dmesg-efi-170000000001001", "dmesg-ramoops-0", "dmesg-erst-7", "x"]),
                          st.binary(max_size=40) | st.sampled_from([b"Panic#1 Part2\nx", b"Panic#1 Part1\ny"]),
                          st.floats(0, 1e9)), max_size=12))
def test_any_records_are_joined(parts: list[tuple[str, bytes, float]]) -> None:
    """Nothing raises, no byte comes twice."""
    assert sum(len(data) for data, _ in sources.join(parts)) <= sum(len(data) for _, data, _ in parts)


@pytest.mark.contract("panic-12a")
def test_every_place_is_searched(tmp_path: Path) -> None:
    """pstore, its archive with and without a joined text, both forms of kdump, the kernel's log."""
    places = {"sys/fs/pstore/dmesg-ramoops-0": "Panic#1 Part1\n1", "var/lib/systemd/pstore/1700/dmesg.txt": "2",
              "var/lib/systemd/pstore/1700/dmesg-efi-170000000001001": "Panic#1 Part1\n2",
              "var/lib/systemd/pstore/1800/001/dmesg-efi-170000000001001": "Panic#1 Part1\n3",
              "var/crash/202601010000/dmesg.202601010000": "4", "var/crash/127.0.0.1-2026/vmcore-dmesg.txt": "5",
              "var/crash/127.0.0.1-2026/vmcore": "core", "dev/kmsg": "4,1,2,-;6\n"}
    for name, text in places.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    asked: list[int] = []

    def journal(boot: int, _user: object) -> Dump | None:
        asked.append(boot)
        return Dump("journal", "journal", b"7")

    found = sources.collect(tmp_path, {}, before=True, read_journal=journal)
    assert sorted(dump.data for dump in found) == [b"1", b"2", b"3", b"4", b"4,1,2,-;6\n", b"5", b"7"]
    assert asked == [-1]
    (tmp_path / "dev/kmsg").unlink()
    sources.collect(tmp_path, {}, before=False, read_journal=journal)
    assert asked == [-1, 0]


@pytest.mark.contract("panic-12a")
@pytest.mark.hostile("odd-files")
def test_links_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    """Nobody waits for a pipe in /var/crash, and a link does not lead to /etc/shadow."""
    place = tmp_path / "sys/fs/pstore"
    place.mkdir(parents=True)
    os.mkfifo(place / "dmesg-ramoops-0")
    (place / "dmesg-ramoops-1").symlink_to("/etc/passwd")
    (place / "dmesg-ramoops-2").symlink_to("/dev/zero")
    assert list(sources.pstore(place)) == []


def test_a_large_dump_is_read_from_its_end(tmp_path: Path) -> None:
    place = tmp_path / "1"
    place.mkdir()
    (place / "vmcore-dmesg.txt").write_bytes(b"x" * (sources.TEXT_BYTES + 100) + b"end")
    [dump] = sources.kdump(tmp_path)
    assert len(dump.data) == sources.TEXT_BYTES
    assert dump.data.endswith(b"end")


@pytest.mark.parametrize(("script", "seconds", "expected"), [
    ("echo one; echo two", 60.0, b"one\ntwo\n"), ("exec sleep 600", 0.5, None), ("exit 1", 60.0, None),
    ("exec yes", 60.0, "bounded")])
@pytest.mark.contract("panic-12a")
def test_journalctl_has_a_limit_of_time_and_size(tmp_path: Path, script: str, seconds: float, expected: object) -> None:
    """One that hangs or floods is ended, and what it said till then counts."""
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    dump = sources.journal(-1, {}, str(program), seconds=seconds)
    if expected == "bounded":
        assert dump is not None
        assert len(dump.data) <= sources._JOURNAL_BYTES + (1 << 16)
    else:
        assert (dump and dump.data) == expected
    assert sources.journal(-1, {}, str(tmp_path / "absent")) is None


# --- the search's result -----------------------------------------------------------------------------


def examine(*dumps: Dump, known: list[Found] | None = None) -> list[Found]:
    return scan.examine(dumps, OWN, OWN, {each.id: each for each in known or []}, "s1", 1000.0, 0.0)


def dump(text: str, source: str = "pstore", **more: object) -> Dump:
    return Dump(source, "dump", texts.stamped(text).encode(), at=500.0, **more)  # type: ignore[arg-type]


@pytest.mark.contract("panic-12a")
def test_a_crash_in_three_places_is_one_and_the_fullest_report_counts() -> None:
    """The journal ended before the panic."""
    short = texts.NULL_IN_OWN_5_10.partition("Kernel panic")[0]
    [found] = examine(dump(short, "journal"), dump(texts.NULL_IN_OWN_5_10), dump(short, "kernel log"))
    assert (found.source, found.fatal, found.attributed, found.time) == ("pstore", True, "self", 500.0)


def test_what_is_known_is_not_told_again_unless_more_is_known() -> None:
    """pstore keeps its records: every later start finds them again."""
    short = texts.NULL_IN_OWN_5_10.partition("Kernel panic")[0]
    first = examine(dump(short))
    assert examine(dump(short), known=first) == []
    [more] = examine(dump(texts.NULL_IN_OWN_5_10), known=first)
    assert more.fatal
    assert more.id == first[0].id


def test_a_warning_is_a_crash_only_where_it_ended_the_boot() -> None:
    """One below a program of ours is kept all the same, and not counted."""
    assert examine(dump(texts.WARNING_5_10)) == []
    [fatal] = examine(dump(texts.NETDEV_6_1))
    assert fatal.counted
    [ours] = examine(dump(texts.WARNING_7_0.partition("Kernel panic")[0]))
    assert (ours.attributed, ours.counted) == ("self", False)
    assert database.counts([fatal, ours]) == {"self": 0, "other": 1, "unknown": 0}


def test_a_crash_of_this_boot_has_its_own_time() -> None:
    [found] = examine(Dump("kernel log", "dump", texts.stamped(texts.BUG_5_10, 100.0).encode(), this_boot=True))
    assert 100 <= found.time < 101


def test_processes_of_another_boot_are_not_ours() -> None:
    """Numbers come again: what this boot's supervisor has proves nothing of the boot before."""
    state = guard.State(armed=(guard.Armed("now", "6.12", 940, 1.0, "full", "1", (), {"940": "python3"}),),
                        history=(guard.Armed("then", "6.12", 512, 1.0, "full", "1", (), {"512": "python3"}),))
    here, past = scan.own_of(state, "now")
    assert (dict(here.processes), dict(past.processes)) == ({940: "python3"}, {512: "python3"})


def test_records_survive_the_file_and_broken_lines_do_not_harm(tmp_path: Path) -> None:
    """A line that was cut short by a power cut is cut off before the next is written."""
    path = tmp_path / database.NAME
    found = examine(dump(texts.SYSRQ_6_1), dump(texts.BUG_5_10))
    fd, _ = database.open_for_append(path)
    for record in found:
        os.write(fd, record.line())
    os.write(fd, b'{"id": "cut')
    os.close(fd)
    assert sorted(database.read_file(path), key=lambda r: r.id) == sorted(found, key=lambda r: r.id)
    fd, data = database.open_for_append(path)
    assert data.endswith(b"\n")
    os.write(fd, found[0].line())
    os.close(fd)
    assert len(database.read_file(path)) == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / database.NAME
    [record] = examine(dump(texts.SYSRQ_6_1))
    for number in range(3):
        fd, _ = database.open_for_append(path)
        for each in range(600):
            line = {**record.plain(), "id": f"{number}-{each}", "time": number * 1000 + each}
            os.write(fd, json.dumps(line).encode() + b"\n")
        os.close(fd)
    fd, data = database.open_for_append(path)
    os.close(fd)
    kept = database.read(data)
    assert len(kept) == database.RECORDS
    assert kept[-1].id == "2-599"
    assert path.stat().st_size == len(data)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from([*Found.__slots__]), inner, max_size=26)))
def test_any_json_in_the_database_is_a_record_or_nothing(value: object) -> None:
    """What is read is typed: the engine and the command count on it."""
    line = json.dumps(value).encode()
    record = database.parse(line)
    assert record is None or blamed(record)


def test_the_event_has_a_value_for_each_field_and_says_whom_and_why() -> None:
    [found] = examine(dump(texts.SYSRQ_6_1))
    values = told(found)
    assert len(values) == len(BY_NAME["sensor_crash"].fields)
    assert values[1:4] == ("other", "sysrq", "sysrq")
    assert blamed(found) == "other: sysrq"
    assert "sh[388]" in detail(found)


@pytest.mark.contract("panic-12b")
def test_metrics_count_crashes_and_tell_what_the_guard_does() -> None:
    """A warning that ended nothing is none; restricted is reduced, though no probe has failed."""
    found = examine(dump(texts.SYSRQ_6_1), dump(texts.WARNING_7_0.partition("Kernel panic")[0]))
    shown = take(None, Facts(info={"restricted": "why", "strikes": 1, "passive": None}, crashes=found))
    assert shown.host_crashes == {"self": 0, "other": 1, "unknown": 0}
    assert shown.last_crash_timestamp_seconds == 500.0
    assert (shown.mode["reduced"], shown.boot_guard_strikes) == (1.0, 1.0)


def test_a_record_is_bounded_by_leaving_out_what_is_longest() -> None:
    [found] = examine(dump(texts.SYSRQ_6_1))
    large = Found(**{**{name: getattr(found, name) for name in Found.__slots__}, "modules": ("m" * 60,) * 512})
    line = large.line()
    assert len(line) <= database.RECORD_BYTES
    again = database.parse(line)
    assert again is not None
    assert again.modules == ()
    assert again.lines == found.lines


def run_search(home: Path, name: str, **more: object) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from sensor.crashes.scan import main; main()"
    return subprocess.run([sys.executable, "-I", "-c", code, "0", str(home), name, "boot"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False, timeout=120, **more)  # type: ignore[call-overload]


def test_the_search_ends_well_on_this_host(tmp_path: Path) -> None:
    """As a process, with this host's own log: the database is there, and what is in it can be read."""
    home = tmp_path / "state"
    home.mkdir()
    done = run_search(home, "s1")
    assert (done.returncode, done.stderr) == (0, "")
    first = database.read_file(home / database.NAME)
    assert all(record.scan == "s1" for record in first)
    assert run_search(home, "s2").returncode == 0
    assert {record.id for record in first} <= {record.id for record in database.read_file(home / database.NAME)}


def test_a_search_without_its_directory_says_so(tmp_path: Path) -> None:
    done = run_search(tmp_path / "absent", "s1")
    assert done.returncode == 1
    assert "could not be searched" in done.stderr
    assert "Traceback" not in done.stderr
