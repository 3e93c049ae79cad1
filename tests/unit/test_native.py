"""The C extension gives what Python gives: on random rules, records, processes, and damage."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections import Counter
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor import native, speed
from sensor.boottime import BootClock
from sensor.config import Settings
from sensor.document import Builder
from sensor.errors import RecordError
from sensor.kernel.decode import decode
from sensor.parts import VOLATILE, Material, constant, sources
from sensor.pipeline import Pipeline
from sensor.process.model import Found
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.rules.condition import ANYWHERE, And, Glob, Number, Order, Present, Regex, Relation, Text, Wildcard
from sensor.rules.matcher import Matcher
from sensor.rules.values import find, fold
from sensor.schema import ABI_WORD, BY_ID, BY_NAME, HEADER, Flag, Kind
from sensor.watch import WatchList
from tests.bench import ring
from tests.conftest import ROOT
from tests.unit import native_cases as cases
from tests.unit.native_build import TINY, extension
from tests.unit.records import SECOND, execution, fork, record

NAMES: dict[int, str | None] = {0: "root", 1000: "Sh"}
MEMORIES = pytest.mark.parametrize("flags", [(), TINY], ids=["plain", "tiny"])
WATCHED = (*Settings().watch.paths, "/tmp/*")
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Run:
    """One pipeline and all that can be seen of it."""

    def __init__(self, rules: list[Any], flags: tuple[str, ...] | None, *, found: list[Found] | tuple[()] = (),
                 capacity: int = 65536, ended: int = 4096, first: int | None = None, names: Any = None) -> None:
        clock, users = BootClock(), Users((names or NAMES).get)
        watch = WatchList(WATCHED)
        self.table: Any
        if flags is None:
            self.table = ProcessTable("boot", capacity, ended_capacity=ended, clock=clock, users=users)
        else:
            self.table = speed.NativeTable(extension(*flags), "boot", capacity, ended_capacity=ended, clock=clock,
                                           users=users)
        self.table.seed(found)
        builder = Builder(self.table, clock, users)
        self.pipeline: Pipeline
        if flags is None:
            self.pipeline = Pipeline(Matcher(rules), self.table, builder, watch=watch, first_sequence=first)
        else:
            self.pipeline = speed.FastPipeline(Matcher(rules), self.table, builder, watch=watch, first_sequence=first)
        self.malformed: Counter[str] = Counter()
        self.alerts: list[Any] = []
        self.built = 0

    def feed(self, *rings: list[bytes]) -> Any:
        """One batch."""
        return self.pipeline.feed_batch(rings, self.malformed, self._write)

    def _write(self, document: Any, alerts: list[Any]) -> None:
        self.built += 1
        if alerts:
            self.alerts.append((document, alerts))

    def seen(self) -> dict[str, Any]:
        """Everything that must be the same."""
        pipeline = self.pipeline
        assert pipeline.builder is not None
        return {"alerts": self.alerts, "counters": pipeline.counters, "table": self.table.counters,
                "processes": len(self.table), "malformed": +self.malformed, "missing": pipeline.sequences.missing(),
                "gaps": pipeline.sequences.settled(0, final=True), "errors": pipeline.builder.counters.errors,
                "reordered": (pipeline.sequences.reordered, pipeline.sequences.repeated)}


def both(rules: list[Any], flags: tuple[str, ...], batches: list[list[list[bytes]]], **more: Any) -> tuple[Run, Run]:
    """The same through Python alone and through C, and that they agree."""
    pure, fast = Run(rules, None, **more), Run(rules, flags, **more)
    for batch in batches:
        assert pure.feed(*batch) == fast.feed(*batch)
    assert fast.seen() == pure.seen()
    return pure, fast


# --- random ---------------------------------------------------------------------------------------------


@MEMORIES
@SLOW
@given(cases.rules(), st.lists(st.lists(st.lists(cases.records(), max_size=12), min_size=1, max_size=2), max_size=4),
       st.lists(cases.found, max_size=4), st.sampled_from([2, 3, 65536]), st.sampled_from([1, 2, 4096]),
       st.sampled_from([None, 0]))
def test_any_records_and_rules_give_the_same_as_python(flags, rules, batches, found, capacity, ended, first):
    """Alerts with their documents, every counter, the process table, gaps and faults."""
    both(rules, flags, batches, found=found, capacity=capacity, ended=ended, first=first)


@SLOW
@given(cases.rules(), cases.rules(), st.lists(cases.records(), max_size=10), st.lists(cases.records(), max_size=10))
def test_other_rules_from_one_batch_to_the_next_forget_what_the_old_ones_said(before, later, first, second):
    """A reload keeps the processes and nothing that was decided."""
    runs = [Run(before, None), Run(before, ())]
    for run in runs:
        run.feed(first)
        run.pipeline.use(Matcher(later))
        run.feed(second)
    assert runs[0].seen() == runs[1].seen()


@SLOW
@given(st.data())
def test_every_key_of_a_document_has_a_source_that_gives_its_value(data):
    """What classes are made of is what documents hold; nothing that changes is taken for constant."""
    raw = data.draw(cases.records().filter(_sound))
    users, clock = Users(NAMES.get), BootClock()
    table = ProcessTable("boot", clock=clock, users=users)
    got = decode(raw)
    process = table.apply(got)
    assert process is not None
    document = Builder(table, clock, users).build(got, process)
    event = BY_ID[got.type]
    known = {key: source for source in sources(event, users, lambda: got.time_ns) for key in source.names}
    same = constant(event)
    for key, value in _leaves(document):
        if key in VOLATILE:
            continue
        source = known.get(key)
        if source is None:
            assert same[key] == value, key
        elif source.material in (Material.FIELDS, Material.OWN):
            made = source.read(raw if source.material is Material.FIELDS else process.facts)
            assert made is None or made[source.names[key]] == value, key
    held = dict(_leaves(document))
    for key, source in known.items():
        if source.material is Material.FIELDS and (made := source.read(raw)) is not None:
            assert made.get(source.names[key]) == held.get(key), key


def _sound(raw: bytes) -> bool:
    try:
        return bool(decode(raw))
    except RecordError:
        return False


def _leaves(node: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in node.items():
        found += _leaves(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]
    return found


# --- by hand --------------------------------------------------------------------------------------------


def text_rule(key: str, literal: str, *events: str, relation: Relation = Relation.CONTAINS) -> Any:
    """A rule about one text."""
    return cases.rule(0, Text(key, relation, literal), [BY_NAME[event] for event in events])


def opened(path: str, seq: int = 0, **more: Any) -> bytes:
    """A record of a file that was written."""
    return ring.encode(record("file_open", path=path, flags=Flag.WRITE, seq=seq, **more))


def test_events_that_no_rule_matches_make_no_document():
    """The second time, and the first: classes are made of parts."""
    rules = [text_rule("file.path", "shadow", "file_open")]
    pure, fast = both(rules, (), [[[opened(f"/tmp/{number % 3}", number) for number in range(9)]]])
    assert (pure.built, fast.built) == (9, 0)
    assert fast.pipeline.counters.documents == 9


def test_a_rule_that_hangs_on_the_event_itself_sees_each_event():
    """What compares an event's own id, or any value, is asked of its document every time."""
    condition = And((Text("file.path", Relation.CONTAINS, "x"), Regex("event.id", "-[13]$")))
    rules = [cases.rule(0, condition, [BY_NAME["file_open"]])]
    batch = [opened("/x", number) for number in range(5)] + [opened("/y", 5)]
    _, fast = both(rules, (), [[batch]])
    assert len(fast.alerts) == 2
    assert fast.built == 5  # of /y nothing is left open
    _, fast = both([cases.rule(0, Text(ANYWHERE, Relation.CONTAINS, "x"), [BY_NAME["file_open"]])], (), [[batch]])
    assert (len(fast.alerts), fast.built) == (5, 6)


