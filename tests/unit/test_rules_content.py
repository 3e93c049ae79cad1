"""Loading files that nobody vouches for: each problem is named with its place, and harms nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensor.errors import UsageError
from sensor.rules import files
from sensor.rules.content import Limits, discover, load
from sensor.rules.model import RuleSet, Source
from sensor.rules.yamlsafe import MAX_DEPTH, Items, Map, YamlError, documents
from tests.conftest import ROOT

GOOD = """title: {title}
id: {id}
logsource: {{product: linux, category: process_creation}}
detection:
  s: {{Image|endswith: /nc}}
  condition: s
"""


def good(number: int = 0, title: str = "Good") -> str:
    return GOOD.format(title=f"{title} {number}", id=f"00000000-0000-4000-8000-{number:012}")


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_all(folder: Path, limits: Limits | None = None) -> RuleSet:
    return load(discover([str(folder)]), limits or Limits())


HOSTILE = {
    "nesting of lists": ("[" * 50_000, f"nested deeper than {MAX_DEPTH}", 1),
    "nesting of maps": ("{a: " * 50_000, f"nested deeper than {MAX_DEPTH}", 1),
    "nesting by indentation": ("".join(" " * n + "- \n" for n in range(1, 200)), "nested deeper", MAX_DEPTH + 1),
    "alias bomb": ("a: &a [x, x]\nb: [*a, *a]\n", "anchors and aliases", 1),
    "alias": ("a: *b\n", "anchors and aliases", 1),
    "tag": ("a: 1\nb: !!python/object/apply:os.system [id]\n", "tags are not accepted", 2),
    "scalar tag": ("a: !!int x\n", "tags are not accepted", 1),
    "merge key": ("a: 1\n<<: {b: 2}\n", "merge keys", 2),
    "duplicate key": ("title: a\nlevel: low\ntitle: b\n", "'title' stands here twice, first in line 1", 3),
    "key that is a list": ("? [a, b]\n: c\n", "a key must be text", 1),
    "key that is a number": ("a: 1\n7: b\n", "a key must be text", 2),
    "key that is a boolean": ("on: push\n", "a key must be text", 1),
    "long number": ("a: " + "9" * 100_000 + "\n", "digits", 1),
    "broken flow": ("a: [1, 2\nb: 3\n", "not YAML", 2),
    "tab": ("a:\n\t- b\n", "not YAML", 2),
    "control character": ("a: 1\nb: \x01\n", "not YAML", 2),
    "lone surrogate": ('a: 1\nb: "\\ud800"\n', "", 2),
    "no UTF-8": (b"a: \xff\n", "no UTF-8 at byte 3", None),
    "impossible date": ("a: 1\ndate: 2026-13-45\n", "not a value", 2),
    "nothing": ("", "holds no rule", 1),
    "comments": ("# nothing\n---\n", "holds no rule", 1),
    "a list": ("- a\n", "not a mapping", 1),
    "a text": ("just words\n", "not a mapping", 1),
    "no rule": ("a: 1\n", "", 1),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.contract("content-7b")
@pytest.mark.hostile("hostile-content")
def test_hostile_file_is_refused_in_time_and_a_good_one_beside_it_loads(tmp_path, name):
    """The refusal has path, line and reason; the neighbour is not affected."""
    text, reason, line = HOSTILE[name]
    bad = put(tmp_path, "bad.yml", text)
    put(tmp_path, "good.yml", good())
    start = time.monotonic()
    rules = load_all(tmp_path)
    assert time.monotonic() - start < 2
    assert [rule.name for rule in rules.rules] == ["Good 0"]
    (refused,) = rules.refused
    assert reason in refused.reason
    assert (refused.path, refused.line) == (str(bad), line)
    assert str(refused).startswith(f"{bad}:{line}: " if line else f"{bad}: ")


def test_good_documents_before_a_broken_one_load(tmp_path):
    """A file of several rules gives those that come before the mistake."""
    put(tmp_path, "many.yml", f"{good(1)}---\n{good(2)}---\na: [\n")
    rules = load_all(tmp_path)
    assert [rule.name for rule in rules.rules] == ["Good 1", "Good 2"]
    assert [rule.line for rule in rules.rules] == [1, 8]
    assert len(rules.refused) == 1


@pytest.mark.contract("content-7b")
def test_file_over_its_bound_is_refused_whole(tmp_path):
    """A mebibyte is taken, a byte more isn't."""
    padding = "#" * (Limits().file_bytes - len(good()))
    path = put(tmp_path, "big.yml", good() + padding)
    assert len(load_all(tmp_path).rules) == 1
    put(tmp_path, "big.yml", good() + padding + "#")
    (refused,) = load_all(tmp_path).refused
    assert str(refused) == f"{path}: larger than 1048576 bytes"


def test_rules_over_the_count_are_refused_each(tmp_path):
    """The limit cuts the list, and says so per rule."""
    put(tmp_path, "many.yml", "---\n".join(good(number) for number in range(5)))
    rules = load_all(tmp_path, Limits(rules=3))
    assert len(rules.rules) == 3
    assert [(refused.rule, refused.line) for refused in rules.refused] == [("Good 3", 22), ("Good 4", 29)]


