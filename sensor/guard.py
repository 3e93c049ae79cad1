"""The boot guard: after a boot that ended badly while probes were attached, fewer probes, then none.

Before anything is attached an "armed" record is on disk; a clean stop and ten healthy minutes take it back. One
that is left over from another boot is a strike: nobody can tell a crash by us from a power cut, so the first
costs little. One strike: only the hooks of process events. After ten healthy minutes with these the next start
tries everything again; ten healthy minutes with everything end the matter. A second strike before that: no
probes until ``sensor guard reset`` or another version of the sensor. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sensor.statefiles import locked, read_small, write_whole

NAME = "guard.json"
HEALTHY_SECONDS = 600.0
FULL, MINIMAL, PASSIVE = "full", "minimal", "passive"
#: What minimal hooks are: tracepoints of the scheduler, the oldest and most used there are.
MINIMAL_FAMILIES = ("process",)
STRIKES = 2
_FILE_BYTES = 256 << 10
_ARMED, _HISTORY, _PROGRAMS = 16, 16, 1024


@dataclass(frozen=True, slots=True)
class Armed:
    """One supervisor with probes attached.

    ``time`` in seconds since the epoch; ``processes`` pid -> name; ``start`` of its process, clock ticks since boot.
    """

    boot_id: str
    release: str
    pid: int
    time: float
    mode: str
    version: str
    tags: tuple[str, ...] = ()
    processes: Mapping[str, str] = field(default_factory=dict)
    start: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What the file holds. ``trial``: the next start tries everything again; ``history``: boots that ended badly."""

    version: str = ""
    strikes: int = 0
    trial: bool = False
    armed: tuple[Armed, ...] = ()
    history: tuple[Armed, ...] = ()
    programs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # tag -> name, version, time

    @property
    def mode(self) -> str:
        """What the next load may be."""
        if self.strikes >= STRIKES:
            return PASSIVE
        return MINIMAL if self.strikes and not self.trial else FULL

    @property
    def reason(self) -> str:
        """Why it is not everything; "" where it is."""
        if self.mode == FULL:
            return ""
        last = self.history[-1] if self.history else None
        where = f" (kernel {last.release}, boot {last.boot_id[:8]})" if last else ""
        if self.mode == MINIMAL:
            return f"the last boot with probes ended badly{where}: only process events until ten minutes have gone well"
        return f"a second boot with probes ended badly{where}: no probes until `sensor guard reset` or a new version"

    def dump(self) -> bytes:
        """Encode."""
        return json.dumps({"format": 1, **asdict(self)}, indent=1, default=dict).encode() + b"\n"


def parse(data: bytes | None) -> State:
    """Decode; a file that is none of ours is as good as no file."""
    try:
        raw = json.loads(data or b"{}")
        if not isinstance(raw, dict) or raw.get("format", 1) != 1:
            return State()
        return State(str(raw.get("version", "")), min(max(int(raw.get("strikes", 0)), 0), STRIKES),
                     bool(raw.get("trial", False)), _armed(raw.get("armed", [])), _armed(raw.get("history", [])),
                     {str(tag): dict(facts) for tag, facts in dict(raw.get("programs", {})).items()})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return State()


def _armed(rows: Any) -> tuple[Armed, ...]:
    return tuple(Armed(str(row["boot_id"]), str(row["release"]), int(row["pid"]), float(row["time"]), str(row["mode"]),
                       str(row["version"]), tuple(map(str, row["tags"])),
                       {str(pid): str(name) for pid, name in dict(row["processes"]).items()},
                       int(row.get("start", 0))) for row in list(rows))


def begin(state: State, version: str, boot_id: str, alive: Callable[[Armed], bool]) -> State:
    """What a start makes of what it finds. *alive*: whether a supervisor of this boot is still there."""
    if state.version != version:  # what another version did is held against that version
        state = State(version, history=state.history, programs=state.programs)
    left = tuple(each for each in state.armed if each.boot_id != boot_id)
    # Of this boot: killed, so that the kernel has detached everything; or another sensor, at work.
    here = tuple(each for each in state.armed if each.boot_id == boot_id and alive(each))
    if not left:
        return replace(state, armed=here)
    # One boot that ended badly is one strike, however many supervisors it took along.
    strikes = min(state.strikes + len({each.boot_id for each in left}), STRIKES)
    return replace(state, strikes=strikes, trial=False, armed=here, history=(*state.history, *left)[-_HISTORY:])


def healthy(state: State, armed: Armed) -> State:
    """Ten minutes have gone well."""
    state = disarm(state, armed)
    if armed.mode == MINIMAL:
        return replace(state, trial=True)
    return replace(state, strikes=0, trial=False) if armed.mode == FULL and state.strikes < STRIKES else state


def arm(state: State, armed: Armed) -> State:
    """Probes are about to be attached."""
    return replace(state, armed=(*disarm(state, armed).armed, armed)[-_ARMED:])


def disarm(state: State, armed: Armed) -> State:
    """Its probes are gone, or have proved themselves."""
    return replace(state, armed=tuple(each for each in state.armed
                                      if (each.pid, each.boot_id) != (armed.pid, armed.boot_id)))


def reset(state: State, boot_id: str) -> State:
    """Forget the boots that ended badly. What is armed in this boot may be a sensor at work, and stays."""
    if state == State():
        return state
    return replace(state, strikes=0, trial=False, history=(),
                   armed=tuple(each for each in state.armed if each.boot_id == boot_id))


def remember(state: State, programs: Mapping[str, str], version: str, now: float) -> State:
    """Keep the tags of programs (tag -> name), the newest of all times."""
    new = {tag: {"name": name, "version": version, "time": now} for tag, name in [*programs.items()][-_PROGRAMS:]}
    # What is loaded now is the newest, whatever the clock says: it may have been set back by years.
    old = sorted((item for item in state.programs.items() if item[0] not in new),
                 key=lambda item: float(item[1].get("time", 0)))
    return replace(state, programs={**dict(old[max(0, len(old) + len(new) - _PROGRAMS):]), **new})


class Store:
    """The file. Every change is on disk, or has raised OSError, when the call returns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / NAME

    def read(self) -> State:
        """As it is; raises OSError where it can't be read."""
        return parse(read_small(self._path, _FILE_BYTES))

    def change(self, make: Callable[[State], State]) -> State:
        """Read, change, write; a change that changes nothing is not written."""
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with locked(self.directory):
            before = self.read()
            after = make(before)
            if after != before:
                write_whole(self._path, after.dump())
            return after
