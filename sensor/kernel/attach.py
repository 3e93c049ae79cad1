"""Loads a compiled probe family into the kernel and attaches it: maps, programs, alternatives of hooks.

Runs only in a child of the loader. Standard library only, but for uprobes, whose symbols BCC resolves.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.kernel import bpf, contract, knownbad
from sensor.kernel.btf import Btf
from sensor.kernel.compiled import Compiled
from sensor.kernel.hooks import (
    CANARY,
    CANARY_CALL,
    DISPATCHER,
    HOOKS,
    RINGS,
    ROUTER,
    Alternative,
    Family,
    Hook,
    candidates,
    probe_of,
    slots,
)
from sensor.kernel.plan import Plan

# BPF_PROG_TYPE_* and BPF_TRACE_FENTRY, BPF_LSM_MAC: include/uapi/linux/bpf.h
_TYPES = {"uprobe": 2, "kprobe": 2, "kretprobe": 2, "fentry": 26, "lsm": 29}
_RAW_TRACEPOINT = 17
_ATTACH_TYPES = {"fentry": 24, "lsm": 27}
_FUNC = 12  # BTF kind of a kernel function
_LSM_LIST = Path("/sys/kernel/security/lsm")


@dataclass(slots=True)
class Loaded:
    """What one family came to: descriptors to keep, programs for the manifest, failures by program."""

    fds: list[int] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    absent: list[dict[str, str]] = field(default_factory=list)  # alternatives and extras that this kernel doesn't have


def _maps(family: Family, compiled: Compiled, shared: Mapping[str, int]) -> list[int]:
    """Descriptors in the order of the family's tables: shared maps as they are, its own made here."""
    if faults := contract.map_faults(compiled.tables):
        raise OSError(f"outside of what may be loaded: {', '.join(faults)}")
    known = {**shared, "ring": shared[f"ring_{RINGS[family.ring]}"]}
    return [known[table.name] if table.name in known else
            bpf.map_create(table.kind, table.key, table.value, table.entries, table.flags, table.name)
            for table in compiled.tables]


def _attach_uprobe(program: int, target: str) -> list[int]:
    from sensor.kernel.compile import import_bcc

    bcc = import_bcc()  # only it can say where a symbol is
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


def _attach(hook: Hook, program: int, shared: Mapping[str, int]) -> list[int]:
    if hook.kind == "raw_tracepoint":
        return [bpf.raw_tracepoint_open(program, hook.target)]
    if hook.kind == "lsm" and "bpf" not in _LSM_LIST.read_text().strip().split(","):
        raise OSError("bpf is not in the kernel's lsm= list: the program would never be called")
    if hook.kind in ("fentry", "lsm"):
        return [bpf.tracing_open(program)]
    if hook.kind in ("kprobe", "kretprobe"):
        return bpf.attach_perf(program, bpf.kprobe_open(hook.target, returns=hook.kind == "kretprobe"))
    if hook.kind == "uprobe":
        return _attach_uprobe(program, hook.target)
    for table, slot in slots(hook.kind, hook.target):
        bpf.map_update(shared[table], struct.pack("<I", slot), struct.pack("<I", program))
    return []


def fill_router(router: int, shared: Mapping[str, int], plan: Plan) -> None:
    """Let the dispatcher pass on every number that an enabled family may handle, in either table."""
    for event in HOOKS:
        if probe_of(event) in plan.families:
            for alternative in candidates(event, plan.only().get(event)):
                for _, slot in (pair for hook in alternative.hooks if hook.kind == "syscall"
                                for pair in slots(hook.kind, hook.target)):
                    bpf.map_update(shared["any"], struct.pack("<I", slot), struct.pack("<I", router))


