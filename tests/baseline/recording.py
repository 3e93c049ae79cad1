"""Makes the recording: a throw-away root, activities in it, and `sensor record` beside them."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import zstandard

from sensor.errors import HostError
from tests.live.harness import command, environment
from tests.vm.host import building, ensure_host_packages, run, say, source_lines

HOME = Path(__file__).parent
ACTIVITIES = ("packages", "development", "python", "upkeep", "administration", "services", "remote", "containers")
SUITE = "bookworm"
#: Without the security archive: what it has newer is the upgrade that the activity makes.
DISK_MIB = 6144
READY_SECONDS = 180
#: Kept free on the disk that holds the throw-away one, a sparse file.
_SPARE_MIB = 2048
_CGROUP = "sensor-baseline"


def cache() -> Path:
    """Where recordings and the root are kept, outside of the checkout."""
    path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sensor-baseline"
    path.mkdir(parents=True, exist_ok=True)
    return path


def base() -> Path:
    """An archive of a minimal root, made once."""
    target = cache() / f"{SUITE}.tar"
    if not target.exists():
        say(f"making {target.name}")
        with building(target) as work:
            run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
                 "--include=ca-certificates,iproute2,adduser", '--aptopt=Acquire::Languages "none"',
                 '--aptopt=Acquire::Check-Valid-Until "false"',
                 SUITE, str(work / "root.tar"),
                 *(line for line in source_lines([SUITE]) if "-security" not in line)])
            (work / "root.tar").rename(target)
    return target


@contextmanager
def root() -> Iterator[Path]:
    """A root on a file system of bounded size, which ends with the block."""
    archive = base()
    if shutil.disk_usage(cache()).free >> 20 < DISK_MIB + _SPARE_MIB:
        raise HostError(f"{cache()} needs {DISK_MIB + _SPARE_MIB} MiB of room",
                        fix="free some, or export XDG_CACHE_HOME=<a directory on a larger disk>")
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache()) as work:
        disk, tree = Path(work, "disk"), Path(work, "root")
        tree.mkdir()
        run(["truncate", "-s", f"{DISK_MIB}M", str(disk)])
        run(["mke2fs", "-q", "-t", "ext4", str(disk)])
        run(["mount", "-o", "loop", str(disk), str(tree)])
        try:
            run(["tar", "-xf", str(archive), "-C", str(tree)])
            _furnish(tree)
            yield tree
        finally:
            run(["umount", "-l", str(tree)])


def _furnish(tree: Path) -> None:
    """What the activities need of the machine: its package mirrors and how it reaches them."""
    (tree / "etc/apt/sources.list").write_text("\n".join(source_lines([SUITE])) + "\n")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    # The machine may trust more than Debian does: a mirror of its own. The root's own list is made anew in it.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", tree / "etc/ssl/machine.crt")
    (tree / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/machine.crt\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost baseline\n")
    shutil.copytree(HOME / "activities", tree / "baseline")
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    shutil.copy(keyring, tree / keyring.relative_to("/"))


def _cgroup() -> Path:
    """A control group of the unified hierarchy, wherever it is mounted: events carry its path."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            group = Path(where, _CGROUP)
            group.mkdir(exist_ok=True)
            return group
    raise HostError("no cgroup2 is mounted", fix="mount -t cgroup2 cgroup /sys/fs/cgroup")


def record(out: Path, activities: Sequence[str], requests: int) -> Path:
    """Record *activities* to *out* (as `sensor record` names formats). Returns *out*.

    Raises:
        HostError: what is missing on this machine; the sensor didn't start.
    """
    if os.geteuid():
        raise HostError("making a recording needs root", fix=f"sudo {sys.executable} -m tests.baseline record")
    ensure_host_packages()
    group = _cgroup()
    with root() as tree, _sensor(out) as sensor:
        words = ["/bin/sh", str(HOME / "enter.sh"), str(tree), *activities]
        inside = ["setsid", "--wait", "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup",
                  "--kill-child", *words]
        joined = f"echo $$ > {group}/cgroup.procs && exec nice -n 19 {' '.join(inside)}"
        say("activities: " + " ".join(activities))
        with subprocess.Popen(["/bin/sh", "-c", joined], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              env={**os.environ, "REQUESTS": str(requests)}) as process:
            assert process.stdout is not None
            try:
                for line in _lines(process.stdout.fileno(), sensor):
                    _tell(line.split(), tree)
            finally:
                process.kill()  # and by --kill-child all that is in the namespaces, services too
        time.sleep(2)  # the last events are on their way
    with suppress(OSError):
        group.rmdir()
    return out


def _lines(stream: int, sensor: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines of a pipe to its end. Raises HostError when the sensor is gone before."""
    rest = b""
    while True:
        if sensor.poll() is not None:
            raise HostError("the recording ended before the activities did",
                            fix="try again when the machine has less to do")
        if select.select([stream], [], [], 1)[0]:
            if not (data := os.read(stream, 4096)):
                return
            *whole, rest = (rest + data).split(b"\n")
            yield from map(os.fsdecode, whole)


def _tell(words: list[str], tree: Path) -> None:
    if len(words) != 3:
        return
    name, status, seconds = words
    say(f"{name}: {'done' if status == '0' else f'status {status}'} after {seconds} s")
    log = tree / "baseline" / f"{name}.log"
    kept = cache() / f"{name}.log"
    shutil.copy(log, kept)
    if status != "0":
        print("    " + "\n    ".join(kept.read_text(errors="replace").splitlines()[-6:]), flush=True)


def _head(recording: Path) -> bytes:
    """The beginning of a recording in the making: the header, and the event that says that all is attached."""
    with suppress(FileNotFoundError, zstandard.ZstdError), recording.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read(1 << 16)
    return b""


@contextmanager
def _sensor(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as settings, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command("record", out, "-c", settings.name), stdin=subprocess.DEVNULL, stderr=errors,
                                   env=environment(), cwd="/",
                                   # Linux shares processors out by session: not one with what it watches.
                                   start_new_session=True)
        end = time.monotonic() + READY_SECONDS
        try:
            while b'"start"' not in _head(out):
                if process.poll() is not None or time.monotonic() > end:
                    errors.seek(0)
                    raise HostError(f"the sensor did not start: {errors.read()[-2000:]}", fix="sensor doctor")
                time.sleep(0.2)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
            errors.seek(0)
            print("    " + "\n    ".join(errors.read().splitlines()[-4:]), flush=True)
