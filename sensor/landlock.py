"""Leaves this process no files but those named, no connections over TCP and no signals to others; for good.

Through system calls of its own, for neither the C library nor Python has them. Source: landlock(7),
include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

from sensor.errors import HostError

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE, _READ, _LIST, _REMOVE, _MAKE_DIR, _MAKE_FILE, _TRUNCATE, _IOCTL = (
    1 << bit for bit in (0, 1, 2, 3, 5, 7, 8, 14, 15))
#: What each version knows of files: the first one 13 rights, then moving (2), cutting (3), ioctl on devices (5).
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_OF_A_FILE = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL  # the others are of directories
READING = _READ | _LIST
WRITING = READING | _WRITE | _REMOVE | _MAKE_DIR | _MAKE_FILE | _TRUNCATE
_CONNECT_TCP, _NET_VERSION = 1 << 1, 4
_SCOPES, _SCOPE_VERSION = 0b11, 6  # abstract UNIX sockets and signals of processes outside
_ABSENT = (errno.ENOSYS, errno.EOPNOTSUPP)  # not built in; not in the kernel's lsm= list

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Of Landlock in this kernel; 0 where there is none (before 5.13, or not in lsm=)."""
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)))


def restrict(reading: Iterable[str], writing: Iterable[str]) -> int:
    """Allow what lies beneath these paths and nothing else; returns the version, 0 where nothing was done.

    What is open stays open. A path that is not there allows nothing, also when it appears later.

    Raises:
        HostError: The kernel has Landlock and doesn't take this.
    """
    known = version()
    if not known:
        return 0
    handled = _RIGHTS[max(number for number in _RIGHTS if number <= known)]
    attribute = struct.pack("<QQQ", handled, _CONNECT_TCP, _SCOPES)
    size = 24 if known >= _SCOPE_VERSION else 16 if known >= _NET_VERSION else 8
    try:
        rules = _call(_CREATE, ctypes.create_string_buffer(attribute[:size], size), ctypes.c_size_t(size), 0)
        try:
            for paths, rights in ((reading, READING), (writing, WRITING)):
                for path in paths:
                    _allow(rules, path, rights & handled)
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
            _call(_RESTRICT, rules, 0)
        finally:
            os.close(rules)
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise HostError(f"Landlock takes no rules: {error.strerror}") from error
    return known


def _allow(rules: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError, LookupError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= _OF_A_FILE
            beneath = struct.pack("<Qi", rights, fd)
            _call(_ADD, rules, _PATH_BENEATH, ctypes.create_string_buffer(beneath, len(beneath)), 0)
        finally:
            os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
