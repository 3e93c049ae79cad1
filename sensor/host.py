"""The machine as the doctor sees it: every way out of the process in one object, so that a test can be any host."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import platform
import pwd
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sensor import landlock, native
from sensor.errors import HostError
from sensor.kernel import knownbad
from sensor.kernel.btf import Btf

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
State = Literal["ok", "note", "warning", "missing"]
_READ_MAX = 1 << 20
_FUNC = 12  # BTF kind of a kernel function
_BCC_SECONDS = 30  # importing BCC loads LLVM, 100 MB of it, from a cold disk

# Runs in a process of its own: BCC brings LLVM along, and another project's `bcc` runs who knows what.
_BCC_PROBE = """
import json, sys
facts = {}
try:
    import bcc
    facts["file"] = getattr(bcc, "__file__", None) or "?"
    facts["real"] = hasattr(bcc, "BPF") and hasattr(bcc, "lib")
    facts["version"] = str(getattr(bcc, "__version__", "") or "")
except BaseException as error:
    facts["error"] = f"{type(error).__name__}: {error}"
json.dump(facts, sys.stdout)
"""


def probe_bcc() -> dict[str, Any]:
    """Facts about the module that ``import bcc`` finds in this Python: file, real, version, or error."""
    try:
        done = subprocess.run([sys.executable, "-c", _BCC_PROBE], capture_output=True, timeout=_BCC_SECONDS,
                              check=False, stdin=subprocess.DEVNULL)
        facts = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": f"importing it took more than {_BCC_SECONDS} s"}
    except ValueError:
        return {"error": f"importing it ended with status {done.returncode}"}
    return facts if isinstance(facts, dict) else {"error": "importing it printed something else"}


def port_fault(host: str, port: int) -> str:
    """Why this address can't be listened on, or an empty string."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server will: a connection that lingers from the last run is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def refusal(kind: str, function: int) -> str:
    """Why the kernel refuses an fentry or LSM program on the function of this BTF id, or an empty string.

    No file tells: a build option may be set and a policy still forbid it. So one that does nothing
    is loaded, and dropped before it could be attached.
    """
    from sensor.kernel import bpf

    numbers = {"fentry": (26, 24), "lsm": (29, 27)}[kind]  # BPF_PROG_TYPE_*, BPF_TRACE_FENTRY and BPF_LSM_MAC
    # Before 5.11 programs count against this limit, those of a running sensor too.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        bpf.program_trial(*numbers, function)
    except OSError as error:
        return f"the kernel refuses such programs: {error.strerror}"
    return ""


def user_exists(name: str) -> bool:
    """Whether the user database knows *name*."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@dataclass
class Host:
    """The machine as the checks see it. ``root`` stands in front of /proc, /sys, /etc, /run and /boot."""

    root: Path = Path("/")
    release: str = field(default_factory=platform.release)
    build: str = field(default_factory=platform.version)  # uname -v
    machine: str = field(default_factory=platform.machine)
    euid: int = field(default_factory=os.geteuid)
    prefix: Path = field(default_factory=lambda: Path(sys.prefix))
    bcc: Callable[[], dict[str, Any]] = probe_bcc
    port_fault: Callable[[str, int], str] = port_fault
    user_exists: Callable[[str], bool] = user_exists
    refusal: Callable[[str, int], str] = refusal
    engine: Callable[[], str] = native.state
    landlock: Callable[[], int] = landlock.version

    def path(self, name: str) -> Path:
        """Place of the absolute path *name* below the root."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """Content of a small file, None where it can't be read."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_READ_MAX).decode("utf-8", "replace")
        except OSError:
            return None

    def status(self, key: str) -> str:
        """One line of /proc/self/status."""
        match = re.search(rf"^{key}:\s*(.*)$", self.text("/proc/self/status") or "", re.MULTILINE)
        return match[1].strip() if match else ""

    @cached_property
    def kernel(self) -> tuple[int, int]:
        """Major and minor version; (0, 0) where the release says nothing."""
        match = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @cached_property
    def known(self) -> knownbad.Kernel:
        """The kernel as the table of known-bad ones has it."""
        return knownbad.Kernel.of(self.release, self.build, self.text("/proc/version_signature") or "")

    def has(self, function: str) -> bool:
        """Whether the kernel's types name a function."""
        return self.btf is not None and bool(self.btf.find(function, _FUNC))

    @cached_property
    def btf(self) -> Btf | None:
        """The kernel's types, None where it has none that can be read."""
        try:
            return Btf.from_kernel(self.path("/sys/kernel/btf/vmlinux"))
        except HostError:
            return None

    @cached_property
    def config(self) -> dict[str, str]:
        """The kernel's build options, empty where they can't be read."""
        text = self.text(f"/boot/config-{self.release}") or ""
        try:
            text = text or gzip.decompress(self.path("/proc/config.gz").read_bytes()).decode("ascii", "replace")
        except (OSError, EOFError):
            return {}
        return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))

    @cached_property
    def distribution(self) -> set[str]:
        """ID and ID_LIKE of /etc/os-release."""
        found = re.findall(r"^ID(?:_LIKE)?=\"?([^\"\n]*)", self.text("/etc/os-release") or "", re.MULTILINE)
        return {word for line in found for word in line.split()}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``why`` and ``fix`` are empty where all is well."""

    name: str
    state: State
    found: str
    why: str = ""
    fix: str = ""
