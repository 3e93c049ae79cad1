"""The VM harness judges guests by what they leave behind; here the leavings are written by hand."""

from __future__ import annotations

import importlib
import io
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.vm import compiled, coverage, images, machine, matrix
from tests.vm.machine import Boot

GOOD = "UP 6.12.1 3.5\r\nDATA smoke {\"BTF\": \"yes\"}\r\nTEST smoke 0 9.5 0\r\nEND\r\n"
SMOKE = next(test for test in matrix.TESTS if test.name == "smoke")
CRASH = next(test for test in matrix.TESTS if test.name == "fault-crash")


def booted(report: str, console: str = "", *, timed_out: bool = False, crashes: int = 0) -> Boot:
    boot = Boot("6.12", "init", Path("/nonexistent"))
    ended = machine.parse(boot, report)
    boot.problem = machine.judge(boot, console, ended, timed_out, crashes)
    return boot


def test_whole_report_of_a_calm_guest_is_no_complaint() -> None:
    """Status, time, taint and data of each test arrive."""
    boot = booted(GOOD)
    assert matrix.complaint(SMOKE, boot) == ""
    assert (boot.release, boot.results["smoke"].seconds, boot.results["smoke"].data) == ("6.12.1", 9.5, {"BTF": "yes"})


@pytest.mark.parametrize(("report", "console", "said"), [
    ("", "", "never came up"),
    (GOOD.replace("END\r\n", ""), "", "the report stops early"),
    ("UP 6.12.1 3.5\nEND\n", "", "no result"),
    (GOOD.replace("smoke 0", "smoke 3"), "", "status 3"),
    (GOOD.replace("smoke 0", "smoke 124"), "", "over its time limit"),
    (GOOD.replace("9.5 0", "9.5 512"), "", "smoke left taint 512"),
    (GOOD, "[ 9.1] WARNING: CPU: 0 PID: 7 at kernel/bpf/core.c:1", "[ 9.1] WARNING: CPU: 0 PID: 7 at"),
    (GOOD, "[ 9.1] BUG: unable to handle page fault", "BUG: unable to handle page fault"),
    (GOOD, "[ 9.1] Kernel panic - not syncing: Fatal exception", "Kernel panic"),
    (GOOD, "watchdog: BUG: soft lockup - CPU#1 stuck for 60s!", "soft lockup"),
    (GOOD, "INFO: task touch:91 blocked for more than 61 seconds.", "blocked for more than"),
    (GOOD, "Out of memory: Killed process 91 (python3)", "Out of memory"),
])
@pytest.mark.contract("panic-14a")
def test_each_way_to_fail_is_told_apart(report: str, console: str, said: str) -> None:
    """A guest is fine only if nothing at all went wrong."""
    assert said in matrix.complaint(SMOKE, booted(report, console))


def test_guest_over_its_time_limit_is_called_hung() -> None:
    """Even when its tests had all passed before."""
    assert "hung" in matrix.complaint(SMOKE, booted(GOOD.replace("END\r\n", ""), timed_out=True))


def test_seeded_fault_must_be_seen_to_count_as_passed() -> None:
    """A crash on purpose that nobody notices is a failure of the harness."""
    assert matrix.complaint(CRASH, booted("UP 6.12.1 3.5\n", "Kernel panic - not syncing: sysrq")) == ""
    assert "'all well'" in matrix.complaint(CRASH, booted(GOOD.replace("smoke", "fault-crash")))


@pytest.mark.parametrize(("console", "said"), [
    (2, ""), (1, "crashed 1 times, not 2"), (3, "crashed 3 times, not 2"), (0, "crashed 0 times, not 2")])
def test_a_guest_that_is_to_crash_must_do_so_as_often_as_it_should(console: int, said: str) -> None:
    """And boot again; the report goes on where the next boot begins it anew."""
    panic = f"[ 20.1] {machine.ASKED}\n[ 20.3] ---[ end {machine.ASKED} ]---\n"
    assert matrix.complaint(SMOKE, booted("UP 6.12.1 3.5\n" * 2 + GOOD, panic * console, crashes=2)) == said


def test_another_crash_than_the_one_asked_for_is_a_complaint() -> None:
    console = f"{machine.ASKED}\n[ 9.1] BUG: unable to handle page fault\n"
    assert "BUG" in matrix.complaint(SMOKE, booted(GOOD, console, crashes=1))
    assert "Kernel panic" in matrix.complaint(SMOKE, booted(GOOD, f"{machine.ASKED}\n"))


