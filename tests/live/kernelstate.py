"""What a load may leave in the kernel, asked from the kernel: objects by id, kprobes, and its own complaints."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.live.host import wait_until

#: What has leaked stays for ever; what is only late is gone by then, on a busy machine too.
GONE_SECONDS = 30.0
_SYS_BPF = 321
#: kind -> command that gives the next id, command that opens one, its line in fdinfo
KINDS = {"program": (11, 13, "prog_id"), "map": (12, 14, "map_id"), "link": (31, 30, "link_id")}
_OBJ_GET_INFO = 15
_COMPLAINTS = ("/sys/kernel/oops_count", "/sys/kernel/warn_count", "/proc/sys/kernel/tainted")
_KPROBES = Path("/sys/kernel/debug/kprobes/list")


def _bpf(command: int, attribute: ctypes.Array[ctypes.c_char]) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(_SYS_BPF, command, attribute, len(attribute)))


def ids(kind: str) -> set[int]:
    """Ids of all objects of a kind in this kernel."""
    found: set[int] = set()
    attribute, current = ctypes.create_string_buffer(128), 0
    while True:
        struct.pack_into("<II", attribute, 0, current, 0)
        if _bpf(KINDS[kind][0], attribute) < 0:
            return found
        current = struct.unpack_from("<I", attribute, 4)[0]
        found.add(current)


def held(pids: Iterable[int], kind: str) -> set[int]:
    """Ids of the objects of a kind that these processes have descriptors of."""
    pattern, found = re.compile(rf"^{KINDS[kind][2]}:\s*(\d+)", re.MULTILINE), set()
    for pid in pids:
        try:
            entries = list(Path(f"/proc/{pid}/fdinfo").iterdir())
        except OSError:
            continue
        for entry in entries:
            try:
                found.update(map(int, pattern.findall(entry.read_text())))
            except OSError:
                continue
    return found


def maps_of(program: int) -> set[int]:
    """Ids of the maps that a program uses; nothing if it is gone."""
    attribute = ctypes.create_string_buffer(128)
    struct.pack_into("<I", attribute, 0, program)
    fd = _bpf(KINDS["program"][1], attribute)
    if fd < 0:
        return set()
    maps, info = (ctypes.c_uint32 * 64)(), ctypes.create_string_buffer(232)
    struct.pack_into("<IQ", info, 52, 64, ctypes.addressof(maps))
    attribute = ctypes.create_string_buffer(128)
    struct.pack_into("<IIQ", attribute, 0, fd, 232, ctypes.addressof(info))
    status = _bpf(_OBJ_GET_INFO, attribute)
    os.close(fd)
    return set() if status < 0 else set(maps[: min(64, struct.unpack_from("<I", info, 52)[0])])


def everybody() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "-"  # this kernel has none


@dataclass(frozen=True)
class State:
    """The kernel at one moment."""

    objects: dict[str, set[int]]
    kprobes: frozenset[str]
    complaints: dict[str, str]

    def stray(self) -> dict[str, set[int]]:
        """What is new since, and no living process holds: what somebody has left behind.

        Others may load programs meanwhile; those have an owner. A map may be held by a program alone.
        """
        new = {kind: ids(kind) - self.objects[kind] for kind in KINDS}
        if any(new.values()):
            pids = everybody()
            new = {kind: found - held(pids, kind) for kind, found in new.items()}
            alive = ids("program") - new["program"]
            new["map"] -= set().union(*map(maps_of, alive)) if new["map"] else set()
        return {kind: found for kind, found in new.items() if found}

    def check(self, *, alone: bool = False) -> None:
        """After the moment that the kernel may take, all is as it was. *alone*: nobody else loads here."""
        wait_until(lambda: not self.stray(), GONE_SECONDS, f"gone from the kernel: {self.stray()}")
        if alone:
            wait_until(lambda: {kind: ids(kind) for kind in KINDS} == self.objects, GONE_SECONDS, "the same ids")
            assert kprobes() == self.kprobes
        assert complaints() == self.complaints


def kprobes() -> frozenset[str]:
    """Places in the kernel's code that carry a kprobe."""
    return frozenset(line.split("  ")[0] for line in _text(_KPROBES).splitlines())


def complaints() -> dict[str, str]:
    """Oopses, warnings and taint."""
    return {path: _text(path) for path in _COMPLAINTS}


def state() -> State:
    """The kernel now."""
    return State({kind: ids(kind) for kind in KINDS}, kprobes(), complaints())
