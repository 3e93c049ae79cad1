"""The machine the guests run on: packages, cache directory, Debian mirrors."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sensor.errors import HostError

#: package -> a file or command that shows it is there
PACKAGES = {
    "qemu-system-x86": "qemu-system-x86_64", "mmdebstrap": "mmdebstrap", "cpio": "cpio", "kmod": "depmod",
    "e2fsprogs": "mke2fs", "xz-utils": "xz", "gcc": "gcc",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
}
KEYRING = PACKAGES["debian-archive-keyring"]
STARTED = time.monotonic()
#: mke2fs and depmod live where a user's PATH does not look
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def say(text: str) -> None:
    """Print one progress line with the time since start."""
    print(f"[{time.monotonic() - STARTED:6.1f}s] {text}", flush=True)


def cache() -> Path:
    """Where kernels and images are kept between runs, outside of the checkout."""
    path = Path(os.environ.get("SENSOR_VM_CACHE") or Path.home() / ".cache" / "sensor-vm")
    path.mkdir(parents=True, exist_ok=True)
    return path


def run(command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a host command and return its stdout. Raises HostError with the end of its output."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": PATH, **(env or {})}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise HostError(f"{' '.join(command[:3])} … ended with status {done.returncode}:\n{tail}")
    return done.stdout


def ensure_host_packages() -> None:
    """Install what is missing when root; otherwise raise HostError with the command to type."""
    missing = [package for package, proof in PACKAGES.items()
               if not (Path(proof).exists() if proof.startswith("/") else shutil.which(proof, path=PATH))]
    if not missing:
        return
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "-q", "--no-install-recommends",
               *missing]
    if os.geteuid():
        raise HostError(f"the VM tests need {', '.join(missing)}", fix=f"sudo {' '.join(command)}")
    say(f"installing {', '.join(missing)}")
    run(["apt-get", "update", "-q"])
    run(command, env={"DEBIAN_FRONTEND": "noninteractive"})


@contextmanager
def locked(name: str = "lock") -> Iterator[None]:
    """Hold the cache, or what *name* stands for: a second run waits for the first one's download and finds it done."""
    with open(cache() / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def guest_slot() -> Iterator[None]:
    """A place for one guest, of one per processor: runs beside each other would starve each other's guests."""
    files = [open(cache() / f"slot-{number}", "w") for number in range(os.cpu_count() or 1)]  # noqa: SIM115
    try:
        while not any(_try_lock(file) for file in files):
            time.sleep(0.5)
        yield
    finally:
        for file in files:
            file.close()


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A scratch directory next to *target*. The caller renames out of it: half a build is never found."""
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    work.chmod(0o755)  # apt's unprivileged downloader must get in
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def mirrors() -> tuple[str, str | None]:
    """URLs of the Debian archive and of its security archive.

    They come from this machine's own apt sources, so that a local mirror or proxy is used; on
    another distribution SENSOR_VM_MIRROR must name the first, SENSOR_VM_SECURITY the second.
    """
    if named := os.environ.get("SENSOR_VM_MIRROR"):
        return named, os.environ.get("SENSOR_VM_SECURITY")
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    codename = release.get("VERSION_CODENAME", "")
    rows = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)",
                "Created-By: Packages"])
    by_suite = {suite: uri for suite, part, uri in map(str.split, rows.splitlines()) if part == "main"}
    archive = by_suite.get(codename) or by_suite.get("stable")
    if release.get("ID") != "debian" or archive is None:
        raise HostError("the apt sources of this machine name no Debian mirror",
                        fix="export SENSOR_VM_MIRROR=<URL of a Debian mirror>")
    return archive, by_suite.get(f"{codename}-security")


def source_lines(suites: Sequence[str]) -> list[str]:
    """sources.list lines for *suites*, security updates included."""
    archive, security = mirrors()
    option = f"[arch=amd64 signed-by={KEYRING}]"
    lines = [f"deb {option} {archive} {suite} main" for suite in suites]
    if security:
        lines += [f"deb {option} {security} {suite}-security main" for suite in suites if suite != "sid"]
    return lines


class Apt:
    """apt-get and apt-cache over other suites than the machine's, without touching its own state."""

    def __init__(self, suites: Sequence[str]) -> None:
        self._home = cache() / "apt"
        for name in ("lists/partial", "archives/partial"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / "sources.list").write_text("\n".join(source_lines(suites)) + "\n")
        (self._home / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self._home}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
            f'Dir::State::lists "{self._home}/lists";\nDir::Cache::archives "{self._home}/archives";\n'
            'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\nAPT::Sandbox::User "root";\n')
        say(f"reading the package lists of {', '.join(suites)}")
        self(["apt-get", "update", "-q"])

    def __call__(self, command: Sequence[str], cwd: Path | None = None) -> str:
        return run(command, cwd=cwd, env={"APT_CONFIG": str(self._home / "apt.conf")})

    def names(self, prefix: str) -> list[str]:
        """Package names that start with *prefix*."""
        return self(["apt-cache", "pkgnames", prefix]).split()

    def unpack(self, packages: Sequence[str], work: Path) -> Path:
        """Download *packages* and unpack them on top of each other under *work*."""
        (work / "deb").mkdir()
        self(["apt-get", "download", "-q", *packages], cwd=work / "deb")
        for package in sorted((work / "deb").iterdir()):
            run(["dpkg-deb", "-x", str(package), str(work / "tree")])
        return work / "tree"


def fail(error: HostError) -> int:
    """Print why, and return the exit status."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_status
