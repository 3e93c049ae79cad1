"""Correlations and settings of rules through the commands: replay, check, explain, test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor.cli import call
from tests.unit.correlation_helpers import BASE, Event, document, text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    few = text("event_count", "{lt: 3}", "prog_b", number=2)
    (tmp_path / "r.yml").write_text("\n---\n".join([BASE, text("event_count", "{gte: 3}", number=1), few]))
    return tmp_path


def record(path: Path, *events: Event) -> Path:
    """A recording of these events."""
    lines = []
    for event in events:
        made = document(event)
        made["event"] |= {"kind": "event"}
        lines.append(json.dumps(made))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_replay_correlates_across_recordings(capfd, folder):
    """The same alerts as live: with the event that completes it, and what is due when the last one has ended."""
    first = record(folder / "1.jsonl", Event(1, "x"), Event(2, "y"), Event(3, "b1", "b"))
    second = record(folder / "2.jsonl", Event(4, "z"), Event(20, "late", "c"))
    assert call(["replay", str(first), str(second), "--rules", str(folder / "r.yml"), "--format", "jsonl"]) == 0
    captured = capfd.readouterr()
    alerts = [json.loads(line) for line in captured.out.splitlines()]
    assert [(alert["rule"]["name"], alert["event"]["id"]) for alert in alerts[:2]] == [
        ("Correlation 1", "z"), ("Program c", "late")]
    assert [(alert["rule"]["name"], alert["sensor"]["correlation"]["events"]) for alert in alerts[2:]] == [
        ("Correlation 2", ["b1"])]
    assert json.loads(captured.err.splitlines()[-1])["by_rule"] == {
        "00000000-0000-4000-8000-000000000002": 1, "00000000-0000-4000-9000-000000000001": 1,
        "00000000-0000-4000-9000-000000000002": 1}


def test_replay_expects_correlations(capfd, folder):
    """A correlation is a rule among others to --expect."""
    events = record(folder / "1.jsonl", Event(1, "x"), Event(2, "y"), Event(3, "z"))
    expected = folder / "expected.yaml"
    for count, status in ((1, 0), (2, 1)):
        expected.write_text(f"00000000-0000-4000-9000-000000000001: {count}\n")
        assert call(["replay", str(events), "--rules", str(folder / "r.yml"), "--expect", str(expected)]) == status
    capfd.readouterr()


def test_check_list_and_explain_know_correlations(capfd, folder):
    """Their number, and what they are in one line."""
    assert call(["rules", "check", str(folder)]) == 0
    assert "5 of 5 rules loaded, 0 refused, 0 unsupported\namong them 2 correlations" in capfd.readouterr().out
    assert call(["rules", "check", "--json", str(folder)]) == 0
    assert json.loads(capfd.readouterr().out)["correlations"] == 2
    assert call(["rules", "list", str(folder)]) == 0
    assert "event_count          Correlation 1" in capfd.readouterr().out
    assert call(["rules", "explain", "corr_1", str(folder)]) == 0
    assert "fulfilled: >= 3 events within 10 s" in capfd.readouterr().out
    assert call(["rules", "explain", "--json", "corr_1", str(folder)]) == 0
    (facts,) = json.loads(capfd.readouterr().out)
    assert facts["group_by"] == {"User": ["user.name"]}
    assert call(["rules", "explain", "corr_1", str(folder), "--event",
                 str(record(folder / "e.jsonl", Event(1, "x")))]) == 2


def test_check_sums_up_reasons(capfd, folder):
    """The most frequent first."""
    foreign = "title: W{}\nlogsource: {{product: windows}}\ndetection: {{s: {{EventID: {}}}, condition: s}}\n"
    (folder / "w.yml").write_text("---\n".join(foreign.format(number, number) for number in range(3)))
    assert call(["rules", "check", str(folder)]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "    3 x events of product windows don't come from Linux"


def test_settings_of_rules_reach_the_commands(capfd, tmp_path):
    """--config gives placeholders and pipelines; a pipeline that is refused is status 2 with its place."""
    (tmp_path / "r.yml").write_text("title: R\nlogsource: {category: process_creation}\n"
                                    "detection: {s: {Image|expand: '%who%'}, condition: s}\n")
    (tmp_path / "s.yaml").write_text("rules:\n  placeholders: {who: [/a]}\n")
    assert call(["rules", "check", str(tmp_path / "r.yml")]) == 2
    assert call(["rules", "check", "--config", str(tmp_path / "s.yaml"), str(tmp_path / "r.yml")]) == 0
    events = record(tmp_path / "1.jsonl", Event(1, "x"))
    arguments = ["replay", str(events), "--rules", str(tmp_path / "r.yml"), "--format", "jsonl"]
    assert call([*arguments, "--config", str(tmp_path / "s.yaml")]) == 0
    assert call(arguments) == 2
    (tmp_path / "p.yaml").write_text("transformations:\n  - {type: nest}\n")
    (tmp_path / "s.yaml").write_text(f"rules: {{pipelines: [{tmp_path}/p.yaml]}}\n")
    capfd.readouterr()
    assert call(["rules", "check", "--config", str(tmp_path / "s.yaml"), str(tmp_path / "r.yml")]) == 2
    assert f"{tmp_path}/p.yaml:2: transformation nest is refused" in capfd.readouterr().err
