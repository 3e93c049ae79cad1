"""Which tests run where, and what the run comes to."""

from __future__ import annotations

import base64
import itertools
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.conftest import outside_data
from tests.vm import coverage, images
from tests.vm.host import cache, guest_slot, say
from tests.vm.machine import Boot, Result, boot_and_run

ALL = tuple(images.KERNELS)
NEWEST = ALL[-1:]
OLDEST_AND_NEWEST = (ALL[0], ALL[-1])
#: Every BCC that the suites have, each on a kernel that is not older than itself.
OTHER_ROOTS = (("6.12", "trixie"), ("7.2", "sid"))
_KEEP_LOGS = 2 * 86400
_SOAK = "cd /opt/sensor && python3 -m tests.live.soak"  # loads, attaches


@dataclass(frozen=True, slots=True)
class GuestTest:
    """A command run in the guest, in /t/guest.

    ``expect`` is empty for a test that must pass. Otherwise it is a fault on purpose: it gets
    a guest to itself and what the harness says about that guest must contain this text.
    """

    name: str
    command: str
    doc: str
    seconds: int = 120
    mode: str = "init"
    kernels: tuple[str, ...] = ALL
    expect: str = ""
    also: tuple[tuple[str, str], ...] = ()  # (kernel, suite of the root image) besides the usual root
    append: str = ""  # more kernel arguments; a boot is shared only by tests that want the same
    crashes: int = 0  # how often it crashes the guest by sysrq and goes on in the next boot; a guest to itself
    root: str = ""  # the one root image of images.VARIANTS that has what it needs
    data: tuple[str, ...] = ()  # outside test material that it needs, laid out in /t/data; skipped by name without
    contract: tuple[str, ...] = ()  # claims of tests/safety.py that it proves
    hostile: tuple[str, ...] = ()  # cases of tests/safety.py
    slow: bool = False  # a quarter of an hour where all is emulated: runs when named, or with --slow

    @property
    def alone(self) -> bool:
        """Whether it has a guest to itself."""
        return bool(self.expect or self.crashes)


