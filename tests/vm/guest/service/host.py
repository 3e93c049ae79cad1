"""What a check asks of the guest: commands, units, processes, programs in the kernel, files."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import re
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
UNIT = "sensor.service"
ADDRESS = "127.0.0.1", 9923
START_SECONDS = 900  # alone it takes 250; the unit allows 300
_BPF, _PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 321, 11, 13, 15  # x86_64's bpf(2)
_INFO_BYTES, _NAME = 80, slice(64, 80)  # of struct bpf_prog_info
_libc = ctypes.CDLL(None, use_errno=True)


def sh(*words: str, seconds: float = 300, cwd: str = "/", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is text, its status the caller's business."""
    return subprocess.run(words, cwd=cwd, env={**os.environ, **environ}, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)


def tail(text: str, lines: int = 4) -> str:
    """The end of a command's output, in one line."""
    return " | ".join(text.strip().splitlines()[-lines:])


def patience() -> None:
    """Let a start take longer than the unit says: it compiles every probe, on an emulated processor."""
    folder = Path("/run/systemd/system/sensor.service.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "emulated.conf").write_text(f"[Service]\nTimeoutStartSec={START_SECONDS}\n")
    sh("systemctl", "daemon-reload")


def wait(ask: Callable[[], T], seconds: float, pause: float = 0.5) -> T:
    """What *ask* gives once that is true, or its last answer when the time is over."""
    end = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(pause)
    return answer


# --- systemd ---------------------------------------------------------------------------------------


def show(*names: str, unit: str = UNIT) -> dict[str, str]:
    """Properties of a unit."""
    lines = sh("systemctl", "show", unit, "-p", ",".join(names)).stdout.splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def state(unit: str = UNIT) -> str:
    """Active state and sub state: ``active/running``."""
    found = show("ActiveState", "SubState", unit=unit)
    return f"{found.get('ActiveState')}/{found.get('SubState')}"


def main_pid() -> int:
    """The supervisor, or 0."""
    return int(show("MainPID").get("MainPID") or 0)


def engine_pid() -> int:
    """The engine of the running service, or 0."""
    parent = main_pid()
    found = [pid for pid in pids() if parent and parent_of(pid) == parent and "sensor.engine" in command_line(pid)]
    return found[0] if found else 0


# --- processes -------------------------------------------------------------------------------------


def pids() -> list[int]:
    """Every process."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def command_line(pid: int) -> str:
    """Arguments of a process with spaces between; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """Its parent's pid; 0 for one that is gone."""
    return int(status(pid).get("PPid", 0))


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    return status(pid).get("State", "Z")[:1] in "ZX"


def of_sensor() -> list[str]:
    """Processes of the installed sensor, by program and by user."""
    user = sh("id", "-u", "sensor").stdout.strip()
    found = []
    for pid in pids():
        if gone(pid):
            continue
        if "/opt/sensor" in command_line(pid) or status(pid)["Uid"].split()[0] == (user or "none"):
            found.append(f"{pid}: {command_line(pid)[:60]}")
    return found


# --- kernel ----------------------------------------------------------------------------------------


def programs() -> set[int]:
    """Ids of all BPF programs in the kernel, but for those that systemd makes for a unit's devices and addresses."""
    found, last = set(), 0
    while True:
        attribute = ctypes.create_string_buffer(struct.pack("<III", last, 0, 0), 12)
        if _libc.syscall(_BPF, _PROG_GET_NEXT_ID, attribute, 12):
            return found
        last = struct.unpack_from("<I", attribute, 4)[0]
        if not _name(last).startswith(b"sd_"):
            found.add(last)


def _name(program: int) -> bytes:
    """A program's name; empty for one that is gone."""
    attribute = ctypes.create_string_buffer(struct.pack("<III", program, 0, 0), 12)
    file = _libc.syscall(_BPF, _PROG_GET_FD_BY_ID, attribute, 12)
    if file < 0:
        return b""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    attribute = ctypes.create_string_buffer(struct.pack("<IIQ", file, _INFO_BYTES, ctypes.addressof(info)), 16)
    try:
        return b"" if _libc.syscall(_BPF, _OBJ_GET_INFO_BY_FD, attribute, 16) else info.raw[_NAME].rstrip(b"\0")
    finally:
        os.close(file)


def program_names(ids: Iterable[int]) -> str:
    """``id:type:name`` of programs, for a person."""
    table = {row["id"]: row for row in json.loads(sh("bpftool", "prog", "list", "-j").stdout or "[]")}
    return " ".join(f"{i}:{table.get(i, {}).get('type')}:{table.get(i, {}).get('name')}" for i in sorted(ids))


# --- metrics ---------------------------------------------------------------------------------------


def get(path: str, seconds: float = 60) -> tuple[int, str, str]:
    """Status, content type and body of a page of the sensor; status 0 and the reason where nobody answers."""
    client = http.client.HTTPConnection(*ADDRESS, timeout=seconds)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode()
    except OSError as error:
        return 0, "", str(error)
    finally:
        client.close()


def metric(line: str) -> float:
    """The value of one series, written as in the exposition; -1 where it is absent."""
    found = re.search(rf"^{re.escape(line)} (\S+)$", get("/metrics")[2], re.MULTILINE)
    return float(found[1]) if found else -1.0


# --- files -----------------------------------------------------------------------------------------

#: What changes on a running host without the sensor, and why.
VOLATILE = {
    "/proc": "kernel", "/sys": "kernel", "/dev": "kernel", "/run": "lasts until the next boot; looked at by itself",
    "/t": "this test", "/opt/site": "the wheels' disk", "/usr/src/sensor": "the checkout that is installed from",
    "/usr/src/sensor-next": "the checkout of the upgrade", "/srv/actor": "this test",
    "/var/log/journal": "the journal", "/var/lib/systemd": "systemd's own clocks, seeds and catalogues",
    "/etc/passwd-": "shadow's backup of the former /etc/passwd", "/etc/group-": "likewise",
    "/etc/shadow-": "likewise", "/etc/gshadow-": "likewise", "/etc/.pwd.lock": "lock file of whoever edits accounts",
    "/etc/resolv.conf": "the network's", "/lost+found": "the file system's",
}


def files() -> dict[str, str]:
    """Path -> kind, mode, owner and content of everything below / that is not VOLATILE."""
    found: dict[str, str] = {}
    stack = ["/"]
    while stack:
        folder = stack.pop()
        with contextlib.suppress(FileNotFoundError):  # it went meanwhile, so it is not left
            for entry in os.scandir(folder):
                if entry.path not in VOLATILE:
                    facts = entry.stat(follow_symlinks=False)
                    found[entry.path] = " ".join((stat.filemode(facts.st_mode), f"{facts.st_uid}:{facts.st_gid}",
                                                  _content(entry, facts)))
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
    return found


def _content(entry: os.DirEntry[str], facts: os.stat_result) -> str:
    if entry.is_symlink():
        return os.readlink(entry.path)
    if not stat.S_ISREG(facts.st_mode):
        return ""
    if entry.path.startswith("/etc/"):
        return hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
    return str(facts.st_size)


def difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """``+`` what came, ``-`` what went, ``~`` what changed."""
    rows = [f"+{name}" for name in after.keys() - before.keys()] + [f"-{name}" for name in before.keys() - after.keys()]
    rows += [f"~{name} ({before[name]} -> {after[name]})" for name in before.keys() & after.keys()
             if before[name] != after[name]]
    return sorted(rows)
