"""The process table, by single cases and against a model that forgets nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.boottime import BootClock
from sensor.process.fragment import ANCESTORS_MAX
from sensor.process.model import TICK_NS, Found, Process, TableCounters
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.schema import Flag
from tests.unit.records import SECOND, execution, fork, record


def table(**more: Any) -> ProcessTable:
    """A table of boot "b" with init in it."""
    made = ProcessTable("b", clock=BootClock(), users=Users({0: "root"}.get), **more)
    made.apply(execution(1, 1, "/sbin/init", session_pid=1))
    made.counters = TableCounters()
    return made


def executable(process: Process | None) -> str:
    """What the table says it runs."""
    assert process is not None
    return str(process.facts.get("executable", ""))


def test_child_inherits_program_and_exec_replaces_it() -> None:
    """Between fork and exec a child runs its parent's program."""
    made = table()
    made.apply(fork(1, 1, 20, 2 * SECOND, cgroup_id=7))
    child = made.get(20, 2 * SECOND)
    assert executable(child) == "/sbin/init"
    made.apply(execution(20, 2 * SECOND, "/bin/sh", "sh", "-x"))
    fragment = made.fragment(made.get(20, 2 * SECOND))  # type: ignore[arg-type]
    assert fragment["executable"] == "/bin/sh"
    assert fragment["args"] == ["sh", "-x"]
    assert fragment["parent"]["executable"] == "/sbin/init"


def test_parent_that_has_ended_stays_known_to_its_children() -> None:
    """A double fork leaves an orphan; its real ancestry is kept, not the reaper's."""
    made = table(ended_capacity=1)
    made.apply(fork(1, 1, 20, 2 * SECOND))
    made.apply(execution(20, 2 * SECOND, "/bin/dropper"))
    made.apply(fork(20, 2 * SECOND, 21, 3 * SECOND))
    made.apply(record("process_exit", 20, 2 * SECOND))
    for pid in (30, 31):  # push the parent out of the ended ones
        made.apply(fork(1, 1, pid, 4 * SECOND))
        made.apply(record("process_exit", pid, 4 * SECOND))
    assert made.get(20, 2 * SECOND) is None
    orphan = made.apply(execution(21, 3 * SECOND, "/bin/payload", parent_pid=1, parent_start_ns=1))
    assert orphan is not None
    fragment = made.fragment(orphan)
    assert fragment["parent"]["pid"] == 20
    assert fragment["parent"]["executable"] == "/bin/dropper"
    assert fragment["ancestors"] == ["/bin/dropper", "/sbin/init"]
    assert fragment["ancestor_names"] == ["dropper", "init"]


def test_names_of_ancestors_keep_their_places() -> None:
    """Whom nobody named has an empty name, a script its own; names are as long as the kernel's."""
    made = table()
    made.apply(record("file_open", 20, 2 * SECOND))  # a process of which nothing else is known
    made.apply(fork(20, 2 * SECOND, 21, 3 * SECOND))
    made.apply(execution(21, 3 * SECOND, "/bin/sh", "sh", "/opt/deploy-everything.sh", flags=Flag.SCRIPT,
                         filename="/opt/deploy-everything.sh"))
    made.apply(fork(21, 3 * SECOND, 22, 4 * SECOND))
    made.apply(execution(22, 4 * SECOND, "/bin/\udcff-is-no-text-at-all"))
    made.apply(fork(22, 4 * SECOND, 23, 5 * SECOND))
    last = made.apply(execution(23, 5 * SECOND, "/bin/ls"))
    assert last is not None
    fragment = made.fragment(last)
    assert fragment["ancestor_names"] == ["\udcff-is-no-text-at", "deploy-everythi", ""]
    assert fragment["ancestors"] == ["/bin/\udcff-is-no-text-at-all", "/bin/sh"]
    assert fragment["parent"].get("script") is None
    parent = made.get(22, 4 * SECOND)
    assert parent is not None
    assert made.fragment(parent)["parent"]["script"] == "/opt/deploy-everything.sh"


def test_clone_parent_gives_the_callers_program_and_the_callers_parent() -> None:
    """CLONE_PARENT makes a sibling of the caller."""
    made = table()
    made.apply(fork(1, 1, 20, 2 * SECOND))
    made.apply(execution(20, 2 * SECOND, "/bin/a"))
    made.apply(fork(20, 2 * SECOND, 21, 3 * SECOND, parent_pid=1, parent_start_ns=1))
    child = made.get(21, 3 * SECOND)
    assert child is not None
    assert executable(child) == "/bin/a"
    assert child.parent is made.get(1, 1)