@MEMORIES
def test_long_values_are_classified_and_not_remembered(flags):
    """The longest texts that a record can hold, and one at the end of a record of 130 KB."""
    rules = [text_rule("process.command_line", "needle", "process_exec"), text_rule("file.path", "needle", "file_open")]
    long = "a" * 60_000
    batch = [ring.encode(execution(7, SECOND, "/bin/a", long + tail, seq=number))
             for number, tail in enumerate(["needle", "hay", "needle"])]
    far = bytearray(opened("/x", 3) + b"\0" * 131_072)
    slot = speed._OPEN["path"].offset
    far[65_535:65_541] = b"needle"
    far[slot:slot + 4] = struct.pack("<I", 65_535 | 65_535 << 16)
    _, fast = both(rules, flags, [[batch], [[bytes(far), b"\0" * (1 << 20)]]])
    assert len(fast.alerts) == 3
    assert +fast.malformed == {"abi": 1}


#: Few letters, so that literals overlap, end in each other and meet the ends of texts.
_LETTERS = st.text("abAB./", max_size=6)
_KEYS = st.sampled_from(["file.path", "file.directory", "file.name", "file.extension", "file.Ext.original.path"])


def _literal(cased: bool) -> st.SearchStrategy[Text]:
    values = (_LETTERS | st.sampled_from(["\u00e9", "ba\u212a"])).map(lambda text: text if cased else fold(text))
    return st.builds(Text, _KEYS, st.sampled_from(list(Relation)), values, st.just(cased))


