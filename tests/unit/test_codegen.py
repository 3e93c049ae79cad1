"""The C header follows from the event table."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from sensor import codegen, schema

PROBES = Path(__file__).parents[2] / "probes"


def test_committed_header_is_what_the_table_generates() -> None:
    """Whoever edits the table regenerates the header."""
    assert PROBES.joinpath("events.h").read_text() == codegen.events_header(), "run: python -m sensor.codegen"


def test_compiler_agrees_with_every_size_and_offset(tmp_path: Path) -> None:
    """The assertions in the header hold for a real compiler, not only for our arithmetic."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source = tmp_path / "check.c"
    source.write_text("typedef unsigned char __u8; typedef unsigned short __u16; typedef unsigned int __u32;\n"
                      "typedef int __s32; typedef unsigned long long __u64; typedef long long __s64;\n"
                      '#include "events.h"\nint main(void) { return 0; }\n')
    subprocess.run(["gcc", "-Wall", "-Werror", "-fsyntax-only", f"-I{PROBES}", str(source)], check=True)


def test_no_id_and_no_name_is_used_twice() -> None:
    """An id tells one event for ever."""
    assert len(schema.BY_ID) == len(schema.BY_NAME) == len(schema.EVENTS)


def test_every_record_fits_a_text_word() -> None:
    """A text word has 16 bits for the offset: fixed part and all texts must stay below."""
    for event in schema.EVENTS:
        assert codegen.fixed_bytes(event) + codegen.text_bytes(event) < 1 << 16, event.name


def test_layout_hash_changes_with_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new field makes another ABI, so that two versions can't misread each other."""
    before = schema._layout()
    assert hashlib.sha256(before.encode()).hexdigest() == schema.ABI
    monkeypatch.setattr(schema, "HEADER", (*schema.HEADER, schema.Field("extra", schema.Kind.U32, None, ".")))
    assert schema._layout() != before
