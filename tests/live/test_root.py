"""Root against the sensor's own rings, counters and maps: noticed or counted, and the engine reads on."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.kernel import bpf
from tests.live import kernelstate
from tests.live.harness import Sensor, action, get
from tests.live.host import owned_programs, wait_until

RINGS = ("sensor_process", "sensor_events")
GARBAGE = (0, 13, 1 << 20, (1 << 63) - 1, (1 << 64) - 8)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sensor]:
    """A sensor that nobody else uses: it is tampered with."""
    with Sensor(tmp_path / "sensor") as running:
        running.settle()
        yield running


@contextlib.contextmanager
def opened(sensor: Sensor, name: str) -> Iterator[int]:
    """A descriptor of one of the sensor's maps, got by its id."""
    [number] = [number for number in kernelstate.held([sensor.pid], "map") if bpf.map_info(number).name == name]
    fd = bpf._call(bpf.MAP_GET_FD_BY_ID, struct.pack("<I", number))[0]
    try:
        yield fd
    finally:
        os.close(fd)


def move(sensor: Sensor, name: str, position: int) -> None:
    """Write the consumer's position of a ring."""
    with opened(sensor, name) as fd, mmap.mmap(fd, mmap.PAGESIZE) as page, memoryview(page).cast("Q") as words:
        words[0] = position


def is_accounted(sensor: Sensor) -> bool:
    emitted, received, lost = sensor.flow()
    return emitted == received + lost


def displaced(sensor: Sensor) -> float:
    return sensor.total("sensor_events_lost_total", stage="decode", reason="ring")


@pytest.mark.hostile("root-tampers")
def test_a_moved_position_is_counted_and_set_right(own: Sensor) -> None:
    """Whatever is written there, on either ring: the same engine goes on, and what came of it is accounted for."""
    engine = own.engine()
    for name in RINGS:
        for position in GARBAGE:
            before = displaced(own)
            move(own, name, position)
            wait_until(lambda: displaced(own) > before, 30, "the move is counted")  # noqa: B023  called at once
            own.settle(len(own.documents()))
    assert own.engine() == engine
    wait_until(lambda: is_accounted(own), 30, "emitted = received + lost", 0.25)


@pytest.mark.hostile("root-tampers")
def test_an_engine_that_comes_to_a_moved_position_reads_on(own: Sensor) -> None:
    """The one before was stopped, and killed after the positions were moved."""
    engine, since = own.engine(), len(own.documents())
    os.kill(engine, signal.SIGSTOP)
    for name in RINGS:
        move(own, name, (1 << 63) + 8)
    os.kill(engine, signal.SIGKILL)
    own.wait_for(lambda d: get(d, "sensor.state") == "engine_restart", since, 60, "another engine")
    wait_until(own.is_ready, 60, "ready again")
    own.settle(len(own.documents()))
    assert displaced(own) == len(RINGS)


@pytest.mark.hostile("root-tampers")
def test_counters_full_of_garbage_end_nobody(own: Sensor) -> None:
    """Highest values in each row, numbers of records among them: a loss is told, and events come."""
    engine, attached, since = own.engine(), set(owned_programs([own.pid])), len(own.documents())
    with opened(own, "sensor_counters") as fd:
        for row in range(bpf.map_info(_number(own, "sensor_counters")).entries):
            bpf.map_update(fd, struct.pack("<I", row), b"\xff" * 40)
    own.wait_for(lambda d: action(d) == "sensor-loss", since, 30, "a loss")
    own.settle(len(own.documents()))
    assert (own.engine(), set(owned_programs([own.pid]))) == (engine, attached)
    assert own.probe("/metrics")[0] == 200


def _number(sensor: Sensor, name: str) -> int:
    return next(number for number in kernelstate.held([sensor.pid], "map") if bpf.map_info(number).name == name)


@pytest.mark.hostile("root-tampers")
def test_a_filter_filled_to_the_brim_is_told_and_emptied(own: Sensor) -> None:
    """Names that nobody asked for; afterwards the map is what it was."""
    since = len(own.documents())
    with opened(own, "sensor_names") as fd:
        before = set(bpf.map_keys(fd, 32, 2048))
        with contextlib.suppress(OSError):  # full
            for number in range(2048):
                bpf.map_update(fd, f"nobody-{number}".encode().ljust(32, b"\0"), struct.pack("<I", 3))
        assert len(bpf.map_keys(fd, 32, 2048)) == 1024
        told = own.wait_for(lambda d: get(d, "sensor.state") == "tampered", since, 60, "it is told")
        assert "watch_names" in get(told, "message")
        assert set(bpf.map_keys(fd, 32, 2048)) == before
    assert own.total("sensor_tampered_total", part="filters") >= 1
    own.settle(len(own.documents()))
