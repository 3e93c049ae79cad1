"""Hops through the kernel, from the probes' sources: what is read as the kernel's memory is the kernel's own pointer.

A caller's value is an integer to the probes, or a `const void *` that is handed on to the helpers for user memory. So
whatever a helper for kernel memory reads must begin at a pointer to a structure of the kernel's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted(path for path in (ROOT / "probes").glob("*.[ch]") if path.name != "events.h")
#: Readers of kernel memory -> which argument is the address.
READERS = {"READ": 1, "FOLLOW": 1, "READ_INUM": 2, "bpf_probe_read_kernel": 2, "bpf_probe_read_kernel_str": 2,
           "put_kernel": 1, "read_kernel_sockaddr": 1, "name_watched": 0}
#: Pointers without a type that are the kernel's all the same, by the function that has them.
UNTYPED = {
    ("begin_granted", "mnt_ns"), ("emit_attempt", "address"), ("emit_bpf_access", "object"),
    ("exec_identity", "namespace"), ("name_watched", "name"), ("netns_of", "net"), ("new_note", "name"),
    ("note_more", "text"), ("note_source", "name"), ("on_exec", "filename"), ("on_exec", "interpreter"),
    ("put_cgroup", "name"), ("read_kernel_sockaddr", "address"), ("read_object", "object")}
#: Behind these lies another thing in each kind of file, or what another thread may have freed.
UNSURE = re.compile(r"->(?:private_data|i_private|file_ptr)\b|file_table\b")
TYPE = re.compile(r"\b(struct \w+|void|char|[us](?:8|16|32|64)|int|long)\b")
CAST = re.compile(r"^\((?:const )?(?:void|char|struct \w+) \*\)\s*")


def plain(source: str) -> str:
    """Without comments, conditions, empty initial values and the ends of a macro's lines."""
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL).replace("\\\n", "\n").replace(" = {}", "")
    return re.sub(r"^#(?!define).*", "", code, flags=re.MULTILINE)


def chunks(source: str) -> Iterator[str]:
    """Functions and macros, each as a whole."""
    starts = [found.start() for found in re.finditer(r"^(?:static |int |#define |struct )", source, re.MULTILINE)]
    for begin, end in zip(starts, [*starts[1:], len(source)], strict=True):
        yield source[begin:end]