def test_only_a_guest_that_is_to_crash_boots_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a store for what the kernel says while it dies; all others end with their first fault."""
    monkeypatch.setattr(machine.images, "root", lambda _suite: "/root.ext4")
    monkeypatch.setattr(machine.images, "wheels", lambda _suite: "/wheels.ext4")
    kernel = images.Kernel("6.12", Path("/vmlinuz"), ())
    once = machine.command(kernel, Path("/initrd"), Path("/w/report.log"), "systemd", "")
    again = machine.command(kernel, Path("/initrd"), Path("/w/report.log"), "systemd", "", crashes=2)
    assert "-no-reboot" in once and "acpi-erst,memdev=erst" not in once
    assert "-no-reboot" not in again and "acpi-erst,memdev=erst" in again
    [job] = matrix.plan(["7.2"], ["guard"])
    assert (job.tests[0].crashes, job.name) == (2, "7.2-systemd-guard")


def test_plan_shares_boots_but_gives_each_fault_its_own() -> None:
    """One boot for each kernel and init; faults alone."""
    jobs = matrix.plan([], [])
    assert len({job.name for job in jobs}) == len(jobs)
    assert all(len(job.tests) == 1 for job in jobs if job.tests[0].expect)
    assert {job.label for job in jobs if SMOKE in job.tests} == set(images.KERNELS)


def test_a_test_named_with_a_kernel_runs_there_even_if_the_table_leaves_it_out() -> None:
    """`--kernel 5.10 --test fault-taint` means what it says."""
    [job] = matrix.plan(["5.10"], ["fault-taint"])
    assert job.label == "5.10"


def test_a_boot_has_one_root_and_one_command_line() -> None:
    """Tests share a boot only where both are the same; the column of another root bears its name."""
    jobs = matrix.plan([], [])
    assert {job.root for job in jobs} == set(images.ROOTS)
    for job in jobs:
        assert {test.append for test in job.tests} == {job.append}
        if job.root != images.ROOT_SUITE:
            assert all((job.label, job.root) in test.also for test in job.tests)
            assert job.place == f"{job.label} {job.root}"


def test_a_named_root_is_the_only_one() -> None:
    """`--root sid` leaves the other boots out; with a kernel and a test it overrides the table."""
    assert {job.root for job in matrix.plan([], [], ["sid"])} == {"sid"}
    [job] = matrix.plan(["6.1"], ["smoke"], ["trixie"])
    assert (job.label, job.root, [test.name for test in job.tests]) == ("6.1", "trixie", ["smoke"])


def test_modules_load_after_what_they_need() -> None:
    """modules.dep lists needs outermost first; insmod wants them the other way round, each once."""
    text = ("k/virtio.ko.xz:\nk/ring.ko.xz:\nk/virtio_pci.ko.xz: k/ring.ko.xz k/virtio.ko.xz\n"
            "k/virtio_blk.ko.xz: k/ring.ko.xz k/virtio.ko.xz\nk/other.ko.xz:\n")
    order = images._load_order(text)
    assert order == ["k/virtio.ko.xz", "k/ring.ko.xz", "k/virtio_pci.ko.xz", "k/virtio_blk.ko.xz"]


def test_newest_release_is_chosen_by_number_and_no_backport(monkeypatch: pytest.MonkeyPatch) -> None:
    """6.1.0-9 is older than 6.1.0-50, and 6.1.0-0.deb11.52 belongs to another suite."""
    class Packages:
        def names(self, prefix: str) -> list[str]:
            return [f"linux-image-{name}-cloud-amd64" for name in (
                "6.1.0-9", "6.1.0-50", "6.1.0-0.deb11.52", "6.12.107+deb13", "6.12.94+deb13", "7.3.1+deb14")] + [
                "linux-image-6.1.0-99-amd64", "linux-image-6.1.0-99-rt-amd64"]

    assert images._release("6.1", Packages()) == "6.1.0-50-cloud-amd64"
    assert images._release("6.12", Packages()) == "6.12.107+deb13-cloud-amd64"
    assert images._release("7.2", Packages()) == "7.3.1+deb14-cloud-amd64"  # sid has moved on


def test_a_build_that_fails_leaves_nothing_to_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the target nor the scratch directory; the next try starts afresh."""
    monkeypatch.setenv("SENSOR_VM_CACHE", str(tmp_path))
    target = tmp_path / "image"

    def breaks(work: Path) -> Path:
        (work / "half").write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        images._cached(target, breaks)
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]

    def works(work: Path) -> Path:
        (work / "whole").write_text("whole")
        return work / "whole"

    assert images._cached(target, works).read_text() == "whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image", "lock"]


