"""Benign activity: the default rules raise no more alerts on it than docs/rules.md says."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache

import orjson
import pytest

from tests.baseline import DATA, distillate
from tests.baseline.selection import Document, Engine, activities, lines_of, rules
from tests.conftest import ROOT

DISTILLATE = DATA / "benign.jsonl.zst"


@cache
def default_rules():
    return rules()


@cache
def figures():
    return json.loads((DATA / "baseline.json").read_text())


@cache
def alerts() -> Counter[str]:
    return Engine(default_rules()).over(DISTILLATE).by_rule


def levels(counts) -> Counter[str]:
    about = {rule.id: rule.level for rule in default_rules().every}
    found: Counter[str] = Counter()
    for number, count in counts.items():
        found[about[number]] += count
    return found


def test_distillate_raises_exactly_the_alerts_that_are_expected():
    """By rule; a rule that became noisier, or blind to what it told before, is a change to look at."""
    expected = json.loads((DATA / "benign.expect.json").read_text())
    assert dict(alerts()) == expected


def test_distillate_raises_no_more_alerts_of_a_level_than_the_documents_say():
    """What was measured on the whole recording bounds what its distillate may raise."""
    measured = levels(figures()["alerts"])
    assert all(count <= measured[level] for level, count in levels(alerts()).items())
    assert measured["critical"] == 0


def test_documents_have_the_figures_of_the_measurement():
    """The number of events, and a row for each rule that raised alerts."""
    page = (ROOT / "docs" / "rules.md").read_text()
    table = page[page.index("<!-- begin baseline -->"):page.index("<!-- end baseline -->")]
    assert f"{figures()['events']:,} events on {figures()['date']}" in table
    rows = re.findall(r"^\| [^|]+ \| (?:critical|high|medium|low) \|", table, re.MULTILINE)
    assert len(rows) == len(figures()["alerts"])
    assert figures()["events"] >= 200_000


def test_distillate_is_rich_small_and_says_nothing_of_the_machine():
    """Thousands of events of every kind that rules look at, and no name of where it was made."""
    assert DISTILLATE.stat().st_size < 1_500_000
    text = b"".join(lines_of(DISTILLATE))
    documents = [orjson.loads(line) for line in text.splitlines()]
    assert len(documents) > 5000
    actions = {document["event"]["action"] for document in documents}
    assert {"process-exec", "file-open", "file-rename", "file-unlink", "network-connect", "network-accept",
            "credentials-change", "file-chmod", "namespace-change"} <= actions
    assert not re.search(rb"/work|\.venv/bin/python -m|sensor-baseline|/home/(?!dev|ops|carol|art)\w", text)


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
    begin["process"]["parent"] = {"entity_id": "p", "executable": "/usr/bin/unshare", "command_line": "unshare /root/x"}
    inside = event(3, ancestors=["/bin/sh", "/usr/bin/unshare", "/machine/python"])
    other = event(4)
    other["sensor"]["cgroup"]["path"] = "/"
    recording = tmp_path / "r.jsonl"
    recording.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in (event(1), begin, inside, other)))
    found = list(activities(recording))
    assert [each["event"]["id"] for each in found] == ["x-2", "x-3"]
    assert found[1]["process"]["ancestors"] == ["/bin/sh"]
    assert found[0]["process"]["parent"] == {"entity_id": "p", "executable": "/usr/bin/unshare"}


@pytest.mark.parametrize("name", ["packages", "development", "python", "upkeep", "administration", "services", "remote",
                                  "containers"])
def test_every_activity_has_its_script(name):
    """And the script says first what it does."""
    assert (ROOT / "tests" / "baseline" / "activities" / f"{name}.sh").read_text().startswith("# ")