def _named(parts: list[str], name: str | None, base: list[str] | None) -> dict[str, Any]:
    raw = {"path": "".join(f"{part}\0" for part in reversed(parts)).encode() if parts else None}
    raw["base"] = "".join(f"{part}\0" for part in reversed(base)).encode() if base is not None else None
    raw["name"] = f"{name}\0".encode() if name is not None else None
    return raw


@MEMORIES
@SLOW
@given(st.lists(st.one_of(_literal(False), _literal(True), st.sampled_from([
    Regex("file.path", "ab/?[ab]+$"), Wildcard("file.path", ("/", Glob.MANY, "ab")), Regex("file.name", "a|bb")])),
    min_size=1, max_size=12), st.lists(st.builds(
        _named, st.lists(st.text("abAB.\u00e9", max_size=4), max_size=3), st.none() | st.text("abAB./", max_size=5),
        st.none() | st.lists(st.text("abA.", max_size=3), max_size=2)), max_size=12))
def test_paths_are_told_apart_by_the_literals_that_rules_look_for(flags, predicates, names):
    """Each literal, at the beginning, the end and anywhere, of paths, directories, names and extensions."""
    kinds = [BY_NAME[name] for name in ("file_open", "file_unlink", "file_rename", "file_link")]
    rules = [cases.rule(number, predicate, kinds) for number, predicate in enumerate(predicates)]
    batch = []
    for seq, raw in enumerate(names):
        for event in kinds:
            head = {**dict.fromkeys((field.name for field in HEADER), 1), "abi": ABI_WORD, "type": event.id,
                    "seq": seq * 4 + kinds.index(event), "time_ns": SECOND, "flags": int(Flag.WRITE)}
            values = [raw.get(field.name.removeprefix("source_")) if field.kind.is_text else
                      bytes(16) if field.kind is Kind.ADDRESS else 0 for field in event.fields]
            batch.append(cases.encode(event, head, values))
    both(rules, flags, [[batch]])


def test_a_new_path_is_judged_without_python():
    """What it holds has been seen before, though never in this path; what an expression decides is asked for."""
    expression = Regex("file.path", "/secret-[0-9]+$")
    rules = [text_rule("file.path", "/shadow", "file_open"),
             cases.rule(1, And((Text("file.path", Relation.CONTAINS, "/secret-"), expression)), [BY_NAME["file_open"]])]
    run, asked = Run(rules, ()), Counter()
    classify = run.table.classify

    def count(event: int, part: int, material: Any) -> int:
        asked["path" if material.__class__ is bytes else "other"] += 1
        return classify(event, part, material)

    run.table.classify = count
    for round_ in range(2):
        before = asked["path"]
        run.feed([opened(f"/tmp/{round_}-{number}", number) for number in range(200)])
        run.feed([opened(f"/tmp/{round_}-{number}/shadow", 200 + number) for number in range(3)])
        told = asked["path"] - before
        assert told == (0 if round_ else 2)
    run.feed([opened(f"/tmp/secret-{number}x", 300 + number) for number in range(3)])
    assert asked["path"] == 5
    assert len(run.alerts) == 6


