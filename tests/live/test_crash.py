"""Each of the three processes killed with SIGKILL: nothing stays in the kernel, and the engine comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Sensor, action, get
from tests.live.host import (
    DETACH_SECONDS,
    alive,
    children,
    no_stray_programs,
    owned_programs,
    program_ids,
    wait_gone,
    wait_until,
)

RESTART_SECONDS = 10.0


@pytest.fixture
def before() -> set[int]:
    return set(program_ids())


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sensor]:
    """A sensor of this test alone; always gone afterwards."""
    sensor = Sensor(tmp_path / "sensor")
    try:
        yield sensor
    finally:
        sensor.kill()


@pytest.mark.contract("panic-5b")
@pytest.mark.hostile("kill", "restart")
def test_kill_of_the_engine_leaves_the_programs_and_it_restarts(own: Sensor, before: set[int]) -> None:
    """The same programs stay attached; a new engine reads on within ten seconds and says so."""
    own.start().wait_ready()
    attached = set(owned_programs([own.pid]))
    assert attached
    assert attached.isdisjoint(before)
    for _ in range(2):
        since, killed = len(own.documents()), time.monotonic()
        engine = own.kill_engine()
        mark = f"after-{engine}"

        def seen(mark: str = mark, since: int = since) -> bool:
            subprocess.run(["/bin/true", mark], check=True)
            return any(mark in get(d, "process.args", ()) for d in own.documents()[since:])

        wait_until(seen, RESTART_SECONDS, "events after the restart of the engine", 0.2)
        assert time.monotonic() - killed <= RESTART_SECONDS
        assert own.engine() != engine
        assert set(owned_programs([own.pid])) == attached
        own.wait_for(
            lambda d: action(d) == "sensor-state" and get(d, "sensor.state") == "engine_restart",
            since,
            RESTART_SECONDS,
            "a document about the restart",
        )
    wait_until(own.is_ready, RESTART_SECONDS, "ready again")
    own.stop()
    assert no_stray_programs(before)
    assert attached.isdisjoint(program_ids())


@pytest.mark.hostile("restart")
def test_processes_older_than_the_new_engine_are_still_known(own: Sensor) -> None:
    """A restarted engine knows the programs that were started before it."""
    own.start().wait_ready()
    shell = subprocess.Popen(["/bin/sh", "-c", "read line; /bin/true after-restart"], stdin=subprocess.PIPE)
    try:
        own.settle()
        engine = own.kill_engine()
        wait_until(lambda: own.engine() != engine and own.probe("/-/ready")[0] == 200, RESTART_SECONDS, "ready again")
        since = len(own.documents())
        assert shell.stdin is not None
        shell.stdin.write(b"go\n")
        shell.stdin.close()
        shell.wait()
        seen = own.wait_for(
            lambda d: get(d, "process.args") == ["/bin/true", "after-restart"] and action(d) == "process-exec",
            since,
            5,
            "exec after the restart",
        )
    finally:
        shell.kill()
        shell.wait()
    if get(seen, "process.pid") != shell.pid:  # the shell forked
        assert get(seen, "process.parent.pid") == shell.pid
        assert get(seen, "process.parent.command_line", "").startswith("/bin/sh -c read line")
    assert get(seen, "process.parent.entity_id")


@pytest.mark.contract("panic-5b")
@pytest.mark.hostile("kill")
def test_kill_of_the_supervisor_detaches_everything(own: Sensor, before: set[int]) -> None:
    """The kernel drops the programs within two seconds, and no process of the sensor stays behind."""
    own.start().wait_ready()
    attached, family = set(owned_programs([own.pid])), children(own.pid)
    assert attached
    assert family
    os.kill(own.pid, signal.SIGKILL)
    assert own.process is not None
    own.process.wait()
    wait_gone(attached, "our programs gone")
    wait_until(lambda: not [pid for pid in family if alive(pid)], 5, "the engine gone")
    assert no_stray_programs(before)


@pytest.fixture
def _cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled probes are kept from an earlier run: the compiler is at work."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))


def _loader(sensor: Sensor, pattern: str) -> int:
    """Pid of a descendant in the middle of loading, by what its memory or command line shows."""

    def find() -> int | None:
        for pid in children(sensor.pid):
            try:
                text = Path(f"/proc/{pid}/maps").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if pattern in text:
                return pid
        return None

    pid = wait_until(find, 20, f"a child with {pattern}", 0.002)
    assert isinstance(pid, int)
    return pid


@pytest.mark.usefixtures("_cold")
@pytest.mark.parametrize("victim", ["sensor.kernel.loader", "libbcc"])
@pytest.mark.contract("panic-5b")
@pytest.mark.hostile("kill")
def test_kill_of_the_loader_leaves_nothing_and_is_said(own: Sensor, before: set[int], victim: str) -> None:
    """The loader or its compiler killed: the supervisor names what failed, and no program stays."""
    own.start()
    os.kill(_loader(own, victim), signal.SIGKILL)
    assert own.process is not None

    def decided() -> bool:
        assert own.process is not None
        return own.process.poll() is not None or own.probe("/-/ready")[0] == 200

    wait_until(decided, 60, "an end or a recovery", 0.1)
    if own.process.returncode is None:
        own.stop()
    else:
        assert own.process.returncode == 3
        assert no_stray_programs(before)
    assert "loader" in own.stderr() or "compiler ended by signal 9" in own.stderr()
    assert "Traceback" not in own.stderr()
    assert no_stray_programs(before)


@pytest.mark.usefixtures("_cold")
@pytest.mark.contract("panic-5b")
def test_kill_of_the_supervisor_while_loading_leaves_no_loader(own: Sensor, before: set[int]) -> None:
    """Nothing goes on compiling and attaching for a supervisor that is dead."""
    own.start()
    _loader(own, "libbcc")
    family = children(own.pid)
    os.kill(own.pid, signal.SIGKILL)
    assert own.process is not None
    own.process.wait()
    wait_until(lambda: not [pid for pid in family if alive(pid)], DETACH_SECONDS, f"{family} gone")
    assert no_stray_programs(before)
