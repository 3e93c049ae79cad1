"""What this kernel offers a BCC sensor, each point found out by doing it. Fails where the base is missing.

Run in a guest as root. Needs no kernel headers: the shim include tree stands in for them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import re
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

SHIM = Path("/opt/sensor/sensor/kernel/shim")
os.environ["BCC_KERNEL_SOURCE"] = str(SHIM)  # or BCC calls modprobe kheaders and then fails

import bcc  # noqa: E402

from sensor.kernel import btf, headers  # noqa: E402

SYS_BPF, MAP_LOOKUP, MAP_UPDATE, PROG_TEST_RUN, LINK_CREATE, ENABLE_STATS = 321, 1, 2, 10, 28, 32
PERF_EVENT_ATTACH = 41
NOBODY = 65534
TRACING, LSM = 26, 29  # BPF_PROG_TYPE_*; BCC names the second only from 0.27
WORK = Path("/tmp/smoke")

#: Programs count into hits[] at their own place, so that "fires" means what it says.
SOURCE = r"""
#include "vmlinux_min.h"
BPF_ARRAY(hits, u64, 32);
BPF_RINGBUF_OUTPUT(ring, 1);
static inline int hit(u32 slot) { u64 *n = hits.lookup(&slot); if (n) __sync_fetch_and_add(n, 1); return 0; }
struct args { u64 arg[4]; };
int raw_enter(struct args *ctx) { u64 v = 42; ring.ringbuf_output(&v, sizeof(v), 0); return hit(1); }
int raw_exit(struct args *ctx) { return hit(2); }
int raw_exec(struct args *ctx) { return hit(3); }
int tp_exec(void *ctx) { return hit(4); }
int kp_open(struct pt_regs *ctx) { return hit(5); }
int krp_open(struct pt_regs *ctx) { return hit(6); }
int up_libc(struct pt_regs *ctx) { return hit(7); }
int urp_libc(struct pt_regs *ctx) { return hit(8); }
KFUNC_PROBE(security_file_open, struct file *f) { return hit(9); }
KRETFUNC_PROBE(security_file_open, struct file *f, int ret) { return hit(10); }
KFUNC_PROBE(security_bprm_check, struct linux_binprm *b) { return hit(11); }
KFUNC_PROBE(security_socket_connect, void *s, void *a, int l) { return hit(12); }
LSM_PROBE(file_open, struct file *f) { return hit(13); }
LSM_PROBE(bprm_check_security, struct linux_binprm *b) {
    u32 slot = 15; u64 *deny = hits.lookup(&slot); hit(14);
    int ret = deny && *deny == (bpf_get_current_pid_tgid() >> 32) ? -1 : 0;
    asm volatile("" : "+r"(ret));  /* or LLVM computes a range that 6.12's verifier refuses */
    return ret; }
LSM_PROBE(socket_connect, void *s, void *a, int l) { return hit(16); }
"""

#: bpf_d_path is allowed in few functions, and not in the same ones on every kernel. 5.10 wants the buffer
#: initialised.
D_PATHS = {"kfunc__security_file_open": 17, "kfunc__filp_close": 18, "lsm__file_open": 19,
           "lsm__bprm_check_security": 20, "lsm__mmap_file": 21}
D_PATH_SOURCE = r"""
#include "vmlinux_min.h"
BPF_ARRAY(hits, u64, 32);
static inline int seen(struct file *f, u32 slot) {
    char p[64] = {}; u64 *n = hits.lookup(&slot);
    if (f && bpf_d_path(&f->f_path, p, sizeof(p)) > 0 && n) __sync_fetch_and_add(n, 1);
    return 0; }
