"""Which hook will carry which event on a host, told without loading anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sensor.config import Settings
from sensor.host import TRACEFS, Host
from sensor.kernel.btf import TYPEDEF
from sensor.kernel.headers import uring_completion
from sensor.kernel.hooks import DISPATCHER, HOOKS, Hook
from sensor.schema import BY_NAME

FUNC = 12  # BTF kind of a kernel function


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
