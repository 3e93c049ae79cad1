"""Processes that hang, die and are restarted: what is known about the others must survive it."""

from __future__ import annotations

import os
import signal
import sys
import time

from service import host
from service.actors import SHADOW, Family, Reused, crowd, read_shadow
from service.context import READY_SECONDS, Context
from service.journal import at, document

ENGINE_LIMIT, SUPERVISOR_LIMIT = 30, 90  # docs/safety.md; WatchdogSec
SLOW = 15  # seconds that an emulated, busy machine may add
SHELL = "/bin/sh"  # as it was executed: the name in the command line, where that is the running file


def silent_engine(ctx: Context) -> None:
    """A stopped engine is ended and started again by the supervisor; the probes go on."""
    ctx.fresh()
    supervisor, engine, before = host.main_pid(), host.engine_pid(), host.programs()
    restarts = host.metric("sensor_engine_restarts_total")
    os.kill(engine, signal.SIGSTOP)
    begun = time.monotonic()
    pid = read_shadow()  # while nobody reads the ring
    ended = host.wait(lambda: host.gone(engine), ENGINE_LIMIT * 3)
    seconds = time.monotonic() - begun
    ctx.checks.measured("seconds until a stopped engine was ended, limit 30", round(seconds))
    ctx.checks.that("a stopped engine is ended within its limit", ended and seconds < ENGINE_LIMIT + SLOW,
                    f"{ENGINE_LIMIT} s, and what an emulated machine adds", f"{seconds:.0f} s")
    ctx.checks.that("the journal says so", ctx.journal.says("silent for 30 s"), "silent for 30 s")
    ctx.checks.that("what happened meanwhile is alerted on", ctx.journal.alert(SHADOW, pid, 120), "an alert")
    ctx.checks.that("the next engine is another process under the same supervisor, with the same programs",
                    host.engine_pid() not in (0, engine) and host.main_pid() == supervisor
                    and host.programs() == before, f"supervisor {supervisor}",
                    f"{host.main_pid()}, engine {host.engine_pid()}, was {engine}")
    ctx.checks.equal("metrics count the restart", restarts + 1, host.metric("sensor_engine_restarts_total"))
    ctx.checks.that("it alerts", ctx.journal.alert(SHADOW, read_shadow()), "an alert")


def silent_supervisor(ctx: Context) -> None:
    """systemd's watchdog ends a stopped supervisor and starts the service again."""
    ctx.fresh()
    supervisor, engine, ours = host.main_pid(), host.engine_pid(), host.programs() - ctx.programs
    family = Family("watchdog")
    os.kill(supervisor, signal.SIGSTOP)
    begun = time.monotonic()
    ended = host.wait(lambda: host.gone(supervisor), SUPERVISOR_LIMIT * 2)
    seconds = time.monotonic() - begun
    ctx.checks.measured("seconds until a stopped supervisor was ended, limit 90", round(seconds))
    ctx.checks.that("a stopped supervisor is ended by systemd's watchdog", ended and seconds < SUPERVISOR_LIMIT + SLOW
                    and ctx.journal.says("Watchdog timeout"), f"{SUPERVISOR_LIMIT} s", f"{seconds:.0f} s")
    detached = host.wait(lambda: not ours & host.programs() and host.gone(engine), 20)
    ctx.checks.that("engine and programs went with it", detached, "none left",
                    host.program_names(ours & host.programs()))
    ready = ctx.ready()
    ctx.checks.equal("systemd has started it again", (True, "1"), (ready, host.show("NRestarts").get("NRestarts")))
    _known(ctx, family, "after the watchdog")
    family.end()


