"""Recordings: documents as JSON lines, plain or in zstd frames, or as Parquet.

A recording begins with a header that says which version and event table wrote it. JSON lines lose at
most their last line to a crash, zstd at most the last frame; Parquet is nothing before it is closed.
"""

from __future__ import annotations

import io
import os
import platform
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import zstandard

from sensor import __version__, schema
from sensor.errors import SensorError, UsageError
from sensor.outputs.counts import Counts, reason_of
from sensor.outputs.ecs_json import EncodeError, encode
from sensor.outputs.jsonlines import JsonLines
from sensor.reading import RECORDING

SUFFIXES = (".jsonl", ".jsonl.zst", ".parquet")

#: When a frame ends: what a crash may cost, against what compression gains from length.
_FRAME_BYTES = 1 << 20
_FRAME_SECONDS = 2.0
_LEVEL = 3


class Recorder(Protocol):
    """A recording being written. Not thread-safe."""

    counts: Counts

    def write(self, document: dict[str, Any]) -> None:
        """Take one document."""

    def flush(self) -> None:
        """Hand on what is buffered, as far as the format allows."""

    def close(self) -> None:
        """Complete the file. Safe to call twice."""


def header() -> dict[str, Any]:
    """The header object of a recording made on this host."""
    host = {"name": platform.node(), "kernel": platform.release(), "machine": platform.machine()}
    return {"sensor": {"recording": RECORDING, "abi": schema.ABI, "version": __version__, "host": host}}


def check_target(path: Path) -> None:
    """Refuse a recording that can't be made, before anything is loaded into the kernel.

    Raises:
        UsageError: Unknown suffix, the file exists, its directory doesn't, or pyarrow is missing.
    """
    suffix = _suffix(path)
    if path.exists() and not _is_stream(path):
        raise UsageError(f"{path} exists: remove it or choose another name")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no directory")
    if suffix == ".parquet":
        from sensor import parquet

        parquet.require()


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise UsageError(f"{path.name}: the suffix chooses the format: one of {', '.join(SUFFIXES)}")


def _is_stream(path: Path) -> bool:
    return path.is_char_device() or path.is_fifo()


def open_recorder(path: Path, *, strict: bool = True, about: dict[str, Any] | None = None) -> Recorder:
    """Start a recording at *path*, format by suffix, mode 0600.

    Args:
        path: Must not exist.
        strict: A full disk raises SensorError (exit status 1); otherwise it costs documents, counted.
        about: The header; :func:`header` if None.

    Raises:
        UsageError: As of :func:`check_target`, or the file can't be made.
    """
    check_target(path)
    about = header() if about is None else about
    suffix = _suffix(path)
    if suffix == ".jsonl":
        recorder = JsonLines(_create(path), name="recording", path=path, strict=strict)
        recorder.write_line(encode(about))
        recorder.flush()
        recorder.counts.events = 0  # the header is no event
        return recorder
    stream = io.FileIO(path, "a", opener=lambda *_: _create(path))
    if suffix == ".jsonl.zst":
        return ZstdLines(stream, about, strict=strict)
    from sensor.parquet import ParquetRecorder

    return ParquetRecorder(stream, about, strict=strict)


def _create(path: Path) -> int:
    exclusive = 0 if _is_stream(path) else os.O_EXCL
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND | exclusive, 0o600)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error


class ZstdLines:
    """JSON lines in zstd frames, each of which can be read without the others.

    One long frame would compress a little better, but what is missing in its middle (a full disk)
    would take everything after it along.
    """

    def __init__(self, stream: io.FileIO, about: dict[str, Any], *, strict: bool = True,
                 clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.counts = Counts()
        self._stream, self._strict, self._clock = stream, strict, clock
        # Age by a clock that nobody sets: a day that is put back must not keep a frame open for so long.
        self._monotonic = monotonic
        self._encoder = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._pending = [encode(about)]
        self._size = 0
        self._documents = 0
        self._began = monotonic()

    def write(self, document: dict[str, Any]) -> None:
        """Take one document."""
        try:
            line = encode(document)
        except EncodeError:
            self.counts.drop("encode")
            return
        self._pending.append(line)
        self._documents += 1
        self._size += len(line)
        if self._size >= _FRAME_BYTES:
            self._write_frame()

    def flush(self) -> None:
        """Write a frame if there is one of some age: short ones cost most of the compression."""
        if self._pending and self._monotonic() - self._began >= _FRAME_SECONDS:
            self._write_frame()

    def _write_frame(self) -> None:
        frame = self._encoder.compress(b"".join(self._pending))
        documents, self._documents = self._documents, 0
        self._pending, self._size, self._began = [], 0, self._monotonic()
        try:
            write_whole(self._stream, frame)
        except OSError as error:
            self.counts.drop(reason_of(error), documents)
            if self._strict:
                raise SensorError(f"can't write {self._stream.name}: {error.strerror}") from error
            return
        self.counts.events += documents
        self.counts.bytes += len(frame)
        self.counts.last_success = self._clock()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._stream.closed:
            return
        try:
            if self._pending:
                self._write_frame()
        finally:
            self._stream.close()


def write_whole(stream: io.FileIO, data: bytes) -> None:
    """Write all of *data*, or take back what was written of it. Raises OSError."""
    regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    start = os.fstat(stream.fileno()).st_size if regular else 0
    view = memoryview(data)
    try:
        while view:
            view = view[stream.write(view) or 0:]
    except OSError:
        if regular:
            os.ftruncate(stream.fileno(), start)
        raise
