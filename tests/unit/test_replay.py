"""Replay: hostile recordings are counted by reason, the output is the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor import schema
from sensor.errors import ContentError, UsageError
from sensor.outputs.ecs_json import encode
from sensor.reading import REASONS, Limits, Reader
from sensor.replay import Expected, Result, compare, load_expected, replay, summary_line
from tests.unit.output_samples import CONNECT, RULE, alert, event

SMALL = Limits(line_bytes=4096, free_bytes=1 << 16, ratio=50)


def read(path: Path, data: bytes | Iterable[dict[str, Any]], kind: str = "auto",
         limits: Limits = SMALL) -> tuple[list[dict[str, Any]], dict[str, int]]:
    path = path / "recording"
    path.write_bytes(data if isinstance(data, bytes) else b"".join(map(encode, data)))
    reader = Reader(kind, limits)
    documents = list(reader.documents(str(path)))
    assert set(reader.skipped) <= set(REASONS)
    return documents, reader.skipped


def nested(levels: int) -> bytes:
    return b'{"event":{"action":"process-exec"},"x":' + b"[" * levels + b"]" * levels + b"}\n"


GOOD = encode(event())

BROKEN: dict[str, tuple[bytes, dict[str, int]]] = {
    "garbage": (b"\x00\xff\xfe{{{\n", {"json": 1}),
    "not an object": (b"[1, 2]\n17\n\"text\"\nnull\n", {"type": 4}),
    "event is a list": (b'{"event": ["process-exec"]}\n', {"type": 1}),
    "event is a number": (b'{"event": 5}\n', {"type": 1}),
    "action is a list of lists": (b'{"event": {"action": [[]]}}\n', {"type": 1}),
    "action is an object": (b'{"event": {"action": {}}}\n', {"unknown_event": 1}),
    "process is a text": (b'{"event": {"action": "process-exec"}, "process": "cat"}\n', {"type": 1}),
    "unknown action": (b'{"event": {"action": "teleport"}}\n', {"unknown_event": 1}),
    "no event": (b'{"process": {"pid": 1}}\n', {"unknown_event": 1}),
    "too deep": (nested(80), {"too_deep": 1}),
    "far too deep": (nested(1500), {"too_deep": 1}),
    "line too long": (b'{"x": "' + b"y" * 9000 + b'"}\n', {"too_long": 1}),
    "escapes that lie": (b'{"event": {"action": "process-exec"}, "sensor": {"escaped": ["a.b"]}}\n', {"escape": 1}),
    "invalid UTF-8": (b'{"event": {"action": "process-exec"}, "process": {"name": "\xff"}}\n', {"json": 1}),
    "lone surrogate": (b'{"event": {"action": "process-exec"}, "process": {"name": "\\ud800"}}\n', {"json": 1}),
    "number over all bounds": (b'{"event": {"action": "process-exec"}, "process": {"pid": 1e999}}\n', {"json": 1}),
    "blank lines": (b"\n\n  \n\r\n", {}),
    "other event table": (b'{"sensor": {"recording": 1, "abi": "0000"}}\n', {"abi": 1}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_line_is_counted_and_its_neighbours_are_read(tmp_path: Path, name: str) -> None:
    """One bad line costs that line, under its own reason."""
    data, expected = BROKEN[name]
    documents, skipped = read(tmp_path, GOOD + data + encode(event(18)))
    numbers = [document["event"].get("sequence") for document in documents]
    assert numbers[0] == 17
    assert numbers[-1] == 18
    assert skipped == expected


def test_recording_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    """What another format means by its lines can't be guessed."""
    documents, skipped = read(tmp_path, b'{"sensor": {"recording": 2}}\n' + GOOD)
    assert (documents, skipped) == ([], {"version": 1})


def test_own_header_is_no_event_and_no_loss(tmp_path: Path) -> None:
    """The header of this very version is read and forgotten."""
    header = {"sensor": {"recording": 1, "abi": schema.ABI}}
    documents, skipped = read(tmp_path, [header, event(), header, event(18)])
    assert (len(documents), skipped) == (2, {})


