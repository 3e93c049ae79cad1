"""The breaker in a running sensor, with a limit that any host is above: families go in order and come back."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensor.breaker import HOLD_SECONDS, ORDER, WINDOW_SECONDS
from tests.live.harness import Document, Sensor, action, get, of_kind
from tests.live.host import wait_until

EXPECTED = [name for name in ORDER if name != "shell"]  # which is off by default


def steps(sensor: Sensor) -> list[Document]:
    return [d for d in sensor.documents() if action(d) == "sensor-breaker"]


@pytest.fixture(scope="module")
def tripped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A sensor after a thread of this process has made system calls until nothing more could be switched off."""
    with Sensor(tmp_path_factory.mktemp("tiny"), settings="limits:\n  kernel_cpu: 0.02\n") as sensor:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                for _ in range(1000):
                    os.stat("/")

        worker = threading.Thread(target=work)
        worker.start()
        try:
            wait_until(lambda: len(steps(sensor)) >= len(EXPECTED), 300, "all families switched off", 0.5)
            yield SimpleNamespace(sensor=sensor, stop=stop)
        finally:
            stop.set()
            worker.join()


@pytest.mark.contract("panic-10a")
def test_families_go_in_the_declared_order_and_each_step_is_told(tripped: SimpleNamespace) -> None:
    """By event, metric and log line."""
    told = steps(tripped.sensor)[:len(EXPECTED)]
    assert [get(d, "sensor.breaker.family") for d in told] == EXPECTED
    for document in told:
        assert get(document, "sensor.breaker.action") == "shed"
        assert get(document, "sensor.breaker.measured") > get(document, "sensor.breaker.limit") == 200
    wait_until(lambda: tripped.sensor.total("sensor_breaker_shed") == len(EXPECTED), 20, "the gauge", 0.5)
    assert tripped.sensor.total("sensor_breaker_steps_total", action="shed") == len(EXPECTED)
    assert tripped.sensor.total("sensor_mode", mode="reduced") == 1
    for name in EXPECTED:
        assert f"{name} is switched off" in tripped.sensor.stderr()


@pytest.mark.contract("panic-10a")
def test_executions_are_seen_while_everything_else_is_off(tripped: SimpleNamespace, tmp_path: Path) -> None:
    """100 of 100; and an open is not."""
    sensor, since = tripped.sensor, len(tripped.sensor.documents())
    (tmp_path / "unseen").write_text("x")
    for number in range(100):
        subprocess.run(["/bin/true", f"seen-{number}"], check=True)
    sensor.wait_for(lambda d: "seen-99" in get(d, "process.args", ()) and action(d) == "process-exit", since, 30)
    seen = [get(d, "process.args")[1] for d in of_kind(sensor.documents()[since:], "process-exec")
            if "seen-" in " ".join(get(d, "process.args", ()))]
    assert seen == [f"seen-{number}" for number in range(100)]
    assert not [d for d in sensor.documents()[since:] if action(d) == "file-open"]


@pytest.mark.contract("panic-10a")
def test_a_family_comes_back_once_the_cost_is_low(tripped: SimpleNamespace) -> None:
    """The last one first, after the hold."""
    tripped.stop.set()
    seconds = (HOLD_SECONDS + WINDOW_SECONDS) * 2 + 60
    back: Document = wait_until(
        lambda: next((d for d in steps(tripped.sensor) if get(d, "sensor.breaker.action") == "restored"), None),
        seconds, "a family switched on again", 1)
    assert get(back, "sensor.breaker.family") == EXPECTED[-1]
    since = len(tripped.sensor.documents())
    os.close(os.memfd_create("after-the-breaker"))
    tripped.sensor.wait_for(lambda d: get(d, "file.name") == "after-the-breaker", since, 20)
