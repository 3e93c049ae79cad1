"""Whom a crash is attributed to: the sensor itself, a named other component, or nobody.

What counts is what ran: the instruction that faulted and the calls that led to it, up to the interrupt, if there
is one. What an interrupt stopped, and what the unwinder is not sure of, is named as evidence and decides nothing.
A name alone proves nothing about a BPF program: other products use the same compiler and its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sensor.crashes.model import Crash, Frame

ATTRIBUTED = ("self", "other", "unknown")
COMPONENTS = ("", "sysrq", "module", "driver", "bpf", "process", "hardware", "sensor")
CONFIDENCE = ("certain", "likely", "weak", "none")
#: Name that the loader's processes go by, in the kernel's texts too.
LOADER_COMM = "sensor-load"

_BPF = re.compile(r"bpf_prog_([0-9a-f]{16})(?:_([\w.]{1,64}))?")
_MACHINERY = re.compile(r"bpf_trampoline_|bpf_dispatcher_|bpf_trace_run\d|trace_call_bpf|__bpf_prog_|bpf_prog_run")
_LOADING = re.compile(r"__sys_bpf|bpf_prog_load|bpf_check$|do_check|bpf_raw_tp_link|perf_event_open|bpf_link_|"
                      r"bpf_trampoline_link|perf_event_set_bpf|bpf_prog_select_runtime|map_create")
_HARDWARE = re.compile(r"[Mm]achine check|Timeout: Not all CPUs entered broadcast exception|NMI: Not continuing|"
                       r"IOCK error|PCI system error|\[Hardware Error\]")
_WAITING = ("soft_lockup", "hard_lockup", "rcu_stall", "hung_task")
_OWN_NAMES = frozenset({"bpf", "vmlinux"})  # the kernel's own, where a module's name may stand


@dataclass(frozen=True, slots=True)
class Own:
    """What is ours: programs as tag -> name, processes as pid -> name (of the boot that crashed)."""

    programs: Mapping[str, str] = field(default_factory=dict)
    processes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``attributed`` to whom, by which rule, on which lines. ``component`` names it; ``kind`` is of COMPONENTS."""

    attributed: str
    kind: str
    component: str
    confidence: str
    rule: str
    evidence: tuple[str, ...] = ()


def judge(crash: Crash, own: Own) -> Verdict:
    """Attribute one crash."""
    notes = tuple(_bystanders(crash, own))
    verdict = _plain(crash) or _running(crash, own) or _task(crash, own)
    if verdict is None:
        verdict = Verdict("unknown", "", "", "none", "nothing on the stack but the kernel itself", _where(crash))
    return Verdict(verdict.attributed, verdict.kind, verdict.component, verdict.confidence, verdict.rule,
                   tuple(dict.fromkeys((*verdict.evidence, *notes)))[:8])


def _where(crash: Crash) -> tuple[str, ...]:
    return (f"RIP: {crash.rip}",) if crash.rip is not None else ()


def _plain(crash: Crash) -> Verdict | None:
    """What the kernel says outright."""
    if crash.kind == "sysrq":
        who = f" by {crash.comm}[{crash.pid}]" if crash.pid is not None else ""
        return Verdict("other", "sysrq", "sysrq", "certain", "somebody asked for the crash by sysrq",
                       (f"{crash.panic or crash.title}{who}",))
    said = crash.panic or crash.title
    if crash.kind == "panic" and _HARDWARE.search(said):
        return Verdict("other", "hardware", "hardware", "likely", "the kernel blames the hardware", (said,))
    if crash.driver:
        return Verdict("other", "driver", crash.driver, "likely", "the report names a driver", (crash.title,))
    return None


# --- what ran ---------------------------------------------------------------------------------------


def running(crash: Crash, trace: int = 0) -> list[Frame]:
    """The instruction that faulted, then its callers, innermost first, as far as one context goes."""
    frames = [crash.rip] if crash.rip is not None and crash.rip.reliable and trace == 0 else []
    sure = [frame for frame in crash.frames if frame.trace == trace and frame.reliable]
    for frame in sure:
        if frame.interrupted or frame.context != sure[0].context:
            break
        frames.append(frame)
    return frames


