"""Compiles, loads and attaches one probe family through BCC. Runs only in a child of the loader.

The only module that imports ``bcc``. LLVM may abort the process: nothing here needs cleaning up.
"""

from __future__ import annotations

import os
import platform
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.errors import HostError
from sensor.kernel import bpf
from sensor.kernel.hooks import (
    DECIDING,
    DISPATCHER,
    HOOKS,
    ROUTER,
    Alternative,
    Family,
    Hook,
    candidates,
    likely,
    probe_of,
    syscall_numbers,
)
from sensor.kernel.plan import Plan

_QUIET = ("-Wno-macro-redefined", "-Wno-duplicate-decl-specifier", "-Wno-unused-value")


@dataclass(slots=True)
class Loaded:
    """What one family came to: descriptors to keep, programs for the manifest, failures by program."""

    fds: list[int] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    absent: list[dict[str, str]] = field(default_factory=list)  # alternatives and extras that this kernel doesn't have


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


def build(family: Family, probes: Path, include: Path, cpus: int, shared: Mapping[str, int],
          decisions: Collection[str] = DECIDING) -> Any:
    """Compile a family with these kinds of decision hook, and put the shared maps behind its placeholders."""
    bcc = import_bcc()
    flags = [f"-I{include}", f"-I{probes}", f"-DNR_CPUS={cpus}", f"-DRING_INDEX={family.ring}",
             f"-DRING_OFFSET_MASK={family.mask}", f"-DRING_SLACK={family.slack}",
             f"-DLINUX_VERSION_CODE={kernel_version_code()}", *_QUIET,
             *(f"-DWITH_{kind.upper()}" for kind in sorted(decisions))]
    # BCC attaches by itself what its macros for fentry and LSM named; which of them is used is decided later.
    quiet = type("Module", (bcc.BPF,), {"_trace_autoload": lambda _self: None})
    module = quiet(text=source(family, probes), cflags=flags)
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


#: BPF_PROG_TYPE_*; BCC names the last only from 0.27
_TYPES = {"uprobe": 2, "kprobe": 2, "kretprobe": 2, "fentry": 26, "lsm": 29}
_RAW_TRACEPOINT = 17
_LSM_LIST = Path("/sys/kernel/security/lsm")


def _compiled(bcc: Any, module: Any, hook: Hook) -> str:
    """The program's name in the compiled family, or "" where this kernel's shape left it out."""
    # BCC before 0.27 names no module in the names of fentry programs.
    for name in (hook.program, hook.program.replace("kfunc__vmlinux__", "kfunc__")):
        if bcc.lib.bpf_function_start(module.module, name.encode()):
            return name
    return ""


def _load(module: Any, program: str, kind: str) -> int:
    try:
        return int(module.load_func(program, _TYPES.get(kind, _RAW_TRACEPOINT)).fd)
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
    if hook.kind == "lsm" and "bpf" not in _LSM_LIST.read_text().strip().split(","):
        raise OSError("bpf is not in the kernel's lsm= list: the program would never be called")
    if hook.kind in ("fentry", "lsm"):
        return [bpf.tracing_open(program)]
    if hook.kind in ("kprobe", "kretprobe"):
        return bpf.attach_perf(program, bpf.kprobe_open(hook.target, returns=hook.kind == "kretprobe"))
    if hook.kind == "uprobe":
        return _attach_uprobe(bcc, program, hook.target)
    for table, slot in _slots(hook):
        bpf.map_update(shared[table], struct.pack("<I", slot), struct.pack("<I", program))
    return []


def _slots(hook: Hook) -> list[tuple[str, int]]:
    """(program array, slot) of what the dispatcher or a tail call reaches."""
    if hook.kind == "tail":
        return [("native", int(hook.target))]
    if hook.kind != "syscall":
        return []
    pairs = zip(("native", "compat"), syscall_numbers(hook), strict=True)
    return [(table, number) for table, number in pairs if number]


def fill_router(router: int, shared: Mapping[str, int], plan: Plan) -> None:
    """Let the dispatcher pass on every number that an enabled family may handle, in either table."""
    for event in HOOKS:
        if probe_of(event) in plan.families:
            for alternative in candidates(event, plan.only().get(event)):
                for _, slot in (pair for hook in alternative.hooks if hook.kind == "syscall" for pair in _slots(hook)):
                    bpf.map_update(shared["any"], struct.pack("<I", slot), struct.pack("<I", router))


