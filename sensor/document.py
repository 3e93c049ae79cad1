"""From a record and its process to the document that rules, outputs and recordings share.

One builder function per event is generated from the event table when a Builder is made: a field
added to the table is in the documents without a line changed here. What is not one field of one
record (``schema.DERIVED``) is in ``sensor.derived``.

Documents share parts with each other (process, user, container): whoever wants to change one
copies what it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import CodeType
from typing import Any

from sensor import derived, paths
from sensor.boottime import BootClock
from sensor.kernel.decode import Record
from sensor.process.model import Process, Processes
from sensor.process.users import Users
from sensor.schema import EVENTS, HEADER, Event, Field, Kind

Document = dict[str, Any]
_Build = Callable[[Record, Process | None], Document]

# process_exec and credentials_change change the process itself: the table has their fields by then.
_ABSORBED = frozenset({"process_exec", "credentials_change"})
# Everything of the header that a builder places by hand, because the process has it ready-made.
_PLACED = frozenset({
    "process.pid", "process.thread.id", "user.effective.id", "user.effective.group.id", "sensor.cpu",
    "sensor.cgroup.id", "process.namespace.mnt", "event.sequence",
})
_HEADER_KEYS = frozenset(item.ecs for item in HEADER if item.ecs)
if _HEADER_KEYS != _PLACED:
    raise AssertionError(f"header fields without a place in documents: {sorted(_HEADER_KEYS ^ _PLACED)}")


@dataclass(slots=True)
class BuilderCounters:
    """What building documents ran into, by kind."""

    errors: dict[str, int] = field(default_factory=lambda: {"dns_message": 0, "relative_path": 0})


class Builder:
    """Builds documents. Reads the table, never changes it."""

    def __init__(self, table: Processes, boot_clock: BootClock, users: Users, *,
                 generation: int = 0) -> None:
        """Generate the builder functions.

        Args:
            table: Gives processes their fragments and resolves targets.
            boot_clock: For ``@timestamp``.
            users: For ``user.name``.
            generation: When the rings were made (ns CLOCK_BOOTTIME). Sequence numbers begin anew with
                them, so event ids of one boot are only unique together with it.
        """
        self.counters = BuilderCounters()
        text = f"{table.boot_id}:{generation}"
        prefix = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()
        self._namespace: dict[str, Any] = {
            "stamp": boot_clock.text, "fragment": table.fragment, "user": users.fragment,
            "current": table.current, "target_process": target_process,
            "flags": derived.FlagNames().names, "count": self.counters.errors, "prefix": prefix,
            "target": paths.target, "link_target": derived.link_target, "file_parts": derived.file_parts,
            "file_type": derived.file_open_type, "endpoint": derived.endpoint, "question": derived.question,
            "outcome": derived.outcome, "connect_outcome": derived.connect_outcome,
            "TRANSPORTS": derived.TRANSPORTS, "network_type": derived.network_type, "NOTHING": {},
        }
        self._builders: dict[int, _Build] = {event.id: self._compile(event) for event in EVENTS}

    def build(self, record: Record, process: Process) -> Document:
        """The document of *record*, made by *process* as ``ProcessTable.apply`` gave it."""
        return self._builders[record.type](record, process)

    def build_own(self, record: Record) -> Document:
        """The document of one of the sensor's own events, which no process made."""
        return self._builders[record.type](record, None)

    def _compile(self, event: Event) -> _Build:
        namespace = dict(self._namespace)
        exec(_code(event), namespace)  # noqa: S102  generated above from our own table, never from data
        build: _Build = namespace["build"]
        return build


@cache
def _code(event: Event) -> CodeType:
    return compile(source(event), f"<builder of {event.name}>", "exec")


def target_process(process: Process, pid: int, current: Callable[[int], Process | None]) -> dict[str, Any]:
    """What is known of the process that *process* calls *pid*, in its own pid namespace."""
    other = current(pid) if process.ns_pid == process.pid else None  # else the number means nothing here
    if other is None:
        return {}
    made = {"entity_id": other.entity_id}
    for key in ("executable", "name"):
        if key in other.facts:
            made[key] = other.facts[key]
    return made


# Generating ------------------------------------------------------------------------------------------


_SPREAD = "**"  # in place of a key: all items of the dict that the expression gives