def test_overlay_that_would_replace_a_link_of_the_root_is_refused(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """/lib and /bin are links in the root image."""
    monkeypatch.setattr(images, "workloads", lambda: tmp_path / "none")
    (tmp_path / "over" / "lib").mkdir(parents=True)
    with pytest.raises(images.HostError, match="/lib"):
        images.payload(tmp_path / "work", [tmp_path / "over"])


def test_guest_that_never_ends_is_killed_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in qemu's place sleeps; the verdict comes after the limit, and the sleeper is gone."""
    initrd = tmp_path / "initrd"
    initrd.touch()
    monkeypatch.setattr(machine, "BOOT_SECONDS", 0)
    monkeypatch.setattr(machine.images, "kernel", lambda *_: None)
    monkeypatch.setattr(machine.images, "initrd", lambda *_: initrd)
    monkeypatch.setattr(machine, "command", lambda *_, **_options: ["sleep", "60"])
    boot = machine.boot_and_run("6.12", "init", [("smoke", 1, "true")], tmp_path, tmp_path / "work")
    assert boot.seconds < 10
    assert "hung" in boot.problem
    assert not initrd.exists()


def test_what_a_guest_compiled_is_kept_whatever_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are kept by their own name, links and huge files are not; half an archive or none is no error."""
    monkeypatch.setenv("SENSOR_VM_CACHE", str(tmp_path / "cache"))
    disk = compiled.disk(tmp_path / "disk")
    assert compiled.collect("6.12", "bookworm", disk) == 0
    with tarfile.open(tmp_path / "archive", "w") as archive:
        for name, size in (("./file-1", 5), ("../../path-2", 7), ("huge", compiled._FILE_MAX + 1), ("last", 4096)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
            link = tarfile.TarInfo(f"{name}-link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    written = (tmp_path / "archive").read_bytes()
    disk.write_bytes(written[:written.index(b"last") + 100])
    assert compiled.collect("6.12", "bookworm", disk) == 2
    disk.write_bytes(written + bytes(1 << 20))
    assert compiled.collect("6.12", "bookworm", disk) == 3
    compiled.lay_out("6.12", "bookworm", tmp_path / "guest")
    assert {file.name: file.stat().st_size for file in (tmp_path / "guest").iterdir()} == {
        "file-1": 5, "path-2": 7, "last": 4096}
    assert not any(file.stat().st_mode & 0o077 for file in (tmp_path / "guest").iterdir())
    compiled.lay_out("6.1", "bookworm", tmp_path / "other")
    assert not [*(tmp_path / "other").iterdir()]


def test_coverage_page_explains_each_gap_or_calls_it_a_defect() -> None:
    """A declared gap has its reason, another one says that it has none, and facts of one build stay out."""
    way, other = "dns-query dns write (net)", "file-open create (files)"
    data = {label: {"smoke": {"BTF": "4 KiB", "uprobe": "yes"}, "probes": {"file_open": "7/7"},
                    "live": {"seconds until ready": "9", way: "0/14", other: "23/23" if label != "7.2" else "22/23"}}
            for label in images.KERNELS}
    page = coverage.render(data, ["5.10.0-46", "6.1.0-50", "6.12.107", "7.2.13"])
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    assert "write() on a connected socket" in lines[way]
    assert lines[other].endswith("| 23/23 | 23/23 | 23/23 | 22/23 | **not explained: a defect** |")
    assert "BTF" not in lines and "seconds until ready" not in lines


def test_coverage_page_has_a_row_for_each_bcc_and_each_reduced_kernel() -> None:
    """Figures of another root are added up in its own row, and never mixed into the tables by kernel."""
    usual = {label: {"smoke": {}, "probes": {"bcc": "0.26.0", "python": "3.11.2", "file_open": "syscall (7 hooks)"},
                     "live": {"file-open create (files)": "23/23"}} for label in images.KERNELS}
    places = {(label, "bookworm"): found for label, found in usual.items()}
    places["7.2", "bookworm"] = {**usual["7.2"], "reduced-no-btf": {"mode": "passive", "reason": "no types"}}
    places["6.12", "trixie"] = {
        "probes": {"bcc": "0.31.0", "python": "3.13.5", "file_open": "syscall (7 hooks)", "mount": "syscall (5 hooks)"},
        "live-first": {"seconds until ready": "9", "file-open create (files)": "22/23", "mount (priv)": "7/7",
                       "file-unlink (files) [syscall]": "0/9"}}
    page = coverage.render(usual, ["5.10.0-46", "6.1.0-50", "6.12.107", "7.2.13"], places)
    assert "| 0.31.0 | 3.13.5 | trixie | 6.12 | 12 | 29/30 |" in page
    assert page.count("| 0.26.0 | 3.11.2 | bookworm |") == len(images.KERNELS)
    assert "no `/sys/kernel/btf/vmlinux` | 7.2 | passive | no types |" in page
    assert "| file-open create (files) | 23/23 | 23/23 | 23/23 | 23/23 |  |" in page


def test_coverage_page_has_the_checks_of_the_service_without_their_figures() -> None:
    """A check that failed on one kernel is seen, and one that did not run there is no success."""
    empty: dict[str, dict[str, object]] = {"smoke": {}, "probes": {}, "live": {}}
    data = {label: dict(empty) for label in images.KERNELS}
    data["5.10"]["service"] = {"seconds until ready": "9", "it alerts": "yes", "it stops": "**no**"}
    data["7.2"]["service"] = {"seconds until ready": "11", "it alerts": "yes"}
    page = coverage.render(data, ["5.10.0-46", "6.1.0-50", "6.12.107", "7.2.13"])
    assert "|  | 5.10 | 7.2 |" in page
    assert "| it alerts | yes | yes |" in page
    assert "| it stops | **no** | - |" in page
    assert "seconds until ready" not in page


def test_the_service_s_section_is_kept_by_runs_without_it_and_replaced_by_runs_of_it() -> None:
    """A quarter of an hour is not spent in each run; what is written of it must not vanish."""
    found = {label: Boot(label, "systemd", Path("/nonexistent")) for label in matrix.OLDEST_AND_NEWEST}
    service = next(test for test in matrix.TESTS if test.name == "service")
    for boot in found.values():
        boot.results["service"] = machine.Result(0, 1.0, 0, {"it starts": "yes", "seconds": "9"})
    done = {matrix.Job(label, "systemd", (service,)): boot for label, boot in found.items()}
    page = matrix.coverage_of_service(done, "# Coverage\n")
    assert page.startswith("# Coverage\n") and "| it starts | yes | yes |" in page and "seconds" not in page
    assert coverage.with_slow_part("# New\n", page) == page.replace("# Coverage", "# New")
    assert matrix.coverage_of_service(done, page) == page
    assert matrix.coverage_of_service(dict([*done.items()][:1]), page) == ""
    assert coverage.with_slow_part(page, "# Old\n") == page
    assert not any(service in job.tests for job in matrix.plan([], []))
    assert any(service in job.tests for job in matrix.plan([], [], slow=True))
    assert any(service in job.tests for job in matrix.plan([], ["service"]))


def test_a_test_with_its_own_root_gets_that_one_when_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never in the whole matrix, nor where the outside material that it needs is absent."""
    monkeypatch.setattr(matrix, "outside_data", lambda _: tmp_path)
    (job,) = matrix.plan(["6.12"], ["atomics"])
    assert (job.root, job.place) == ("bookworm-atomics", "6.12 bookworm-atomics")
    assert images.suite_of(job.root) == "bookworm"
    assert not any(test.name == "atomics" for job in matrix.plan([], []) for test in job.tests)
    monkeypatch.setattr(matrix, "outside_data", lambda _: tmp_path / "nowhere")
    assert matrix.plan(["6.12"], ["atomics"]) == []


@pytest.fixture
def atomics(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(images.GUEST))
    return importlib.import_module("atomics")


def test_atomics_that_do_not_fire_need_a_reason(atomics: ModuleType) -> None:
    """A rule that was not given is one, a known gap is one; of the rest none may be missing."""
    known = next(iter(atomics.MISSING))
    expected = {("T1", "r1"): "T1 one", ("T2", "r2"): "T2 two", known: "known",
                **{(f"T{n}", "r1"): "more" for n in range(10, 60)}}
    published = f"id: r1, id: {known[1]}"
    found = {*expected} - {("T2", "r2"), known} | {("T9", "other"), ("cleanup", "r1")}
    report, passed = atomics.judge(expected, found, published)
    assert passed
    assert report["pairs seen"] == f"{len(expected) - 2} of {len(expected)}"
    assert report["other pairs"] == "1"
    assert "not among those given" in report["T2 two"]
    assert report["known"] == atomics.MISSING[known]
    assert not atomics.judge(expected, found - {("T1", "r1")}, published)[1]
    assert not atomics.judge({("T1", "r1"): "T1 one", known: "known"}, {("T1", "r1")}, published)[1]


@pytest.mark.parametrize(("comes_up", "boots"), [(True, 1), (False, 2)])
def test_a_guest_that_never_came_up_is_started_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         comes_up: bool, boots: int) -> None:
    """Nothing of ours has run by then; one that did come up is judged by what it did."""
    started: list[Path] = []

    def boot_and_run(*given: Any, **_: object) -> Boot:
        started.append(given[4])
        boot = Boot("7.2", "init", tmp_path / "console")
        boot.release, boot.problem = ("7.2.13" if comes_up else ""), "Oops: int3"
        return boot

    monkeypatch.setenv("SENSOR_VM_CACHE", str(tmp_path))
    monkeypatch.setattr(matrix, "boot_and_run", boot_and_run)
    for name in ("busybox", "root", "wheels", "kernel", "payload", "forget"):
        monkeypatch.setattr(images, name, lambda *_: None)
    job = matrix.Job("7.2", "init", (SMOKE,))
    [boot] = matrix.run([job], 1).values()
    assert len(started) == len({*started}) == boots
    assert matrix.complaint(SMOKE, boot) == "Oops: int3"
