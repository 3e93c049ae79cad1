"""The crashes of this host: JSON lines in the state directory, one record each, the last of an id counts.

Appended to by a process without privilege through a descriptor; cut to its bound by root, as lines, unparsed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensor.crashes.verdict import ATTRIBUTED, COMPONENTS, CONFIDENCE
from sensor.statefiles import write_whole

NAME = "crashes.jsonl"
RECORDS = 256
RECORD_BYTES = 24 << 10
FILE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """One crash of the database. ``time`` in seconds since the epoch, of the crash or, failing that, of its finding."""

    id: str
    time: float
    found: float
    scan: str  # which run of the search found it
    kind: str
    title: str
    fatal: bool
    attributed: str
    component: str
    component_kind: str
    confidence: str
    rule: str
    evidence: tuple[str, ...]
    source: str
    release: str = ""
    comm: str = ""
    pid: int | None = None
    cpu: int | None = None
    taint: str = ""
    rip: str = ""
    panic: str = ""
    modules: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    counted: bool = True  # a warning that ended nothing is kept for what it says of us, and is no crash

    def line(self) -> bytes:
        """Encode, with a newline; what makes it too long is left out."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("", "modules", "lines", "trace"):
            if name:
                values[name] = ()
            data = json.dumps(values).encode() + b"\n"
            if len(data) <= RECORD_BYTES:
                return data
        return b""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value
                for name in self.__slots__}


_TEXTS = ("id", "scan", "kind", "title", "attributed", "component", "component_kind", "confidence", "rule", "source",
          "release", "comm", "taint", "rip", "panic")
_LISTS = ("evidence", "modules", "trace", "lines")


def parse(line: bytes) -> Found | None:
    """Decode one record; None for anything else."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    texts = {name: raw.get(name) for name in _TEXTS}
    lists = {name: raw.get(name) for name in _LISTS}
    numbers = {name: raw.get(name) for name in ("pid", "cpu")}
    times: dict[str, Any] = {name: raw.get(name) for name in ("time", "found")}
    if (not all(isinstance(text, str) for text in texts.values())
            or not all(isinstance(values, list) and all(isinstance(value, str) for value in values)
                       for values in lists.values())
            or not all(value is None or type(value) is int for value in numbers.values())
            or not all(type(value) in (int, float) and 0 <= value < 1e11 for value in times.values())
            or raw["attributed"] not in ATTRIBUTED or raw["component_kind"] not in COMPONENTS
            or raw["confidence"] not in CONFIDENCE):
        return None
    values: dict[str, Any] = {**texts, **{name: tuple(raw[name]) for name in _LISTS}, **numbers, **times}
    return Found(**values, fatal=raw.get("fatal") is True, counted=raw.get("counted") is not False)


def read(data: bytes) -> list[Found]:
    """Records, oldest crash first; of each id the last that was written."""
    found: dict[str, Found] = {}
    for line in data[-FILE_BYTES:].split(b"\n"):
        if line and len(line) <= RECORD_BYTES and (record := parse(line)) is not None:
            found[record.id] = record
    return sorted(found.values(), key=lambda record: (record.time, record.id))[-RECORDS:]


def read_file(path: Path) -> list[Found]:
    """Records of the file; none where there is no file yet. Raises OSError where it can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return read(os.read(fd, FILE_BYTES)) if stat.S_ISREG(os.fstat(fd).st_mode) else []
    finally:
        os.close(fd)


def counts(records: Iterable[Found]) -> dict[str, int]:
    """Crashes by whom they are attributed to."""
    totals = dict.fromkeys(ATTRIBUTED, 0)
    for record in records:
        totals[record.attributed] += record.counted
    return totals


def open_for_append(path: Path) -> tuple[int, bytes]:
    """Descriptor to append by, and what the file holds; cut to the newest records where it has grown."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    size = os.fstat(fd).st_size
    data = os.pread(fd, FILE_BYTES, max(0, size - FILE_BYTES))
    lines = data.split(b"\n")
    whole = not lines[-1]  # else the last write was cut short
    if size <= FILE_BYTES // 2 and len(lines) <= RECORDS * 2 and whole:
        return fd, data
    os.close(fd)
    kept = [line for line in lines[:-1] if len(line) <= RECORD_BYTES][-RECORDS:]
    data = b"".join(line + b"\n" for line in kept)[-FILE_BYTES // 2:]
    write_whole(path, data)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC), data
