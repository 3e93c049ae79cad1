"""Rules for auditd's log, as far as our events carry the data of its records.

auditd writes several records about one system call. A rule looks at one of them, so it is read once
for each record that one of our events stands for, with what the record's type makes true or false
filled in:

* EXECVE is ``process_exec``: a0, a1 ... are the arguments, a keyword is looked for in the command line.
* SYSCALL is the acting process of the event whose system call the rule names. A rule that names none
  means ``execve``, which is what everybody has auditd record.
* PATH is the file of an event: name, and in nametype whether it was made, deleted or merely used.

A rule with a part that no event can carry is not loaded: half of it would be silent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from sensor.rules.condition import (
    ANYWHERE,
    FALSE,
    TRUE,
    And,
    Condition,
    FieldMatch,
    Not,
    Or,
    Predicate,
    Present,
    Relation,
    Text,
    all_of,
    any_of,
    negate,
    predicates,
)
from sensor.rules.reference import satisfied
from sensor.schema import BY_NAME

SERVICE = "auditd"

_ARGUMENT = re.compile(r"a(0|[1-9]\d{0,3})", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-f]{1,16}", re.ASCII)

#: Of SYSCALL records: field -> key.
_PROCESS = {
    "exe": "process.executable_resolved", "comm": "process.name", "pid": "process.pid",
    "ppid": "process.parent.pid", "uid": "process.real_user.id", "euid": "user.effective.id",
    "gid": "process.real_group.id", "egid": "user.effective.group.id", "auid": "process.login_user.id",
    "ses": "process.audit_session.id",
}
#: Fields of the records that no event of ours carries.
_UNSEEN = {
    "SYSCALL": frozenset({"arch", "syscall", "success", "exit", "items", "suid", "fsuid", "sgid", "fsgid", "tty",
                          "subj", "key"}),
    "PATH": frozenset({"item", "inode", "dev", "mode", "ouid", "ogid", "rdev", "obj", "cap_fp", "cap_fi", "cap_fe"}),
    "EXECVE": frozenset(),
}
_CALLS = {
    "process_exec": ("execve", "execveat"),
    "file_open": ("open", "openat", "openat2", "creat"),
    "file_unlink": ("unlink", "unlinkat"),
    "file_rename": ("rename", "renameat", "renameat2"),
    "file_link": ("link", "linkat", "symlink", "symlinkat"),
    "file_chmod": ("chmod", "fchmod", "fchmodat", "fchmodat2"),
    "file_chown": ("chown", "fchown", "lchown", "fchownat"),
    "file_mkdir": ("mkdir", "mkdirat"),
    "network_connect": ("connect",), "network_accept": ("accept", "accept4"),
    "network_bind": ("bind",), "network_listen": ("listen",), "process_ptrace": ("ptrace",),
    "module_load": ("init_module", "finit_module"), "bpf_load": ("bpf",), "memfd_create": ("memfd_create",),
}
_MADE = Text("event.type", Relation.EQUALS, "creation")
#: PATH records: event, key of the name, and for each nametype when the record has it.
_PATHS: tuple[tuple[str, str, dict[str, Condition]], ...] = (
    ("process_exec", "process.executable", {"NORMAL": TRUE}),
    ("file_open", "file.path", {"CREATE": _MADE, "NORMAL": negate(_MADE)}),
    ("file_unlink", "file.path", {"DELETE": TRUE}),
    ("file_rename", "file.path", {"CREATE": TRUE}),
    ("file_rename", "file.Ext.original.path", {"DELETE": TRUE}),
    ("file_link", "file.path", {"CREATE": TRUE}),
    ("file_chmod", "file.path", {"NORMAL": TRUE}),
    ("file_chown", "file.path", {"NORMAL": TRUE}),
    ("file_mkdir", "file.path", {"CREATE": TRUE}),
)


class Missing(ValueError):
    """A rule looks at something that no event of ours carries. ``str()`` names it."""


@dataclass(frozen=True, slots=True)
class _View:
    """One of our events as one record of auditd."""

    event: str
    record: str
    keys: Mapping[str, tuple[str, ...]]
    constant: Mapping[str, tuple[str, ...]]
    nametypes: Mapping[str, Condition] = field(default_factory=dict)

    def unseen(self, predicate: Predicate) -> bool:
        """Whether the record has the field and the event has not."""
        name = predicate.field
        if self.record == "SYSCALL" and _ARGUMENT.fullmatch(name):
            # The numbers that the call got. No other text can be meant.
            return not isinstance(predicate, Text) or bool(_HEXADECIMAL.fullmatch(predicate.value))
        return name in _UNSEEN[self.record]


def _views() -> Iterator[_View]:
    yield _View("process_exec", "EXECVE", {"argc": ("process.args_count",), ANYWHERE: ("process.command_line",)},
                {"type": ("EXECVE",)})
    everywhere: dict[str, tuple[str, ...]] = {name: (key,) for name, key in _PROCESS.items()}
    everywhere[ANYWHERE] = ("process.executable_resolved", "process.name")
    for event, calls in _CALLS.items():
        yield _View(event, "SYSCALL", everywhere, {"type": ("SYSCALL",), "SYSCALL": calls})
    for event, key, nametypes in _PATHS:
        yield _View(event, "PATH", {"name": (key,), ANYWHERE: (key,)}, {"type": ("PATH",)}, nametypes)


_VIEWS = tuple(_views())
_KNOWN = frozenset({"type", "SYSCALL", "nametype", ANYWHERE}).union(
    *(view.keys for view in _VIEWS), *_UNSEEN.values())


def resolve(name: str) -> str:
    """Fields of auditd keep their names until ``translate``."""
    return name


def translate(tree: Condition) -> tuple[Condition, tuple[str, ...]]:
    """The condition over our events that a tree over auditd's fields means, and their actions.

    Raises Missing for what they don't carry.
    """
    _check(tree)
    named = any(predicate.field == "SYSCALL" for predicate in predicates(tree))
    found: dict[str, Condition] = {}
    unseen: dict[str, None] = {}
    for view in _VIEWS:
        if view.record == "SYSCALL" and view.event != "process_exec" and not named:
            continue
        condition = _map(tree, partial(_leaf, view))
        unseen.update((predicate.field.removeprefix(_MARK), None) for predicate in predicates(condition)
                      if predicate.field.startswith(_MARK))
        if condition != FALSE:
            found[view.event] = any_of(found.get(view.event, FALSE), condition)
    if unseen:
        raise Missing(f"field {', '.join(unseen)}: no event of this sensor carries it")
    if not found:
        raise Missing("the fields never stand together in one record that an event of this sensor carries")
    actions = {event: BY_NAME[event].action for event in found}
    if len(found) == 1:
        return next(iter(found.values())), tuple(actions.values())
    return any_of(*(all_of(Text("event.action", Relation.EQUALS, actions[event]), condition)
                    for event, condition in found.items())), tuple(actions.values())


_MARK = "auditd."


def _check(tree: Condition) -> None:
    """Raise Missing for a field, a type of record or a system call that no event stands for."""
    for predicate in predicates(tree):
        name = predicate.field
        if name not in _KNOWN and not _ARGUMENT.fullmatch(name):
            raise Missing(f"field {name}: no event of this sensor carries it")
        what = {"type": "record of this type", "SYSCALL": "system call"}.get(name)
        if what is None or isinstance(predicate, (Present, FieldMatch)):
            continue
        carried = {value for view in _VIEWS for value in view.constant.get(name, ())}
        if not any(satisfied(predicate, value) for value in carried):
            shown = predicate.value if isinstance(predicate, Text) else "of this pattern"
            raise Missing(f"field {name}={shown}: no event of this sensor stands for a {what}")


def _leaf(view: _View, predicate: Predicate) -> Condition:
    name = predicate.field
    if isinstance(predicate, FieldMatch):
        return Present(_MARK + name)
    if name in view.constant:
        return TRUE if any(satisfied(predicate, value) for value in view.constant[name]) else FALSE
    if name == "nametype" and view.record == "PATH":
        return any_of(*(when for kind, when in view.nametypes.items() if satisfied(predicate, kind)))
    if view.record == "EXECVE" and (found := _ARGUMENT.fullmatch(name)):
        return replace(predicate, field=f"process.args.{found[1]}")
    keys = view.keys.get(name)
    if keys is not None:
        return any_of(*(replace(predicate, field=key) for key in keys))
    return Present(_MARK + name) if view.unseen(predicate) else FALSE


def _map(tree: Condition, leaf: Callable[[Predicate], Condition]) -> Condition:
    if isinstance(tree, And):
        return all_of(*(_map(item, leaf) for item in tree.items))
    if isinstance(tree, Or):
        return any_of(*(_map(item, leaf) for item in tree.items))
    if isinstance(tree, Not):
        return negate(_map(tree.item, leaf))
    return leaf(tree)
