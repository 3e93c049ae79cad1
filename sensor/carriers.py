"""Which hook will carry which event on a host, told without attaching anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sensor.config import Settings
from sensor.host import TRACEFS, Host
from sensor.kernel import knownbad, preflight
from sensor.kernel.btf import TYPEDEF
from sensor.kernel.headers import uring_completion
from sensor.kernel.hooks import DISPATCHER, HOOKS, Alternative, Hook
from sensor.schema import BY_NAME

FUNC = 12  # BTF kind of a kernel function


@dataclass(frozen=True, slots=True)
class Carrier:
    """One hook of an alternative on this host. ``reason`` says why it is not available."""

    kind: str
    target: str
    program: str
    available: bool
    reason: str = ""
    extra: bool = False  # adds something; the event is seen without it


@dataclass(frozen=True, slots=True)
class Way:
    """One alternative: ``used`` is the first available one. ``reason`` says why this one is not available."""

    kind: str
    used: bool
    available: bool
    reason: str
    misses: str
    hooks: tuple[Carrier, ...]


@dataclass(frozen=True, slots=True)
class Carried:
    """An event and what carries it here. ``enabled`` is what the settings say."""

    event: str
    family: str
    enabled: bool
    alternatives: tuple[Way, ...]

    @property
    def seen(self) -> bool:
        """Whether an alternative works."""
        return self.enabled and any(way.used for way in self.alternatives)

    @property
    def used(self) -> Way | None:
        """The alternative that will carry the event."""
        return next((way for way in self.alternatives if way.used), None)


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
    if hook.instead_of and host.btf is not None and uring_completion(host.btf):
        return f"{hook.instead_of} tells more"
    if hook.kind in ("uprobe", "kprobe", "kretprobe", "fentry", "lsm"):
        if fault := kind_fault(host, hook.kind) or knownbad.fault(hook.kind, host.known, host.has):
            return fault
        if hook.kind != "uprobe":
            function = f"bpf_lsm_{hook.target}" if hook.kind == "lsm" else hook.target
            known = host.btf.find(function, FUNC) if host.btf else -1
            if not known:
                return "this kernel has no such function"
            # A function whose arguments the verifier can't describe is refused alone: 5.10's security_path_chown.
            asks = hook.kind in ("fentry", "lsm") and not host.euid
            return host.refusal(hook.kind, known) if asks else ""
        binary = hook.target.partition("@")[2]
        return "" if host.path(binary).exists() else f"no {binary}"
    return kind_fault(host, hook.kind)


def kind_fault(host: Host, kind: str) -> str:
    """Why no hook of this kind can work here, or an empty string."""
    if kind in ("kprobe", "kretprobe", "uprobe"):
        device_name = kind.replace("ret", "")
        device = f"/sys/bus/event_source/devices/{device_name}"
        if host.path(device).exists():
            return ""
        option = f"CONFIG_{device_name.upper()}S"
        return f"{device} is absent" + ("" if host.config.get(option) == "y" or not host.config
                                        else f": kernel without {option}")
    if kind in ("fentry", "lsm"):
        if host.btf is None or not host.btf.find("bpf_trampoline_link_prog", FUNC):
            return "kernel without BPF trampolines"
        if "CONFIG_FUNCTION_TRACER" not in host.config and host.config:
            return "kernel without CONFIG_FUNCTION_TRACER"
        probe = host.btf.find("bpf_lsm_file_open" if kind == "lsm" else "security_file_open", FUNC)
        if not probe:
            return "kernel without BPF LSM" if kind == "lsm" else "kernel without security hooks"
        # Only root may ask; for anybody else the files have the last word.
        if not host.euid and (fault := host.refusal(kind, probe)):
            return fault
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


def carried(host: Host, settings: Settings) -> Iterator[Carried]:
    """Every event, with the alternatives that could carry it here and what each misses."""
    lack = general_fault(host)
    for event, alternatives in HOOKS.items():
        family = BY_NAME[event].family
        only = settings.hooks.get(event)
        enabled = family in settings.probes.families and only != "off"
        ways: list[Way] = []
        for alternative in alternatives:
            way = _way(host, alternative, only, lack)
            first = not any(earlier.available for earlier in ways)
            ways.append(replace(way, used=way.available and first))
        yield Carried(event, family, enabled, tuple(ways))


def general_fault(host: Host) -> str:
    """Why no probe at all can be loaded here, in the loader's words, or an empty string."""
    own = ("user_namespace", "capabilities")  # of this process: whoever isn't root has not tried as root
    return next((lack.reason for lack in preflight.lacks(host.root, host.release)
                 if not (host.euid and lack.lack in own)), "")


def _way(host: Host, alternative: Alternative, only: str | None, lack: str) -> Way:
    carriers = []
    for hook in alternative.hooks:
        fault = lack or hook_fault(host, hook)
        carriers.append(Carrier(hook.kind, hook.target, hook.program, not fault, fault, hook.extra))
    needed = [carrier for carrier in carriers if not carrier.extra]
    # As the loader does: a handler that fails is reported, and the others of its kind go on.
    works = any(carrier.available for carrier in needed) and all(
        carrier.available for carrier in needed if carrier.kind == alternative.kind)
    reason = "" if works else next((carrier.reason for carrier in needed if carrier.reason), "")
    if only not in (None, "off", alternative.kind):
        works, reason = False, f"the settings allow only {only}"
    return Way(alternative.kind, False, works, reason, alternative.misses, tuple(carriers))