KFUNC_PROBE(security_file_open, struct file *f) { return seen(f, 17); }
KFUNC_PROBE(filp_close, struct file *f) { return seen(f, 18); }
LSM_PROBE(file_open, struct file *f) { return seen(f, 19); }
LSM_PROBE(bprm_check_security, struct linux_binprm *b) { return seen(b->file, 20); }
LSM_PROBE(mmap_file, struct file *f) { return seen(f, 21); }
"""

libc = ctypes.CDLL(None, use_errno=True)
facts: dict[str, str] = {}


class Bpf(bcc.BPF):
    def _trace_autoload(self) -> None:
        """Attach nothing by itself: each program is tried on its own."""


def bpf_call(command: int, attribute: bytes) -> int:
    buffer = ctypes.create_string_buffer(attribute, max(len(attribute), 128))
    result = libc.syscall(SYS_BPF, command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def address(buffer: ctypes.Array) -> int:
    return ctypes.addressof(buffer)


def last_word(log: str) -> str:
    """The verifier's reason: the last line that is neither an instruction nor its statistics."""
    noise = re.compile(r"processed |\d+: |from \d+|;|bpf: |$")
    lines = [line for line in log.splitlines() if not noise.match(line)]
    return lines[-1][:70] if lines else ""


def note(name: str, probe: Callable[[], str | None]) -> None:
    """Record what *probe* finds, or why it could not. BCC writes the verifier's log to fd 2."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            facts[name] = probe() or "yes"
        except Exception as error:
            number = getattr(error, "errno", None)
            facts[name] = f"no: {errno.errorcode.get(number, number) if number else str(error)[:70]}"
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        log = file.read().decode(errors="replace")
    if facts[name].startswith("no") and log:
        facts[name] = f"no: {last_word(log)}"
        print(log)
    print(f"  {name}: {facts[name]}", flush=True)


def stir() -> None:
    """Make every hook above fire at least once."""
    with open("/etc/passwd") as file:
        file.read(1)
    libc.getppid()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
    import socket
    with socket.socket() as s:
        s.connect_ex(("127.0.0.1", 1))


def fires(b: Bpf, slot: int) -> str:
    before = b["hits"][slot].value
    stir()
    if b["hits"][slot].value == before:
        raise RuntimeError("attaches, but never fires")
    return "yes"


def reading(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        return f"no: {errno.errorcode[error.errno or 0]}"


def as_nobody(work: Callable[[], None]) -> str:
    """Run *work* in a child with uid 65534 and no capability."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, os.strerror(status))
    return "yes"


def map_call(command: int, fd: int) -> None:
    key, value = ctypes.create_string_buffer(struct.pack("<I", 31)), ctypes.create_string_buffer(8)
    bpf_call(command, struct.pack("<IIQQQ", fd, 0, address(key), address(value), 0))


def ring_by_mmap(fd: int) -> None:
    """What a reader without BCC does: consumer page for writing, the rest only for reading."""
    mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()
    mmap.mmap(fd, 4096 * 3, mmap.MAP_SHARED, mmap.PROT_READ, offset=4096).close()


def host_facts() -> None:
    facts["kernel"] = platform.release()
    facts["bcc"] = bcc.__version__
    note("BTF", lambda: f"{Path('/sys/kernel/btf/vmlinux').stat().st_size >> 10} KiB")
    note("lsm", lambda: reading("/sys/kernel/security/lsm").replace("capability,", ""))
    note("unprivileged_bpf_disabled", lambda: reading("/proc/sys/kernel/unprivileged_bpf_disabled"))
    note("perf_event_paranoid", lambda: reading("/proc/sys/kernel/perf_event_paranoid"))
    note("oops_count", lambda: reading("/sys/kernel/oops_count"))
    note("warn_count", lambda: reading("/sys/kernel/warn_count"))
    note("run-time statistics", lambda: os.close(bpf_call(ENABLE_STATS, struct.pack("<I", 0))))
    fd = libc.syscall(425, 4, ctypes.create_string_buffer(120))  # io_uring_setup
    facts["io_uring"] = "yes" if fd >= 0 else f"no: {errno.errorcode[ctypes.get_errno()]}"