def test_last_line_cut_off_is_counted_as_truncated(tmp_path: Path) -> None:
    """A crash of the writer is not garbage; a last line that lacks only its newline is whole."""
    assert read(tmp_path, GOOD + GOOD[:50])[1] == {"truncated": 1}
    documents, skipped = read(tmp_path, GOOD + GOOD.rstrip())
    assert (len(documents), skipped) == (2, {})


def test_long_line_is_never_held_in_memory(tmp_path: Path) -> None:
    """A line without an end is discarded as it comes; the one after it is read."""
    path = tmp_path / "recording"
    with path.open("wb") as file:
        file.write(GOOD)
        file.seek(64 << 20, 1)  # a hole of NULs, as a file system leaves after a crash
        file.write(b"\n" + GOOD)
    import tracemalloc

    reader = Reader()
    tracemalloc.start()
    documents = list(reader.documents(str(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(documents), reader.skipped) == (2, {"too_long": 1})
    assert peak < 16 << 20


def frames(*parts: bytes) -> bytes:
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in parts)


def test_zstd_frames_one_after_another_are_one_recording(tmp_path: Path) -> None:
    """Recorder and `cat a.zst b.zst` both make such files; a line may even span two frames."""
    documents, skipped = read(tmp_path, frames(GOOD, GOOD[:100], GOOD[100:]))
    assert (len(documents), skipped) == (2, {})


def test_truncated_zstd_gives_what_was_whole(tmp_path: Path) -> None:
    """A frame that is cut off is counted, the frames before it are read."""
    whole = frames(GOOD)
    documents, skipped = read(tmp_path, whole + frames(GOOD * 3)[:-20])
    assert len(documents) >= 1
    assert skipped["truncated"] >= 1
    assert "zstd" not in skipped


def test_damaged_zstd_is_counted(tmp_path: Path) -> None:
    """Flipped bits stop the reading of that file with a reason."""
    data = bytearray(frames(GOOD, GOOD * 50))
    data[-10] ^= 0xFF
    documents, skipped = read(tmp_path, bytes(data))
    assert documents
    assert skipped == {"zstd": 1}


def test_zstd_bomb_is_stopped_early(tmp_path: Path) -> None:
    """A gigabyte of zeros or of empty objects in a few kilobytes is not unpacked."""
    for unit in (b"\0" * 4096, b"{}\n" * 1365):
        bomb = zstandard.ZstdCompressor().compress(unit * 20_000)
        documents, skipped = read(tmp_path, bomb, limits=Limits(free_bytes=1 << 20))
        assert documents == []
        assert skipped["bomb"] == 1


def test_gzip_is_refused_with_the_way_around(tmp_path: Path) -> None:
    """Somebody who has .gz files learns what to type."""
    with pytest.raises(UsageError, match="zcat"):
        read(tmp_path, b"\x1f\x8b\x08\0")


def test_recording_that_is_absent_is_bad_usage(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(UsageError, match="absent"):
        list(Reader().documents(str(tmp_path / "absent")))
    with pytest.raises(UsageError):
        list(Reader().documents(str(tmp_path)))


def test_alert_lines_are_the_events_they_repeat(tmp_path: Path) -> None:
    """An event with two alerts of `--events all` is one event; alerts alone are replayed once each."""
    documents, skipped = read(tmp_path, [event(1), alert(1), alert(1), alert(2), alert(2), event(3)])
    assert [document["event"]["sequence"] for document in documents] == [1, 2, 3]
    assert all(document["event"]["kind"] == "event" and "rule" not in document for document in documents)
    assert skipped == {"duplicate": 3}


def test_undecodable_bytes_come_back(tmp_path: Path) -> None:
    """What the writer escaped, the engine sees as the bytes they were."""
    document = event()
    document["process"]["args"] = ["\udcff\\"]
    documents, _ = read(tmp_path, [document])
    assert documents == [document]


ECS = {
    "@timestamp": "2026-11-21T10:00:00Z", "event.category": "process", "event.type": ["start"], "event.action": "exec",
    "process.pid": 7, "process.executable": "/bin/sh", "process.args": ["sh"], "process.exit_code": None,
    "process": {"parent": {"pid": 6}}, "user.id": 0, "host": {"name": "h"},
}


def test_ecs_of_another_maker_is_brought_into_shape(tmp_path: Path) -> None:
    """Dotted keys, nulls, single values and foreign actions are what others write."""
    documents, skipped = read(tmp_path, json.dumps(ECS).encode() + b"\n")
    assert skipped == {}
    assert documents == [{
        "@timestamp": "2026-11-21T10:00:00Z",
        "event": {"category": ["process"], "type": ["start"], "action": "process-exec"},
        "process": {"pid": 7, "executable": "/bin/sh", "args": ["sh"], "parent": {"pid": 6}},
        "user": {"id": "0"}, "host": {"name": "h"},
    }]


@pytest.mark.parametrize(("category", "kind", "more", "action"), [
    ("process", "end", {}, "process-exit"),
    ("file", "creation", {}, "file-open"),
    ("file", "change", {"event": {"action": "rename"}}, "file-rename"),
    ("file", "deletion", {}, "file-unlink"),
    ("network", "start", {}, "network-connect"),
    ("network", "start", {"network": {"direction": "ingress"}}, "network-accept"),
])
def test_foreign_action_is_told_by_category_and_type(tmp_path: Path, category: str, kind: str, more: dict[str, Any],
                                                     action: str) -> None:
    """The event is chosen by what ECS fixes, not by words that each maker chooses."""
    parts = {"event": {**more.get("event", {}), "category": [category], "type": [kind]}}
    documents, _ = read(tmp_path, [{**more, **parts}])
    assert documents[0]["event"]["action"] == action
    if category == "network":
        assert documents[0]["network"]["initiated"] is (action == "network-connect")


def test_input_sensor_takes_no_foreign_documents(tmp_path: Path) -> None:
    """--input sensor is the strict one."""
    documents, skipped = read(tmp_path, [ECS, event()], "sensor")
    assert (len(documents), skipped) == (1, {"type": 1})


def test_unknown_input_names_those_supported() -> None:
    """Bad usage, with what could have been said."""
    with pytest.raises(UsageError, match="auto, sensor, ecs"):
        Reader("sysmon")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["event", "action", "process", "parent", "args", "sensor", "escaped", "recording", "kind", "id",
                         "process.pid", "user", "category", "type", "rule", "x.y", "@timestamp"]), inner, max_size=4),
    max_leaves=15)


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON | st.binary(max_size=30) | st.builds(lambda part: {**event(), **part} if isinstance(part, dict)
                                                          else part, JSON), max_size=4),
       st.sampled_from(["auto", "sensor", "ecs"]))