def test_second_rule_with_an_id_is_refused(tmp_path):
    """Two rules of one id couldn't be told apart in alerts or counters."""
    put(tmp_path, "a.yml", good(1, "First"))
    put(tmp_path, "b.yml", good(1, "Second"))
    rules = load_all(tmp_path)
    assert [rule.name for rule in rules.rules] == ["First 1"]
    assert f"is that of {tmp_path}/a.yml:1" in rules.refused[0].reason


def test_path_shown_and_path_opened_may_differ(tmp_path):
    """A file reached by descriptor is reported under the name that people know."""
    path = put(tmp_path, "x.yml", good())
    with path.open() as file:
        rules = load([Source("/etc/sensor/rules.d/x.yml", f"/proc/self/fd/{file.fileno()}")])
    assert rules.rules[0].path == "/etc/sensor/rules.d/x.yml"


@pytest.mark.hostile("odd-files")
def test_special_files_are_refused_without_waiting(tmp_path):
    """A FIFO nobody writes to, a directory and a missing file are refused at once."""
    os.mkfifo(tmp_path / "pipe.yml")
    sources = [Source(name, str(tmp_path / name)) for name in ("pipe.yml", "gone.yml", ".")]
    reasons = [refused.reason for refused in load(sources).refused]
    assert reasons == ["not a regular file", "can't be read: No such file or directory",
                       "not a regular file"]


def test_discovery_is_sorted_and_leaves_out_samples_and_other_files(tmp_path):
    """YAML files at any depth, in order; samples, notes and linked directories are none of them."""
    for name in ("b/2.yaml", "b/1.yml", "a.yml", "a.samples.yml", "b/1.samples.yaml", "README.md"):
        put(tmp_path, name, "")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [os.path.relpath(source.path, tmp_path) for source in discover([str(tmp_path)])]
    assert found == ["a.yml", "b/1.yml", "b/2.yaml"]


def test_path_that_is_not_there_is_a_usage_error(tmp_path):
    """A typo on the command line is not an empty rule set."""
    with pytest.raises(UsageError, match="no such file"):
        discover([str(tmp_path / "nope")])
    put(tmp_path, "a.yml", "")
    with pytest.raises(UsageError, match="more than 0"):
        discover([str(tmp_path)], Limits(files=0))


def test_matching_needs_no_parser():
    """The engine's hot path imports neither pySigma nor YAML."""
    script = ("import sys; import sensor.rules.matcher, sensor.rules.model;"
              "print([name for name in sys.modules if name.split('.')[0] in ('sigma', 'yaml', 'pyparsing')])")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lines_of_keys_and_items_are_known():
    """Refusals can point at any key or item."""
    (document,) = documents("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n")
    assert isinstance(document, Map)
    assert document.lines == {"a": 1, "b": 2}
    items = document["b"]
    assert isinstance(items, Items)
    assert items.lines == [3, 4]
    assert items[1].lines == {"c": 4, "d": 5}


def test_plain_values_have_the_types_that_sigma_writers_expect():
    """Implicit types are YAML 1.1's."""
    (document,) = documents("a: 1\nb: 1.5\nc: true\nd: ~\ne: '1'\nf: no\ng: |\n  x\n")
    assert dict(document) == {"a": 1, "b": 1.5, "c": True, "d": None, "e": "1", "f": False, "g": "x\n"}


_yaml = st.text(st.sampled_from("ab:- \n[]{}&*!|>'\"#,?%@`\t1.<=~\\\u00e9"), max_size=60)


@settings(max_examples=500, deadline=None)
@given(_yaml)
def test_any_text_is_data_or_a_named_error(text):
    """No input makes the reader raise anything but its own error, with a line."""
    try:
        for document in documents(text):
            assert document is None or isinstance(document, (Map, Items, str, int, float, bool)) or document
    except YamlError as error:
        assert 1 <= error.line <= text.count("\n") + 2


_json = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
                     lambda inner: st.one_of(st.lists(inner, max_size=3),
                                             st.dictionaries(st.sampled_from(
                                                 ["Image", "CommandLine|re", "|all", "x|contains|all", "condition",
                                                  "ProcessId|gt", "Image|fieldref", "a|base64offset"]), inner,
                                                 max_size=3)), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["title", "id", "tags", "level", "references", "date", "status"]), _json),
       _json, st.one_of(_json, st.sampled_from(["s", "1 of s*", "not s", "all of them"])))
@example({}, {"CommandLine|re": None}, "s")
@example({}, {"CommandLine|re": 5}, "s")
def test_any_shape_of_rule_loads_or_is_refused(tmp_path_factory, head, detection, condition):
    """Whatever YAML says under the keys of a rule, the result is a rule or a reason."""
    import json

    document = {"title": "A", "logsource": {"category": "process_creation"}, **head,
                "detection": {"s": detection, "condition": condition}}
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(json.dumps(document))
    rules = load([Source("any.yml", str(path))])
    assert len(rules.rules) + len(rules.refused) + len(rules.unsupported) == 1
    assert all(refused.reason for refused in rules.refused)


def test_suffixes_are_those_of_yaml():
    """Both spellings of the suffix count."""
    assert files.SUFFIXES == (".yml", ".yaml")
    assert files.is_samples("a/b.samples.yaml")
    assert not files.is_samples("a/samples.yml")
