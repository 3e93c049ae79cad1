"""Processes that run already when the sensor starts, read from /proc.

Run as root, before the privileges are dropped: exe, cwd and namespaces of other users' processes
are root's to read. psutil reads what it knows; what it lacks (start in ticks, session, cgroup,
namespaces, audit ids, capabilities) is read here, all under the same root.

Processes come and go meanwhile. One that vanishes is skipped, a link that may not be read stays
unknown; both are counted.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import psutil

from sensor.process.model import TICK_NS, Found

__all__ = ["Found", "Reader", "SeedCounters", "host_user_name"]

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
# A status or cgroup file is a few KiB; nothing else may make us read without end.
_DELETED = " (deleted)"  # what the kernel adds to the name of a file that is gone
_READ_MAX = 1 << 16
_NAMESPACES = {"pidns": "pid", "netns": "net", "userns": "user"}

T = TypeVar("T")


@dataclass(slots=True)
class SeedCounters:
    """How reading /proc went."""

    read: int = 0
    vanished: int = 0  # ended while it was read
    denied: int = 0  # files that may not be read
    malformed: int = 0  # files that no kernel writes


def host_user_name(uid: int) -> str | None:
    """The host's name for *uid*, for ``Users``; None where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


class Reader:
    """Reads the processes under one /proc."""

    def __init__(self, root: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> None:
        """*cgroups*: where cgroup v2 is mounted; its inode numbers are the ids that records carry."""
        self.root = root
        self.cgroups = cgroups
        self.counters = SeedCounters()
        self._cgroup_ids: dict[str, int] = {}

    def processes(self) -> Iterator[Found]:
        """Every process that can be read, in no particular order."""
        with _psutil_root(self.root):
            for pid in psutil.pids():
                try:
                    found = self._process(pid)
                except (ProcessLookupError, FileNotFoundError, psutil.NoSuchProcess):
                    self.counters.vanished += 1
                except (PermissionError, psutil.AccessDenied):  # hidepid, or another user namespace
                    self.counters.denied += 1
                except (ValueError, IndexError):
                    self.counters.malformed += 1
                else:
                    self.counters.read += 1
                    yield found

    def _process(self, pid: int) -> Found:
        stat = self._read(pid, "stat")
        # The name may hold anything, parentheses and newlines too: only the last one closes it.
        opening, closing = stat.index("("), stat.rindex(")")
        rest = stat[closing + 2:].split()
        flags = int(rest[6])
        found = Found(pid, int(rest[19]) * TICK_NS, int(rest[1]), stat[opening + 1:closing],
                      kernel=bool(flags & _PF_KTHREAD))
        found.values["session_pid"] = int(rest[3])
        self._status(found)
        self._cgroup(found)
        self._namespaces(found)
        for name, file in (("login_uid", "loginuid"), ("audit_session", "sessionid")):
            number = self._try(lambda file=file: int(self._read(pid, file)))  # type: ignore[misc]
            if number is not None:
                found.values[name] = number
        if not found.kernel:
            self._program(found)
        return found

    def _status(self, found: Found) -> None:
        status = dict(re.findall(r"^(\w+):\t(.*)$", self._read(found.pid, "status"), re.MULTILINE))
        uids, gids = status.get("Uid", "").split(), status.get("Gid", "").split()
        if len(uids) >= 3 and len(gids) >= 3:
            found.uid, found.gid = int(uids[1]), int(gids[1])
            found.values.update(real_uid=int(uids[0]), saved_uid=int(uids[2]), real_gid=int(gids[0]))
        if "CapEff" in status:
            found.values["capabilities"] = int(status["CapEff"], 16)
        if status.get("NSpid"):
            found.ns_pid = int(status["NSpid"].split()[-1])

    def _cgroup(self, found: Found) -> None:
        text = self._try(lambda: self._read(found.pid, "cgroup"))
        for line in (text or "").splitlines():
            number, _, path = line.partition("::")
            if number == "0" and path:
                found.values["cgroup"] = path
                found.cgroup_id = self._cgroup_id(path)

    def _cgroup_id(self, path: str) -> int:
        if path not in self._cgroup_ids:
            try:
                self._cgroup_ids[path] = os.stat(self.cgroups + path).st_ino
            except (OSError, ValueError):  # no cgroup v2 here, or outside our cgroup namespace: 0 is unknown
                self._cgroup_ids[path] = 0
        return self._cgroup_ids[path]

    def _namespaces(self, found: Found) -> None:
        for name, file in _NAMESPACES.items():
            inode = self._namespace(found.pid, file)
            if inode:
                found.values[name] = inode
        found.mntns = self._namespace(found.pid, "mnt")

    def _namespace(self, pid: int, name: str) -> int:
        link = self._try(lambda: os.readlink(f"{self.root}/{pid}/ns/{name}"))
        hit = re.search(r"\[(\d+)\]", link or "")
        return int(hit[1]) if hit else 0

    def _program(self, found: Found) -> None:
        process = psutil.Process(found.pid)
        values = found.values
        values["executable"] = self._try(lambda: self._executable(found.pid)) or ""
        values["argv"] = tuple(self._try(process.cmdline) or ())
        values["argc"] = len(values["argv"]) or None
        values["cwd"] = self._try(process.cwd) or ""
        values["tty"] = (self._try(process.terminal) or "").removeprefix("/dev/")
        program = self._try(lambda: os.stat(f"{self.root}/{found.pid}/exe"))
        if program is not None:
            device = os.major(program.st_dev) << 20 | os.minor(program.st_dev)
            values.update(inode=program.st_ino, dev=device, mode=program.st_mode, owner_uid=program.st_uid,
                          links=program.st_nlink)
            values["filename"] = self._as_executed(found, program)

    def _executable(self, pid: int) -> str:
        """The link's target. psutil would take the first argument where it can't be read: anybody's own words."""
        path = os.readlink(f"{self.root}/{pid}/exe")
        return path.removesuffix(_DELETED) if path.endswith(_DELETED) and not os.path.lexists(path) else path

    def _as_executed(self, found: Found, program: os.stat_result) -> str:
        """The first argument, where it is a path that leads to the very program file: ``/bin/sh``, not dash.

        Anybody can write anything there, so it is only believed as another name of the same file.
        """
        claimed = found.values["argv"][0] if found.values["argv"] else ""
        if not claimed.startswith("/") or claimed == found.values["executable"]:
            return ""
        with suppress(OSError, ValueError):
            seen = os.stat(f"{self.root}/{found.pid}/root{claimed}")
            if (seen.st_dev, seen.st_ino) == (program.st_dev, program.st_ino):
                return str(claimed)
        return ""

    def _read(self, pid: int, name: str) -> str:
        with open(f"{self.root}/{pid}/{name}", "rb") as file:
            return file.read(_READ_MAX).decode("utf-8", "surrogateescape")

    def _try(self, read: Callable[[], T]) -> T | None:
        """What *read* gives; None, and counted, where the one file can't be read."""
        try:
            return read()
        except (PermissionError, psutil.AccessDenied):
            self.counters.denied += 1
        except (psutil.ZombieProcess, FileNotFoundError):
            pass  # a zombie has no program any more, a kernel without audit no loginuid: nothing is missed
        except ValueError:
            self.counters.malformed += 1
        return None


@contextmanager
def _psutil_root(root: str) -> Iterator[None]:
    """Psutil knows only one /proc, by a variable of its module: set it, and put it back."""
    before = psutil.PROCFS_PATH
    psutil.PROCFS_PATH = root
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before
