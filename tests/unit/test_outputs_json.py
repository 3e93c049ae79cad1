"""ECS JSON: one valid line a document, and every byte survives it."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.outputs.ecs_json import EncodeError, EscapeError, decode, encode, escape, unescape
from tests.unit.output_samples import event

TEXT = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(executable=TEXT, arguments=st.lists(TEXT, max_size=5), name=TEXT)
@pytest.mark.hostile("delimiters")
def test_any_bytes_in_paths_and_arguments_survive_a_round_trip(executable: str, arguments: list[str],
                                                                      name: str) -> None:
    """Whatever a process was called with, reading gives back what was written."""
    document = event()
    document["process"].update(executable=executable, args=arguments)
    document["file"] = {"path": name}
    before = json.dumps(document)
    line = encode(document)
    assert decode(line) == document
    assert json.dumps(document) == before, "encoding must not change the document"
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    line.decode("utf-8")


@given(TEXT)
def test_unescape_undoes_escape(text: str) -> None:
    """Escaping is a bijection onto its image, backslashes included."""
    assert unescape(escape(text)) == text
    escape(text).encode("utf-8")


def test_escaped_keys_are_listed_with_their_index() -> None:
    """The reader learns which texts stand for bytes, list items by number."""
    document = event()
    document["process"]["args"] = ["cat", "b\udcff\\d"]
    document["process"]["executable"] = "/tmp/\udc80"
    written = orjson.loads(encode(document))
    assert written["sensor"]["escaped"] == ["process.executable", "process.args.1"]
    assert written["process"]["args"] == ["cat", "b\\xff\\\\d"]
    assert written["sensor"]["cpu"] == 1


def test_sound_text_is_written_as_it_is_even_with_backslashes() -> None:
    """Nobody pays for escapes that are not needed."""
    document = event()
    document["process"]["command_line"] = "printf 'a\\xff\\n' \x1b[31m é"
    written = orjson.loads(encode(document))
    assert written["process"]["command_line"] == document["process"]["command_line"]
    assert "escaped" not in written["sensor"]


def test_list_of_escapes_vanishes_on_reading() -> None:
    """A document that was read is the document that was written: no trace of the escapes."""
    document = {"event": {"action": "process-exec"}, "process": {"name": "\udcfe"}}
    assert "sensor" not in decode(encode(document))


@pytest.mark.parametrize("escaped", [
    5, "process.name", [5], ["process.absent"], ["process"], ["process.args.9"], ["process.args.-1"],
    ["process.args.x"], ["process.args." + "9" * 5000], [""],
])
def test_list_of_escapes_that_lies_is_refused(escaped: object) -> None:
    """A key that names no text is an error with a name, never a crash."""
    document = event()
    document["sensor"]["escaped"] = escaped
    with pytest.raises(EscapeError):
        decode(orjson.dumps(document))


@pytest.mark.parametrize("value", [b"bytes", 1 << 70, "\ud800", {"a.b": "\udcff"}, object()])
def test_what_json_cannot_hold_is_an_encode_error(value: object) -> None:
    """The output counts it; it must not be another exception."""
    with pytest.raises(EncodeError):
        encode(event(labels=value))