def calls(chunk: str, names: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Calls of any of these, with their arguments."""
    for found in re.finditer(rf"\b({'|'.join(names)})\(", chunk):
        depth, parts, part = 1, [], ""
        for letter in chunk[found.end():]:
            depth += (letter in "([{") - (letter in ")]}")
            if not depth:
                break
            if letter == "," and depth == 1:
                parts.append(part)
                part = ""
            else:
                part += letter
        yield found[1], [" ".join(each.split()) for each in (*parts, part)]


def declared(name: str, chunk: str) -> str:
    """Type of a variable or parameter, with its stars; "" where there is none of this name here."""
    for found in re.finditer(rf"(\**)\b{name}\b(?:\[\w+\])?(?=\s*[,;=)])", chunk):
        before = re.split(r"[;{}]", chunk[:found.start()])[-1].strip()
        types = TYPE.findall(before)
        local = re.match(r"(?:const )?" + TYPE.pattern, before)
        if types and (local or before.startswith(("static", "int ", "#define"))):
            return f"{types[0 if local and '(struct' not in before[:local.end() + 1] else -1]} {found[1]}"
    return ""


def fault(address: str, chunk: str) -> str:
    """Why this is not the kernel's pointer; "" where it is."""
    text = address
    while text[:1] in ("(", "&"):
        text = CAST.sub("", text) if CAST.match(text) else text[1:]
    if text.startswith(("bpf_get_current_task()", "ctx->args[", "ctx->")) or re.match(r"KERNFS_PARENT\(", text):
        return ""
    root = re.match(r"\w+", text)
    if root is None:
        return "no variable"
    kind = declared(root[0], chunk)
    if root[0] in "abcd" and "decided_##name(" in chunk:  # arguments of the kernel's own function
        return ""
    function = re.search(r"(\w+)\(", chunk)
    if re.fullmatch(r"struct (?:file_place|dentry_head) \**", kind) or (function and (function[1], root[0]) in UNTYPED):
        return ""
    if re.fullmatch(r"struct (?:noted|target) \*?", kind):
        return "" if re.match(r"\w+(?:->|\.)(?:name|leaf)\b", text) else f"{text} of a note"
    if re.fullmatch(r"struct sending \*", kind):
        return "" if text.startswith("sending->sk->") else f"{text} is the caller's"
    if re.fullmatch(r"struct (?:arguments|request|mounting|user_\w+) \*?", kind):
        return f"{text} is the caller's"
    return "" if re.fullmatch(r"struct \w+ \*+", kind) else f"{root[0]} is {kind or 'unknown'}"


def faults(source: str) -> list[str]:
    """What a file reads as kernel memory without being sure that it is."""
    found = []
    for chunk in chunks(plain(source)):
        if re.match(r"#define (?:READ|READ_INUM|FOLLOW|bpf_probe_read\w+|PUT_STRING|ON_ENTRY)\b", chunk):
            continue
        for reader, arguments in calls(chunk, tuple(READERS)):
            address = arguments[READERS[reader]] if READERS[reader] < len(arguments) else ""
            if not address or TYPE.match(address.removeprefix("const ")):  # the reader's own definition
                continue
            if why := fault(address, chunk):
                found.append(f"{reader}({', '.join(arguments)}): {why}")
        found += unfollowed(chunk)
    return found


def unfollowed(chunk: str) -> list[str]:
    """Pointers that may be none and are not looked at: FOLLOW does."""
    followed, found = set(), []
    for reader, arguments in calls(chunk, ("READ", "FOLLOW")):
        destination, address = arguments
        root = re.search(r"\w+", CAST.sub("", address.lstrip("&(")))
        unsure = UNSURE.search(address) or (root and root[0] in followed)
        if reader == "FOLLOW":
            followed.add(destination)
        elif unsure and ("*" in declared(destination, chunk) or UNSURE.search(address)):
            found.append(f"READ({destination}, {address}): FOLLOW it")
    return found


@pytest.mark.contract("panic-4b")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_is_read_as_the_kernel_s_memory_is_the_kernel_s_pointer(path: Path) -> None:
    """A caller could let any other lead to the vsyscall page, on which kernels before 6.8 fault."""
    assert faults(path.read_text("utf-8")) == []


@pytest.mark.contract("panic-4b")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_hop_is_made_but_by_a_helper_that_survives_a_bad_address(path: Path) -> None:
    """What the helper could not read is zero, and the next hop from there is refused, too."""
    code = plain(path.read_text("utf-8"))
    assert not re.search(r"\b(?:bpf_probe_read|bpf_core_read|BPF_CORE_READ\w*|PT_REGS_\w+|__builtin_preserve\w+)\(",
                         re.sub(r"#define.*", "", code))
    for name in set(re.findall(r"struct (?:file|inode|dentry|sock|socket|task_struct|bpf_prog|pid|cred) \*(\w+)",
                               code)):
        for hop in re.finditer(rf"(?<![\w&>.]){name}->\w+", code):
            before = code[:hop.start()].rpartition(";")[2]
            assert re.search(r"&\(*$|&\w+->$|&\(\(struct \w+ \*\)$", before[-40:]), f"{path.name}: {hop[0]}"


@pytest.mark.parametrize(("code", "said"), [
    ("\tREAD(x, &((struct file *)call.a)->f_inode);", "call"),
    ("\tbpf_probe_read_kernel(&x, 8, (void *)call->b);", "call"),
    ("\te->name = put_kernel(s, (void *)argument, 8);", "argument"),
    ("\tu64 at = 0;\n\tREAD(x, at);", "at is u64"),
    ("\tREAD(x, &sending->at);", "caller's"),
    ("\tREAD(socket, &file->private_data);", "FOLLOW it"),
    ("\tstruct sock *sk;\n\tFOLLOW(socket, &file->private_data);\n\tREAD(sk, &socket->sk);", "FOLLOW it"),
])
def test_what_is_a_caller_s_is_told(code: str, said: str) -> None:
    """The test above looks at something."""
    source = ("static int f(struct arguments call, struct sending *sending, struct file *file, const void *argument)\n"
              f"{{\n\tstruct socket *socket;\n{code}\n}}\n")
    assert any(said in each for each in faults(source)), faults(source)
