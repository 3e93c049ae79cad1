"""Which file a path is, as the kernel's own superblock numbers it: what probes compare.

stat() tells another device on btrfs (each subvolume has its own) and on overlays over several file systems.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_PROC = Path("/proc/self")


def devices(mountinfo: str) -> dict[int, int]:
    """Mount id -> major << 20 | minor, from the text of /proc/self/mountinfo."""
    found = {}
    for line in mountinfo.splitlines():
        mount, _, device = line.split(" ", 3)[:3]
        major, _, minor = device.partition(":")
        found[int(mount)] = int(major) << 20 | int(minor)
    return found


def identity(path: str, numbers: dict[int, int], proc: Path = _PROC) -> tuple[int, int]:
    """Inode and device (major << 20 | minor) of a file, by its mount's row in *numbers*; raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        facts, info = os.fstat(fd), (proc / "fdinfo" / str(fd)).read_text()
    finally:
        os.close(fd)
    mount = re.search(r"^mnt_id:\s*(\d+)$", info, re.MULTILINE)
    told = os.major(facts.st_dev) << 20 | os.minor(facts.st_dev)
    return facts.st_ino, numbers.get(int(mount[1]), told) if mount else told


def mounted() -> dict[int, int]:
    """:func:`devices` of this process's mount namespace."""
    return devices((_PROC / "mountinfo").read_text(errors="surrogateescape"))
