"""Recordings: every format gives back the documents that were written, and says when it can't write."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor import parquet, schema
from sensor.errors import SensorError, UsageError
from sensor.reading import Limits, Reader
from sensor.record import Recorder, ZstdLines, check_target, header, open_recorder
from tests.unit.output_samples import CONNECT, event

FORMATS = ("jsonl", "jsonl.zst", "parquet")
TEXT = st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def record(path: Path, documents: list[dict[str, Any]], **keywords: Any) -> Recorder:
    recorder = open_recorder(path, **keywords)
    for document in documents:
        recorder.write(document)
    recorder.close()
    recorder.close()
    return recorder


def read(path: Path, limits: Limits | None = None) -> tuple[list[dict[str, Any]], dict[str, int]]:
    reader = Reader("sensor", limits)
    return list(reader.documents(str(path))), reader.skipped


@pytest.mark.parametrize("suffix", FORMATS)
def test_recording_gives_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    """Same documents, same order, header understood, nobody else may read it."""
    path = tmp_path / f"r.{suffix}"
    documents = [event(1), CONNECT, event(2, labels={"team": ["a", 1]}, message="x")]
    documents[0]["process"]["thread"]["capabilities"] = {"effective": (1 << 64) - 1}
    documents[0]["process"]["args"] = ["\udcff", "\\", "\n\x1b"]
    recorder = record(path, documents)
    assert read(path) == (documents, {})
    assert recorder.counts.events == 3
    assert recorder.counts.dropped == 0
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(TEXT, max_size=4), path=TEXT, number=st.integers(-2**63, 2**64 - 1), odd=st.booleans())
@pytest.mark.hostile("delimiters")
def test_any_bytes_and_numbers_survive_each_format(tmp_path_factory: pytest.TempPathFactory, suffix: str,
                                                   arguments: list[str], path: str, number: int, odd: bool) -> None:
    """Also values that a column was not made for."""
    document = event()
    document["process"].update(args=arguments, pid=number)
    document["file"] = {"path": number if odd else path, "inode": number, "mode": 5 if odd else "0644"}
    target = tmp_path_factory.mktemp("r") / f"r.{suffix}"
    record(target, [document])
    assert read(target) == ([document], {})


def test_header_says_who_wrote_it(tmp_path: Path) -> None:
    """Version, event table and host, in the first line."""
    path = tmp_path / "r.jsonl"
    record(path, [])
    about = orjson.loads(path.read_bytes())
    assert about == header()
    assert about["sensor"]["abi"] == schema.ABI
    assert about["sensor"]["recording"] == 1


def test_target_is_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    """Unknown suffix, an existing file, an absent directory: bad usage."""
    (tmp_path / "there.jsonl").touch()
    for name, reason in (("r.csv", "suffix"), ("there.jsonl", "exists"), ("no/r.jsonl", "no directory"),
                         ("r", "suffix"), ("r.jsonl.gz", "suffix")):
        with pytest.raises(UsageError, match=reason):
            check_target(tmp_path / name)
    check_target(tmp_path / "new.parquet")


def test_zstd_frames_end_by_size_and_by_age(tmp_path: Path) -> None:
    """A crash costs at most the frame that was not yet written."""
    clock = [0.0]
    path = tmp_path / "r.jsonl.zst"
    recorder = ZstdLines(io.FileIO(path, "w"), header(), monotonic=lambda: clock[0])
    recorder.write(event(1))
    recorder.flush()
    assert path.stat().st_size == 0, "a young frame waits"
    clock[0] = 5.0
    recorder.flush()
    assert [document["event"]["sequence"] for document in read(path)[0]] == [1]
    for number in range(1500):
        recorder.write(event(number, message="x" * 1000))
    assert len(read(path)[0]) > 500, "a megabyte does not wait for the clock"
    recorder.close()
    assert len(read(path)[0]) == 1501


class FullDisk(io.FileIO):
    """A file that takes so many bytes more."""

    room = 1 << 30

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(bytes(data[:self.room]))
        self.room -= taken
        return taken


@pytest.mark.hostile("full-disk")
def test_frame_cut_by_a_full_disk_does_not_harm_the_next(tmp_path: Path) -> None:
    """What was written of it is taken back; the daemon goes on."""
    path = tmp_path / "r.jsonl.zst"
    stream = FullDisk(path, "a")
    clock = [0.0]
    recorder = ZstdLines(stream, header(), strict=False, monotonic=lambda: clock[0])
    for number, room in ((1, 1 << 30), (2, 30), (3, 1 << 30)):
        stream.room = room
        recorder.write(event(number))
        clock[0] += 10
        recorder.flush()
    recorder.close()
    documents, skipped = read(path)
    assert [document["event"]["sequence"] for document in documents] == [1, 3]
    assert skipped == {}
    assert (recorder.counts.events, recorder.counts.dropped, recorder.counts.errors["no_space"]) == (2, 1, 1)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.hostile("full-disk")
def test_full_disk_ends_a_strict_recording_and_is_counted_by_another(tmp_path: Path, suffix: str,
                                                                     strict: bool) -> None:
    """`sensor record` says so with status 1; a daemon that also records goes on."""
    path = tmp_path / f"full.{suffix}"
    path.symlink_to("/dev/full")
    documents = [event(number) for number in range(20)]
    if strict:
        with pytest.raises(SensorError, match="No space left") as caught:
            record(path, documents, strict=True)
        assert caught.value.exit_status == 1
    else:
        counts = record(path, documents, strict=False).counts
        assert counts.events == 0
        assert counts.dropped >= 20
        assert counts.errors["no_space"] >= 1


def test_document_that_cannot_be_written_is_dropped_and_counted(tmp_path: Path) -> None:
    """It costs itself only, in each format."""
    for suffix in FORMATS:
        recorder = record(tmp_path / f"r.{suffix}", [event(1, labels=b"bytes"), event(2)])
        assert recorder.counts.errors["encode"] == 1
        assert len(read(tmp_path / f"r.{suffix}")[0]) == 1


def test_damaged_parquet_is_counted(tmp_path: Path) -> None:
    """Cut off, flipped, or a lie after the magic number: no crash, no event."""
    path = tmp_path / "r.parquet"
    record(path, [event(number) for number in range(50)])
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:200], b"PAR1", b"PAR1" + b"\xff" * 500 + b"PAR1",
                 whole[:-60] + b"\xff" * 40 + whole[-20:]):
        path.write_bytes(data)
        documents, skipped = read(path)
        assert documents == []
        assert skipped == {"parquet": 1}


def test_parquet_of_other_columns_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Columns that we don't know are kept, rows that are no events are counted."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"event.action": ["process-exec", "dance", None], "event": ["x", "y", None],
                             "n": [1, 2, 3]}), path)
    documents, skipped = read(path)
    assert documents == []
    assert sum(skipped.values()) >= 1
    pq.write_table(pa.table({"event.action": ["process-exec", "dance", None], "n": [1, 2, 3]}), path)
    documents, skipped = read(path)
    assert documents == [{"event": {"action": "process-exec"}, "n": 1}]
    assert skipped == {"unknown_event": 1, "type": 1}


def test_parquet_bomb_of_one_long_text_is_not_unfolded(tmp_path: Path) -> None:
    """A dictionary makes gigabytes of rows from one text: such rows are skipped and counted."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    text = "x" * (8 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([text]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"event.action": ["process-exec"] * 2000, "process.command_line": column}), path)
    assert path.stat().st_size < 1 << 20
    documents, skipped = read(path)
    assert documents == []
    assert skipped == {"too_long": 2000}


