"""What the live tests ask of the host: processes by /proc, BPF programs by the kernel's own list."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

DETACH_SECONDS = 2.0  # the contract's


def wait_until(check: Callable[[], Any], seconds: float, what: str, pause: float = 0.05) -> Any:
    """The first true result of *check*."""
    end = time.monotonic() + seconds
    while True:
        if result := check():
            return result
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(pause)


def children(pid: int) -> list[int]:
    """Descendants of a process, direct ones first."""
    try:
        direct = [
            int(word)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for word in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return direct + [deeper for child in direct for deeper in children(child)]


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def status_of(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def descriptors(pid: int) -> dict[int, str]:
    """What each descriptor of a process leads to."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except OSError:
            continue
    return found


# --- programs in the kernel ----------------------------------------------------------------------

_SYS_BPF = 321
_PROG_GET_NEXT_ID = 11
_LINK_GET_NEXT_ID = 31


def program_ids() -> Iterator[int]:
    """Ids of all BPF programs in the kernel, asked from the kernel itself."""
    return _ids(_PROG_GET_NEXT_ID)


def link_ids() -> Iterator[int]:
    """Ids of all BPF links in the kernel; none where it is too old for them."""
    return _ids(_LINK_GET_NEXT_ID)


def _ids(command: int) -> Iterator[int]:
    libc = ctypes.CDLL(None, use_errno=True)
    attribute = (ctypes.c_uint32 * 32)()
    current = 0
    while True:
        attribute[0] = current
        if libc.syscall(_SYS_BPF, command, ctypes.byref(attribute), ctypes.sizeof(attribute)) < 0:
            return
        current = attribute[1]
        yield current


def owned_programs(pids: Iterable[int]) -> Iterator[int]:
    """Ids of programs that these processes hold, directly or through a link."""
    for pid in pids:
        try:
            entries = list(Path(f"/proc/{pid}/fdinfo").iterdir())
        except OSError:
            continue
        for entry in entries:
            try:
                yield from map(int, re.findall(r"^prog_id:\s*(\d+)", entry.read_text(), re.MULTILINE))
            except OSError:
                continue


def wait_gone(programs: Iterable[int], what: str) -> None:
    """These programs must leave the kernel within the two seconds of the contract.

    A program that nobody holds any more stays until the kernel's grace periods are over, 0.3 s as a rule. So a failure
    tells who holds what is left: a process, a link, or the kernel alone.
    """
    wanted = set(programs)
    end = time.monotonic() + DETACH_SECONDS
    while left := wanted & set(program_ids()):
        if time.monotonic() >= end:
            holders = {pid: held for pid in _everybody() if (held := left & set(owned_programs([pid])))}
            load = Path("/proc/loadavg").read_text().strip()
            raise AssertionError(f"not within {DETACH_SECONDS} s: {what}; programs left {sorted(left)}, held by "
                                 f"{holders or 'no process'}; links in the kernel {sorted(link_ids())}; load {load}")
        time.sleep(0.05)


def _everybody() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def no_stray_programs(before: Iterable[int]) -> bool:
    """Within the two seconds that the kernel may take, nothing of ours is left."""
    wanted = set(before)
    return bool(wait_until(lambda: not stray_programs(wanted), DETACH_SECONDS, "programs of a dead process gone"))


def stray_programs(before: Iterable[int]) -> set[int]:
    """Programs that were not there before and that no living process holds: what a crash has left behind.

    Somebody else may load programs while the tests run; those have a living owner.
    """
    new = set(program_ids()) - set(before)
    return new - set(owned_programs(_everybody())) if new else new
