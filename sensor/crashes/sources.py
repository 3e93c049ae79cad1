"""Where the kernel leaves its last words: pstore, dumps of kdump, the journal, its own log. Bounded, never changed.

What is read here is only read, as bytes: whoever parses it has no privilege by then.
"""

from __future__ import annotations

import grp
import os
import re
import select
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensor.crashes.lines import TEXT_BYTES

DUMPS = 24  # of each kind, newest first
_DIRECTORY_ENTRIES = 512
_KMSG_BYTES = 2 << 20
_KMSG_RECORD = 8 << 10  # CONSOLE_EXT_LOG_MAX
_JOURNAL_BYTES = 12 << 20
_JOURNAL_ENTRIES = 20_000
_JOURNAL_SECONDS = 15.0
_FIELDS = "MESSAGE,_TRANSPORT,SYSLOG_FACILITY,_SOURCE_MONOTONIC_TIMESTAMP"

_PART = re.compile(rb"(\w{1,32})#(\d{1,9}) Part(\d{1,6})\n")  # kernel/../fs/pstore/platform.c: the first line
_NAME = re.compile(r"dmesg-([a-z_]{1,32})-(\d{1,20})")
_ONE_DUMP_SECONDS = 60.0  # records carry the second in which each was written


@dataclass(frozen=True, slots=True)
class Dump:
    """Text of one place. ``form`` is dump, kmsg or journal; ``at`` seconds since the epoch, None where unknown."""

    source: str
    form: str
    data: bytes
    at: float | None = None
    this_boot: bool = False


def _read(path: Path, limit: int = TEXT_BYTES) -> tuple[bytes, float] | None:
    """The end of a regular file and its time; None for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        facts = os.fstat(fd)
        if stat.S_ISREG(facts.st_mode):
            return os.pread(fd, limit, max(0, facts.st_size - limit)), facts.st_mtime
    except OSError:  # a record that the back-end can't give any more
        pass
    finally:
        os.close(fd)
    return None


def _entries(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            found = [Path(entry.path) for _, entry in zip(range(_DIRECTORY_ENTRIES), entries, strict=False)
                     if not entry.is_symlink()]
    except OSError:
        return []
    return sorted(found)


# --- pstore -----------------------------------------------------------------------------------------


def join(parts: Iterable[tuple[str, bytes, float]]) -> list[tuple[bytes, float]]:
    """Dumps from the records of a pstore, (name, content, time): the parts of one, last part first.

    A back-end with small records cuts a dump in parts, and begins with its end: part 1 is the newest text.
    """
    dumps: dict[tuple[str, str, str], list[tuple[float, dict[int, bytes]]]] = {}
    for name, data, at in sorted(parts, key=lambda record: (record[2], record[0])):
        match = _NAME.match(name)
        if match is None or name.endswith((".z", ".enc")):  # .z: the kernel could not unpack it
            continue
        head = _PART.match(data)
        reason, count, part = (head[1].decode(), head[2].decode(), int(head[3])) if head else ("", match[2], 1)
        # The counter begins anew with each boot: of two dumps with the same one, the time tells.
        known = dumps.setdefault((match[1], reason, count), [])
        if not known or part in known[-1][1] or at - known[-1][0] > _ONE_DUMP_SECONDS:
            known.append((at, {}))
        known[-1][1][part] = data[head.end():] if head else data
    return [(b"".join(text for _, text in sorted(found.items(), reverse=True)), at)
            for each in dumps.values() for at, found in each]


def pstore(directory: Path) -> Iterator[Dump]:
    """Records that the kernel shows now."""
    records = [(path.name, *found) for path in _entries(directory) if (found := _read(path)) is not None]
    for data, at in join(records):
        yield Dump("pstore", "dump", data, at)


def archived(directory: Path) -> Iterator[Dump]:
    """Records that systemd-pstore has moved away: in directories by time, with dmesg.txt where it joined them."""
    places = [directory]
    for place in _entries(directory):
        if place.is_dir():
            places += [place, *(inner for inner in _entries(place) if inner.is_dir())]
    for place in places[:_DIRECTORY_ENTRIES]:
        whole = _read(place / "dmesg.txt")
        if whole is not None and whole[0]:
            yield Dump("pstore archive", "dump", *whole)
            continue
        records = [(path.name, *found) for path in _entries(place) if (found := _read(path)) is not None]
        for data, at in join(records):
            yield Dump("pstore archive", "dump", data, at)


def kdump(directory: Path) -> Iterator[Dump]:
    """What kdump wrote beside its core: vmcore-dmesg.txt, or dmesg.TIME (Debian)."""
    for place in _entries(directory):
        for path in _entries(place) if place.is_dir() else ():
            if path.name == "vmcore-dmesg.txt" or path.name.startswith("dmesg."):
                found = _read(path)
                if found is not None:
                    yield Dump("kdump", "dump", *found)


# --- the running log and the journal ------------------------------------------------------------------


def kmsg(path: Path = Path("/dev/kmsg")) -> Dump | None:
    """The kernel's log of this boot; None where it may not be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    parts, size = [], 0
    try:
        while size < _KMSG_BYTES:
            try:
                record = os.read(fd, _KMSG_RECORD)
            except BrokenPipeError:  # overwritten while we read: the next read goes on with the oldest there is
                continue
            except BlockingIOError:
                break
            if not record:
                break
            parts.append(record)
            size += len(record)
    except OSError:
        pass
    finally:
        os.close(fd)
    return Dump("kernel log", "kmsg", b"".join(parts), this_boot=True) if parts else None


def journal_user(uid: int, gid: int) -> dict[str, Any]:
    """Who runs journalctl: the sensor's own user, in the group that may read the journal."""
    if os.geteuid() != 0:
        return {}
    try:
        groups = [grp.getgrnam("systemd-journal").gr_gid]
    except KeyError:
        groups = []
    return {"user": uid, "group": gid, "extra_groups": groups}


def journal(boot: int, user: dict[str, Any], program: str = "journalctl",
            seconds: float = _JOURNAL_SECONDS) -> Dump | None:
    """Kernel messages of a boot as the journal kept them, 0 for this one, -1 for the one before; None without any."""
    command = [program, "-k", "-b", str(boot), "-q", "--no-pager", "-o", "json", f"--lines={_JOURNAL_ENTRIES}",
               f"--output-fields={_FIELDS}"]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}, **user)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    assert child.stdout is not None
    data = _drain(child.stdout.fileno(), time.monotonic() + seconds)
    child.kill()
    child.stdout.close()
    child.wait()
    source = "journal" if boot else "journal of this boot"
    return Dump(source, "journal", data, this_boot=boot == 0) if data else None


def _drain(fd: int, deadline: float) -> bytes:
    parts, size = [], 0
    while size < _JOURNAL_BYTES:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(fd, 1 << 16) if ready else b""
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def newest(dumps: Iterable[Dump]) -> list[Dump]:
    """The last DUMPS by time."""
    return sorted(dumps, key=lambda dump: dump.at or 0.0)[-DUMPS:]


def collect(root: Path, user: dict[str, Any], *, before: bool,
            read_journal: Callable[[int, dict[str, Any]], Dump | None] = journal) -> list[Dump]:
    """Everything there is. With *before*, the journal of the boot before this one too."""
    dumps = newest(pstore(root / "sys/fs/pstore")) + newest(archived(root / "var/lib/systemd/pstore"))
    dumps += newest(kdump(root / "var/crash"))
    logs = [read_journal(-1, user)] if before else []
    logs.append(kmsg(root / "dev/kmsg") or read_journal(0, user))
    return dumps + [log for log in logs if log is not None]
