"""Three boots of one guest: the first two end by sysrq with probes attached, the third must be passive.

The harness boots the guest again after each crash and runs this from the start; the stage is in a file. What the
kernel says while it dies is kept by ACPI's error record store, as in a machine that has one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from service import host
from service.checks import Checks

from tests.live.host import children, owned_programs

STAGE = Path("/var/lib/sensor-stage")
ROWS = Path("/var/lib/sensor-rows")
EVENTS = Path("/var/log/sensor/events.jsonl")
UNITS = Path("/etc/systemd/system")
READY_SECONDS = 240.0
SEARCH_SECONDS = 120.0
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
    host.sh("systemctl", "daemon-reload")


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
    return list(owned_programs([pid, *children(pid)]))


def start(checks: Checks) -> None:
    status = host.sh("systemctl", "start", "sensor.service", seconds=READY_SECONDS + 60).returncode
    checks.equal("systemctl start succeeds", 0, status)


def crash(checks: Checks, following: int) -> None:
    """On to the next boot: everything that counts is on disk, the guard's record by the sensor's own doing."""
    ROWS.write_text(json.dumps([checks.rows, checks.failed]))
    STAGE.write_text(str(following))
    for path in (ROWS, STAGE):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    Path("/proc/sysrq-trigger").write_text("c")


def first(checks: Checks) -> None:
    """Everything is loaded, and armed."""
    start(checks)
    checks.equal("boot 1: nothing is held against the sensor", 0, command("guard", "show")["strikes"])
    found = host.wait(lambda: mode() in ("full", "reduced"), 30) and mode()
    checks.that("boot 1: probes of all families", len(programs()) > 10, "over 10 programs", f"{found}, {programs()}")
    [armed] = command("guard", "show")["armed"]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    checks.equal("boot 1: the guard is armed with this boot", boot, armed["boot_id"])
    checks.that("boot 1: the tag of each program is on record", len(armed["tags"]) >= 10, "10 or more", armed["tags"])


def attributed(checks: Checks, boot: int, crashes: int) -> None:
    """What the boot before ended with."""
    what = f"boot {boot}: {crashes} crashes attributed to somebody else"
    host.wait(lambda: host.metric('sensor_host_crashes_total{attributed="other"}') == crashes, SEARCH_SECONDS)
    checks.equal(f"{what}, by the metric", float(crashes), host.metric('sensor_host_crashes_total{attributed="other"}'))
    found = command("crashes")["crashes"]
    checks.equal(f"{what}, by sysrq, fatal", [("sysrq", "sysrq", "certain", True)] * crashes,
                 [(row["kind"], row["component"], row["confidence"], row["fatal"]) for row in found])
    checks.measured(f"boot {boot}: found in", found[-1]["source"] if found else "nothing")
    told = [line for line in EVENTS.read_text(errors="replace").splitlines() if '"sensor-crash"' in line]
    checks.equal(f"boot {boot}: one event of the new crash", 1, len(told))


def second(checks: Checks) -> None:
    """Process events only."""
    start(checks)
    shown = command("guard", "show")
    checks.equal("boot 2: minimal after one strike", ("minimal", 1), (shown["mode"], shown["strikes"]))
    checks.equal("boot 2: the mode is reduced", "reduced", host.wait(lambda: mode() == "reduced", 30) and mode())
    checks.that("boot 2: only the scheduler's tracepoints", 0 < len(programs()) <= 4, "1 to 4 programs", programs())
    attributed(checks, 2, 1)


def third(checks: Checks) -> None:
    """Nothing, until somebody resets the guard; then the passive switch."""
    start(checks)
    shown = command("guard", "show")
    checks.equal("boot 3: passive after two strikes", ("passive", 2), (shown["mode"], shown["strikes"]))
    checks.equal("boot 3: no program is held", [], programs())
    checks.equal("boot 3: the metric names the guard", 1.0, host.metric('sensor_passive_reason{reason="guard"}'))
    status, _, said = host.get("/-/ready")
    checks.that("boot 3: /-/ready refuses and says why", status == 503 and "boot guard" in said, "503", said)
    attributed(checks, 3, 2)
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
    stage = int(STAGE.read_text()) if STAGE.exists() else 1
    checks = Checks()
    if ROWS.exists():
        checks.rows, checks.failed = json.loads(ROWS.read_text())
    host.sh("systemctl", "is-system-running", "--wait")
    checks.part(f"boot {stage}", install)
    checks.part(f"boot {stage}", lambda: {1: first, 2: second, 3: third}[stage](checks))
    if stage < 3:
        crash(checks, stage + 1)
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
