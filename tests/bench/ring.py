"""Recordings as the kernel's records: what the ring would hold, for benchmarks and tests of the hot path.

A recording holds documents. The records that they came from are written back here as far as documents tell
them, with the processes that ran before as /proc would have told them. Laps are the same events again, by new
processes at later times.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import zstandard

from sensor.kernel.decode import Record
from sensor.process.model import Found
from sensor.rules.values import find
from sensor.schema import ABI_WORD, BY_ID, BY_NAME, HEADER, Event, Flag, Kind

_HEADER = struct.Struct("<" + "".join(field.kind.value[1] for field in HEADER))
_FLAGS = {(flag.name or "").lower(): int(flag) for flag in Flag}
LAP_NS = 10_000_000_000_000  # longer than a recording, and than anything that is remembered by time
PIDS = 100_000  # that a lap may have
_AF = {"ipv4": 2, "ipv6": 10}

Document = dict[str, Any]


def encode(record: Record) -> bytes:
    """The record's bytes as a probe would write them; ``decode`` gives the record back."""
    event, tail, words = BY_ID[record.type], b"", []
    fixed = _HEADER.size + sum(field.kind.value[2] for field in event.fields)
    for field, value in zip(event.fields, record.values, strict=True):
        if not field.kind.is_text:
            words.append(value)
            continue
        raw = text_bytes(field.kind, value)
        words.append((fixed + len(tail)) | len(raw) << 16 if raw is not None else 0)
        tail += raw or b""
    head = _HEADER.pack(ABI_WORD, record.type, record.cpu, record.seq, record.time_ns, record.start_ns, record.pid,
                        record.tid, record.uid, record.gid, record.cgroup_id, record.mntns, record.flags)
    return head + struct.pack("<" + "".join(field.kind.value[1] for field in event.fields), *words) + tail


def text_bytes(kind: Kind, value: Any) -> bytes | None:
    """The bytes of one text field; None where it was never written."""
    if not value:
        return None
    if kind is Kind.LIST:
        return b"".join(item.encode("utf-8", "surrogateescape") + b"\0" for item in value)
    raw = value.encode("utf-8", "surrogateescape")
    if kind is Kind.PATH:
        return b"".join(part + b"\0" for part in reversed(raw.split(b"/")) if part)
    return raw + b"\0"


def documents(path: Path) -> Iterator[Document]:
    """The events of a recording in JSON lines, plain or zstd."""
    with path.open("rb") as raw:
        stream: Any = raw
        if path.suffix == ".zst":
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
        for line in stream:
            document = orjson.loads(line)
            if "event" in document and document["event"].get("kind") == "event":
                yield document


