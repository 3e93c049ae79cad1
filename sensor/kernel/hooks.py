"""Which hook carries which event: one table, read by the loader, the doctor and the docs.

Hooks of an event are in order of preference; the first that loads and attaches is used. What
a kernel offers is found out by loading, never guessed from its version.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensor.schema import BY_NAME


@dataclass(frozen=True, slots=True)
class Family:
    """One probe file. ``mask`` + 1 + ``slack`` is the size of its scratch record in bytes."""

    name: str
    ring: int
    mask: int
    slack: int
    needs_syscalls: bool = False  # its handlers are reached through syscall.c
    optional: bool = False  # off unless the settings ask for it
    part_of: str = ""  # the settings know it by this name


#: In loading order. A flood of file events must not push out process events: those have ring 0 to themselves.
FAMILIES: tuple[Family, ...] = (
    Family("process", 0, 16383, 8192),
    Family("syscall", 1, 255, 256),
    Family("file", 1, 8191, 4096, needs_syscalls=True),
    Family("path", 1, 16383, 4096, needs_syscalls=True, part_of="file"),
    Family("network", 1, 1023, 512, needs_syscalls=True),
    Family("privilege", 1, 8191, 4096, needs_syscalls=True),
    Family("shell", 1, 1023, 1024, optional=True),
)
FAMILY = {family.name: family for family in FAMILIES}
RINGS = ("process", "events")


@dataclass(frozen=True, slots=True)
class Hook:
    """One way to get an event.

    ``kind`` is raw_tracepoint, syscall (a handler behind the sys_exit dispatcher), tail (shared by
    such handlers), kprobe or uprobe. ``target`` is the tracepoint, the "native/compat" system call
    numbers (x86_64 / i386; 0 where that table has none), the tail call's slot, the kernel function,
    or "symbol@binary".
    """

    kind: str
    program: str
    target: str
    misses: str = ""
    upgrade: bool = False  # makes another hook's record truer; its absence is no failure


def _call(program: str, native: int, compat: int, misses: str = "") -> Hook:
    return Hook("syscall", program, f"{native}/{compat}", misses)


def _tail(program: str, slot: int) -> Hook:
    """A program that several handlers share by tail call; slots lie beyond the last system call."""
    return Hook("tail", program, str(slot))


def _decision(function: str) -> Hook:
    """What the kernel resolved the caller's argument to, noted for the system call's handler."""
    return Hook("kprobe", f"kprobe_{function}", f"security_{function}", upgrade=True)


_ARGUMENT = "io_uring; without the kprobe, symbolic links in the middle of the argument stay unresolved"

#: event -> hooks. Events of one family are loaded together; several hooks of one kind add up.
HOOKS: dict[str, tuple[Hook, ...]] = {
    "process_fork": (Hook("raw_tracepoint", "on_fork", "sched_process_fork"),),
    "process_exec": (Hook("raw_tracepoint", "on_exec", "sched_process_exec", "failed execve()"),),
    "process_exit": (Hook("raw_tracepoint", "on_exit", "sched_process_exit"),),
    "file_open": (_tail("emit_open", 501), _call("on_open", 2, 5), _call("on_openat", 257, 295),
                  _call("on_creat", 85, 8),
                  _call("on_openat2", 437, 437), _call("on_openat", 304, 342),
                  Hook("raw_tracepoint", "on_uring_open", "io_uring_complete", "direct descriptors")),
    "file_unlink": (_tail("emit_path", 500), _call("on_unlink", 87, 10, _ARGUMENT), _call("on_unlinkat", 263, 301),
                    _call("on_rmdir", 84, 40), _decision("path_unlink"), _decision("path_rmdir")),
    "file_rename": (_call("on_rename", 82, 38, _ARGUMENT), _call("on_renameat", 264, 302),
                    _call("on_renameat", 316, 353), _decision("path_rename")),
    "file_link": (_call("on_link", 86, 9, _ARGUMENT), _call("on_linkat", 265, 303), _call("on_symlink", 88, 83),
                  _call("on_symlinkat", 266, 304), _decision("path_link"), _decision("path_symlink")),
    "file_chmod": (_call("on_chmod", 90, 15, _ARGUMENT), _call("on_fchmod", 91, 94),
                   _call("on_fchmodat", 268, 306), _call("on_fchmodat", 452, 452), _decision("path_chmod")),
    "file_chown": (_call("on_chown", 92, 212, _ARGUMENT), _call("on_chown", 94, 198), _call("on_fchown", 93, 207),
                   _call("on_fchownat", 260, 298), _call("on_chown", 0, 182), _call("on_chown", 0, 16),
                   _call("on_fchown", 0, 95), _decision("path_chown")),
    "file_mkdir": (_call("on_mkdir", 83, 39, _ARGUMENT), _call("on_mkdirat", 258, 296), _decision("path_mkdir")),
    "network_connect": (_call("on_connect", 42, 362, "socketcall() of 32-bit programs"),
                        Hook("raw_tracepoint", "on_set_state", "inet_sock_set_state"),
                        Hook("raw_tracepoint", "on_uring_network", "io_uring_complete")),
    "network_accept": (_call("on_accept", 43, 0, "socketcall()"), _call("on_accept", 288, 364)),
    "network_bind": (_call("on_bind", 49, 361, "sockets that connect() binds; socketcall()"),),
    "network_listen": (_call("on_listen", 50, 363, "socketcall()"),),
    "dns_query": (_call("on_sendto", 44, 369, "write() on a connected socket; TCP; TLS; io_uring"),
                  _call("on_sendmsg", 46, 0), _call("on_sendmmsg", 307, 0)),
    "process_ptrace": (_call("on_ptrace", 101, 26, "requests that only read"), _call("on_process_vm", 310, 347),
                       _call("on_process_vm", 311, 348)),
    "module_load": (_call("on_init_module", 175, 128), _call("on_finit_module", 313, 350),
                    _call("on_init_module", 176, 129)),
    "bpf_load": (_call("on_bpf", 321, 357),),
    "mount": (_tail("emit_mount", 502), _call("on_mount", 165, 21, "fsconfig() before move_mount()"),
              _call("on_umount", 166, 52),
              _call("on_move_mount", 429, 429), _call("on_pivot_root", 155, 217)),
    "namespace_change": (_call("on_namespace", 308, 346), _call("on_namespace", 272, 310)),
    "memfd_create": (_call("on_memfd_create", 319, 356),),
    "credentials_change": tuple(_call("on_credentials", native, compat) for native, compat in (
        (105, 213), (106, 214), (113, 203), (114, 204), (117, 208), (119, 210), (116, 206), (122, 215),
        (123, 216), (126, 185))),
    "shell_line": (Hook("uprobe", "on_readline", "readline@/bin/bash", "shells other than bash"),),
}

#: Calls that change names have a probe file of their own; the settings know them as file events.
_PATH_EVENTS = ("file_unlink", "file_rename", "file_link", "file_chmod", "file_chown", "file_mkdir")


def probe_of(event: str) -> str:
    """Name of the probe file (and :class:`Family`) that emits an event."""
    return "path" if event in _PATH_EVENTS else BY_NAME[event].family


def chosen(event: str, only: str | None) -> tuple[Hook, ...]:
    """The hooks of an event to load: all, none ("off"), or those of one kind with what they share."""
    if only is None:
        return HOOKS[event]
    return tuple(hook for hook in HOOKS[event] if only != "off" and hook.kind in (only, "tail"))


def families_for(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Probe files for the families that the settings name."""
    chosen = [family.name for family in FAMILIES if (family.part_of or family.name) in settings]
    if any(FAMILY[name].needs_syscalls for name in chosen):
        chosen.append("syscall")
    return tuple(family.name for family in FAMILIES if family.name in chosen)


#: Programs that carry no event of their own.
DISPATCHER = Hook("raw_tracepoint", "on_sys_exit", "sys_exit", "what never returns from a system call")
ROUTER = "route"
SYSCALL_SLOTS = 512


def syscall_numbers(hook: Hook) -> tuple[int, int]:
    """The 64-bit and the 32-bit number of a syscall hook; 0 where the table has none."""
    native, _, compat = hook.target.partition("/")
    return int(native), int(compat)
