"""Falco's event types: which of our events each is, and what of an event tells it from its siblings.

Types without a condition of their own are one event here: an open() is an openat(). Only calls
that Falco names and we see stand here; every other type never arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensor.rules.condition import (
    FALSE,
    TRUE,
    Condition,
    Number,
    Order,
    Relation,
    Text,
    any_of,
    negate,
)
from sensor.rules.falco import patterns
from sensor.rules.falco.bounds import ALWAYS, Bounds, exactly, opposite
from sensor.rules.falco.patterns import BadValue
from sensor.rules.falco.views import View
from sensor.rules.reference import holds
from sensor.schema import BY_NAME, EVENTS, Event


def _operation(*numbers: int) -> Condition:
    return any_of(*(Number("sensor.operation", Order.EQUAL, number) for number in numbers))


_SYMBOLIC = Number("file.link.symbolic", Order.EQUAL, 1)
_DIRECTORY = Text("sensor.flags", Relation.EQUALS, "directory", cased=True)
_PROCESS_VM = tuple(Number("process.ptrace.request", Order.EQUAL, number) for number in (310, 311))

#: Event -> (types, what holds for them). Numbers are those of x86_64's system calls.
TYPES: dict[str, tuple[tuple[tuple[str, ...], Condition], ...]] = {
    "process_fork": ((("clone", "clone3", "fork", "vfork"), TRUE),),
    "process_exec": ((("execve", "execveat"), TRUE),),
    "process_exit": ((("procexit",), TRUE),),
    "file_open": ((("open", "openat", "openat2", "open_by_handle_at", "creat"), TRUE),),
    "file_unlink": ((("unlink",), negate(_DIRECTORY)), (("unlinkat",), TRUE), (("rmdir",), _DIRECTORY)),
    "file_rename": ((("rename", "renameat", "renameat2"), TRUE),),
    "file_link": ((("symlink", "symlinkat"), _SYMBOLIC), (("link", "linkat"), negate(_SYMBOLIC))),
    "file_chmod": ((("chmod", "fchmod", "fchmodat"), TRUE),),
    "file_chown": ((("chown", "lchown", "fchown", "fchownat"), TRUE),),
    "file_mkdir": ((("mkdir", "mkdirat"), TRUE),),
    "network_connect": ((("connect",), TRUE),),
    "network_accept": ((("accept", "accept4"), TRUE),),
    "network_bind": ((("bind",), TRUE),),
    "network_listen": ((("listen",), TRUE),),
    "dns_query": ((("sendto", "sendmsg", "sendmmsg"), TRUE),),
    "process_ptrace": ((("ptrace",), negate(any_of(*_PROCESS_VM))),
                       (("process_vm_readv",), _PROCESS_VM[0]), (("process_vm_writev",), _PROCESS_VM[1])),
    "module_load": ((("init_module",), _operation(175)), (("finit_module",), _operation(313)),
                    (("delete_module",), _operation(176))),
    "bpf_load": ((("bpf",), TRUE),),
    "mount": ((("mount",), _operation(165)), (("umount", "umount2"), _operation(166)),
              (("move_mount",), _operation(429)), (("pivot_root",), _operation(155))),
    "namespace_change": ((("setns",), _operation(308)), (("unshare",), _operation(272))),
    "memfd_create": ((("memfd_create",), TRUE),),
    "credentials_change": (
        (("setuid",), _operation(105)), (("setgid",), _operation(106)), (("setreuid",), _operation(113)),
        (("setregid",), _operation(114)), (("setresuid",), _operation(117)), (("setresgid",), _operation(119)),
        (("setfsuid",), _operation(122)), (("setfsgid",), _operation(123)), (("capset",), _operation(126))),
}

#: Our events that Falco's rules can see, in the order of the event table.
CARRIED: tuple[Event, ...] = tuple(event for event in EVENTS if event.name in TYPES)

KNOWN_TYPES = frozenset(name for groups in TYPES.values() for names, _ in groups for name in names)


@dataclass(frozen=True, slots=True)
class Type(View):
    """``evt.type`` of one of our events. Types that one event can't tell apart are equal."""

    event: str

    def present(self) -> Bounds:
        return ALWAYS

    def one(self, operator: str, value: str, *, folded: bool) -> Bounds:
        if operator in ("<", "<=", ">", ">="):
            raise BadValue(f"{operator} compares numbers, and evt.type is text")
        test = patterns.text("t", operator, value, folded=folded)
        return exactly(any_of(*(condition for names, condition in TYPES[self.event]
                                if any(holds(test, {"t": name}) for name in names))))

    def differs(self, value: str, *, folded: bool) -> Bounds:
        return opposite(self.one("=", value, folded=folded))


def of_action(action: str) -> Event:
    """The event whose ``event.action`` this is."""
    return BY_NAME[action.replace("-", "_")]


def falco_name(event: Event) -> str:
    """What to call an event in Falco's words: its first type."""
    return TYPES[event.name][0][0][0]


NOWHERE = FALSE
