"""The manifest: what the sensor puts into this kernel, read back from the kernel itself.

A load of its own, attached for as long as reading takes, and gone with this process. Needs root.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sensor import children
from sensor.config import Settings
from sensor.errors import HostError
from sensor.kernel import bpf, contract
from sensor.kernel.hooks import families_for
from sensor.kernel.plan import Plan, possible_cpus
from sensor.loaded import Load
from sensor.schema import BY_NAME

_SYMBOLS = Path("/proc/kallsyms")
_BASE = "__bpf_call_base"
#: What the kernel calls in place of a helper where the map's type is known.
_MAP_CALL = re.compile(r"_*(?:bpf_|htab_|array_|percpu_array_)*(map_(?:lookup|update|delete)_elem)")


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``hooks`` are "event kind target"; ``helpers`` as the kernel's own code has them."""

    name: str
    family: str
    type: str
    tag: str
    hooks: tuple[str, ...]
    helpers: tuple[str, ...]
    instructions: int
    verified: int
    maps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Map:
    """One map; ``bytes`` are what the kernel charges for it."""

    name: str
    type: str
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that was loaded. ``faults``: what of it is outside of the contract; must be empty."""

    kernel: str
    programs: tuple[Program, ...]
    maps: tuple[Map, ...]
    faults: tuple[str, ...]

    @property
    def memory(self) -> int:
        """Bytes of all maps."""
        return sum(entry.bytes for entry in self.maps)

    def plain(self) -> dict[str, Any]:
        """As the JSON output has it."""
        return {"kernel": self.kernel, "map_bytes": self.memory, **{
            name: value for name, value in asdict(self).items() if name != "kernel"}}


def collect(settings: Settings) -> Manifest:
    """Load, read back, unload. Raises HostError with the loader's reason where nothing can be loaded."""
    load = _load(_plan(settings))
    try:
        return _read(load)
    finally:
        load.close()


def _plan(settings: Settings) -> Plan:
    limits = settings.limits
    hooks = tuple((BY_NAME[event].id, kind) for event, kind in settings.hooks.items())
    cpus = possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
    return Plan((limits.process_ring_kib << 10, limits.ring_kib << 10), families_for(settings.probes.families),
                limits.kernel_memory_mib << 20, cpus, hooks=hooks)


def _load(plan: Plan) -> Load:
    ours, theirs = children.channel_pair()
    load = Load()
    loader = children.start("sensor.kernel.loader", theirs)
    theirs.close()
    with ours:
        ours.send(plan.dump())
        while not load.done and load.fatal is None:
            data, fds, _, _ = socket.recv_fds(ours, children.SOCKET_BYTES, 253)
            if not data:
                break
            load.take(json.loads(data), fds)
    loader.wait()
    if load.fatal is not None or not load.done:
        load.close()
        fatal = load.fatal or {"reason": "the loader ended before it was done", "fix": "sensor doctor"}
        raise HostError(fatal["reason"], fatal["fix"])
    return load


def _read(load: Load) -> Manifest:
    names = _symbols()
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for row in load.programs:
        rows.setdefault(row["id"], []).append(row)
    programs, maps, faults = [], {}, list[str]()
    for number, fd in sorted(load.program_fds.items()):
        info, (code, map_ids) = bpf.program_info(fd), bpf.program_code(fd)
        for map_id in map_ids:
            if map_id not in maps:
                maps[map_id] = bpf.map_info(map_id)
        program = _program(info, code, rows.get(number, []), [maps[map_id].name for map_id in map_ids], names)
        programs.append(program)
        faults += [f"{program.name}: {fault}" for fault in _faults(info, program)]
    faults += [f"map {found.name} of type {found.kind}" for found in maps.values() if found.kind not in contract.MAPS]
    return Manifest(os.uname().release, tuple(sorted(programs, key=lambda p: (p.family, p.name, p.hooks))),
                    tuple(sorted((Map(m.name, contract.MAPS.get(m.kind, str(m.kind)), m.entries, m.memory)
                                  for m in maps.values()), key=lambda m: m.name)), tuple(faults))


def _program(info: bpf.ProgramInfo, code: bytes, rows: Iterable[Mapping[str, Any]], maps: Iterable[str],
             symbols: Mapping[int, str]) -> Program:
    rows = list(rows)
    return Program(rows[0]["program"] if rows else info.name, rows[0]["family"] if rows else "syscall",
                   contract.PROGRAMS.get(info.kind, str(info.kind)), info.tag,
                   tuple(sorted(" ".join(filter(None, (row["event"], row["kind"], row["target"]))) for row in rows)),
                   called(code, symbols), info.instructions, info.verified, tuple(sorted({*maps})))


def _faults(info: bpf.ProgramInfo, program: Program) -> list[str]:
    known = {*contract.HELPERS.values()}
    return ([] if info.kind in contract.PROGRAMS else [f"program type {info.kind}"]) + [
        f"helper {name}" for name in program.helpers if name not in known] + (
        [f"{info.verified} verified instructions"] if info.verified > contract.VERIFIED_MAX else [])


def called(code: bytes, symbols: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the helpers that a loaded program calls.

    Args:
        code: As :func:`sensor.kernel.bpf.program_code` gives it.
        symbols: Distance from `__bpf_call_base` -> the kernel's symbol there.
    """
    names = set()
    for number in contract.calls(code).helpers:
        # A tail call keeps its number; of another helper the kernel has left the distance to its code.
        symbol = contract.HELPERS.get(number) if number == _TAIL_CALL else symbols.get(number, f"#{number}")
        if symbol is not None:
            hit = _MAP_CALL.fullmatch(symbol)
            names.add(hit[1] if hit else symbol.lstrip("_").removeprefix("bpf_"))
    return tuple(sorted(names))


_TAIL_CALL = 12


def _symbols() -> dict[int, str]:
    """Distance from `__bpf_call_base` -> symbol. Raises HostError where the kernel hides addresses."""
    places: dict[int, str] = {}
    with open(_SYMBOLS) as file:
        for line in file:
            address, _, name = line.split()[:3]
            places.setdefault(int(address, 16), name)
            if name.startswith("bpf_") or name == _BASE:
                places[int(address, 16)] = name
    base = next((address for address, name in places.items() if name == _BASE), 0)
    if not base:
        raise HostError("the kernel hides its symbols: helpers can't be named", "sysctl kernel.kptr_restrict=1")
    near = 1 << 31
    return {address - base: name for address, name in places.items() if -near <= address - base < near}
