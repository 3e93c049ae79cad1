"""The process table: every process of this boot that an event or /proc has told of, bounded.

Keyed by (pid, start): a pid is reused, the pair is not. The table is built from three events that
are never filtered (fork, exec, exit) and survives the loss of any of them: a process that an event
names and the table does not know is made from the event, with what the event says and no more.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

from sensor.boottime import BootClock
from sensor.kernel.decode import Record
from sensor.process.containers import Places
from sensor.process.fragment import ANCESTORS_MAX, Fragments, ancestors
from sensor.process.model import (
    TICK_NS,
    Found,
    Process,
    TableCounters,
    by_name,
    entity_id,
    plain_facts,
    program_facts,
)
from sensor.process.users import Users
from sensor.schema import BY_NAME

# Twice the usual pid_max of small hosts. A forked process takes 0.5 KB (it shares its program's facts),
# one that has executed and has acted 5 KB: an attacker who wants us to hold 300 MB has to run 65,536
# programs at once, which costs the host a hundred times as much.
CAPACITY = 65536
# Ended processes that are kept for events that come late through the other ring: 4 s of a machine
# that ends a thousand a second; rings are emptied every few ms. Children hold their parents themselves.
ENDED_CAPACITY = 4096
# One in so many live processes is thrown out when the table is full: finding the oldest costs a scan of all.
_BATCH = 16
# A former image is for events that were on the way while the process executed another program.
_LATE_NS = 5_000_000_000

_FORK, _EXEC, _EXIT = (BY_NAME[name].id for name in ("process_fork", "process_exec", "process_exit"))
_CREDENTIALS = BY_NAME["credentials_change"].id


class ProcessTable:
    """Processes by (pid, start), and the live one of each pid."""

    def __init__(self, boot_id: str, capacity: int = CAPACITY, *, ended_capacity: int = ENDED_CAPACITY,
                 clock: BootClock | None = None, users: Users | None = None) -> None:
        """An empty table.

        Args:
            boot_id: Text of /proc/sys/kernel/random/boot_id; part of every entity id.
            capacity: Most processes kept, ended ones included.
            ended_capacity: Most ended processes kept.
            clock: For ``process.start``; boot time itself (1970) if absent.
            users: For names of parents' users; ids alone if absent.
        """
        self.boot_id = boot_id
        self.capacity = max(capacity, 2)
        self.ended_capacity = max(min(ended_capacity, self.capacity - 1), 1)
        self.counters = TableCounters()
        self.version = 0
        self._fragments = Fragments(clock or BootClock(), users or Users(lambda _uid: None))
        self._places = Places()
        self._by_key: dict[tuple[int, int], Process] = {}
        self._by_pid: dict[int, Process] = {}
        self._ended: dict[tuple[int, int], Process] = {}  # in the order of their ends
        self._latest: Process | None = None  # that ended

    def __len__(self) -> int:
        return len(self._by_key)

    def processes(self) -> Iterator[Process]:
        """All processes known, ended ones included."""
        return iter(self._by_key.values())

    def cgroup_path(self, identifier: int) -> str:
        """Path of a control group by its id; "" where no process of it is known."""
        return self._places.path(identifier, "")

    # Reading -------------------------------------------------------------------------------------

    def current(self, pid: int) -> Process | None:
        """The process that has *pid* now, or had it last."""
        process = self._by_pid.get(pid)
        if process is None:
            self.counters.misses += 1
        return process

    def get(self, pid: int, start_ns: int) -> Process | None:
        """The process with this pid and start; None where it is not known (any more)."""
        process = self._by_pid.get(pid)
        if process is not None:
            if process.start_ns == start_ns:
                return process
            if process.approximate and abs(process.start_ns - start_ns) <= TICK_NS:
                return self._adopt(process, start_ns)
        return self._by_key.get((pid, start_ns))

    def fragment(self, process: Process) -> dict[str, Any]:
        """The ``process`` part of documents. Shared: don't change it."""
        if process.built != self.version:
            self._refresh(process)
        return process.fragment

    # Events --------------------------------------------------------------------------------------

    def apply(self, record: Record) -> Process | None:
        """Take in one record: change the table by it, and give the process that acted.

        Returns:
            The acting process as it was when the event happened; None for a second exit of the
            same process, which is no event (two last threads can race in the kernel).
        """
        kind = record.type
        if kind == _FORK:
            process = self._find(record)
            self._fork(process, record)
            return process
        if kind == _EXEC:
            return self._exec(record)
        if kind == _EXIT:
            return self._exit(record)
        if kind == _CREDENTIALS:
            return self._credentials(record)
        return self._find(record)

    def seed(self, found: Iterable[Found]) -> None:
        """Take in processes that ran before the first event.

        What events have told already is not overwritten: /proc may have been read earlier or later.
        """
        entries = sorted(found, key=lambda item: (item.start_ns, item.pid))  # parents are older
        fresh = [(item, process) for item in entries if (process := self._seed_one(item)) is not None]
        for item, process in fresh:
            if process.parent is None:
                self._set_parent(process, self._by_pid.get(item.parent_pid))
            process.session_pid = process.session_pid or item.values.get("session_pid") or 0
            self._set_leader(process)

    # Finding and making --------------------------------------------------------------------------

    def _find(self, record: Record) -> Process:
        process = self._by_pid.get(record.pid)
        if process is None or process.start_ns != record.start_ns:
            process = self.get(record.pid, record.start_ns)
            if process is None:
                process = self._create(record.pid, record.start_ns)
                process.last_ns = record.time_ns
                self._take_header(process, record)
                return process
        self.counters.hits += 1
        time_ns = record.time_ns
        if time_ns < process.last_ns:
            before = process.before
            # Late: its ring was read after the one that told of the exec.
            return before if before is not None and time_ns < process.image_ns else process
        process.last_ns = time_ns
        if (record.uid != process.uid or record.cgroup_id != process.cgroup_id
                or record.mntns != process.mntns or record.gid != process.gid):
            self._take_header(process, record)
        if process.before is not None and time_ns - process.image_ns > _LATE_NS:
            process.before = None
        return process

    def _create(self, pid: int, start_ns: int) -> Process:
        """An entry for a process that something named and the table does not know."""
        self.counters.created += 1
        return self._insert(pid, start_ns)

    def _insert(self, pid: int, start_ns: int) -> Process:
        if len(self._by_key) >= self.capacity:
            self._make_room()
        process = Process(pid, start_ns, entity_id(self.boot_id, pid, start_ns))
        self._by_key[pid, start_ns] = process
        former = self._by_pid.get(pid)
        if former is None or former.start_ns < start_ns:
            self._by_pid[pid] = process
            if former is not None and not former.ended_ns:
                self.counters.missed_exits += 1
                self._end(former, start_ns)
        else:  # an event of a process whose pid has gone on: it has ended, though nothing said so
            self._end(process, former.start_ns)
        return process

    def _adopt(self, process: Process, start_ns: int) -> Process:
        """Replace a start rounded to a tick by the exact one that a record has."""
        del self._by_key[process.pid, process.start_ns]
        if self._ended.pop((process.pid, process.start_ns), None) is not None:
            self._ended[process.pid, start_ns] = process
        process.start_ns, process.approximate = start_ns, False
        self._by_key[process.pid, start_ns] = process
        self.counters.adopted += 1
        self._touch(process)
        return process

    # The four events that change processes -------------------------------------------------------

    def _fork(self, caller: Process, record: Record) -> None:
        fields = by_name(record)
        pid, start_ns = fields["child_pid"], fields["child_start_ns"]
        child = self.get(pid, start_ns) or self._insert(pid, start_ns)
        if child.pid == caller.pid and child.start_ns == caller.start_ns:
            return
        if not child.facts:  # else its exec was told of earlier, and knows better
            child.facts = caller.facts
            child.kernel = caller.kernel
            child.session_pid = caller.session_pid
            child.ns_pid = fields["child_ns_pid"]
            self._set_leader(child, caller)
            if not child.last_ns:
                child.uid, child.gid, child.mntns = record.uid, record.gid, record.mntns
                child.cgroup_id, child.cgroup, child.place = caller.cgroup_id, caller.cgroup, caller.place
                child.last_ns = record.time_ns
        if child.parent is None:
            # CLONE_PARENT makes a sibling: the caller's program, but the caller's parent.
            key = fields["parent_pid"], fields["parent_start_ns"]
            own = key in ((0, 0), (caller.pid, caller.start_ns))
            self._set_parent(child, self.get(caller.pid, caller.start_ns) if own else self._named(*key))
        self._touch(child)

    def _exec(self, record: Record) -> Process:
        process = self.get(record.pid, record.start_ns)
        if process is None:
            process = self._create(record.pid, record.start_ns)
        else:
            self.counters.hits += 1
        values = by_name(record)
        process.before = process.clone() if process.facts else None
        process.facts = program_facts(values, record.flags)
        process.image_ns = process.last_ns = max(record.time_ns, process.last_ns)
        process.ns_pid = values["ns_pid"]
        process.kernel = False
        self._places.learn(record.cgroup_id, values["cgroup"])
        self._take_header(process, record)
        if values["cgroup"]:
            self._set_cgroup(process, record.cgroup_id, values["cgroup"])
        if process.parent is None:
            # Only if the fork was not seen: by now the kernel may show whoever inherited the orphan.
            self._set_parent(process, self._named(values["parent_pid"], values["parent_start_ns"]))
        if values["session_pid"] != process.session_pid or process.leader is None:
            process.session_pid = values["session_pid"]
            self._set_leader(process, process.parent)
        self._touch(process)
        return process

    def _exit(self, record: Record) -> Process | None:
        process = self._find(record)
        owner = self.get(record.pid, record.start_ns) or process
        if owner.exit_seen:
            self.counters.duplicate_exits += 1
            return None
        owner.exit_seen = True
        if not owner.ended_ns:
            self._end(owner, record.time_ns)
        return process

    def _credentials(self, record: Record) -> Process:
        process = self._find(record)
        process.facts = {**process.facts, **plain_facts("credentials_change", by_name(record))}
        self._touch(process)
        return process

    def _seed_one(self, item: Found) -> Process | None:
        """Enter one process from /proc; None where the table knows as much already."""
        process = self._by_pid.get(item.pid)
        if process is not None:
            if abs(process.start_ns - item.start_ns) > TICK_NS:
                if process.start_ns > item.start_ns:
                    return None
                process = None
            elif process.facts:
                return None
        if process is None:
            process = self._insert(item.pid, item.start_ns)
            process.approximate = True
        self.counters.seeded += 1
        process.facts = program_facts(item.values)
        process.facts.setdefault("name", item.name)
        process.kernel = item.kernel
        process.ns_pid = process.ns_pid or item.ns_pid
        path = item.values.get("cgroup") or ""
        self._places.learn(item.cgroup_id, path)
        if not process.last_ns:
            process.uid, process.gid, process.mntns = item.uid, item.gid, item.mntns
            self._set_cgroup(process, item.cgroup_id, path)
        self._touch(process)
        return process

    # Keeping entries right -----------------------------------------------------------------------

    def _take_header(self, process: Process, record: Record) -> None:
        """What every record says about its process."""
        if record.cgroup_id != process.cgroup_id or not process.place.path:
            # Moved: without its path, the new cgroup is unknown, and the old one would be a lie.
            # An id not known before (no cgroup v2 in sight of /proc's reader) says nothing of a move.
            path = self._places.path(record.cgroup_id, "" if process.cgroup_id else process.place.path)
            self._set_cgroup(process, record.cgroup_id, path)
        if record.mntns != process.mntns:
            process.mntns = record.mntns
            process.built = -1
        if record.uid != process.uid or record.gid != process.gid:
            process.uid, process.gid = record.uid, record.gid
            self._touch_view(process)  # its own documents take the user from their records

    def _set_cgroup(self, process: Process, identifier: int, path: str) -> None:
        process.cgroup_id = identifier
        process.place = self._places.of(path)
        process.cgroup = {"id": identifier, "path": path} if path else {"id": identifier}

    def _named(self, pid: int, start_ns: int) -> Process | None:
        """The process that a record names as parent, made if need be: it was alive at the event."""
        if pid == 0:  # the parent of init and of kthreadd, which is nobody
            return None
        process = self.get(pid, start_ns) if start_ns else None
        if process is None:
            self.counters.misses += 1
            process = self._create(pid, start_ns) if start_ns else None
        return process

    def _set_parent(self, child: Process, parent: Process | None) -> None:
        slack = TICK_NS if child.approximate else 0
        if parent is None or parent is child or parent.start_ns > child.start_ns + slack:
            return  # nobody is younger than its child: such a record is about an earlier owner of the pid
        child.parent = parent
        parent.shared = True

    def _set_leader(self, process: Process, relative: Process | None = None) -> None:
        """Find the leader of the process's session; the process itself needs no reference."""
        session, leader = process.session_pid, None
        if session and session != process.pid:
            if relative is not None and relative.session_pid == session:
                leader = relative if relative.pid == session else relative.leader
            if leader is None:
                # The kernel does not hand out a pid while it names a session, so whoever has it now
                # is the leader, unless the leader's own record was lost and this is an older owner.
                leader = self._by_pid.get(session)
                if leader is not None and (leader.start_ns > process.start_ns + TICK_NS
                                           or 0 < leader.ended_ns < process.start_ns):
                    leader = None
                    self.counters.misses += 1
        process.leader = leader
        if leader is not None:
            leader.shared = True

    def _touch(self, process: Process) -> None:
        """The process's own fragment has changed, and with it what others show of it."""
        process.built = -1
        self._touch_view(process)

    def _touch_view(self, process: Process) -> None:
        # Pulled, not pushed: a process with ten thousand children that executes in a loop must not make
        # us walk them. The children notice by the version when they next need their fragment.
        if process.shared:
            self.version += 1
            process.version = self.version

    def _refresh(self, process: Process) -> None:
        if process.built < 0 or self._relatives_changed(process):
            process.fragment = self._fragments.build(process)
        process.built = self.version

    @staticmethod
    def _relatives_changed(process: Process) -> bool:
        built = process.built
        leader, above = process.leader, process.parent
        if leader is not None and leader.version > built:
            return True
        for _step in range(ANCESTORS_MAX):
            if above is None:
                return False
            if above.version > built:
                return True
            above = above.parent
        return False

    # Bounds --------------------------------------------------------------------------------------

    def _end(self, process: Process, ended_ns: int) -> None:
        process.ended_ns = max(ended_ns, 1)
        if self._latest is not None:  # the last document of a process is that of its exit: let its part go
            self._latest.fragment, self._latest.built = {}, -1
        self._latest = process
        self._ended[process.pid, process.start_ns] = process
        if len(self._ended) > self.ended_capacity:
            self._evict_ended()

    def _evict_ended(self) -> None:
        key = next(iter(self._ended))
        self._forget(self._ended.pop(key))
        self.counters.evicted_ended += 1

    def _make_room(self) -> None:
        if self._ended:
            self._evict_ended()
            return
        count = max(1, self.capacity // _BATCH)
        for process in heapq.nsmallest(count, self._by_key.values(), key=lambda item: item.last_ns):
            self._forget(process)
            self.counters.evicted_live += 1

    def _forget(self, process: Process) -> None:
        """Take a process out. Its children keep it, so it must hold nobody else: chains would never end."""
        del self._by_key[process.pid, process.start_ns]
        if self._by_pid.get(process.pid) is process:
            del self._by_pid[process.pid]
        process.lineage = tuple(ancestors(process))
        process.parent = process.leader = process.before = None
        process.fragment = {}
        process.built = -1
