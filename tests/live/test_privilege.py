"""Calls that gain, cross or lend privilege, against what the workload says it did."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from tests.live.harness import Document, Sensor, Workloads, action, flags, get

TIMES = 7
CLONE_NEWNS = 0x20000


@pytest.fixture(scope="module")
def ran(sensor: Sensor, workloads: Workloads, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    place = tmp_path_factory.mktemp("priv").resolve()
    truth, documents = sensor.watch(lambda: workloads.run("priv", place, TIMES))
    pids = {truth["pid"]} | {row["pid"] for row in truth["operations"]}
    seen = [d for d in documents if get(d, "process.pid") in pids and get(d, "event.kind") == "event"]
    return SimpleNamespace(truth=truth, seen=seen, place=place)


def _rows(ran: SimpleNamespace, *ops: str) -> list[Document]:
    return [row for row in ran.truth["operations"] if row["op"] in ops]


def _seen(ran: SimpleNamespace, wanted: str) -> list[Document]:
    return [d for d in ran.seen if action(d) == wanted]


def test_ptrace_and_memory_writes_name_both_processes(ran: SimpleNamespace) -> None:
    """PTRACE_ATTACH, PTRACE_SEIZE and process_vm_writev, each once, in order, with the target."""
    rows = _rows(ran, "ptrace")
    assert len(rows) == 3 * TIMES
    wanted = [(row["pid"], row["request"], row["target"]) for row in rows]
    seen = [
        (get(d, "process.pid"), get(d, "process.ptrace.request"), get(d, "process.target.pid"))
        for d in _seen(ran, "process-ptrace")
    ]
    assert seen == wanted
    assert {get(d, "process.target.executable") for d in _seen(ran, "process-ptrace")} == {ran.truth["executable"]}


def test_memory_files_are_seen_by_name(ran: SimpleNamespace) -> None:
    """Seven memfd_create() calls, each with the descriptor it returned."""
    wanted = [(row["name"], row["result"]) for row in _rows(ran, "memfd")]
    assert len(wanted) == TIMES
    assert [(get(d, "file.name"), get(d, "event.result")) for d in _seen(ran, "memfd-create")] == wanted


@pytest.mark.parametrize(("how", "times"), [("proc", 4), ("execveat", 3)])
@pytest.mark.hostile("odd-exec")
def test_programs_executed_from_memory_are_marked(ran: SimpleNamespace, how: str, times: int) -> None:
    """Through /proc/self/fd or execveat(): one exec, marked memfd, with the arguments given."""
    rows = [row for row in _rows(ran, "memfd-exec") if row["how"] == how]
    assert len(rows) == times
    for row in rows:
        [d] = [d for d in _seen(ran, "process-exec") if get(d, "process.pid") == row["pid"]]
        assert "memfd" in flags(d)
        assert ("fd_exec" in flags(d)) == (how == "execveat")
        assert row["name"] in get(d, "process.executable_resolved")
        assert get(d, "process.args") == row["argv"]
        assert get(d, "process.parent.pid") == ran.truth["pid"]


def test_namespace_changes_have_their_kinds(ran: SimpleNamespace) -> None:
    """unshare() and setns() of seven processes."""
    wanted = [
        (row["pid"], 272 if row["op"] == "unshare" else 308, row["namespaces"], 0)
        for row in _rows(ran, "unshare", "setns")
    ]
    assert len(wanted) == 2 * TIMES
    seen = [
        (
            get(d, "process.pid"),
            get(d, "sensor.operation"),
            get(d, "process.namespace.flags"),
            get(d, "event.result"),
        )
        for d in _seen(ran, "namespace-change")
    ]
    assert seen == wanted


def test_mounts_have_source_type_target_and_flags(ran: SimpleNamespace) -> None:
    """A private remount, a tmpfs and its removal, by seven processes in mount namespaces of their own."""
    rows = _rows(ran, "mount", "umount")
    assert len(rows) == 3 * TIMES
    wanted = [
        (
            row["pid"],
            165 if row["op"] == "mount" else 166,
            row["source"],
            row["path"],
            row["filesystem"],
            row["flags"],
            0,
        )
        for row in rows
    ]
    seen = [
        (
            get(d, "process.pid"),
            get(d, "sensor.operation"),
            get(d, "mount.source", ""),
            get(d, "file.path"),
            get(d, "mount.type", ""),
            get(d, "mount.flags"),
            get(d, "event.result"),
        )
        for d in _seen(ran, "mount")
    ]
    assert seen == wanted


def test_credential_changes_show_what_became_of_the_process(ran: SimpleNamespace) -> None:
    """setgid, setresuid, capset, setuid: ids after the call; the setuid() that failed is not there."""
    rows = _rows(ran, "credentials")
    assert len(rows) == 4 * TIMES
    wanted = [(row["pid"], row["operation"], row["real_uid"], row["saved_uid"], row["effective_uid"]) for row in rows]
    seen = [
        (
            get(d, "process.pid"),
            get(d, "sensor.operation"),
            int(get(d, "process.real_user.id")),
            int(get(d, "process.saved_user.id")),
            int(get(d, "user.id")),
        )
        for d in _seen(ran, "credentials-change")
    ]
    assert seen == wanted


def test_bpf_loads_have_type_name_id_and_the_refused_ones_too(ran: SimpleNamespace) -> None:
    """A program that loaded has the kernel's id; one that the verifier refused has the error."""
    rows = _rows(ran, "bpf")
    assert len(rows) == 2 * TIMES
    wanted = [(row["name"], row["type"], row["instructions"], row.get("id", 0), row["errno"]) for row in rows]
    seen = [
        (
            get(d, "bpf.program.name"),
            get(d, "bpf.program.type"),
            get(d, "bpf.program.instructions"),
            get(d, "bpf.program.id", 0),
            max(0, -get(d, "event.result")),
        )
        for d in _seen(ran, "bpf-load")
    ]
    assert seen == wanted
    assert Counter(get(d, "event.outcome") for d in _seen(ran, "bpf-load")) == {
        "success": TIMES,
        "failure": TIMES,
    }


def test_module_attempts_are_seen_though_they_fail(ran: SimpleNamespace) -> None:
    """init_module, finit_module with the file, delete_module with the name: the attempt is the event."""
    rows = _rows(ran, "module")
    assert len(rows) == 3 * TIMES
    wanted = [(row["operation"], -row["errno"], row["name"], row.get("path", "")) for row in rows]
    seen = [
        (
            get(d, "sensor.operation"),
            get(d, "event.result"),
            get(d, "driver.name", ""),
            get(d, "file.path", ""),
        )
        for d in _seen(ran, "module-load")
    ]
    assert seen == wanted
    assert all(row["errno"] for row in rows)
