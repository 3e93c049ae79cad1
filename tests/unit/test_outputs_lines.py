"""JSON lines to files and pipes: whole lines or none, and every failure counted."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import orjson
import pytest

from sensor.errors import SensorError, UsageError
from sensor.outputs import open_output
from sensor.outputs.jsonlines import JsonLines, open_file
from tests.unit.output_samples import event


class Flaky(JsonLines):
    """Writes only so many bytes more, as a disk that fills up does."""

    room: int | None = None

    def _put(self, data: memoryview) -> int:
        if self.room is None:
            return super()._put(data)
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = super()._put(data[:self.room])
        self.room -= taken
        return taken


def flaky(path: Path) -> Flaky:
    return Flaky(open_file(path), path=path, clock=lambda: 5.0)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")


def test_each_document_is_one_line(tmp_path: Path) -> None:
    """What was written can be read line by line, in order."""
    path = tmp_path / "out"
    output = open_output(str(path))
    for number in range(7):
        output.write(event(number))
    output.close()
    output.close()
    assert [orjson.loads(line)["event"]["sequence"] for line in lines(path)[:-1]] == list(range(7))
    assert output.counts.events == 7
    assert output.counts.bytes == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.hostile("broken-sink")
def test_torn_line_is_never_followed_by_a_glued_one(tmp_path: Path) -> None:
    """After a disk was full in mid-line, the next line starts on its own."""
    path = tmp_path / "out"
    output = flaky(path)
    output.room = 40
    output.write(event(1))
    output.flush()
    output.room = None
    output.write(event(2))
    output.close()
    torn, whole, end = lines(path)
    assert len(torn) == 40
    assert orjson.loads(whole)["event"]["sequence"] == 2
    assert end == b""
    assert (output.counts.events, output.counts.dropped, output.counts.errors["no_space"]) == (1, 1, 1)


def test_lines_written_before_the_disk_was_full_are_counted_as_written(tmp_path: Path) -> None:
    """Of a batch, what reached the disk is no loss: written plus dropped is all."""
    path = tmp_path / "out"
    output = flaky(path)
    size = len(orjson.dumps(event(10))) + 1
    output.room = size * 2 + 10
    for number in range(10, 15):
        output.write(event(number))
    output.flush()
    assert (output.counts.events, output.counts.dropped) == (2, 3)
    assert output.counts.bytes == size * 2 + 10


def test_file_that_ends_in_a_torn_line_is_continued_on_a_fresh_one(tmp_path: Path) -> None:
    """A crash may have cut the last line of the file that is appended to."""
    path = tmp_path / "out"
    path.write_bytes(b'{"event": {"act')
    output = open_output(str(path))
    output.write(event(3))
    output.close()
    assert orjson.loads(lines(path)[1])["event"]["sequence"] == 3


@pytest.mark.hostile("full-disk")
def test_full_disk_costs_documents_and_goes_on() -> None:
    """The daemon survives /dev/full, and counts."""
    output = open_output("/dev/full")
    for number in range(3):
        output.write(event(number))
        output.flush()
    output.close()
    assert (output.counts.dropped, output.counts.errors["no_space"], output.counts.events) == (3, 3, 0)


def test_full_disk_ends_a_one_shot_command_with_status_1() -> None:
    """replay and record say what is wrong."""
    output = open_output("/dev/full", strict=True)
    output.write(event())
    with pytest.raises(SensorError, match="No space left") as caught:
        output.close()
    assert caught.value.exit_status == 1


def pipe_output(**keywords: object) -> tuple[JsonLines, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return JsonLines(writer, path=Path("pipe"), **keywords), reader  # type: ignore[arg-type]


@pytest.mark.hostile("broken-sink")
def test_reader_that_stalls_costs_documents_not_time() -> None:
    """A pipe nobody reads blocks a write for its patience, and later ones not at all."""
    output, reader = pipe_output(patience=0.05)
    started = time.monotonic()
    for number in range(50):
        output.write(event(number, message="x" * 5000))
        output.flush()
    assert time.monotonic() - started < 1
    assert (output.counts.events, output.counts.errors["stalled"], output.counts.dropped) == (0, 50, 50)
    assert b"\n" not in os.read(reader, 1 << 20), "the pipe had room for a part of the first line"
    output.write(event(99))
    output.flush()
    nothing, line, end = os.read(reader, 1 << 20).split(b"\n")
    assert (nothing, end) == (b"", b"")
    assert orjson.loads(line)["event"]["sequence"] == 99
    os.close(reader)
    output.close()


@pytest.mark.hostile("broken-sink")
def test_reader_that_went_away_is_counted_as_closed() -> None:
    """EPIPE is a reason of its own."""
    output, reader = pipe_output()
    os.close(reader)
    output.write(event())
    output.flush()
    assert output.counts.errors["closed"] == 1
    output.close()


def test_reader_that_went_away_is_a_broken_pipe_for_one_shot_commands() -> None:
    """`| head` ends a replay quietly; the caller needs to know which failure it was."""
    output, reader = pipe_output(strict=True)
    os.close(reader)
    output.write(event())
    with pytest.raises(BrokenPipeError):
        output.close()


def test_undecodable_document_is_dropped_and_counted(tmp_path: Path) -> None:
    """A value that JSON lacks costs that document only."""
    output = open_output(str(tmp_path / "out"))
    output.write(event(labels=b"bytes"))
    output.write(event(1))
    output.close()
    assert (output.counts.errors["encode"], output.counts.events) == (1, 1)


@pytest.mark.hostile("broken-sink")
def test_reopen_follows_a_rotated_log(tmp_path: Path) -> None:
    """After logrotate moved the file away, writing goes on in a new one of the old name."""
    path = tmp_path / "out"
    output = open_output(str(path))
    output.write(event(1))
    path.rename(tmp_path / "out.1")
    output.reopen()
    output.write(event(2))
    output.close()
    assert len(lines(tmp_path / "out.1")) == len(lines(path)) == 2


def test_output_that_cannot_be_opened_is_bad_usage(tmp_path: Path) -> None:
    """A directory that is absent, and a FIFO without a reader, are said at start."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path / "absent" / "out", fifo, tmp_path):
        with pytest.raises(UsageError, match="can't write"):
            open_output(str(path))