def test_second_exit_is_dropped_and_counted() -> None:
    """Two last threads can race in the kernel; a process ends once."""
    made = table()
    made.apply(execution(20, 2, "/bin/a"))
    assert made.apply(record("process_exit", 20, 2, time_ns=5)) is not None
    assert made.apply(record("process_exit", 20, 2, time_ns=6)) is None
    assert made.counters.duplicate_exits == 1


@pytest.mark.hostile("pid-reuse")
def test_reused_pid_is_another_process() -> None:
    """The same number with another start has neither the program nor the parent of the former owner."""
    made = table()
    made.apply(fork(1, 1, 20, 2 * SECOND))
    made.apply(execution(20, 2 * SECOND, "/bin/old"))
    made.apply(record("file_open", 20, 9 * SECOND, path="/x"))
    new = made.current(20)
    assert new is not None
    assert (new.start_ns, new.facts, new.parent) == (9 * SECOND, {}, None)
    assert made.counters.missed_exits == 1
    assert executable(made.get(20, 2 * SECOND)) == "/bin/old"


def test_late_event_of_former_owner_does_not_take_the_pid_back() -> None:
    """Rings are read one after the other: an old process may be heard of after a new one."""
    made = table(ended_capacity=1)
    made.apply(execution(20, 9 * SECOND, "/bin/new"))
    late = made.apply(record("file_open", 20, 2 * SECOND, path="/x"))
    assert late is not None
    assert late.start_ns == 2 * SECOND
    assert executable(made.current(20)) == "/bin/new"
    assert made.counters.missed_exits == 0


def test_late_event_belongs_to_the_program_that_ran_then() -> None:
    """A file opened before the exec and read after it was opened by the shell, not by the program."""
    made = table()
    made.apply(execution(20, 2, "/bin/sh", time_ns=10))
    made.apply(execution(20, 2, "/bin/echo", time_ns=100))
    assert executable(made.apply(record("file_open", 20, 2, time_ns=99))) == "/bin/sh"
    assert executable(made.apply(record("file_open", 20, 2, time_ns=100))) == "/bin/echo"


def test_event_before_its_fork_record_is_completed_by_it() -> None:
    """The rings race: the child's first file event may be read before its birth."""
    made = table()
    early = made.apply(record("file_open", 20, 2 * SECOND, uid=5, path="/x"))
    made.apply(fork(1, 1, 20, 2 * SECOND))
    assert made.get(20, 2 * SECOND) is early
    assert executable(early) == "/sbin/init"
    assert early is not None
    assert early.parent is made.get(1, 1)
    assert early.uid == 5


def test_unknown_process_is_made_from_its_record_and_counted() -> None:
    """With what the record says and no more."""
    made = table()
    process = made.apply(record("file_open", 77, 3, uid=0))
    assert process is not None
    fragment = made.fragment(process)
    assert fragment["pid"] == 77
    assert not {"executable", "parent", "ancestors", "ancestor_names", "session_leader"} & set(fragment)
    assert made.counters.created == 1


def test_parent_named_by_exec_is_taken_when_the_fork_was_lost() -> None:
    """Even if nothing else is known of the parent yet; its user is not made up."""
    made = table()
    process = made.apply(execution(20, 9, "/bin/a", parent_pid=15, parent_start_ns=4))
    assert process is not None
    parent = made.fragment(process)["parent"]
    assert set(parent) == {"pid", "entity_id", "start"}
    assert parent["pid"] == 15


def test_parent_younger_than_its_child_is_refused() -> None:
    """Such a record is about another owner of the pid."""
    made = table()
    process = made.apply(execution(20, 9, "/bin/a", parent_pid=15, parent_start_ns=11))
    assert process is not None
    assert process.parent is None


def test_credentials_change_stays_with_process_and_its_children() -> None:
    """set*id() and capset() change what later documents say."""
    made = table()
    made.apply(execution(20, 2, "/bin/su", real_uid=1000, capabilities=1))
    made.apply(record("credentials_change", 20, 2, real_uid=0, saved_uid=0, capabilities=255))
    made.apply(fork(20, 2, 21, 3))
    for pid, start in ((20, 2), (21, 3)):
        fragment = made.fragment(made.get(pid, start))  # type: ignore[arg-type]
        assert fragment["real_user"] == {"id": 0}
        assert fragment["thread"]["capabilities"]["effective"] == 255
        assert fragment["executable"] == "/bin/su"


