"""What the engine gives up besides its privileges, before it reads anything hostile: calls and files.

Whatever starts it: the unit's sandbox is one more around this. Source: seccomp(2), numbers of asm/unistd_64.h.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable

from sensor import confine, landlock
from sensor.confine import ALLOW, ANY_BIT, ARGUMENTS, EQUAL, LOAD, REFUSE, RETURN, Row

#: Calls that fail with EPERM. Rules are parsed by processes that zygote.py starts, so none is started here.
REFUSED = {
    "execve": 59, "execveat": 322, "fork": 57, "vfork": 58, "ptrace": 101, "bpf": 321, "perf_event_open": 298,
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442, "open_tree_attr": 467,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
    "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "quotactl": 179, "quotactl_fd": 443, "syslog": 103,
    "settimeofday": 164, "clock_settime": 227, "clock_adjtime": 305, "adjtimex": 159, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "personality": 135,
    "add_key": 248, "request_key": 249, "keyctl": 250, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "process_vm_readv": 310, "process_vm_writev": 311,
    "process_madvise": 440, "pidfd_getfd": 438, "pidfd_send_signal": 424, "kcmp": 312, "setns": 308, "unshare": 272,
    "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "mknod": 133, "mknodat": 259,
    "open_by_handle_at": 304, "fanotify_init": 300, "lookup_dcookie": 212, "vmsplice": 278, "memfd_secret": 447,
    "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117,
    "setresgid": 119, "setfsuid": 122, "setfsgid": 123, "capset": 126, "shmget": 29, "msgget": 68, "semget": 64,
}
#: For metrics and the journal; netlink, packets and the rest are not needed.
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
_SOCKET, _SOCKETPAIR, _CLONE, _CLONE3, _IOCTL = 41, 53, 56, 435, 16
_CLONE_THREAD = 0x10000
_NO_SUCH_CALL = 0x00050000 | 38  # the C library then takes clone(), whose flags can be looked at
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into the operator's terminal


def calls() -> None:
    """Refuse system calls that the engine has no use for. Raises HostError as :func:`confine.install` does."""
    rows: list[Row] = []
    for number in REFUSED.values():
        rows += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    rows += [(EQUAL, 0, 1, _CLONE3), (RETURN, 0, 0, _NO_SUCH_CALL)]
    rows += [(EQUAL, 0, 4, _CLONE), (LOAD, 0, 0, ARGUMENTS), (ANY_BIT, 1, 0, _CLONE_THREAD), (RETURN, 0, 0, REFUSE),
             (RETURN, 0, 0, ALLOW)]
    for number in (_SOCKET, _SOCKETPAIR):
        rows += [(EQUAL, 0, len(FAMILIES) + 3, number), (LOAD, 0, 0, ARGUMENTS)]
        rows += [(EQUAL, len(FAMILIES) - index, 0, family) for index, family in enumerate(FAMILIES)]
        rows += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    rows += [(EQUAL, 0, 5, _IOCTL), (LOAD, 0, 0, ARGUMENTS + 8), (EQUAL, 1, 0, _TIOCSTI), (EQUAL, 0, 1, _TIOCLINUX),
             (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    confine.install(rows)


#: Python, its modules, the time zone, names of users and hosts.
SYSTEM = ("/usr", "/lib", "/lib64", "/etc", "/opt", "/proc", "/nix/store", "/gnu/store", "/run/systemd/resolve")


def files(reading: Iterable[str], writing: Iterable[str]) -> int:
    """Leave the engine its program, the system's files and these. Returns the version of Landlock, 0 for none."""
    return landlock.restrict({*SYSTEM, *filter(None, sys.path), sys.prefix, sys.base_prefix, *reading},
                             {os.path.abspath(path) for path in writing})
