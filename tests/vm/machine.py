"""One boot of one kernel, and the verdict on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.vm import compiled, images

BOOT_SECONDS = 120  # measured: 5 to 15; the machine may be busy
#: On a busy machine: a guest whose seconds are 500 million instructions each, so that the sensor's own time limits
#: hold. It has one processor (with two it does not get through its boot) and takes twice the machine's time.
STEADY = bool(os.environ.get("SENSOR_VM_STEADY"))
#: Anything wrong ends the guest at once: panic=-1 reboots, and qemu's -no-reboot makes that an exit.
KERNEL_ARGUMENTS = (
    "console=ttyS0 loglevel=5 panic=-1 oops=panic panic_on_warn=1 softlockup_panic=1 hung_task_panic=1 "
    "sysctl.kernel.panic_on_oops=1 sysctl.kernel.panic_on_warn=1 sysctl.kernel.softlockup_panic=1 "
    "sysctl.kernel.hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=60 "
    "sysctl.kernel.panic_on_rcu_stall=1 "
    # Emulated processors lose time to the host's other work: 30 means a soft lockup after 60 s.
    "sysctl.kernel.watchdog_thresh=30 "
    # Without bpf in this list an LSM program loads, attaches, and is never called.
    "lsm=landlock,lockdown,yama,apparmor,bpf "
    # There is no udev: a getty would wait 90 s for its device.
    "systemd.getty_auto=0 systemd.show_status=0 systemd.machine_id=73656e736f722d766d2d67756573740a net.ifnames=0")
#: A crash that a test asks for; after it the guest boots again.
ASKED = "Kernel panic - not syncing: sysrq triggered crash"
BAD = re.compile(r"Kernel panic|Oops[: ]|BUG: |WARNING: CPU|general protection fault|soft lockup|rcu: INFO:|"
                 r"blocked for more than|Out of memory: Killed|unchecked MSR access error")


@dataclass(frozen=True, slots=True)
class Result:
    """How one guest test ended: its exit status, seconds, taint mask after it, and the data it left."""

    status: int
    seconds: float
    taint: int
    data: Any


@dataclass(slots=True)
class Boot:
    """One guest. ``problem`` is empty when it booted, ran its list and ended as it should."""

    label: str
    mode: str
    log: Path
    release: str = ""
    up_seconds: float = 0.0
    seconds: float = 0.0
    results: dict[str, Result] = field(default_factory=dict)
    problem: str = ""

    def tail(self, lines: int = 30) -> str:
        """The end of the console."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text).splitlines()[-lines:])


def parse(boot: Boot, report: str) -> bool:
    """Read the guest's report into *boot*. False when it stops before its END."""
    data: dict[str, Any] = {}
    for line in report.replace("\r", "").splitlines():
        word, _, rest = line.partition(" ")
        if word == "UP":
            boot.release, up = rest.split()
            boot.up_seconds = float(up)
        elif word == "DATA":
            name, _, text = rest.partition(" ")
            data[name] = json.loads(text)
        elif word == "TEST":
            name, status, seconds, taint = rest.split()
            boot.results[name] = Result(int(status), float(seconds), int(taint), data.get(name))
        elif word == "END":
            return True
    return False


def judge(boot: Boot, console: str, ended: bool, timed_out: bool, crashes: int = 0) -> str:
    """What was wrong with the guest as a whole: empty is fine. *crashes*: how often it was to crash by sysrq."""
    lines = [line.strip() for line in console.splitlines() if BAD.search(line)]
    if crashes:
        asked = sum(ASKED in line and "---[ end" not in line for line in lines)
        lines = [line for line in lines if ASKED not in line]
        if asked != crashes and not lines:
            return f"crashed {asked} times, not {crashes}"
    bad = next(iter(lines), "")
    taint = next((f"{name} left taint {r.taint}" for name, r in boot.results.items() if r.taint), "")
    if bad:
        return bad
    if timed_out:
        return "hung: the time limit is over"
    if not boot.release:
        return "never came up"
    return taint or ("" if ended else "the report stops early")


