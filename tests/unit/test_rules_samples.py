"""A rule's samples: what they stand for, and what running them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor import resources
from sensor.rules import samples
from sensor.rules.content import discover, load
from sensor.rules.samples import expand

RULE = """title: {title}
logsource: {{product: linux, category: {category}}}
detection: {{s: {{{field}|endswith: {value}}}, condition: s}}
"""


def run(folder: Path, text: str | None, *rules: tuple[str, str, str]) -> samples.Results:
    """Results of samples beside a file of rules (category, field, value)."""
    rules = rules or (("process_creation", "Image", "/nc"),)
    (folder / "r.yml").write_text("---\n".join(
        RULE.format(title=f"R{number}", category=category, field=field, value=value)
        for number, (category, field, value) in enumerate(rules)))
    if text is not None:
        (folder / "r.samples.yml").write_text(text)
    loaded = load(discover([str(folder)]))
    assert loaded.refused == ()
    return samples.run(loaded.rules)


def test_samples_that_hold_pass(tmp_path):
    """Both lists are run, and counted."""
    results = run(tmp_path, "positive: [{event: process_exec, Image: /bin/nc}]\n"
                            "negative: [{event: process_exec, Image: /bin/ncat},\n"
                            "           {event: process_exit, Image: /bin/nc}]\n")
    assert results == samples.Results(3, (), (), ())


def test_samples_that_fail_are_named_by_line(tmp_path):
    """A positive that doesn't match and a negative that does, each with file and line."""
    results = run(tmp_path, "positive:\n  - {event: process_exec, Image: /bin/cat}\n"
                            "negative:\n  - {event: process_exec, Image: /bin/nc}\n")
    assert [(failure.line, failure.positive) for failure in results.failures] == [(2, True), (4, False)]
    assert str(results.failures[0]) == f"{tmp_path}/r.samples.yml:2: R0: does not match a positive sample"
    assert results.passed == 0


@pytest.mark.parametrize("text", [
    None, "positive: [{event: process_exec, Image: /bin/nc}]\n", "negative: [{event: process_exec, Image: /bin/n}]\n",
    "positive: []\nnegative: []\n"])
def test_missing_samples_are_reported(tmp_path, text):
    """A rule needs both kinds."""
    assert run(tmp_path, text).missing == (str(tmp_path / "r.yml"),)


def test_rule_that_no_positive_sample_reaches_fails(tmp_path):
    """In a file of several rules each has to be shown to match."""
    results = run(tmp_path, "positive: [{event: process_exec, Image: /bin/nc}]\n"
                            "negative: [{event: process_exec, Image: /bin/x}]\n",
                  ("process_creation", "Image", "/nc"), ("process_creation", "Image", "/ncat"))
    assert [(failure.rule, failure.positive) for failure in results.failures] == [("R1", True)]


@pytest.mark.parametrize(("text", "line", "reason"), [
    ("positive:\n  - {event: proces_exec}\n", 2, "no event is called 'proces_exec'"),
    ("positive:\n\n  - {event: process_exec, Imag: x}\n", 3, "unknown field Imag (did you mean Image?)"),
    ("positive: [{event: process_exec, Image: [x]}]\n", 1, "a text or number expected"),
    ("positive: [{event: process_exec, Image: {a: b}}]\n", 1, "a text or number expected"),
    ("positive: [{event: process_exec, Image: null}]\n", 1, "a text or number expected"),
    ("positive: [{event: process_exec, sensor.flags: []}]\n", 1, "a list expected"),
    ("positive: [text]\n", 1, "a sample is a mapping"),
    ("positve: []\n", 1, "unknown key 'positve'"),
    ("positive: {}\n", 1, "a list expected"),
    ("- a\n", 1, "one mapping expected"),
    ("positive: []\n---\nnegative: []\n", 1, "one mapping expected"),
    ("positive: [\n", 2, "not YAML"),
])
def test_broken_samples_are_refused_with_line_and_reason(tmp_path, text, line, reason):
    """A sample that means nothing is not a sample that passes."""
    (refused,) = run(tmp_path, text).refused
    assert reason in refused.reason
    assert (refused.path, refused.line) == (str(tmp_path / "r.samples.yml"), line)


