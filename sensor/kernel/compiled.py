"""A compiled probe family: programs and maps as plain data, so that the compiler is needed once per kernel.

What is kept on disk is read back by root: a file counts only if it is root's alone, and its key is
the hash of everything it was made from. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_INSTRUCTION = struct.Struct("<BBhi")  # code, registers, offset, immediate: struct bpf_insn
_LOAD_64, _MAP_BY_FD = 0x18, 1  # BPF_LD | BPF_IMM | BPF_DW, and BPF_PSEUDO_MAP_FD in the source register
_FILE_MAX = 8 << 20
_KEPT = 4  # files of one family: kernels that a host goes back and forth between
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Table:
    """A map to make: kind is BPF_MAP_TYPE_*, sizes in bytes."""

    name: str
    kind: int
    key: int
    value: int
    entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """Programs by name. In their instructions a map is its place in ``tables``."""

    tables: tuple[Table, ...]
    programs: dict[str, bytes]

    def code(self, program: str, descriptors: Iterable[int]) -> bytes:
        """Instructions of a program that use these maps, in the order of ``tables``."""
        return relocated(self.programs[program], dict(enumerate(descriptors)))

    def dump(self) -> bytes:
        """Encode for the disk."""
        tables = [[t.name, t.kind, t.key, t.value, t.entries, t.flags] for t in self.tables]
        return json.dumps({"format": _FORMAT, "tables": tables,
                           "programs": {name: code.hex() for name, code in self.programs.items()}}).encode()

    @classmethod
    def load(cls, data: bytes) -> Compiled:
        """Decode what :meth:`dump` wrote. Raises ValueError for anything else."""
        try:
            raw = json.loads(data)
            if raw["format"] != _FORMAT:
                raise ValueError("another format")
            tables = tuple(Table(str(row[0]), *map(int, row[1:6])) for row in raw["tables"])
            programs = {str(name): bytes.fromhex(code) for name, code in raw["programs"].items()}
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a compiled family: {error!r}") from error
        for code in programs.values():
            relocated(code, dict(enumerate(range(len(tables)))))
        return cls(tables, programs)


def relocated(code: bytes, numbers: dict[int, int]) -> bytes:
    """*code* with each reference to a map replaced by what *numbers* has for it. ValueError for an unknown one."""
    if len(code) % _INSTRUCTION.size:
        raise ValueError("half an instruction")
    out = bytearray(code)
    for at in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, offset, immediate = _INSTRUCTION.unpack_from(code, at)
        if opcode == _LOAD_64 and registers >> 4 == _MAP_BY_FD:
            if immediate not in numbers:
                raise ValueError(f"a reference to map {immediate}, which there is not")
            _INSTRUCTION.pack_into(out, at, opcode, registers, offset, numbers[immediate])
    return bytes(out)


def key(*parts: str) -> str:
    """Name for everything that a compilation depends on."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Cache:
    """Compiled families in a directory of root's. Without one, nothing is kept."""

    def __init__(self, home: Path | None) -> None:
        self.home = home

    def get(self, family: str, name: str) -> Compiled | None:
        """What was compiled before, or None: not there, not root's alone, or damaged."""
        if self.home is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            file = os.open(self.home / f"{family}-{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(file, "rb") as opened:
                facts = os.fstat(file)
                # Whoever may write here decides what root loads.
                if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o022 or facts.st_size > _FILE_MAX:
                    return None
                return Compiled.load(opened.read(_FILE_MAX))
        return None

    def put(self, family: str, name: str, compiled: Compiled) -> None:
        """Keep it, whole or not at all; older ones of the family go. A directory that can't be written is no fault."""
        if self.home is None:
            return
        with contextlib.suppress(OSError):
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = self.home.stat()
            if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o022:
                return
            with tempfile.NamedTemporaryFile(dir=self.home, prefix=".", delete=False) as file:
                file.write(compiled.dump())
            Path(file.name).rename(self.home / f"{family}-{name}")
            kept = sorted(self.home.glob(f"{family}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for old in kept[_KEPT:]:
                old.unlink()
