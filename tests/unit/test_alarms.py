"""The alarms for Prometheus that are shipped: sound, about metrics that exist, and they ring."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.metrics import ROWS, full_name
from tests.conftest import ROOT, prometheus_tool

FILE = ROOT / "prometheus" / "sensor.rules.yml"
TEST = ROOT / "tests" / "data" / "prometheus_rules_test.yml"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(FILE.read_text("utf-8"))["groups"]
    return list(group["rules"])


def test_alarms_are_about_metrics_that_exist() -> None:
    """One that names another would never ring."""
    known = {full_name(name) for name in ROWS} | {"up"}
    for rule in rules():
        named = set(re.findall(r"\b(?:sensor_[a-z_]+|up)(?=[\[{ ])", rule["expr"]))
        assert named, rule["alert"]
        assert named <= known, rule["alert"]


def test_alarms_say_what_to_do() -> None:
    """Names are unique; each has a severity, what happened and where to look."""
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.contract("loss-6")
def test_a_loss_has_an_alarm_and_a_drill_has_none() -> None:
    """Of every stage but the rehearsals'."""
    (rule,) = [rule for rule in rules() if rule["alert"] == "SensorLoss"]
    assert 'sensor_events_lost_total{stage!="drill"}' in rule["expr"]


@pytest.mark.contract("loss-6")
def test_alarms_ring_in_prometheus(tmp_path: Path) -> None:
    """Its own linter and its own tests of rules: a loss rings, a rehearsal does not."""
    promtool = prometheus_tool("promtool")
    for path in (FILE, TEST):
        shutil.copy(path, tmp_path)
    for command in (["check", "rules", FILE.name], ["test", "rules", TEST.name]):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
