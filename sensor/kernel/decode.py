"""Turns ring records into values, by the event table alone."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sensor import schema
from sensor.errors import AbiMismatch, RecordError, ShortRecord, UnknownType
from sensor.schema import Event, Kind

_HEADER = struct.Struct("<" + "".join(field.kind.value[1] for field in schema.HEADER))

Buffer = bytes | memoryview


@dataclass(slots=True)
class Record:
    """One event as the kernel wrote it.

    ``values`` stands in the order of ``schema.BY_ID[type].fields``: int for numbers, str for
    TEXT and PATH ("" where absent), tuple of str for LIST, 16 bytes for ADDRESS. Text is
    UTF-8 with surrogateescape, so that any bytes survive. Times in ns (CLOCK_BOOTTIME).
    """

    type: int
    cpu: int
    seq: int
    time_ns: int
    start_ns: int
    pid: int
    tid: int
    uid: int
    gid: int
    cgroup_id: int
    mntns: int
    flags: int
    values: tuple[Any, ...]
    ring: int = 0


def _text(raw: bytes) -> str:
    return raw.removesuffix(b"\0").decode("utf-8", "surrogateescape")


def path_text(raw: bytes) -> str:
    """Join the components of a dentry walk, which come leaf first, each ended by NUL; none is the root."""
    parts = [part for part in raw.split(b"\0") if part and part != b"/"]
    parts.reverse()
    return "/" + b"/".join(parts).decode("utf-8", "surrogateescape")


def _list(raw: bytes) -> tuple[str, ...]:
    if not raw:
        return ()
    if raw[-1] == 0:
        raw = raw[:-1]
    return tuple(part.decode("utf-8", "surrogateescape") for part in raw.split(b"\0"))


_TEXT: dict[Kind, Callable[[bytes], Any]] = {Kind.TEXT: _text, Kind.PATH: path_text, Kind.LIST: _list}


_ABSENT: dict[Callable[[bytes], Any], Any] = {_text: "", path_text: "", _list: ()}


@dataclass(frozen=True, slots=True)
class _Layout:
    fixed: struct.Struct
    texts: tuple[tuple[int, Callable[[bytes], Any]], ...]  # position in values, how to read it


def _layout(event: Event) -> _Layout:
    fixed = struct.Struct("<" + "".join(field.kind.value[1] for field in event.fields))
    texts = tuple((index, _TEXT[field.kind]) for index, field in enumerate(event.fields) if field.kind.is_text)
    return _Layout(fixed, texts)


_LAYOUTS: dict[int, _Layout] = {event.id: _layout(event) for event in schema.EVENTS if event.id < 100}


def decode(record: Buffer, ring: int = 0) -> Record:
    """Decode one ring record.

    Args:
        record: Bytes after the 8-byte ring header. Borrowed; what is kept is copied.
        ring: Index of the ring that it came from, kept in the result.

    Raises:
        AbiMismatch: Written under another ``schema.ABI``.
        UnknownType: No such row in the event table.
        ShortRecord: The record, or a text word in it, ends beyond its bytes.

    Source: layout in ``schema.EVENTS``; framing in kernel/bpf/ringbuf.c.
    """
    size = len(record)
    if size < _HEADER.size:
        raise ShortRecord(f"{size} bytes, the header alone has {_HEADER.size}")
    abi, kind, cpu, seq, time_ns, start_ns, pid, tid, uid, gid, cgroup_id, mntns, flags = _HEADER.unpack_from(record)
    if abi != schema.ABI_WORD:
        raise AbiMismatch(f"record of layout {abi:08x}, this sensor has {schema.ABI_WORD:08x}")
    layout = _LAYOUTS.get(kind)
    if layout is None:
        raise UnknownType(f"event type {kind}")
    if size < _HEADER.size + layout.fixed.size:
        raise ShortRecord(f"{size} bytes for {schema.BY_ID[kind].name}")
    values = list(layout.fixed.unpack_from(record, _HEADER.size))
    for index, read in layout.texts:
        word = values[index]
        if not word:  # never written: absent, unlike a text of length zero
            values[index] = _ABSENT[read]
            continue
        offset, length = word & 0xFFFF, word >> 16
        if offset + length > size:
            raise ShortRecord(f"text at {offset}+{length} in a record of {size} bytes")
        values[index] = read(bytes(record[offset:offset + length]))
    return Record(kind, cpu, seq, time_ns, start_ns, pid, tid, uid, gid, cgroup_id, mntns, flags, tuple(values), ring)


_BY_TIME = attrgetter("time_ns")


def decode_all(rings: Sequence[Sequence[bytes]], malformed: dict[str, int]) -> list[Record]:
    """The records of several rings by time; those that can't be decoded are counted by reason."""
    records: list[Record] = []
    for index, raw in enumerate(rings):
        for data in raw:
            try:
                records.append(decode(data, index))
            except RecordError as error:
                malformed[error.reason] += 1
    records.sort(key=_BY_TIME)
    return records


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one field lies in every record of an event, from the record's start, and how to read it alone."""

    offset: int
    size: int
    is_text: bool
    read: Callable[[Buffer], Any]


def slots_of(event: Event) -> dict[str, Slot]:
    """Slots of the header's and the event's fields, by name. ``read`` takes a record that ``decode`` takes."""
    found, offset = {}, 0
    for field in (*schema.HEADER, *event.fields):
        size = struct.calcsize("<" + field.kind.value[1])
        found[field.name] = Slot(offset, size, field.kind.is_text, _reader(field.kind, offset))
        offset += size
    return found


def _reader(kind: Kind, offset: int) -> Callable[[Buffer], Any]:
    unpack = struct.Struct("<" + kind.value[1]).unpack_from
    if not kind.is_text:
        return lambda record: unpack(record, offset)[0]
    read = _TEXT[kind]

    def text(record: Buffer) -> Any:
        (word,) = unpack(record, offset)
        start = word & 0xFFFF
        return read(bytes(record[start:start + (word >> 16)])) if word else _ABSENT[read]

    return text
