"""The BTF reader and the pruned header, on hand-made types and on the running kernel's."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import HostError
from sensor.kernel import btf
from sensor.kernel.btf import Btf, HeaderWriter
from sensor.kernel.headers import WANTED, kernel_header


class Maker:
    """Writes BTF by the book (Documentation/bpf/btf.rst)."""

    def __init__(self) -> None:
        self.types, self.strings, self.count = b"", b"\0", 0

    def name(self, text: str) -> int:
        """Add a string."""
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, name: str, kind: int, size: int, tail: bytes = b"", length: int = 0) -> int:
        """Add a type; return its id."""
        self.types += struct.pack("<III", self.name(name), kind << 24 | length, size) + tail
        self.count += 1
        return self.count

    def struct(self, name: str, size: int, members: list[tuple[str, int, int]], kind: int = btf.STRUCT) -> int:
        """Add a struct of (name, type, bit offset)."""
        tail = b"".join(struct.pack("<III", self.name(field), of, offset) for field, of, offset in members)
        return self.add(name, kind, size, tail, len(members))

    def data(self) -> bytes:
        """The whole section."""
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types),
                           len(self.strings)) + self.types + self.strings


def small() -> Maker:
    """int, u64, struct inner {int a; anonymous union {u64 b; int c;}}, struct outer {inner *p; inner i;}."""
    made = Maker()
    integer = made.add("int", btf.INT, 4, struct.pack("<I", 1 << 24 | 32))
    long = made.add("u64", btf.INT, 8, struct.pack("<I", 64))
    union = made.struct("", 8, [("b", long, 0), ("c", integer, 0)], btf.UNION)
    inner = made.struct("inner", 16, [("a", integer, 0), ("", union, 64)])
    pointer = made.add("", btf.PTR, inner)
    made.struct("outer", 32, [("p", pointer, 0), ("i", inner, 64)])
    return made


def compile_header(folder: Path, text: str) -> None:
    """Let a real compiler check the assertions in a header."""
    folder.joinpath("header.h").write_text(text)
    file = folder / "main.c"
    file.write_text('#include "header.h"\nint main(void) { return 0; }\n')
    subprocess.run(["gcc", "-fsyntax-only", "-Werror", str(file)], check=True)


def test_fields_inside_anonymous_unions_are_found_at_their_offset() -> None:
    """The kernel hides half of struct sock_common in unnamed unions."""
    types = Btf(small().data())
    member = types.member(types.find("inner"), "c")
    assert member is not None and member.offset == 64


def test_header_compiles_and_has_only_what_was_asked_for(tmp_path: Path) -> None:
    """The offsets are asserted by a compiler; what is absent is listed and has no HAVE_ macro."""
    writer = HeaderWriter(Btf(small().data()), {"outer": ("i",), "inner": ("b", "gone"), "absent": ("x",)})
    text = writer.text()
    assert sorted(writer.missing) == ["absent", "inner.gone"]
    assert "HAVE_inner__b" in text and "gone" not in text and " a;" not in text
    if shutil.which("gcc"):
        compile_header(tmp_path, text)


@given(st.binary(max_size=300))
def test_garbage_is_a_host_error(data: bytes) -> None:
    """A kernel that gives something else is reported, not crashed on."""
    with pytest.raises(HostError):
        Btf(data[:2] if data[:2] == b"\x9f\xeb" else data)


def test_unknown_kinds_are_a_host_error() -> None:
    """A format of the future can't be walked: sizes are unknown."""
    made = Maker()
    made.add("x", 30, 0)
    with pytest.raises(HostError, match="kind 30"):
        Btf(made.data())


def test_no_btf_names_the_kernel_option() -> None:
    """The message says what the kernel lacks."""
    with pytest.raises(HostError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf.from_kernel(Path("/nonexistent/vmlinux"))


@pytest.mark.skipif(not btf.VMLINUX.exists(), reason="this kernel has no BTF")
def test_running_kernel_has_what_the_probes_read(tmp_path: Path) -> None:
    """Only what has other names on other kernels, or belongs to io_uring's inside, may be missing."""
    text, missing = kernel_header(Btf.from_kernel())
    inside = {"io_open", "open_how", "io_file_table", "io_rsrc_data", "io_rsrc_node", "io_fixed_file"}
    structs = {name.partition(".")[0] for name in missing if name.partition(".")[0] in inside}
    assert {name for name in missing if name.partition(".")[0] not in inside} <= {
        "kernfs_node.parent", "kernfs_node.__parent", "linux_binprm.fdpath", "task_struct.loginuid",
        "task_struct.sessionid", "io_kiocb.ctx", "io_ring_ctx.file_table"}
    assert all(f"struct {name} {{" in text for name in WANTED.keys() - structs)
    if shutil.which("gcc"):
        compile_header(tmp_path, text)