def command(kernel: images.Kernel, initrd: Path, report: Path, mode: str, extra: str,
            suite: str = images.ROOT_SUITE, *, crashes: int = 0) -> list[str]:
    """qemu's command line. *suite* names the root image; with *crashes* it boots again, and keeps what ACPI's error
    record store (ERST) holds: every kernel of the matrix has that built in as a back-end of pstore."""
    init = "vminit=/lib/systemd/systemd" if mode == "systemd" else ""
    pace = ["-smp", "1", "-icount", "shift=1"] if STEADY else ["-smp", "2"]
    disks = [(images.root(suite), "snapshot=on,cache=unsafe"), (images.wheels(suite), "snapshot=on,cache=unsafe"),
             (report.with_name(compiled.DISK), "cache=unsafe")]
    drives = [word for path, option in disks
              for word in ("-drive", f"file={path},format=raw,if=virtio,{option},file.locking=off")]
    again = ["-object", f"memory-backend-file,id=erst,mem-path={report.with_name('erst')},size=256K,share=on",
             "-device", "acpi-erst,memdev=erst"] if crashes else ["-no-reboot"]
    # A killed harness must not leave a guest behind that nobody watches.
    return ["nice", "-n", "10", "setpriv", "--pdeathsig", "KILL",
            "qemu-system-x86_64", "-machine", "q35,accel=tcg",
            # qemu 7.2 emulates cmpxchg16b wrongly: 6.12's page allocator then oopses at random. With a thread for
            # each processor it may run a breakpoint that the kernel has taken out again (Oops: int3, also in 10.0);
            # with one thread no two of them run at once, as tests about races need it.
            "-cpu", "max,-cx16", *pace, "-m", "1536", "-nodefaults", "-nographic", *again,
            "-serial", "stdio", "-serial", f"file:{report}", *drives, "-kernel", str(kernel.image),
            "-initrd", str(initrd), "-append", f"{KERNEL_ARGUMENTS} {init} {extra}".strip()]


def boot_and_run(label: str, mode: str, tests: Sequence[tuple[str, int, str]], tree: Path, work: Path,
                 extra: str = "", progress: Callable[[str], None] = lambda _: None,
                 suite: str = images.ROOT_SUITE, *, crashes: int = 0) -> Boot:
    """Boot kernel *label*, run *tests* (name, seconds, shell command) in it and return how it went.

    *mode* is ``init`` or ``systemd``; *extra* are more kernel arguments; *suite* is that of the root image.
    *crashes*: how often the guest is to crash and boot again; the list is then run from its start.
    *work* gets console.log, report.log and the qemu command.
    """
    work.mkdir(parents=True, exist_ok=True)
    boot = Boot(label, mode, work / "console.log")
    chosen = images.kernel(label)
    run_list = "".join(f"{name} {limit} {shell}\n" for name, limit, shell in tests)
    initrd = images.initrd(chosen, tree, run_list, work, partial(compiled.lay_out, label, suite))
    report, written = work / "report.log", compiled.disk(work / compiled.DISK)
    report.write_text("")
    words = command(chosen, initrd, report, mode, extra, suite, crashes=crashes)
    (work / "command.txt").write_text(" ".join(f"'{w}'" if " " in w else w for w in words) + "\n")
    start, limit, seen = time.monotonic(), (BOOT_SECONDS + sum(t[1] for t in tests)) * (6 if STEADY else 1), 0
    limit *= crashes + 1
    with open(boot.log, "wb") as log, open(work / "qemu.log", "wb") as errors:
        guest = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=errors)
        try:
            done = False  # where it boots again after everything, its end is the report's
            while guest.poll() is None and time.monotonic() - start < limit and not (done and crashes):
                time.sleep(0.25)
                lines = report.read_text(errors="replace").splitlines(keepends=True)
                for line in lines[seen:]:
                    if line.endswith("\n"):
                        seen += 1
                        if not line.startswith("DATA"):
                            progress(line.strip())
                        done |= line.strip() == "END"
            timed_out = guest.poll() is None and not (done and crashes)
        finally:
            guest.kill()
            guest.wait()
    boot.seconds = time.monotonic() - start
    initrd.unlink()
    console = boot.log.read_text(errors="replace")
    ended = parse(boot, report.read_text(errors="replace"))
    compiled.collect(label, suite, written)
    written.unlink()
    boot.problem = judge(boot, console, ended, timed_out, crashes)
    if guest.returncode and not timed_out and not (done and crashes):
        boot.problem = f"qemu: {(work / 'qemu.log').read_text(errors='replace').strip()[-500:]}"
    return boot
