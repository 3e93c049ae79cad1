"""Three boots of one guest: the first two end by sysrq with probes attached, the third must be passive.

The harness boots the guest again after each crash and runs this from the start; the stage is in a file. What the
kernel says while it dies is kept by ACPI's error record store, as in a machine that has one. The third boot also finds
a dump, as of kdump, with a fault in a program that the first one had loaded: that one is made up.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from service import host
from service.checks import Checks

from tests.live.host import children, owned_programs

STAGE = Path("/var/lib/sensor-stage")  # which boot is the next, rows and failures so far
DISK, KALLSYMS = Path("/dev/vda"), Path("/proc/kallsyms")
GUARD = Path("/var/lib/sensor/guard.json")
COMPILED = Path("/var/cache/sensor")
EVENTS = Path("/var/log/sensor/events.jsonl")
UNITS = Path("/etc/systemd/system")
READY_SECONDS = 240.0
SEARCH_SECONDS = 120.0
SYSRQ = ("sysrq", "sysrq", "certain")
PROGRAM = "boot 1: name of one in a trace"
DUMP = Path("/var/crash/202601010000/vmcore-dmesg.txt")
TRACE = """\
[   90.000001] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   90.000002] #PF: supervisor read access in kernel mode
[   90.000003] Oops: 0000 [#1] SMP PTI
[   90.000004] CPU: 1 PID: 2211 Comm: make Not tainted {release} #1
[   90.000005] RIP: 0010:{symbol}+0x4c/0x9f0
[   90.000006] Call Trace:
[   90.000007]  bpf_trace_run3+0x32/0x90
[   90.000008]  bprm_execve+0x5f1/0x650
[   90.000009] ---[ end trace 9f1c3b1b7d0b2a11 ]---
[   90.000010] Kernel panic - not syncing: Fatal exception
"""
DROP_IN = f"""\
[Service]
ExecStart=
ExecStart=/usr/bin/sensor run -o {EVENTS}
"""


def install() -> None:
    """The shipped units, run from the harness's tree; the disk outlives a crash."""
    place = UNITS / "sensor.service.d"
    place.mkdir(parents=True, exist_ok=True)
    (place / "tree.conf").write_text(DROP_IN)
    for name in ("sensor.service", "sensor.socket"):
        shutil.copy(Path("/opt/sensor/systemd") / name, UNITS / name)
    if host.sh("id", "sensor").returncode:
        host.sh("useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "sensor")
    EVENTS.parent.mkdir(exist_ok=True)
    EVENTS.unlink(missing_ok=True)
    # What is compiled is not the subject. The directory is the service's, and root's alone.
    shutil.copytree("/t/compiled", COMPILED, dirs_exist_ok=True)
    host.sh("systemctl", "daemon-reload")
    os.sync()
    # From here on nothing is written but what somebody synchronises: not after a while, not because it was renamed.
    host.sh("mount", "-o", "remount,noauto_da_alloc", "/")
    Path("/proc/sys/vm/dirty_writeback_centisecs").write_text("0")


def command(*words: str) -> Any:
    """JSON that a command prints."""
    done = host.sh("sensor", *words, "--json", seconds=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mode() -> str:
    """What the metrics say."""
    return next((name for name in ("full", "reduced", "passive") if host.metric(f'sensor_mode{{mode="{name}"}}') == 1),
                "none")


def programs() -> list[int]:
    """BPF programs that the service holds."""
    pid = host.main_pid()
    return sorted({*owned_programs([pid, *children(pid)])})


def start(checks: Checks) -> None:
    status = host.sh("systemctl", "start", "sensor.service", seconds=READY_SECONDS + 60).returncode
    checks.equal("systemctl start succeeds", 0, status)


def crash(checks: Checks, following: int) -> None:
    """On to the next boot: everything that counts is on disk, the guard's record by the sensor's own doing."""
    STAGE.write_text(json.dumps([following, checks.rows, checks.failed]))
    # The disk's file system has no journal: which blocks are in use must be written before the next boot asks, else
    # it gives those of synchronised files away. Content of files that nobody has synchronised is not written by it.
    for path in (STAGE, DISK):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    Path("/proc/sysrq-trigger").write_text("c")


def tags() -> set[str]:
    """Of the programs that the service holds, as the kernel has them."""
    found: set[str] = set()
    for entry in Path(f"/proc/{host.main_pid()}/fdinfo").iterdir():
        found |= {*re.findall(r"^prog_tag:\s*(\w{16})", entry.read_text(), re.MULTILINE)}
    return found


def first(checks: Checks) -> None:
    """Everything is loaded, and armed."""
    start(checks)
    checks.equal("boot 1: nothing is held against the sensor", 0, command("guard", "show")["strikes"])
    found = host.wait(lambda: mode() in ("full", "reduced"), 30) and mode()
    checks.that("boot 1: probes of all families", len(programs()) > 10, "over 10 programs", f"{found}, {programs()}")
    status = command("status")
    checks.measured("boot 1: mode", " ".join(filter(None, (status["mode"], status["reason"]))))
    [armed] = command("guard", "show")["armed"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    checks.equal("boot 1: the guard is armed with this boot", boot, armed["boot_id"])
    held = tags()
    checks.equal("boot 1: the tags on record are the kernel's", [], sorted(held - {*armed["tags"]}))
    traced = {tag: name for name, tag in re.findall(r" (bpf_prog_([0-9a-f]{16})_\w+)", KALLSYMS.read_text())}
    checks.equal("boot 1: by them each program is found in a trace", [], sorted(held - traced.keys()))
    checks.measured(PROGRAM, next(name for tag, name in traced.items() if tag in held))


def attributed(checks: Checks, boot: int, whom: str, rows: list[tuple[str, str, str]]) -> None:
    """Crashes that are attributed to somebody: kind, component, confidence."""
    what, metric = f"boot {boot}: {len(rows)} attributed to {whom}", f'sensor_host_crashes_total{{attributed="{whom}"}}'
    host.wait(lambda: host.metric(metric) == len(rows), SEARCH_SECONDS)
    checks.equal(f"{what}, by the metric", float(len(rows)), host.metric(metric))
    found = [row for row in command("crashes")["crashes"] if row["attributed"] == whom]
    checks.equal(f"{what}, what and how sure", [(*row, True) for row in rows],
                 [(row["kind"], row["component"], row["confidence"], row["fatal"]) for row in found])
    checks.measured(f"{what}, found in", ", ".join(row["source"] for row in found) or "nothing")
    told = [document for document in map(json.loads, EVENTS.read_text().splitlines())
            if (document["event"]["action"], document["event"]["kind"]) == ("sensor-crash", "state")
            and document["sensor"]["crash"]["attributed"] == whom]
    checks.equal(f"boot {boot}: one event of a new crash by {whom}", 1, len(told))


def second(checks: Checks) -> None:
    """Process events only."""
    start(checks)
    shown = command("guard", "show")
    checks.equal("boot 2: minimal after one strike", ("minimal", 1), (shown["mode"], shown["strikes"]))
    checks.equal("boot 2: the mode is reduced", "reduced", host.wait(lambda: mode() == "reduced", 30) and mode())
    checks.equal("boot 2: sensor status says by whom", "minimal", command("status")["mode"])
    checks.that("boot 2: only the scheduler's tracepoints", 0 < len(programs()) <= 4, "1 to 4 programs", programs())
    attributed(checks, 2, "other", [SYSRQ])


def third(checks: Checks) -> None:
    """Nothing, until somebody resets the guard; then the passive switch."""
    symbol = checks.rows[PROGRAM]
    DUMP.parent.mkdir(parents=True)
    DUMP.write_text(TRACE.format(release=platform.release(), symbol=symbol))
    start(checks)
    shown = command("guard", "show")
    checks.equal("boot 3: passive after two strikes", ("passive", 2), (shown["mode"], shown["strikes"]))
    checks.equal("boot 3: no program is held", [], programs())
    checks.equal("boot 3: the metric names the guard", 1.0, host.metric('sensor_passive_reason{reason="guard"}'))
    status, _, said = host.get("/-/ready")
    checks.that("boot 3: /-/ready refuses and says why", status == 503 and "boot guard" in said, "503", said)
    attributed(checks, 3, "other", [SYSRQ, SYSRQ])
    ours = json.loads(GUARD.read_text())["programs"][symbol.split("_")[2]]["name"]
    attributed(checks, 3, "self", [("oops", ours, "certain")])
    checks.equal("sensor guard reset succeeds", 0, host.sh("sensor", "guard", "reset").returncode)
    checks.that("the running sensor loads its probes", host.wait(lambda: len(programs()) > 10, READY_SECONDS),
                "programs", programs())
    for state, good in (("on", lambda: not programs() and mode() == "passive"),
                        ("off", lambda: len(programs()) > 10 and mode() in ("full", "reduced"))):
        checks.equal(f"sensor passive {state} succeeds", 0, host.sh("sensor", "passive", state).returncode)
        checks.that(f"a running sensor obeys passive {state}", host.wait(good, READY_SECONDS), state,
                    f"{mode()}, {programs()}")
    checks.equal("systemctl stop succeeds", 0, host.sh("systemctl", "stop", "sensor.service").returncode)
    checks.equal("a clean stop disarms the guard", [], command("guard", "show")["armed"])


def main() -> int:
    checks, boot = Checks(), 1
    if STAGE.exists():
        boot, checks.rows, checks.failed = json.loads(STAGE.read_text())
    host.sh("systemctl", "is-system-running", "--wait")
    checks.part(f"boot {boot}", install)
    checks.part(f"boot {boot}", lambda: {1: first, 2: second, 3: third}[boot](checks))
    if boot < 3:
        crash(checks, boot + 1)
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
