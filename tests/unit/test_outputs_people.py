"""Outputs for people: the table on a terminal and the journal. Nothing an attacker wrote drives a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sensor.outputs import default_spec, open_output
from sensor.outputs.journald import Journal, encode_entry
from sensor.outputs.summary import describe, endpoint, parent_chain, subject
from sensor.outputs.table import Table, column_widths
from sensor.outputs.terminal import terminal_safe
from tests.unit.output_samples import CONNECT, EXEC, RULE, alert, event

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e\u2066\u200b\n\udcff"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
@pytest.mark.hostile("delimiters")
def test_terminal_safe_text_has_nothing_that_acts(text: str) -> None:
    """No control character, no reordering, nothing that can't be encoded."""
    safe = terminal_safe(text)
    assert not RAW.search(safe)
    assert "\n" not in safe
    safe.encode("utf-8")
    assert terminal_safe("plain é 漢") == "plain é 漢"


def table(*documents: dict[str, Any], **keywords: Any) -> list[str]:
    """Lines that a table of the documents prints."""
    with tempfile.TemporaryFile() as file:
        output = Table(file.fileno(), **{"width": 100, "environ": {}, **keywords})
        for document in documents:
            output.write(document)
        output.close()
        file.seek(0)
        return file.read().decode().splitlines()


def test_table_shows_who_did_what_in_a_hundred_columns() -> None:
    """Time, level, rule, process, user, parents, what; a cell wraps, a line never does."""
    lines = table(alert(), {**alert(), "process": {**EXEC["process"], "command_line": "cat " + "/very/long/path" * 12}})
    assert lines[0].split() == ["TIME", "LEVEL", "RULE", "PROCESS", "USER", "PARENTS", "WHAT"]
    assert all(cell_len(line) <= 100 for line in lines)
    first = lines[1]
    for word in ("10:00:00", "high", "Password hashes", "cat[4711]", "www-data", "sh[4700]", "cat /etc/shadow"):
        assert word in first
    assert "nginx" in "".join(lines)
    long = "".join(line[76:].strip() for line in lines[1:])
    assert "/very/long/path" * 12 in long


@pytest.mark.parametrize("width", [10, 60, 80, 100, 137, 200])
def test_table_fits_its_width(width: int) -> None:
    """Wide characters, long words and narrow terminals: no line is longer than asked for, sixty at least."""
    document = alert(message="x")
    document["process"]["command_line"] = "漢" * 90 + " " + "y" * 90
    assert all(cell_len(line) <= max(60, width) for line in table(document, CONNECT, alert(), width=width))
    assert sum(column_widths(width)) + 6 == max(60, width)


def test_table_has_one_heading_however_often_it_is_flushed() -> None:
    """Rows printed minutes apart stand under the same columns."""
    text = "\n".join(table(*map(alert, range(300))))
    assert text.count("LEVEL") == 1
    assert text.count("cat[4711]") == 300


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("key", ["name", "command_line", "parent", "user", "rule", "timestamp", "level"])
def test_hostile_text_never_reaches_the_terminal_raw(key: str, terminal: bool) -> None:
    """Whichever value an attacker chose, what is printed is text."""
    document = alert()
    places: dict[str, tuple[dict[str, Any], str]] = {
        "name": (document["process"], "name"), "command_line": (document["process"], "command_line"),
        "parent": (document["process"]["parent"], "name"), "user": (document["user"], "name"),
        "rule": (document["rule"], "name"), "timestamp": (document, "@timestamp"), "level": (document["rule"], "level")}
    section, name = places[key]
    section[name] = HOSTILE
    text = "\n".join(table(document, width=400, terminal=terminal))
    # Our own colours are all that may be there.
    assert not RAW.search(re.sub(r"\x1b\[[0-9;]*m", "", text) if terminal else text)
    if key not in ("timestamp", "level", "user"):
        assert r"\x1b]0;owned\x07" in text


def test_colour_is_for_terminals_that_want_it() -> None:
    """A pipe gets no escapes; a terminal does; NO_COLOR and dumb terminals are obeyed."""
    assert "\x1b" not in "".join(table(alert()))
    assert "\x1b[1;31mhigh\x1b[0m" in "".join(table(alert(), terminal=True))
    assert "\x1b" not in "".join(table(alert(), terminal=True, environ={"NO_COLOR": "1"}))
    assert "\x1b" not in "".join(table(alert(), terminal=True, environ={"TERM": "dumb"}))


def test_width_is_asked_of_the_terminal() -> None:
    """A pseudo-terminal of 140 columns gets rows of 140; COLUMNS wins."""
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 140, 0, 0))
    for environ, width in (({}, 140), ({"COLUMNS": "90"}, 90), ({"COLUMNS": "many"}, 140)):
        output = Table(follower, environ=environ)
        output.write(alert())
        output.close()
        heading = re.sub(r"\x1b\[[0-9;]*m", "", os.read(leader, 65536).decode())
        assert heading.index("WHAT") == sum(column_widths(width)[:-1]) + 6
    os.close(leader)
    os.close(follower)