def test_columns_follow_the_event_table() -> None:
    """A column for each key, none typed twice."""
    columns = parquet.columns()
    for item in schema.EVENTS:
        for field in item.fields:
            if field.ecs:
                assert field.ecs in columns
    assert columns["process.args"] is list
    assert columns["network.initiated"] is bool
    assert columns["file.mode"] is str
    assert columns["process.parent.pid"] is int


def test_long_lists_of_many_rows_are_no_long_row(tmp_path: Path) -> None:
    """The bound is a row's: a thousand rows of 8 KiB are read, and a row over it costs itself alone."""
    documents = [event(number) for number in range(1000)]
    for number, document in enumerate(documents):
        document["process"]["args"] = [f"{number}", "x" * 8000]
    long = event(1000)
    long["process"]["args"] = ["y" * 3_000_000, "z" * 3_000_000]
    path = tmp_path / "r.parquet"
    record(path, [*documents[:500], long, *documents[500:]])
    assert read(path) == (documents, {"too_long": 1})


def test_parquet_gives_back_rows_of_every_shape_in_their_order(tmp_path: Path) -> None:
    """Rows with values in other columns, none of them sharing a list with another."""
    documents = [event(number, labels={"n": number}) if number % 3 else event(number, message="x")
                 for number in range(5000)]
    for number, document in enumerate(documents):
        if number % 2:
            document["process"]["args"] = ["same"]
    path = tmp_path / "r.parquet"
    record(path, documents)
    again, skipped = read(path)
    assert again == documents
    assert skipped == {}
    assert again[1]["process"]["args"] is not again[3]["process"]["args"]
