"""Rule files: found, and read with limits, before anybody looks at what they say.

Reading and parsing are apart: what was read is what is hashed, and it can be parsed by a process that
opens no file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sensor.errors import UsageError
from sensor.rules.model import Source

SUFFIXES = (".yml", ".yaml")
SAMPLES = ".samples"  # before the suffix: a rule's samples, no rule


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a rule set. A file over its bound is refused whole, a rule over the count alone."""

    file_bytes: int = 1 << 20  # the largest file of the public collections has 60 KB
    total_bytes: int = 32 << 20  # of all files; the public collections have 3 MB for Linux
    rules: int = 2000  # start-up time and memory grow with them
    files: int = 20_000  # stops a walk that was pointed at a whole disk


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was read. ``fault`` says why there are no ``data``."""

    display: str
    data: bytes
    fault: str = ""

    def text(self) -> str:
        """Its text. Raises Unreadable."""
        if self.fault:
            raise Unreadable(self.fault)
        return decoded(self.data)


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that rules are made from, but for the settings: rule files and processing pipelines."""

    files: tuple[File, ...]
    pipelines: tuple[File, ...] = ()

    def dump(self) -> bytes:
        """Encode for :meth:`parse`: a line of JSON, then the files one after the other."""
        head = [[[file.display, len(file.data), file.fault] for file in group]
                for group in (self.files, self.pipelines)]
        return b"".join([json.dumps(head).encode(), b"\n", *(file.data for file in (*self.files, *self.pipelines))])

    @classmethod
    def parse(cls, data: bytes) -> Gathered:
        """Decode what :meth:`dump` wrote."""
        head, _, rest = data.partition(b"\n")
        at, groups = 0, []
        for rows in json.loads(head):
            group = []
            for display, size, fault in rows:
                group.append(File(display, rest[at:at + size], fault))
                at += size
            groups.append(tuple(group))
        return cls(groups[0], groups[1])


class Unreadable(ValueError):
    """The file can't be had as text; ``str()`` says why, without the path."""


def is_samples(path: str) -> bool:
    """Whether a file holds samples of rules."""
    return os.path.splitext(path)[0].endswith(SAMPLES)


def discover(paths: Iterable[str], limits: Limits = LIMITS) -> list[Source]:
    """The rule files at and below the paths, sorted by name under each path.

    Symbolic links to files are followed, to directories not. Raises UsageError for a path that
    isn't there, and for more files than the limit.
    """
    found: list[Source] = []
    for path in paths:
        if not os.path.exists(path):
            raise UsageError(f"{path}: no such file or directory")
        if os.path.isdir(path):
            found.extend(_below(path))
        else:
            found.append(Source(path, path))
        if len(found) > limits.files:
            raise UsageError(f"{path}: more than {limits.files} rule files")
    return found


def _below(path: str) -> list[Source]:
    closed: list[str] = []  # directories that can't be read: as a source each is refused, and so is told
    names = [os.path.join(folder, name)
             for folder, _, names in os.walk(path, onerror=lambda error: closed.append(error.filename))
             for name in names if name.endswith(SUFFIXES) and not is_samples(name)]
    return [Source(name, name) for name in sorted([*names, *closed])]


def gather(sources: Sequence[Source], pipelines: Sequence[str] = (), limits: Limits = LIMITS) -> Gathered:
    """Read the files. One that can't be read, or is beyond the limits, has a fault instead of data."""
    left = limits.total_bytes
    groups: list[list[File]] = []
    for group in (sources, [Source(path, path) for path in pipelines]):
        files = []
        for source in group:
            try:
                data = read_bytes(source.path, limits.file_bytes)
                if len(data) > left:
                    raise Unreadable(f"all files together are larger than {limits.total_bytes} bytes")
                left -= len(data)
                files.append(File(source.display, data))
            except Unreadable as error:
                files.append(File(source.display, b"", str(error)))
        groups.append(files)
    return Gathered(tuple(groups[0]), tuple(groups[1]))


def read_text(path: str, limit: int) -> str:
    """Text of a regular file of at most ``limit`` bytes. Raises Unreadable."""
    return decoded(read_bytes(path, limit))


def read_bytes(path: str, limit: int) -> bytes:
    """Content of a regular file of at most ``limit`` bytes. Raises Unreadable."""
    try:
        # Non-blocking, so that a FIFO in a rule directory can't stop the load.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("not a regular file")
            if status.st_size > limit:
                raise Unreadable(f"larger than {limit} bytes")
            data = _whole(descriptor, status.st_size, limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror}") from error
    if len(data) > limit:
        raise Unreadable(f"larger than {limit} bytes")
    return data


def _whole(descriptor: int, size: int, limit: int) -> bytes:
    """Everything up to one byte more than the limit. A file may grow, and one in /proc says that it is empty."""
    parts = []
    while limit >= 0 and (part := os.read(descriptor, min(limit, max(size, 4096)) + 1)):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def decoded(data: bytes) -> str:
    """UTF-8 as text. Raises Unreadable."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"no UTF-8 at byte {error.start}") from error