TESTS = (
    GuestTest("smoke", "python3 smoke.py", "What this kernel offers; BCC compiles without headers.",
              seconds=240),
    GuestTest("probes", "python3 probes.py", "Every program of every family loads and attaches.", seconds=480,
              also=OTHER_ROOTS, contract=("panic-2a",)),
    GuestTest("live", "python3 live.py", "Workloads' truth against the sensor's events, way by way.", seconds=900,
              hostile=("io-uring", "odd-calls", "odd-exec", "odd-path", "cold-page")),
    GuestTest("live-first", "python3 live.py first", "Its first round, with the BCC of other suites.", seconds=600,
              kernels=(), also=OTHER_ROOTS),
    GuestTest("pytest", "sh pytest.sh", "The live tests about truth; only when named with a kernel: many minutes.",
              seconds=1200, kernels=()),
    GuestTest("record", "python3 record.py", "Makes the example recording; runs when asked for with a kernel.",
              seconds=400, kernels=()),
    GuestTest("atomics", "python3 atomics.py", "Atomic Red Team tests with real tools: the public rules fire.",
              seconds=1500, kernels=(), root="bookworm-atomics", data=("atomics", "sigma/linux")),
    GuestTest("soak", f"{_SOAK} 2 20", "Attach and detach under load, beside a co-tenant: the kernel stays as it was.",
              seconds=600, kernels=(), contract=("panic-14b", "panic-14c")),
    GuestTest("load-failures", "cd /opt/sensor && python3 -m tests.live.faults 12",
              "Calls of a load fail, its processes are killed: nothing stays.", seconds=600, kernels=(),
              contract=("panic-14d",)),
    GuestTest("soak-long", f"{_SOAK} 20 1000 bpftrace", "The same a thousand times, beside bpftrace: make soak.",
              seconds=7200, kernels=(), contract=("panic-14b", "panic-14c")),
    GuestTest("systemd", "sh systemd.sh", "systemd reaches multi-user and runs a unit.", mode="systemd"),
    # Before the service, which makes of the guest an installation.
    GuestTest("reduced-no-btf", "python3 -B reduced.py no-btf", "Without the kernel's types the service is passive.",
              seconds=400, mode="systemd", kernels=OLDEST_AND_NEWEST,
              contract=("panic-1a", "panic-6a"), hostile=("reduced-host",)),
    GuestTest("reduced-lockdown", "python3 -B reduced.py lockdown", "Where probes may not read, it is passive too.",
              seconds=400, mode="systemd", kernels=OLDEST_AND_NEWEST, append="lockdown=confidentiality",
              contract=("panic-1a", "panic-6a"), hostile=("reduced-host",)),
    GuestTest("service", "python3 -B -m service", "Installed by make, run, hurt, upgraded and removed under systemd.",
              seconds=2400, mode="systemd", kernels=OLDEST_AND_NEWEST, slow=True,
              contract=("panic-5b",), hostile=("kill", "restart")),
    GuestTest("guard", "python3 -B guard.py", "The host crashes twice with probes attached: fewer probes, then none, "
              "and the crashes are known for what they are.", seconds=700, mode="systemd", kernels=OLDEST_AND_NEWEST,
              crashes=2, slow=True, contract=("panic-8a", "panic-8b", "panic-12a", "panic-12b")),
    GuestTest("fault-crash", "echo c > /proc/sysrq-trigger", "A panic is seen.", expect="Kernel panic",
              contract=("panic-14a",)),
    GuestTest("fault-offset", "sh offset.sh", "A probe that reads at a wrong offset is seen.", seconds=600,
              kernels=NEWEST, expect="status 1"),
    GuestTest("fault-status", "exit 7", "A failing guest test is seen.", kernels=NEWEST, expect="status 7",
              contract=("panic-14a",)),
    GuestTest("fault-taint", "echo 64 > /proc/sys/kernel/tainted", "A tainted kernel is seen.",
              kernels=NEWEST, expect="taint 64", contract=("panic-14a",)),
    GuestTest("fault-silent", "echo b > /proc/sysrq-trigger", "A guest that ends without its report is seen.",
              kernels=NEWEST, expect="the report stops early", contract=("panic-14a",)),
    GuestTest("fault-hang", "sh hang.sh", "A task that hangs in the kernel is seen.", kernels=NEWEST,
              expect="blocked for more than", contract=("panic-14a",)),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One boot: the tests that share it."""

    label: str
    mode: str
    tests: tuple[GuestTest, ...]
    root: str = images.ROOT_SUITE
    append: str = ""

    @property
    def place(self) -> str:
        """Heading of its column: the kernel, and the root where it is not the usual one."""
        return self.label if self.root == images.ROOT_SUITE else f"{self.label} {self.root}"

    @property
    def name(self) -> str:
        own = self.tests[0].name if self.tests[0].alone or self.append else ""
        return "-".join(filter(None, (*self.place.split(), self.mode, own)))


def _places(test: GuestTest, kernels: Sequence[str], named: bool, roots: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Kernel and root of each boot that *test* is part of. With *named*, the table is overridden.

    Whoever names a kernel and no root means the usual one: the others are for the whole matrix.
    """
    if test.root:
        yield from ((kernel, test.root) for kernel in kernels or ALL if kernel in test.kernels or named)
        return
    for place in itertools.product(kernels or ALL, roots or (images.ROOTS[:1] if kernels else images.ROOTS)):
        usual = place[1] == images.ROOT_SUITE
        if place in test.also or (usual and place[0] in test.kernels) or (named and (usual or roots)):
            yield place


def plan(kernels: Sequence[str], names: Sequence[str], roots: Sequence[str] = (), *, slow: bool = False) -> list[Job]:
    """The boots for these kernels, tests and root suites (all when empty). Tests share a boot where they can.

    *slow* adds slow tests, which otherwise must be named.
    """
    shared: dict[tuple[str, str, str, str], list[GuestTest]] = defaultdict(list)
    alone = []
    for test in TESTS:
        if (names and test.name not in names) or (test.slow and not names and not slow):
            continue
        if absent := [part for part in test.data if not outside_data(part).exists()]:
            say(f"{test.name}: skipped, outside test material is absent: {' '.join(absent)}")
            continue
        # Asking for both a kernel and a test by name overrides the table.
        for label, root in _places(test, kernels, bool(names and kernels), roots):
            if test.alone:
                alone.append(Job(label, test.mode, (test,), root, test.append))
            else:
                shared[label, test.mode, root, test.append].append(test)
    jobs = [Job(label, mode, tuple(tests), root, append) for (label, mode, root, append), tests in shared.items()]
    jobs += alone
    return sorted(jobs, key=lambda job: -sum(test.seconds for test in job.tests))  # or a long one ends alone


def complaint(test: GuestTest, boot: Boot) -> str:
    """Why *test* failed in *boot*; empty when it did what it should."""
    result: Result | None = boot.results.get(test.name)
    said = boot.problem
    if not said and result is None:
        said = "no result"
    elif not said and result is not None and result.status:
        said = "over its time limit" if result.status in (124, 137) else f"status {result.status}"
    if not test.expect:
        return said
    return "" if test.expect in said else f"expected {test.expect!r}, the verdict is {said or 'all well'!r}"


def run(jobs: Iterable[Job], at_once: int, *, keep: bool = False, overlays: Sequence[Path] = (),
        extra: str = "") -> dict[Job, Boot]:
    """Run *jobs*, *at_once* guests at a time, and return how each boot went."""
    jobs = list(jobs)
    images.busybox()
    for suite in dict.fromkeys(job.root for job in jobs):
        images.root(suite), images.wheels(suite)
    for label in dict.fromkeys(job.label for job in jobs):
        images.kernel(label)
    logs = cache() / "logs"
    logs.mkdir(exist_ok=True)
    for old in logs.iterdir():
        if time.time() - old.stat().st_mtime > _KEEP_LOGS:
            shutil.rmtree(old, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix="run-", dir=logs))
    say(f"{len(jobs)} guests, {at_once} at a time; logs in {home}")
    tree = images.payload(home, overlays, {part for job in jobs for test in job.tests for part in test.data})

    def start(job: Job, place: Path) -> Boot:
        say(f"{job.name}: starting")
        return boot_and_run(job.label, job.mode, [(t.name, t.seconds, t.command) for t in job.tests], tree, place,
                            f"{job.append} {extra}", lambda text: say(f"{job.name}: {text}"), job.root,
                            crashes=job.tests[0].crashes)

    def one(job: Job) -> Boot:
        with guest_slot():
            boot = start(job, home / job.name)
            if not boot.release:  # nothing of ours has run yet: seen are crashes of 7.2 while it patches its own code
                say(f"{job.name}: did not come up, and is started once more: {boot.problem}")
                boot = start(job, home / f"{job.name}-again")
        bad = [c for t in job.tests if (c := complaint(t, boot))]
        say(f"{job.name}: {'FAILED' if bad else 'ok'} after {boot.seconds:.0f} s")
        keep_recording(boot, home / f"recording-{job.label}.jsonl.zst")
        return boot

    with ThreadPoolExecutor(at_once) as pool:
        done = dict(zip(jobs, pool.map(one, jobs), strict=True))
    if not keep:
        images.forget(tree)
    return done