@pytest.mark.hostile("broken-sink")
def test_terminal_that_went_away_costs_rows_not_the_daemon() -> None:
    """Counted as any output's failures; a one-shot command learns of the broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    output = Table(writer)
    output.write(alert())
    output.close()
    assert (output.counts.errors["closed"], output.counts.dropped, output.counts.events) == (1, 1, 0)
    strict = Table(writer, strict=True)
    strict.write(alert())
    with pytest.raises(BrokenPipeError):
        strict.flush()
    os.close(writer)


@pytest.mark.parametrize(("document", "what"), [
    (EXEC, "cat /etc/shadow"),
    (CONNECT, "tcp 127.0.0.1:40000 -> [::1]:4444"),
    ({"event": {"action": "file-rename"}, "file": {"path": "/b", "Ext": {"original": {"path": "/a"}}}}, "/a -> /b"),
    ({"event": {"action": "file-open"}, "file": {"path": "/etc/shadow"}}, "/etc/shadow"),
    ({"event": {"action": "dns-query"}, "dns": {"question": {"name": "a.b", "type": "TXT"}}}, "a.b TXT"),
    ({"event": {"action": "shell-line"}, "process": {"io": {"text": "id"}}}, "id"),
    ({"event": {"action": "sensor-state"}, "message": "12 hooks attached"}, "12 hooks attached"),
    ({"process": 5}, ""),
])
def test_subject_is_what_the_event_was_about(document: dict[str, Any], what: str) -> None:
    """Each kind of event has its own answer; nonsense has none."""
    assert subject(document) == what
    describe(document)


def test_parent_is_not_named_twice() -> None:
    """Ancestors begin with the parent, where its executable is known."""
    assert parent_chain(EXEC) == ["sh[4700]", "nginx", "systemd"]
    document = event()
    del document["process"]["parent"]["executable"]
    assert parent_chain(document) == ["sh[4700]", "sh", "nginx", "systemd"]
    assert endpoint({"source": {"ip": "1.2.3.4"}}, "source") == "1.2.3.4"


def test_default_output_depends_on_who_started_us() -> None:
    """The journal under systemd, a table for people, lines for programs."""
    assert default_spec({"INVOCATION_ID": "x"}, terminal=False) == "journald"
    assert default_spec({"INVOCATION_ID": "x"}, terminal=True) == "table"
    assert default_spec({}, terminal=True) == "table"
    assert default_spec({}, terminal=False) == "-"


# --- journal ------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "journal"))
        server.settimeout(5)
        yield server


def fields_of(entry: bytes) -> dict[str, list[bytes]]:
    """Parse an entry as journald does."""
    found: dict[str, list[bytes]] = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            entry = rest
        else:
            size = struct.unpack("<Q", rest[:8])[0]
            value, entry = rest[8:8 + size], rest[8 + size + 1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name)
        found.setdefault(name.decode(), []).append(value)
    return found


def test_alert_reaches_the_journal_with_its_fields(journal: socket.socket, tmp_path: Path) -> None:
    """journalctl SENSOR_RULE_ID=... finds it, -p err shows it."""
    output = open_output("journald", journal=str(tmp_path / "journal"))
    output.write(alert())
    found = fields_of(journal.recv(1 << 20))
    assert found["PRIORITY"] == [b"3"]
    assert found["SYSLOG_IDENTIFIER"] == [b"sensor"]
    assert found["SENSOR_RULE_ID"] == [RULE["id"].encode()]
    assert found["MESSAGE"] == [b"Password hashes read by cat[4711] (www-data): cat /etc/shadow"]
    assert found["SENSOR_TECHNIQUE"] == [b"T1003.008"]
    assert orjson.loads(found["SENSOR_JSON"][0])["process"]["pid"] == 4711
    assert output.counts.events == 1
    output.close()


@pytest.mark.parametrize(("level", "priority"), [("critical", b"2"), ("high", b"3"), ("medium", b"4"), ("low", b"5"),
                                                 ("informational", b"6"), ("odd", b"6")])
def test_level_becomes_priority(level: str, priority: bytes) -> None:
    """As syslog counts."""
    assert fields_of(encode_entry(alert(level=level)))["PRIORITY"] == [priority]


@pytest.mark.hostile("delimiters")
def test_no_value_can_add_a_field_to_the_journal() -> None:
    """A newline in a command line is framed by length; undecodable bytes are passed on as they are."""
    document = alert()
    document["process"]["command_line"] = "x\nPRIORITY=0\nMESSAGE=fake\x00\udcff"
    found = fields_of(encode_entry(document))
    assert found["PRIORITY"] == [b"3"]
    assert found["SENSOR_COMMAND_LINE"] == [b"x\nPRIORITY=0\nMESSAGE=fake\x00\xff"]
    assert b"\n" not in found["MESSAGE"][0]


def test_entry_too_large_for_a_datagram_travels_in_a_sealed_file(journal: socket.socket, tmp_path: Path) -> None:
    """journald takes a descriptor of a memfd that nobody can change any more."""
    output = Journal(str(tmp_path / "journal"))
    document = alert()
    document["process"]["args"] = ["x" * 100] * 20_000
    output.write(document)
    data, descriptors, _, _ = socket.recv_fds(journal, 1 << 20, 2)
    assert data == b""
    assert fcntl.fcntl(descriptors[0], fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    with os.fdopen(descriptors[0], "rb") as file:
        file.seek(0)
        found = fields_of(file.read())
    assert len(orjson.loads(found["SENSOR_JSON"][0])["process"]["args"]) == 20_000
    assert output.counts.events == 1
    output.close()


@pytest.mark.hostile("broken-sink")
def test_journal_that_is_away_or_busy_costs_entries_not_time(journal: socket.socket, tmp_path: Path) -> None:
    """Counted by reason; found again when it is back."""
    away = Journal(str(tmp_path / "absent"))
    away.write(alert())
    assert (away.counts.errors["closed"], away.counts.dropped) == (1, 1)
    away.close()
    busy = Journal(str(tmp_path / "journal"))
    for number in range(2000):
        busy.write(alert(number))
    assert busy.counts.errors["stalled"] > 0
    assert busy.counts.events + busy.counts.dropped == 2000
    for _ in range(busy.counts.events):
        journal.recv(1 << 20)
    busy.write(alert())
    assert fields_of(journal.recv(1 << 20))["SENSOR_EVENT_ID"] == [b"b0-0-1-17"]
    busy.close()
