"""What a running supervisor knows about itself, as the answer to `sensor status`. Standard library only."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Any

from sensor import __version__, guard
from sensor.breaker import DISPATCHER
from sensor.content.keeper import Keeper
from sensor.kernel import bpf
from sensor.loaded import Load
from sensor.oversight import Oversight

FORMAT = 1
#: Bounds of an answer, which is one packet; a load has a third of these.
_PROGRAMS, _FAILURES, _TEXT = 512, 64, 300


@dataclass(frozen=True, slots=True)
class Run:
    """One supervisor's run. ``since``: CLOCK_MONOTONIC seconds of its start and of its engine's; 0.0 where none is."""

    since: float
    engine: int  # pid; 0 where none runs
    engine_since: float
    restarts: int
    serving: bool
    events: int  # that this engine has seen, as of its last beat
    memory: int  # of all maps, in bytes


def statistics(load: Load) -> list[list[int]]:
    """[program id, ns that it ran, runs, runs that the kernel left out] of each program."""
    rows = []
    for fd in load.program_fds.values():
        with contextlib.suppress(OSError):
            info = bpf.program_info(fd)
            rows.append([info.id, info.run_ns, info.runs, info.missed])
    return rows


def facts(run: Run, load: Load, oversight: Oversight, content: Keeper) -> dict[str, Any]:
    """The answer: numbers as they are now, times in seconds, ``time_ns`` CLOCK_BOOTTIME."""
    now = time.monotonic()
    mode, reason = _mode(load, oversight)
    counts = {row[0]: row[1:] for row in statistics(load)}
    engine = {"pid": run.engine, "uptime_seconds": round(now - run.engine_since, 3), "restarts": run.restarts,
              "serving": run.serving, "events": run.events} if run.engine else None
    return {"format": FORMAT, "version": __version__, "pid": os.getpid(),
            "time_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME), "uptime_seconds": round(now - run.since, 3),
            "mode": mode, "reason": reason, "lack": load.fatal["lack"] if load.fatal else "",
            "fix": load.fatal["fix"] if load.fatal else "", "restarts": run.restarts, "engine": engine,
            "programs": [_program(row, counts.get(row["id"])) for row in load.programs[:_PROGRAMS]],
            "failures": [{"program": row["program"], "target": row["target"], "reason": row["reason"][:_TEXT]}
                         for row in load.failures[:_FAILURES]],
            "absent": len(load.absent), "missing": list(load.missing[:_FAILURES]), "map_bytes": run.memory,
            "guard": oversight.facts(), "content": content.facts(), "state_directory": str(oversight.directory)}


def _mode(load: Load, oversight: Oversight) -> tuple[str, str]:
    """full, minimal (by the boot guard), reduced (a probe is missing or off), passive (there is none), loading; why."""
    if load.fatal is not None:
        return guard.PASSIVE, load.fatal["reason"]
    if not load.done:
        return "loading", "the probes are being loaded"
    if oversight.restriction:
        return guard.MINIMAL, oversight.restriction
    if load.failures:
        names = sorted({row["program"] for row in load.failures})
        more = f" and {len(names) - 8} more" if names[8:] else ""
        return "reduced", f"{len(names)} probes are missing: {', '.join(names[:8])}{more}"
    if shed := sorted(load.shed - {DISPATCHER}):
        return "reduced", f"switched off by the breaker: {', '.join(shed)}"
    return guard.FULL, ""


def _program(row: dict[str, Any], counts: list[int] | None) -> dict[str, Any]:
    run_ns, runs, missed = counts or (None, None, None)
    return {**{key: row.get(key, "") for key in ("id", "program", "family", "event", "kind", "target", "tag")},
            "run_ns": run_ns, "runs": runs, "missed": missed}
