"""The generated stream as the kernel's records: the same events, by processes that fork, execute and end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from sensor.kernel.decode import Record
from sensor.schema import BY_NAME, Flag, Kind
from tests.bench import events, ring

_EMPTY: dict[Kind, Any] = {Kind.TEXT: "", Kind.PATH: "", Kind.LIST: (), Kind.ADDRESS: bytes(16)}
_LIVE = 1000  # processes; the oldest ends where another one comes
_WRITTEN = int(Flag.WRITE)

Process = tuple[int, int, int]  # pid, start, uid
Document = dict[str, Any]


class _Host:
    """The processes behind the stream."""

    def __init__(self) -> None:
        self.now, self._pid, self._sequence = 10**12, 1, 0
        self._live: deque[tuple[str, Process]] = deque()
        self._of: dict[str, deque[Process]] = {}

    def make(self, event: str, process: Process, values: Document, flags: int = 0) -> bytes:
        """One record, a microsecond after the one before."""
        row = BY_NAME[event]
        self.now += 1_000
        self._sequence += 1
        fields = tuple(values.get(item.name, _EMPTY.get(item.kind, 0)) for item in row.fields)
        pid, start, uid = process
        return ring.encode(
            Record(row.id, 0, self._sequence, self.now, start, pid, pid, uid, uid, 4242, 5, flags, fields))

    def run(self, executable: str, arguments: list[str], parent: Process | None, uid: int) -> Iterator[bytes]:
        """Fork, exec, and the end of the oldest."""
        parent = parent or (1, 1, 0)
        self._pid += 1
        child = self._pid, self.now, uid
        yield self.make("process_fork", parent, {
            "child_pid": child[0], "child_ns_pid": child[0], "child_start_ns": child[1],
            "parent_pid": parent[0], "parent_start_ns": parent[1]})
        yield self.make("process_exec", child, {
            "parent_pid": parent[0], "parent_start_ns": parent[1], "ns_pid": child[0], "session_pid": 1,
            "filename": executable, "interpreter": executable, "executable": executable, "argv": tuple(arguments),
            "argc": len(arguments), "cwd": "/srv/app", "cgroup": "/system.slice/app.service", "mode": 0o100755,
            "inode": hash(executable) & 0xFFFF, "links": 1})
        self._live.append((executable, child))
        self._of.setdefault(executable, deque()).append(child)
        if len(self._live) > _LIVE:
            former, process = self._live.popleft()
            self._of[former].popleft()
            yield self.make("process_exit", process, {})

    def actor(self, process: Document, uid: int) -> Iterator[bytes | Process]:
        """The youngest process of a program, begun where there is none: its records, then the process."""
        executable = process["executable"]
        if not self._of.get(executable):
            yield from self.run(executable, process["args"], None, uid)
        yield self._of[executable][-1]


def records(count: int, seed: int | None = None) -> Iterator[bytes]:
    """Records of the stream's first *count* documents, some more than that."""
    host = _Host()
    for document in events.documents(count) if seed is None else events.documents(count, seed):
        yield from _of(host, document)


def _of(host: _Host, document: Document) -> Iterator[bytes]:
    event, process = document["event"]["action"].replace("-", "_"), document["process"]
    uid = document["user"]["effective"]["id"]
    if event in ("process_fork", "process_exit"):
        return  # an exec brings both along
    who = {**process["parent"], "args": [process["parent"]["name"]]} if event == "process_exec" else process
    actor: Process | None = None
    for made in host.actor(who, uid):
        if isinstance(made, bytes):
            yield made
        else:
            actor = made
    assert actor is not None
    if event == "process_exec":
        yield from host.run(process["executable"], process["args"], actor, uid)
        return
    values: Document = {}
    if "file" in document:
        values = {"path": document["file"]["path"], "source_path": "/srv/app/.new", "inode": 1, "mode": 0o100644}
    if "destination" in document:
        for side in ("source", "destination"):
            values[f"{side}_port"] = document[side]["port"]
            values[f"{side}_address"] = bytes(map(int, document[side]["ip"].split("."))) + bytes(12)
        values |= {"address_family": 2, "protocol": 6}
    if event == "dns_query":
        labels = document["dns"]["question"]["name"].split(".")
        name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0\0\1\0\1"
        values = {"address_family": 2, "protocol": 17, "destination_port": 53,
                  "query": (bytes(4) + b"\0\1" + bytes(6) + name).decode("latin-1")}
    yield host.make(event, actor, values, _WRITTEN if event == "file_open" else 0)
