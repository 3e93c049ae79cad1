"""What of a record and its process each key of a document hangs on.

``document.Builder`` makes whole documents. Here stands which inputs are enough for one key, and how to
make that part alone: the memory of classes (``sensor.speed``) asks for no more of a record than rules
look at. A test builds documents of random records and compares them with what is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Protocol

from sensor import derived, paths
from sensor.kernel.decode import Slot, slots_of
from sensor.process.fragment import PARENT_FACTS, ancestor, ancestor_keys
from sensor.process.model import FACT_KEYS
from sensor.schema import BY_NAME, Event, Field, Kind

#: Names in what a source reads -> values; what is not there is absent from documents too.
Values = Mapping[str, Any]


class Material(IntEnum):
    """What a part is made of; the numbers are those of native/core.h."""

    FIELDS = 0  # fields of the record: given the record
    OWN = 1  # the process's program: given its facts
    PARENT = 2  # the parent's
    LEADER = 3  # the session leader's
    ANCESTORS = 4  # given a list of facts, None for those not known
    PARENT_UID = 5  # given a number, -1 where there is none
    PARENT_PID = 6
    NS_PID = 7
    PLACE = 8  # given (place or None, whether the record names the same cgroup)


@dataclass(frozen=True, slots=True)
class Source:
    """Keys that hang on the same inputs. ``read`` gives their values, or None: only a document tells."""

    material: Material
    fields: tuple[str, ...]  # by name, where they are the material
    names: dict[str, str]  # key -> its name in what is read
    read: Callable[[Any], Values | None]
    needed: bool = False  # also where no rule looks at the keys: it counts what is wrong with them
    walked: tuple[str, ...] = ()  # fields of a path that paths.target() makes: the walked one, base and name or ""


class Names(Protocol):
    """User names, as ``process.users.Users`` gives them."""

    def short(self, uid: int, now_ns: int) -> dict[str, Any]:
        """``id`` and, where it has one, ``name``."""


#: Keys that differ from event to event: whoever asks for one has to look at each document.
VOLATILE = frozenset({
    "@timestamp", "event.id", "event.sequence", "sensor.cpu", "sensor.cgroup.id", "process.namespace.mnt",
    "process.entity_id", "process.start", "process.parent.entity_id", "process.parent.start",
    "process.session_leader.entity_id", "process.session_leader.pid", "process.target.entity_id",
    "process.target.executable", "process.target.name",
})
#: Events whose documents need another process than the one that acted and those above it.
OPEN = frozenset({"process_ptrace", "process_signal"})

_ABSORBED = frozenset({"process_exec", "credentials_change"})


def constant(event: Event) -> dict[str, Any]:
    """What is the same in every document of an event, by key."""
    made: dict[str, Any] = {
        "event.kind": "event", "event.category": [event.category], "event.action": event.action,
        "event.dataset": f"sensor.{event.name}"}
    if event.name != "file_open":
        made["event.type"] = [event.type]
    direction = derived.DIRECTIONS.get(event.name)
    if direction is not None:
        made |= {"network.direction": direction, "network.initiated": direction == "egress"}
    return made


def sources(event: Event, users: Names, now: Callable[[], int]) -> list[Source]:
    """Everything that documents of an event can hold, but for what is constant or volatile.

    Args:
        event: One of the kernel's.
        users: For names.
        now: Time of the event at hand, in ns CLOCK_BOOTTIME, where the material does not tell it.
    """
    maker = _Maker(event, users, now)
    found = [*maker.header(), *maker.file(""), *maker.file("source_"), *maker.network(), *maker.other()]
    taken = {key for source in found for key in source.names}
    plain = [source for source in maker.plain() if not taken & set(source.names)]
    taken.update(key for source in plain for key in source.names)
    return found + plain + [source for source in maker.process(taken) if source.names]


class _Maker:
    """Makes the sources of one event."""

    def __init__(self, event: Event, users: Names, now: Callable[[], int]) -> None:
        self._event, self._users, self._now = event, users, now
        self._slots: dict[str, Slot] = slots_of(event)
        self._ecs = {field.name: field.ecs for field in event.fields}

    def _of(self, fields: Sequence[str], keys: Iterable[str], make: Callable[..., Values | None], *,
            needed: bool = False) -> Source:
        reads = [self._slots[name].read for name in fields]
        return Source(Material.FIELDS, tuple(fields), {key: key for key in keys},
                      lambda record: make(*[read(record) for read in reads]), needed)

    def header(self) -> list[Source]:
        """From the header, and how a call ended."""
        names = derived.FlagNames().names

        def flags(bits: int) -> Values:
            return {"sensor.flags": names(bits) or None, "event.type": [derived.file_open_type(bits)]}

        def user(uid: int, gid: int) -> Values:
            short = self._users.short(uid, self._now())
            return {"user.id": short["id"], "user.name": short.get("name"), "user.effective.id": uid,
                    "user.effective.group.id": gid}

        keys = ("sensor.flags", "event.type") if self._event.name == "file_open" else ("sensor.flags",)
        found = [
            self._of(["flags"], keys, flags),
            self._of(["uid", "gid"], ("user.id", "user.name", "user.effective.id", "user.effective.group.id"),
                     user),
            self._of(["pid"], ("process.pid",), lambda pid: {"process.pid": pid}),
            self._of(["tid"], ("process.thread.id",), lambda tid: {"process.thread.id": tid}),
        ]
        if "result" in self._slots:
            outcome = derived.connect_outcome if self._event.name == "network_connect" else derived.outcome
            found.append(self._of(["result"], ("event.result", "event.outcome"),
                                  lambda result: {"event.result": result, "event.outcome": outcome(result)}))
        return found

    def file(self, prefix: str) -> list[Source]:
        """A path that is walked, or an argument with its base, and what its text tells."""
        key = self._ecs.get(f"{prefix}path")
        if key is None or not self._event.name:
            return []
        based = f"{prefix}base" in self._slots
        names = [f"{prefix}{word}" for word in (("path", "base", "name") if based else ("path",))]
        symbolic = bool(prefix) and "symbolic" in self._slots
        whole = key == "file.path"

        def make(path: str, base: str = "", name: str = "", link: int = 0) -> Values | None:
            if based and not symbolic and not path and not base and name and name[0] != "/":
                return None  # counted where the document is built
            path = derived.link_target(link, path, base, name) if symbolic else paths.target(path, base, name)
            if not path:
                return {}
            if not whole:
                return {key: path}
            directory, last, extension = derived.file_parts(path)
            return {"file.path": path, "file.directory": directory or None, "file.name": last or None,
                    "file.extension": extension or None}

        keys = ("file.path", "file.directory", "file.name", "file.extension") if whole else (key,)
        found = self._of([*names, *(["symbolic"] if symbolic else [])], keys, make, needed=based and not symbolic)
        return [found if symbolic else replace(found, walked=(*names, "", "")[:3])]

    def network(self) -> list[Source]:
        """Addresses with their ports, and what they tell of the network."""
        if "destination_address" not in self._slots:
            return []

        def end(side: str) -> Callable[..., Values]:
            return lambda family, raw, port: {
                f"{side}.{key}": value for key, value in derived.endpoint(family, raw, port).items()}

        def transport(protocol: int) -> Values:
            return {"network.transport": derived.TRANSPORTS.get(protocol)}

        def kind(family: int, raw: bytes) -> Values:
            return {"network.type": derived.network_type(family, raw) or None}

        peer = "destination" if derived.DIRECTIONS.get(self._event.name) == "egress" else "source"
        found = [self._of(["address_family", f"{side}_address", f"{side}_port"], (f"{side}.ip", f"{side}.port"),
                          end(side)) for side in ("source", "destination")]
        found.append(self._of(["protocol"], ("network.transport",), transport))
        found.append(self._of(["address_family", f"{peer}_address"], ("network.type",), kind))
        return found

    def other(self) -> list[Source]:
        """The question of a DNS message."""
        if "query" not in self._slots:
            return []

        def question(message: str) -> Values | None:
            errors = {"dns_message": 0}
            name, kind = derived.question(message, errors)
            if errors["dns_message"]:
                return None  # counted where the document is built
            return {"dns.question.name": name or None, "dns.question.type": kind or None}

        return [self._of(["query"], ("dns.question.name", "dns.question.type"), question, needed=True)]

    def plain(self) -> list[Source]:
        """Fields that are in documents as they are."""
        return [self._of([field.name], (field.ecs,), _value(field)) for field in self._event.fields
                if field.ecs and field.kind is not Kind.ADDRESS
                and not (self._event.name in _ABSORBED and field.ecs.startswith(("process.", "sensor.cgroup.")))]

    def process(self, taken: set[str]) -> list[Source]:
        """What the process table knows; *taken* are keys that the record itself tells."""
        def parent_user(uid: int) -> Values:
            return self._users.short(uid, self._now()) if uid >= 0 else {}

        def place(given: tuple[Any, bool]) -> Values:
            triple, same = given
            if triple is None:
                return {}
            return {**{f"{section}.{key}": value for section, below in triple[0].fragment.items()
                       for key, value in below.items()}, "sensor.cgroup.path": triple[1].get("path") if same else None}

        def one(material: Material, above: str, keys: Iterable[str], read: Callable[[Any], Values | None]) -> Source:
            return Source(material, (), {above + key: key for key in keys if above + key not in taken}, read)

        return [
            one(Material.OWN, "process.", [key.removeprefix("process.") for key in FACT_KEYS], _itself),
            one(Material.PARENT, "process.parent.", PARENT_FACTS, _itself),
            one(Material.PARENT_PID, "process.parent.", ["pid"], lambda pid: {"pid": pid} if pid >= 0 else {}),
            one(Material.PARENT_UID, "process.parent.user.", ["id", "name"], parent_user),
            one(Material.LEADER, "process.session_leader.", ["executable"], _itself),
            one(Material.ANCESTORS, "process.", ["ancestors", "ancestor_names"],
                lambda above: ancestor_keys([ancestor(facts or {}) for facts in above])),
            one(Material.NS_PID, "process.namespace.", ["pid_in"], lambda pid: {"pid_in": pid or None}),
            one(Material.PLACE, "", ["container.id", "container.runtime", "service.name", "sensor.cgroup.path"], place),
        ]


def _itself(facts: Values) -> Values:
    return facts


def _value(field: Field) -> Callable[[Any], Values]:
    key = field.ecs or ""
    if field.kind is Kind.LIST:
        return lambda value: {key: list(value) or None}
    if field.kind.is_text:
        return lambda value: {key: value or None}
    if field.unit == "octal":
        return lambda value: {key: f"{value:04o}"}
    return lambda value: {key: value}


def layout() -> dict[str, int]:
    """Offsets that the table in C reads by name, ``event.field``."""
    wanted = {"fork": ("child_pid", "child_ns_pid", "child_start_ns", "parent_pid", "parent_start_ns"),
              "exec": ("parent_pid", "ns_pid", "parent_start_ns", "session_pid", "cgroup")}
    return {f"{short}.{name}": slots_of(BY_NAME[f"process_{short}"])[name].offset
            for short, names in wanted.items() for name in names}
