"""bpf(2) and perf_event_open(2) through ctypes: maps, links, program facts. Standard library only.

The supervisor and the loader use it; it holds no state. Every function raises OSError with
the kernel's errno. Source: bpf(2), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_GET_NEXT_KEY = 0, 1, 2, 3, 4
PROG_LOAD, PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO = 5, 11, 13, 14, 15
RAW_TRACEPOINT_OPEN, MAP_FREEZE, LINK_CREATE, ENABLE_STATS = 17, 22, 28, 32
HASH, ARRAY, PROG_ARRAY, RINGBUF = 1, 2, 3, 27
MMAPABLE = 1 << 10
_PERF_EVENT = 41  # attach type of a link on a perf event
_ATTRIBUTE = 120

_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attribute: bytes) -> tuple[int, bytes]:
    number = _SYSCALLS[os.uname().machine][0]
    buffer = ctypes.create_string_buffer(attribute.ljust(_ATTRIBUTE, b"\0"), _ATTRIBUTE)
    # A signal may come between; Python repeats its own calls by itself, but not what goes through ctypes.
    while (result := _libc.syscall(number, command, buffer, _ATTRIBUTE)) < 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))
    return result, buffer.raw


def map_create(kind: int, key: int, value: int, entries: int, flags: int = 0, name: str = "") -> int:
    """Make a map; return its descriptor (close-on-exec)."""
    attribute = struct.pack("<IIIIIII16s", kind, key, value, entries, flags, 0, 0, name.encode()[:15])
    return _call(MAP_CREATE, attribute)[0]


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Set one element."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _call(MAP_UPDATE, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(keys), ctypes.addressof(values), 0))


def map_lookup(fd: int, key: bytes, size: int) -> bytes:
    """Read one element of *size* bytes."""
    keys, values = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    _call(MAP_LOOKUP, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(keys), ctypes.addressof(values), 0))
    return values.raw


def map_keys(fd: int, size: int, limit: int) -> list[bytes]:
    """Keys of a hash map, of *size* bytes each, *limit* of them at most."""
    found: list[bytes] = []
    key = ctypes.create_string_buffer(size)
    after = 0  # NULL: the first one
    while len(found) < limit:
        following = ctypes.create_string_buffer(size)
        try:
            _call(MAP_GET_NEXT_KEY, struct.pack("<IIQQQ", fd, 0, after, ctypes.addressof(following), 0))
        except FileNotFoundError:
            break
        found.append(following.raw)
        key.raw = following.raw
        after = ctypes.addressof(key)
    return found


def map_delete(fd: int, key: bytes) -> None:
    """Remove one element."""
    keys = ctypes.create_string_buffer(key, len(key))
    _call(MAP_DELETE, struct.pack("<IIQQQ", fd, 0, ctypes.addressof(keys), 0, 0))


def map_freeze(fd: int) -> None:
    """Let nobody change a map by bpf(2) any more; programs still may."""
    _call(MAP_FREEZE, struct.pack("<I", fd))


def raw_tracepoint_open(program: int, name: str) -> int:
    """Attach a raw tracepoint program; the link lives as long as the descriptor."""
    text = ctypes.create_string_buffer(name.encode())
    return _call(RAW_TRACEPOINT_OPEN, struct.pack("<QI", ctypes.addressof(text), program))[0]


def tracing_open(program: int) -> int:
    """Attach an fentry or LSM program, which knows its function; the link lives as long as the descriptor."""
    return _call(RAW_TRACEPOINT_OPEN, struct.pack("<QI", 0, program))[0]


def link_create(program: int, target: int, attach_type: int = _PERF_EVENT) -> int:
    """Link a program to a perf event (or another target); return the link's descriptor."""
    return _call(LINK_CREATE, struct.pack("<IIII", program, target, attach_type, 0))[0]


def enable_stats() -> int:
    """Have the kernel measure every program's run time as long as the descriptor is open (since 5.8, root)."""
    return _call(ENABLE_STATS, struct.pack("<I", 0))[0]


class Refusal(OSError):
    """A program that the kernel does not take; ``log`` is the end of what the verifier said."""

    log: str = ""


_LOG_BYTES = 1 << 20


