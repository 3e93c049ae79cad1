"""Atomic Red Team tests, run here with the real tools: do the public rules fire that fired where they were recorded?

Each test has a control group of its own, whose path is in its events and so in its alerts. What is in the data but
not seen, and is not in MISSING with its reason, is a failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from live import READY_SECONDS, patience

from tests.live.harness import Sensor, alerts, get

DATA = Path(os.environ.get("ATOMICS_DATA", "/t/data"))
GROUPS = Path("/sys/fs/cgroup/atomics")
TEST_SECONDS = 120
SHARE = 0.95
#: (test, rule) -> why it can't fire here.
MISSING = {
    ("T1553.004-3", "78a80655-a51e-4669-bc6b-e9d206a462ee"):
        "not seen: update-ca-certificates is a script, and Image is the interpreter that runs",
}
#: What the tests' own preparations leave behind: they are not part of the data.
_PREPARED = """
mkdir -p /tmp/victim-files /tmp/victim-folder /tmp/AtomicRedTeam/atomics/T1222.002
mkdir -p /var/spool/mail /var/spool/cron /root/.ssh
echo x > /tmp/victim-files/T1070.004-test.txt; echo x > /tmp/victim-shred.txt; echo x > /tmp/evil-binary
echo x > /tmp/T1070.006-access.txt; echo x > /tmp/T1070.006-modification.txt
echo x > /tmp/AtomicRedTeam/atomics/T1222.002/T1222.002.yaml; echo x > /var/spool/cron/root
echo mail > /var/spool/mail/temp; echo 'ls -p x' > /root/.bash_history; echo 'ls -p x' > /root/.history
echo key > /root/.ssh/id_rsa; echo LANG=C.UTF-8 > /etc/default/locale; echo x > /tmp/adversary-scp
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=example.test \\
    -keyout /dev/null -out /root/rootCA.crt 2> /dev/null
"""


def shell(words: Sequence[str], group: str, limit: float) -> int | None:
    """Run a command in the control group *group*; its status, or None where it did not end."""
    place = GROUPS / group
    place.mkdir(parents=True, exist_ok=True)
    enter = f'echo $$ > {place}/cgroup.procs && exec "$0" "$@"'
    # A session of its own, without a terminal: a tool that asks for a password gets none.
    process = subprocess.Popen(["/bin/sh", "-c", enter, *words], cwd="/root", stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        return None


def run(test: dict[str, Any], scripts: Path) -> str:
    """One test and its cleaning up; how it ended."""
    script = scripts / f"{test['id']}.sh"
    script.write_text(test["command"])
    began = time.monotonic()
    status = shell([test["executor"], str(script)], test["id"], TEST_SECONDS)
    if test["cleanup"]:
        script.write_text(test["cleanup"])
        shell([test["executor"], str(script)], "cleanup", TEST_SECONDS)
    ended = "over its time" if status is None else f"status {status}"
    return f"{test['id']}: {ended}, {time.monotonic() - began:.1f} s"


def judge(expected: dict[tuple[str, str], str], found: set[tuple[str, str]],
          published: str) -> tuple[dict[str, str], bool]:
    """The table of what fired and what did not, and whether that will do.

    Args:
        expected: (test, rule) -> its name for people.
        found: The same pairs, as alerts had them.
        published: All rules that were given, as text.
    """
    absent = {pair: name for pair, name in expected.items() if pair not in found}
    reasons = {pair: MISSING.get(pair, "") if pair[1] in published else "not seen: the rule is not among those given"
               for pair in absent}
    seen = len(expected) - len(absent)
    others = sum(pair not in expected and pair[0] != "cleanup" for pair in found)
    report = {"pairs seen": f"{seen} of {len(expected)}", "other pairs": str(others),
              **{name: reasons[pair] or "not seen" for pair, name in absent.items()}}
    return report, all(reasons.values()) and seen >= SHARE * len(expected)


def main() -> int:
    tests = json.loads((DATA / "atomics" / "atomics.json").read_text())
    expected = {(test["id"], rule["id"]): f"{test['id']} {rule['title']}"
                for test in tests for rule in test["expected_sigma_rules"]}
    home = Path(tempfile.mkdtemp(prefix="atomics-", dir="/var/tmp"))
    scripts = Path("/opt/atomics")
    scripts.mkdir(exist_ok=True)
    subprocess.run(["/bin/sh", "-c", _PREPARED], check=False, stdin=subprocess.DEVNULL)
    with patience():
        sensor = Sensor(home / "sensor", "--rules", DATA / "sigma" / "linux").start()
        try:
            sensor.wait_ready(READY_SECONDS)
            for test in tests:
                print(run(test, scripts), flush=True)
            sensor.settle()
            found = {(Path(get(alert, "sensor.cgroup.path", "")).name, get(alert, "rule.id"))
                     for alert in alerts(sensor.documents()) if "/atomics/" in get(alert, "sensor.cgroup.path", "")}
            print(sensor.stop()[-1500:])
        finally:
            sensor.kill()
    published = "".join(path.read_text() for path in (DATA / "sigma" / "linux").rglob("*.yml"))
    report, passed = judge(expected, found, published)
    print(*(f"other: {test} {rule}" for test, rule in sorted(found - {*expected})), sep="\n")
    print(json.dumps(report, indent=1))
    Path(os.environ.get("VM_DATA", "/dev/null")).write_text(json.dumps(report))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