def compiled(source: str) -> Bpf:
    # Kernels since 5.0 ignore the version in a program; BCC's helpers.h wants one all the same.
    return Bpf(text=source, cflags=[f"-I{WORK}", "-DLINUX_VERSION_CODE=0x050000"])


def attach_by_name(name: str) -> Callable[[bcc.BPF], None]:
    """The way to attach what KFUNC_PROBE, KRETFUNC_PROBE or LSM_PROBE made."""
    kind = name.split("__", maxsplit=1)[0]  # kfunc, kretfunc or lsm
    return lambda b: getattr(b, f"attach_{kind}")(fn_name=name)


def attached(b: Bpf, name: str, slot: int, kind: int, attach: Callable[[bcc.BPF], None]) -> str:
    b.load_func(name, kind)
    attach(b)
    return fires(b, slot)


def link_of_kprobe(b: Bpf) -> None:
    """perf_event_open plus BPF_LINK_CREATE: an attachment that is one fd, to be passed on. Needs 5.15."""
    number = int(Path("/sys/bus/event_source/devices/kprobe/type").read_text())
    symbol = ctypes.create_string_buffer(b"security_file_open")
    attribute = struct.pack("<IIQQQQQIIQQ", number, 112, 0, 1, 0, 0, 0, 1, 0, address(symbol), 0)
    buffer = ctypes.create_string_buffer(attribute, 112)
    perf = libc.syscall(298, buffer, -1, 0, -1, 8)
    if perf < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    program = b.load_func("kp_open", bcc.BPF.KPROBE).fd
    try:
        link = bpf_call(LINK_CREATE, struct.pack("<IIII", program, perf, PERF_EVENT_ATTACH, 0))
        os.close(link)
    finally:
        os.close(perf)


def test_run(b: Bpf) -> str:
    """BPF_PROG_TEST_RUN on a raw tracepoint program."""
    context = ctypes.create_string_buffer(32)
    program = b.load_func("raw_exit", bcc.BPF.RAW_TRACEPOINT).fd
    before = b["hits"][2].value
    words = (program, 0, 0, 0, 0, 0, 0, 0, 32, 0, address(context), 0, 0, 0)
    bpf_call(PROG_TEST_RUN, struct.pack("<IIIIQQIIIIQQII", *words))
    if b["hits"][2].value == before:
        raise RuntimeError("ran, but counted nothing")
    return "yes"


def denied(b: Bpf) -> str:
    """The LSM program refuses this process's own exec, and only that."""
    child = os.fork()
    if child == 0:
        try:
            b["hits"][15] = ctypes.c_uint64(os.getpid())
            os.execv("/bin/true", ["true"])
        except PermissionError:
            os._exit(23)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 23:
        raise RuntimeError(f"exec was not denied: status {status}")
    return "yes"


def ring_delivers(b: Bpf) -> str:
    got: list[bytes] = []
    b["ring"].open_ring_buffer(lambda _c, data, size: got.append(ctypes.string_at(data, size)))
    libc.getppid()
    b.ring_buffer_consume()
    if not got or set(got) != {struct.pack("<Q", 42)}:
        raise RuntimeError(f"{len(got)} records")
    return "yes"


def every_processor(b: Bpf) -> str:
    """One syscall on each processor; the raw tracepoint sees each of them."""
    for cpu in range(os.cpu_count() or 1):
        def one(cpu: int = cpu) -> None:
            os.sched_setaffinity(0, {cpu})
            libc.getppid()
        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
    return str(os.cpu_count())