class Recording:
    """The first events of a recording, read anew by whoever iterates: a long one has no room in memory."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count

    def __iter__(self) -> Iterator[Document]:
        return islice(documents(self._path), self._count)


def _ns(text: str | None) -> int:
    if not text:
        return 0
    moment = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 1_000_000_000 + int(text[20:29])


class Ring:
    """A recording as records, in their order."""

    def __init__(self, events: Iterable[Document]) -> None:
        """*events* are documents of the kernel's events as the sensor wrote them, to be iterated more than once."""
        self.documents = events
        # A start read from /proc is rounded down, until an event tells it: the latest is the true one.
        self._exact: dict[str, int] = {}
        self._starts: dict[int, set[int]] = {}
        for document in events:
            for process in (document["process"], document["process"].get("parent", {})):
                if entity := process.get("entity_id"):
                    self._exact[entity] = max(self._exact.get(entity, 0), _ns(process["start"]))
        for document in events:
            process = document["process"]
            self._starts.setdefault(process["pid"], set()).add(self._exact[process["entity_id"]])
        self.found = self._found(events)

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self.documents)

    @cached_property
    def records(self) -> list[Record]:
        """All at once."""
        return list(self)

    def laps(self, first: int, count: int) -> Iterator[bytes]:
        """The events *count* times, each time by processes of their own. Encoded as they are asked for."""
        sequence = first * len(self.records)
        for lap in range(first, first + count):
            for record in self.records:
                yield encode(moved(record, lap, sequence))
                sequence += 1

    def _record(self, document: Document) -> Record:
        event = BY_NAME[document["event"]["action"].replace("-", "_")]
        process, time_ns = document["process"], _ns(document["@timestamp"])
        flags = sum(_FLAGS[name] for name in find(document, "sensor.flags") or ())
        values = tuple(self._value(event, field.name, field.ecs, field.kind, document) for field in event.fields)
        effective = find(document, "user.effective.id")
        return Record(event.id, 0, document["event"]["sequence"], time_ns,
                      self._exact[process["entity_id"]], process["pid"],
                      find(document, "process.thread.id") or process["pid"], int(effective or 0),
                      int(find(document, "user.effective.group.id") or 0), find(document, "sensor.cgroup.id") or 0,
                      find(document, "process.namespace.mnt") or 0, flags, values)

    def _value(self, event: Event, name: str, ecs: str | None, kind: Kind, document: Document) -> Any:
        made = self._internal(event, name, document)
        if made is None:
            made = find(document, ecs) if ecs else None
        if kind is Kind.ADDRESS:
            return _address(made)
        if kind is Kind.LIST:
            return tuple(made or ())
        if kind.is_text:
            return made or ""
        if isinstance(made, str):
            return int(made, 8 if name == "mode" else 10)
        return int(made or 0)

    def _internal(self, event: Event, name: str, document: Document) -> Any:
        """Fields that documents don't show as they are."""
        process = document["process"]
        if event.name == "process_fork":
            child, time_ns = process["child"]["pid"], _ns(document["@timestamp"])
            born = [start for start in self._starts.get(child, ()) if start <= time_ns]
            return {"child_start_ns": max(born, default=time_ns), "child_ns_pid": child, "parent_pid": process["pid"],
                    "parent_start_ns": self._exact[process["entity_id"]]}.get(name)
        if event.name == "process_exec":
            script = process.get("script")
            return {"filename": script or process.get("executable", ""), "interpreter": process.get("executable", ""),
                    "executable": process.get("executable_resolved", ""), "ns_pid": process["pid"],
                    "parent_start_ns": self._exact.get(find(document, "process.parent.entity_id") or "")}.get(name)
        return _AF[find(document, "network.type") or "ipv4"] if name == "address_family" else None

    def _found(self, events: Iterable[Document]) -> list[Found]:
        """The processes that documents name as parents, and that no earlier event told of."""
        told: set[str] = set()
        found: dict[str, Found] = {}
        for document in events:
            process = document["process"]
            for each, parent in ((process, process.get("parent", {})), (process.get("parent", {}), {})):
                entity = each.get("entity_id")
                if entity is None or entity in told:
                    continue
                told.add(entity)
                if each is process and document["event"]["action"] == "process-exec":
                    continue
                values = {"filename": each.get("executable", ""), "interpreter": each.get("executable", ""),
                          "argv": tuple(filter(None, each.get("command_line", "").split(" "))),
                          "cwd": each.get("working_directory", "")}
                found[entity] = Found(each["pid"], self._exact[entity], parent.get("pid", 0), each.get("name", ""),
                                      uid=0, gid=0, values=values)
        return list(found.values())


def _address(text: str | None) -> bytes:
    if not text:
        return bytes(16)
    if ":" in text:
        import ipaddress

        return ipaddress.IPv6Address(text).packed
    return bytes(map(int, text.split("."))) + bytes(12)


_TIMES = frozenset({"child_start_ns", "parent_start_ns"})
_PROCESSES = frozenset({"child_pid", "child_ns_pid", "parent_pid", "ns_pid", "session_pid", "target_pid"})


def moved(record: Record, lap: int, sequence: int) -> Record:
    """The same event in another lap: other processes, later."""
    later, further = lap * LAP_NS, lap % 20_000 * PIDS
    values = tuple(
        value + later if field.name in _TIMES and value else
        value + further if field.name in _PROCESSES and value > 1 else value
        for field, value in zip(BY_ID[record.type].fields, record.values, strict=True))
    return replace(record, seq=sequence, time_ns=record.time_ns + later, start_ns=record.start_ns + later,
                   pid=record.pid + further, tid=record.tid + further, values=values)
