"""The ready-made ``process`` part of documents: the process, its parent, session and ancestors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sensor.boottime import BootClock
from sensor.process.model import Facts, Process, nest
from sensor.process.users import Users

# Longer chains are supervisors all the way up; rules look at the nearest few.
ANCESTORS_MAX = 16

_COMM = 15  # bytes of a task's name that the kernel keeps

PARENT_FACTS = ("executable", "name", "script", "command_line")

#: Executable and task name of a process, each empty where it is not known.
Ancestor = tuple[str, str]


class Fragments:
    """Builds fragments. They are shared by all documents of a process: nobody may change them."""

    __slots__ = ("clock", "users")

    def __init__(self, clock: BootClock, users: Users) -> None:
        self.clock = clock
        self.users = users

    def build(self, process: Process) -> dict[str, Any]:
        """The ``process`` part for *process* as it is now, without what only an event can tell."""
        made: dict[str, Any] = {"pid": process.pid, "entity_id": process.entity_id,
                                "start": self.clock.text(process.start_ns)}
        made.update(nest(process.facts))
        thread = made.setdefault("thread", {})
        thread["id"] = process.pid
        if process.mntns:
            made.setdefault("namespace", {})["mnt"] = process.mntns
        if process.ns_pid:
            made.setdefault("namespace", {})["pid_in"] = process.ns_pid
        if process.parent is not None:
            made["parent"] = self._parent(process.parent)
        leader = self._leader(process)
        if leader:
            made["session_leader"] = leader
        made.update(ancestor_keys(ancestors(process)))
        return made

    def _parent(self, parent: Process) -> dict[str, Any]:
        view: dict[str, Any] = {"pid": parent.pid, "entity_id": parent.entity_id,
                                "start": self.clock.text(parent.start_ns)}
        for key in PARENT_FACTS:
            if key in parent.facts:
                view[key] = parent.facts[key]
        if parent.uid >= 0:
            view["user"] = self.users.short(parent.uid, parent.last_ns)
        return view

    @staticmethod
    def _leader(process: Process) -> dict[str, Any]:
        leader = process if process.session_pid == process.pid else process.leader
        if leader is None:
            return {"pid": process.session_pid} if process.session_pid else {}
        view: dict[str, Any] = {"pid": leader.pid, "entity_id": leader.entity_id}
        if "executable" in leader.facts:
            view["executable"] = leader.facts["executable"]
        return view


def ancestors(process: Process) -> list[Ancestor]:
    """The parent and so on upwards, at most 16: whom the table knows by number keeps its place without a name."""
    found: list[Ancestor] = []
    last, above = process, process.parent
    # Bounded by steps too: records that lie could close the chain to a ring.
    for _step in range(ANCESTORS_MAX):
        if above is None:
            break
        found.append(ancestor(above.facts))
        last, above = above, above.parent
    found.extend(last.lineage)
    return found[:ANCESTORS_MAX]


def ancestor(facts: Facts) -> Ancestor:
    """What is told of a process above another one."""
    return facts.get("executable", ""), _task_name(facts.get("script") or facts.get("name", ""))


def ancestor_keys(up: Sequence[Ancestor]) -> dict[str, list[str]]:
    """The keys below ``process`` that tell of ancestors; those without any content are left out."""
    executables, names = [executable for executable, _ in up if executable], [name for _, name in up]
    return {**({"ancestors": executables} if executables else {}), **({"ancestor_names": names} if any(names) else {})}


@lru_cache(4096)
def _task_name(path: str) -> str:
    """The name that the kernel gives a task that executes *path*."""
    name = path.rpartition("/")[2]
    return name.encode("utf-8", "surrogateescape")[:_COMM].decode("utf-8", "surrogateescape")
