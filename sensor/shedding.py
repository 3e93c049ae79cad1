"""Switches probe families off and on in the kernel, without loading or compiling anything. Standard library only.

A program that is attached by itself looks at a bit in the map of settings first. A handler behind the dispatcher is
taken out of the program arrays, so that its system call costs what any other call costs. Where no handler is left the
dispatcher is detached. Descriptors of all programs are kept: whatever was done can be undone.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Collection

from sensor.breaker import DISPATCHER
from sensor.kernel import bpf
from sensor.kernel.hooks import DISPATCHER as DISPATCH_HOOK
from sensor.kernel.hooks import FAMILIES, ROUTER, Hook, slots
from sensor.kernel.plan import SETTING_SHED
from sensor.loaded import Load

_Slot = tuple[str, int]  # program array, place


class Shedding:
    """The switches of one load."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._handlers: dict[_Slot, tuple[str, int]] = {}  # -> family, program
        for row in load.programs:
            hook = Hook(row["kind"], row["program"], row["target"])
            if hook.kind == "syscall" and row["id"] in load.program_fds:
                handler = row["family"], load.program_fds[row["id"]]
                self._handlers.update(dict.fromkeys(slots(hook.kind, hook.target), handler))
        self._filled: dict[_Slot, int] = {slot: program for slot, (_, program) in self._handlers.items()}
        names = {name: load.program_fds[number] for number, name in load.program_names.items()}
        self._router, self._dispatcher = names.get(ROUTER), names.get(DISPATCH_HOOK.program)
        self._filled.update({("any", number): self._router for _, number in self._handlers if self._router})

    def apply(self, shed: Collection[str]) -> None:
        """Have exactly these families switched off. Raises OSError; called again, it goes on where it failed."""
        self._load.shed |= frozenset(shed)  # before: nobody waits for a canary that can't come
        bits = sum(1 << place for place, family in enumerate(FAMILIES) if family.name in shed)
        bpf.map_update(self._load.maps["settings"], struct.pack("<I", SETTING_SHED), struct.pack("<Q", bits))
        self._load.shed_bits = bits
        wanted = {slot: program for slot, (family, program) in self._handlers.items() if family not in shed}
        if wanted:
            self._dispatch(on=True)
        if self._router is not None:
            wanted.update({("any", number): self._router for _, number in [*wanted]})
        for slot in sorted(self._filled.keys() - wanted.keys()):  # `any` first, by its name
            with contextlib.suppress(FileNotFoundError):
                bpf.map_delete(self._load.maps[slot[0]], struct.pack("<I", slot[1]))
            del self._filled[slot]
        for slot in sorted(wanted.keys() - self._filled.keys(), reverse=True):
            bpf.map_update(self._load.maps[slot[0]], struct.pack("<I", slot[1]), struct.pack("<I", wanted[slot]))
            self._filled[slot] = wanted[slot]
        if not wanted:
            self._load.shed |= {DISPATCHER}
            self._dispatch(on=False)
        self._load.shed = frozenset(shed) | (frozenset() if wanted else {DISPATCHER})

    def _dispatch(self, *, on: bool) -> None:
        """Attach or detach the dispatcher, which costs every system call something."""
        held = self._load.fds.get(DISPATCHER, [])
        links = [fd for fd in held if fd not in self._load.program_fds.values()]
        if self._dispatcher is None:
            return
        if on and not links:
            held.append(bpf.raw_tracepoint_open(self._dispatcher, DISPATCH_HOOK.target))
        elif not on:
            for fd in links:
                held.remove(fd)
                os.close(fd)
