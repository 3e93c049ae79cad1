"""Compiles one probe family through BCC. Runs only in a child of the loader.

The only module that imports ``bcc``. LLVM may abort the process: nothing here needs cleaning up.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sensor.errors import HostError
from sensor.kernel.compiled import Compiled, Table, relocated
from sensor.kernel.hooks import DECIDING, FAMILIES, Family, scratches

_QUIET = ("-Wno-macro-redefined", "-Wno-duplicate-decl-specifier", "-Wno-unused-value")


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


#: Texts before those of each family.
COMMON = ("common.h", "uring.h", "record.h")


def kernel_version_code() -> int:
    """LINUX_VERSION_CODE of the running kernel."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", platform.release())
    major, minor, patch = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    return major << 16 | minor << 8 | min(patch, 255)


def source(family: Family, probes: Path) -> str:
    """The text BCC compiles: BCC rewrites only its main file, so the parts are joined, not included."""
    parts = (*COMMON, *family.parts)
    return "\n".join(f'#line 1 "{part}"\n{(probes / part).read_text()}' for part in parts)


def flags(family: Family, cpus: int, decisions: Collection[str]) -> list[str]:
    """What the compiler is told of a family and this kernel, but for directories."""
    return [f"-DNR_CPUS={cpus}", f"-DSCRATCHES={scratches(cpus)}", f"-DRING_INDEX={family.ring}",
            f"-DFAMILY_INDEX={FAMILIES.index(family)}",
            f"-DRING_OFFSET_MASK={family.mask}", f"-DRING_SLACK={family.slack}",
            f"-DLINUX_VERSION_CODE={kernel_version_code()}", *_QUIET,
            *(f"-DWITH_{kind.upper()}" for kind in sorted(decisions))]


def build(family: Family, probes: Path, include: Path, cpus: int, decisions: Collection[str] = DECIDING) -> Compiled:
    """Compile a family with these kinds of decision hook. BCC makes the maps too; they go with this process."""
    bcc = import_bcc()
    # BCC attaches by itself what its macros for fentry and LSM named; which of them is used is decided later.
    quiet = type("Module", (bcc.BPF,), {"_trace_autoload": lambda _self: None})
    module = quiet(text=source(family, probes),
                   cflags=[f"-I{include}", f"-I{probes}", *flags(family, cpus, decisions)])
    return _extract(bcc.lib, module.module)


def _extract(lib: Any, module: Any) -> Compiled:
    for function in (lib.bpf_table_name, lib.bpf_table_fd_id, lib.bpf_table_key_size_id, lib.bpf_table_leaf_size_id):
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]  # which BCC's own bindings leave out
        function.restype = ctypes.c_int
    lib.bpf_table_name.restype = ctypes.c_char_p
    tables, places = [], {}
    for number in range(lib.bpf_num_tables(module)):
        places[lib.bpf_table_fd_id(module, number)] = number
        tables.append(Table(lib.bpf_table_name(module, number).decode(), lib.bpf_table_type_id(module, number),
                            lib.bpf_table_key_size_id(module, number), lib.bpf_table_leaf_size_id(module, number),
                            lib.bpf_table_max_entries_id(module, number), lib.bpf_table_flags_id(module, number)))
    programs = {}
    for number in range(lib.bpf_num_functions(module)):
        raw = lib.bpf_function_name(module, number)
        code = ctypes.string_at(lib.bpf_function_start(module, raw), lib.bpf_function_size(module, raw))
        # BCC before 0.27 names no module in the names of fentry programs.
        name = re.sub(r"^kfunc__(?!vmlinux__)", "kfunc__vmlinux__", raw.decode())
        programs[name] = relocated(code, places)
    return Compiled(tuple(tables), programs)
