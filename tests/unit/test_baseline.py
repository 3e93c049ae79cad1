"""Recordings of benign activity are cut down to the activity, and to what differs in it."""

from __future__ import annotations

from functools import cache

import orjson
import pytest

from tests.baseline import distillate
from tests.baseline.selection import Document, Engine, activities, rules
from tests.conftest import ROOT


@cache
def default_rules():
    return rules()


def event(number: int, **more: object) -> Document:
    return {"@timestamp": f"2026-11-21T10:00:0{number}.000000000Z",
            "event": {"id": f"x-{number}", "kind": "event", "action": "process-exec", "type": ["start"],
                      "category": ["process"], "sequence": number},
            "process": {"entity_id": f"e{number}", "pid": number, "executable": "/usr/bin/true",
                        "command_line": f"true {number}", "args": ["true", str(number)], **more},
            "sensor": {"cgroup": {"path": "/sensor-baseline"}}}


def test_distil_keeps_one_of_what_differs_in_numbers_only():
    """And both of what differs in a word; ids and times are made anew, the order stays."""
    given = [event(1), event(2), event(3, command_line="true --other")]
    kept = list(distillate.distil(given, Engine(default_rules())))
    assert [each["process"]["command_line"] for each in kept] == ["true 1", "true --other"]
    assert [each["event"]["id"] for each in kept] == ["baseline-1", "baseline-2"]
    assert [each["@timestamp"][:19] for each in kept] == ["2026-01-01T00:00:00", "2026-01-01T00:00:02"]
    assert "cgroup" not in kept[0]["sensor"]


def test_distil_keeps_events_that_raise_alerts_up_to_a_number():
    """However alike they are, a few stay: else a rule that tells them would look silent."""
    given = [event(number, executable="/dev/shm/x", executable_resolved="/dev/shm/x") for number in range(9)]
    engine = Engine(default_rules())
    kept = list(distillate.distil(given, engine))
    assert engine.by_rule
    assert len(kept) == 5


def test_activities_begin_where_the_root_was_entered(tmp_path):
    """Entering it, other processes and what stands above the activities are left out."""
    begin = event(2, args=["/bin/sh", "/baseline/all.sh", "packages"],
                  ancestors=["/usr/bin/unshare", "/machine/python"])
    inside = event(3, ancestors=["/bin/sh", "/usr/bin/unshare", "/machine/python"])
    other = event(4)
    other["sensor"]["cgroup"]["path"] = "/"
    recording = tmp_path / "r.jsonl"
    recording.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in (event(1), begin, inside, other)))
    found = list(activities(recording))
    assert [each["event"]["id"] for each in found] == ["x-2", "x-3"]
    assert found[1]["process"]["ancestors"] == ["/bin/sh"]


@pytest.mark.parametrize("name", ["packages", "development", "python", "upkeep", "administration", "services", "remote",
                                  "containers"])
def test_every_activity_has_its_script(name):
    """And the script says first what it does."""
    assert (ROOT / "tests" / "baseline" / "activities" / f"{name}.sh").read_text().startswith("# ")
