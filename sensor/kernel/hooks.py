"""Which hook carries which event: one table, read by the loader, the doctor and the docs.

An event has alternatives in order of preference. An alternative is whole: its hooks add up. The
first whose own hooks load and attach is used; what a kernel offers is found out by loading, never
guessed from its version. The settings' ``hooks`` name one alternative of an event, or "off".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sensor.schema import BY_NAME


@dataclass(frozen=True, slots=True)
class Family:
    """What is compiled together. ``mask`` + 1 + ``slack`` is the size of its scratch record in bytes.

    ``parts`` are its texts, in order, after those of all families.
    """

    name: str
    ring: int
    mask: int
    slack: int
    parts: tuple[str, ...]
    optional: bool = False  # off unless the settings ask for it
    part_of: str = ""  # the settings know it by this name

    @property
    def needs_syscalls(self) -> bool:
        """Whether its handlers are reached through syscall.c."""
        return "syscall.h" in self.parts


#: In loading order. A flood of file events must not push out process events: those have ring 0 to themselves.
FAMILIES: tuple[Family, ...] = (
    Family("process", 0, 16383, 8192, ("paths.h", "process.c")),
    Family("syscall", 1, 255, 256, ("syscall.c",)),
    Family("file", 1, 8191, 4096, ("decision.h", "paths.h", "syscall.h", "file.c")),
    Family("path", 1, 16383, 4096, ("decision.h", "paths.h", "syscall.h", "path.c"), part_of="file"),
    Family("network", 1, 1023, 512, ("decision.h", "paths.h", "syscall.h", "sockets.h", "network.c", "datagram.c")),
    Family("privilege", 1, 8191, 4096, ("paths.h", "syscall.h", "privilege.c", "tamper.c")),
    Family("shell", 1, 1023, 1024, ("shell.c",), optional=True),
)
FAMILY = {family.name: family for family in FAMILIES}
RINGS = ("process", "events")


def scratches(cpus: int) -> int:
    """Records that a family may have under construction on one processor. Memory of large hosts counts more."""
    return 2 if cpus <= 64 else 1


@dataclass(frozen=True, slots=True)
class Hook:
    """One program at one place.

    ``kind`` is raw_tracepoint, syscall (a handler behind the sys_exit dispatcher), tail (shared by
    such handlers), fentry, lsm, kprobe, kretprobe or uprobe. ``target`` is the tracepoint, the
    "native/compat" system call numbers (x86_64 / i386; 0 where that table has none), the tail call's
    slot, the kernel function, the LSM hook, or "symbol@binary".
    """

    kind: str
    program: str
    target: str
    extra: bool = False  # adds something; its absence is no failure
    instead_of: str = ""  # of use only where the probes could not use this tracepoint


@dataclass(frozen=True, slots=True)
class Alternative:
    """One whole way to see an event. ``kind`` names it in the settings and in the coverage tables."""

    kind: str
    hooks: tuple[Hook, ...]
    misses: str = ""


def _call(program: str, native: int, compat: int) -> Hook:
    return Hook("syscall", program, f"{native}/{compat}")


def _tail(program: str, slot: int) -> Hook:
    """A program that several handlers share by tail call; slots lie beyond the last system call."""
    return Hook("tail", program, str(slot))


#: kinds of hook that see a decision of the kernel; functions are security_NAME, LSM hooks NAME
DECIDING = ("fentry", "kprobe", "lsm")


def decision(kind: str, name: str, *, function: str = "", extra: bool = False) -> Hook:
    """A program on the security hook *name* (or on *function*), as probes/decision.h's ON_DECISION names it."""
    target = function or (name if kind == "lsm" else f"security_{name}")
    program = {"fentry": f"kfunc__vmlinux__{target}", "lsm": f"lsm__{target}"}.get(kind, f"{kind}_{target}")
    return Hook(kind, program, target, extra=extra)


_LINKS = "io_uring; symbolic links in the middle of an argument stay unresolved; the argument may change meanwhile"


def _named(calls: tuple[Hook, ...], decisions: tuple[str, ...], requests: tuple[str, ...]) -> tuple[Alternative, ...]:
    """Alternatives of a call that changes names: the kernel's own decision, else the caller's argument."""
    calls = (_tail("emit_path", 500), *calls)
    ways = []
    for kind in DECIDING:
        # An LSM hook tells the decision, but has none for what io_uring carries out.
        carrier = "kprobe" if kind == "kprobe" else "fentry"
        ways.append(Alternative(kind, (
            *(decision(kind, name) for name in decisions), *calls,
            *(decision(carrier, "", function=name, extra=True) for name in requests),
            Hook("raw_tracepoint", "on_uring_path", "io_uring_complete", extra=True)),
            "requests of io_uring before 6.0"))
    return (*ways, Alternative("syscall", calls, _LINKS))


