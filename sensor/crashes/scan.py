"""Searches for crashes that the host has had: a child of the supervisor, once at its start.

Root opens and reads, as bytes; then every privilege is given up, and only then is anything parsed. What is new
is appended to the database through a descriptor that root opened. Time, processor and memory are limited.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from sensor import children, guard, importable, privileges
from sensor.crashes import database, lines, parse, sources
from sensor.crashes.database import Found
from sensor.crashes.model import Crash
from sensor.crashes.verdict import Own, Verdict, judge
from sensor.errors import SensorError

SCANNED = "scanned"
_PROCESSOR_SECONDS = 20
_MEMORY_BYTES = 512 << 20
_TRACE_LINES = 40
_FORMS = {"dump": lines.of_dump, "kmsg": lines.of_kmsg, "journal": lines.of_journal}


def examine(dumps: Iterable[sources.Dump], own: Own, before: Own, known: Mapping[str, Found], scan: str, now: float,
            boot_time: float) -> list[Found]:
    """Records that the database does not have yet, or has with less.

    Args:
        dumps: What was read.
        own: What is ours in this boot; *before*: in the one before, whose remains the dumps are.
        before: See *own*.
        known: The database, by id.
        scan: Name of this search.
        now: Seconds since the epoch; *boot_time*: of the boot, for times of its log.
        boot_time: See *now*.
    """
    found: dict[str, tuple[Crash, Found]] = {}
    for dump in dumps:
        for crash in parse.parse(_FORMS[dump.form](dump.data)):
            verdict = judge(crash, own if dump.this_boot else before)
            if crash.kind == "warning" and not crash.fatal and verdict.attributed != "self":
                continue
            at = boot_time + crash.at_us / 1e6 if dump.this_boot and crash.at_us is not None else dump.at
            record = _record(crash, verdict, dump.source, at or now, scan, now)
            if record.id not in found or _better(record, found[record.id][1]):
                found[record.id] = crash, record
    return [record for _, record in found.values()
            if record.id not in known or _better(record, known[record.id])]


def _better(new: Found, old: Found) -> bool:
    """Whether *new* tells more of the same crash: a panic that the journal did not live to see, a longer trace."""
    return (new.fatal, len(new.trace)) > (old.fatal, len(old.trace)) and (
        old.attributed in ("unknown", new.attributed))


def _record(crash: Crash, verdict: Verdict, source: str, at: float, scan: str, now: float) -> Found:
    trace = tuple(f"{'' if frame.reliable else '? '}{frame}" for frame in crash.frames[:_TRACE_LINES])
    return Found(
        crash.identity, at, now, scan, crash.kind, crash.title, crash.fatal, verdict.attributed, verdict.component,
        verdict.kind, verdict.confidence, verdict.rule, verdict.evidence, source, crash.release, crash.comm,
        crash.pid, crash.cpu, crash.taint, str(crash.rip or ""), crash.panic, tuple(crash.modules), trace,
        tuple(crash.lines), counted=crash.kind != "warning" or crash.fatal)


def own_of(state: guard.State, boot: str) -> tuple[Own, Own]:
    """What is ours in this boot and in those before."""
    programs = {tag: str(facts.get("name", "")) for tag, facts in state.programs.items()}
    here: dict[int, str] = {}
    past: dict[int, str] = {}
    for armed in (*state.history, *state.armed):
        processes = {int(pid): name for pid, name in armed.processes.items() if pid.isascii() and pid.isdigit()}
        (here if armed.boot_id == boot else past).update(processes)
    return Own(programs, here), Own(programs, past)


def main() -> None:
    """Entry point: descriptor of the channel (not used), the state directory, the search's name, the boot's id."""
    try:
        _run(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    except (SensorError, OSError, MemoryError) as error:
        sys.stderr.write(f"sensor: crashes could not be searched for: {error}\n")
        sys.exit(1)


def _run(directory: Path, scan: str, boot: str) -> None:
    parent = os.getppid()
    children.die_with(parent)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the unit forbids it; its weight is what it is
        os.nice(19)
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS))
    user = privileges.ids_of()
    state = guard.Store(directory).read()
    searched = b""
    with contextlib.suppress(OSError):
        searched = (directory / SCANNED).read_bytes()[:64]
    dumps = sources.collect(Path("/"), sources.journal_user(*user), before=searched != boot.encode())
    output, data = database.open_for_append(directory / database.NAME)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    if os.geteuid() == 0:
        importable.keep()
        privileges.drop(*user, parent)
    now = time.time()
    new = examine(dumps, *own_of(state, boot), {record.id: record for record in database.read(data)}, scan, now,
                  now - time.clock_gettime(time.CLOCK_BOOTTIME))
    for record in new:
        os.write(output, record.line())
    os.fsync(output)
