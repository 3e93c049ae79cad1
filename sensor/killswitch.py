"""What turns probes off whatever else is set: a file, a word of the kernel's command line, the passive switch.

Standard library only; works without an engine, and without a supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from sensor.errors import HostError
from sensor.statefiles import read_small, sync_directory, write_whole

DISABLE = "etc/sensor/disable"
PASSIVE = "passive"  # in the state directory
RUNNING = "supervisor"  # the same; who is to be told of a change
_SMALL = 4096


def disabled(root: Path = Path("/")) -> HostError | None:
    """The file or the word that keeps the sensor from running at all; the units' conditions say the same."""
    if os.path.lexists(root / DISABLE):
        return HostError(f"the sensor is switched off by the file /{DISABLE}", f"sudo rm /{DISABLE}")
    try:
        words = (root / "proc/cmdline").read_text("utf-8", "replace").split()
    except OSError:
        return None
    if "sensor=0" in words:
        return HostError("the sensor is switched off by sensor=0 on the kernel's command line", "boot without sensor=0")
    return None


def passive_since(directory: Path) -> float | None:
    """When ``sensor passive on`` was given, seconds since the epoch; None where it is off. Any such file means on."""
    path = directory / PASSIVE
    if not os.path.lexists(path):
        return None
    try:
        since = float(json.loads(read_small(path, _SMALL) or b"{}")["since"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0.0
    return since if 0 <= since < 1e11 else 0.0


def set_passive(directory: Path, on: bool) -> bool:
    """Switch; whether that changed anything. On disk when it returns. OSError."""
    path = directory / PASSIVE
    if os.path.lexists(path) == on:
        return False
    if on:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_whole(path, json.dumps({"since": time.time()}).encode() + b"\n")
    else:
        path.unlink()
        sync_directory(directory)
    return True


# --- the running supervisor -----------------------------------------------------------------------


def start_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none. Source: proc(5), stat."""
    try:
        return int((proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def announce(directory: Path, boot_id: str) -> None:
    """Say who runs, for ``tell``. OSError."""
    who = {"pid": os.getpid(), "start": start_of(os.getpid()), "boot_id": boot_id}
    write_whole(directory / RUNNING, json.dumps(who).encode() + b"\n")


def tell(directory: Path, boot_id: str) -> int | None:
    """Ask the running supervisor to look at the switches; its pid, or None where none runs. OSError."""
    try:
        who = json.loads(read_small(directory / RUNNING, _SMALL) or b"{}")
        pid, start = int(who["pid"]), int(who["start"])
        if pid < 2 or who["boot_id"] != boot_id:
            return None
        fd = os.pidfd_open(pid)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, ProcessLookupError):
        return None
    try:
        if start_of(pid) != start:  # by descriptor first: it can't become another process between
            return None
        signal.pidfd_send_signal(fd, signal.SIGHUP)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    return pid