def _decided(name: str, misses: str, *more: Hook) -> tuple[Alternative, ...]:
    return tuple(Alternative(kind, (decision(kind, name), *more), misses) for kind in DECIDING)


def _instead(kind: str, function: str) -> Hook:
    """Where io_uring_complete can't say what was completed: the decision, taken while io_uring works."""
    return Hook(kind, f"{kind}_uring_{function}", function, extra=True, instead_of="io_uring_complete")


_SOCKETCALL = "socketcall() of 32-bit programs"
#: Calls that send without a connection: two events take from them what they tell.
_SENDS = (_call("on_sendto", 44, 369), _call("on_sendmsg", 46, 0), _call("on_sendmmsg", 307, 0))
_DESTINATIONS = (_tail("emit_datagram", 503), *_SENDS)

#: bpf(): two events take from it what they tell.
_BPF = _call("on_bpf", 321, 357)

#: event -> alternatives, the preferred one first.
HOOKS: dict[str, tuple[Alternative, ...]] = {
    "process_fork": (Alternative("raw_tracepoint", (Hook("raw_tracepoint", "on_fork", "sched_process_fork"),)),),
    "process_exec": (Alternative("raw_tracepoint", (Hook("raw_tracepoint", "on_exec", "sched_process_exec"),),
                                 "failed execve()"),),
    "process_exit": (Alternative("raw_tracepoint", (Hook("raw_tracepoint", "on_exit", "sched_process_exit"),)),),
    "file_open": (
        Alternative("syscall", (
            _tail("emit_open", 501), _call("on_open", 2, 5), _call("on_openat", 257, 295), _call("on_creat", 85, 8),
            _call("on_openat2", 437, 437), _call("on_openat", 304, 342),
            Hook("raw_tracepoint", "on_uring_open", "io_uring_complete", extra=True),
            _instead("kprobe", "security_file_open")), "truncate()"),
        *_decided("file_open", "whether the open succeeded after the decision"),
    ),
    "file_unlink": _named((_call("on_unlink", 87, 10), _call("on_unlinkat", 263, 301), _call("on_rmdir", 84, 40)),
                          ("path_unlink", "path_rmdir"), ("io_unlinkat",)),
    "file_rename": _named((_call("on_rename", 82, 38), _call("on_renameat", 264, 302), _call("on_renameat", 316, 353)),
                          ("path_rename",), ("io_renameat",)),
    "file_link": _named((_call("on_link", 86, 9), _call("on_linkat", 265, 303), _call("on_symlink", 88, 83),
                         _call("on_symlinkat", 266, 304)),
                        ("path_link", "path_symlink"), ("io_linkat", "io_symlinkat")),
    "file_chmod": _named((_call("on_chmod", 90, 15), _call("on_fchmod", 91, 94), _call("on_fchmodat", 268, 306),
                          _call("on_fchmodat", 452, 452)), ("path_chmod",), ()),
    "file_chown": _named((_call("on_chown", 92, 212), _call("on_chown", 94, 198), _call("on_fchown", 93, 207),
                          _call("on_fchownat", 260, 298), _call("on_chown", 0, 182), _call("on_chown", 0, 16),
                          _call("on_fchown", 0, 95)), ("path_chown",), ()),
    "file_mkdir": _named((_call("on_mkdir", 83, 39), _call("on_mkdirat", 258, 296)), ("path_mkdir",), ("io_mkdirat",)),
    "network_connect": (
        Alternative("syscall", (
            _call("on_connect", 42, 362), Hook("raw_tracepoint", "on_set_state", "inet_sock_set_state"),
            Hook("raw_tracepoint", "on_uring_network", "io_uring_complete", extra=True),
            _instead("kprobe", "security_socket_connect"), *_DESTINATIONS), f"datagrams by io_uring; {_SOCKETCALL}"),
        *_decided("socket_connect", "the outcome: a connect is told when it is allowed to begin; datagrams by io_uring",
                  *_DESTINATIONS),
    ),
    "network_accept": (
        Alternative("syscall", (_call("on_accept", 43, 0), _call("on_accept", 288, 364),
                                _instead("kretprobe", "inet_csk_accept")), _SOCKETCALL),
        Alternative("kretprobe", (Hook("kretprobe", "kretprobe_inet_csk_accept", "inet_csk_accept"),), "UDP has none"),
    ),
    "network_bind": (
        Alternative("syscall", (_call("on_bind", 49, 361),), f"sockets that connect() binds; {_SOCKETCALL}"),
        *_decided("socket_bind", "the port where the kernel chooses it; whether it succeeded"),
    ),
    "network_listen": (
        Alternative("syscall", (_call("on_listen", 50, 363),), _SOCKETCALL),
        *_decided("socket_listen", "whether it succeeded"),
    ),
    "dns_query": (Alternative("syscall", (_tail("emit_dns", 504), *_SENDS),
        "write() on a connected socket; TCP; TLS; io_uring"),),
    "process_ptrace": (Alternative("syscall", (
        _call("on_ptrace", 101, 26), _call("on_process_vm", 310, 347), _call("on_process_vm", 311, 348),
        _call("on_pidfd_getfd", 438, 438)),
        "requests that only read"),),
    "module_load": (Alternative("syscall", (
        _call("on_init_module", 175, 128), _call("on_finit_module", 313, 350), _call("on_init_module", 176, 129))),),
    "bpf_load": (Alternative("syscall", (_tail("emit_bpf_load", 505), _BPF)),),
    "mount": (Alternative("syscall", (
        _tail("emit_mount", 502), _call("on_mount", 165, 21), _call("on_umount", 166, 52),
        _call("on_move_mount", 429, 429), _call("on_pivot_root", 155, 217)), "fsconfig() before move_mount()"),),
    "namespace_change": (Alternative("syscall", (_call("on_namespace", 308, 346), _call("on_namespace", 272, 310))),),
    "memfd_create": (Alternative("syscall", (_call("on_memfd_create", 319, 356),)),),
    "credentials_change": (Alternative("syscall", tuple(_call("on_credentials", native, compat) for native, compat in (
        (105, 213), (106, 214), (113, 203), (114, 204), (117, 208), (119, 210), (116, 206), (122, 215),
        (123, 216), (126, 185)))),),
    "process_signal": (Alternative("raw_tracepoint", (Hook("raw_tracepoint", "on_signal", "signal_generate"),),
                                   "attempts that the kernel refused; the kernel's own signals"),),
    "bpf_access": (Alternative("syscall", (_tail("emit_bpf_access", 506), _BPF), "reads of maps and of facts"),),
    "shell_line": (Alternative("uprobe", (Hook("uprobe", "on_readline", "readline@/bin/bash"),),
                               "shells other than bash"),),
}