def keep_recording(boot: Boot, file: Path) -> None:
    """Write the recording that the test ``record`` left, if it ran."""
    if (result := boot.results.get("record")) is not None and result.data:
        file.write_bytes(base64.b64decode(result.data["recording"]))
        say(f"recording of {result.data['lines']} lines: {file}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def verdicts(done: dict[Job, Boot]) -> tuple[str, int]:
    """The table test by kernel and root, and the number of failures."""
    labels = list(dict.fromkeys(job.place for job in done))
    rows, failures = [["test", *labels]], 0
    for test in TESTS:
        cells = {}
        for job, boot in done.items():
            if test in job.tests:
                bad, result = complaint(test, boot), boot.results.get(test.name)
                failures += bool(bad)
                word = "FAILED" if bad else "red, as it must" if test.expect else "ok"
                cells[job.place] = f"{word} {result.seconds if result else boot.seconds:.0f} s"
        if cells:
            rows.append([test.name, *(cells.get(label, "-") for label in labels)])
    return table(rows), failures


def failures(done: dict[Job, Boot]) -> str:
    """For each boot that failed: why, the end of its console, and where the rest is."""
    out = []
    for job, boot in done.items():
        bad = [f"{test.name}: {why}" for test in job.tests if (why := complaint(test, boot))]
        if bad:
            out.append(f"--- {job.name} ({boot.release or 'no kernel came up'})\n" + "\n".join(bad)
                       + f"\n{boot.tail()}\n    whole console: {boot.log}")
    return "\n".join(out)


def by_kernel(test: str, title: str, done: dict[Job, Boot]) -> str:
    """The table of what *test* left as data: one column for each kernel and root."""
    found = {job.place: boot.results[test].data for job, boot in done.items()
             if test in boot.results and boot.results[test].data}
    if not found:
        return ""
    names = list(dict.fromkeys(name for data in found.values() for name in data))
    rows = [[name, *(str(data.get(name, "-")) for data in found.values())] for name in names]
    return table([[title, *found], *rows])


def coverage_page(done: dict[Job, Boot]) -> str:
    """docs/coverage.md as this run has it; empty where the run was not the whole of it."""
    data: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for job, boot in done.items():
        data[job.label, job.root].update((name, result.data) for name, result in boot.results.items() if result.data)
    if any(test.name not in data[job.label, job.root] for job in plan([], []) for test in job.tests
           if test.name in (*coverage.TESTS, coverage.FIRST, *coverage.REDUCED)):
        return ""
    releases = {job.label: boot.release for job, boot in done.items()}
    usual = {label: found for (label, root), found in data.items() if root == images.ROOT_SUITE}
    return coverage.render(usual, [releases[label] for label in ALL], data)


def coverage_of_service(done: dict[Job, Boot], old: str) -> str:
    """The page *old* with another section on the service, from a run of just this; empty where the run had it not."""
    found = {job.label: {"service": result.data} for job, boot in done.items()
             if (result := boot.results.get("service")) is not None and result.data}
    if not old or {*found} != {*OLDEST_AND_NEWEST}:
        return ""
    return coverage.without_slow_part(old) + coverage.under_systemd(found)


REPORTS: tuple[Callable[[dict[Job, Boot]], str], ...] = (
    partial(by_kernel, "smoke", "the kernel offers"), partial(by_kernel, "probes", "event: hooks attached"),
    partial(by_kernel, "live", "event, way: seen/done"),
    partial(by_kernel, "live-first", "event, way: seen/done"), partial(by_kernel, "service", "under systemd"),
    partial(by_kernel, "guard", "over three boots"),
    partial(by_kernel, "atomics", "atomic test, rule: fired"),
    *(partial(by_kernel, test, f"{test}: holds") for test in coverage.REDUCED))
