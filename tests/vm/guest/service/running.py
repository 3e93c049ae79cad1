"""Start, metrics, alerts, reload, exposure, stop: an ordinary day."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from service import host
from service.actors import SHADOW, read_shadow
from service.context import Context
from service.journal import at, document

_PARSE = """\
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
print(json.dumps([[f.name, f.type, [[s.name, s.labels, s.value] for s in f.samples]] for f in parse(sys.stdin.read())]))
"""
OWN = "3f0c7a52-6a56-4a0e-8a1c-5b1f3a6f7e11"
RULE = f"""\
title: The operator's own rule
id: {OWN}
logsource:
    product: linux
    category: process_creation
detection:
    selection:
        CommandLine|contains: own-rule-of-this-host
    condition: selection
level: critical
"""


def start(ctx: Context) -> None:
    """`systemctl start` returns when the sensor is ready, and not before."""
    ctx.fresh()
    begun = time.monotonic()
    done = host.sh("systemctl", "start", "sensor", seconds=host.START_SECONDS + 60)
    ready = host.get("/-/ready")
    ctx.checks.measured("seconds until `systemctl start sensor` returns", round(time.monotonic() - begun))
    ctx.checks.equal("`systemctl start sensor` succeeds", (0, "active/running"), (done.returncode, host.state()))
    ctx.checks.equal("it returns when the sensor is ready", 200, ready[0])
    ctx.checks.equal("the socket unit listens", "active/running", host.state("sensor.socket"))
    ctx.checks.equal("/-/healthy answers", (200, "ok\n"), host.get("/-/healthy")[::2])
    _privileges(ctx)
    _metrics(ctx)


def _privileges(ctx: Context) -> None:
    facts = host.status(host.engine_pid())
    uid = host.sh("id", "-u", "sensor").stdout.strip()
    seen = [facts.get("Uid", "").split(), int(facts.get("CapEff", "1"), 16), facts.get("NoNewPrivs")]
    ctx.checks.equal("the engine is user `sensor` without any capability", [[uid] * 4, 0, "1"], seen)
    limits = host.show("MemoryCurrent", "NRestarts")
    ctx.checks.measured("memory of the unit, MiB of 512", int(limits.get("MemoryCurrent") or 0) >> 20)
    ctx.checks.equal("systemd has started it once", "0", limits.get("NRestarts"))


def _metrics(ctx: Context) -> None:
    status, kind, body = host.get("/metrics")
    parsed = subprocess.run(["/opt/sensor/bin/python", "-B", "-I", "-c", _PARSE], input=body, text=True,
                            capture_output=True, check=False)
    ctx.checks.that("/metrics is Prometheus text", status == 200 and kind.startswith("text/plain; version=")
                    and not parsed.returncode, "200, its content type, and the Prometheus client parses it",
                    f"{status} {kind} {host.tail(parsed.stderr)}")
    families: list[Any] = json.loads(parsed.stdout or "[]")
    samples = {(name, *sorted(labels.values())): value for _, _, rows in families for name, labels, value in rows}
    ours = {name for name, _, _ in families if name.startswith("sensor_")}
    missing = [name for name in ("sensor_events_emitted", "sensor_events_lost", "sensor_rules_loaded", "sensor_mode",
                                 "sensor_probe_attached", "sensor_bpf_program", "sensor_output_events", "sensor_build")
               if not any(found.startswith(name) for found in ours)]
    ctx.checks.that("it has the sensor's metrics", not missing and len(ours) > 20, "all groups",
                    f"{len(ours)} families, without {missing}")
    attached = {name: value for name, value in samples.items() if name[0] == "sensor_probe_attached"}
    ctx.checks.that("every probe is attached", attached and all(attached.values())
                    and samples.get(("sensor_mode", "full")) == 1, "all 1, mode full",
                    f"{len(attached)} probes; 0: {[name[1] for name, value in attached.items() if not value]}")
    ctx.checks.that("the default rules are loaded, none refused", samples.get(("sensor_rules_loaded", "loaded"), 0) > 50
                    and samples.get(("sensor_rules_loaded", "refused")) == 0, "over 50, 0",
                    [samples.get(("sensor_rules_loaded", name)) for name in ("loaded", "refused")])


def alert(ctx: Context) -> None:
    """An act that a default rule alerts on is a structured entry of the journal."""
    ctx.fresh()
    before = time.time()
    pid = read_shadow()
    entry = ctx.journal.alert(SHADOW, pid)
    if not ctx.checks.that("an alert of a default rule is in the journal", entry, f"one about process {pid}"):
        return
    assert entry is not None
    python = os.path.realpath("/proc/self/exe")
    expected = {
        "SENSOR_LEVEL": "high", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "sensor", "SENSOR_TECHNIQUE": "T1003.008",
        "SENSOR_ACTION": "file-open", "SENSOR_PID": str(pid), "SENSOR_EXECUTABLE": "/bin/cat",
        "SENSOR_COMMAND_LINE": "/bin/cat /etc/shadow", "SENSOR_PARENT_EXECUTABLE": python, "SENSOR_USER": "root",
        "SENSOR_FILE": "/etc/shadow", "_SYSTEMD_UNIT": "sensor.service",
        "_UID": host.sh("id", "-u", "sensor").stdout.strip()}
    ctx.checks.equal("its journal fields are right", expected, {name: entry.get(name) for name in expected})
    found = document(entry)
    fields = {"event.kind": "alert", "event.action": "file-open", "rule.id": SHADOW, "process.pid": pid,
              "process.parent.pid": os.getpid(), "process.executable": "/bin/cat", "file.path": "/etc/shadow",
              "process.args": ["/bin/cat", "/etc/shadow"], "service.name": "vm.service"}
    ctx.checks.equal("its JSON is right", fields, {name: at(found, name) for name in fields})
    when = datetime.fromisoformat(found["@timestamp"][:26] + "+00:00").timestamp()
    ctx.checks.that("its time is that of the act", before - 1 <= when <= time.time(), f"from {before:.3f}",
                    f"{when:.3f}")


def _own() -> int:
    with subprocess.Popen(["/bin/true", "own-rule-of-this-host"]) as program:
        return program.pid


def _reload(ctx: Context, said: str) -> bool:
    ctx.journal.mark()
    done = host.sh("systemctl", "reload", "sensor")
    return done.returncode == 0 and ctx.journal.says(said, 200)


def reload(ctx: Context) -> None:
    """Rules change with a reload; a broken file changes nothing and is said."""
    ctx.fresh()
    rule, pid = Path("/etc/sensor/rules.d/own.yml"), host.main_pid()
    count = host.metric('sensor_rules_loaded{state="loaded"}')
    first = _own()
    fence = ctx.journal.alert(SHADOW, read_shadow())
    ctx.checks.that("without the rule there is no alert of it", fence and not ctx.journal.alerts(OWN, first), "none")
    rule.write_text(RULE)
    ctx.checks.that("`systemctl reload sensor` reads a new rule", _reload(ctx, f"{count + 1:.0f} rules loaded"),
                    f"{count + 1:.0f} rules loaded", ctx.journal.messages()[-300:])
    ctx.checks.that("the new rule alerts", ctx.journal.alert(OWN, _own()), "an alert")
    for name, text in (("a file that is no YAML", "title: [\n"),
                       ("a rule without a condition", RULE.replace("condition: selection", ""))):
        rule.write_text(text)
        refused = _reload(ctx, "reload refused")
        said = ctx.journal.messages()
        ctx.checks.that(f"{name}: the reload is refused, with file and line",
                        refused and re.search(r"/etc/sensor/rules\.d/own\.yml:\d+", said), "own.yml:LINE", said[-300:])
        ctx.checks.equal(f"{name}: metrics say so", (0.0, count + 1),
                         (host.metric("sensor_config_last_reload_successful"),
                          host.metric('sensor_rules_loaded{state="loaded"}')))
        ctx.checks.that(f"{name}: the old set goes on", ctx.journal.alert(OWN, _own())
                        and ctx.journal.alert(SHADOW, read_shadow()), "alerts of the old rule and a default one")
    rule.unlink()
    ctx.checks.that("a rule that is taken away is gone", _reload(ctx, f"{count:.0f} rules loaded"),
                    f"{count:.0f} rules loaded", ctx.journal.messages()[-300:])
    last = _own()
    fence = ctx.journal.alert(SHADOW, read_shadow())
    ctx.checks.that("and alerts no more", fence and not ctx.journal.alerts(OWN, last)
                    and host.metric("sensor_config_last_reload_successful") == 1, "no alert; reload successful")
    ctx.checks.equal("all that was one process", pid, host.main_pid())
    rule.write_text(RULE)  # for the upgrade


def exposure(ctx: Context) -> None:
    """systemd's judgement of the running unit."""
    text = host.sh("systemd-analyze", "security", "sensor.service", "--no-pager").stdout
    score = re.search(r"Overall exposure level for sensor.service: ([\d.]+)", text)
    ctx.checks.that("systemd-analyze security: at most 2.5", score and float(score[1]) <= 2.5, "2.5 or less",
                    score[1] if score else text[-200:])
    if score:
        ctx.checks.measured("exposure by systemd-analyze security", score[1])


