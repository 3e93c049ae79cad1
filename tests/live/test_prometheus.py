"""A real Prometheus with the shipped alarms, scraping a running sensor."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import ROOT, prometheus_tool
from tests.live.harness import Sensor, ask, command, free_port
from tests.live.host import wait_until

ALARMS = ROOT / "prometheus" / "sensor.rules.yml"
SCRAPED_SECONDS = 30.0


class Server:
    """One Prometheus that scrapes one sensor each second and evaluates the alarms as often."""

    def __init__(self, directory: Path, sensor: Sensor) -> None:
        program = prometheus_tool("prometheus")  # or skips: before anything is open
        self.port = free_port()
        directory.mkdir()
        config = directory / "prometheus.yml"
        config.write_text(json.dumps({  # JSON is YAML
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALARMS)],
            "scrape_configs": [{"job_name": "sensor", "static_configs": [{"targets": [f"127.0.0.1:{sensor.port}"]}]}],
        }))
        self._log = (directory / "log").open("wb")
        self.process = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self._log, stderr=self._log, cwd=directory)

    def get(self, path: str) -> Any:
        """The data of an answer of its interface; None while there is none."""
        status, body = ask(self.port, f"/api/v1/{path}")
        return json.loads(body)["data"] if status == 200 else None

    def value(self, query: str) -> float | None:
        """Of the first sample that a query finds; None: it finds none."""
        data = self.get(f"query?query={quote(query)}")
        return float(data["result"][0]["value"][1]) if data and data["result"] else None

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sensor]:
    """A sensor of this test alone."""
    with Sensor(tmp_path / "sensor") as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, own: Sensor) -> Iterator[Server]:
    running = Server(tmp_path / "prometheus", own)
    try:
        wait_until(lambda: running.value('up{job="sensor"}') == 1, SCRAPED_SECONDS, "a sensor that is scraped", 0.2)
        yield running
    finally:
        running.close()


@pytest.mark.contract("loss-6")
def test_prometheus_reads_metrics_and_alarms_of_a_running_sensor(own: Sensor, server: Server) -> None:
    """All series come in, every alarm is evaluated; a rehearsed loss rings none, a sensor that is gone its own."""
    target = server.get("targets")["activeTargets"][0]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert server.value('scrape_samples_scraped{job="sensor"}') == pytest.approx(len(own.metrics()), rel=0.05)
    before = own.total("sensor_events_received_total")
    wait_until(lambda: (server.value("sum(sensor_events_received_total)") or 0) >= before, 10, "the events till now")

    subprocess.run(command("drill", "loss"), env=own.environment(), check=True, capture_output=True, timeout=60)
    wait_until(lambda: server.value('sum(sensor_events_lost_total{stage="drill"})'), 10, "the rehearsed loss")
    wait_until(lambda: all(rule["health"] == "ok" for rule in _alarms(server)), 10, "every alarm evaluated")
    assert {rule["name"]: rule["lastError"] for rule in _alarms(server) if "lastError" in rule} == {}
    assert _states(server)["SensorLoss"] == "inactive"
    assert {name for name, state in _states(server).items() if state == "firing"} == set()

    own.stop()
    wait_until(lambda: _states(server)["SensorDown"] == "pending", 15, "the alarm for a sensor that is gone")
    assert server.value('up{job="sensor"}') == 0


def _alarms(server: Server) -> list[Any]:
    groups = server.get("rules?type=alert")["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert found
    return found


def _states(server: Server) -> dict[str, str]:
    return {rule["name"]: rule["state"] for rule in _alarms(server)}
