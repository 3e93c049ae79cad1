"""Compiles, loads and attaches one probe family through BCC. Runs only in a child of the loader.

The only module that imports ``bcc``. LLVM may abort the process: nothing here needs cleaning up.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.errors import HostError
from sensor.kernel import bpf
from sensor.kernel.hooks import DISPATCHER, HOOKS, ROUTER, Family, Hook, chosen, probe_of, syscall_numbers
from sensor.kernel.plan import Plan

_QUIET = ("-Wno-macro-redefined", "-Wno-duplicate-decl-specifier", "-Wno-unused-value")


@dataclass(slots=True)
class Loaded:
    """What one family came to: descriptors to keep, programs for the manifest, failures by program."""

    fds: list[int] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    absent: list[dict[str, str]] = field(default_factory=list)  # better hooks that this kernel doesn't have


def import_bcc() -> Any:
    """Import the real BCC, or raise HostError saying what is there instead."""
    try:
        import bcc
    except ImportError as error:
        raise HostError(f"BCC's Python module is missing ({error})", "apt-get install python3-bpfcc") from error
    if not hasattr(bcc, "BPF") or not hasattr(bcc, "lib"):
        raise HostError(f"the module bcc at {getattr(bcc, '__file__', '?')} is another project of that name",
                        "pip uninstall bcc && apt-get install python3-bpfcc")
    return bcc


def kernel_version_code() -> int:
    """LINUX_VERSION_CODE of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", platform.release())
    major, minor, patch = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    return major << 16 | minor << 8 | min(patch, 255)


def source(family: Family, probes: Path) -> str:
    """The text BCC compiles: BCC rewrites only its main file, so the parts are joined, not included."""
    parts = ["common.h", *(["syscall.h"] if family.needs_syscalls else []), f"{family.name}.c"]
    return "\n".join(f'#line 1 "{part}"\n{(probes / part).read_text()}' for part in parts)


def build(family: Family, probes: Path, include: Path, cpus: int, shared: Mapping[str, int]) -> Any:
    """Compile a family and put the shared maps behind its placeholders."""
    bcc = import_bcc()
    flags = [f"-I{include}", f"-I{probes}", f"-DNR_CPUS={cpus}", f"-DRING_INDEX={family.ring}",
             f"-DRING_OFFSET_MASK={family.mask}", f"-DRING_SLACK={family.slack}",
             f"-DLINUX_VERSION_CODE={kernel_version_code()}", *_QUIET]
    module = bcc.BPF(text=source(family, probes), cflags=flags)
    share(family, module, shared)
    return module


def share(family: Family, module: Any, shared: Mapping[str, int]) -> None:
    """Put the shared maps behind a family's placeholders; what is loaded from now on uses them.

    BCC can't be given a map. But a program names its maps by descriptor number until the
    kernel loads it, so the shared map takes over the placeholder's number.
    """
    bcc = import_bcc()
    names = {"ring": ("ring_process", "ring_events")[family.ring],
             **{name: name for name in shared if not name.startswith("ring_")}}
    for table, name in names.items():
        placeholder = bcc.lib.bpf_table_fd(module.module, table.encode())
        if placeholder >= 0:
            os.dup2(shared[name], placeholder, inheritable=False)


def _load(bcc: Any, module: Any, program: str, kind: str) -> int:
    types = {"uprobe": bcc.BPF.KPROBE, "kprobe": bcc.BPF.KPROBE}
    try:
        return int(module.load_func(program, types.get(kind, bcc.BPF.RAW_TRACEPOINT)).fd)
    except Exception as error:  # BCC raises plain Exception; the verifier's log is on stderr
        raise OSError(f"{program}: {error}") from error


def _attach_uprobe(bcc: Any, program: int, target: str) -> list[int]:
    symbol, _, binary = target.partition("@")
    for candidate in (binary, "readline"):  # bash may link libreadline instead of carrying it
        try:
            # BCC has no public name for this; attach_uprobe() itself gives no link that could be passed on.
            path, offset = bcc.BPF._check_path_symbol(candidate, symbol, None, -1)[:2]  # noqa: SLF001
        except Exception:  # noqa: BLE001, S112  BCC raises plain Exception: no such symbol there
            continue
        event = bpf.uprobe_open(os.fsdecode(path), int(offset), returns=True)
        return bpf.attach_perf(program, event)
    raise OSError(f"{symbol} is neither in {binary} nor in libreadline")


def _attach(bcc: Any, hook: Hook, program: int, shared: Mapping[str, int]) -> list[int]:
    if hook.kind == "raw_tracepoint":
        return [bpf.raw_tracepoint_open(program, hook.target)]
    if hook.kind == "tail":
        bpf.map_update(shared["native"], struct.pack("<I", int(hook.target)), struct.pack("<I", program))
        return []
    if hook.kind == "kprobe":
        return bpf.attach_perf(program, bpf.kprobe_open(hook.target))
    if hook.kind == "uprobe":
        return _attach_uprobe(bcc, program, hook.target)
    for table, number in zip(("native", "compat"), syscall_numbers(hook), strict=True):
        if number:
            bpf.map_update(shared[table], struct.pack("<I", number), struct.pack("<I", program))
    return []


def family_hooks(family: Family, only: Mapping[str, str]) -> list[tuple[str, Hook]]:
    """(event, hook) of a family, as the settings restrict them; the dispatcher carries no event."""
    if family.name == "syscall":
        return [("", DISPATCHER)]
    return [(event, hook) for event in HOOKS if probe_of(event) == family.name
            for hook in chosen(event, only.get(event))]


def fill_router(router: int, shared: Mapping[str, int], plan: Plan) -> None:
    """Let the dispatcher pass on every number that an enabled family handles, in either table."""
    for event in HOOKS:
        for hook in chosen(event, plan.only().get(event)) if probe_of(event) in plan.families else ():
            if hook.kind == "syscall":
                for number in filter(None, syscall_numbers(hook)):
                    bpf.map_update(shared["any"], struct.pack("<I", number), struct.pack("<I", router))


def load_family(family: Family, module: Any, shared: Mapping[str, int], plan: Plan) -> Loaded:
    """Load and attach every program of a family; a failing program is reported, the rest goes on."""
    bcc = import_bcc()
    result, loaded = Loaded(), {}
    if family.name == "syscall":
        loaded[ROUTER] = _load(bcc, module, ROUTER, "raw_tracepoint")
        result.fds.append(loaded[ROUTER])
        fill_router(loaded[ROUTER], shared, plan)
    for event, hook in family_hooks(family, plan.only()):
        if not bcc.lib.bpf_function_start(module.module, hook.program.encode()):
            result.absent.append({"event": event, "program": hook.program, "target": hook.target,
                                  "reason": "this kernel's tracepoint does not pass what the program needs"})
            continue
        try:
            if hook.program not in loaded:
                loaded[hook.program] = _load(bcc, module, hook.program, hook.kind)
            result.fds += _attach(bcc, hook, loaded[hook.program], shared)
        except OSError as error:
            where = result.absent if hook.upgrade else result.failures
            where.append({"event": event, "program": hook.program, "target": hook.target, "reason": str(error)})
            continue
        if loaded[hook.program] not in result.fds:
            result.fds.append(loaded[hook.program])
        info = bpf.program_info(loaded[hook.program])
        result.programs.append({"event": event, "program": hook.program, "kind": hook.kind, "target": hook.target,
                                "family": family.name, "id": info.id, "tag": info.tag,
                                "instructions": info.instructions, "verified": info.verified})
    return result