def test_no_input_crashes_the_engine(tmp_path_factory: pytest.TempPathFactory, parts: list[Any], kind: str) -> None:
    """Whatever the lines hold, each is an event or counted; rules, alerts and outputs take what passes."""
    from sensor.outputs.summary import describe
    from sensor.pipeline import Pipeline
    from sensor.rules.matcher import Matcher

    data = b"\n".join(part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts)
    path = tmp_path_factory.mktemp("fuzz") / "recording"
    path.write_bytes(b"\n" + data)  # no file of another format, whatever it begins with
    pipeline = Pipeline(Matcher(()))
    for document in Reader(kind).documents(str(path)):
        pipeline.feed_document(document)
        describe(document)


def raise_for_cat(document: dict[str, Any]) -> list[dict[str, Any]]:
    if document.get("process", {}).get("name") != "cat":
        return []
    return [{**document, "rule": RULE}]


def record(tmp_path: Path, *documents: dict[str, Any]) -> str:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"".join(map(encode, documents)))
    return str(path)


class Lines:
    def __init__(self) -> None:
        self.data = b""

    def write(self, document: dict[str, Any]) -> None:
        self.data += encode(document)


def test_same_recordings_give_the_same_bytes(tmp_path: Path) -> None:
    """Replay is a function of its input."""
    path = record(tmp_path, event(1), CONNECT, event(2))
    outputs = []
    for _ in range(2):
        lines = Lines()
        result = replay([path, path], Reader(), raise_for_cat, [lines])
        outputs.append(lines.data)
    assert outputs[0] == outputs[1]
    assert (result.events, result.alerts, result.by_rule) == (6, 4, {RULE["id"]: 4})


