"""Reading /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sensor.process.model import TICK_NS
from sensor.process.seed import Reader, host_user_name
from sensor.process.table import ProcessTable
from tests.conftest import ROOT


class FakeProc:
    """A /proc made of files."""

    def __init__(self, root: Path) -> None:
        self.root = root / "proc"
        self.root.mkdir()
        (self.root / "stat").write_text("cpu 0\nbtime 1700000000\n")

    def add(self, pid: int, name: str = "sh", *, parent: int = 1, start: int = 500, flags: int = 0,
            argv: bytes = b"sh\0-c\0x\0", program: Path | None = None, cgroup: str = "0::/a.service\n") -> Path:
        """One process; *start* in clock ticks."""
        home = self.root / str(pid)
        (home / "ns").mkdir(parents=True)
        fields = ["S", parent, pid, 7, 0, -1, flags, *[0] * 12, start, *[0] * 30]
        (home / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")
        (home / "status").write_text(f"Name:\t{name.partition(chr(10))[0]}\nPPid:\t{parent}\nUid:\t1000\t33\t0\t33\n"
                                     f"Gid:\t1000\t34\t0\t34\nNSpid:\t{pid}\t5\nCapEff:\t00000000000000ff\n")
        (home / "cmdline").write_bytes(argv)
        (home / "cgroup").write_text("1:name=systemd:/old\n" + cgroup)
        (home / "loginuid").write_text("1000")
        (home / "sessionid").write_text("3")
        for number, kind in enumerate(("mnt", "pid", "net", "user")):
            (home / "ns" / kind).symlink_to(f"{kind}:[{4026531000 + number}]")
        if program is not None:
            (home / "exe").symlink_to(program)
            (home / "root").symlink_to("/")
        (home / "cwd").symlink_to("/tmp")
        return home


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    """An empty /proc."""
    return FakeProc(tmp_path)


def test_process_is_read_with_all_its_files(proc: FakeProc, tmp_path: Path) -> None:
    """Each value comes from the file that the kernel documents for it."""
    program = tmp_path / "dash"
    program.write_bytes(b"x")
    (tmp_path / "groups" / "a.service").mkdir(parents=True)
    proc.add(20, program=program, argv=b"sh\0-c\0two words\0")
    (one,) = Reader(str(proc.root), str(tmp_path / "groups")).processes()
    assert (one.pid, one.start_ns, one.parent_pid) == (20, 500 * TICK_NS, 1)
    assert (one.uid, one.gid, one.ns_pid, one.mntns) == (33, 34, 5, 4026531000)
    assert one.cgroup_id == (tmp_path / "groups" / "a.service").stat().st_ino
    expected = {"real_uid": 1000, "saved_uid": 0, "real_gid": 1000, "capabilities": 255, "session_pid": 7,
                "login_uid": 1000, "audit_session": 3, "pidns": 4026531001, "netns": 4026531002,
                "userns": 4026531003, "cgroup": "/a.service", "executable": str(program),
                "argv": ("sh", "-c", "two words"), "argc": 3, "cwd": "/tmp", "inode": program.stat().st_ino}
    assert {key: one.values[key] for key in expected} == expected


def test_name_may_hold_parentheses_and_newlines(proc: FakeProc) -> None:
    """The name in stat is whatever the process called itself."""
    proc.add(20, name=") S 1 (\n2)")
    (one,) = Reader(str(proc.root)).processes()
    assert (one.name, one.parent_pid) == (") S 1 (\n2)", 1)


def test_first_argument_names_the_program_only_if_it_leads_to_it(proc: FakeProc, tmp_path: Path) -> None:
    """A link to the program is believed; anything else that a process writes there is not."""
    program, alias, other = tmp_path / "kmod", tmp_path / "lsmod", tmp_path / "other"
    program.write_bytes(b"x")
    other.write_bytes(b"y")
    alias.symlink_to(program)
    proc.add(20, program=program, argv=os.fsencode(alias) + b"\0")
    proc.add(21, program=program, argv=os.fsencode(other) + b"\0")
    table = ProcessTable("b")
    table.seed(Reader(str(proc.root)).processes())
    facts = [process.facts for pid in (20, 21) if (process := table.current(pid)) is not None]
    assert [fact["executable"] for fact in facts] == [str(alias), str(program)]
    assert {fact["executable_resolved"] for fact in facts} == {str(program)}


def test_kernel_thread_is_marked_and_has_no_program(proc: FakeProc) -> None:
    """By PF_KTHREAD, not by an empty command line, which any process can have."""
    proc.add(2, name="kthreadd", parent=0, flags=0x00200000, argv=b"")
    proc.add(20, argv=b"")
    kernel, plain = sorted(Reader(str(proc.root)).processes(), key=lambda item: item.pid)
    assert (kernel.kernel, plain.kernel) == (True, False)
    assert "executable" not in kernel.values


def test_vanished_and_broken_processes_are_counted_and_skipped(proc: FakeProc) -> None:
    """The others are read all the same."""
    proc.add(20)
    (proc.add(21) / "stat").unlink()
    (proc.add(22) / "stat").write_text("garbage")
    (proc.add(23) / "status").write_text("Uid:\tx\ty\tz\nGid:\t1\t2\t3\n")
    reader = Reader(str(proc.root))
    assert [one.pid for one in reader.processes()] == [20]
    counters = reader.counters
    assert (counters.read, counters.vanished, counters.malformed) == (1, 1, 2)


def test_unreadable_links_are_counted_and_unknown() -> None:
    """Without privileges, what root runs can't be read; who it is can."""
    code = ("from sensor.process.seed import Reader\n"
            "reader = Reader()\n"
            f"own = next(one for one in reader.processes() if one.pid == {os.getpid()})\n"
            "print(own.uid, bool(own.values['executable']), reader.counters.denied > 0)")
    user = 65534 if os.geteuid() == 0 else None
    if user is None:
        pytest.skip("needs root, to have something that another user can't read")
    done = subprocess.run([sys.executable, "-c", code], user=user, cwd=ROOT, capture_output=True, text=True,
                          check=True, env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.stdout.split() == ["0", "False", "True"]


def test_the_program_is_what_the_kernel_says_and_never_an_argument(proc: FakeProc, tmp_path: Path) -> None:
    """Whose link can't be read has no program here, whatever it calls itself; one that was deleted keeps its path."""
    named = tmp_path / "with (deleted)"
    named.write_bytes(b"x")
    proc.add(20, argv=b"/bin/sh\0")
    proc.add(21, program=Path("/tmp/gone/x (deleted)"), argv=b"/bin/sh\0")
    proc.add(22, program=named)
    assert [one.values["executable"] for one in Reader(str(proc.root)).processes()] == ["", "/tmp/gone/x", str(named)]


def test_psutils_root_is_put_back(proc: FakeProc) -> None:
    """Whoever uses psutil afterwards reads the real /proc, also if the reading stops half way."""
    before = psutil.PROCFS_PATH
    proc.add(20)
    proc.add(21)
    reading = Reader(str(proc.root)).processes()
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert before == psutil.PROCFS_PATH


def test_real_child_is_found_with_its_start_parent_and_arguments() -> None:
    """What /proc of this kernel says of a process that we have made; starts are boot time."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            deadline = time.monotonic() + 10
            while True:  # fork and exec are two steps: wait for the second
                found = {one.pid: one for one in Reader().processes()}
                argv = found[child.pid].values["argv"]
                if argv[-1:] == (code,) or time.monotonic() > deadline:
                    break
        finally:
            child.communicate(b"")
    one = found[child.pid]
    assert before - TICK_NS <= one.start_ns <= after
    assert one.parent_pid == os.getpid()
    assert argv == (sys.executable, "-c", code)
    assert one.values["executable"] == os.path.realpath(sys.executable)
    assert one.uid == os.geteuid()


def test_host_name_of_user_comes_from_the_password_database() -> None:
    """Root has a name everywhere; the largest id has none."""
    assert host_user_name(0) == "root"
    assert host_user_name(4294967294) is None
