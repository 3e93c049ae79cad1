"""A co-tenant without a compiler: a dozen instructions on the sensor's own hooks that count one named program's calls.

It is on the raw tracepoints themselves, which bpftrace before 0.19 can't use, and it costs an emulated processor
nothing.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from sensor.kernel import bpf

_PROG_LOAD = 5
_RAW_TRACEPOINT, _KPROBE = 17, 2
_GET_CURRENT_COMM, _MAP_LOOKUP = 16, 1
TRACEPOINTS = ("sched_process_exec", "sys_exit")
FUNCTIONS = ("security_path_rename", "security_path_unlink", "security_path_mkdir", "security_path_chmod")


def _op(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | to, offset, value)


def _wide(to: int, value: int, source: int = 0) -> bytes:
    """A load of 64 bits; with *source* 1, of the map behind a descriptor."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return _op(0x18, to, source, 0, low) + _op(0, 0, 0, 0, high)


def _instructions(name: str, counts: int, slot: int) -> bytes:
    head, rest = struct.unpack("<QQ", name.encode().ljust(16, b"\0"))
    count = b"".join((
        _op(0x62, 10, 0, -24, slot), _wide(1, counts, 1), _op(0xBF, 2, 10), _op(0x07, 2, 0, 0, -24),
        _op(0x85, 0, 0, 0, _MAP_LOOKUP), _op(0x15, 0, 0, 2),
        _op(0xB7, 1, 0, 0, 1), _op(0xDB, 0, 1)))  # atomic add
    second = b"".join((_op(0x79, 1, 10, -8), _wide(2, rest), _op(0x5D, 1, 2, len(count) // 8)))
    first = b"".join((
        _op(0xBF, 1, 10), _op(0x07, 1, 0, 0, -16), _op(0xB7, 2, 0, 0, 16), _op(0x85, 0, 0, 0, _GET_CURRENT_COMM),
        _op(0x79, 1, 10, -16), _wide(2, head), _op(0x5D, 1, 2, len(second + count) // 8)))
    return first + second + count + _op(0xB7) + _op(0x95)


def _load(kind: int, text: bytes) -> int:
    code, licence = ctypes.create_string_buffer(text, len(text)), ctypes.create_string_buffer(b"GPL")
    return bpf._call(_PROG_LOAD, struct.pack("<IIQQ", kind, len(text) // 8, ctypes.addressof(code),
                                             ctypes.addressof(licence)))[0]


class Plain:
    """Counts calls of the program *name*, by hook. A context manager."""

    def __init__(self, name: str) -> None:
        self.hooks = [f"rawtracepoint:{name}" for name in TRACEPOINTS]
        if Path("/sys/bus/event_source/devices/kprobe").exists():
            self.hooks += [f"kprobe:{name}" for name in FUNCTIONS]
        self._name, self._fds = name, list[int]()

    def __enter__(self) -> Plain:  # noqa: PYI034  typing.Self is newer than the oldest Python
        self._counts = bpf.map_create(bpf.ARRAY, 4, 8, len(self.hooks), name="cotenant")
        self._fds.append(self._counts)
        for slot, hook in enumerate(self.hooks):
            kind, _, target = hook.partition(":")
            text = _instructions(self._name, self._counts, slot)
            program = _load(_RAW_TRACEPOINT if kind == "rawtracepoint" else _KPROBE, text)
            self._fds.append(program)
            self._fds += ([bpf.raw_tracepoint_open(program, target)] if kind == "rawtracepoint" else
                          bpf.attach_perf(program, bpf.kprobe_open(target)))
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def counts(self) -> dict[str, int]:
        """Calls so far."""
        return {hook: struct.unpack("<Q", bpf.map_lookup(self._counts, struct.pack("<I", slot), 8))[0]
                for slot, hook in enumerate(self.hooks)}