def _running(crash: Crash, own: Own) -> Verdict | None:
    several = crash.kind in ("rcu_stall", "hard_lockup")  # a trace for each processor
    for trace in sorted({frame.trace for frame in crash.frames} | {0}) if several else (0,):
        verdict = _first(crash, running(crash, trace), own)
        if verdict is not None:
            return verdict
    return None


def _first(crash: Crash, frames: list[Frame], own: Own) -> Verdict | None:
    """The innermost frame that belongs to somebody decides."""
    for index, frame in enumerate(frames):
        fault = index == 0 and crash.rip is not None and crash.kind not in _WAITING
        sure = "certain" if fault else "weak" if crash.kind == "hung_task" else "likely"
        place = "the faulting instruction is in" if fault else "the kernel was called by"
        if match := _BPF.fullmatch(frame.symbol):
            return _program(match, own, sure, place)
        if _MACHINERY.match(frame.symbol) and not any(_BPF.fullmatch(other.symbol) for other in frames[index:]):
            return Verdict("unknown", "", "", "none", "a BPF program's surroundings, but no program", (str(frame),))
        if frame.module and frame.module not in _OWN_NAMES:
            return Verdict("other", "module", frame.module, sure, f"{place} a module", (str(frame),))
    if crash.workqueue:
        return Verdict("other", "module", crash.workqueue, "weak", "the work item is a module's",
                       (f"Workqueue of {crash.workqueue}",))
    return None


def _program(match: re.Match[str], own: Own, sure: str, place: str) -> Verdict:
    tag, name = match[1], match[2] or ""
    if tag in own.programs:
        ours = own.programs[tag]
        return Verdict("self", "sensor", ours or tag, sure, f"{place} a program of the sensor",
                       (match[0], f"tag {tag} was recorded when the sensor loaded {ours}"))
    if name and name in own.programs.values():
        return Verdict("unknown", "bpf", name, "none", "a BPF program with the name of one of ours and another tag",
                       (match[0], f"tag {tag} was never recorded"))
    return Verdict("other", "bpf", name or tag, sure, f"{place} a BPF program that is not the sensor's",
                   (match[0], f"tag {tag} was never recorded"))


# --- whose task it was --------------------------------------------------------------------------------


def _task(crash: Crash, own: Own) -> Verdict | None:
    """The task counts where it did what only the sensor does, or where it is all there is to name."""
    if crash.pid is None:
        return None
    who = f"{crash.comm}[{crash.pid}]"
    ours = crash.comm == LOADER_COMM or (crash.comm != "" and own.processes.get(crash.pid) == crash.comm)
    loading = next((frame for frame in running(crash) if _LOADING.search(frame.symbol)), None)
    if ours and loading is not None:
        return Verdict("self", "sensor", crash.comm, "likely", "the kernel was loading or attaching for the sensor",
                       (who, str(loading)))
    if "Attempted to kill init" in crash.panic:
        return Verdict("other", "process", crash.comm or "init", "likely", "process 1 ended", (crash.panic, who))
    if crash.kind == "hung_task" and not ours:
        return Verdict("other", "process", crash.comm, "weak", "a task that sleeps runs no program of the sensor",
                       (crash.title,))
    if crash.rip is not None and crash.rip.symbol == "user" and not ours:
        return Verdict("other", "process", crash.comm, "weak", "the processor was busy in a process", (who,))
    return None


def _bystanders(crash: Crash, own: Own) -> Iterator[str]:
    """Our programs on the stack that were not what ran."""
    ran = {id(frame) for trace in {frame.trace for frame in crash.frames} | {0} for frame in running(crash, trace)}
    for frame in crash.frames:
        match = _BPF.fullmatch(frame.symbol)
        if match and match[1] in own.programs and id(frame) not in ran:
            why = "stale on the stack" if not frame.reliable else "interrupted, it did not run"
            yield f"{match[0]}, ours: {why}"