def _known(ctx: Context, family: Family, when: str, *, orphan: bool = False) -> None:
    """Whether the alert about *family*'s child, older than the sensor, says who it and its parent are."""
    ctx.journal.mark()
    family.act()
    found = document(ctx.journal.alert(SHADOW, family.child))
    parent = (family.parent, SHELL, family.parent_line)
    # An exit that the probes saw leaves the child its parent; of one that came before them /proc tells the new one.
    if orphan and at(found, "process.parent.pid") == 1:
        parent = (1, host.command_line(1).split()[0], host.command_line(1))
    expected = {"process.pid": family.child, "process.executable": SHELL, "process.command_line": family.child_line,
                "process.parent.pid": parent[0], "process.parent.executable": parent[1],
                "process.parent.command_line": parent[2], "service.name": "vm.service"}
    whose = "a process whose parent ended meanwhile has its last or its new parent, whole" if orphan else \
        "an older process has its executable, command line and parent"
    ctx.checks.equal(f"{when}: {whose}", expected, {name: at(found, name) for name in expected})


def restart(ctx: Context) -> None:
    """`systemctl restart`: processes change while the new sensor loads its probes."""
    ctx.fresh()
    calm, torn, reused = Family("calm"), Family("torn"), Reused()
    crowd(300)
    calm.act()
    first = document(ctx.journal.alert(SHADOW, calm.child))
    full = host.metric("sensor_process_table_entries")
    engine = host.engine_pid()
    host.sh("systemctl", "restart", "--no-block", "sensor")
    # The new engine has read /proc; the probes are still being compiled: neither sees what happens now.
    listening = host.wait(lambda: host.engine_pid() not in (0, engine) and host.get("/-/ready")[0] == 503,
                          READY_SECONDS)
    torn.orphan()
    named = reused.replace()
    early = host.get("/-/ready")[0]
    ctx.checks.equal("restart: there is time between the look at /proc and the probes", (True, True, 503),
                     (bool(listening), named, early))
    ctx.checks.that("`systemctl restart sensor` gets ready", ctx.ready(), "active, ready", host.state())
    _known(ctx, calm, "restart")
    again = document(ctx.journal.alert(SHADOW, calm.child))
    ctx.checks.that("restart: it has the same entity id as before",
                    at(first, "process.entity_id") and at(first, "process.entity_id") == at(again, "process.entity_id")
                    and at(first, "process.parent.entity_id") == at(again, "process.parent.entity_id"),
                    at(first, "process.entity_id"), at(again, "process.entity_id"))
    _known(ctx, torn, "restart", orphan=True)
    _ghost(ctx, reused, "restart")
    entries, running = host.metric("sensor_process_table_entries"), len(host.pids())
    ctx.checks.that("restart: the table holds no process that ended before it", full > 300 and entries < running + 150,
                    f"about the {running} that run", f"{entries:.0f}, before {full:.0f}")
    calm.end()
    torn.end()


def _ghost(ctx: Context, reused: Reused, when: str) -> None:
    ctx.journal.mark()
    reused.act()
    found = document(ctx.journal.alert(SHADOW, reused.pid))
    expected = {"process.pid": reused.pid, "process.executable": sys.executable,
                "process.command_line": reused.line, "process.parent.pid": os.getpid()}
    ctx.checks.equal(f"{when}: a reused pid is the new process and no ghost of the ended one", expected,
                     {name: at(found, name) for name in expected})


def killed(ctx: Context) -> None:
    """kill -9 of the supervisor: the kernel detaches, systemd starts again, the table is right."""
    ctx.fresh()
    calm, torn, reused = Family("calm"), Family("torn"), Reused()
    supervisor, engine, ours = host.main_pid(), host.engine_pid(), host.programs() - ctx.programs
    os.kill(supervisor, signal.SIGKILL)
    begun = time.monotonic()
    detached = host.wait(lambda: not ours & host.programs() and host.gone(engine), 15, 0.2)
    ctx.checks.that("kill -9 of the supervisor detaches everything and ends the engine", detached and ours,
                    f"none of {len(ours)} programs", f"{time.monotonic() - begun:.1f} s")
    torn.orphan()
    named = reused.replace()
    ready = ctx.ready() and host.main_pid() != supervisor
    ctx.checks.equal("systemd has started it again after kill -9", (True, "1", True),
                     (ready, host.show("NRestarts").get("NRestarts"), named))
    _known(ctx, calm, "kill -9")
    _known(ctx, torn, "kill -9", orphan=True)
    _ghost(ctx, reused, "kill -9")
    calm.end()
    torn.end()