class _Attaching:
    """Loads and attaches the programs of one compiled family, each of them once."""

    def __init__(self, family: Family, compiled: Compiled, shared: Mapping[str, int], btf: Btf,
                 programs: dict[str, int] | None) -> None:
        self._family, self._compiled, self._shared, self._btf = family, compiled, shared, btf
        self._maps = _maps(family, compiled, shared)
        self._programs = {} if programs is None else programs  # name -> descriptor
        self._lent = programs is not None
        self._kernel = knownbad.Kernel.running()
        self._links: dict[Hook, list[int]] = {}  # what is attached; several events may share a hook
        self._used: set[int] = set()
        self.result = Loaded()

    def keep(self, program: str) -> int:
        """Load a program that nothing attaches: it is reached by a tail call."""
        if program not in self._programs:
            self._programs[program] = self._load(program, "raw_tracepoint")
        fd = self._programs[program]
        self._used.add(fd)
        return fd

    def attach(self, hook: Hook) -> int:
        """Load and attach; returns the program. Raises OSError with the reason."""
        name = hook.program
        if name not in self._compiled.programs:
            raise OSError("this kernel does not pass what the program needs")
        if reason := knownbad.fault(hook.kind, self._kernel, lambda function: bool(self._btf.find(function, _FUNC))):
            raise OSError(reason)
        if name not in self._programs:
            self._programs[name] = self._load(name, hook.kind, hook.target)
        if hook not in self._links:
            self._links[hook] = _attach(hook, self._programs[name], self._shared)
        self._used.add(self._programs[name])
        return self._programs[name]

    def _load(self, name: str, kind: str, target: str = "") -> int:
        attach_type, function = _ATTACH_TYPES.get(kind, 0), 0
        if kind in ("fentry", "lsm"):
            function = self._btf.find(f"bpf_lsm_{target}" if kind == "lsm" else target, _FUNC)
            if not function:
                raise OSError(f"this kernel has no function {target}")
        code = self._compiled.code(name, self._maps)
        if faults := contract.faults(_TYPES.get(kind, _RAW_TRACEPOINT), code):
            raise OSError(f"outside of what may be loaded: {', '.join(faults)}")
        short = name.removeprefix("kfunc__vmlinux__").removeprefix("kprobe_")
        return bpf.program_load(_TYPES.get(kind, _RAW_TRACEPOINT), code, short, attach_type, function)

    def detach(self, hooks: list[Hook]) -> None:
        """Undo what an alternative attached that is given up."""
        for hook in hooks:
            for fd in self._links.pop(hook):
                os.close(fd)
            for table, slot in slots(hook.kind, hook.target):
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
            if hook.instead_of and hook.program not in self._compiled.programs:
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
                where.append({**row, "reason": str(error), "log": getattr(error, "log", "")})
                continue
            info = bpf.program_info(fd)
            rows.append({**row, "kind": hook.kind, "family": self._family.name, "id": info.id, "tag": info.tag,
                         "instructions": info.instructions, "verified": info.verified})
        self.result.programs += rows
        return True

    def done(self) -> Loaded:
        """What to keep: programs in use, and what attaches them."""
        for fd in self._maps[:]:
            if fd not in self._shared.values():
                os.close(fd)  # programs hold them
        for fd in {*self._programs.values()} - self._used if not self._lent else ():
            os.close(fd)
        self.result.fds = [*self._used, *(fd for fds in self._links.values() for fd in fds)]
        return self.result


def empty_slots(family: Family, shared: Mapping[str, int]) -> None:
    """Take what a family may have put out of the program arrays, which hold programs as descriptors do."""
    for ways in (HOOKS[event] for event in HOOKS if probe_of(event) == family.name):
        for table, slot in (pair for way in ways for hook in way.hooks for pair in slots(hook.kind, hook.target)):
            with contextlib.suppress(FileNotFoundError):
                bpf.map_delete(shared[table], struct.pack("<I", slot))


def load_family(family: Family, compiled: Compiled, shared: Mapping[str, int], plan: Plan, btf: Btf,
                programs: dict[str, int] | None = None) -> Loaded:
    """Load and attach the programs of a family; what fails is reported, the rest goes on.

    *programs*: descriptors by name of what an earlier call with the same *shared* loaded; this one adds to it.
    """
    attaching = _Attaching(family, compiled, shared, btf, programs)
    if family.name == "syscall":
        fill_router(attaching.keep(ROUTER), shared, plan)
        bpf.map_update(shared["any"], struct.pack("<I", CANARY_CALL), struct.pack("<I", attaching.keep(CANARY)))
        attaching.event("", (Alternative(DISPATCHER.kind, (DISPATCHER,)),))
        return attaching.done()
    for event in HOOKS:
        if probe_of(event) == family.name:
            attaching.event(event, candidates(event, plan.only().get(event)))
    return attaching.done()
