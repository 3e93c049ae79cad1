"""``evt.arg``: the arguments of calls that our events carry, by Falco's names."""

from __future__ import annotations

from sensor.rules.condition import (
    TRUE,
    Condition,
    Number,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    negate,
)
from sensor.rules.falco import kernel
from sensor.rules.falco.processes import Arguments, FirstArgument, Name
from sensor.rules.falco.views import AtLeast, Cases, Directory, Parts, Plain, Quantity, Split, View

OWN = Name("process.name", "process.script")
LINE = "process.command_line"
PATH = Plain("file.path")


def flag(name: str) -> Condition:
    """A bit of the record, by its name in documents."""
    return Text("sensor.flags", Relation.EQUALS, name, cased=True)


# x & 3 of a decimal number hangs on its last two digits alone, for 4 divides 100.
READ_WRITE = Regex("file.open_flags", "(?:^|[02468])[26]$|[13579][048]$")
_WRITE_ONLY = Regex("file.open_flags", "(?:^|[02468])[159]$|[13579][37]$")
READ_ONLY = Regex("file.open_flags", "(?:^|[02468])[048]$|[13579][26]$")
_OPEN_FLAGS = Parts("evt.arg.flags", (
    ("O_TRUNC", flag("trunc"), flag("trunc")),
    ("O_F_CREATED", flag("created"), flag("created")),
    ("O_CREAT", flag("created"), TRUE),
    ("O_RDWR", READ_WRITE, READ_WRITE),
    ("O_WRONLY", _WRITE_ONLY, _WRITE_ONLY),
    ("O_RDONLY", READ_ONLY, READ_ONLY),
), more=True)
_EXE_FLAGS = Parts("evt.arg.flags", (
    ("EXE_UPPER_LAYER", flag("upper"), flag("upper")),
    ("EXE_FROM_MEMFD", flag("memfd"), flag("memfd")),
), more=True)


def _mode_bits() -> Parts:
    """Permission bits by name. A mode is octal text of at least four digits."""
    found = []
    for name, place, bit in kernel.MODE_BITS:
        digits = "".join(str(digit) for digit in range(8) if digit & bit)
        has = Regex("file.mode", f"[{digits}][0-7]{{{place}}}$")
        found.append((name, has, has))
    return Parts("evt.arg.mode", tuple(found))


_REQUESTS = Cases(tuple((name, Number("process.ptrace.request", Order.EQUAL, number))
                        for name, number in kernel.PTRACE_REQUESTS), "evt.arg.request")
_SYMBOLIC = Number("file.link.symbolic", Order.EQUAL, 1)
_HARD = negate(_SYMBOLIC)
ARGUMENTS: dict[str, dict[str, View]] = {
    "process_exec": {"flags": _EXE_FLAGS, "exe": FirstArgument(LINE, "process.args"), "args": Arguments(LINE),
                     "comm": OWN, "cwd": Directory("process.working_directory"), "pid": Quantity("process.pid"),
                     "filename": Split(Present("process.script"), Plain("process.script"),
                                       Plain("process.executable")),
                     "trusted_exepath": Plain("process.executable_resolved")},
    "process_exit": {"status": Quantity("process.exit_code")},
    "file_open": {"name": PATH, "flags": _OPEN_FLAGS, "ino": Quantity("file.inode")},
    "file_unlink": {"path": PATH, "name": PATH},
    "file_mkdir": {"path": PATH, "mode": _mode_bits()},
    "file_rename": {"oldpath": Plain("file.Ext.original.path"), "newpath": PATH},
    "file_link": {"oldpath": Plain("file.target_path", _HARD), "newpath": Plain("file.path", _HARD),
                  "target": Plain("file.target_path", _SYMBOLIC), "linkpath": Plain("file.path", _SYMBOLIC)},
    "file_chmod": {"filename": PATH, "mode": _mode_bits()},
    "file_chown": {"path": PATH, "pathname": PATH, "uid": Quantity("file.uid"), "gid": Quantity("file.gid")},
    "process_ptrace": {"request": _REQUESTS, "pid": Quantity("process.target.pid")},
    "module_load": {"path": PATH, "fd": AtLeast(0, name="evt.arg.fd")},
    "bpf_load": {"cmd": Cases((("BPF_PROG_LOAD", TRUE),), "evt.arg.cmd")},
    "mount": {"dev": Plain("mount.source"), "dir": PATH, "name": PATH, "type": Plain("mount.type")},
    "memfd_create": {"name": Plain("file.name")},
}