@dataclass(slots=True)
class _Node:
    """A place in the document: leaves that are always there, leaves that may be absent, and below."""

    always: dict[str, str] = field(default_factory=dict)  # key -> expression
    maybe: dict[str, str] = field(default_factory=dict)  # key -> expression; absent where falsy
    below: dict[str, _Node] = field(default_factory=dict)

    def put(self, key: str, expression: str, *, maybe: bool = False) -> None:
        """Place *expression* at the dotted *key*."""
        node = self
        *outer, last = key.split(".")
        for name in outer:
            node = node.below.setdefault(name, _Node())
        (node.maybe if maybe else node.always)[last] = expression

    def sole(self, outer: str, key: str) -> str | None:
        """The expression at *outer*.*key*, if there is nothing else here and it is always there."""
        below = self.below.get(outer)
        if below is None or self.always or self.maybe or len(self.below) > 1:
            return None
        return below.always.get(key) if len(below.always) == 1 and not (below.maybe or below.below) else None

    @property
    def certain(self) -> bool:
        """Whether there is something here in every document."""
        return bool(self.always) or any(node.certain for node in self.below.values())


def source(event: Event) -> str:
    """Python source of ``build(record, process)`` for *event*."""
    tree, lines = _Node(), []
    names = [f"v{index}" for index in range(len(event.fields))]
    if names:
        lines.append(f"{', '.join(names)}{',' if len(names) == 1 else ''} = r.values")
    by_name = dict(zip((item.name for item in event.fields), names, strict=True))
    for item, name in zip(event.fields, names, strict=True):
        if item.ecs and not (event.name in _ABSORBED and item.ecs.startswith(("process.", "sensor.cgroup."))):
            _place(tree, item, name)
    _common(tree, event)
    _derive(tree, lines, event, by_name)
    if event.family != "user":  # the sensor's own events are no process's
        lines += _process_lines(tree.below.pop("process", None))
        tree.put("process", "fr")
        tree.put("user", "user(r.uid, r.gid, r.time_ns)")
    body = _emit(tree, "d", lines)
    if event.family != "user":
        body.append("if p.place.fragment: d.update(p.place.fragment)")
    body.append("return d")
    return "def build(r, p):\n" + "".join(f"    {line}\n" for line in (*lines, *body))


def _place(tree: _Node, item: Field, name: str) -> None:
    if item.kind is Kind.ADDRESS:
        return  # with its port: see _derive_network
    if item.kind.is_text:
        tree.put(item.ecs or "", f"list({name})" if item.kind is Kind.LIST else name, maybe=True)
    else:
        tree.put(item.ecs or "", f'f"{{{name}:04o}}"' if item.unit == "octal" else name)


def _common(tree: _Node, event: Event) -> None:
    tree.put("@timestamp", "stamp(r.time_ns)")
    tree.put("event.id", 'f"{prefix}-{r.ring}-{r.cpu}-{r.seq}"')
    tree.put("event.kind", repr("state" if event.family == "user" else "event"))
    tree.put("event.category", repr([event.category]))
    tree.put("event.type", repr([event.type]))
    tree.put("event.action", repr(event.action))
    tree.put("event.dataset", repr(f"sensor.{event.name}"))
    tree.put("event.sequence", "r.seq")
    if event.family != "user":
        tree.put("sensor.cpu", "r.cpu")
        tree.put("sensor.cgroup", "cg")
        tree.put("sensor.flags", "flags(r.flags)", maybe=True)


def _derive(tree: _Node, lines: list[str], event: Event, by_name: dict[str, str]) -> None:
    if "result" in by_name:
        function = "connect_outcome" if event.name == "network_connect" else "outcome"
        tree.put("event.outcome", f"{function}({by_name['result']})")
    if event.name == "file_open":
        tree.put("event.type", "[file_type(r.flags)]")
    if "base" in by_name:
        _derive_target(tree, lines, event, by_name, "")
    if "source_base" in by_name:
        _derive_target(tree, lines, event, by_name, "source_")
    file = tree.below.get("file")
    if file is not None and "path" in file.maybe:
        lines.append(f"dr, fn, ex = file_parts({file.maybe['path']})")
        for key, name in (("file.directory", "dr"), ("file.name", "fn"), ("file.extension", "ex")):
            tree.put(key, name, maybe=True)
    if "destination_address" in by_name:
        _derive_network(tree, lines, event, by_name)
    if "query" in by_name:
        lines.append(f"qn, qt = question({by_name['query']}, count)")
        tree.put("dns.question.name", "qn", maybe=True)
        tree.put("dns.question.type", "qt", maybe=True)
    if "target_pid" in by_name:
        lines.append(f"tp = target_process(p, {by_name['target_pid']}, current)")
        tree.below["process"].below["target"].always[_SPREAD] = "tp"


