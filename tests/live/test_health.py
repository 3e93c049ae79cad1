"""When the kernel is not well, or our probes see nothing any more, they go: really, and it is told everywhere."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sensor.kernel import bpf
from sensor.kernel.hooks import CANARY_CALL
from tests.live.harness import Document, Sensor, action, command, get
from tests.live.host import DETACH_SECONDS, descriptors, owned_programs, wait_until


class Watched(Sensor):
    """A sensor whose idea of the kernel's health is in *root*."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        super().__init__(directory, *arguments)
        self.root = directory / "root"
        for name in ("sys/kernel/oops_count", "sys/kernel/warn_count", "proc/sys/kernel/tainted"):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0\n")
        self.arguments = [sys.executable, "-m", "tests.live.vigilant", str(self.root),
                          *self.arguments[len(command()):]]

    def told(self, state: str, since: int = 0, seconds: float = 60) -> Document:
        """The event of a change of the sensor itself."""
        return self.wait_for(lambda d: action(d) == "sensor-state" and get(d, "sensor.state") == state, since, seconds,
                             f"the state {state}: {self.stderr()}")


@contextmanager
def manager(path: Path) -> Iterator[None]:
    """A service manager that hears everything and does nothing: the sensor stays up without probes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))

        def hear() -> None:
            while listening.recv(4096) != b"end":
                pass

        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"end", str(path))
            thread.join()


def canaries_seen(sensor: Sensor) -> float:
    return sensor.total("sensor_canaries_total", result="seen")


@pytest.mark.contract("panic-9")
def test_canaries_come_back_from_every_processor_and_are_no_events(tmp_path: Path) -> None:
    """Twice as many seconds, about twice as many canaries; none missing, none in the output."""
    with Watched(tmp_path) as sensor:
        cpus = len(os.sched_getaffinity(0))
        assert canaries_seen(sensor) >= cpus  # at the load
        wait_until(lambda: canaries_seen(sensor) >= 5 * cpus, 60, "canaries")
        assert sensor.total("sensor_canaries_total", result="missing") == 0
        wait_until(lambda: sensor.total("sensor_selftest_success") == 3, 30, "all three tests to be passed")
        assert "can't be watched" not in sensor.stderr()  # the rings
        assert sensor.total("sensor_canary_processors", state="watched") == cpus
        _, documents = sensor.watch(lambda: wait_until(
            lambda: canaries_seen(sensor) >= 8 * cpus, 60, "more canaries"))
        assert not [d for d in documents if "sensor-canary" in str(get(d, "process.name", ""))]


@pytest.mark.contract("panic-9")
def test_a_rise_detaches_everything_and_the_service_stays_and_says_why(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event, metric, readiness, log; and no program of ours."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with manager(tmp_path / "notify"), Watched(tmp_path / "sensor") as sensor:
        wait_until(lambda: canaries_seen(sensor) > 0, 60, "canaries")
        (sensor.root / "sys/kernel/oops_count").write_text("1\n")
        assert "oops_count rose from 0 to 1" in get(sensor.told("detached"), "message")
        assert list(owned_programs([sensor.pid])) == []
        assert "oops_count" in get(sensor.told("passive"), "message")
        wait_until(lambda: sensor.probe("/-/ready")[0] == 503, 30, "not ready")
        wait_until(lambda: sensor.total("sensor_passive_reason", reason="health") == 1, 30, "the reason")
        assert sensor.total("sensor_detachments_total", reason="oops", drill="no") == 1
        assert sensor.total("sensor_selftest_success", test="health") == 0
        assert sensor.stderr().count("all probes are detached") == 1
        assert "passive, nothing is seen" in sensor.stderr()


def test_without_a_service_manager_a_rise_ends_the_run_with_3(tmp_path: Path) -> None:
    """Whoever wants events is told that there will be none."""
    sensor = Watched(tmp_path).start()
    try:
        sensor.wait_ready()
        (sensor.root / "proc/sys/kernel/tainted").write_text(f"{1 << 7}\n")
        assert sensor.process is not None
        assert sensor.process.wait(60) == 3, sensor.stderr()
        assert "tainted" in sensor.stderr()
        assert "Traceback" not in sensor.stderr()
    finally:
        sensor.kill()


@pytest.mark.contract("panic-9")
def test_a_drill_of_the_canary_detaches_and_comes_back(tmp_path: Path) -> None:
    """Told as a drill everywhere; afterwards other programs see what happens."""
    with Watched(tmp_path) as sensor:
        before = set(owned_programs([sensor.pid]))
        (sensor.root / "drill").touch()
        assert get(sensor.told("detached"), "message").startswith("drill: ")
        sensor.told("engine_restart")
        after = wait_until(lambda: set(owned_programs([sensor.pid])), 60, "programs again")
        assert not after & before
        sensor.wait_ready()
        assert sensor.total("sensor_detachments_total", drill="yes") == 1
        assert sensor.total("sensor_detachments_total", drill="no") == 0
        sensor.settle(len(sensor.documents()))


@pytest.mark.contract("panic-9")
def test_a_program_that_is_never_called_is_noticed(tmp_path: Path) -> None:
    """The canary's program is taken out of the dispatcher's table, as if the kernel skipped it for ever."""
    sensor = Watched(tmp_path).start()
    try:
        sensor.wait_ready()
        wait_until(lambda: canaries_seen(sensor) > 0, 60, "canaries")
        table = next(int(fd) for fd, target in descriptors(sensor.pid).items() if target == "anon_inode:bpf-map"
                     and _name(sensor.pid, int(fd)) == "sensor_any")
        _take_out(sensor.pid, table)
        assert sensor.process is not None
        assert sensor.process.wait(60) == 3, sensor.stderr()
        assert "2 canaries in a row are missing (system call)" in sensor.stderr()
        wait_until(lambda: not list(owned_programs([sensor.pid])), DETACH_SECONDS, "programs gone")
        assert "canaries in a row" in get(sensor.told("detached", seconds=5), "message")
    finally:
        sensor.kill()


def _map_id(pid: int, fd: int) -> int:
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("map_id:")))


def _name(pid: int, fd: int) -> str:
    return bpf.map_info(_map_id(pid, fd)).name


def _take_out(pid: int, fd: int) -> None:
    there = bpf._call(bpf.MAP_GET_FD_BY_ID, struct.pack("<I", _map_id(pid, fd)))[0]
    try:
        bpf.map_delete(there, struct.pack("<I", CANARY_CALL))
    finally:
        os.close(there)


def test_a_killed_canary_costs_nothing(tmp_path: Path) -> None:
    """Another one is started with the next round."""
    with Watched(tmp_path) as sensor:
        wait_until(lambda: canaries_seen(sensor) > 0, 60, "canaries")
        pids = subprocess.run(["pgrep", "--parent", str(sensor.pid), "sensor-canary"], capture_output=True, text=True,
                              check=True).stdout.split()
        assert len(pids) == 1
        os.kill(int(pids[0]), signal.SIGKILL)
        seen = canaries_seen(sensor)
        wait_until(lambda: canaries_seen(sensor) > seen + 2, 60, "canaries again")
        assert list(owned_programs([sensor.pid]))
