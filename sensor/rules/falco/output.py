"""Message templates: ``%field`` and ``%field[argument]`` -> a sentence about one event, bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sensor.rules.eventtime import time_ns
from sensor.rules.falco.patterns import BadValue
from sensor.rules.values import find, scalars, text_of

MAX_TEMPLATE = 8_192  # characters; the longest public one has 900
MAX_VALUE = 512  # characters of one field: a command line may have megabytes
MAX_MESSAGE = 4_096  # characters of a whole message
NOTHING = "<NA>"

_TOKEN = re.compile(r"%%|%(\*?)([a-z][a-z0-9_]*(?:\.[a-zA-Z0-9_]+)+)(?:\[([^\]\[]{0,64})\])?", re.ASCII)
_TRANSFORMED = re.compile(r"%(?:tolower|toupper|b64|basename|len|storage)\(([^()]{1,128})\)", re.ASCII)

#: Fields that are one key of documents.
_KEYS: dict[str, str] = {
    "evt.time": "@timestamp", "evt.time.iso8601": "@timestamp", "evt.datetime": "@timestamp", "evt.num":
    "event.sequence", "evt.cpu": "sensor.cpu", "evt.hostname": "host.name", "evt.rawres": "event.result",
    "proc.exepath": "process.executable_resolved", "proc.exeline": "process.command_line",
    "proc.cwd": "process.working_directory", "proc.pid": "process.pid", "proc.ppid": "process.parent.pid",
    "proc.vpid": "process.namespace.pid_in", "proc.sid": "process.session_leader.pid",
    "proc.tty": "process.tty.name", "proc.pexepath": "process.parent.executable",
    "proc.exe_ino": "process.executable_inode", "thread.tid": "process.thread.id",
    "thread.cap_effective": "process.thread.capabilities.effective", "user.uid": "user.effective.id",
    "user.name": "user.name", "group.gid": "user.effective.group.id",
    "fd.directory": "file.directory", "fd.filename": "file.name", "fd.ino": "file.inode",
    "fd.sip": "destination.ip", "fd.cip": "source.ip", "fd.sport": "destination.port", "fd.cport": "source.port",
    "fd.l4proto": "network.transport", "fs.path.name": "file.path", "container.full_id": "container.id",
    "evt.arg.target": "file.target_path", "evt.arg.linkpath": "file.path", "evt.arg.newpath": "file.path",
    "evt.arg.path": "file.path", "evt.arg.name": "file.path", "evt.arg.filename": "file.path",
    "evt.arg.flags": "file.open_flags", "evt.arg.mode": "file.mode", "evt.arg.request": "process.ptrace.request",
    "evt.arg.dev": "mount.source", "evt.arg.dir": "file.path", "evt.arg.res": "event.result",
}


def check(template: str) -> None:
    """Raise BadValue for a template that is too long."""
    if len(template) > MAX_TEMPLATE:
        raise BadValue(f"output longer than {MAX_TEMPLATE} characters")


def render(template: str, document: Mapping[str, Any]) -> str:
    """The message of one event. A field without a value is ``<NA>``, control characters are gone."""
    parts, size = [], 0
    for literal, name, argument in _parsed(template):
        text = literal if not name else _clean(_value(name, argument, document))
        size += len(text)
        parts.append(text)
        if size > MAX_MESSAGE:
            break
    message = "".join(parts)
    return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE - 1] + "…"


@lru_cache(2_048)
def _parsed(template: str) -> tuple[tuple[str, str, str], ...]:
    """(text, "", "") and ("", field, argument) in their order."""
    template = _TRANSFORMED.sub(r"%\1", template[:MAX_TEMPLATE])
    parts, at = [], 0
    for found in _TOKEN.finditer(template):
        if found.start() > at:
            parts.append((template[at:found.start()], "", ""))
        parts.append(("%", "", "") if found[0] == "%%" else ("", found[2], found[3] or ""))
        at = found.end()
    if at < len(template):
        parts.append((template[at:], "", ""))
    return tuple(parts)


def _clean(value: object) -> str:
    texts = [text_of(each) for each in scalars(value)]
    text = " ".join(texts) if texts else NOTHING
    if len(text) > MAX_VALUE:
        text = text[:MAX_VALUE - 1] + "…"
    return "".join(char if char.isprintable() else "?" for char in text)


def _value(name: str, argument: str, document: Mapping[str, Any]) -> object:
    """What a field shows for an event; None where it has no value."""
    if name in _KEYS:
        return find(document, _KEYS[name])
    made = _MADE.get(name)
    return made(document, argument) if made is not None else None


def _name(document: Mapping[str, Any], argument: str = "") -> object:
    return _task(document, "process")


def _task(document: Mapping[str, Any], process: str) -> object:
    """The kernel's name of a task, of a script its own."""
    script = find(document, f"{process}.script")
    name = script.rpartition("/")[2] if isinstance(script, str) else find(document, f"{process}.name")
    if not isinstance(name, str):
        return None
    return name[:15]


