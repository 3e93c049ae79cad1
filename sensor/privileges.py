"""Gives up root for good: user, groups, every capability, and the way back.

Order matters: the bounding set while CAP_SETPCAP is there, groups before the user, the parent
death signal last, for a change of credentials clears it. Source: capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal
from pathlib import Path

from sensor.errors import HostError

NOBODY = 65534
USER = "sensor"

_PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_FILES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: int) -> int:
    padded = [*arguments, 0, 0, 0, 0][:4]
    return int(_libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)))


def ids_of(user: str = USER) -> tuple[int, int]:
    """Uid and gid of the engine's user; nobody's where the host has no such user."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return NOBODY, NOBODY
    return entry.pw_uid, entry.pw_gid


def drop(uid: int, gid: int, parent: int) -> None:
    """Become *uid*:*gid* without any capability; die with *parent*.

    Raises:
        HostError: Something of root is left, or the parent has died meanwhile.
    """
    capability = 0
    while _prctl(_PR_CAPBSET_READ, capability) >= 0:
        _prctl(_PR_CAPBSET_DROP, capability)
        capability += 1
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise HostError(f"the engine can't become user {uid}: {error.strerror}",
                        "run it as root of the host, with CAP_SETUID and CAP_SETGID") from error
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)  # nobody may raise it any more
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if os.getppid() != parent:
        raise HostError("the supervisor is gone")
    check()


def check() -> None:
    """Raise HostError unless this process has no privilege left, as the kernel tells it."""
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    sets = {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    if any(sets.values()) or "0" in fields["Uid"].split():
        raise HostError(f"the engine could not give up its privileges: {sets}, uid {fields['Uid']}")
