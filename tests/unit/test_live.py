"""The live engine's own reports, without rings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sensor.boottime import BootClock
from sensor.document import Builder
from sensor.kernel.throttles import Change
from sensor.live import Live, Outputs
from sensor.pipeline import Pipeline
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.snapshot import Facts, take


class Rules:
    actions = frozenset[str]()

    def match(self, _document: object) -> list[Any]:
        return []


class Rings:
    """No record ever comes; the kernel counts none."""

    rings: tuple[object, ...] = ()
    backlog = False
    malformed: dict[str, int] = {}  # noqa: RUF012

    def batch(self) -> list[Any]:
        return []

    def used(self) -> list[int]:
        return [0, 0]

    def read(self) -> dict[str, dict[str, int]]:
        return {"file_open": {"emitted": 0, "lost": 0, "filtered": 0, "nested": 0, "throttled": 7}}


class Told:
    """Throttles with something to tell once."""

    throttled = 1

    def __init__(self, changes: list[Change]) -> None:
        self.changes = changes

    def look(self, _now_ns: int) -> list[Change]:
        told, self.changes = self.changes, []
        return told


def live(said: list[str], told: list[Any], changes: list[Change] | None = None) -> Live:
    users, clock = Users(lambda _uid: None), BootClock(0)
    table = ProcessTable("boot", 100, clock=clock, users=users)
    pipeline = Pipeline(Rules(), table, Builder(table, clock, users), first_sequence=0)
    outputs: Any = SimpleNamespace(tell=told.extend, each=tuple, output=None, recorder=None)
    rings: Any = Rings()
    throttles: Any = Told(changes or [])
    return Live(pipeline, rings, rings, outputs, lambda: 10**9, throttles=throttles, say=said.append)


def test_a_drilled_loss_is_told_and_counted_in_a_stage_of_its_own() -> None:
    """Whoever watches for losses hears it; the account of the ring stays right."""
    said: list[str] = []
    told: list[Any] = []
    made = live(said, told)
    made.rehearse_loss(5)
    made.second()
    (document, _), = told
    assert document["event"]["action"] == "sensor-loss"
    assert document["sensor"]["loss"] == {"count": 5, "from": 0, "to": 0, "stage": "drill", "type": "all"}
    assert made.pipeline.counters.lost == {"drill": 5}
    assert "drill" in said[0]


def test_a_throttled_control_group_is_told_with_its_path_and_said() -> None:
    """The path that a process of it has shown; without one, the id."""
    said: list[str] = []
    told: list[Any] = []
    made = live(said, told, [Change("began", 11, "file", 3), Change("ended", 12, "network", 9)])
    assert made.pipeline.table is not None
    made.pipeline.table._places.learn(11, "/system.slice/noisy.service")
    made.second()
    made.second()
    documents = [document["sensor"]["throttle"] for document, _ in told]
    assert documents[0] == {"action": "began", "family": "file", "count": 3,
                            "cgroup": {"id": 11, "path": "/system.slice/noisy.service"}}
    assert documents[1]["cgroup"]["id"] == 12
    assert "noisy.service began" in said[0]
    assert "id 12 ended; 9 were dropped" in said[1]


def test_a_step_of_the_breaker_is_told_as_the_supervisor_wrote_it() -> None:
    """Number for number; the snapshot shows what is off."""
    told: list[Any] = []
    made = live([], told)
    made.breaker({"action": "shed", "family": "file", "reason": "kernel_cpu", "measured": 20_000, "limit": 10_000,
                  "sentence": "the probes took 2 %"})
    (document, _), = told
    assert document["sensor"]["breaker"] == {"action": "shed", "family": "file", "reason": "kernel_cpu",
                                             "measured": 20_000, "limit": 10_000}
    assert document["message"] == "the probes took 2 %"


def test_what_the_sensor_tells_of_itself_is_out_before_the_next_record_is_read(tmp_path: Path) -> None:
    """A record that ends the engine stays in the ring for the next one; this would be gone."""
    made = live([], [])
    made.outputs = Outputs()
    made.outputs.open(str(tmp_path / "out"), None)
    made.state("engine_restart", "3 hooks attached")
    assert '"engine_restart"' in (tmp_path / "out").read_text()
    for each in made.outputs.each():
        each.close()


def test_the_snapshot_shows_what_the_breaker_has_switched_off() -> None:
    """A family that is off is a reduced mode; without measurements there is no ratio."""
    facts = Facts(info={"programs": [{"family": name, "id": number, "program": name, "tag": "", "target": "x",
                                      "event": ""} for number, name in enumerate(("process", "file", "path"))]})
    facts.breaker = {"shed": ["file"], "counts": {"shed": 1, "restored": 0, "exhausted": 0}, "ppm": 12_000.0,
                     "lack": ""}
    snapshot = take(None, facts)
    assert snapshot.breaker_shed == {"file": 1.0, "path": 0.0}
    assert snapshot.breaker_steps["shed"] == 1
    assert snapshot.kernel_cpu_ratio == 0.012
    assert snapshot.mode == {"full": 0.0, "reduced": 1.0, "passive": 0.0}
    facts.breaker = {**facts.breaker, "lack": "no"}
    assert take(None, facts).kernel_cpu_ratio is None
