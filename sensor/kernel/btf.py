"""Reads the kernel's own type information and writes a C header pruned from it.

BCC has no CO-RE. Instead each probe is compiled on the host that runs it, against structs
that hold only the fields asked for, at the running kernel's offsets, with an assertion on
each. This needs no kernel header package, and takes about 0.1 s.

Source: Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sensor.errors import HostError

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_LIMIT = 64 << 20  # the largest seen is 6 MB

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD = 1, 2, 3, 4, 5, 6, 7
TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC_PROTO, TYPE_TAG, ENUM64 = 8, 9, 10, 11, 13, 18, 19
_QUALIFIERS = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
#: kind -> bytes behind the 12-byte type: once, and per member
_TRAILER = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12),
            17: (4, 0), 19: (0, 12)}
_KINDS = 20


class _Type(NamedTuple):
    name: int
    kind: int
    length: int
    flag: bool
    size: int  # or the id of the type referred to


class Member(NamedTuple):
    """A field: type id, offset in bits from the outer struct, width in bits if a bit field."""

    type: int
    offset: int
    bits: int


class Btf:
    """The types of one kernel. Raises HostError where the data is not BTF."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 24 or len(data) > _LIMIT or data[:2] != b"\x9f\xeb":
            raise HostError("the kernel's type information is not in BTF format")
        _, _, _, header, types, types_len, strings, strings_len = struct.unpack_from("<HBBIIIII", data)
        self._data = data
        self._strings = data[header + strings:header + strings + strings_len]
        self._offsets = self._index(header + types, header + types + types_len)
        self._named: dict[int, list[int]] = {}
        for number, offset in enumerate(self._offsets[1:], 1):
            self._named.setdefault(struct.unpack_from("<I", data, offset)[0], []).append(number)

    @classmethod
    def from_kernel(cls, path: Path = VMLINUX) -> Btf:
        """Read the running kernel's types; HostError where it has none."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise HostError(f"no kernel type information at {path}: {error.strerror}",
                            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y") from error

    def _index(self, start: int, end: int) -> list[int]:
        offsets, position, data = [0], start, self._data
        info = struct.Struct("<I").unpack_from
        fixed = [_TRAILER.get(kind, (0, 0))[0] + 12 for kind in range(32)]
        each = [_TRAILER.get(kind, (0, 0))[1] for kind in range(32)]
        while position < end:
            offsets.append(position)
            word = info(data, position + 4)[0]
            kind = word >> 24 & 31
            if not 0 < kind < _KINDS:
                raise HostError(f"unknown kind {kind} in the kernel's type information")
            position += fixed[kind] + each[kind] * (word & 0xFFFF)
        return offsets

    def type(self, number: int) -> _Type:
        """Return the type with this id."""
        name, info, size = struct.unpack_from("<III", self._data, self._offsets[number])
        return _Type(name, info >> 24 & 31, info & 0xFFFF, bool(info >> 31), size)

    def name(self, offset: int) -> str:
        """Return the string at an offset of the string section."""
        return self._strings[offset:self._strings.index(b"\0", offset)].decode("ascii", "replace")

    def find(self, name: str, kind: int = STRUCT) -> int:
        """Id of the first type of this name and kind, 0 where there is none."""
        key, at = b"\0" + name.encode() + b"\0", -1
        while (at := self._strings.find(key, at + 1)) >= 0:
            for number in self._named.get(at + 1, ()):
                if self.type(number).kind == kind:
                    return number
        return 0

    def members(self, number: int) -> Iterator[tuple[str, Member]]:
        """Name and place of each field of a struct or union."""
        kind = self.type(number)
        base = self._offsets[number] + 12
        for index in range(kind.length):
            name, of, offset = struct.unpack_from("<III", self._data, base + 12 * index)
            bits = offset >> 24 if kind.flag else 0
            yield self.name(name), Member(of, offset & 0xFFFFFF if kind.flag else offset, bits)

    def member(self, number: int, name: str, base: int = 0) -> Member | None:
        """Find a field, also inside anonymous structs and unions."""
        for found, member in self.members(number):
            if found == name:
                return Member(member.type, base + member.offset, member.bits)
            if not found:
                inner = self.resolve(member.type)
                if self.type(inner).kind in (STRUCT, UNION):
                    hit = self.member(inner, name, base + member.offset)
                    if hit:
                        return hit
        return None

    def resolve(self, number: int) -> int:
        """Follow typedefs and qualifiers; 0 is void."""
        while number and self.type(number).kind in _QUALIFIERS:
            number = self.type(number).size
        return number

    def array(self, number: int) -> tuple[int, int]:
        """Element type and length of an array."""
        element, _, length = struct.unpack_from("<III", self._data, self._offsets[number] + 12)
        return element, length

    def tracepoint(self, name: str) -> list[str]:
        """What a raw tracepoint passes: per argument the struct pointed to, or "" for a number or void.

        Empty where the kernel has no such tracepoint. The kernel's typedef btf_trace_NAME carries the
        prototype, with one argument in front that programs don't get.
        """
        number = self.find(f"btf_trace_{name}", TYPEDEF)
        proto = self.resolve(self.type(self.resolve(number)).size) if number else 0
        if not proto or self.type(proto).kind != FUNC_PROTO:
            return []
        base = self._offsets[proto] + 12
        parameters = [struct.unpack_from("<II", self._data, base + 8 * index)[1]
                      for index in range(self.type(proto).length)]
        return [self._pointee(parameter) for parameter in parameters[1:]]

    def _pointee(self, number: int) -> str:
        kind = self.type(self.resolve(number))
        if kind.kind != PTR:
            return ""
        target = self.type(self.resolve(kind.size))
        return self.name(target.name) if target.kind == STRUCT and target.name else ""

    def signed(self, number: int) -> bool:
        """Whether an integer type is signed."""
        return bool(struct.unpack_from("<I", self._data, self._offsets[number] + 12)[0] >> 24 & 1)

    def size(self, number: int) -> int:
        """Size in bytes."""
        number = self.resolve(number)
        kind = self.type(number)
        if kind.kind == PTR:
            return 8
        if kind.kind == ARRAY:
            element, length = self.array(number)
            return self.size(element) * length
        return kind.size


_INTEGERS = {1: "char", 2: "short", 4: "int", 8: "long long"}


class HeaderWriter:
    """Writes structs that hold only the wanted fields.

    Args:
        btf: The kernel's types.
        wanted: struct name -> fields. A field or struct that the kernel lacks is listed in
            ``missing``, and has no ``HAVE_struct__field`` macro; probes test for that.
    """

    def __init__(self, btf: Btf, wanted: Mapping[str, Sequence[str]]) -> None:
        self._btf, self._wanted = btf, wanted
        self._done: dict[str, int] = {}  # struct -> alignment
        self._forward: set[str] = set()
        self._out: list[str] = []
        self.missing: list[str] = []

    def text(self) -> str:
        """Return the header."""
        for name in self._wanted:
            self._struct(name)
        forward = "".join(f"struct {name};\n" for name in sorted(self._forward))
        return "/* Generated from the running kernel's BTF. */\n#pragma once\n" + forward + "\n".join(self._out)

    def _pointer(self, target: int, name: str) -> str:
        target = self._btf.resolve(target)
        kind = self._btf.type(target)
        if target and kind.kind in (STRUCT, FWD) and kind.name:
            struct_name = self._btf.name(kind.name)
            self._forward.add(struct_name)
            return f"struct {struct_name} *{name}"
        if target and kind.kind == INT:
            return self._declare(target, f"*{name}")[0]
        return f"void *{'*' if kind.kind == PTR else ''}{name}"

    def _declare(self, number: int, name: str) -> tuple[str, int]:
        """C declaration of *name* with this type, and its natural alignment."""
        btf = self._btf
        number = btf.resolve(number)
        kind = btf.type(number)
        if kind.kind in (INT, ENUM, ENUM64):
            sign = "" if kind.kind == INT and btf.signed(number) else "unsigned "
            if kind.size not in _INTEGERS:
                return f"unsigned char {name}[{kind.size}]", 1
            return f"{sign or 'signed '}{_INTEGERS[kind.size]} {name}", kind.size
        if kind.kind == PTR:
            return self._pointer(kind.size, name), 8
        if kind.kind == ARRAY:
            element, length = btf.array(number)
            return self._declare(element, f"{name}[{length}]")
        struct_name = btf.name(kind.name) if kind.name else ""
        if kind.kind == STRUCT and struct_name in self._wanted:
            self._struct(struct_name)
            return f"struct {struct_name} {name}", self._done[struct_name]
        if kind.kind == STRUCT and kind.length == 1 and not struct_name:  # kuid_t: a typedef of struct { val; }
            return self._declare(next(btf.members(number))[1].type, name)
        return f"unsigned char {name}[{kind.size}]", 1

    def _fields(self, name: str, number: int) -> list[tuple[int, str, int]]:
        fields = []
        for field in self._wanted[name]:
            member = self._btf.member(number, field)
            if member is None or member.bits or member.offset % 8:
                self.missing.append(f"{name}.{field}")
            else:
                fields.append((member.offset // 8, field, member.type))
        return sorted(fields)

    def _struct(self, name: str) -> None:
        if name in self._done:
            return
        self._done[name] = 8
        number = self._btf.find(name)
        if not number:
            self.missing.append(name)
            return
        lines, checks, position, align, packed = [], [], 0, 1, False
        for offset, field, kind in self._fields(name, number):
            checks += [f'_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}, "{name}.{field}");',
                       f"#define HAVE_{name}__{field} 1"]
            if offset < position:  # another arm of a union; reached through OFFSET_ only
                self.missing.append(f"{name}.{field}")
                del checks[-2:]
                continue
            text, natural = self._declare(kind, field)
            align, packed = max(align, natural), packed or bool(offset % natural)
            if offset > position:
                lines.append(f"\tunsigned char pad_{position}[{offset - position}];")
            lines.append(f"\t{text};")
            position = offset + self._btf.size(kind)
        total = self._btf.size(number)
        if total > position:
            lines.append(f"\tunsigned char pad_{position}[{total - position}];")
        self._done[name] = 8 if packed else align
        attribute = f"packed, aligned({8 if total % 8 == 0 else 1})" if packed else f"aligned({align})"
        self._out.append("\n".join([f"struct {name} {{", *lines, f"}} __attribute__(({attribute}));", *checks,
                                    f'_Static_assert(sizeof(struct {name}) == {total}, "{name}");', ""]))
