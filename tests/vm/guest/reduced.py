"""A kernel that can't carry probes: the service stays up and says why, commands that want events end with 3.

The argument says what is taken away: ``lockdown`` (the guest was booted so) or ``no-btf``. The unit is the
shipped one, started from the harness's tree; everything is put back, for other tests share the guest.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from service import host
from service.checks import Checks

from tests.live.host import children, owned_programs

#: What the operator must be told: a word of the reason, a word of the fix, the doctor's check, the metric's label.
TAKEN = {
    "lockdown": ("kernel lockdown is confidentiality", "lockdown=integrity", "lockdown", "lockdown"),
    "no-btf": ("no kernel type information", "CONFIG_DEBUG_INFO_BTF", "BTF", "btf"),
}
READY_SECONDS = 140.0
UNITS = Path("/etc/systemd/system")
MODPROBE, CALLS = Path("/usr/sbin/modprobe"), Path("/run/modprobe.calls")
BTF, LOCKDOWN = Path("/sys/kernel/btf"), Path("/sys/kernel/security/lockdown")
OWN = ("/etc/sensor", "/var/lib/sensor", "/run/sensor")
END = Path("/run/sensor.end")
DROP_IN = f"""\
[Service]
ExecStart=
ExecStart=/usr/bin/sensor run
# How it ended: systemd forgets a unit that is inactive and that nothing wants.
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS >> {END}'
# for the above, and for the list of modprobe's calls
ReadWritePaths=/run
"""


@contextlib.contextmanager
def taken_away(what: str) -> Iterator[None]:
    """The kernel as it is to be."""
    if what == "lockdown":
        assert "[confidentiality]" in LOCKDOWN.read_text(), "the guest must be booted with lockdown=confidentiality"
        yield
        return
    assert host.sh("mount", "-t", "tmpfs", "-o", "ro", "none", str(BTF)).returncode == 0
    try:
        yield
    finally:
        host.sh("umount", str(BTF))


@contextlib.contextmanager
def recorded_modprobe() -> Iterator[None]:
    """The program that loads modules, for the kernel and for BCC, only notes that it was called."""
    kept = MODPROBE.with_name("modprobe.kept")
    MODPROBE.rename(kept)
    MODPROBE.write_text(f'#!/bin/sh\necho "$PPID: $*" >> {CALLS}\nexit 1\n')
    MODPROBE.chmod(0o755)
    CALLS.touch()
    try:
        yield
    finally:
        kept.rename(MODPROBE)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """The shipped units, run from the harness's tree."""
    there = {path for path in OWN if Path(path).exists()}
    place = UNITS / "sensor.service.d"
    place.mkdir(parents=True)
    (place / "tree.conf").write_text(DROP_IN)
    for name in ("sensor.service", "sensor.socket"):
        shutil.copy(Path("/opt/sensor/systemd") / name, UNITS / name)
    host.sh("systemctl", "daemon-reload")
    try:
        yield
    finally:
        host.sh("systemctl", "stop", "sensor.service", "sensor.socket")
        host.sh("systemctl", "reset-failed", "sensor.service", "sensor.socket")
        for path in (place, UNITS / "sensor.service", UNITS / "sensor.socket", *(Path(p) for p in set(OWN) - there)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        host.sh("systemctl", "daemon-reload")


def service(checks: Checks, what: str) -> None:
    """The daemon under systemd, from its start to SIGTERM."""
    reason, fix, _, label = TAKEN[what]
    start = host.sh("systemctl", "start", "sensor.service", seconds=READY_SECONDS + 60)
    checks.equal("systemctl start succeeds: the service says that it is ready", 0, start.returncode)
    status, _, said = host.get("/-/ready")
    checks.that("/-/ready refuses and gives the reason", status == 503 and reason in said, f"503, {reason}", said)
    checks.that("/-/healthy is fine", host.wait(lambda: host.get("/-/healthy")[0] == 200, 30), "200")
    modes = {mode: host.metric(f'sensor_mode{{mode="{mode}"}}') for mode in ("full", "reduced", "passive")}
    checks.equal("sensor_mode", {"full": 0.0, "reduced": 0.0, "passive": 1.0}, modes)
    checks.measured("mode", next((mode for mode, value in modes.items() if value == 1), "none"))
    checks.equal("sensor_passive_reason names it", 1.0, host.metric(f'sensor_passive_reason{{reason="{label}"}}'))
    pid = host.main_pid()
    checks.equal("no program is held by the service", [], list(owned_programs([pid, *children(pid)])))
    host.wait(lambda: False, 20.0)  # a loop would have gone round by now: RestartSec is 5
    facts = host.show("ActiveState", "NRestarts", "MainPID", "StatusText")
    checks.equal("it stays: the same process, no restart", ("active", "0", str(pid)),
                 (facts["ActiveState"], facts["NRestarts"], facts["MainPID"]))
    checks.that("systemctl status gives the reason", reason in facts["StatusText"], reason, facts["StatusText"])
    host.sh("journalctl", "--sync")
    log = host.sh("journalctl", "-u", "sensor", "-o", "cat", "--no-pager").stdout
    told = re.findall(r"passive, nothing is seen: (.*)", log)
    checks.that("the log gives the reason once, and the fix", len(told) == 1 and reason in told[0] and fix in log,
                f"{reason} ... {fix}", log[-800:])
    checks.measured("reason", told[0] if told else "none")
    checks.equal("systemctl stop succeeds", 0, host.sh("systemctl", "stop", "sensor.service").returncode)
    checks.equal("it has ended once, by SIGTERM with status 0", "success exited 0", END.read_text().strip())


def commands(checks: Checks, what: str) -> None:
    """What somebody types who wants events now."""
    reason, fix = TAKEN[what][:2]
    target = Path("/root/recording.jsonl")
    for words in (("record", str(target), "--duration", "1s"), ("run", "--duration", "1s", "--metrics", "off"),
                  ("run", "--metrics", "off")):
        done = host.sh("sensor", *words, seconds=120)
        checks.that(f"sensor {words[0]}{' --duration' * ('--duration' in words)} ends with 3, the reason and the fix",
                    done.returncode == 3 and reason in done.stderr and fix in done.stderr, f"3, {reason}, {fix}",
                    f"{done.returncode}: {done.stdout[-200:]}{done.stderr[-500:]}")
    checks.that("no recording is begun", not target.exists(), "no file")
    doctor(checks, what, reason, fix)


def doctor(checks: Checks, what: str, reason: str, fix: str) -> None:
    """It names what is missing, and promises nothing that can't be."""
    done = host.sh("sensor", "doctor", "--json", seconds=120)
    report = json.loads(done.stdout)
    missing = {check["name"]: check for check in report["checks"] if check["state"] == "missing"}
    checks.equal("sensor doctor ends with 3", 3, done.returncode)
    name = TAKEN[what][2]
    checks.that("it names this, only this, and the fix", [*missing] in ([name], [name, "hook kinds"])
                and fix in missing[name]["fix"], f"{name}: {fix}", missing)
    reasons = {way["reason"] for event in report["events"] for way in event["alternatives"]}
    checks.that("it promises no event, for the loader's reason",
                not any(event["seen"] for event in report["events"]) and all(reason in said for said in reasons),
                reason, reasons)


def new_programs(before: set[int]) -> list[str]:
    """Programs that were not there before. systemd has some of its own, one for each unit with limits."""
    names = host.program_names(host.programs() - before).split()
    return [name for name in names if ":sd_" not in name]


def main() -> int:
    what, checks = sys.argv[1], Checks()
    host.sh("systemctl", "is-system-running", "--wait")
    before, taint = host.programs(), Path("/proc/sys/kernel/tainted").read_text()
    with taken_away(what), recorded_modprobe():
        with installed():
            checks.part("service", lambda: service(checks, what))
            checks.part("commands", lambda: commands(checks, what))
        checks.equal("nobody called modprobe", "", CALLS.read_text())
    checks.equal("no process is left", [], [pid for pid in host.pids() if "sensor" in host.command_line(pid)
                                            and "/t/guest" not in host.command_line(pid) and not host.gone(pid)])
    host.wait(lambda: not new_programs(before), 15)
    checks.equal("no program is left in the kernel", [], new_programs(before))
    checks.equal("the kernel is as untainted as before", taint, Path("/proc/sys/kernel/tainted").read_text())
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
