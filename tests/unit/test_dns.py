"""Questions of DNS messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import dns


def message(*labels: bytes, kind: int = 1, flags: int = 0x0100, count: int = 1) -> bytes:
    """A query for the name made of *labels*."""
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack(">6H", 7, flags, count, 0, 0, 0) + name + struct.pack(">2H", kind, 1)


def test_question_is_name_and_type() -> None:
    """The case of the name is kept: resolvers use it as a nonce."""
    raw = message(b"WWW", b"example", b"org", kind=28)
    assert dns.question(raw) == dns.Question("WWW.example.org", "AAAA")


def test_root_is_a_dot_and_unknown_type_its_number() -> None:
    """A name without labels, and a type nobody registered."""
    assert dns.question(message(kind=4711)) == dns.Question(".", "4711")


def test_bytes_of_labels_survive() -> None:
    """A dot in a label is not a dot between labels, and bytes that are no UTF-8 come back."""
    found = dns.question(message(b"a.b\\", b"\xff\x00"))
    assert found is not None
    assert found.name == "a\\.b\\\\.\udcff\x00"


def test_name_of_255_bytes_is_read_and_a_longer_one_refused() -> None:
    """RFC 1035's limit counts lengths and root: 253 characters of text."""
    longest = (b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61)
    found = dns.question(message(*longest))
    assert found is not None
    assert len(found.name) == 253
    assert dns.question(message(*longest[:3], b"d" * 62)) is None


@pytest.mark.parametrize("raw", [
    b"", b"\0" * 11, message(b"x", flags=0x8180), message(b"x", count=0),
    message(b"x")[:12] + b"\xc0\x0c\0\x01\0\x01",  # a pointer to itself
    message(b"x")[:12] + b"\x41" + b"a" * 65 + b"\0\0\x01\0\x01",  # a label type long given up
    message(b"example")[:-1], message(b"example")[:15], message(b"example")[:12],
])
def test_unsound_message_has_no_question(raw: bytes) -> None:
    """Responses, pointers and anything cut short are refused."""
    assert dns.question(raw) is None


HEADED = st.binary(max_size=300).map(lambda tail: message(b"a")[:12] + tail)


@given(st.one_of(st.binary(max_size=600), HEADED))
def test_garbage_never_raises(raw: bytes) -> None:
    """Hostile datagrams give a question within the limits, or none."""
    found = dns.question(raw)
    assert found is None or (found.name and found.type)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.integers(0, 65535), st.data())
def test_cut_message_has_no_question(labels: list[bytes], kind: int, data: st.DataObject) -> None:
    """A question is read whole or not at all."""
    whole = message(*labels, kind=kind)
    assert dns.question(whole) is not None
    assert dns.question(whole[:data.draw(st.integers(0, len(whole) - 1))]) is None