def test_memories_are_bounded_and_forget():
    """A flood of new values empties them, and answers stay right."""
    rules = [cases.rule(0, Wildcard("file.path", (Glob.ONE,) * 7), [BY_NAME["file_open"]])]
    batch = [opened(f"/tmp/{number}", number) for number in range(300)]
    _, fast = both(rules, TINY, [[batch]])
    assert len(fast.alerts) == 90
    assert fast.table.core.forgotten()[0] > 10


def test_a_user_who_gets_another_name_is_noticed():
    """Names are asked for again as often as without the extension."""
    names = {7: "old"}
    rules = [text_rule("user.name", "new", "file_open")]
    runs = [Run(rules, None, names=names), Run(rules, (), names=names)]
    for run in runs:
        run.feed([opened("/x", 0, uid=7, time_ns=SECOND)])
    names[7] = "new"
    for run in runs:
        run.feed([opened("/x", 1, uid=7, time_ns=400 * SECOND)])
        run.feed([opened("/x", 2, uid=7, time_ns=401 * SECOND)])
    assert runs[1].alerts
    assert runs[1].alerts[-1] == runs[0].alerts[-1]


def test_a_process_keeps_its_id_when_its_exact_start_is_learned():
    """Whatever tick that start lies in: documents of before name it so."""
    early = Found(7, SECOND, 1, "old")
    _, fast = both([text_rule("file.path", "/x", "file_open")], (),
                   [[[opened("/x", 0, pid=7, start_ns=SECOND + 10_000_000)]]], found=[early])
    ((document, _),) = fast.alerts
    assert document["process"]["start"] == "1970-01-01T00:00:01.010000000Z"


def test_parents_and_ancestors_are_those_of_the_moment():
    """A parent that executes another program, one that is gone, and the chain above it."""
    rules = [text_rule("process.parent.executable", "/bin/evil", "process_exec", "file_open"),
             text_rule("process.ancestors", "/bin/top", "file_open")]
    batch = [
        execution(1, 1, "/bin/top"), fork(1, 1, 2, 2), execution(2, 2, "/bin/good"), fork(2, 2, 3, 3),
        execution(3, 3, "/bin/leaf"), record("file_open", 3, 3, path="/x", flags=Flag.WRITE),
        execution(2, 2, "/bin/evil"), record("file_open", 3, 3, path="/x", flags=Flag.WRITE),
        record("process_exit", 2, 2), record("process_exit", 1, 1), fork(3, 3, 9, 9), record("process_exit", 9, 9),
        record("file_open", 3, 3, path="/x", flags=Flag.WRITE)]
    _, fast = both(rules, (), [[[ring.encode(each) for each in batch]]], ended=1)
    assert len(fast.alerts) == 3


def test_records_of_several_rings_are_taken_by_time_and_stay_in_order():
    """As in Python: the process ring first among equals."""
    first = [ring.encode(execution(2, 2, "/bin/b", time_ns=5 * SECOND)), opened("/1", 1, time_ns=9 * SECOND)]
    second = [opened("/2", 0, time_ns=4 * SECOND), opened("/3", 1, time_ns=5 * SECOND)]
    _, fast = both([cases.rule(0, Present("event.action"), [BY_NAME["file_open"], BY_NAME["process_exec"]])], (),
                   [[first, second], [[], []]])
    assert [document["event"]["action"] for document, _ in fast.alerts] == [
        "file-open", "process-exec", "file-open", "file-open"]


def test_whatever_fails_in_a_callback_is_raised():
    """An error of ours is not swallowed, and the engine's table stays usable."""
    run = Run([text_rule("file.path", "x", "file_open")], ())
    run.table.decide = lambda _event, _classes: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run.feed([opened("/x")])
    run.table.decide = lambda _event, _classes: None
    run.feed([opened("/x", 1)])
    assert run.pipeline.counters.documents == 1


