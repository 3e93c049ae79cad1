"""Whatever fails while the probes are loaded: nothing stays attached, no process stays, and it is said what happened.

Outcomes that are declared: ready, with the families that failed named with their reason; or exit status 3 with a
message. Never a traceback, never a hang.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import kernelstate
from tests.live.harness import ROOT, Sensor, environment
from tests.live.host import alive, children, wait_until
from tests.live.inject import Fault, Injector

FULL = bool(os.environ.get("SENSOR_SOAK"))
#: Runs of the loader with a fault each; 400 calls of it can fail.
RUNS = 1200 if FULL else 30
DECIDED_SECONDS = 190.0  # LOAD_SECONDS of the supervisor, and a little


class Hurt(Sensor):
    """A sensor that is started with something against it."""

    fault: Fault | None = None
    injector: Injector | None = None
    more: dict[str, str] = {}  # noqa: RUF012  replaced, never changed
    prefix: tuple[str, ...] = ()

    def start(self) -> Hurt:
        command, pass_fds = [*self.prefix, *self.arguments], ()
        if self.fault is not None:
            self.injector = Injector(self.fault)
            pass_fds = (self.injector.report, self.injector.go)
            command = [sys.executable, "-m", "tests.live.inject", *map(str, pass_fds), *command]
        with (self.directory / "stderr").open("wb") as errors, (self.directory / "stdout").open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=errors, stdin=subprocess.DEVNULL, pass_fds=pass_fds,
                cwd=ROOT if self.fault else "/", env={**environment(), **self.more})
        if self.injector is not None:
            self.injector.take(self.pid)
        return self

    def outcome(self) -> tuple[str, int | None]:
        """Wait until it is ready or gone; what it said, and its status if it has ended."""
        assert self.process is not None
        seen: set[int] = set()

        def decided() -> bool:
            assert self.process is not None
            seen.update(children(self.pid))
            return self.process.poll() is not None or self.probe("/-/ready")[0] == 200

        wait_until(decided, DECIDED_SECONDS, f"ready or ended: {self.stderr()}", 0.1)
        status = self.process.poll()
        if status is None:
            seen.update(children(self.pid))
            self.stop()
        wait_until(lambda: not any(map(alive, seen)), 5, f"{seen} gone")
        return self.stderr(), status


@pytest.fixture
def hurt(tmp_path: Path) -> Iterator[Hurt]:
    """Not yet started. Afterwards the kernel is as before, and no traceback has been written."""
    before = kernelstate.state()
    work = tmp_path / "work"
    work.mkdir()
    # Two families and what they share: compiling is what takes the time.
    sensor = Hurt(tmp_path / "sensor", events="alerts", settings="probes:\n  families: [process, file]\n")
    sensor.more = {"TMPDIR": str(work), "CACHE_DIRECTORY": str(tmp_path / "cache")}
    try:
        yield sensor
        before.check()
        assert "Traceback" not in sensor.stderr(), sensor.stderr()
        assert not [*work.iterdir()]
    finally:
        sensor.kill()


@pytest.mark.contract("panic-14d")
def test_each_call_of_the_loader_may_fail_and_its_process_be_killed_there() -> None:
    """bpf, perf_event_open, sendmsg and memfd_create fail at a place that moves on; see faults.py for what is held."""
    before = kernelstate.state()
    done = subprocess.run([sys.executable, "-m", "tests.live.faults", str(RUNS)], cwd=ROOT, env=environment(),
                          capture_output=True, text=True, timeout=RUNS * 10 + 300, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["wrong"] == 0
    assert min(told["fatal"], told["in part"]) > 0  # faults of both kinds have been met
    before.check()


#: place and action -> what is said; exit status, or None for a sensor that runs without the family
INJECTED = {
    Fault("loader", "bpf", 1, errno.ENOMEM): ("Cannot allocate memory", 3),
    Fault("loader", "bpf", 3, errno.EPERM): ("Operation not permitted", 3),
    Fault("loader", "sendmsg", 1, errno.ENOMEM): ("Cannot allocate memory", 3),
    Fault("loader", "bpf", 10, -signal.SIGKILL): ("the loader ended before it was done", 3),
    Fault("process", "bpf", 4, -signal.SIGKILL): ("the compiler ended by signal 9", 3),
    Fault("file", "bpf", 4, -signal.SIGKILL): ("the compiler ended by signal 9", None),
    Fault("file", "sendmsg", 1, errno.ENOBUFS): ("No buffer space available", None),
    Fault("syscall", "bpf", 40, errno.E2BIG): ("syscall", None),
    Fault("supervisor", "bpf", 3, errno.ENOMEM): ("the kernel does not tell about a program", 3),
}


@pytest.mark.parametrize("fault", INJECTED, ids=str)
@pytest.mark.contract("panic-14d")
def test_a_call_that_fails_is_said_and_nothing_stays(hurt: Hurt, fault: Fault) -> None:
    """The whole daemon: what the loader could not do ends it with status 3, or costs the family that is named."""
    hurt.fault = fault
    said, status = hurt.start().outcome()
    assert hurt.injector is not None
    assert hurt.injector.hit, dict(hurt.injector.counts)
    text, wanted = INJECTED[fault]
    assert text in said
    assert status == wanted, said


@pytest.mark.parametrize(("family", "wanted"), [("process", 3), ("file", None)])
def test_a_probe_that_does_not_compile_costs_its_family(hurt: Hurt, tmp_path: Path, family: str,
                                                        wanted: int | None) -> None:
    """A broken probe file is named with the compiler's words."""
    tree = tmp_path / "tree"
    for name in ("sensor", "probes", "rules"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    with (tree / "probes" / f"{family}.c").open("a") as file:
        file.write("\nint broken(void) { return no_such_thing; }\n")
    hurt.more["PYTHONPATH"] = str(tree)
    said, status = hurt.start().outcome()
    assert status == wanted, said
    assert f"probe {family} (family) failed" in said
    assert "no_such_thing" in said


@pytest.mark.parametrize("options", ["size=4k", "nr_inodes=2"])
@pytest.mark.hostile("full-disk")
def test_no_room_for_the_loader_s_files_is_said(hurt: Hurt, tmp_path: Path, options: str) -> None:
    """The directory for temporary files is full: status 3 with the reason."""
    full = tmp_path / "full"
    full.mkdir()
    hurt.prefix = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs -o {options} full {full} && exec "$@"', "sh")
    hurt.more["TMPDIR"] = str(full)
    said, status = hurt.start().outcome()
    assert status == 3, said
    assert "No space left on device" in said


@pytest.mark.parametrize("files", [12, 40])
def test_too_few_descriptors_are_said(hurt: Hurt, files: int) -> None:
    """Descriptors that don't fit are never lost in silence: what is reported as attached is attached."""
    hurt.prefix = ("prlimit", f"--nofile={files}:{files}")
    said, status = hurt.start().outcome()
    assert status in (None, 1, 3), said
    assert status is None or said.strip()
    if status is None:
        assert "failed" in said


@pytest.mark.parametrize("mebibytes", [150, 300])
def test_too_little_memory_for_the_compiler_is_said(hurt: Hurt, mebibytes: int) -> None:
    """LLVM aborts where it gets no memory: the family is named, or the sensor ends with a message."""
    hurt.prefix = ("prlimit", f"--as={mebibytes << 20}")
    said, status = hurt.start().outcome()
    assert status in (None, 1, 3), said
    if status is not None:
        assert said.strip()
