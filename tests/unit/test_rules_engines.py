"""Stream, batch, SQL and reference agree on what is recorded: from documents to Parquet and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sensor import parquet
from sensor.hunting import Hunt
from sensor.reading import Reader
from sensor.rules import reference
from sensor.rules.condition import Number, Order, Present, Regex, Relation, Text, all_of, negate
from sensor.rules.matcher import Matcher
from tests.unit.output_samples import event
from tests.unit.rules_helpers import made, trees
from tests.unit.test_batches import by_columns, by_documents, convert

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")

EXE, CMD, ARGS, CODE, USER = ("process.executable", "process.command_line", "process.args", "process.exit_code",
                              "user.name")
ACTIONS = ("process-exec", "process-exit", "network-connect")
MEGABYTE = "a" * (1 << 20) + "/B"
_texts = st.one_of(st.text("aAbB/.- ßK\u212a1", max_size=5), st.sampled_from(
    ["", "a\udc80", "\udcff", "\udcc3\udca9", "\x00", "\ufffd", "a\nb", "1", "-5", "\\xff", "2026-01-01T00:00:00Z"]))
#: Values that a document of ours has at a key; a text that is no UTF-8, a foreign key and a long text among them.
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    EXE: _texts, CMD: st.one_of(_texts, st.just(MEGABYTE)), ARGS: st.lists(_texts, max_size=3),
    CODE: st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**64 - 1]), USER: _texts,
    "process.parent.executable": _texts,
    "destination.ip": st.sampled_from(["10.0.0.1", "::1", "fe80::1"]), "labels.team": _texts}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document of one of three events, with any of the keys, or without them."""
    found = event(draw(st.integers(0, 5)))
    found["event"]["action"] = draw(st.sampled_from(ACTIONS))
    for key, values in _VALUES.items():
        *outer, last = key.split(".")
        node = found
        for name in outer:
            node = node.setdefault(name, {})
        node.pop(last, None)
        if draw(st.booleans()):
            node[last] = draw(values)
    return found


def ids(pairs: list[tuple[dict[str, Any], tuple[Any, ...]]]) -> list[tuple[str, ...]]:
    return [tuple(rule.id for rule in rules) for _, rules in pairs]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(trees, min_size=1, max_size=3), st.lists(documents(), min_size=1, max_size=6))
@example([Text(CMD, Relation.SUFFIX, "/b"), Regex(CMD, "^a+/B$"), negate(Present(CMD))], [
    {**event(0), "process": {"command_line": MEGABYTE}}, {**event(1), "process": {"command_line": MEGABYTE[:-1]}},
    {**event(2), "process": {}}, {**event(3), "process": {"command_line": ""}}])
@example([Text("process.args.1", Relation.EQUALS, "-c"), negate(Text("process.args.0", Relation.EQUALS, "a\udc80"))], [
    {**event(0), "process": {"args": ["sh", "-C"]}}, {**event(1), "process": {"args": ["a\udc80", "-c"]}},
    {**event(2), "process": {"args": []}}, {**event(3), "process": {"args": [""]}}])
@example([all_of(Number(CODE, Order.GREATER, 2**53), Present(CODE))], [
    {**event(number), "process": {"exit_code": code}} for number, code in enumerate((2**53, 2**53 + 1, 2**64 - 1))])
def test_engines_agree_on_recordings(tmp_path: Path, conditions: list[Any], found: list[dict[str, Any]]) -> None:
    """The reference on the documents themselves; the others on the recording made of them."""
    rules = [made(number, tree, events=ACTIONS) for number, tree in enumerate(conditions)]
    wanted = [tuple(rule.id for rule in matched) for document in found
              if (matched := reference.match(rules, document))]
    stream = Matcher(rules)
    streamed = [tuple(rule.id for rule in stream.match(document)) for document in found]
    assert [each for each in streamed if each] == wanted
    path = tmp_path / "r.parquet"
    recording = convert(path, found)
    events, read, _ = by_documents(recording, rules)
    assert events == len(found)
    assert ids(read) == wanted
    assert ids(by_columns(recording, rules)[1]) == wanted
    assert ids(list(Hunt(rules).run(recording, Reader()))) == wanted
    path.unlink()


def test_drawn_documents_take_every_way() -> None:
    """Some values have columns, one is kept beside them: else the test above would compare less than it says."""
    columns = parquet.columns()
    assert set(_VALUES) - set(columns) == {"labels.team"}
    assert {columns[key] for key in _VALUES if key in columns} == {str, int, list}