def test_extension_refuses_what_it_was_not_made_for():
    """Layouts that don't hold together, and batches that are none."""
    run = Run([text_rule("file.path", "x", "file_open")], ())
    core = run.table.core
    for wrong in ([], ([1],), (["text"],), ((b"",),)):
        with pytest.raises(TypeError):
            core.run(wrong)
    end = max(field.offset + field.size for field in speed.slots_of(BY_NAME["file_open"]).values())
    number = BY_NAME["file_open"].id
    for fields in (((end, 1, False),), ((end - 1, 4, True),), tuple((0, 4, False) for _ in range(9))):
        with pytest.raises(ValueError, match="field"):
            core.use({number: (False, ((0, fields, None),))}, False)
    path, sound = speed.slots_of(BY_NAME["file_open"])["path"].offset, (b"x", 3, False, 1)
    for texts in ((3, 0, 0, (), b"\0"), (path, 0, 0, ((4, 0, ()),), b"\0"), (path, 0, 0, ((0, 1, ()),), b"\0"),
                  *((path, 0, 0, ((0, 0, (wrong,)),), b"\0\0") for wrong in ((b"", *sound[1:]), (b"x", 4, False, 1),
                                                                           (b"x", 3, False, 2)))):
        with pytest.raises(ValueError, match=r"no such|text words"):
            core.use({number: (False, ((0, (), texts),))}, False)
    for texts in ("no", (path,), (path, 0, 0, ((0, 0, ("no",)),), b"\0")):
        with pytest.raises(TypeError):
            core.use({number: (False, ((0, (), texts),))}, False)
    with pytest.raises(ValueError, match="no such"):
        core.use({99: (False, ())}, False)
    with pytest.raises(TypeError):
        core.__init__(core, 1, {}, {})


TEXT = (b"ab", 3, False, 0)


@pytest.mark.parametrize("literals", [["no tuple"], (TEXT, "no"), ((b"", 3, False, 0),), ((b"x", 4, False, 0),),
                                      ((b"x", 3, False, 8192),), ((b"x" * (1 << 16), 3, False, 0),)])