def programs(b: Bpf) -> None:
    raw, perf = bcc.BPF.RAW_TRACEPOINT, bcc.BPF.KPROBE
    note("raw tracepoint sys_enter", lambda: attached(
        b, "raw_enter", 1, raw, lambda b: b.attach_raw_tracepoint("sys_enter", "raw_enter")))
    note("raw tracepoint sys_exit", lambda: attached(
        b, "raw_exit", 2, raw, lambda b: b.attach_raw_tracepoint("sys_exit", "raw_exit")))
    note("raw tracepoint sched_process_exec", lambda: attached(
        b, "raw_exec", 3, raw, lambda b: b.attach_raw_tracepoint("sched_process_exec", "raw_exec")))
    note("processors", lambda: every_processor(b))
    note("ring buffer delivers", lambda: ring_delivers(b))
    note("tracepoint", lambda: attached(
        b, "tp_exec", 4, bcc.BPF.TRACEPOINT, lambda b: b.attach_tracepoint("sched:sched_process_exec",
                                                                          fn_name="tp_exec")))
    note("kprobe security_file_open", lambda: attached(
        b, "kp_open", 5, perf, lambda b: b.attach_kprobe(event="security_file_open", fn_name="kp_open")))
    note("kretprobe security_file_open", lambda: attached(
        b, "krp_open", 6, perf, lambda b: b.attach_kretprobe(event="security_file_open", fn_name="krp_open")))
    note("kprobe as a link", lambda: link_of_kprobe(b))
    note("uprobe", lambda: attached(
        b, "up_libc", 7, perf, lambda b: b.attach_uprobe(name="c", sym="getppid", fn_name="up_libc")))
    note("uretprobe", lambda: attached(
        b, "urp_libc", 8, perf, lambda b: b.attach_uretprobe(name="c", sym="getppid", fn_name="urp_libc")))
    for label, name, slot in (
            ("fentry security_file_open", "kfunc__security_file_open", 9),
            ("fexit security_file_open", "kretfunc__security_file_open", 10),
            ("fentry security_socket_connect", "kfunc__security_socket_connect", 12),
            ("fentry security_bprm_check", "kfunc__security_bprm_check", 11)):
        note(label, lambda name=name, slot=slot: attached(b, name, slot, TRACING, attach_by_name(name)))
    for label, name, slot in (
            ("LSM file_open", "lsm__file_open", 13),
            ("LSM socket_connect", "lsm__socket_connect", 16),
            ("LSM bprm_check_security", "lsm__bprm_check_security", 14)):
        note(label, lambda name=name, slot=slot: attached(b, name, slot, LSM, attach_by_name(name)))
    note("LSM denies exec", lambda: denied(b))
    note("BPF_PROG_TEST_RUN raw tracepoint", lambda: test_run(b))


def main() -> int:
    host_facts()
    text, missing = headers.kernel_header(btf.Btf.from_kernel())
    WORK.mkdir(exist_ok=True)
    (WORK / "vmlinux_min.h").write_text(text)
    print("  not in this kernel:", " ".join(missing))
    start = time.monotonic()
    b = compiled(SOURCE)
    facts["compiles without headers"] = f"{time.monotonic() - start:.1f} s"
    programs(b)
    with_paths = compiled(D_PATH_SOURCE)
    for name, slot in D_PATHS.items():
        kind = LSM if name.startswith("lsm") else TRACING
        label = "d_path in " + name.replace("kfunc__", "fentry ").replace("lsm__", "LSM ")
        note(label, lambda name=name, slot=slot, kind=kind: attached(with_paths, name, slot, kind,
                                                                     attach_by_name(name)))
    note("uid 65534 reads a map", lambda: as_nobody(lambda: map_call(MAP_LOOKUP, b["hits"].map_fd)))
    note("uid 65534 writes a map", lambda: as_nobody(lambda: map_call(MAP_UPDATE, b["hits"].map_fd)))
    note("uid 65534 maps the ring", lambda: as_nobody(lambda: ring_by_mmap(b["ring"].map_fd)))
    Path(os.environ.get("VM_DATA", "/dev/null")).write_text(json.dumps(facts))
    base = ("BTF", "compiles without headers", "raw tracepoint sys_enter", "raw tracepoint sys_exit",
            "ring buffer delivers", "kprobe security_file_open")
    lacking = [name for name in base if facts[name].startswith("no")]
    print("lacking:", lacking or "nothing of the base")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
