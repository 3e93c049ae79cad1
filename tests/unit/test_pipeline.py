"""The pipeline: records and documents in, alerts and accounts out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sensor.alerts import alert
from sensor.boottime import BootClock
from sensor.document import Builder
from sensor.pipeline import Pipeline
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.rules.condition import Present
from sensor.rules.model import Rule
from sensor.schema import Flag
from sensor.sequences import SETTLE_NS
from sensor.watch import WatchList
from tests.unit.records import SECOND, execution, fork, record


def rule(identifier: str = "r1", **more: Any) -> Rule:
    """A rule, of which only what alerts show matters here."""
    values: dict[str, Any] = {
        "id": identifier, "name": "A rule", "level": "high", "description": "Why", "references": ("https://x.example",),
        "tags": ("attack.execution", "attack.t1059.004"), "techniques": ("T1059.004",), "falsepositives": (),
        "path": "r.yml", "line": 1, "categories": (), "events": (), "condition": Present("event.id")}
    return Rule(**{**values, **more})


class Everything:
    """A matcher whose one rule matches all documents of some actions."""

    def __init__(self, *actions: str) -> None:
        self.actions = frozenset(actions)
        self.seen: list[Mapping[str, Any]] = []

    def match(self, document: Mapping[str, Any]) -> Sequence[Rule]:
        """Remember what was asked."""
        self.seen.append(document)
        return (rule(),) if document["event"]["action"] in self.actions else ()


def pipeline(*actions: str, **more: Any) -> Pipeline:
    """A pipeline over an empty table, with a rule for each of *actions*."""
    clock, users = BootClock(), Users({0: "root"}.get)
    table = ProcessTable("boot", clock=clock, users=users)
    return Pipeline(Everything(*actions), table, Builder(table, clock, users), **more)


def test_document_is_built_only_where_somebody_wants_it() -> None:
    """A fork without a rule for it updates the table and costs no document."""
    made = pipeline("file-unlink")
    assert made.feed(fork(1, 1, 20, 2)) == (None, [])
    document, alerts = made.feed(record("file_unlink", 20, 2, path="/x"))
    assert document is not None
    assert len(alerts) == 1
    assert made.table is not None
    assert made.table.get(20, 2) is not None
    assert made.counters.documents == 1
    assert made.counters.received["process_fork"] == made.counters.received["file_unlink"] == 1


def test_all_events_are_documents_if_wanted() -> None:
    """Recordings take everything, whatever the rules are."""
    document, alerts = pipeline(all_events=True).feed(fork(1, 1, 20, 2))
    assert document is not None
    assert document["process"]["child"]["pid"] == 20
    assert alerts == []


def test_alert_is_the_event_with_the_rule_added() -> None:
    """The event's id leads back to it; the document itself is left as it was."""
    document, alerts = pipeline("file-unlink").feed(record("file_unlink", 20, 2, path="/x"))
    assert document is not None
    (made,) = alerts
    assert made["event"] == {**document["event"], "kind": "alert"}
    assert document["event"]["kind"] == "event"
    assert made["rule"] == {"id": "r1", "name": "A rule", "level": "high", "description": "Why",
                            "reference": ["https://x.example"]}
    assert made["threat"] == {"technique": {"id": ["T1059.004"]}}
    assert made["tags"] == ["attack.execution", "attack.t1059.004"]
    assert {key: made[key] for key in document if key != "event"} == {
        key: value for key, value in document.items() if key != "event"}


def test_alert_leaves_out_what_the_rule_does_not_have() -> None:
    """Absent is absent."""
    bare = rule(description="", references=(), tags=(), techniques=())
    assert alert({"event": {}}, bare) == {"event": {"kind": "alert"},
                                          "rule": {"id": "r1", "name": "A rule", "level": "high"}}


@pytest.mark.parametrize("document", [
    {}, {"event": None, "tags": "one", "threat": []}, {"tags": ["a", "attack.execution"], "threat": {"technique": 1}},
    {"threat": {"framework": "MITRE ATT&CK", "technique": {"id": ["T1"], "name": ["n"]}}}])
def test_alert_on_foreign_documents_keeps_what_is_there(document: dict[str, Any]) -> None:
    """Recordings of other sensors have tags and techniques of their own, in any shape; nothing is changed."""
    before = copy.deepcopy(document)
    made = alert(document, rule())
    assert document == before
    assert made["event"]["kind"] == "alert"
    assert made["threat"]["technique"]["id"][-1] == "T1059.004"
    assert made["tags"][-1] == "attack.t1059.004"
    assert len(made["tags"]) == len(set(made["tags"]))


def test_replayed_document_gives_the_same_alert_as_the_live_event() -> None:
    """One engine for both."""
    made = pipeline("file-unlink")
    document, alerts = made.feed(record("file_unlink", 20, 2, path="/x"))
    assert document is not None
    assert Pipeline(Everything("file-unlink")).feed_document(document) == alerts
    assert made.counters.matches == {"r1": 1}


def test_other_rules_take_over_from_the_next_event_on() -> None:
    """A reload needs no new pipeline."""
    made = pipeline()
    assert made.feed(record("file_unlink", path="/x")) == (None, [])
    made.use(Everything("file-unlink"))
    assert len(made.feed(record("file_unlink", path="/x", seq=1))[1]) == 1


