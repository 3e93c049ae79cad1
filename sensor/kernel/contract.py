"""What may be loaded into the kernel: program types, helpers, map types, sizes. Checked before each load.

The list is short on purpose. A probe that needs more has to change this file, where a reviewer sees it.
Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from sensor.kernel.compiled import Table

#: BPF_FUNC_*: include/uapi/linux/bpf.h. None writes to user memory, changes a return value, sleeps or waits.
HELPERS = {
    1: "map_lookup_elem", 2: "map_update_elem", 3: "map_delete_elem", 8: "get_smp_processor_id", 12: "tail_call",
    14: "get_current_pid_tgid", 15: "get_current_uid_gid", 16: "get_current_comm", 35: "get_current_task",
    80: "get_current_cgroup_id", 112: "probe_read_user", 113: "probe_read_kernel", 114: "probe_read_user_str",
    115: "probe_read_kernel_str", 125: "ktime_get_boot_ns", 130: "ringbuf_output", 131: "ringbuf_reserve",
    132: "ringbuf_submit", 133: "ringbuf_discard", 147: "d_path",
}
#: BPF_PROG_TYPE_*.
PROGRAMS = {2: "kprobe", 5: "tracepoint", 17: "raw_tracepoint", 26: "tracing", 29: "lsm"}
#: BPF_MAP_TYPE_*.
MAPS = {1: "hash", 2: "array", 3: "prog_array", 6: "percpu_array", 27: "ringbuf"}
#: Instructions that the verifier walks through, all branches of a program counted.
VERIFIED_MAX = 100_000

_INSTRUCTION = struct.Struct("<BBhi")
_CALL, _LOAD_64 = 0x85, 0x18
_TO_HELPER = 0  # in the source register of a call; 1 is a function of the program, 2 one of the kernel
_TO_FUNCTION = 1


@dataclass(frozen=True, slots=True)
class Calls:
    """What a program calls: helpers by number, and calls that are none to a helper of the kernel."""

    helpers: frozenset[int]
    others: frozenset[str]


def calls(code: bytes) -> Calls:
    """Read the calls out of instructions as they are given to the kernel.

    Raises ValueError for what is no whole number of instructions.
    """
    if len(code) % _INSTRUCTION.size:
        raise ValueError("half an instruction")
    helpers, others, at = set(), set(), 0
    while at < len(code):
        opcode, registers, _, immediate = _INSTRUCTION.unpack_from(code, at)
        at += 2 * _INSTRUCTION.size if opcode == _LOAD_64 else _INSTRUCTION.size  # its second half is data
        if opcode != _CALL:
            continue
        if registers >> 4 == _TO_HELPER:
            helpers.add(immediate)
        elif registers >> 4 != _TO_FUNCTION:
            others.add(f"kernel function {immediate}")
    return Calls(frozenset(helpers), frozenset(others))


def faults(kind: int, code: bytes) -> list[str]:
    """Why a program may not be loaded; empty when it may. *kind*: BPF_PROG_TYPE_*."""
    found = calls(code)
    return ([] if kind in PROGRAMS else [f"program type {kind}"]) + [
        f"helper {number}" for number in sorted(found.helpers - {*HELPERS})] + sorted(found.others)


def map_faults(tables: Iterable[Table]) -> list[str]:
    """Why maps may not be made; empty when they may."""
    return [f"map {table.name} of type {table.kind}" for table in tables if table.kind not in MAPS]


def helper_names(numbers: Iterable[int]) -> tuple[str, ...]:
    """Names of helpers, in order; ``#N`` for one that has none here."""
    return tuple(sorted(HELPERS.get(number, f"#{number}") for number in numbers))