def test_sample_becomes_the_document_that_the_sensor_would_make():
    """Sigma's names, ECS keys, and what is derived from them."""
    assert expand({"event": "process_exec", "Image": "/usr/bin/cat", "process.args": ["cat", "/etc/shadow"],
                   "ParentImage": "/bin/sh", "UserId": 0, "ProcessId": 7}) == {
        "event": {"kind": "event", "category": ["process"], "type": ["start"], "action": "process-exec",
                  "dataset": "sensor.process_exec"},
        "process": {"executable": "/usr/bin/cat", "name": "cat", "args": ["cat", "/etc/shadow"],
                    "command_line": "cat /etc/shadow", "pid": 7, "parent": {"executable": "/bin/sh", "name": "sh"}},
        "user": {"id": "0"},
    }
    file = expand({"event": "file_open", "TargetFilename": "/tmp/a.sh"})["file"]
    assert file == {"path": "/tmp/a.sh", "directory": "/tmp", "name": "a.sh", "extension": "sh"}
    network = expand({"event": "network_accept", "DestinationIp": "::1", "DestinationPort": 22})
    assert network["network"] == {"direction": "ingress", "initiated": False, "type": "ipv6"}
    assert network["destination"] == {"ip": "::1", "port": 22}


@pytest.mark.parametrize(("flags", "kind"), [
    (None, "access"), (["created", "write"], "creation"), (["write"], "change"), (["trunc"], "change"),
    (["directory"], "access")])
def test_file_open_sample_is_what_its_flags_say(flags, kind):
    """Without flags it is a read."""
    sample = {"event": "file_open", "TargetFilename": "/x", **({"sensor.flags": flags} if flags else {})}
    assert expand(sample)["event"]["type"] == [kind]
    assert expand({**sample, "event.type": ["change"]})["event"]["type"] == ["change"]


CORRELATION = """title: C
correlation: {type: event_count, rules: base, group-by: [User], timespan: 10s, condition: {gte: 3}}
---
title: B
name: base
logsource: {category: process_creation}
detection: {s: {Image: /x}, condition: s}
"""


def correlated(folder: Path, text: str) -> samples.Results:
    """Results of samples beside a correlation of three starts of /x in ten seconds."""
    (folder / "c.yml").write_text(CORRELATION)
    (folder / "c.samples.yml").write_text(text)
    loaded = load(discover([str(folder)]))
    assert loaded.refused == ()
    return samples.run(loaded.rules, loaded.correlations)


EVENT = "event: process_exec, Image: /x, User: u"


def test_sequences_run_through_correlations(tmp_path):
    """Events with times: at, repeat, each, every; what a rule below matches is no alert."""
    results = correlated(tmp_path, f"""positive:
  - [{{{EVENT}, repeat: 3, every: 5}}]
  - [{{{EVENT}}}, {{{EVENT}, at: 4}}, {{{EVENT}, at: 8}}]
  - [{{{EVENT}, at: 100, each: {{ProcessId: [1, 2, 3]}}}}]
  - [{{{EVENT}, at: 20}}, {{{EVENT}, at: 12}}, {{{EVENT}, at: 16}}]
negative:
  - [{{{EVENT}, repeat: 3, every: 6}}]
  - [{{{EVENT}, repeat: 2}}, {{{EVENT}, at: 11}}]
  - {{{EVENT}}}
""")
    assert results == samples.Results(7, (), (), ())


def test_failing_sequences_are_named_by_line(tmp_path):
    """As single events are; the rule below doesn't stand in for the correlation."""
    results = correlated(tmp_path, f"positive:\n  - [{{{EVENT}}}]\nnegative:\n  - [{{{EVENT}, repeat: 3}}]\n")
    assert [(each.line, each.positive) for each in results.failures] == [(2, True), (4, False)]


@pytest.mark.parametrize(("event", "reason"), [
    ("{event: process_exec, at: -1}", "at: seconds expected"), ("{event: process_exec, at: x}", "at: seconds expected"),
    ("{event: process_exec, repeat: 0}", "repeat: a number"),
    ("{event: process_exec, repeat: 10001}", "repeat: a number"),
    ("{event: process_exec, repeat: 2, each: {User: [a]}}", "no each beside it"),
    ("{event: process_exec, each: {User: a}}", "one field and the list"),
    ("{event: process_exec, each: {User: [a], ProcessId: [1]}}", "one field and the list"),
    ("{event: process_exec, repeat: 9000}, {event: process_exec, repeat: 9000}", "more than 10000 events"),
    ("text", "is a mapping"), ("", "is empty"),
])
def test_broken_sequences_are_refused_with_line_and_reason(tmp_path, event, reason):
    """Before anything of them runs."""
    (refused,) = correlated(tmp_path, f"negative: []\npositive:\n  - [{event}]\n").refused
    assert refused.line == 3
    assert reason in refused.reason


def test_default_rules_do_what_their_samples_say():
    """Every rule that ships loads, has positive and negative samples, and all of them hold."""
    loaded = load(discover([str(resources.rules_dir())]))
    assert (loaded.refused, loaded.unsupported) == ((), ())
    assert len(loaded.rules) >= 40
    results = samples.run(loaded.rules, loaded.correlations)
    assert (results.failures, results.missing, results.refused) == ((), (), ())
    assert results.passed >= 2 * len(loaded.rules)
