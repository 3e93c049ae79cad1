"""Random records, rules and processes for the tests that compare the C extension with Python."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

from sensor.parts import constant, sources
from sensor.process.model import Found
from sensor.process.users import Users
from sensor.rules.condition import (
    ANYWHERE,
    And,
    Condition,
    FieldMatch,
    Glob,
    Network,
    Not,
    Number,
    Or,
    Order,
    Present,
    Regex,
    Relation,
    Text,
    Wildcard,
)
from sensor.rules.model import Rule
from sensor.rules.values import fold
from sensor.schema import ABI_WORD, BY_NAME, EVENTS, HEADER, Event, Flag, Kind

KERNEL_EVENTS = [event for event in EVENTS if event.id < 100]
_FREQUENT = [BY_NAME[name] for name in ("process_fork", "process_exec", "process_exit", "file_open") for _ in range(3)]
_HEADER = struct.Struct("<" + "".join(field.kind.value[1] for field in HEADER))
SECOND = 1_000_000_000

WORDS = ["/usr/bin/Sh", "/usr/bin/sh", "sh", "-c", "etc", "passwd", "shadow", "tmp", "a", "", "K\u212a", "ß", "\u0130x",
         "é", b"\xe9".decode("utf-8", "surrogateescape"), "x" * 600, "/", "/usr/../bin/sh", "id 10.0.0.1"]
_WORD = st.sampled_from(WORDS)
_RAW = st.one_of(
    st.none(), st.lists(_WORD, max_size=4).map(lambda parts: "\0".join(parts).encode("utf-8", "surrogateescape")),
    st.lists(_WORD, max_size=4).map(lambda parts: "\0".join([*parts, ""]).encode("utf-8", "surrogateescape")),
    st.binary(max_size=12))
_LIMITS = {"Q": 2**64 - 1, "I": 2**32 - 1, "H": 65535}
#: Starts and times that meet and miss each other by a tick, and the ends of the range.
STARTS = [0, 1, SECOND, SECOND + 1, SECOND + 9_999_999, SECOND + 10_000_001, 2 * SECOND, 9 * SECOND, 2**64 - 1]
PIDS = [0, 1, 2, 3, 4, 5, 2**32 - 1]
_TIMES = [SECOND, 2 * SECOND, 3 * SECOND, 3 * SECOND + 1, 8 * SECOND, 9 * SECOND, 20 * SECOND, 2**64 - 1]
_FLAGS = [0, int(Flag.WRITE), int(Flag.CREATED | Flag.TRUNCATED), int(Flag.SCRIPT), int(Flag.FD_EXEC), 2**32 - 1]


def _number(field: Any) -> st.SearchStrategy[int]:
    code = field.kind.value[1]
    if field.name.endswith("start_ns"):
        return st.sampled_from(STARTS)
    if field.name.endswith("pid"):
        return st.sampled_from(PIDS)
    if code in "qi":
        top = 2 ** (63 if code == "q" else 31)
        return st.sampled_from([0, 1, -1, -115, -top, top - 1])
    return st.sampled_from([0, 1, 2, 6, 10, 17, 53, 443, 0o755, _LIMITS[code]])


def _value(field: Any) -> st.SearchStrategy[Any]:
    if field.kind is Kind.ADDRESS:
        return st.sampled_from([bytes(16), bytes([10, 0, 0, 1]) + bytes(12), bytes([0xFE, 0x80]) + bytes(14),
                                bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1])])
    return _RAW if field.kind.is_text else _number(field)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """One record as a probe writes it, of few processes and values."""
    event = draw(st.sampled_from([*KERNEL_EVENTS, *_FREQUENT]))
    head = {
        "abi": ABI_WORD, "type": event.id, "cpu": draw(st.sampled_from([0, 0, 0, 1, 1023, 1024, 65535])),
        "seq": draw(st.sampled_from([0, 1, 2, 3, 4, 5, 2**64 - 1])), "time_ns": draw(st.sampled_from(_TIMES)),
        "start_ns": draw(st.sampled_from(STARTS)), "pid": draw(st.sampled_from(PIDS)),
        "tid": draw(st.sampled_from(PIDS)),
        "uid": draw(st.sampled_from([0, 1000, 2**32 - 1])), "gid": draw(st.sampled_from([0, 7])),
        "cgroup_id": draw(st.sampled_from([0, 1, 2, 257])), "mntns": draw(st.sampled_from([0, 5])),
        "flags": draw(st.sampled_from(_FLAGS))}
    values = [draw(_value(field)) for field in event.fields]
    data = encode(event, head, values)
    damage = draw(st.sampled_from([0] * 12 + [1, 2, 3]))
    if damage == 1:
        data = data[:draw(st.integers(0, len(data)))]
    elif damage == 2:
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1:]
    elif damage == 3:
        data += draw(st.binary(max_size=9))
    return data


def encode(event: Event, head: dict[str, int], values: list[Any]) -> bytes:
    """The bytes of a record; texts are raw, None was never written."""
    tail, words = b"", []
    fixed = _HEADER.size + sum(field.kind.value[2] for field in event.fields)
    for field, value in zip(event.fields, values, strict=True):
        if field.kind.is_text:
            words.append(0 if value is None else (fixed + len(tail)) | len(value) << 16)
            tail += value or b""
        else:
            words.append(value)
    return (_HEADER.pack(*(head[field.name] for field in HEADER))
            + struct.pack("<" + "".join(field.kind.value[1] for field in event.fields), *words) + tail)


def keys_of(event: Event) -> list[str]:
    """Keys that documents of an event may hold, and some that none does."""
    found = [key for source in sources(event, Users(lambda _uid: None), lambda: 0) for key in source.names]
    return [*found, *constant(event), "process.args.0",
            "process.args.1", "event.category.0", "file.path.0", "file", "process.parent",
            "destination.domain", "process.entity_id", "process.parent.entity_id", "@timestamp"]


def _predicate(key: str) -> st.SearchStrategy[Condition]:
    literal = _WORD.map(fold)
    text = st.builds(Text, st.just(key), st.sampled_from(list(Relation)), literal, st.just(False))
    cased = st.builds(Text, st.just(key), st.sampled_from(list(Relation)), _WORD, st.just(True))
    number = st.builds(Number, st.just(key), st.sampled_from(list(Order)), st.sampled_from([0, 1, 2, 443, -1]))
    other = st.sampled_from([
        Present(key), Regex(key, "(?:sh|etc)/?[a-z]*$"), Regex(key, "^.{1,3}$"), Network(key, "10.0.0.0/8"),
        Wildcard(key, (Glob.MANY, "sh", Glob.ONE)), Wildcard(key, ("/", Glob.MANY, "passwd")), FieldMatch(
            key, Relation.EQUALS, "process.executable")])
    return st.one_of(text, text, cased, number, other)


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    """A few rules, each for a few events, over keys that they hold or don't."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        event = draw(st.sampled_from(KERNEL_EVENTS))
        more = draw(st.lists(st.sampled_from(KERNEL_EVENTS), max_size=3))
        keys = st.sampled_from([*keys_of(event), *(ANYWHERE for _ in range(draw(st.integers(0, 1))))])
        leaf = keys.flatmap(_predicate)
        condition = draw(st.recursive(leaf, lambda inner: st.one_of(
            st.builds(Not, inner), st.lists(inner, min_size=1, max_size=3).map(lambda items: And(tuple(items))),
            st.lists(inner, min_size=1, max_size=3).map(lambda items: Or(tuple(items)))), max_leaves=5))
        found.append(rule(number, condition, [event, *more]))
    return found


def rule(number: int, condition: Condition, events: list[Event]) -> Rule:
    """A rule with this condition."""
    return Rule(id=f"r{number}", name="", level="low", description="", references=(), tags=(), techniques=(),
                falsepositives=(), path="r.yml", line=1, categories=(),
                events=tuple(dict.fromkeys(event.action for event in events)), condition=condition)


found = st.builds(
    Found, st.sampled_from(PIDS), st.sampled_from(STARTS), st.sampled_from(PIDS), _WORD, st.booleans(),
    st.sampled_from([0, 1]), st.sampled_from([-1, 0, 1000]), st.sampled_from([-1, 0]), st.sampled_from([0, 1, 2]),
    st.sampled_from([0, 5]), st.fixed_dictionaries({}, optional={
        "filename": _WORD, "cwd": _WORD, "cgroup": st.sampled_from(["", "/a.service", "/docker/" + "0" * 64]),
        "session_pid": st.sampled_from(PIDS), "argv": st.lists(_WORD, max_size=2).map(tuple)}))
