"""Takes from this process what a parser of hostile files has no use for: memory, time, network, writing.

For a process that is thrown away afterwards. Source: seccomp(2), struct sock_filter in linux/filter.h,
numbers of asm/unistd_64.h.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import resource
import struct
import time

from sensor.errors import HostError

MEMORY_BYTES = 300 << 20
OUTPUT_BYTES = 32 << 20
FILES = 128
#: CPU seconds: as many times what importing the parsers took, which is how slow this machine is.
CPU_TIMES, CPU_LEAST, CPU_MOST = 20, 5, 30

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_INSTRUCTION = struct.Struct("<HBBI")  # code, jump if true, jump if false, constant
LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_AUDIT_ARCH_X86_64 = 0xC000003E
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
_X32 = 0x40000000
_WRITING = 0o1 | 0o2 | 0o100  # O_WRONLY, O_RDWR, O_CREAT

#: Calls that fail with EPERM. Not an allow-list: what an interpreter and its allocator need changes with them.
REFUSED = {
    "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "bind": 49, "listen": 50,
    "socketpair": 53, "accept4": 288, "sendmmsg": 307, "io_uring_setup": 425,
    "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone3": 435,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310,
    "process_vm_writev": 311, "process_madvise": 440, "setrlimit": 160, "prlimit64": 302,
    "creat": 85, "openat2": 437, "rename": 82, "renameat": 264, "renameat2": 316, "unlink": 87, "unlinkat": 263,
    "rmdir": 84, "mkdir": 83, "mkdirat": 258, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266,
    "mknod": 133, "mknodat": 259, "truncate": 76, "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452,
    "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
    "mount": 165, "unshare": 272, "setns": 308, "bpf": 321, "perf_event_open": 298, "keyctl": 250, "add_key": 248,
    "request_key": 249, "userfaultfd": 323, "shmget": 29, "shmat": 30, "msgget": 68, "semget": 64, "mq_open": 240,
    "memfd_create": 319, "inotify_add_watch": 254,
}
Row = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
_OPENING = {"open": (2, 1), "openat": (257, 2)}  # number, which argument has the flags


def memory_and_files() -> None:
    """Bound memory, output, descriptors and core dumps, and time to begin with."""
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
                         (resource.RLIMIT_NOFILE, FILES), (resource.RLIMIT_CORE, 0)):
        _bound(limit, value, value)
    _bound(resource.RLIMIT_CPU, CPU_MOST, CPU_MOST + 1)


def cpu_time() -> None:
    """Bound the time from now on by what this process has taken to come this far."""
    spent = time.process_time()
    seconds = min(CPU_MOST, math.ceil(spent) + max(CPU_LEAST, math.ceil(CPU_TIMES * spent)))
    _bound(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU comes before SIGKILL, and says why


def _bound(limit: int, soft: int, hard: int) -> None:
    above = resource.getrlimit(limit)[1]
    if above != resource.RLIM_INFINITY:
        soft, hard = min(soft, above), min(hard, above)
    resource.setrlimit(limit, (soft, hard))


def calls() -> None:
    """Refuse network, other processes and writing by name; for good. Raises HostError as :func:`install` does."""
    rows: list[Row] = []
    for number in REFUSED.values():
        rows += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    for number, argument in _OPENING.values():
        rows += [(EQUAL, 0, 4, number), (LOAD, 0, 0, ARGUMENTS + 8 * argument), (ANY_BIT, 0, 1, _WRITING),
                 (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    install(rows)


def install(rows: list[Row]) -> None:
    """Let a filter decide about this thread's calls; *rows* find the call's number loaded. The rest is allowed.

    A kernel without such filters (or a machine whose numbers aren't known here) leaves the process what its
    user may do, which is little.

    Raises:
        HostError: The kernel knows filters and doesn't take this one.
    """
    if platform.machine() != "x86_64":
        return
    program = _program(rows)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("<HxxxxxxQ", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_char_p(head)) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):
            raise HostError(f"the kernel took no filter of system calls: {os.strerror(number)}")


def _program(rows: list[Row]) -> bytes:
    head: list[Row] = [
        (LOAD, 0, 0, _ARCH), (EQUAL, 1, 0, _AUDIT_ARCH_X86_64), (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, _NUMBER), (GREATER_EQUAL, 0, 1, _X32), (RETURN, 0, 0, REFUSE),
    ]
    return b"".join(_INSTRUCTION.pack(*row) for row in (*head, *rows, (RETURN, 0, 0, ALLOW)))
