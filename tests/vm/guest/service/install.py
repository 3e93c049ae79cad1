"""Installation, upgrade and removal: what `make` does to the host."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from service import host
from service.actors import SHADOW, read_shadow
from service.context import CHECKOUT, NEXT, Context, checkout

#: docs/operations.md: path -> mode and owner.
PLACES = {
    "/etc/sensor/sensor.yaml": "644 root root", "/etc/sensor/rules.d": "750 root sensor",
    "/usr/share/sensor/sensor.yaml": "644 root root", "/var/lib/sensor": "755 root root",
    "/var/lib/sensor/engine": "750 sensor sensor", "/var/log/sensor": "750 sensor sensor",
    "/usr/lib/systemd/system/sensor.service": "644 root root",
    "/usr/lib/systemd/system/sensor.socket": "644 root root",
}
#: An emulated processor is so slow that the breaker would rightly switch probes off: that has tests of its own.
EDITED = """\
# this host's own
engine:
  tick_ms: 20
limits:
  kernel_cpu: 0
  program_ns: 0
"""
VERSION = "99.1"


def install(ctx: Context) -> None:
    """`make install` on a host that never had it."""
    checkout()
    host.sh("systemctl", "stop", "*.timer", "--all")  # what they start changes files and programs
    ctx.files = host.files()
    done = ctx.make("install")
    ctx.checks.equal("`make install` succeeds", 0, done.returncode)
    seen = {path: host.sh("stat", "-c", "%a %U %G", path).stdout.strip() for path in PLACES}
    ctx.checks.equal("places, modes and owners are the documented ones", PLACES, seen)
    ctx.checks.that("`sensor` is a command", re.search(r"\d+\.\d+", host.sh("sensor", "--version").stdout),
                    "its version", host.sh("sensor", "--version").stdout.strip())
    user = host.sh("getent", "passwd", "sensor").stdout.strip()
    ctx.checks.that("user `sensor` has no shell and no home", user.endswith(":/nonexistent:/usr/sbin/nologin"),
                    "…:/nonexistent:/usr/sbin/nologin", user)
    verify = host.sh("systemd-analyze", "verify", "sensor.service", "sensor.socket")
    said = "\n".join(line for line in (verify.stdout + verify.stderr).splitlines() if "sensor" in line)
    ctx.checks.equal("systemd has nothing to say about the units", (0, ""), (verify.returncode, said))
    ctx.checks.equal("an installation starts nothing", "inactive/dead", host.state())
    Path("/etc/sensor/sensor.yaml").write_text(EDITED)
    host.patience()
    ctx.programs = host.programs()


def upgrade(ctx: Context) -> None:
    """`make install` of another version over the running one, whose settings the operator has edited."""
    settings, rule = Path("/etc/sensor/sensor.yaml"), Path("/etc/sensor/rules.d/own.yml")
    own = rule.read_text() if rule.exists() else ""
    shutil.copytree(CHECKOUT, NEXT)
    module = NEXT / "sensor" / "__init__.py"
    module.write_text(re.sub(r'__version__ = "[^"]*"', f'__version__ = "{VERSION}"', module.read_text()))
    ctx.fresh()
    before, pid = host.programs(), host.main_pid()
    ours = before - ctx.programs
    broken = host.sh("make", "install", cwd=str(NEXT), seconds=1500, PIP_NO_INDEX="1", PIP_FIND_LINKS="/nonexistent")
    ctx.checks.that("an upgrade that can't get its packages fails and leaves the old one running",
                    broken.returncode and host.main_pid() == pid and host.programs() == before
                    and host.get("/-/ready")[0] == 200, "a status, the same process and programs",
                    f"status {broken.returncode}, {host.state()}")
    done = ctx.make("install", NEXT)
    ctx.checks.equal("an upgrade over the running service succeeds", 0, done.returncode)
    ctx.checks.that("the upgrade has switched to the new version by itself", ctx.ready() and host.main_pid() != pid
                    and f'version="{VERSION}"' in host.get("/metrics")[2], f"active, version {VERSION}",
                    re.findall("sensor_build_info.*", host.get("/metrics")[2]))
    left = host.wait(lambda: not ours & host.programs(), 15)
    ctx.checks.that("no program of the old version is left", left and ours, f"none of {len(ours)}",
                    host.program_names(ours & host.programs()))
    ctx.checks.equal("settings and rules of the operator are as he left them", (EDITED, own),
                     (settings.read_text(), rule.read_text() if rule.exists() else ""))
    ctx.checks.that("the new version alerts", ctx.journal.alert(SHADOW, read_shadow()), "an alert")


def uninstall(ctx: Context) -> None:
    """Removal of the running, enabled service; then of the rest."""
    ctx.fresh()
    host.sh("systemctl", "enable", "sensor")
    ctx.checks.equal("the service is enabled and running before it is removed", ("enabled", "active/running"),
                     (host.sh("systemctl", "is-enabled", "sensor").stdout.strip(), host.state()))
    done = ctx.make("uninstall", NEXT)
    ctx.checks.equal("`make uninstall` of the running service succeeds", 0, done.returncode)
    left = [row for row in host.difference(ctx.files, host.files()) if row[0] != "-"]
    names = sorted({row[1:].split(" ")[0] for row in left})
    documented = ("/etc/sensor", "/var/lib/sensor", "/var/log/sensor", "/etc/passwd", "/etc/shadow", "/etc/group",
                  "/etc/gshadow")
    ctx.checks.that("it leaves edited settings, state, logs and the user, and nothing else",
                    all(name.startswith(documented) for name in names) and "/etc/sensor/sensor.yaml" in names,
                    "what docs/operations.md names", " ".join(names))
    ctx.checks.equal("it leaves no process and no run-time directory", ([], False),
                     (host.of_sensor(), os.path.exists("/run/sensor")))
    ctx.checks.equal("systemd knows the units no more", ["not-found", "not-found"],
                     [host.show("LoadState", unit=unit).get("LoadState") for unit in (host.UNIT, "sensor.socket")])
    failed = host.sh("systemctl", "--failed", "--no-legend", "--plain").stdout.strip()
    ctx.checks.equal("no unit has failed", "", failed)
    done = ctx.make("uninstall", NEXT, "PURGE=1")
    ctx.checks.equal("`make uninstall PURGE=1` succeeds", 0, done.returncode)
    ctx.checks.equal("after it the host's files are as before the installation", [],
                     host.difference(ctx.files, host.files())[:30])
    ctx.checks.equal("user and group are gone", (2, 2), (host.sh("getent", "passwd", "sensor").returncode,
                                                          host.sh("getent", "group", "sensor").returncode))
    extra = host.wait(lambda: not host.programs() - ctx.programs, 15)
    ctx.checks.that("no program is left in the kernel", extra, "none that was not there before",
                    host.program_names(host.programs() - ctx.programs))
