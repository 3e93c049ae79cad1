"""The batch matcher finds the pairs of event and rule that the stream matcher and the reference find."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor import arrow
from sensor.parquet import columns
from sensor.rules import batch as module
from sensor.rules import reference
from sensor.rules.batch import BatchMatcher
from sensor.rules.condition import ANYWHERE, Present, Regex, Relation, Text, all_of, any_of, negate
from sensor.rules.matcher import Matcher
from tests.unit.native_build import TINY, extension
from tests.unit.rules_helpers import EXEC, document, made, text_values, trees

pa = pytest.importorskip("pyarrow")

KEYS = ("process.executable", "process.command_line", "process.args", "process.parent.executable",
        "process.exit_code", "user.name", "destination.ip", "network.initiated", "event.id")
KINDS = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), list: pa.list_(pa.string())}
_texts = text_values.map(lambda text: text.encode("utf-8", "replace").decode())
_values: dict[type, st.SearchStrategy[Any]] = {
    str: _texts, int: st.integers(-3, 12), bool: st.booleans(), list: st.lists(_texts, max_size=3)}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row of a recording: values of the columns' own types, or none."""
    found: dict[str, Any] = {"event.action": draw(st.sampled_from([EXEC, EXEC, "file-open", None]))}
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=6)):
        found[key] = draw(_values[columns()[key]])
    return found


