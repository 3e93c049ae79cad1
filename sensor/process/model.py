"""One process, and the facts about its program that its documents show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensor import paths
from sensor.process.containers import Place
from sensor.schema import BY_NAME, Field, Flag, Kind

Facts = dict[str, Any]
EXEC = BY_NAME["process_exec"]
CREDENTIALS = BY_NAME["credentials_change"]
_PREFIX = "process."

# Lineage has fields of its own, made from the table; an id inside a namespace is one per process, not
# one per program.
_NOT_FACTS = ("process.parent.pid", "process.session_leader.pid", "process.namespace.pid_in")


def _fact_fields(fields: tuple[Field, ...]) -> tuple[tuple[int, str, Field], ...]:
    return tuple((index, item.ecs[len(_PREFIX):], item) for index, item in enumerate(fields)
                 if item.ecs and item.ecs.startswith(_PREFIX) and item.ecs not in _NOT_FACTS)


#: (position in values, key below "process", field): what of these events describes the process from then on.
EXEC_FACTS = _fact_fields(EXEC.fields)
CREDENTIAL_FACTS = _fact_fields(CREDENTIALS.fields)


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
        self.lineage: tuple[str, ...] = ()  # set on leaving the table, in place of the parent
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


def present(item: Field, value: Any) -> Any:
    """The value as documents show it: None where it is absent, octal text for file modes."""
    if item.kind is Kind.LIST:
        return list(value or ()) or None
    if item.kind.is_text:
        return value or None
    return f"{value:04o}" if item.unit == "octal" and value is not None else value


def program_facts(values: Mapping[str, Any], flags: int = 0) -> Facts:
    """Facts of an executed program from process_exec's fields by name; None or missing is unknown."""
    facts: Facts = {}
    for _index, key, item in EXEC_FACTS:
        value = present(item, values.get(item.name))
        if value is not None:
            facts[key] = value
    executable, script = paths.executed(
        values.get("filename") or "", values.get("interpreter") or "", values.get("executable") or "",
        values.get("cwd") or "", script=bool(flags & Flag.SCRIPT), by_descriptor=bool(flags & Flag.FD_EXEC))
    _put(facts, "executable", executable)
    _put(facts, "name", paths.split(executable)[1])
    _put(facts, "script", script)
    _put(facts, "command_line", " ".join(values.get("argv") or ()))
    return facts


def _put(facts: Facts, key: str, value: str) -> None:
    if value:
        facts[key] = value


def exec_values(values: tuple[Any, ...]) -> dict[str, Any]:
    """The values of a process_exec record by field name."""
    return dict(zip((item.name for item in EXEC.fields), values, strict=True))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dicts, all of them new; lists are shared."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        if "." not in key:
            tree[key] = value
            continue
        node = tree
        *outer, last = key.split(".")
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = value
    return tree