@pytest.mark.parametrize(("path", "flags", "kept"), [
    ("/etc/shadow", 0, True), ("/tmp/shadow", 0, False), ("/tmp/shadow", Flag.WRITE, True),
    ("/tmp/shadow", Flag.CREATED, True), ("/tmp/shadow", Flag.TRUNC, True), ("/tmp/shadow", Flag.PATH_CUT, True),
    ("/tmp/x", Flag.WATCHED_INODE, True), ("", 0, False)])
def test_read_of_unwatched_file_is_dropped_and_counted(path: str, flags: Flag, kept: bool) -> None:
    """The kernel goes by names alone; writes, cut paths and hard links are never dropped."""
    made = pipeline("file-open", watch=WatchList(["/etc/shadow"]))
    document, alerts = made.feed(record("file_open", path=path, flags=flags))
    assert (document is not None, bool(alerts)) == (kept, kept)
    assert made.counters.filtered["file_open"] == (not kept)


def test_second_exit_makes_no_event() -> None:
    """It is counted instead."""
    made = pipeline("process-exit")
    assert made.feed(record("process_exit", 20, 2, seq=0))[0] is not None
    assert made.feed(record("process_exit", 20, 2, seq=1)) == (None, [])
    assert made.counters.dropped == {"duplicate_exit": 1}


def test_gap_becomes_a_loss_document_that_rules_see() -> None:
    """Exact ends and count, processor, kind state."""
    made = pipeline("sensor-loss")
    made.feed(record("process_fork", seq=5, cpu=3, child_pid=9, child_start_ns=2, time_ns=SECOND))
    made.feed(record("process_exit", seq=9, cpu=3, time_ns=SECOND))
    assert made.notices(SECOND) == []
    assert made.sequences.missing() == 3
    ((document, alerts),) = made.notices(SECOND + SETTLE_NS)
    assert document["event"]["kind"] == "state"
    assert document["event"]["action"] == "sensor-loss"
    assert document["sensor"] == {"loss": {"count": 3, "from": 6, "to": 8, "stage": "kernel_ringbuf", "type": "all"},
                                  "cpu": 3}
    assert "process" not in document
    assert len(alerts) == 1
    assert made.counters.lost == {"kernel_ringbuf": 3}
    assert made.counters.gaps == {3: 1}
    assert made.notices(99 * SECOND) == []


def test_a_crash_of_the_host_is_a_document_that_rules_see() -> None:
    """Whom it is attributed to, and the sentence."""
    made = pipeline("sensor-crash")
    document, _ = made.crash(("sysrq", "other", "sysrq", "sysrq", "certain", "2026-01-01T00:00:00Z", "6.12", "pstore",
                              "id", "sentence"), now_ns=SECOND)
    assert document["event"]["action"] == "sensor-crash"
    assert (document["sensor"]["crash"]["attributed"], document["message"]) == ("other", "sentence")


@pytest.mark.contract("loss-4")
def test_loss_told_by_count_is_not_counted_again_when_its_gap_shows() -> None:
    """At the tail, only the kernel's counters know; the numbers follow with the next record."""
    made = pipeline()
    made.feed(record("file_open", seq=0))
    made.loss(3, now_ns=SECOND)
    made.feed(record("file_open", seq=6))
    ((document, _),) = made.notices(2 * SECOND, final=True)
    assert document["sensor"]["loss"] == {"count": 2, "from": 1, "to": 5, "stage": "kernel_ringbuf", "type": "all"}
    made.feed(record("file_open", seq=8))
    ((document, _),) = made.notices(3 * SECOND, final=True)
    assert document["sensor"]["loss"]["count"] == 1
    assert made.counters.lost == {"kernel_ringbuf": 6}
    assert made.counters.received["file_open"] == 3
    assert sum(made.counters.received.values()) == 3


def test_document_of_a_disabled_rule_is_one_that_rules_see() -> None:
    """Switching detection off is something to detect."""
    made = pipeline("sensor-rule-disabled")
    document, alerts = made.rule_disabled("r9", "Another", "alerts", 700, 600, now_ns=5)
    assert document["event"]["action"] == "sensor-rule-disabled"
    assert document["sensor"]["rule"] == {"id": "r9", "name": "Another", "reason": "alerts", "measured": 700,
                                          "limit": 600}
    assert [each["rule"]["id"] for each in alerts] == ["r1"]
    assert alerts[0]["sensor"]["rule"]["id"] == "r9"


def test_state_document_says_what_happened() -> None:
    """One sentence, seen by rules and outputs; ids of the sensor's own events differ."""
    made = pipeline()
    one, _ = made.state("start", "Sensor started.", now_ns=5)
    two, _ = made.state("stop", "Sensor stopped.", now_ns=6)
    assert one["message"] == "Sensor started."
    assert one["sensor"]["state"] == "start"
    assert one["event"]["id"] != two["event"]["id"]


def test_cut_texts_are_counted_by_event() -> None:
    """Also where nobody wants the document."""
    made = pipeline()
    made.feed(execution(20, 2, "/bin/a", flags=Flag.TRUNCATED))
    assert made.counters.truncated["process_exec"] == 1


def test_pipeline_for_recordings_refuses_records() -> None:
    """Without a process table there is nobody to blame an event on."""
    with pytest.raises(TypeError, match="process table"):
        Pipeline(Everything()).feed(record("file_open"))