def _parent(document: Mapping[str, Any], argument: str = "") -> object:
    return _task(document, "process.parent")


def _ancestor(document: Mapping[str, Any], argument: str) -> object:
    chain = find(document, "process.ancestor_names")
    if not isinstance(chain, list):
        return None
    names = [name if isinstance(name, str) else "" for name in chain]
    if not argument:
        return "->".join(reversed(names)) or None
    level = int(argument) if argument.isdecimal() and len(argument) < 4 else 0
    if level == 0:
        return _name(document)
    return (names[level - 1] or None) if level <= len(names) else None


def _rest(line: object) -> str:
    return line.partition(" ")[2] if isinstance(line, str) else ""


def _line(name: object, line: object) -> object:
    rest = _rest(line)
    return f"{name} {rest}" if rest and name is not None else name


def _first(line: object) -> object:
    return line.partition(" ")[0] if isinstance(line, str) else None


def _descriptor(document: Mapping[str, Any], argument: str) -> object:
    """Path of a file, or both ends of a connection."""
    path = find(document, "file.path")
    if path is not None:
        return path
    ends = [(find(document, f"{side}.ip"), find(document, f"{side}.port")) for side in ("source", "destination")]
    shown = [f"{ip}:{port}" for ip, port in ends if ip is not None]
    return "->".join(shown) or None


def _end(own: bool, what: str) -> Any:
    def end(document: Mapping[str, Any], argument: str) -> object:
        out = find(document, "network.direction") != "ingress"
        return find(document, f"{'source' if own is out else 'destination'}.{what}")

    return end


def _type(document: Mapping[str, Any], argument: str) -> object:
    from sensor.rules.falco import events

    action = find(document, "event.action")
    name = action.replace("-", "_") if isinstance(action, str) else ""
    return events.TYPES[name][0][0][0] if name in events.TYPES else None


def _outcome(document: Mapping[str, Any], argument: str) -> object:
    from sensor.rules.falco.kernel import ERRORS

    result = find(document, "event.result")
    if not isinstance(result, int) or result >= 0:
        return "SUCCESS"
    return next((name for name, number in ERRORS.items() if number == -result), str(result))


def _login(document: Mapping[str, Any], argument: str) -> object:
    number = find(document, "process.login_user.id")
    return -1 if number == 0xFFFFFFFF else number


def _session(document: Mapping[str, Any], argument: str) -> object:
    path = find(document, "process.session_leader.executable")
    return path.rpartition("/")[2][:15] if isinstance(path, str) else None


def _duration(document: Mapping[str, Any], start: str) -> object:
    until, since = (time_ns(find(document, key)) for key in ("@timestamp", start))
    return None if until is None or since is None else until - since


def _container(document: Mapping[str, Any], argument: str) -> object:
    name = find(document, "container.id")
    return name[:12] if isinstance(name, str) else "host"


def _old_path(document: Mapping[str, Any], argument: str) -> object:
    return find(document, "file.target_path") or find(document, "file.Ext.original.path")


_MADE: dict[str, Any] = {
    "proc.name": _name, "proc.pname": _parent, "proc.aname": _ancestor, "fd.name": _descriptor,
    "proc.cmdline": lambda document, _: _line(_name(document), find(document, "process.command_line")),
    "proc.pcmdline": lambda document, _: _line(_parent(document), find(document, "process.parent.command_line")),
    "proc.args": lambda document, _: _rest(find(document, "process.command_line")) or None,
    "proc.exe": lambda document, _: _first(find(document, "process.command_line")),
    "proc.pexe": lambda document, _: _first(find(document, "process.parent.command_line")),
    "fd.lip": _end(True, "ip"), "fd.lport": _end(True, "port"),
    "fd.rip": _end(False, "ip"), "fd.rport": _end(False, "port"),
    "fd.type": lambda document, _: find(document, "network.type") or ("file" if find(document, "file") else None),
    "evt.type": _type, "syscall.type": _type, "evt.res": _outcome, "evt.dir": lambda _document, _: "<",
    "proc.duration": lambda document, _: _duration(document, "process.start"),
    "proc.ppid.duration": lambda document, _: _duration(document, "process.parent.start"),
    "user.loginuid": _login, "proc.sname": _session, "container.id": _container,
    "evt.arg.oldpath": _old_path, "fs.path.source": _old_path,
    "container.type": lambda document, _: find(document, "container.runtime") or "host",
}