class _Attaching:
    """Loads and attaches the programs of one compiled family, each of them once."""

    def __init__(self, family: Family, module: Any, shared: Mapping[str, int]) -> None:
        self._bcc, self._family, self._module, self._shared = import_bcc(), family, module, shared
        self._programs: dict[str, int] = {}  # name -> descriptor
        self._links: dict[Hook, list[int]] = {}  # what is attached; several events may share a hook
        self._used: set[int] = set()
        self.result = Loaded()

    def keep(self, program: str) -> int:
        """Load a program that nothing attaches: it is reached by a tail call."""
        fd = self._programs[program] = _load(self._module, program, "raw_tracepoint")
        self._used.add(fd)
        return fd

    def attach(self, hook: Hook) -> int:
        """Load and attach; returns the program. Raises OSError with the reason."""
        name = _compiled(self._bcc, self._module, hook)
        if not name:
            raise OSError("this kernel does not pass what the program needs")
        if name not in self._programs:
            self._programs[name] = _load(self._module, name, hook.kind)
        if hook not in self._links:
            self._links[hook] = _attach(self._bcc, hook, self._programs[name], self._shared)
        self._used.add(self._programs[name])
        return self._programs[name]

    def detach(self, hooks: list[Hook]) -> None:
        """Undo what an alternative attached that is given up."""
        for hook in hooks:
            for fd in self._links.pop(hook):
                os.close(fd)
            for table, slot in _slots(hook):
                bpf.map_delete(self._shared[table], struct.pack("<I", slot))

    def event(self, event: str, ways: tuple[Alternative, ...]) -> None:
        """Use the first alternative whose own kind of hook works; of the last one, whatever works."""
        for way in ways:
            if self._try(event, way, last=way is ways[-1]):
                return

    def _try(self, event: str, way: Alternative, *, last: bool) -> bool:
        rows: list[dict[str, Any]] = []
        added: list[Hook] = []
        for hook in way.hooks:
            if hook.instead_of and not _compiled(self._bcc, self._module, hook):
                continue
            row = {"event": event, "alternative": way.kind, "program": hook.program, "target": hook.target}
            try:
                shared = hook in self._links
                fd = self.attach(hook)
                added += [] if shared else [hook]
            except OSError as error:
                if not last and not hook.extra and hook.kind == way.kind:
                    self.detach(added)
                    self.result.absent.append({**row, "reason": str(error)})
                    return False
                where = self.result.absent if hook.extra else self.result.failures
                where.append({**row, "reason": str(error)})
                continue
            info = bpf.program_info(fd)
            rows.append({**row, "kind": hook.kind, "family": self._family.name, "id": info.id, "tag": info.tag,
                         "instructions": info.instructions, "verified": info.verified})
        self.result.programs += rows
        return True

    def done(self) -> Loaded:
        """What to keep: programs in use, and what attaches them."""
        self.result.fds = [*self._used, *(fd for fds in self._links.values() for fd in fds)]
        return self.result


def load_family(family: Family, module: Any, shared: Mapping[str, int], plan: Plan) -> Loaded:
    """Load and attach the programs of a family; what fails is reported, the rest goes on."""
    attaching = _Attaching(family, module, shared)
    if family.name == "syscall":
        fill_router(attaching.keep(ROUTER), shared, plan)
        attaching.event("", (Alternative(DISPATCHER.kind, (DISPATCHER,)),))
        return attaching.done()
    for event in HOOKS:
        if probe_of(event) == family.name:
            attaching.event(event, candidates(event, plan.only().get(event)))
    return attaching.done()


def load(family: Family, probes: Path, include: Path, shared: Mapping[str, int], plan: Plan) -> Loaded:
    """Compile, load and attach a family. What is rarely needed is compiled only when something failed without it."""
    few = likely(family.name, plan.only())
    loaded = load_family(family, build(family, probes, include, plan.cpus, shared, few), shared, plan)
    more = {way.kind for event in HOOKS if probe_of(event) == family.name
            for way in candidates(event, plan.only().get(event))} & {*DECIDING}
    if not loaded.failures or more <= few:
        return loaded
    for fd in loaded.fds:
        os.close(fd)
    return load_family(family, build(family, probes, include, plan.cpus, shared), shared, plan)