def test_fragment_is_shared_until_something_changes() -> None:
    """Cheap for file events, and right after an exec of a parent or grandparent."""
    made = table()
    made.apply(fork(1, 1, 20, 2))
    made.apply(fork(20, 2, 21, 3))
    child = made.get(21, 3)
    assert child is not None
    first = made.fragment(child)
    made.apply(record("file_open", 21, 3, path="/x", mntns=5))
    assert made.fragment(child) is made.fragment(child)
    made.apply(execution(20, 2, "/bin/parent"))
    assert made.fragment(child)["parent"]["executable"] == "/bin/parent"
    made.apply(execution(1, 1, "/sbin/other-init"))
    assert made.fragment(child)["ancestors"] == ["/bin/parent", "/sbin/other-init"]
    assert first["ancestors"] == ["/sbin/init", "/sbin/init"]


def test_changed_user_of_parent_shows_in_child() -> None:
    """ParentUser is the parent's user at the time of the event."""
    made = table()
    made.apply(fork(1, 1, 20, 2))
    child = made.get(20, 2)
    assert child is not None
    assert made.fragment(child)["parent"]["user"]["id"] == "0"
    made.apply(record("file_open", 1, 1, uid=33))
    assert made.fragment(child)["parent"]["user"]["id"] == "33"


def test_session_leader_is_inherited_and_follows_setsid() -> None:
    """The leader may be the process itself, an ancestor, or one that has ended."""
    made = table()
    made.apply(fork(1, 1, 20, 2))
    made.apply(execution(20, 2, "/bin/login", session_pid=20))
    made.apply(fork(20, 2, 21, 3))
    made.apply(record("process_exit", 20, 2))
    made.apply(execution(21, 3, "/bin/x", session_pid=20))
    leader = made.fragment(made.get(21, 3))["session_leader"]  # type: ignore[arg-type]
    assert (leader["pid"], leader["executable"]) == (20, "/bin/login")
    made.apply(execution(21, 3, "/bin/y", session_pid=21))
    leader = made.fragment(made.get(21, 3))["session_leader"]  # type: ignore[arg-type]
    assert (leader["pid"], leader["executable"]) == (21, "/bin/y")


def test_session_leader_that_nobody_knows_is_a_number() -> None:
    """No guess from an older owner of the pid."""
    made = table()
    made.apply(execution(20, 2, "/bin/old"))
    made.apply(record("process_exit", 20, 2, time_ns=100))
    made.apply(execution(30, 5 * SECOND, "/bin/x", session_pid=20))
    assert made.fragment(made.get(30, 5 * SECOND))["session_leader"] == {"pid": 20}  # type: ignore[arg-type]


def test_move_to_unknown_cgroup_is_not_hidden_by_the_old_path() -> None:
    """A path learned from an exec is found again by its id; an unknown id has no path."""
    made = table()
    made.apply(execution(20, 2, "/bin/a", cgroup="/docker/" + "a" * 64, cgroup_id=7))
    made.apply(execution(30, 3, "/bin/b", cgroup="/system.slice/x.service", cgroup_id=8))
    process = made.apply(record("file_open", 20, 2, cgroup_id=9))
    assert process is not None
    assert process.place.container_id == ""
    made.apply(record("file_open", 20, 2, cgroup_id=8))
    assert process.place.service == "x.service"


def found(pid: int, start_ns: int, parent: int = 1, path: str = "/bin/seeded", **more: Any) -> Found:
    """A process as /proc shows it."""
    return Found(pid, start_ns // TICK_NS * TICK_NS, parent, path.rpartition("/")[2], ns_pid=pid, uid=0, gid=0,
                 values={"executable": path, "argv": (path,), "session_pid": 1}, **more)


