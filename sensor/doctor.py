"""What a host offers the sensor, what it lacks, why that matters and the command that changes it.

Each check is a function of :class:`Host`, which holds every way out of the process: a root directory
for /proc, /sys and /etc, and callables for the rest. So a test shows it any host as a directory.
Nothing is changed, loaded or attached here.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sensor.config import Settings
from sensor.errors import HostError
from sensor.kernel.btf import TYPEDEF, Btf
from sensor.kernel.headers import uring_completion
from sensor.kernel.hooks import DISPATCHER, HOOKS, Hook
from sensor.schema import BY_NAME

State = Literal["ok", "note", "warning", "missing"]
FUNC = 12  # BTF kind of a kernel function
_READ_MAX = 1 << 20
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
    machine: str = field(default_factory=platform.machine)
    euid: int = field(default_factory=os.geteuid)
    prefix: Path = field(default_factory=lambda: Path(sys.prefix))
    bcc: Callable[[], dict[str, Any]] = probe_bcc
    port_fault: Callable[[str, int], str] = port_fault
    user_exists: Callable[[str], bool] = user_exists

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


@dataclass(frozen=True, slots=True)
class Carrier:
    """One hook of an event on this host. ``reason`` says why it is not available."""

    kind: str
    target: str
    program: str
    available: bool
    reason: str = ""
    misses: str = ""
    carries: bool = True  # alone; else it is a part of others, or only makes their records truer


@dataclass(frozen=True, slots=True)
class Carried:
    """An event and what carries it here. ``enabled`` is what the settings say."""

    event: str
    family: str
    enabled: bool
    hooks: tuple[Carrier, ...]

    @property
    def seen(self) -> bool:
        """Whether at least one hook works that carries the event."""
        return self.enabled and any(hook.available and hook.carries for hook in self.hooks)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the doctor found."""

    checks: tuple[Check, ...]
    events: tuple[Carried, ...]

    @property
    def state(self) -> State:
        """The worst state of all checks."""
        order: tuple[State, ...] = ("missing", "warning", "note", "ok")
        return next(state for state in order if state == "ok" or any(c.state == state for c in self.checks))

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"state": self.state, "checks": [asdict(check) for check in self.checks],
                "events": [asdict(event) | {"seen": event.seen} for event in self.events]}


# --- hooks -------------------------------------------------------------------------------------


def hook_fault(host: Host, hook: Hook) -> str:
    """Why this hook can't work here, or an empty string. The last word has the loader, by loading it."""
    if hook.kind in ("syscall", "tail"):
        fault = hook_fault(host, DISPATCHER)
        return fault and f"behind {DISPATCHER.target}: {fault}"
    if hook.kind == "raw_tracepoint":
        # The tracepoint's prototype is in BTF under this name; tracefs need not be mounted.
        if host.btf is None:
            return "no kernel type information"
        if not host.btf.find(f"btf_trace_{hook.target}", TYPEDEF):
            return "this kernel has no such tracepoint"
        if hook.target == "io_uring_complete" and not uring_completion(host.btf):
            return "this kernel's tracepoint names no request"
        return ""
    if hook.kind in ("uprobe", "kprobe"):
        if fault := kind_fault(host, hook.kind):
            return fault
        if hook.kind == "kprobe":
            known = host.btf is None or host.btf.find(hook.target, FUNC)
            return "" if known else "this kernel has no such function"
        binary = hook.target.partition("@")[2]
        return "" if host.path(binary).exists() else f"no {binary}"
    return kind_fault(host, hook.kind)


def kind_fault(host: Host, kind: str) -> str:
    """Why no hook of this kind can work here, or an empty string."""
    if kind in ("kprobe", "uprobe"):
        device = f"/sys/bus/event_source/devices/{kind}"
        if host.path(device).exists():
            return ""
        option = f"CONFIG_{kind.upper()}S"
        return f"{device} is absent" + ("" if host.config.get(option) == "y" or not host.config
                                        else f": kernel without {option}")
    if kind in ("fentry", "lsm"):
        if host.btf is None or not host.btf.find("bpf_trampoline_link_prog", FUNC):
            return "kernel without BPF trampolines"
        if "CONFIG_FUNCTION_TRACER" not in host.config and host.config:
            return "kernel without CONFIG_FUNCTION_TRACER"
    if kind == "lsm":
        names = host.text("/sys/kernel/security/lsm")
        if names is None:
            return "/sys/kernel/security/lsm can't be read"
        if "bpf" not in names.strip().split(","):
            # Such a program loads, attaches and is never called.
            return "bpf is not in the kernel's lsm= list"
    if kind == "tracepoint" and not any(host.path(f"{base}/events").is_dir() for base in TRACEFS):
        return "tracefs is not mounted"
    if kind == "raw_tracepoint" and host.btf is None:
        return "no kernel type information"
    return ""


TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


def carried(host: Host, settings: Settings) -> Iterator[Carried]:
    """Every event, with the hooks that will carry it here and what each misses."""
    for event, hooks in HOOKS.items():
        family = BY_NAME[event].family
        only = settings.hooks.get(event)
        enabled = family in settings.probes.families and only != "off"
        carriers = []
        for hook in hooks:
            fault = hook_fault(host, hook)
            if only not in (None, "off", "syscall" if hook.kind == "tail" else hook.kind):
                fault = f"the settings allow only {only}"
            carriers.append(Carrier(hook.kind, hook.target, hook.program, not fault, fault, hook.misses,
                                    carries=hook.kind != "tail" and not hook.upgrade))
        yield Carried(event, family, enabled, tuple(carriers))


def examine(host: Host, settings: Settings) -> Report:
    """Run every check."""
    from sensor.doctor_checks import CHECKS

    checks = tuple(check for function in CHECKS for check in function(host, settings))
    events = tuple(carried(host, settings))
    blind = [event.event for event in events if event.enabled and not event.seen]
    if blind:
        checks += (Check("events", "warning", f"nothing carries {', '.join(blind)}",
                         "these events will not be seen here"),)
    else:
        count = sum(event.enabled for event in events)
        checks += (Check("events", "ok", f"all {count} enabled events have a hook"),)
    return Report(checks, events)
