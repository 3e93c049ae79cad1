"""JSON lines to a file descriptor: whole lines or nothing.

A write may be cut short (disk full, a reader that went away). The rest of that line is dropped, and
the next write starts with a newline, so that a torn line never swallows the one after it.
"""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensor.errors import SensorError, UsageError
from sensor.outputs.counts import Counts, reason_of
from sensor.outputs.ecs_json import EncodeError, encode

#: Flush without being asked beyond this; one system call for some 60 alerts.
BUFFER_BYTES = 64 * 1024
#: What a pipe that poll() calls writable takes without blocking (one page, PIPE_BUF).
_PIECE = 4096


def open_file(path: Path) -> int:
    """Open *path* to append to, mode 0600: what processes did is not for everybody.

    Raises:
        UsageError: It can't be opened. A FIFO without a reader is an error too, not a wait.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise UsageError(f"can't write to {path}: {error.strerror}") from error


class JsonLines:
    """An output of one JSON object a line.

    Args:
        fd: Where to write. Owned (closed by :meth:`close`) if *path* is given, else borrowed.
        path: The file behind *fd*, for :meth:`reopen`.
        strict: Raise SensorError (disk full and the like) or BrokenPipeError instead of dropping.
        patience: Seconds to wait for a reader; unlimited if strict.
        clock: Seconds since the epoch.
    """

    def __init__(self, fd: int, *, name: str = "file", path: Path | None = None, strict: bool = False,
                 patience: float = 1.0, clock: Callable[[], float] = time.time) -> None:
        self.name, self.counts = name, Counts()
        self._fd, self._path, self._strict, self._clock = fd, path, strict, clock
        self._patience = patience
        self._lines: list[bytes] = []
        self._size = 0
        self._stalled = False
        self._waits = False
        self._torn = False
        self._inspect()

    def _inspect(self) -> None:
        """Learn from the file whether writes can block and whether it ends in a torn line."""
        info = os.fstat(self._fd)
        self._waits = not stat.S_ISREG(info.st_mode)
        self._torn = False
        if self._path is not None and stat.S_ISREG(info.st_mode) and info.st_size:
            self._torn = not _ends_in_newline(self._path)

    def write(self, document: dict[str, Any]) -> None:
        """Take one document. Not encodable: counted as ``encode``."""
        try:
            line = encode(document)
        except EncodeError:
            self.counts.drop("encode")
            return
        self.write_line(line)

    def write_line(self, line: bytes) -> None:
        """Take one encoded line, which ends in a newline."""
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered lines; those that can't be written are dropped and counted."""
        if not self._lines:
            return
        lines, self._lines, self._size = self._lines, [], 0
        data = b"".join(lines)
        prefix = b"\n" if self._torn else b""
        written, error = self._write_all(prefix + data)
        self._account(lines, max(0, written - len(prefix)), error)
        if written:
            # The last byte on the other side decides, whatever was meant to follow it.
            self._torn = (prefix + data)[written - 1:written] != b"\n"

    def _account(self, lines: list[bytes], written: int, error: OSError | None) -> None:
        if error is None:
            done = len(lines)
        else:
            done, end = 0, 0
            for line in lines:
                end += len(line)
                if end > written:
                    break
                done += 1
        self.counts.events += done
        self.counts.bytes += written
        if done:
            self.counts.last_success = self._clock()
        if error is not None:
            self.counts.drop(reason_of(error), len(lines) - done)
            if self._strict:
                self._raise(error)

    def _raise(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise error
        where = self._path or self.name
        raise SensorError(f"can't write to {where}: {error.strerror or error}") from error

    def _write_all(self, data: bytes) -> tuple[int, OSError | None]:
        view, written = memoryview(data), 0
        while written < len(data):
            try:
                if self._waits:
                    self._wait()
                    written += self._put(view[written:written + _PIECE])
                else:
                    written += self._put(view[written:])
            except OSError as error:
                return written, error
        self._stalled = False
        return written, None

    def _put(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _wait(self) -> None:
        """Wait until the reader has room. Once it has stalled, no later write waits for it."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        seconds = None if self._strict else 0.0 if self._stalled else self._patience
        if not poller.poll(None if seconds is None else seconds * 1000):
            self._stalled = True
            raise BlockingIOError(11, "the reader does not read")

    def reopen(self) -> None:
        """Open the file anew by its name. If that fails the old one stays in use, and it is counted."""
        if self._path is None:
            return
        self.flush()
        try:
            fd = open_file(self._path)
        except UsageError:
            self.counts.drop("io", 0)
            return
        os.close(self._fd)
        self._fd = fd
        self._inspect()

    def close(self) -> None:
        """Flush, and close the file if it is ours."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            if self._path is not None:
                os.close(self._fd)
            self._fd = -1


def _ends_in_newline(path: Path) -> bool:
    # The descriptor itself is open for writing only.
    try:
        with path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"
    except OSError:
        return False  # unreadable: an empty line too many is harmless, a glued one is not