def nested(row: dict[str, Any]) -> dict[str, Any]:
    """The document of a row."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        if value is not None:
            *sections, last = key.split(".")
            node = made
            for name in sections:
                node = node.setdefault(name, {})
            node[last] = value
    return made


def arrays(table: list[dict[str, Any]], folded: bool) -> dict[str, Any]:
    """Columns of rows, the texts plain or in dictionaries, and then those in lists, too."""
    found = {}
    for key in ("event.action", *KEYS):
        kind = columns()[key]
        array = pa.array([row.get(key) for row in table], KINDS[kind])
        if folded and kind is list:
            array = arrow.folded(array)
        found[key] = array.dictionary_encode() if folded and kind is str else array
    return found


@pytest.mark.parametrize("flags", [None, (), TINY], ids=["pure", "native", "tiny"])
@settings(max_examples=200, deadline=None)
@given(conditions=st.lists(trees, min_size=1, max_size=4), table=st.lists(rows(), max_size=8), folded=st.booleans())
def test_batch_finds_what_stream_and_reference_find(flags, conditions, table, folded):
    """Whatever the rules and rows are, with the extension and without it."""
    native = None if flags is None else extension(*flags)
    rules = [made(number, tree, events=(EXEC, "file-open")) for number, tree in enumerate(conditions)]
    stream = Matcher(rules)
    found = BatchMatcher(rules, native).match(arrays(table, folded))
    for number, row in enumerate(table):
        event = nested(row)
        wanted = reference.match(rules, event)
        assert list(stream.match(event)) == wanted
        assert [rules[index] for index in found.get(number, ())] == wanted


def pairs(rules, table):
    matcher = BatchMatcher(rules)
    columns_of = arrays(table, folded=True)
    assert matcher.keys(columns_of) <= set(columns_of)
    return matcher.match({key: columns_of[key] for key in matcher.keys(columns_of)})


def test_columns_that_are_needed_are_enough():
    """Keys, items of lists and keywords ask for their columns and no others."""
    rules = [made(0, Text("process.args.1", Relation.EQUALS, "-e")),
             made(1, negate(Present("user.name"))),
             made(2, Regex("process.command_line", "^nc"))]
    table = [{"event.action": EXEC, "process.args": ["nc", "-E"], "process.command_line": "nc -E"},
             {"event.action": EXEC, "process.args": ["-e"], "user.name": "x", "process.command_line": "x"}]
    assert pairs(rules, table) == {0: (0, 1, 2)}
    assert BatchMatcher(rules[:1]).keys(columns()) == {"event.action", "process.args"}
    everywhere = [made(0, Text(ANYWHERE, Relation.CONTAINS, "needle"))]
    assert pairs(everywhere, [{"event.action": EXEC, "process.args": ["a", "a Needle"]},
                              {"event.action": EXEC, "event.id": "needle"}]) == {0: (0,)}


def test_long_values_and_empty_ones():
    """A megabyte in a thousand rows is one value; an empty text is not absent."""
    long = "x" * (1 << 20) + "END"
    rules = [made(0, Text("process.command_line", Relation.SUFFIX, "end")),
             made(1, Text("process.command_line", Relation.EQUALS, ""))]
    table = [{"event.action": EXEC, "process.command_line": [long, "", None][number % 3]} for number in range(1000)]
    found = pairs(rules, table)
    assert found == {number: (number % 3,) for number in range(1000) if number % 3 < 2}


def test_memories_are_bounded_and_no_answer_is_wrong(monkeypatch):
    """With room for hardly anything the answers are the same."""
    monkeypatch.setattr(module, "_DECISIONS", 2)
    monkeypatch.setattr(module, "_ANSWERS", 2)
    words = [f"w{number}" for number in range(8)]
    rules = [made(number, any_of(all_of(Text("process.command_line", Relation.CONTAINS, word),
                                        Regex("process.executable", f"{word}$")),
                                 negate(Regex("user.name", word)))) for number, word in enumerate(words)]
    table = [{"event.action": EXEC, "process.command_line": " ".join(words[number % 5:]),
              "user.name": words[number % 8], "process.executable": f"/{words[number % 7]}"} for number in range(200)]
    matcher = BatchMatcher(rules)
    found = matcher.match(arrays(table, folded=False))
    for number, row in enumerate(table):
        assert [rules[index] for index in found.get(number, ())] == reference.match(rules, nested(row))
    assert len(matcher._programs[EXEC]._decisions) <= 2


def test_rows_of_other_events_match_nothing():
    """No action, or one that no rule wants."""
    rules = [made(0, negate(Present("user.name")))]
    assert pairs(rules, [{"event.action": None}, {"event.action": "process-fork"}]) == {}
    assert BatchMatcher(rules).match({}) == {}
    assert reference.match(rules, document()) == rules


_items = st.none() | st.sampled_from(["", "a", "\0", "a\0", "ab"])


_lists = st.sampled_from([1, 3]).flatmap(lambda most: st.lists(st.none() | st.lists(_items, max_size=most), max_size=9))


@given(_lists, st.integers(0, 9), st.booleans())
def test_lists_are_told_apart_whatever_is_in_them(lists, start, folded):
    """None, no items, an empty one, none at all; folded or not; also in slices."""
    array = pa.array(lists, pa.list_(pa.string()))
    array = (arrow.folded(array) if folded else array)[start:]
    values, codes = arrow.distinct(array)
    assert [values[code] for code in codes.to_pylist()] == array.to_pylist()
    assert len({repr(value) for value in values}) == len(values)
    for index in (0, 1, 2):
        assert arrow.item_of(array, index).to_pylist() == [
            each[index] if each and len(each) > index else None for each in array.to_pylist()]


def test_texts_that_differ_by_what_no_rule_looks_for_are_one_to_a_decision():
    """With the extension a rule's scanner is asked once for each set of literals, not for each text."""
    rules = [made(0, Text("process.command_line", Relation.CONTAINS, "needle"))]
    matcher = BatchMatcher(rules, extension())
    table = [{"event.action": EXEC, "process.command_line": f"{number} {'Needle' if number % 10 == 3 else 'hay'}"}
             for number in range(1000)]
    assert sorted(matcher.match(arrays(table, folded=True))) == list(range(3, 1000, 10))
    (program,) = matcher._programs.values()
    assert len(program._scanners["process.command_line"]._sets) == 2


def test_an_action_that_a_dictionary_has_twice_is_one():
    """A file of others may have it so; the rows of both are found in their order."""
    rules = [made(0, Text("process.command_line", Relation.EQUALS, "a"))]
    actions = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1, 0], pa.int32()), pa.array([EXEC, EXEC, "x"]))
    table = {"event.action": actions, "process.command_line": pa.array(list("abaaa")).dictionary_encode()}
    for native in (None, extension()):
        assert sorted(BatchMatcher(rules, native).match(table)) == [0, 3, 4]