def _derive_target(tree: _Node, lines: list[str], event: Event, by_name: dict[str, str], prefix: str) -> None:
    """A path that is walked, or an argument with its base: see paths.target."""
    path, base, name = (by_name[prefix + word] for word in ("path", "base", "name"))
    call = f"target({path}, {base}, {name})"
    if prefix and "symbolic" in by_name:
        call = f"link_target({by_name['symbolic']}, {path}, {base}, {name})"
    else:
        lines.append(f"if not {path} and not {base} and {name} and {name}[0] != '/': "
                     "count['relative_path'] += 1")
    lines.append(f"{path} = {call}")


def _derive_network(tree: _Node, lines: list[str], event: Event, by_name: dict[str, str]) -> None:
    for side in ("source", "destination"):
        lines.append(f"{side[0]}e = endpoint({by_name['address_family']}, {by_name[f'{side}_address']}, "
                     f"{by_name[f'{side}_port']})")
        del tree.below[side]
        tree.put(side, f"{side[0]}e", maybe=True)
    tree.put("network.transport", f"TRANSPORTS.get({by_name['protocol']})", maybe=True)
    # For a client the peer tells; a server's own address is all that bind and listen have.
    side = "destination" if derived.DIRECTIONS.get(event.name) == "egress" else "source"
    peer = by_name[f"{side}_address"]
    tree.put("network.type", f"network_type({by_name['address_family']}, {peer})", maybe=True)
    direction = derived.DIRECTIONS.get(event.name)
    if direction is not None:
        tree.put("network.direction", repr(direction))
        tree.put("network.initiated", repr(direction == "egress"))


def _process_lines(node: _Node | None) -> list[str]:
    """Lines that leave in ``fr`` the process part: ready-made, unless the event adds to it."""
    lines = ["fr = fragment(p)",
             'cg = p.cgroup if p.cgroup_id == r.cgroup_id else {"id": r.cgroup_id}']
    net = node.sole("namespace", "net") if node is not None else None
    if net is not None:
        # A socket's network namespace is nearly always its process's: no copy then.
        lines.append(_replace("namespace", "net", net, f'fr.get("namespace", NOTHING).get("net") != {net}'))
    elif node is not None:
        lines.append("fr = dict(fr)")
        lines += _merge(node, "fr")
    # The thread and the mount namespace are nearly always those of the ready-made part.
    lines.append(_replace("thread", "id", "r.tid", "r.tid != r.pid"))
    lines.append(_replace("namespace", "mnt", "r.mntns", "r.mntns != p.mntns"))
    return lines


def _replace(outer: str, key: str, expression: str, condition: str) -> str:
    """A line that gives ``fr[outer]`` another *key* by copies, if *condition* holds."""
    return (f"if {condition}: fr = {{**fr, {outer!r}: {{**fr.get({outer!r}, NOTHING), "
            f"{key!r}: {expression}}}}}")


def _merge(node: _Node, variable: str, depth: int = 0) -> list[str]:
    """Lines that set the node's leaves in the dict *variable*, which is a copy already."""
    lines = []
    for key, expression in node.always.items():
        spread = key == _SPREAD
        lines.append(f"{variable}.update({expression})" if spread else f"{variable}[{key!r}] = {expression}")
    for key, expression in node.maybe.items():
        lines.append(f"if (t := {expression}): {variable}[{key!r}] = t")
    for key, below in node.below.items():
        name = f"m{depth}"
        lines.append(f"{name} = {variable}[{key!r}] = dict({variable}.get({key!r}, NOTHING))")
        lines += _merge(below, name, depth + 1)
    return lines


def _emit(node: _Node, variable: str, before: list[str]) -> list[str]:
    """Lines that build the node's dict in *variable*; nodes below are built first, into *before*."""
    pairs = [f"{key!r}: {expression}" for key, expression in node.always.items()]
    after = []
    for number, (key, below) in enumerate(node.below.items()):
        name = f"{variable}{number}"
        before += _emit(below, name, before)
        if below.certain:
            pairs.append(f"{key!r}: {name}")
        else:
            after.append(f"if {name}: {variable}[{key!r}] = {name}")
    after += [f"if (t := {expression}): {variable}[{key!r}] = t" for key, expression in node.maybe.items()]
    return [f"{variable} = {{{', '.join(pairs)}}}", *after]
