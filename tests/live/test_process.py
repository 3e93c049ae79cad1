"""Processes made, replaced and ended, against what the workload says it did."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.live.harness import Document, Sensor, Workloads, action, flags, get, of_kind

FORKS = 23
OTHERS = 7


@pytest.fixture(scope="module")
def ran(sensor: Sensor, workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The workload's truth and all documents of the time it ran."""
    place = tmp_path_factory.mktemp("forkexec").resolve()
    truth, documents = sensor.watch(lambda: workloads.run("forkexec", place, FORKS, OTHERS))
    return SimpleNamespace(truth=truth, documents=documents, place=place)


def _children(truth: Document) -> list[Document]:
    return [*truth["children"], *truth["shapes"]]


def _execs(ran: SimpleNamespace, pid: int) -> list[Document]:
    return [d for d in of_kind(ran.documents, "process-exec") if get(d, "process.pid") == pid]


def _shape(ran: SimpleNamespace, how: str) -> tuple[Document, Document]:
    truth = next(s for s in ran.truth["shapes"] if s["how"] == how)
    [seen] = _execs(ran, truth["pid"])
    return truth, seen


def test_every_child_is_forked_exactly_once_and_no_thread_is(ran: SimpleNamespace) -> None:
    """A fork event per process, whatever call made it, and none per thread."""
    wanted = Counter(child["pid"] for child in _children(ran.truth))
    seen = Counter(get(d, "process.child.pid") for d in of_kind(ran.documents, "process-fork"))
    assert {pid: seen[pid] for pid in wanted} == dict(wanted)
    assert not [tid for tid in ran.truth["thread_ids"] if seen[tid]]


def test_fork_is_reported_by_the_process_that_called(ran: SimpleNamespace) -> None:
    """The acting process is the caller, also where CLONE_PARENT gives the child another parent."""
    caller = {get(d, "process.child.pid"): get(d, "process.pid") for d in of_kind(ran.documents, "process-fork")}
    children = ran.truth["children"]
    helpers = [c["pid"] for c in children if c["how"] == "clone-parent-helper"]
    cloned = [c["pid"] for c in children if c["how"] == "clone-parent"]
    assert [caller[pid] for pid in cloned] == helpers
    plain = [c for c in children if c["how"] != "clone-parent"]
    assert [caller[c["pid"]] for c in plain] == [c["ppid"] for c in plain]


def test_fork_exec_23_times_is_seen_23_times_in_order(ran: SimpleNamespace) -> None:
    """The program, its arguments and the order of the executions are those of the workload."""
    wanted = [(c["pid"], c["executable"], c["argv"]) for c in ran.truth["children"] if c["how"] == "fork"]
    pids = {pid for pid, *_ in wanted}
    seen = [
        (get(d, "process.pid"), get(d, "process.executable"), get(d, "process.args"))
        for d in of_kind(ran.documents, "process-exec")
        if get(d, "process.pid") in pids
    ]
    assert len(seen) == FORKS
    assert seen == wanted


@pytest.mark.parametrize("how", ["vfork", "spawn", "double-last", "thread-exec"])
def test_exec_is_seen_once_however_the_process_was_made(ran: SimpleNamespace, how: str) -> None:
    """vfork, posix_spawn, a double fork and exec from a second thread give the same event as fork."""
    wanted = [(c["pid"], c["executable"], c["argv"]) for c in ran.truth["children"] if c["how"] == how]
    seen = [(pid, get(d, "process.executable"), get(d, "process.args")) for pid, *_ in wanted for d in _execs(ran, pid)]
    assert len(wanted) == OTHERS
    assert seen == wanted


def test_failed_execve_makes_no_exec_event(ran: SimpleNamespace) -> None:
    """Neither a missing file nor one that is no program is reported as executed."""
    failed = [c["pid"] for c in ran.truth["children"] if c["how"] == "failed"]
    assert len(failed) == OTHERS
    assert [d for pid in failed for d in _execs(ran, pid)] == []