def stop(ctx: Context) -> None:
    """`systemctl stop` leaves nothing running, attached or lying about."""
    ctx.fresh()
    running = host.programs() - ctx.programs
    begun = time.monotonic()
    done = host.sh("systemctl", "stop", "sensor")
    ctx.checks.measured("seconds until `systemctl stop sensor` returns", round(time.monotonic() - begun))
    facts = host.show("Result", "ExecMainStatus")
    ctx.checks.equal("`systemctl stop sensor` ends it well", (0, "inactive/dead", "success", "0"),
                     (done.returncode, host.state(), facts.get("Result"), facts.get("ExecMainStatus")))
    same = host.wait(lambda: host.programs() == ctx.programs, 15)
    ctx.checks.that("the kernel's list of programs is as before the first start", same and running,
                    f"{len(ctx.programs)} programs, not one of {len(running)}",
                    host.program_names(host.programs() ^ ctx.programs))
    ctx.checks.equal("no process, no run-time directory, no port", ([], False, 0),
                     (host.of_sensor(), os.path.exists("/run/sensor"), host.get("/-/healthy")[0]))
    leftover = [name for folder in ("/tmp", "/var/tmp") for name in os.listdir(folder) if "sensor" in name]
    ctx.checks.equal("nothing in /tmp", [], leftover)


def activation(ctx: Context) -> None:
    """A scrape of the socket starts the service."""
    ctx.fresh()
    host.sh("systemctl", "start", "sensor.socket")
    ctx.checks.equal("the socket alone starts nothing", "inactive/dead", host.state())
    answer = host.get("/-/healthy", 200)
    ctx.checks.equal("the first scrape starts the service and is answered", (200, "ok\n"), answer[::2])
    ctx.checks.that("the service that a scrape started gets ready", ctx.ready(), "active, ready", host.state())
