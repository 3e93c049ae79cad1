"""The engine's middle with the C extension: the same documents and alerts as ``pipeline.Pipeline``.

The extension reads records, keeps the process table and remembers what rules said of events like these.
Everything that it doesn't know it asks here, and here the answer is made by the same code as without it:
decoding, facts of programs, places of cgroups, classes, documents. Only the table's steps are written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from sensor.boottime import BootClock
from sensor.classes import Classes, Part
from sensor.document import Builder
from sensor.kernel.decode import Slot, decode, path_text, slots_of
from sensor.parts import layout
from sensor.pipeline import KEEP, NAMES, Ends, Pipeline, Rules, Write
from sensor.process.containers import CAPACITY as PLACES
from sensor.process.containers import Place, Places
from sensor.process.fragment import Fragments, ancestor
from sensor.process.model import (
    Facts,
    Found,
    Process,
    TableCounters,
    by_name,
    entity_id,
    plain_facts,
    program_facts,
)
from sensor.process.table import CAPACITY, ENDED_CAPACITY
from sensor.process.users import EXPIRY_NS, Users
from sensor.rules.columns import RELATIONS
from sensor.rules.correlation import Correlator
from sensor.schema import ABI_WORD, BY_ID, BY_NAME, EVENTS, HEADER, Flag
from sensor.watch import WatchList

INTERFACE = 3  # of native/module.c: raised with every change of what the two sides ask each other
_HEADER = "IHHQQQIIIIQII"  # what native/core.c reads
_OPEN = slots_of(BY_NAME["file_open"])
_FAULTS = ("short", "abi", "type")

Triple = tuple[Place, dict[str, Any], int | None]  # a place, the document's sensor.cgroup, a number for both


def fits(extension: ModuleType) -> bool:
    """Whether the extension is of this version, and reads the header that the event table has."""
    return (getattr(extension, "INTERFACE", None) == INTERFACE
            and "".join(field.kind.value[1] for field in HEADER) == _HEADER)


class NativeTable:
    """The process table in C. Gives views of processes where documents need them; see ``process.table``.

    The extension calls the methods below "Asked by the extension", and those that a pipeline sets.
    """

    def __init__(self, extension: ModuleType, boot_id: str, capacity: int = CAPACITY, *,
                 ended_capacity: int = ENDED_CAPACITY, clock: BootClock | None = None,
                 users: Users | None = None) -> None:
        """An empty table; the arguments are those of ``ProcessTable``, after the extension."""
        self.boot_id = boot_id
        self.capacity = max(capacity, 2)
        self.users = users or Users(lambda _uid: None)
        self._fragments = Fragments(clock or BootClock(), self.users)
        self._places = Places()
        self._triples: dict[tuple[int, str], Triple] = {}
        self._serial = 0
        self.stale = False  # a memory in C may hold what a memory here has lost
        ended = max(min(ended_capacity, self.capacity - 1), 1)
        events = {event.id: _shape(slots_of(event).values()) for event in EVENTS if event.id < extension.TYPES}
        numbers = {
            **layout(), "abi": ABI_WORD, "open_type": BY_NAME["file_open"].id, "keep_flags": KEEP,
            "truncated_flag": int(Flag.TRUNCATED), "path": _OPEN["path"].offset, "capacity": self.capacity,
            "ended_capacity": ended,
            **{f"{name}_type": BY_NAME[event].id for name, event in (
                ("fork", "process_fork"), ("exec", "process_exec"), ("exit", "process_exit"),
                ("credentials", "credentials_change"))},
        }
        # Texts are hashed with a secret of the process, so that nobody can choose what collides.
        self.core = extension.Core(self, hash(boot_id) & (1 << 64) - 1, numbers, events)
        self.classify: Callable[[int, int, Any], int]
        self.decide: Callable[[int, tuple[int, ...]], Any]
        self.loud: Callable[[bytes, int, Any], None]
        self.saw: Callable[[int, int, int, int | None], int]
        self.watched: Callable[[bytes], bool]

    @property
    def counters(self) -> TableCounters:
        """What happened since start."""
        return TableCounters(*self.core.table()[:-1])

    def __len__(self) -> int:
        return int(self.core.table()[-1])

    def current(self, pid: int) -> Process | None:
        """The process that has *pid* now, or had it last."""
        found: Process | None = self.core.current(pid)
        return found

    def fragment(self, process: Process) -> dict[str, Any]:
        """The ``process`` part of documents."""
        return self._fragments.build(process)

    def cgroup_path(self, identifier: int) -> str:
        """Path of a control group by its id; "" where no process of it is known."""
        return self._places.path(identifier, "")

    def seed(self, found: Iterable[Found]) -> None:
        """Take in processes that ran before the first event."""
        rows = []
        for item in sorted(found, key=lambda each: (each.start_ns, each.pid)):
            facts = program_facts(item.values)
            facts.setdefault("name", item.name)
            rows.append((item.pid, item.start_ns, item.parent_pid, item.kernel, item.ns_pid, item.uid, item.gid,
                         item.cgroup_id, item.mntns, facts, item.values.get("cgroup") or "",
                         item.values.get("session_pid") or 0))
        self.core.seed(rows)

    # Asked by the extension ----------------------------------------------------------------------

    def facts(self, raw: bytes) -> Facts:
        """Facts of the program that an exec record tells of."""
        record = decode(raw)
        return program_facts(by_name(record), record.flags)

    def credentials(self, facts: Facts | None, raw: bytes) -> Facts:
        """The facts after a change of credentials."""
        return {**(facts or {}), **plain_facts("credentials_change", by_name(decode(raw)))}

    def moved(self, identifier: int, former: Triple | None) -> Triple:
        """The place of a process in this cgroup, of which a record told only the number."""
        return self._triple(identifier, self._places.path(identifier, former[0].path if former else ""))

    def executed_in(self, identifier: int, raw: bytes) -> Triple:
        """The place of a process whose exec record told a path."""
        return self.seeded_in(identifier, path_text(raw))

    def seeded_in(self, identifier: int, path: str) -> Triple:
        """The same where /proc told it."""
        self.stale |= self._places.full
        self._places.learn(identifier, path)
        return self._triple(identifier, path)

    def _triple(self, identifier: int, path: str) -> Triple:
        found = self._triples.get((identifier, path))
        if found is None:
            if len(self._triples) >= PLACES:
                self._triples.clear()
            self._serial += 1
            cgroup = {"id": identifier, "path": path} if path else {"id": identifier}
            found = self._triples[identifier, path] = (self._places.of(path), cgroup, self._serial if path else None)
        return found

    def view(self, pid: int, start_ns: int, named_ns: int, ns_pid: int, uid: int, gid: int, mntns: int,
             cgroup_id: int, session_pid: int, facts: Facts | None, triple: Triple | None, last_ns: int, kernel: bool,
             parent: Process | None, leader: Process | None, lineage: list[Facts | None]) -> Process:
        """A process as it is now, for documents alone."""
        made = Process(pid, start_ns, entity_id(self.boot_id, pid, named_ns))
        made.ns_pid, made.uid, made.gid, made.mntns = ns_pid, uid, gid, mntns
        made.cgroup_id, made.session_pid, made.last_ns, made.kernel = cgroup_id, session_pid, last_ns, kernel
        made.facts, made.parent, made.leader = facts or {}, parent, leader
        if triple is not None:
            made.place, made.cgroup = triple[0], triple[1]
        made.lineage = tuple(ancestor(each or {}) for each in lineage)
        return made


class FastPipeline(Pipeline):
    """A pipeline over a ``NativeTable``, for rules alone: documents are made of events that some rule may match."""

    def __init__(self, matcher: Rules, table: NativeTable, builder: Builder, *, watch: WatchList | None = None,
                 first_sequence: int | None = None, correlator: Correlator | None = None) -> None:
        """The arguments are those of ``Pipeline``."""
        self._native, self._now, self._names_until = table, 0, 0
        super().__init__(matcher, table, builder, watch=watch, first_sequence=first_sequence, correlator=correlator)
        self._write: Write = lambda _document, _alerts: None
        table.loud, table.saw = self._loud, self._saw
        if watch is not None:
            table.watched = lambda raw: watch.matches(_OPEN["path"].read(raw))

    def use(self, matcher: Rules, correlator: Correlator | None = None) -> None:
        """Go on with other rules, from the next event on."""
        super().use(matcher, correlator)
        table = self._native
        self._classes = Classes(matcher, table.users, lambda: self._now,
                                every=correlator is not None and correlator.patient)
        plans = {}
        for number, plan in self._classes.plans.items():
            slots = slots_of(BY_ID[number])
            plans[number] = (plan.rules is None, tuple(
                (int(part.source.material), tuple(
                    (slots[name].offset, slots[name].size, slots[name].is_text) for name in part.source.fields),
                 _texts(part, slots))
                for part in plan.parts))
        table.classify, table.decide = self._classes.classify, self._classes.decide
        table.core.use(plans, self.watch is not None)

    def feed_batch(self, rings: Sequence[list[bytes]], malformed: dict[str, int], write: Write) -> Ends | None:
        """Take in records as ``Pipeline.feed_batch`` does; *write* hears only of events that rules may match."""
        self._write = write
        if self._classes.full or self._native.stale or not self._named():
            self._native.stale = False
            self._classes.forget()
            self._native.core.forget()
        try:
            found = self._native.core.run(tuple(rings))
        finally:
            self._take(malformed)
        if found is None:
            return None
        first_type, first_ns, last_type, last_ns, count = found
        self._now = max(self._now, last_ns)
        return Ends((first_type, first_ns), (last_type, last_ns), count)

    def _named(self) -> bool:
        """Whether classes have the right names; asked as often as ``Users`` asks for them."""
        if self._now < self._names_until:
            return True
        self._names_until = self._now + EXPIRY_NS
        return self._classes.current(self._now)

    def _take(self, malformed: dict[str, int]) -> None:
        rows, duplicates, faults = self._native.core.take()
        counters = self.counters
        for number, received, filtered, truncated, quiet in rows:
            name = NAMES[number]
            counters.received[name] += received
            counters.filtered[name] += filtered
            counters.truncated[name] += truncated
            counters.documents += quiet  # judged, though never built
        counters.dropped["duplicate_exit"] += duplicates
        for reason, count in zip(_FAULTS, faults, strict=True):
            malformed[reason] += count

    def _loud(self, raw: bytes, ring: int, _found: Any) -> None:
        """An event that rules match, or may match: from here on everything is as without the extension."""
        self._write(*self._document(decode(raw, ring), self._native.core.acting()))

    def _saw(self, ring: int, cpu: int, seq: int, expected: int | None) -> int:
        if expected is not None:
            self.sequences.resume(ring, cpu, expected)
        self.sequences.saw(ring, cpu, seq)
        return self.sequences.expected(ring, cpu)


#: What of a path a scan looks at, by the last part of its key; the numbers are those of native/texts.h.
_VIEWS = {"path": 0, "directory": 1, "name": 2, "extension": 3}


def _texts(part: Part, slots: dict[str, Slot]) -> tuple[Any, ...] | None:
    """What the extension needs to know the class of a path by the literals of rules in it.

    Shape: (offsets of path, base and name, scans, for each atom whether it decides nothing), a scan being (view,
    atom of having a value, literals), a literal (bytes, relation, cased, atom). None where that would not be enough.
    """
    guards = part.guards()
    if not part.source.walked or not part.scanners or guards is None:
        return None
    scans: list[tuple[int, int, tuple[Any, ...]]] = []
    opens: list[bool] = []
    for name, index, scanner in part.scanners:
        found, view = scanner.literals(guards), _VIEWS.get(name.rpartition(".")[2])
        if found is None or view is None or index is not None:
            return None
        opens.append(False)
        scans.append((view, len(opens) - 1, tuple(
            (each.value.encode(), RELATIONS[each.relation], each.cased, len(opens) + number)
            for number, (each, _) in enumerate(found))))
        opens += [guard for _, guard in found]
    offsets = [slots[field].offset if field else 0 for field in part.source.walked]
    return *offsets, tuple(scans), bytes(opens)


def _shape(slots: Iterable[Any]) -> tuple[int, tuple[int, ...]]:
    """(end of the fixed part, offsets of the text words) of an event's records."""
    found = list(slots)
    return max(slot.offset + slot.size for slot in found), tuple(slot.offset for slot in found if slot.is_text)