def program_load(kind: int, code: bytes, name: str, attach_type: int = 0, function: int = 0) -> int:
    """Load a program; returns its descriptor. Raises Refusal.

    Args:
        kind: BPF_PROG_TYPE_*.
        code: Instructions, maps by descriptor.
        name: Shown by the kernel's tools, 15 characters of it.
        attach_type: BPF_TRACE_FENTRY or BPF_LSM_MAC where the kind asks for one.
        function: BTF id of the kernel function, for these.
    """
    text, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attribute = bytearray(_ATTRIBUTE)
    struct.pack_into("<IIQQ", attribute, 0, kind, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence))
    struct.pack_into("<16s", attribute, 48, name.encode()[:15])
    struct.pack_into("<I", attribute, 68, attach_type)
    struct.pack_into("<I", attribute, 108, function)
    try:
        return _call(PROG_LOAD, bytes(attribute))[0]
    except OSError as error:
        refusal = Refusal(error.errno, f"{name}: {error.strerror}")
        refusal.log = _verifier_log(attribute)
        raise refusal from error


def _verifier_log(attribute: bytearray) -> str:
    """Ask again, with a place for the log: without one the kernel verifies faster."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    struct.pack_into("<IIQ", attribute, 24, 1, _LOG_BYTES, ctypes.addressof(log))
    try:
        os.close(_call(PROG_LOAD, bytes(attribute))[0])
    except OSError:
        return log.value.decode(errors="replace")[-4000:].strip()
    return "taken when asked again"


def program_trial(kind: int, attach_type: int, function: int) -> None:
    """Load the smallest tracing or LSM program for the function of this BTF id, and drop it unattached."""
    os.close(program_load(kind, bytes.fromhex("b700000000000000 9500000000000000"), "sensor_trial", attach_type,
                          function))  # return 0


def next_program(after: int) -> int:
    """Id of the next loaded program; OSError ENOENT after the last."""
    return int(struct.unpack_from("<I", _call(PROG_GET_NEXT_ID, struct.pack("<II", after, 0))[1], 4)[0])


def program_ids() -> list[int]:
    """Ids of all programs loaded in this kernel."""
    ids: list[int] = []
    current = 0
    while True:
        try:
            current = next_program(current)
        except FileNotFoundError:
            return ids
        ids.append(current)


def program_by_id(number: int) -> int:
    """Descriptor of a loaded program. FileNotFoundError where there is none."""
    return _call(PROG_GET_FD_BY_ID, struct.pack("<I", number))[0]


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """Facts of one loaded program: run time in ns and runs only where statistics are on."""

    id: int
    kind: int  # BPF_PROG_TYPE_*
    name: str
    tag: str
    instructions: int
    verified: int
    run_ns: int
    runs: int
    missed: int


_INFO_BYTES = 232  # struct bpf_prog_info as of 6.x; a kernel that knows less leaves the rest zero
_MAPS_MAX = 64


def program_info(fd: int) -> ProgramInfo:
    """Ask the kernel about a program."""
    raw = _program_info(fd)
    kind, number, tag, _, length = struct.unpack_from("<II8sII", raw, 0)
    run_ns, runs, missed = struct.unpack_from("<QQQ", raw, 192)
    return ProgramInfo(number, kind, _text(raw[64:80]), tag.hex(), length // 8, struct.unpack_from("<I", raw, 216)[0],
                       run_ns, runs, missed)


def program_code(fd: int) -> tuple[bytes, tuple[int, ...]]:
    """Instructions of a loaded program as the kernel has rewritten them, and the ids of its maps.

    A call's immediate is then its distance from `__bpf_call_base`, or 0 where the kernel hides addresses.
    """
    length = struct.unpack_from("<I", _program_info(fd), 20)[0]
    code, maps = ctypes.create_string_buffer(length), (ctypes.c_uint32 * _MAPS_MAX)()
    asked = bytearray(_INFO_BYTES)
    struct.pack_into("<I", asked, 20, length)
    struct.pack_into("<Q", asked, 32, ctypes.addressof(code))
    struct.pack_into("<IQ", asked, 52, _MAPS_MAX, ctypes.addressof(maps))
    count = struct.unpack_from("<I", _program_info(fd, bytes(asked)), 52)[0]
    return code.raw, tuple(maps[:min(count, _MAPS_MAX)])


def program_maps(fd: int) -> tuple[int, ...]:
    """Ids of the maps that a loaded program uses."""
    maps = (ctypes.c_uint32 * _MAPS_MAX)()
    asked = bytearray(_INFO_BYTES)
    struct.pack_into("<IQ", asked, 52, _MAPS_MAX, ctypes.addressof(maps))
    count = struct.unpack_from("<I", _program_info(fd, bytes(asked)), 52)[0]
    return tuple(maps[:min(count, _MAPS_MAX)])


def link_program(fd: int) -> int:
    """Id of the program that a link runs. Source: struct bpf_link_info."""
    info = ctypes.create_string_buffer(80)
    _call(OBJ_GET_INFO, struct.pack("<IIQ", fd, 80, ctypes.addressof(info)))
    return int(struct.unpack_from("<I", info.raw, 8)[0])


def _program_info(fd: int, asked: bytes = b"") -> bytes:
    info = ctypes.create_string_buffer(asked, _INFO_BYTES)
    _call(OBJ_GET_INFO, struct.pack("<IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    return info.raw


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """Facts of one map: sizes in bytes, ``memory`` as the kernel charges it (0 where it does not say)."""

    id: int
    kind: int  # BPF_MAP_TYPE_*
    name: str
    key: int
    value: int
    entries: int
    memory: int


def map_info(number: int) -> MapInfo:
    """Ask the kernel about the map of this id. FileNotFoundError where there is none."""
    fd = _call(MAP_GET_FD_BY_ID, struct.pack("<I", number))[0]
    try:
        info = ctypes.create_string_buffer(80)
        _call(OBJ_GET_INFO, struct.pack("<IIQ", fd, 80, ctypes.addressof(info)))
        facts = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    finally:
        os.close(fd)
    kind, found, key, value, entries, _ = struct.unpack_from("<IIIIII", info.raw, 0)
    return MapInfo(found, kind, _text(info.raw[24:40]), key, value, entries, int(facts.get("memlock", "0")))


def uprobe_open(path: str, offset: int, *, returns: bool) -> int:
    """Make a perf event for a user-space probe at a file offset, on every process.

    Source: perf_event_open(2), /sys/bus/event_source/devices/uprobe.
    """
    return _probe_open("uprobe", os.fsencode(path), offset, returns=returns)


def kprobe_open(function: str, *, returns: bool = False) -> int:
    """Make a perf event for entry or return of a kernel function. FileNotFoundError where kprobes are missing."""
    return _probe_open("kprobe", function.encode(), 0, returns=returns)


def _probe_open(device: str, target: bytes, offset: int, *, returns: bool) -> int:
    # Through the device, never through kprobe_events: what a descriptor holds ends with it.
    source = Path("/sys/bus/event_source/devices") / device
    kind = int(source.joinpath("type").read_text())
    bit = int(source.joinpath("format/retprobe").read_text().partition(":")[2])
    text = ctypes.create_string_buffer(target)
    attribute = bytearray(136)
    struct.pack_into("<IIQQQQ", attribute, 0, kind, len(attribute), (1 << bit) if returns else 0, 1, 0, 0)
    struct.pack_into("<QQ", attribute, 56, ctypes.addressof(text), offset)
    buffer = ctypes.create_string_buffer(bytes(attribute), len(attribute))
    close_on_exec = 8
    # A kprobe wants a processor, and fires on all; a uprobe of every process too.
    fd = int(_libc.syscall(_SYSCALLS[os.uname().machine][1], buffer, -1, 0, -1, close_on_exec))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return fd


def attach_perf(program: int, event: int) -> list[int]:
    """Let a program run on a perf event; return the descriptors that keep it attached.

    Links on perf events came with 5.15; before it the event itself holds the program.
    """
    try:
        return [event, link_create(program, event)]
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    set_bpf, enable = 0x40042408, 0x2400
    fcntl.ioctl(event, set_bpf, program)
    fcntl.ioctl(event, enable, 0)
    return [event]
