"""What the supervisor asks before it loads probes, and tells once they are in: boot guard, switches, search.

Without a state directory that can be written the guard can't work; that is said once, and the sensor runs on:
else whoever fills a disk would blind it. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sensor import __version__, children, guard, killswitch
from sensor.crashes import database
from sensor.kernel.plan import Plan
from sensor.statefiles import write_whole

SCAN_SECONDS = 60.0
SCANNED = "scanned"  # in the state directory: the boot whose predecessor's journal was searched
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Of this boot; "" where the kernel does not tell."""
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text("ascii").strip()
    return ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What may be loaded now. ``mode`` is full, minimal or passive; ``lack`` is one of preflight.LACKS."""

    mode: str
    reason: str = ""
    fix: str = ""
    lack: str = ""


class Oversight:
    """One supervisor's."""

    def __init__(self, directory: Path, say: Callable[[str], None], *, boot: str, root: Path = Path("/"),
                 clock: Callable[[], float] = time.time) -> None:
        self._store, self._say, self._boot, self._root, self._clock = guard.Store(directory), say, boot, root, clock
        self.directory = directory
        self._state = guard.State()
        self._armed: guard.Armed | None = None
        self._mode = guard.FULL  # of what is loaded
        self._tags: set[str] = set()
        self._scan: Any = None
        self._scan_started, self._untold = "", ""
        self._told_trouble = False

    def begin(self) -> None:
        """Look at what earlier runs have left; once, before anything else."""
        self._change(lambda state: guard.begin(state, __version__, self._boot, _alive))
        if self._state.strikes:
            self._say(f"boot guard: {self._state.reason or 'after a bad end everything is tried again'}")
        try:
            killswitch.announce(self.directory, self._boot)
        except OSError as error:
            self._trouble(error)

    def disabled(self) -> str:
        """Why the sensor must not run at all; "" where it may."""
        error = killswitch.disabled(self._root)
        return error.reason if error is not None else ""

    def standing(self) -> Standing:
        """What may be loaded now."""
        since = killswitch.passive_since(self.directory)
        if since is not None:
            return Standing(guard.PASSIVE, "switched to passive by `sensor passive on`", "sudo sensor passive off",
                            "operator")
        if self._state.mode == guard.PASSIVE:
            return Standing(guard.PASSIVE, f"boot guard: {self._state.reason}",
                            "sudo sensor guard reset, once `sensor crashes` has told why", "guard")
        return Standing(self._state.mode, self._state.reason)

    def refresh(self) -> None:
        """Somebody may have reset the guard."""
        with contextlib.suppress(OSError):
            self._state = self._store.read()

    def limit(self, plan: Plan) -> Plan:
        """The part of a plan that may be loaded now."""
        if self.standing().mode != guard.MINIMAL:
            return plan
        families = tuple(name for name in plan.families if name in guard.MINIMAL_FAMILIES)
        return replace(plan, families=families, hooks=tuple(
            (event, kind) for event, kind in plan.hooks if kind in ("off", "raw_tracepoint")))

    @property
    def restriction(self) -> str:
        """Why less than everything is loaded; "" where it isn't."""
        return self._state.reason if self._mode == guard.MINIMAL else ""

    @property
    def strikes(self) -> int:
        """Of the boot guard."""
        return self._state.strikes

    def facts(self) -> dict[str, Any]:
        """Of the boot guard, for `sensor status`."""
        return {"mode": self._state.mode, "reason": self._state.reason, "strikes": self._state.strikes,
                "trial": self._state.trial, "armed": self._armed is not None,
                "passive_since": killswitch.passive_since(self.directory)}

    # --- around a load ------------------------------------------------------------------------

    def arm(self) -> None:
        """Before probes are attached. On disk when it returns."""
        self._mode, self._tags = self.standing().mode, set()
        self._arm(guard.Armed(self._boot, platform.release(), os.getpid(), self._clock(), self._mode, __version__,
                              processes={str(os.getpid()): _comm(os.getpid())},
                              start=killswitch.start_of(os.getpid()) or 0))

    def _arm(self, armed: guard.Armed) -> None:
        self._armed = armed
        self._change(lambda state: guard.arm(state, armed))

    def loaded(self, programs: Mapping[str, str]) -> None:
        """Tags and names of programs that are in the kernel now: a later boot compares a crash's frames with them."""
        names = dict(programs)
        if self._armed is None or names.keys() <= self._tags:
            return
        self._tags |= names.keys()
        armed = self._armed = replace(self._armed, tags=tuple(sorted(self._tags)))
        self._change(lambda state: guard.arm(guard.remember(state, names, __version__, self._clock()), armed))

    def healthy(self) -> None:
        """Ten minutes after a load."""
        if self._armed is not None:
            armed, self._armed = self._armed, None
            self._change(lambda state: guard.healthy(state, armed))

    def clear(self) -> None:
        """Nothing is attached any more."""
        if self._armed is not None:
            armed, self._armed = self._armed, None
            self._change(lambda state: guard.disarm(state, armed))

    def _change(self, make: Callable[[guard.State], guard.State]) -> bool:
        try:
            self._state = self._store.change(make)
        except OSError as error:
            self._trouble(error)
            return False
        return True

    def _trouble(self, error: OSError) -> None:
        if not self._told_trouble:
            self._told_trouble = True
            self._say(f"no boot guard: {self.directory} can't be used: {error.strerror}; make it writable for root")

    # --- the search for crashes -----------------------------------------------------------------

    def search(self) -> bool:
        """Start the search, once in a run; whether it has begun."""
        if self._scan is not None or self._scan_started or self._told_trouble:
            return False
        self._scan_started = f"{self._boot}:{time.clock_gettime_ns(time.CLOCK_BOOTTIME)}"
        ours, theirs = socket.socketpair()
        with ours, theirs:  # it has nothing to say and nobody to hear; the way of starting children has a channel
            try:
                self._scan = children.start("sensor.crashes.scan", theirs,
                                            [str(self.directory), self._scan_started, self._boot])
            except OSError as error:  # no descriptor, no process: the probes go on
                self._say(f"crashes of this host are not searched for: {error.strerror}")
        return self._scan is not None

    def searched(self) -> bool:
        """Whether the search has ended since this was last asked, and has found what there is."""
        if self._scan is None or self._scan.poll() is None:
            return False
        status, self._scan = self._scan.returncode, None
        if status:
            self._say(f"the search for crashes ended by {'signal' if status < 0 else 'status'} {abs(status)}")
            return False
        self._untold = self._scan_started
        with contextlib.suppress(OSError):
            write_whole(self.directory / SCANNED, self._boot.encode())
        return True

    def untold(self) -> str:
        """The name of the search whose finds are to be told now; "" ever after."""
        name, self._untold = self._untold, ""
        return name

    def database(self) -> int | None:
        """A descriptor of the database; None where there is none yet."""
        with contextlib.suppress(OSError):
            return os.open(self.directory / database.NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return None

    def end_search(self) -> None:
        """It took too long, or the supervisor ends."""
        if self._scan is not None and self._scan.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._scan.send_signal(signal.SIGKILL)
            self._scan.wait()


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    return ""


def _alive(armed: guard.Armed) -> bool:
    return armed.pid != os.getpid() and killswitch.start_of(armed.pid) == armed.start