def test_every_process_ends_exactly_once_with_its_status(ran: SimpleNamespace) -> None:
    """Exit codes and signals are what wait() returned, also where all threads leave at one moment."""
    wanted = {c["pid"]: [(c["code"], c["signal"])] for c in _children(ran.truth)}
    seen: dict[int, list[tuple[int, int]]] = {pid: [] for pid in wanted}
    for d in of_kind(ran.documents, "process-exit"):
        if get(d, "process.pid") in seen:
            seen[get(d, "process.pid")].append((get(d, "process.exit_code"), get(d, "process.exit_signal")))
    assert seen == wanted


def test_child_names_its_parent_by_the_entity_id_the_parent_has(ran: SimpleNamespace) -> None:
    """The relation holds by identity, not only by number."""
    main = ran.truth["pid"]
    own = {get(d, "process.entity_id") for d in ran.documents if get(d, "process.pid") == main}
    assert len(own) == 1
    direct = [c["pid"] for c in _children(ran.truth) if c["ppid"] == main and c["how"] != "double-last"]
    for pid in direct:
        for d in [d for d in ran.documents if get(d, "process.pid") == pid and action(d) == "process-exit"]:
            assert get(d, "process.parent.pid") == main
            assert {get(d, "process.parent.entity_id")} == own
            assert get(d, "process.parent.executable") == ran.truth["executable"]


@pytest.mark.hostile("pid-reuse")
def test_orphan_keeps_the_parent_that_made_it(ran: SimpleNamespace) -> None:
    """After a double fork the middle process has ended and a subreaper took over: the real ancestry stays."""
    orphans = [c for c in ran.truth["children"] if c["how"] == "double-last"]
    assert len(orphans) == OTHERS
    for child in orphans:
        [seen] = _execs(ran, child["pid"])
        assert get(seen, "process.parent.pid") == child["ppid"]
        assert child["ppid"] != child["ppid_at_exec"]
        assert get(seen, "process.ancestors")[:2] == [ran.truth["executable"]] * 2


def test_entity_ids_of_different_processes_differ(ran: SimpleNamespace) -> None:
    """One process has one entity id through all of its events, and shares it with no other."""
    pids = [c["pid"] for c in _children(ran.truth)]
    ids = {pid: {get(d, "process.entity_id") for d in ran.documents if get(d, "process.pid") == pid} for pid in pids}
    assert all(len(found) == 1 for found in ids.values())
    assert len(set().union(*ids.values())) == len(pids)


def test_start_of_the_process_is_what_proc_says(ran: SimpleNamespace) -> None:
    """process.start is the kernel's start time, to the clock tick that /proc shows."""
    [first] = _execs(ran, ran.truth["pid"])
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    wanted = boot + ran.truth["start_ticks"] / ran.truth["ticks_per_second"]
    text = get(first, "process.start")
    seen = dt.datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
    assert seen == pytest.approx(wanted, abs=0.05)


@pytest.mark.hostile("odd-exec")
def test_symlinked_program_has_the_path_as_executed_and_the_resolved_one(ran: SimpleNamespace) -> None:
    """Rules that expect the link's name and rules that expect the file's name both have it."""
    truth, seen = _shape(ran, "symlink")
    assert get(seen, "process.executable") == truth["path"]
    assert get(seen, "process.executable_resolved") == truth["resolved"]
    assert get(seen, "process.name") == "linked-program"


@pytest.mark.parametrize("how", ["relative", "dotted", "spoofed"])
@pytest.mark.hostile("long-values")
def test_executable_is_absolute_and_not_taken_from_argv(ran: SimpleNamespace, how: str) -> None:
    """A relative path, one with dots in it, and a false argv[0] don't hide the program."""
    truth, seen = _shape(ran, how)
    assert get(seen, "process.executable") == truth["resolved"]
    assert get(seen, "process.executable_resolved") == truth["resolved"]
    assert get(seen, "process.args") == truth["argv"]
    assert get(seen, "process.working_directory") == str(ran.place)


def test_script_has_its_interpreter_and_its_own_path(ran: SimpleNamespace) -> None:
    """The executable is the interpreter as the script names it; the script stands beside it."""
    truth, seen = _shape(ran, "script")
    assert get(seen, "process.executable") == truth["interpreter"]
    assert get(seen, "process.executable_resolved") == truth["resolved"]
    assert get(seen, "process.script") == truth["path"]
    assert get(seen, "process.args") == truth["argv"]
    assert "script" in flags(seen)