def test_summary_line_holds_what_the_interface_promises() -> None:
    """Programs read the last line."""
    result = Result(events=20, alerts=3, by_rule={"b": 1, "a": 2})
    assert json.loads(summary_line(result, {"json": 1}, 2.0)) == {
        "events": 20, "skipped": {"json": 1}, "alerts": 3, "by_rule": {"a": 2, "b": 1}, "seconds": 2.0,
        "events_per_second": 10}
    assert json.loads(summary_line(Result(), {}, 0.0))["events_per_second"] == 0


def expectation(tmp_path: Path, text: str) -> dict[str, Expected]:
    path = tmp_path / "expected.yaml"
    path.write_text(text)
    return load_expected(str(path))


def test_expectation_is_a_count_or_the_events(tmp_path: Path) -> None:
    """YAML and JSON, short and long form."""
    assert expectation(tmp_path, "a: 2\nb: {count: 1, events: [x]}\nc:\n  events: [z, y]\n") == {
        "a": Expected(2), "b": Expected(1, ("x",)), "c": Expected(2, ("y", "z"))}
    assert expectation(tmp_path, '{"a": 0}') == {"a": Expected(0)}
    assert expectation(tmp_path, "{}") == {}


@pytest.mark.parametrize("text", [
    "", "- a\n", "a: many\n", "a: -1\n", "a: {}\n", "a: {counts: 1}\n", "a: {events: x}\n", "a: {events: [[x]]}\n",
    "a: 1\na: 2\n", "a: [1]\n", "[" * 5000, "a: *b\n", "\x00", "a: 1.5\n",
])
def test_broken_expectation_is_a_content_error(tmp_path: Path, text: str) -> None:
    """With the file, and the line where there is one."""
    with pytest.raises(ContentError, match=r"expected\.yaml"):
        expectation(tmp_path, text)


def test_comparison_is_empty_only_when_everything_agrees(tmp_path: Path) -> None:
    """Counts, events, rules that were not named, and rules that stayed silent all count."""
    result = replay([record(tmp_path, event(1), event(2))], Reader(), raise_for_cat, [], keep_ids=True)
    rule = RULE["id"]
    assert compare({rule: Expected(2)}, result) == []
    assert compare({rule: Expected(2, ("b0-0-1-1", "b0-0-1-2"))}, result) == []
    for wrong in ({}, {rule: Expected(1)}, {rule: Expected(2, ("b0-0-1-1", "b0-0-1-9"))},
                  {rule: Expected(2), "other": Expected(1)}):
        assert compare(wrong, result), wrong
    difference = "\n".join(compare({rule: Expected(1)}, result))
    assert f"-{rule} ({RULE['name']}): 1" in difference
    assert f"+{rule} ({RULE['name']}): 2" in difference


def test_alert_on_a_document_too_deep_for_any_output_is_skipped(tmp_path: Path) -> None:
    """Depth inside a known section is looked at when there is something to write."""
    deep = event()
    deep["process"]["args"] = orjson.loads(b"[" * 90 + b"]" * 90)
    reader = Reader()
    result = replay([record(tmp_path, deep, event(2))], reader, raise_for_cat, [])
    assert (result.events, result.alerts, reader.skipped) == (1, 1, {"too_deep": 1})