def test_seeded_process_takes_its_exact_start_from_the_first_record() -> None:
    """And keeps its entity id, its program and its parent: /proc knows ticks of 10 ms only."""
    made = table()
    exact = 3 * SECOND + 4_567_891
    made.seed([found(40, exact)])
    before = made.fragment(made.current(40))["entity_id"]  # type: ignore[arg-type]
    process = made.apply(record("file_open", 40, exact, path="/x"))
    assert process is not None
    assert process.start_ns == exact
    assert executable(process) == "/bin/seeded"
    assert made.fragment(process)["entity_id"] == before
    assert made.fragment(process)["parent"]["pid"] == 1
    assert (made.counters.created, made.counters.adopted) == (0, 1)
    assert made.get(40, exact // TICK_NS * TICK_NS) is None


def test_seed_does_not_overwrite_what_events_told() -> None:
    """/proc was read earlier or later than the events; they know."""
    made = table()
    made.apply(execution(40, 3 * SECOND + 5, "/bin/event"))
    made.apply(execution(41, 9 * SECOND, "/bin/newer"))
    made.seed([found(40, 3 * SECOND), found(41, 2 * SECOND)])
    assert executable(made.current(40)) == "/bin/event"
    assert executable(made.current(41)) == "/bin/newer"
    assert made.counters.seeded == 0


def test_seed_completes_what_an_event_only_named() -> None:
    """A process made from a file event gets its program and parent from /proc, and keeps its exact start."""
    made = table()
    process = made.apply(record("file_open", 40, 3 * SECOND + 5, uid=33, path="/x"))
    made.seed([found(40, 3 * SECOND)])
    assert process is made.current(40)
    assert process is not None
    assert (executable(process), process.uid, process.start_ns) == ("/bin/seeded", 33, 3 * SECOND + 5)
    assert process.parent is made.current(1)


def test_seed_links_children_whatever_the_order() -> None:
    """Parents are found though they come later in the listing; kernel threads are marked."""
    made = ProcessTable("b")
    made.seed([found(9, 5 * SECOND, parent=8), found(8, 4 * SECOND, parent=2),
               Found(2, 0, 0, "kthreadd", kernel=True)])
    child = made.current(9)
    assert child is not None
    assert made.fragment(child)["ancestors"] == ["/bin/seeded"]
    assert made.fragment(child)["parent"]["pid"] == 8
    thread = made.current(2)
    assert thread is not None
    assert thread.kernel
    assert made.fragment(thread)["name"] == "kthreadd"


def test_full_table_gives_up_ended_processes_first_and_then_the_longest_silent() -> None:
    """A fork bomb costs the oldest entries, counted, and never memory."""
    made = table(capacity=32)
    made.apply(execution(2, 2, "/bin/ended", time_ns=SECOND))
    made.apply(record("process_exit", 2, 2, time_ns=SECOND))
    for pid in range(100, 130):
        made.apply(execution(pid, pid, "/bin/live", time_ns=SECOND + pid))
    assert made.get(2, 2) is not None
    made.apply(execution(130, 130, "/bin/live", time_ns=3 * SECOND))
    assert made.get(2, 2) is None
    assert (made.counters.evicted_ended, made.counters.evicted_live) == (1, 0)
    made.apply(record("file_open", 100, 100, time_ns=4 * SECOND))
    made.apply(execution(131, 131, "/bin/live", time_ns=5 * SECOND))
    assert made.counters.evicted_live == 2
    assert made.get(100, 100) is not None
    assert made.get(101, 101) is None
    assert len(made) <= 32


@pytest.mark.hostile("pid-reuse")
def test_endless_chain_of_double_forks_does_not_keep_all_ancestors() -> None:
    """Each parent that leaves the table lets go of its own parent; the names stay, sixteen of them."""
    made = table(capacity=64, ended_capacity=4)
    for number in range(500):
        parent, child = 1000 + number, 1001 + number
        made.apply(fork(parent, parent, child, child, time_ns=SECOND + child))
        made.apply(execution(child, child, f"/bin/{child}", time_ns=SECOND + child))
        made.apply(record("process_exit", parent, parent, time_ns=SECOND + child))
    last = made.current(1500)
    assert last is not None
    depth, above = 0, last.parent
    while above is not None:
        depth, above = depth + 1, above.parent
    assert depth <= 6
    assert made.fragment(last)["ancestors"] == [f"/bin/{1499 - up}" for up in range(ANCESTORS_MAX)]


def test_lying_records_cannot_make_a_ring_of_parents() -> None:
    """Parents with equal starts that name each other end the walk by its bound."""
    made = table()
    made.apply(execution(20, 5, "/bin/a", parent_pid=21, parent_start_ns=5))
    made.apply(execution(21, 5, "/bin/b", parent_pid=20, parent_start_ns=5))
    process = made.current(20)
    assert process is not None
    assert len(made.fragment(process)["ancestors"]) <= ANCESTORS_MAX


# Against a model -------------------------------------------------------------------------------------

Key = tuple[int, int]


@dataclass
class Truth:
    """One process as it really is."""

    key: Key
    parent: Key | None
    program: str


@dataclass
class Model:
    """The kernel: knows all processes that ever were, and who lives."""

    clock: int = 100 * SECOND
    every: dict[Key, Truth] = field(default_factory=lambda: {(1, 1): Truth((1, 1), None, "/sbin/init")})
    live: list[Key] = field(default_factory=lambda: [(1, 1)])

    def tick(self) -> int:
        """Time goes on by more than a clock tick: the same pid can't come back within one."""
        self.clock += TICK_NS * 3 + 1
        return self.clock

    def ancestors(self, key: Key) -> list[str]:
        """Programs of all ancestors, nearest first."""
        names, above = [], self.every[key].parent
        while above is not None:
            names.append(self.every[above].program)
            above = self.every[above].parent
        return names


STEPS = st.lists(st.tuples(st.sampled_from(["fork", "fork", "exec", "exit", "event", "late"]),
                           st.integers(0, 50), st.integers(2, 12), st.booleans()), max_size=60)


def drive(made: ProcessTable, steps: list[tuple[str, int, int, bool]], *, check_ancestors: bool) -> None:
    """Play *steps* on model and table; fork and exit records get lost where a step says so."""
    model = Model()
    for number, (action, choice, pid, lost) in enumerate(steps):
        now = model.tick()
        key = model.live[choice % len(model.live)]
        if action == "fork":
            if any(pid == other for other, _start in model.live):
                continue
            child = (pid, now)
            model.every[child] = Truth(child, key, model.every[key].program)
            model.live.append(child)
            if not lost:
                made.apply(fork(*key, *child, time_ns=now))
        elif action == "exec":
            model.every[key].program = f"/bin/{number}"
            parent = model.every[key].parent
            known = parent if parent in model.live else None  # else the reaper would be named: leave it out
            made.apply(execution(*key, f"/bin/{number}", time_ns=now, session_pid=1,
                                 parent_pid=known[0] if known else 0, parent_start_ns=known[1] if known else 0))
        elif action == "exit":
            if key == (1, 1):
                continue
            model.live.remove(key)
            if not lost:
                made.apply(record("process_exit", *key, time_ns=now))
        elif action == "late":
            old = list(model.every)[choice % len(model.every)]
            made.apply(record("file_open", *old, time_ns=now))
        else:
            made.apply(record("file_open", *key, time_ns=now))
        compare(made, model, check_ancestors=check_ancestors)


def compare(made: ProcessTable, model: Model, *, check_ancestors: bool) -> None:
    """What the table says is true; what it does not know, it does not say."""
    assert len(made) <= made.capacity
    for process in list(made.processes()):
        key = (process.pid, process.start_ns)
        truth = model.every[key]
        fragment = made.fragment(process)
        assert fragment["pid"] == key[0]
        if process.parent is not None:
            assert (process.parent.pid, process.parent.start_ns) == truth.parent
            assert fragment["parent"]["pid"] == process.parent.pid
            assert fragment["parent"]["entity_id"] == process.parent.entity_id
        if check_ancestors:
            assert fragment.get("executable") in (None, truth.program)
            names = iter(model.ancestors(key))
            assert all(name in names for name in fragment.get("ancestors", []))
    for key in model.live:
        current = made.current(key[0])
        if current is not None and (current.pid, current.start_ns) != key:
            assert current.start_ns < key[1]  # the newer owner has not been heard of yet


@given(STEPS)
@settings(max_examples=150)
def test_table_never_contradicts_the_kernel(steps: list[tuple[str, int, int, bool]]) -> None:
    """Pids are reused and records get lost: parents, programs and ancestors are right or absent."""
    drive(table(), steps, check_ancestors=True)


@given(STEPS, st.integers(2, 12), st.integers(1, 4))
@settings(max_examples=150)
def test_tiny_table_never_gives_a_wrong_parent(steps: list[tuple[str, int, int, bool]], capacity: int,
                                               ended: int) -> None:
    """However much it has to forget, and it never grows beyond its bound."""
    drive(table(capacity=capacity, ended_capacity=ended), steps, check_ancestors=False)
