"""One process, the facts about its program that its documents show, and what /proc says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from sensor import paths
from sensor.kernel.decode import Record
from sensor.process.containers import Place
from sensor.schema import BY_NAME, EVENTS, Event, Field, Flag, Kind

Facts = dict[str, Any]
EXEC = BY_NAME["process_exec"]
_PREFIX = "process."
# /proc gives start times in USER_HZ ticks, 100 a second on every architecture that we know.
TICK_NS = 10_000_000

# Lineage has fields of its own, made from the table; an id inside a namespace is one per process, not
# one per program.
_NOT_FACTS = ("process.parent.pid", "process.session_leader.pid", "process.namespace.pid_in")


def _convert(item: Field) -> Callable[[Any], Any] | None:
    """How a value is turned into what documents show; None where it stays as it is."""
    if item.kind is Kind.LIST:
        return lambda value: list(value) or None
    if item.kind.is_text:
        return lambda value: value or None
    return "{:04o}".format if item.unit == "octal" else None


def _plan(event: Event) -> tuple[tuple[str, str, Callable[[Any], Any] | None], ...]:
    return tuple((item.name, item.ecs[len(_PREFIX):], _convert(item)) for item in event.fields
                 if item.ecs and item.ecs.startswith(_PREFIX) and item.ecs not in _NOT_FACTS)


#: (field, key below "process", conversion): what of these events describes the process from then on.
_PLANS = {event.name: _plan(event) for event in (EXEC, BY_NAME["credentials_change"])}
#: Every key of documents that is a fact.
FACT_KEYS = tuple(f"{_PREFIX}{key}" for key in dict.fromkeys((
    *(key for plan in _PLANS.values() for _, key, _ in plan), "executable", "name", "script", "command_line")))


class Process:
    """One process of this boot. Owned and changed by the table alone.

    ``facts`` are keys below ``process`` of documents, flat and dotted; the dict is shared by a
    process and those it forked, and is replaced, never changed. ``before`` is the same process as
    it was before its last exec, for events that arrive late. ``fragment`` is valid while ``built``
    is the table's version.
    """

    __slots__ = (
        "approximate", "before", "built", "cgroup", "cgroup_id", "ended_ns", "entity_id", "exit_seen",
        "facts", "fragment", "gid", "image_ns", "kernel", "last_ns", "leader", "lineage", "mntns", "ns_pid",
        "parent", "pid", "place", "session_pid", "shared", "start_ns", "uid", "version",
    )

    def __init__(self, pid: int, start_ns: int, entity_id: str) -> None:
        self.pid = pid
        self.start_ns = start_ns
        self.entity_id = entity_id
        self.ns_pid = 0  # in its own pid namespace; 0 where unknown
        self.uid = self.gid = -1  # until an event or /proc has told
        self.mntns = self.cgroup_id = self.session_pid = 0
        self.facts: Facts = {}
        self.cgroup: dict[str, Any] = {}  # the document's sensor.cgroup
        self.place = Place()
        self.parent: Process | None = None
        self.leader: Process | None = None
        self.lineage: tuple[tuple[str, str], ...] = ()  # set on leaving the table, in place of the parent
        self.before: Process | None = None
        self.image_ns = 0  # of the last exec; 0 where it was not seen
        self.last_ns = 0  # of the latest event
        self.ended_ns = 0  # of its exit, or of the proof that it must have ended
        self.exit_seen = False
        self.approximate = False  # start_ns is from /proc, rounded down to a clock tick
        self.kernel = False
        self.shared = False  # the fragments of other processes show this one
        self.version = 0
        self.built = -1
        self.fragment: dict[str, Any] = {}

    def clone(self) -> Process:
        """The process as it is now, to be kept beside one that goes on changing."""
        other = Process(self.pid, self.start_ns, self.entity_id)
        for name in ("ns_pid", "uid", "gid", "mntns", "cgroup_id", "session_pid", "facts", "cgroup", "place",
                     "parent", "leader", "lineage", "image_ns", "last_ns", "kernel"):
            setattr(other, name, getattr(self, name))
        return other

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.facts.get('executable', '?')}>"


@dataclass(slots=True)
class Found:
    """One process of /proc. Times in ns CLOCK_BOOTTIME, rounded down to a clock tick.

    ``values`` are fields of process_exec by name; a field that could not be read is missing.
    """

    pid: int
    start_ns: int
    parent_pid: int
    name: str
    kernel: bool = False
    ns_pid: int = 0
    uid: int = -1
    gid: int = -1
    cgroup_id: int = 0
    mntns: int = 0
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class TableCounters:
    """What happened in the table since start. Plain numbers, for whoever exports them."""

    hits: int = 0  # the event's process was known
    misses: int = 0  # a parent, session leader or target was not
    created: int = 0  # processes made from an event that named an unknown one
    evicted_live: int = 0  # thrown out though running: the table was too small
    evicted_ended: int = 0  # ended long ago; the usual way out
    duplicate_exits: int = 0
    missed_exits: int = 0  # a pid came back before its former process was seen to end
    seeded: int = 0
    adopted: int = 0  # seeded processes whose exact start an event has told since

    def lookups(self) -> dict[str, int]:
        """Look-ups by result."""
        return {"hit": self.hits, "miss": self.misses, "created": self.created}


class Processes(Protocol):
    """What documents and metrics need of a process table, whichever it is."""

    boot_id: str
    capacity: int

    @property
    def counters(self) -> TableCounters:
        """What happened since start."""

    def __len__(self) -> int: ...

    def current(self, pid: int) -> Process | None:
        """The process that has *pid* now, or had it last."""

    def fragment(self, process: Process) -> dict[str, Any]:
        """The ``process`` part of documents."""

    def cgroup_path(self, identifier: int) -> str:
        """Path of a control group by its id; "" where no process of it is known."""

    def seed(self, found: Iterable[Found]) -> None:
        """Take in processes that ran before the first event."""


def entity_id(boot_id: str, pid: int, start_ns: int) -> str:
    """The name of a process, for ever."""
    # By the tick, not the nanosecond: /proc knows no more, and a process must keep its id when its
    # exact start is learned and when the sensor is started anew. A pid can't come round in 10 ms.
    text = f"{boot_id}:{pid}:{start_ns // TICK_NS}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def plain_facts(event: str, values: Mapping[str, Any]) -> Facts:
    """Facts that are fields of *event*, given by name; None or missing is unknown, empty is absent."""
    facts: Facts = {}
    for name, key, convert in _PLANS[event]:
        value = values.get(name)
        if convert is not None and value is not None:
            value = convert(value)
        if value is not None:
            facts[key] = value
    return facts


_SCRIPT, _FD_EXEC = int(Flag.SCRIPT), int(Flag.FD_EXEC)  # a plain number's & costs a tenth of a flag's


def program_facts(values: Mapping[str, Any], flags: int = 0) -> Facts:
    """Facts of an executed program from process_exec's fields by name; None or missing is unknown."""
    facts = plain_facts("process_exec", values)
    executable, script = paths.executed(
        values.get("filename") or "", values.get("interpreter") or "", values.get("executable") or "",
        values.get("cwd") or "", script=bool(flags & _SCRIPT), by_descriptor=bool(flags & _FD_EXEC))
    _put(facts, "executable", executable)
    _put(facts, "name", paths.split(executable)[1])
    _put(facts, "script", script)
    _put(facts, "command_line", " ".join(values.get("argv") or ()))
    return facts


def _put(facts: Facts, key: str, value: str) -> None:
    if value:
        facts[key] = value


_NAMES = {event.id: tuple(item.name for item in event.fields) for event in EVENTS}


def by_name(record: Record) -> dict[str, Any]:
    """The values of a record by field name."""
    return dict(zip(_NAMES[record.type], record.values, strict=True))


_split = lru_cache(256)(lambda key: tuple(key.split(".")))  # keys come from the event table: a few dozen


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dicts, all of them new; lists are shared."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        if "." not in key:
            tree[key] = value
            continue
        node = tree
        *outer, last = _split(key)
        for name in outer:
            if name not in node:
                node[name] = {}
            node = node[name]
        node[last] = value
    return tree
