"""Ring records are read by the table, and garbage is refused with a reason."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import schema
from sensor.errors import AbiMismatch, RecordError, ShortRecord, UnknownType
from sensor.kernel.decode import decode
from sensor.schema import Event, Kind

KERNEL_EVENTS = [event for event in schema.EVENTS if event.id < 100]
HEADER = struct.Struct("<" + "".join(field.kind.value[1] for field in schema.HEADER))


def encode(event: Event, header: dict[str, int], values: list[Any]) -> bytes:
    """Write a record as the probes do; an independent twin of the decoder for the tests."""
    fixed = HEADER.size + sum(field.kind.value[2] for field in event.fields)
    fixed = (fixed + 7) & ~7
    tail = b""
    words: list[Any] = []
    for field, value in zip(event.fields, values, strict=True):
        if not field.kind.is_text:
            words.append(value)
        elif value is None:
            words.append(0)
        else:
            words.append((fixed + len(tail)) | len(value) << 16)
            tail += value
    head = {**dict.fromkeys((field.name for field in schema.HEADER), 0), "abi": schema.ABI_WORD,
            "type": event.id, **header}
    body = struct.pack("<" + "".join(field.kind.value[1] for field in event.fields), *words)
    return (HEADER.pack(*(head[field.name] for field in schema.HEADER)) + body).ljust(fixed, b"\0") + tail


def raw_values(event: Event) -> st.SearchStrategy[list[Any]]:
    """Raw values for the fields of an event: numbers in range, texts as bytes or absent."""
    limits = {"Q": (0, 2**64 - 1), "q": (-2**63, 2**63 - 1), "I": (0, 2**32 - 1), "i": (-2**31, 2**31 - 1),
              "H": (0, 65535)}
    parts: list[st.SearchStrategy[Any]] = []
    for field in event.fields:
        if field.kind is Kind.ADDRESS:
            parts.append(st.binary(min_size=16, max_size=16))
        elif field.kind.is_text:
            parts.append(st.none() | st.binary(max_size=40))
        else:
            parts.append(st.integers(*limits[field.kind.value[1]]))
    return st.tuples(*parts).map(list)


def expected(kind: Kind, raw: bytes | None) -> Any:
    """What a text field must read as, written down without the decoder."""
    if raw is None:
        return () if kind is Kind.LIST else ""
    text = raw.decode("utf-8", "surrogateescape")
    if kind is Kind.TEXT:
        return text.removesuffix("\0")
    if kind is Kind.PATH:
        return "/" + "/".join(reversed([part for part in text.split("\0") if part not in ("", "/")]))
    return tuple((text.removesuffix("\0")).split("\0")) if text else ()


@given(st.data())
def test_every_event_reads_back_what_was_written(data: st.DataObject) -> None:
    """Numbers, texts, paths, lists and absent texts survive for every row of the table."""
    event = data.draw(st.sampled_from(KERNEL_EVENTS))
    raw = data.draw(raw_values(event))
    record = decode(encode(event, {"pid": 7, "seq": 11, "flags": 3}, raw), ring=1)
    assert (record.type, record.pid, record.seq, record.flags, record.ring) == (event.id, 7, 11, 3, 1)
    for field, value, seen in zip(event.fields, raw, record.values, strict=True):
        assert seen == (expected(field.kind, value) if field.kind.is_text else value), field.name


@given(st.binary(max_size=400))
@pytest.mark.hostile("malformed-record")
def test_garbage_is_refused_and_never_raises_anything_else(data: bytes) -> None:
    """Whatever bytes come, the answer is a record or a RecordError."""
    try:
        decode(data)
    except RecordError as error:
        assert error.reason in ("short", "abi", "type")


@given(st.data())
@pytest.mark.hostile("malformed-record")
def test_a_damaged_record_never_reads_outside_itself(data: st.DataObject) -> None:
    """Bit flips and cuts in a sound record end in a record or in a RecordError."""
    event = data.draw(st.sampled_from(KERNEL_EVENTS))
    record = bytearray(encode(event, {}, data.draw(raw_values(event))))
    for position in data.draw(st.lists(st.integers(8, len(record) - 1), max_size=8)):
        record[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decode(bytes(record[:data.draw(st.integers(0, len(record)))]))
    except RecordError:
        pass


def test_reasons_tell_the_three_faults_apart() -> None:
    """Each kind of damage has its own reason, which becomes a metric label."""
    event = schema.BY_NAME["process_exit"]
    good = encode(event, {}, [0, 9])
    assert decode(good).values == (0, 9)
    with pytest.raises(ShortRecord):
        decode(good[:-1 - 4])
    with pytest.raises(AbiMismatch):
        decode(struct.pack("<I", schema.ABI_WORD ^ 1) + good[4:])
    with pytest.raises(UnknownType):
        decode(good[:4] + struct.pack("<H", 63) + good[6:])


def test_a_text_word_beyond_the_record_is_short() -> None:
    """A length that points outside is refused, not clipped."""
    event = schema.BY_NAME["memfd_create"]
    good = bytearray(encode(event, {}, [0, 0, b"x\0"]))
    struct.pack_into("<I", good, HEADER.size + 8, len(good) | 8 << 16)
    with pytest.raises(ShortRecord):
        decode(bytes(good))


def test_the_root_directory_is_not_an_absent_path() -> None:
    """A walk that ends at once is "/", a walk that never was is empty."""
    event = schema.BY_NAME["file_open"]
    numbers = [0] * (len(event.fields) - 1)
    assert decode(encode(event, {}, [b"", *numbers])).values[0] == "/"
    assert decode(encode(event, {}, [None, *numbers])).values[0] == ""


def test_path_components_come_leaf_first() -> None:
    """The kernel walks upwards; the text reads downwards."""
    event = schema.BY_NAME["file_open"]
    numbers = [0] * (len(event.fields) - 1)
    assert decode(encode(event, {}, [b"c\0b\xff\0a\0", *numbers])).values[0] == "/a/b\udcff/c"
