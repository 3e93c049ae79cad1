"""Records for tests, built by field name from the event table."""

from __future__ import annotations

from typing import Any

from sensor.kernel.decode import Record
from sensor.schema import BY_NAME, Flag, Kind

SECOND = 1_000_000_000
_EMPTY = {Kind.TEXT: "", Kind.PATH: "", Kind.LIST: (), Kind.ADDRESS: bytes(16)}


def record(event: str, pid: int = 100, start_ns: int = SECOND, *, time_ns: int = 10 * SECOND,
           uid: int = 0, gid: int = 0, tid: int | None = None, cpu: int = 0, seq: int = 0, ring: int = 0,
           cgroup_id: int = 1, mntns: int = 5, flags: Flag | int = 0, **values: Any) -> Record:
    """A record of *event* with the given fields; the others are zero or empty."""
    row = BY_NAME[event]
    unknown = set(values) - {item.name for item in row.fields}
    assert not unknown, f"{event} has no field {unknown}"
    fields = tuple(values.get(item.name, _EMPTY.get(item.kind, 0)) for item in row.fields)
    return Record(row.id, cpu, seq, time_ns, start_ns, pid, pid if tid is None else tid, uid, gid, cgroup_id,
                  mntns, int(flags), fields, ring)


def execution(pid: int, start_ns: int, path: str, *argv: str, **more: Any) -> Record:
    """A process_exec of the program *path*, which is named as it is resolved."""
    values: dict[str, Any] = {"filename": path, "interpreter": path, "executable": path, "cwd": "/",
                              "argv": argv or (path,), "ns_pid": pid, **more}
    return record("process_exec", pid, start_ns, **values)


def fork(pid: int, start_ns: int, child: int, child_start_ns: int, **more: Any) -> Record:
    """A process_fork by (pid, start) of an ordinary child."""
    values: dict[str, Any] = {"child_pid": child, "child_start_ns": child_start_ns, "child_ns_pid": child,
                              "parent_pid": pid, "parent_start_ns": start_ns, **more}
    return record("process_fork", pid, start_ns, **values)
