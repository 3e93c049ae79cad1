"""Numbers of the kernel by the names that Falco shows for them."""

from __future__ import annotations

import errno

#: Name -> number, positive.
ERRORS: dict[str, int] = {name: number for number, name in errno.errorcode.items()}

#: (name, octal digits behind the one that holds it, bit of that digit)
MODE_BITS: tuple[tuple[str, int, int], ...] = (
    ("S_ISUID", 3, 4), ("S_ISGID", 3, 2), ("S_ISVTX", 3, 1),
    ("S_IRUSR", 2, 4), ("S_IWUSR", 2, 2), ("S_IXUSR", 2, 1),
    ("S_IRGRP", 1, 4), ("S_IWGRP", 1, 2), ("S_IXGRP", 1, 1),
    ("S_IROTH", 0, 4), ("S_IWOTH", 0, 2), ("S_IXOTH", 0, 1),
)

#: Requests of ptrace() of which there are events: those that attach or write.
PTRACE_REQUESTS: tuple[tuple[str, int], ...] = (
    ("PTRACE_POKETEXT", 4), ("PTRACE_POKEDATA", 5), ("PTRACE_POKEUSR", 6), ("PTRACE_SETREGS", 13),
    ("PTRACE_ATTACH", 16), ("PTRACE_SETREGSET", 0x4205), ("PTRACE_SEIZE", 0x4206),
)

#: Capabilities by number, from 0.
CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
    "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
