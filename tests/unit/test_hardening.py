"""What the engine may not do once it is confined, tried in processes that are."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sensor import hardening, landlock
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows the calls of x86_64")

_CALLS = """
import ctypes, errno, json, os, socket, sys, threading
from sensor import hardening
hardening.calls()
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def raw(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(value) for value in arguments))
    if result == 0 and number in (56, 57, 58, 435):
        os._exit(0)
    found[name] = "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
for name, number in hardening.REFUSED.items():
    raw(name, number, -1, -1, -1, -1, -1, -1)
raw("clone", 56, 17, 0, 0, 0, 0)
raw("clone3", 435, 0, 0)
raw("type", 16, 0, 0x5412, 0)
raw("select", 16, 0, 0x541C, 0)
for name in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
    try:
        socket.socket(getattr(socket, name), socket.SOCK_DGRAM).close()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
ran = []
thread = threading.Thread(target=lambda: ran.append(os.memfd_create("x")))
thread.start()
thread.join()
found["thread"] = "done" if ran else "none"
print(json.dumps(found))
"""


def confined(code: str, *arguments: str) -> dict[str, Any]:
    """What a process prints that runs this."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_refused_call_fails_and_what_the_engine_needs_works() -> None:
    """EPERM for every call of the list; no new process, no typing into a terminal; threads, memory files, sockets."""
    found = confined(_CALLS)
    assert {name: found[name] for name in hardening.REFUSED} == dict.fromkeys(hardening.REFUSED, "EPERM")
    assert {"execve", "ptrace", "bpf", "perf_event_open", "mount", "init_module", "keyctl", "userfaultfd",
            "io_uring_setup", "process_vm_readv", "setns", "kexec_load", "reboot"} <= {*hardening.REFUSED}
    assert (found["clone"], found["clone3"], found["type"], found["select"]) == ("EPERM", "ENOSYS", "EPERM", "EPERM")
    assert [found[name] for name in ("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG")] == ["EPERM"] * 4
    assert found["AF_UNIX"] == found["thread"] == "done"
    assert "EPERM" not in (found["AF_INET"], found["AF_INET6"])  # a kernel may have no IPv6


_FILES = """
import errno, json, os, signal, socket, sys
from sensor import hardening
place, target, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = os.open(f"{place}/shut/file", os.O_RDONLY)
found = {"version": hardening.files([f"{place}/read"], [f"{place}/write"])}
def attempt(name, action):
    try:
        action()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
def write(path):
    with open(path, "w") as file:
        file.write("x")
attempt("read allowed", lambda: open(f"{place}/read/file").read())
attempt("write where only reading is", lambda: write(f"{place}/read/file"))
attempt("make where only reading is", lambda: write(f"{place}/read/new"))
attempt("read shut", lambda: open(f"{place}/shut/file").read())
attempt("list shut", lambda: os.listdir(f"{place}/shut"))
attempt("write shut", lambda: write(f"{place}/shut/new"))
attempt("write allowed", lambda: write(f"{place}/write/new"))
attempt("rename allowed", lambda: os.replace(f"{place}/write/new", f"{place}/write/newer"))
attempt("unlink allowed", lambda: os.unlink(f"{place}/write/newer"))
attempt("link in", lambda: os.symlink("/etc/passwd", f"{place}/write/link"))
attempt("execute", lambda: os.execv("/bin/true", ["true"]))
attempt("held", lambda: os.read(held, 1))
attempt("system", lambda: open("/etc/passwd").read())
attempt("import", lambda: __import__("xml.dom.minidom"))
attempt("own", lambda: open("/proc/self/status").read())
memory = os.memfd_create("x")
attempt("memory", lambda: open(f"/proc/self/fd/{memory}", "rb").read())
attempt("signal", lambda: os.kill(target, signal.SIGCONT))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port)))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
print(json.dumps(found))
"""


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_files_connections_and_signals_are_left_only_as_named(tmp_path: Path) -> None:
    """Beneath what was named, the system's own, and what was open before."""
    for name in ("read", "write", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with subprocess.Popen(["sleep", "60"]) as other:
        found = confined(_FILES, str(tmp_path), str(other.pid), "9")
        other.kill()
    version = found.pop("version")
    assert version == landlock.version()
    assert found.pop("signal") == ("EPERM" if version >= 6 else "done")
    assert found.pop("connect") == ("EACCES" if version >= 4 else "ECONNREFUSED")
    works = {"read allowed", "write allowed", "rename allowed", "unlink allowed", "held", "system", "import", "own",
             "memory", "listen"}
    assert {name for name, result in found.items() if result == "done"} == works
    assert {found[name] for name in found.keys() - works} == {"EACCES"}


def test_without_landlock_nothing_is_done_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels before 5.13, and those without it in lsm=."""
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert landlock.restrict(["/nowhere"], ["/nowhere"]) == 0