def test_literals_that_are_none_are_refused(literals):
    """Of a wrong shape, empty, of no known relation, with too high a number, too many."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        extension().Finder(literals)


@settings(max_examples=300)
@given(st.lists(st.integers(-3, 40), max_size=6), st.binary(max_size=24), st.integers(-2, 6), st.integers(-2, 6))
def test_no_offsets_make_the_finder_read_elsewhere(offsets, data, first, count):
    """They are refused where they fall, lie outside of the data, or are fewer than was said."""
    finder, packed = extension().Finder((TEXT,)), struct.pack(f"{len(offsets)}i", *offsets)
    used = offsets[first:first + count + 1] if first >= 0 and count >= 0 else []
    sound = len(used) == count + 1 > 0 and used == sorted(used) and used[0] >= 0 and used[-1] <= len(data)
    if not sound:
        with pytest.raises(ValueError, match="offsets"):
            finder.find(packed, data, first, count, None)
        return
    numbers, firsts, left = finder.find(packed, data, first, count, None)
    found = struct.unpack(f"{count}i", numbers)
    assert [found[place] for place in left] == list(range(extension().SETS, extension().SETS + len(left)))
    for number, start, end in zip(found, used, used[1:], strict=False):
        text = data[start:end]
        assert (number >= extension().SETS) == (not text or not text.isascii())
        if number < extension().SETS:
            place = firsts[number]
            assert (b"ab" in text.lower()) == (b"ab" in data[used[place]:used[place + 1]].lower())


_LITERALS = st.lists(st.tuples(st.text("aB/", min_size=1, max_size=5), st.integers(0, 3), st.booleans()), max_size=8)
#: Each text: how much of the one before it stays, and what follows.
_WAYS = st.lists(st.tuples(
    st.integers(0, 12), st.text("aAbB/", max_size=6) | st.sampled_from(["a/" * 300, "a/" * 520])), max_size=24)


def _holds(text: str, literal: str, relation: int) -> bool:
    return (text == literal, text.startswith(literal), text.endswith(literal), literal in text)[relation]


@settings(max_examples=400)
@given(_LITERALS, _WAYS)
def test_texts_that_begin_like_the_one_before_are_found_like_all_others(literals, ways):
    """Literals that end in what two texts share, at its end, or with one of the texts; longer than a trail is, too."""
    texts: list[str] = []
    for kept, more in ways:
        texts.append((texts[-1][:kept] if texts else "") + more or "/")
    literals = [(literal if cased else fold(literal), relation, cased) for literal, relation, cased in literals]
    finder = extension().Finder(tuple((literal.encode(), relation, cased, atom)
                                      for atom, (literal, relation, cased) in enumerate(literals)))
    ends = list(accumulate(map(len, texts), initial=0))
    numbers, _, left = finder.find(struct.pack(f"{len(ends)}i", *ends), "".join(texts).encode(), 0, len(texts), None)
    assert left == []
    expected = [frozenset(atom for atom, (literal, relation, cased) in enumerate(literals)
                          if _holds(text if cased else fold(text), literal, relation))
                for text in texts]
    found = struct.unpack(f"{len(texts)}i", numbers)
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


def test_a_finder_is_made_once_and_takes_no_other_things():
    """What it holds would be lost."""
    finder = extension().Finder((TEXT,))
    with pytest.raises(TypeError):
        finder.__init__((TEXT,))
    with pytest.raises(TypeError):
        finder.find("text", b"", 0, 0, None)
    with pytest.raises(ValueError, match="offsets"):
        finder.find(memoryview(bytes(9))[1:], b"", 0, 1, None)  # not where an integer may stand


_codes = st.lists(st.integers(-2, 5), max_size=7)
_bits = st.none() | st.binary(max_size=2)
_rows = st.none() | st.lists(st.integers(-1, 6), max_size=5)


def packed(numbers: list[int] | None, kind: str) -> bytes | None:
    return None if numbers is None else struct.pack(f"{len(numbers)}{kind}", *numbers)


def told(codes: list[int], bits: bytes | None, first: int, count: int,
         rows: list[int] | None) -> list[int | None] | None:
    """The code of each row, None where it is null; None alone where that can't be said."""
    if first < 0 or count < 0 or first + count > len(codes) or (bits is not None and first + count > 8 * len(bits)):
        return None
    if rows is not None and not all(0 <= row < count for row in rows):
        return None
    return [None if bits is not None and not bits[(first + row) // 8] >> (first + row) % 8 & 1 else codes[first + row]
            for row in (range(count) if rows is None else rows)]


@settings(max_examples=500)
@given(_codes, _bits, st.integers(-1, 4), st.integers(-1, 7), _rows, st.integers(-1, 5))
def test_rows_are_marked_and_dealt_out_or_refused(codes, bits, first, count, rows, size):
    """Whatever buffers a damaged file makes of its columns, nothing beside them is read."""
    native, data = extension(), packed(codes, "i")
    for found, seen in ((told(codes, bits, first, count, rows), rows), (told(codes, bits, first, count, None), None)):
        right = found is not None and size >= 0 and all(each is None or -1 <= each < size for each in found)
        if not right:
            with pytest.raises(ValueError, match="hold together"):
                native.mark(packed(seen, "q"), data, bits, first, count, size)
            continue
        assert native.mark(packed(seen, "q"), data, bits, first, count, size) == bytes(
            each in found for each in range(size))
        if seen is None:
            dealt = native.deal(data, bits, first, count, size)
            assert [list(memoryview(each).cast("q")) for each in dealt] == [
                [row for row, code in enumerate(found) if code == each] for each in range(size)]


@settings(max_examples=500)
@given(st.lists(st.integers(-1, 3), max_size=7), st.integers(0, 4), _codes, _bits, _rows,
       st.lists(st.integers(-1, 3), max_size=6), st.integers(-1, 3), st.integers(0, 4))
def test_rows_are_joined_as_arrow_does_it_or_refused(before, kinds, codes, bits, rows, classes, null, most):
    """The same codes and parts as ``arrow.Codes.add`` gives."""
    native, joined, count = extension(), bytearray(packed(before, "i") or b""), len(codes)
    arguments = (kinds, packed(rows, "q"), packed(codes, "i"), bits, 0, count, packed(classes, "i"), null, most)
    if kinds < 1 or most < 1:
        with pytest.raises(OverflowError):
            native.join(joined, *arguments)
        return
    found = told(codes, bits, 0, count, rows)
    values = None if found is None or len(before) < len(found) or any(
        each is not None and not -1 <= each < len(classes) for each in found) else [
        null if each is None or each == -1 else classes[each] for each in found]
    if values is None or not all(0 <= each < most for each in values) or not all(
            0 <= each < kinds for each in before[:len(values)]):
        with pytest.raises(ValueError, match="hold together"):
            native.join(joined, *arguments)
        return
    parts = native.join(joined, *arguments)
    result = struct.unpack(f"{len(before)}i", joined)[:len(values)]
    assert [parts[code] for code in result] == list(zip(before, values, strict=False))
    assert parts == list(dict.fromkeys(zip(before, values, strict=False)))


def test_numbers_of_a_header_are_read_as_the_event_table_says():
    """The one layout that C has by heart."""
    assert speed.fits(extension())
    condition = Number("process.pid", Order.EQUAL, 0x01020304)
    run = Run([cases.rule(0, condition, [BY_NAME["file_unlink"]])], ())
    run.feed([ring.encode(record("file_unlink", 0x01020304, path="/x", uid=0x05060708, cgroup_id=0x1122334455667788,
                                 mntns=0x0A0B0C0D, cpu=0x0102, seq=0x0102030405060708, time_ns=77 * SECOND))])
    ((document, _),) = run.alerts
    assert (find(document, "user.effective.id"), find(document, "sensor.cgroup.id")) == (0x05060708, 0x1122334455667788)
    assert [field.name for field in HEADER][:4] == ["abi", "type", "cpu", "seq"]


# --- real -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docs/examples/intrusion.jsonl.zst", "tests/recordings/intrusion-5.10.jsonl.zst"])
def test_recorded_intrusion_raises_the_same_alerts_lap_after_lap(name):
    """Real events with the default rules, as the ring held them."""
    from sensor.rules import content

    recorded = ring.Ring(list(ring.documents(ROOT / name)))
    rules = list(content.load(content.discover([str(ROOT / "rules")])).rules)
    laps = [[list(recorded.laps(lap, 1))] for lap in range(3)]
    matcher = Matcher(rules)
    replayed = [(document["event"]["action"], rule.id) for document in recorded.documents
                for rule in matcher.match(document) if not rule.silent]
    pure, fast = both(rules, (), laps, found=recorded.found)
    alerts = [(alert["event"]["action"], alert["rule"]["id"]) for _, made in pure.alerts for alert in made]
    assert alerts == replayed * 3
    assert len(replayed) > 5
    assert fast.built < pure.built / 2


def test_laps_give_the_recording_back():
    """The bench's records, decoded and built again, are the documents that they were made of."""
    events = list(ring.documents(ROOT / "docs/examples/intrusion.jsonl.zst"))
    recorded = ring.Ring(events)
    users, clock = Users({0: "root"}.get), BootClock()
    table = ProcessTable("boot", clock=clock, users=users)
    table.seed(recorded.found)
    builder = Builder(table, clock, users)
    for document, raw in zip(events, recorded.laps(0, 1), strict=True):
        got = decode(raw)
        process = table.apply(got)
        assert process is not None
        made = builder.build(got, process)
        for key in ("event.action", "@timestamp", "process.pid", "process.executable", "process.command_line",
                    "process.working_directory", "file.path", "file.Ext.original.path", "sensor.flags",
                    "destination.ip", "destination.port", "user.id"):
            assert find(made, key) == find(document, key), key


# --- the switch -----------------------------------------------------------------------------------------


def test_switch_turns_the_extension_off(monkeypatch):
    """SENSOR_NATIVE=0 is pure Python, wherever the extension lies."""
    monkeypatch.setenv(native.SWITCH, "0")
    assert native.extension() is None
    assert "SENSOR_NATIVE=0" in native.state()
    done = subprocess.run([sys.executable, "-m", "sensor", "--version"], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert "pure Python (SENSOR_NATIVE=0)" in done.stdout


def test_extension_of_another_version_is_not_used(monkeypatch):
    """One that was built before an update is as good as none."""
    import types

    monkeypatch.delenv(native.SWITCH, raising=False)
    other = types.ModuleType("sensor._speed")
    monkeypatch.setitem(sys.modules, "sensor._speed", other)
    monkeypatch.setattr("sensor._speed", other, raising=False)
    assert native.extension() is None
    assert "another version" in native.state()
