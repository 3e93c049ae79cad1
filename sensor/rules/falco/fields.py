"""Falco's fields: what each is in the documents of each event.

``view(field, event)`` is the one entrance. ``ROWS`` holds the fields that are carried, with
what the documentation prints; vocabulary.py those that Falco knows and our events don't carry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from sensor.derived import DIRECTIONS
from sensor.process.fragment import ANCESTORS_MAX
from sensor.rules.condition import (
    FALSE,
    TRUE,
    Bits,
    Condition,
    Number,
    Order,
    Present,
    Relation,
    Text,
    any_of,
    negate,
)
from sensor.rules.falco import kernel
from sensor.rules.falco.arguments import ARGUMENTS, LINE, OWN, PATH, READ_ONLY, READ_WRITE, flag
from sensor.rules.falco.events import Type
from sensor.rules.falco.processes import (
    Arguments,
    CommandLine,
    Duration,
    FirstArgument,
    Known,
    Name,
    Several,
    Tail,
)
from sensor.rules.falco.syntax import Field
from sensor.rules.falco.views import (
    ABSENT,
    Addresses,
    AtLeast,
    Cases,
    ContainerId,
    Directory,
    Lacking,
    Numbers,
    Parts,
    Plain,
    Quantity,
    Split,
    Truth,
    View,
)
from sensor.rules.falco.vocabulary import LACKING, OPTIONAL
from sensor.schema import Event

_Make = Callable[[Event, "str | None"], "View | None"]


@dataclass(frozen=True, slots=True)
class Row:
    """A field that is carried: how it is seen (None: not in that event), and what to tell about it."""

    names: tuple[str, ...]
    where: str
    make: _Make


class UnknownField(ValueError):
    """Falco has no such field, or not with such an argument."""


_RESULT = "event.result"
_FLAGS = "sensor.flags"
_CAPABILITIES = "process.thread.capabilities.effective"
_PARENT = Name("process.parent.name", "process.parent.script")
_UP = "process.ancestor_names"
_PARENT_LINE = "process.parent.command_line"
_SUCCESSES = frozenset({"process_fork", "process_exec", "process_exit", "file_open", "file_unlink", "file_rename",
                        "file_link", "file_chmod", "file_chown", "file_mkdir", "credentials_change"})
#: Path events: keys of the path, and of source and target where there are two.
_ONE_PATH = frozenset({"file_unlink", "file_mkdir", "file_chmod", "file_chown"})
_CLIENTS = frozenset(DIRECTIONS)  # events with two ends
_SERVERS = frozenset({"network_bind", "network_listen"})


def _always(view: View) -> _Make:
    return lambda _event, _argument: view


def _on(views: dict[str, View]) -> _Make:
    return lambda event, _argument: views.get(event.name)


def _or_absent(views: dict[str, View]) -> _Make:
    return lambda event, _argument: views.get(event.name, ABSENT)


def _result(event: Event) -> bool:
    return any(item.ecs == _RESULT for item in event.fields)


# Events -----------------------------------------------------------------------------------------------


def _outcome(event: Event, argument: str | None) -> View:
    if not _result(event):
        return Cases((("SUCCESS", TRUE),))
    errors = ((name, Number(_RESULT, Order.EQUAL, -number)) for name, number in sorted(kernel.ERRORS.items()))
    return Cases((("SUCCESS", Number(_RESULT, Order.GREATER_EQUAL, 0)), *errors))


def _raw_outcome(event: Event, argument: str | None) -> View:
    if _result(event):
        return Quantity(_RESULT)
    return AtLeast(0, exact=event.name != "file_open", name="evt.rawres of an open")


def _failed(event: Event, argument: str | None) -> View:
    return Truth(Number(_RESULT, Order.LESS, 0) if _result(event) else FALSE)


def _argument(event: Event, argument: str | None) -> View | None:
    if argument in ("res", "fd") and (argument == "res" or event.name == "file_open"):
        return _outcome(event, None) if argument == "res" else AtLeast(0, name="evt.arg.fd")
    return ARGUMENTS.get(event.name, {}).get(argument or "")


# Processes --------------------------------------------------------------------------------------------


def _ancestor(event: Event, argument: str | None) -> View | None:
    if argument is None:
        return Several(_UP)
    if not argument.isdecimal() or not argument.isascii() or len(argument) > 3:
        raise UnknownField("the argument of proc.aname is a number")
    level = int(argument)
    if level > ANCESTORS_MAX:
        return None
    return Known(f"{_UP}.{level - 1}") if level > 1 else _PARENT if level else OWN


def _capabilities(event: Event, argument: str | None) -> View:
    parts = []
    for bit, name in enumerate(kernel.CAPABILITIES):
        has: Condition = Bits(_CAPABILITIES, 1 << bit)
        if name == "CAP_SYS_MODULE" and event.name == "module_load":
            has = any_of(has, Number(_RESULT, Order.GREATER_EQUAL, 0))  # the kernel has asked for it
        parts.append((name, has, has))
    return Parts("thread.cap_effective", tuple(parts))


def _terminal(event: Event, argument: str | None) -> View:
    return Split(Present("process.tty.name"), AtLeast(1, name="proc.tty other than 0"), AtLeast(0, exact=True))


_UNSET = 0xFFFFFFFF


def _login(event: Event, argument: str | None) -> View:
    key = "process.login_user.id"
    return Split(Number(key, Order.EQUAL, _UNSET), AtLeast(-1, exact=True), Quantity(key))


# Files and sockets ------------------------------------------------------------------------------------

_DIRECTORY = Text("file.mode", Relation.PREFIX, "40", cased=True)
_IPV4, _IPV6 = (Text("network.type", Relation.EQUALS, name, cased=True) for name in ("ipv4", "ipv6"))


def _kind(file: str, directory: str, ipv4: str, ipv6: str) -> _Make:
    files = Cases(((directory, _DIRECTORY), (file, negate(_DIRECTORY))))
    sockets = Cases(((ipv4, _IPV4), (ipv6, _IPV6)))
    views: dict[str, View] = {"file_open": files, **dict.fromkeys(_CLIENTS | _SERVERS, sockets)}
    return lambda event, _argument: views.get(event.name) or _no_descriptor(event, None)


def _no_descriptor(event: Event, argument: str | None) -> View | None:
    """Calls on descriptors and on paths are one event for us, so that nobody knows whether there was one."""
    return None if event.name in ("file_chmod", "file_chown", "memfd_create", "module_load") else ABSENT


def _file(view: View) -> _Make:
    return lambda event, _argument: (
        view if event.name == "file_open" else
        None if event.name in _CLIENTS | _SERVERS else _no_descriptor(event, None))


def _number(event: Event, argument: str | None) -> View | None:
    if event.name == "file_open" or event.name in _CLIENTS | _SERVERS:
        return AtLeast(0, name="fd.num")
    return _no_descriptor(event, None)


def _ends(what: str, side: str, kind: type[View] = Addresses, *, network: bool = False) -> _Make:
    """Addresses or ports: of the client or server, of this or the other end, or of both."""
    def key(name: str) -> str:
        return f"{name}.{what}"

    def make(event: Event, argument: str | None) -> View | None:
        if event.name in _SERVERS:  # a server's socket has one end
            keys: tuple[str, ...] = (key("source"),) if side in ("server", "local", "any") else ()
        elif event.name in _CLIENTS:
            out = DIRECTIONS[event.name] == "egress"
            ends = {"client": "source", "server": "destination", "local": "source" if out else "destination",
                    "remote": "destination" if out else "source"}
            keys = (key("source"), key("destination")) if side == "any" else (key(ends[side]),)
        else:
            return _no_descriptor(event, None)
        if not keys:
            return ABSENT
        if what == "port":
            return Numbers(keys)
        return Addresses(keys, network=network)

    return make


def _sockets(view: View) -> _Make:
    return lambda event, _argument: (
        view if event.name in _CLIENTS | _SERVERS else
        ABSENT if event.name == "file_open" else _no_descriptor(event, None))


def _on_exec(name: str) -> _Make:
    return lambda event, _argument: Truth(flag(name)) if event.name == "process_exec" else None


_PATHS: dict[str, View] = dict.fromkeys((*_ONE_PATH, "file_open"), PATH)
_SOURCES: dict[str, View] = {"file_rename": Plain("file.Ext.original.path"), "file_link": PATH,
                             "mount": Plain("mount.source")}
_TARGETS: dict[str, View] = {"file_rename": PATH, "file_link": Plain("file.target_path"), "mount": PATH}

ROWS: tuple[Row, ...] = (
    Row(("evt.type", "syscall.type"), "the event, see below", lambda event, _argument: Type(event.name)),
    Row(("evt.dir",), "always `<`", _always(Cases((("<", TRUE),)))),
    Row(("evt.source",), "always `syscall`", _always(Cases((("syscall", TRUE),)))),
    Row(("evt.num",), "not known, but at least 1", _always(AtLeast(1, name="evt.num"))),
    Row(("evt.res",), "`event.result`; SUCCESS where only success makes an event", _outcome),
    Row(("evt.rawres",), "`event.result`; at least 0 where only success makes an event", _raw_outcome),
    Row(("evt.failed",), "`event.result` below 0", _failed),
    Row(("evt.is_open_write",), "`sensor.flags` has write",
        _or_absent({"file_open": Truth(flag("write"))})),
    Row(("evt.is_open_read",), "access mode in `file.open_flags`",
        _or_absent({"file_open": Truth(any_of(READ_ONLY, READ_WRITE))})),
    Row(("evt.is_open_create",), "`sensor.flags` has created",
        _or_absent({"file_open": Truth(flag("created"))})),
    Row(("evt.arg", "evt.rawarg"), "arguments by name that an event carries, see below", _argument),
    Row(("proc.name", "proc.comm", "thread.name"), "`process.script`, else `process.name`; 15 bytes", _always(OWN)),
    Row(("proc.exe",), "first of `process.args`", _always(FirstArgument(LINE, "process.args"))),
    Row(("proc.exepath",), "`process.executable_resolved`", _always(Plain("process.executable_resolved"))),
    Row(("proc.args",), "`process.args` without the first", _always(Arguments(LINE))),
    Row(("proc.cmdline",), "proc.name and proc.args", _always(CommandLine(OWN, LINE))),
    Row(("proc.exeline",), "`process.command_line`", _always(Plain(LINE))),
    Row(("proc.cwd",), "`process.working_directory` with a slash at its end",
        _always(Directory("process.working_directory"))),
    Row(("proc.pid",), "`process.pid`", _always(Quantity("process.pid"))),
    Row(("proc.ppid",), "`process.parent.pid`", _always(Quantity("process.parent.pid"))),
    Row(("proc.vpid",), "`process.namespace.pid_in`", _always(Quantity("process.namespace.pid_in"))),
    Row(("proc.sid",), "`process.session_leader.pid`", _always(Quantity("process.session_leader.pid"))),
    Row(("proc.sname",), "name of `process.session_leader.executable`",
        _always(Tail("process.session_leader.executable", cut=True))),
    Row(("proc.sid.exepath",), "`process.session_leader.executable`",
        _always(Plain("process.session_leader.executable"))),
    Row(("proc.tty",), "0 without `process.tty.name`; other numbers are not known", _terminal),
    Row(("proc.pname",), "`process.parent.name`; 15 bytes", _always(_PARENT)),
    Row(("proc.pcmdline",), "name and arguments of the parent", _always(CommandLine(_PARENT, _PARENT_LINE))),
    Row(("proc.pexe",), "beginning of `process.parent.command_line`", _always(FirstArgument(_PARENT_LINE))),
    Row(("proc.pexepath",), "`process.parent.executable`, symbolic links kept",
        _always(Plain("process.parent.executable"))),
    Row(("proc.aname",), "`process.ancestor_names`, by place up to [16]; [0] and [1] are process and parent",
        _ancestor),
    Row(("proc.duration",), "`@timestamp` - `process.start`", _always(Duration("@timestamp", "process.start"))),
    Row(("proc.ppid.duration",), "`@timestamp` - `process.parent.start`",
        _always(Duration("@timestamp", "process.parent.start"))),
    Row(("proc.is_exe_upper_layer",), "`sensor.flags` of an execve has upper", _on_exec("upper")),
    Row(("proc.is_exe_from_memfd",), "`sensor.flags` of an execve has memfd", _on_exec("memfd")),
    Row(("proc.exe_ino",), "`process.executable_inode`", _always(Quantity("process.executable_inode"))),
    Row(("thread.tid",), "`process.thread.id`", _always(Quantity("process.thread.id"))),
    Row(("thread.cap_effective",), "names of the bits of `process.thread.capabilities.effective`", _capabilities),
    Row(("user.uid",), "`user.effective.id`", _always(Quantity("user.effective.id"))),
    Row(("user.name",), "`user.name`: the host's name for it", _always(Plain("user.name"))),
    Row(("user.loginuid",), "`process.login_user.id`; -1 where unset", _login),
    Row(("group.gid",), "`user.effective.group.id`", _always(Quantity("user.effective.group.id"))),
    Row(("fd.name",), "`file.path` of opens", _file(PATH)),
    Row(("fd.directory",), "`file.directory` of opens", _file(Plain("file.directory"))),
    Row(("fd.filename",), "`file.name` of opens", _file(Plain("file.name"))),
    Row(("fd.ino",), "`file.inode` of opens", _file(Quantity("file.inode"))),
    Row(("fd.num",), "at least 0", _number),
    Row(("fd.type",), "file, directory; ipv4, ipv6", _kind("file", "directory", "ipv4", "ipv6")),
    Row(("fd.typechar",), "f, d; 4, 6", _kind("f", "d", "4", "6")),
    Row(("fd.is_upper_layer",), "`sensor.flags` of an open has upper",
        lambda event, _argument: Truth(flag("upper")) if event.name == "file_open" else ABSENT),
    Row(("fd.sip",), "server's address", _ends("ip", "server")),
    Row(("fd.cip",), "client's address", _ends("ip", "client")),
    Row(("fd.lip",), "own address", _ends("ip", "local")),
    Row(("fd.rip",), "peer's address", _ends("ip", "remote")),
    Row(("fd.ip",), "either address", _ends("ip", "any")),
    Row(("fd.snet", "fd.cnet", "fd.lnet", "fd.rnet", "fd.net"), "the same addresses, against networks",
        _always(ABSENT)),
    Row(("fd.sport",), "server's port", _ends("port", "server")),
    Row(("fd.cport",), "client's port", _ends("port", "client")),
    Row(("fd.lport",), "own port", _ends("port", "local")),
    Row(("fd.rport",), "peer's port", _ends("port", "remote")),
    Row(("fd.port",), "either port", _ends("port", "any")),
    Row(("fd.l4proto",), "`network.transport`", _sockets(Plain("network.transport"))),
    Row(("fd.sockfamily",), "always `ip` on sockets", _sockets(Cases((("ip", any_of(_IPV4, _IPV6)),)))),
    Row(("fs.path.name",), "`file.path` of opens, deletions, modes, owners, directories", _or_absent(_PATHS)),
    Row(("fs.path.source",), "old name of renames, new one of links, device of mounts", _or_absent(_SOURCES)),
    Row(("fs.path.target",), "new name of renames, old one of links, place of mounts", _or_absent(_TARGETS)),
    Row(("container.id",), "first 12 digits of `container.id`; `host` without", _always(ContainerId("container.id"))),
    Row(("container.full_id",), "`container.id`", _always(Plain("container.id"))),
    Row(("container.type",), "`container.runtime`; `host` without", _always(
        Split(Present("container.id"), Plain("container.runtime"), Cases((("host", TRUE),))))),
)

_NETWORKS = {f"fd.{letter}net": side for letter, side in
             (("s", "server"), ("c", "client"), ("l", "local"), ("r", "remote"), ("", "any"))}

_VIEWS: dict[View, View] = {}
_BY_NAME = {name: row for row in ROWS for name in row.names}
_WITH_ARGUMENT = ("evt.arg", "evt.rawarg", "proc.aname")


def view(field: Field, event: Event) -> View:
    """How a field looks in the documents of an event. Raises UnknownField."""
    found = _view(*_split_argument(field), event)
    for name in field.transformers:
        if name == "basename":
            found = found.tail() or Lacking(str(field))
        elif name not in ("tolower", "toupper"):
            found = Lacking(str(field))
    return found


@lru_cache(4096)
def _view(name: str, argument: str | None, event: Event) -> View:
    row = _BY_NAME.get(name)
    if row is None:
        if name.startswith(OPTIONAL):
            return Lacking(name, optional=True)
        if name in LACKING:
            return Lacking(name)
        raise UnknownField(f"Falco has no field {name}{_suggestion(name)}")
    if argument is not None and name not in _WITH_ARGUMENT:
        raise UnknownField(f"{name} takes no argument")
    if name in _NETWORKS:
        found = _ends("ip", _NETWORKS[name], network=True)(event, None)
    else:
        found = row.make(event, argument)
    shown = name if argument is None else f"{name}.{argument}" if name.startswith("evt.") else f"{name}[{argument}]"
    if found is None:
        found = Lacking(shown)
    # Equal views are one, so that what a list compares to in one event is known in the others.
    return _VIEWS.setdefault(found, found) if len(_VIEWS) < 4096 else found


def arguments(event: str) -> tuple[str, ...]:
    """Names of an event's arguments that can be asked for."""
    return tuple(sorted(ARGUMENTS.get(event, {})))


def _split_argument(field: Field) -> tuple[str, str | None]:
    """``evt.arg.x`` is ``evt.arg[x]``."""
    for name in ("evt.arg", "evt.rawarg"):
        if field.name.startswith(name + "."):
            return name, field.name[len(name) + 1:]
        if field.name == name and field.argument is None:
            raise UnknownField(f"{name} needs an argument, as in {name}.flags")
    return field.name, field.argument


def _suggestion(name: str) -> str:
    close = get_close_matches(name, (*_BY_NAME, *LACKING), n=1, cutoff=0.75)
    return f" (did you mean {close[0]}?)" if close else ""