@pytest.mark.hostile("long-values")
def test_empty_argv_is_what_the_new_program_gets(ran: SimpleNamespace) -> None:
    """The kernel gives a program at least one argument, the empty text."""
    truth, seen = _shape(ran, "empty-argv")
    assert truth["argv"] == [""]
    assert get(seen, "process.args", [""]) == [""]
    assert get(seen, "process.args_count") == 1


@pytest.mark.hostile("long-values")
def test_argv_over_the_cap_keeps_its_head_and_is_marked(ran: SimpleNamespace) -> None:
    """1.5 MB of arguments: the first are kept, the number stays true, the cut is marked."""
    truth, seen = _shape(ran, "huge")
    arguments = get(seen, "process.args")
    assert get(seen, "process.args_count") == truth["argc"]
    assert arguments[:3] == ["huge", "--exit", "27"]
    assert 10 < len(arguments) < truth["argc"]
    assert all(argument == "w" * 100 for argument in arguments[3:-1])
    assert "truncated" in flags(seen)


@pytest.mark.hostile("odd-exec")
def test_execution_by_descriptor_is_marked_and_resolved(ran: SimpleNamespace) -> None:
    """execveat() with an empty path names no file; the kernel's object does."""
    truth, seen = _shape(ran, "descriptor")
    assert get(seen, "process.executable_resolved") == truth["resolved"]
    assert "fd_exec" in flags(seen)
    assert "deleted" not in flags(seen)


@pytest.mark.hostile("odd-exec")
def test_deleted_program_is_marked(ran: SimpleNamespace) -> None:
    """A program without a name any more is reported with the name it had."""
    truth, seen = _shape(ran, "deleted")
    assert "deleted" in flags(seen)
    assert get(seen, "process.executable_links") == 0
    assert get(seen, "process.executable_resolved").removesuffix(" (deleted)") == truth["resolved"]


def test_hostile_argv_survives_into_the_document(ran: SimpleNamespace) -> None:
    """Newline, ESC, invalid UTF-8, bidirectional marks, quotes and backslashes arrive byte for byte."""
    truth, seen = _shape(ran, "hostile")
    assert get(seen, "process.args") == truth["argv"]
    assert get(seen, "process.args_count") == len(truth["argv"])


def test_hostile_argv_is_one_line_of_valid_utf8(sensor: Sensor, ran: SimpleNamespace) -> None:
    """The raw line in the output has no control byte and decodes."""
    truth, _ = _shape(ran, "hostile")
    with Path(sensor.output).open("rb") as file:
        lines = [line for line in file if f'"pid":{truth["pid"]},'.encode() in line and b"line\\nbreak" in line]
    assert lines
    for line in lines:
        text = line.decode("utf-8")
        assert not [c for c in text.rstrip("\n") if ord(c) < 0x20 or ord(c) == 0x7F]


def test_user_and_group_are_those_of_the_workload(ran: SimpleNamespace) -> None:
    """user.id and user.name at the event."""
    for d in [d for d in ran.documents if get(d, "process.pid") == ran.truth["pid"]]:
        assert get(d, "user.id") == str(ran.truth["uid"])
        assert get(d, "user.name") == "root"


@pytest.mark.hostile("fork-bomb")
def test_10007_processes_made_as_fast_as_possible_are_all_seen(sensor: Sensor, workloads: Workloads) -> None:
    """Each start and each end, once; nothing is lost on the way."""
    truth, documents = sensor.watch(lambda: workloads.run("forkexec", "--bomb", 10007))
    wanted = Counter(truth["pids"])
    assert wanted.total() == 10007
    forked = Counter(get(d, "process.child.pid") for d in of_kind(documents, "process-fork"))
    ended = Counter(get(d, "process.pid") for d in of_kind(documents, "process-exit"))
    assert {pid: forked[pid] for pid in wanted} == dict(wanted)
    assert {pid: ended[pid] for pid in wanted} == dict(wanted)
