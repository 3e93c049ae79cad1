"""sensor rules disable and enable, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor import switches
from sensor.cli import call

RULE = """\
title: {name}
id: {id}
logsource: {{product: linux, category: process_creation}}
detection:
    selection: {{Image: /x}}
    condition: selection
"""
FIRST, SECOND = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings of a service with two rules and a state directory of its own."""
    rules = tmp_path / "rules"
    rules.mkdir()
    for number, name in ((FIRST, "first"), (SECOND, "the second")):
        (rules / f"{name}.yml").write_text(RULE.format(name=name, id=number))
    settings = tmp_path / "sensor.yaml"
    settings.write_text(f"rules: {{paths: [{rules}]}}\n")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return str(settings)


def off() -> list[str]:
    return sorted(switches.read(switches.state_home()))


@pytest.mark.contract("content-6")
def test_a_rule_is_switched_off_and_on_by_id_or_title(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And what is off stays off meanwhile."""
    assert call(["rules", "disable", "--config", config, FIRST]) == 0
    said = capsys.readouterr()
    assert f"disabled: {FIRST} first" in said.out
    assert "systemctl reload sensor" in said.err
    assert call(["rules", "disable", "--config", config, "the second"]) == 0
    assert off() == [FIRST, SECOND]
    assert call(["rules", "enable", "--config", config, "first"]) == 0
    assert off() == [SECOND]
    assert call(["rules", "enable", "--config", config, "all"]) == 0
    assert off() == []


def test_list_shows_what_is_off(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In both forms, with since when."""
    call(["rules", "disable", "--config", config, FIRST])
    since = switches.read(switches.state_home())[FIRST]
    capsys.readouterr()
    assert call(["rules", "list", str(tmp_path / "rules")]) == 0
    shown = capsys.readouterr().out
    assert [f"(disabled since {since})" in line for line in shown.splitlines()] == [True, False]
    assert call(["rules", "list", "--json", str(tmp_path / "rules")]) == 0
    assert [rule.get("disabled") for rule in json.loads(capsys.readouterr().out)] == [since, None]


@pytest.mark.contract("content-6")
def test_an_id_works_where_rules_cannot_be_loaded(config: str, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """That is when a switch is needed most; a title needs rules."""
    Path(config).write_text("rules: {paths: [/absent]}\n")
    assert call(["rules", "disable", "--config", config, FIRST]) == 0
    assert "/absent" in capsys.readouterr().err
    assert off() == [FIRST]
    assert call(["rules", "disable", "--config", config, "a title"]) == 2
    assert call(["rules", "enable", "--config", config, FIRST]) == 0
    assert off() == []


def test_enabling_what_is_not_off_changes_nothing(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing mistake is told, and nothing is half done."""
    call(["rules", "disable", "--config", config, FIRST])
    assert call(["rules", "enable", "--config", config, FIRST, "nonsense"]) == 2
    assert "not disabled: nonsense" in capsys.readouterr().err
    assert off() == [FIRST]


def test_disabling_again_keeps_the_first_time(config: str) -> None:
    """Since when is the question afterwards."""
    switches.write(switches.state_home(), {FIRST: "2020-01-01T00:00:00Z"})
    call(["rules", "disable", "--config", config, FIRST])
    assert switches.read(switches.state_home()) == {FIRST: "2020-01-01T00:00:00Z"}
