"""The control socket of a running sensor: status, top, drills, and what is left after a kill."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Sensor, action, command, get
from tests.live.host import children, wait_until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensor]:
    """A sensor of this file: drills are events, which others would count."""
    with Sensor(tmp_path_factory.mktemp("status")) as running:
        yield running


def ask(sensor: Sensor, *words: object, status: int = 0) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False, cwd="/",
                          env=sensor.environment())
    assert done.returncode == status, done.stderr
    return done.stdout if not status else done.stderr


def test_status_says_what_runs(own: Sensor) -> None:
    """The mode, the process of this very sensor, its probes by family, and rates of what was done meanwhile."""
    status = json.loads(ask(own, "status", "--json", "--over", "2s"))
    assert status["mode"] in ("full", "reduced")
    assert status["pid"] == own.pid
    assert status["engine"]["pid"] in children(own.pid)
    assert status["engine"]["rss_bytes"] > 10 << 20
    families = {row["family"] for row in status["probes"]}
    assert {"process", "syscall"} <= families
    assert any("process_exec" in row["events"] for row in status["probes"] if row["family"] == "process")
    assert status["events"]["received"] > 0
    assert status["events"]["lost"] == 0
    assert status["rules"]["loaded"] > 50
    assert status["guard"]["armed"] and status["guard"]["strikes"] == 0
    assert status["metrics"] == f"127.0.0.1:{own.port}"
    assert {row["id"] for row in status["programs"]} and status["kernel"]["map_bytes"] > 0
    assert "mode" in ask(own, "status")


def test_top_prints_as_often_as_asked(own: Sensor) -> None:
    """Plain text where there is no terminal."""
    out = ask(own, "top", "--count", "2", "--interval", "500ms")
    assert out.count("PROGRAM") == 2
    assert "\x1b" not in out


@pytest.mark.contract("panic-8b")
def test_a_drill_leaves_event_line_and_metric(own: Sensor) -> None:
    """The boot guard's, whose real state stays as it was."""
    since = len(own.documents())
    assert "after two passive" in ask(own, "drill", "guard")
    event = own.wait_for(lambda d: action(d) == "sensor-state" and get(d, "sensor.state") == "drill", since, 20)
    assert get(event, "message").startswith("drill guard: ok: ")
    assert "sensor: drill guard: ok: " in own.stderr()
    wait_until(lambda: 'sensor_drills_total{drill="guard",result="ok"} 1.0' in own.probe("/metrics")[1], 10, "metric")
    assert json.loads(ask(own, "status", "--json"))["guard"]["strikes"] == 0


@pytest.mark.hostile("restart")
def test_a_kill_leaves_a_socket_that_says_so_and_the_next_sensor_takes(tmp_path: Path) -> None:
    """No command hangs on it."""
    with Sensor(tmp_path / "first") as first:
        path = first.directory / "run" / "control"
        assert path.stat().st_mode & 0o777 == 0o600
        first.kill()
        assert "no sensor is running" in ask(first, "status", status=3)
        assert path.exists()
        first.start().wait_ready()
        assert json.loads(ask(first, "status", "--json"))["pid"] == first.pid
        first.stop()
        assert not path.exists()
    assert os.path.isdir(path.parent)