#: Calls that change names have a probe file of their own; the settings know them as file events.
_PATH_EVENTS = ("file_unlink", "file_rename", "file_link", "file_chmod", "file_chown", "file_mkdir")


def probe_of(event: str) -> str:
    """Name of the probe file (and :class:`Family`) that emits an event."""
    return "path" if event in _PATH_EVENTS else BY_NAME[event].family


def kinds(event: str) -> tuple[str, ...]:
    """What the settings may ask for, in order of preference."""
    return tuple(alternative.kind for alternative in HOOKS[event])


def candidates(event: str, only: str | None) -> tuple[Alternative, ...]:
    """The alternatives to try, in order: all, none ("off"), or the one that the settings name."""
    return tuple(alternative for alternative in HOOKS[event] if only in (None, alternative.kind))


def likely(family: str, only: Mapping[str, str]) -> frozenset[str]:
    """Kinds of decision hook that a family is compiled with at first: forced ones, preferred ones, the next best."""
    found: set[str] = set()
    for event in HOOKS:
        ways = candidates(event, only.get(event)) if probe_of(event) == family else ()
        first = [way.kind for way in ways[:2]]
        if first and first[0] in DECIDING:
            # An LSM hook has no place for what io_uring carries out: fentry fills in.
            found.update(first, ("fentry",) if "lsm" in first else ())
    return frozenset(found & {*DECIDING})


def deciding(family: str, only: Mapping[str, str]) -> frozenset[str]:
    """All kinds of decision hook that a family could make use of."""
    return frozenset(way.kind for event in HOOKS if probe_of(event) == family
                     for way in candidates(event, only.get(event))) & {*DECIDING}


def families_for(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Probe files for the families that the settings name."""
    chosen = [family.name for family in FAMILIES if (family.part_of or family.name) in settings]
    if any(FAMILY[name].needs_syscalls for name in chosen):
        chosen.append("syscall")
    return tuple(family.name for family in FAMILIES if family.name in chosen)


#: Programs that carry no event of their own.
DISPATCHER = Hook("raw_tracepoint", "on_sys_exit", "sys_exit")
ROUTER = "route"
#: Counts the canary's call: getpgrp, vhangup in the 32-bit table. Cheap, without arguments, and no handler's.
CANARY, CANARY_CALL = "on_canary", 111
SYSCALL_SLOTS = 512


def slots(kind: str, target: str) -> tuple[tuple[str, int], ...]:
    """(program array, slot) of what the dispatcher or a tail call reaches; nothing for other kinds of hook."""
    if kind == "tail":
        return (("native", int(target)),)
    if kind != "syscall":
        return ()
    native, _, compat = target.partition("/")
    return tuple((table, int(number)) for table, number in (("native", native), ("compat", compat)) if int(number))


def syscall_numbers(hook: Hook) -> tuple[int, int]:
    """The 64-bit and the 32-bit number of a syscall hook; 0 where the table has none."""
    native, _, compat = hook.target.partition("/")
    return int(native), int(compat)
